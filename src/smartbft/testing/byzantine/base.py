"""What an attacker is: a wrapper round rules of one replica, that sees what it gets and says, and holds its keys."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

from msgspec.structs import replace

from smartbft._fastpath.pool import RequestPool
from smartbft.core.member_keys import MemberKeys
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Signer
from smartbft.messages import Accept, Checkpoint, Message, StopData, Sync, stop_data_statement, sync_statement
from smartbft.snapshots import Snapshot
from smartbft.types import KeyStatement, Parameters, View

M = TypeVar("M", bound=Message)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """The keys of a replica that was taken over: it signs with the consensus key in force, unless an attack wants else.

    Attributes:
        permanent: signs with its permanent key.
        first: signs with the consensus key that the view names.
        made: those that were made later, the oldest first.
        make: makes one more, kept by the replica.
        adopt: ``adopt(signer)``: have the replica itself go on with this key as soon as it is in force.
        table: the keys of all members, as the replica knows them; None while it is down.
    """

    permanent: Signer
    first: Signer
    made: Sequence[Signer]
    make: Callable[[], Signer]
    adopt: Callable[[Signer], None]
    table: Callable[[], MemberKeys | None]

    @property
    def all(self) -> tuple[Signer, ...]:
        """Every consensus key that it ever had."""
        return (self.first, *self.made)

    def signer_of(self, key: bytes | None) -> Signer:
        """Signs with this key, if it is one of them; else with the first one."""
        return next((one for one in self.made if one.public_key == key), self.first)


@dataclass(frozen=True, slots=True)
class Powers:
    """What an attacker can do. It cannot sign for others, and the channel tells everybody who it is.

    Attributes:
        id: the replica that it has taken over.
        view, domains, parameters: the chain's.
        ring: the replica's keys.
        draw: the randomness of the run.
        rate: how often it does its deed when it could.
        victim: a number that it may pick its victims by.
        send: ``send(to, message, delay)``: say anything to a peer, `delay` microseconds from now.
    """

    id: int
    view: View
    domains: Domains
    parameters: Parameters
    ring: KeyRing
    draw: random.Random
    rate: float
    victim: int
    send: Callable[[int, Message, int], None]

    @property
    def peers(self) -> tuple[int, ...]:
        """Everybody else."""
        return tuple(id for id in self.view.ids if id != self.id)

    @property
    def signer(self) -> Signer:
        """Signs with the replica's consensus key in force."""
        return self.ring.signer_of(self.key_of(self.id))

    def key_of(self, member: int) -> bytes | None:
        """A member's consensus key in force, as far as the replica knows; None while it is down."""
        table = self.ring.table()
        return table.latest(member) if table is not None else None

    def feels_like_it(self) -> bool:
        """Whether to do the deed this time."""
        return self.draw.random() < self.rate

    def signed(self, message: M, signer: Signer | None = None) -> M:
        """The message with a fresh signature, where it is this replica's to sign; by default with its key in force."""
        if isinstance(message, Accept):
            payload = self.domains.accept_payload(message.view, message.regency, message.instance, message.digest)
        elif isinstance(message, StopData) and message.signer == self.id:
            payload = self.domains.stop_data_payload(stop_data_statement(message))
        elif isinstance(message, Sync):
            payload = self.domains.sync_payload(sync_statement(message))
        elif isinstance(message, Checkpoint):
            payload = self.domains.checkpoint_payload(message.view, message.instance, message.size, message.digest)
        else:
            return message
        return replace(message, signature=(signer or self.signer).sign(payload))

    def key_statement(self, key: Signer, replaces: bytes, member: int | None = None) -> KeyStatement:
        """A key statement of this replica; it can also put its name to one of another member, which nobody believes."""
        content = (self.id if member is None else member, replaces, key.public_key)
        possession = key.sign(self.domains.possession_payload(self.view.number, *content))
        signature = self.ring.permanent.sign(self.domains.key_payload(self.view.number, *content))
        return KeyStatement(*content, possession, signature)

    def other_value(self, value: bytes) -> bytes:
        """A value that is as good as this one, and different: the same a microsecond later."""
        timestamp, rest = int.from_bytes(value[:8], "little"), value[8:]  # it need not be one that decodes
        return (timestamp + 1).to_bytes(8, "little") + rest

    def other_half(self, to: int, regency: int, instance: int) -> bool:
        """Whether `to` is on the other side of a split of the replicas; accomplices split them in the same way."""
        return bool(random.Random(f"{regency} {instance} {to}").getrandbits(1))  # noqa: S311 - no secret


class Attack:
    """An honest replica by default; subclasses change what they want to. Attacks on one replica are chained.

    Args:
        powers: of the replica it wraps.
    """

    def __init__(self, powers: Powers) -> None:
        self.powers = powers

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """What `to` is sent instead of a message of the replica."""
        return (message,)

    def incoming(self, sender: int, message: Message) -> Message | None:
        """What the replica gets instead of a message from a peer; None: nothing."""
        return message

    def requests(self, source: int, frames: bytes) -> bytes:
        """What the replica gets instead of the frames of a client connection."""
        return frames

    def snapshot(self, snapshot: Snapshot) -> Snapshot:
        """What the others are told of, and sent, instead of a snapshot that the replica has written."""
        return snapshot

    def batch(self, digests: bytes, data: bytes) -> tuple[bytes, bytes]:
        """What the replica proposes instead of a batch that it has formed: digests, and the requests as a list."""
        return digests, data

    def replies(self, source: int, frames: bytes) -> bytes:
        """What a client gets instead of the replica's frames."""
        return frames


class Late(Attack):
    """An attack that begins when its time has come: until then the replica is honest, and the attack only watches.

    Args:
        powers: of the replica it wraps.
        attack: which one.
        begun: whether its time has come.
    """

    def __init__(self, powers: Powers, attack: type[Attack], begun: Callable[[], bool]) -> None:
        self._begun = begun
        self._send = powers.send
        super().__init__(dataclasses.replace(powers, send=self._send_in_time))
        self._attack = attack(self.powers)

    def _send_in_time(self, to: int, message: Message, delay: int) -> None:
        if self._begun():
            self._send(to, message, delay)

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        said = self._attack.outgoing(to, message)
        return said if self._begun() else (message,)

    def incoming(self, sender: int, message: Message) -> Message | None:
        heard = self._attack.incoming(sender, message)
        return heard if self._begun() else message

    def requests(self, source: int, frames: bytes) -> bytes:
        return self._attack.requests(source, frames) if self._begun() else frames

    def snapshot(self, snapshot: Snapshot) -> Snapshot:
        return self._attack.snapshot(snapshot) if self._begun() else snapshot

    def batch(self, digests: bytes, data: bytes) -> tuple[bytes, bytes]:
        return self._attack.batch(digests, data) if self._begun() else (digests, data)

    def replies(self, source: int, frames: bytes) -> bytes:
        return self._attack.replies(source, frames) if self._begun() else frames


class _AttackedPool:
    """The request pool of a replica that proposes what its attacks make of each batch."""

    def __init__(self, pool: RequestPool, attacks: Sequence[Attack]) -> None:
        self._pool = pool
        self._attacks = attacks

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def form_batch(self, max_requests: int, max_bytes: int, timestamp: int) -> tuple[bytes, bytes]:
        """The batch that the attacks make."""
        digests, data = self._pool.form_batch(max_requests, max_bytes, timestamp)
        for attack in self._attacks:
            digests, data = attack.batch(digests, data)
        return digests, data


def attacked(pool: RequestPool, attacks: Sequence[Attack]) -> RequestPool:
    """The request pool as the replica sees it that is under these attacks."""
    changing = [attack for attack in attacks if type(attack).batch is not Attack.batch]
    return cast("RequestPool", _AttackedPool(pool, changing)) if changing else pool


class OncePer:
    """Remembers a decision that is made once per key, so that an attacker repeats itself consistently."""

    __slots__ = ("_decided", "_powers")

    def __init__(self, powers: Powers) -> None:
        self._powers = powers
        self._decided: dict[object, bool] = {}

    def __call__(self, key: object) -> bool:
        """Whether to do the deed for this key."""
        if key not in self._decided:
            self._decided[key] = self._powers.feels_like_it()
        return self._decided[key]
