"""Attacks on the normal phase: proposals, votes, requests, decisions and replies."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Sequence

from msgspec.structs import replace

from smartbft.limits import DIGEST_BYTES, FRAME_HEADER_BYTES, REPLY_HEADER_BYTES
from smartbft.messages import (
    Accept,
    Decision,
    FetchDecisions,
    Forward,
    Message,
    Progress,
    Propose,
    ProposedValue,
    RequestBodies,
    Stop,
    StopData,
    Sync,
    Write,
)
from smartbft.testing.byzantine.base import Attack, OncePer, Powers

_KEPT_MESSAGES = 64
_FLOOD = 200


class Silent(Attack):
    """Says nothing: to nobody, or to some."""

    def __init__(self, powers: Powers) -> None:
        super().__init__(powers)
        count = powers.draw.choice((len(powers.peers), 1 + powers.victim % len(powers.peers)))
        self._victims = frozenset(powers.draw.sample(powers.peers, count))

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """Nothing for the victims."""
        return () if to in self._victims else (message,)


class Slow(Attack):
    """Proposes just before it would be suspected."""

    def __init__(self, powers: Powers) -> None:
        super().__init__(powers)
        self._share = powers.draw.choice((0.3, 0.6, 0.9))

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """Hold back what leads."""
        if not isinstance(message, (Propose, Sync)):
            return (message,)
        self.powers.send(to, message, int(self.powers.parameters.request_timeout * self._share))
        return ()


class PartWay(Attack):
    """As the leader: brings an instance part of the way, for some more than for others, and then says nothing more."""

    def __init__(self, powers: Powers) -> None:
        super().__init__(powers)
        self._wants = OncePer(powers)
        self._left: dict[int, int] = {}  # regency -> the instance in which it left

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """Each kind of message reaches fewer: some have a value, some have written it, some have accepted it."""
        powers = self.powers
        if not isinstance(message, (Propose, Write, Accept)) or powers.view.leader(message.regency) != powers.id:
            return (message,)
        place = message.regency, message.instance
        if message.regency not in self._left and self._wants(place):
            self._left[message.regency] = message.instance
        left = self._left.get(message.regency)
        if left is None or message.instance < left:
            return (message,)
        # Accomplices need not agree: each leads in regencies of its own.
        far = random.Random(f"{powers.victim} {place} {to}").randrange(4)  # noqa: S311 - no secret
        reached = message.instance == left and far > (Propose, Write, Accept).index(type(message))
        return (message,) if reached else ()


class TinyBatches(Attack):
    """Proposes at once, and only the first few requests of each batch."""

    def __init__(self, powers: Powers) -> None:
        super().__init__(powers)
        self._most = powers.draw.choice((1, 2, 4))

    def batch(self, digests: bytes, data: bytes) -> tuple[bytes, bytes]:
        """Its beginning: one request of each session comes first, so this is a valid batch."""
        if not self.powers.feels_like_it():
            return digests, data
        end = 0
        for _ in range(min(self._most, len(digests) // DIGEST_BYTES)):
            end += 4 + int.from_bytes(data[end : end + 4], "little")
        return digests[: self._most * DIGEST_BYTES], data[:end]


class Stingy(Attack):
    """Proposes when its proposals are nearly late, and only what was there some proposals before."""

    def __init__(self, powers: Powers) -> None:
        super().__init__(powers)
        self._share = powers.draw.choice((0.3, 0.6, 0.9))  # of what a proposal may take
        self._groups = powers.draw.choice((2, 3, 4))  # proposals that a request waits for
        self._seen: deque[frozenset[bytes]] = deque(maxlen=4)

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """Hold proposals back."""
        if not isinstance(message, Propose):
            return (message,)
        self.powers.send(to, message, int(self.powers.parameters.proposal_timeout * self._share))
        return ()

    def batch(self, digests: bytes, data: bytes) -> tuple[bytes, bytes]:
        """What was there before, of each session its first requests: so this is a valid batch."""
        if not digests or not self.powers.feels_like_it():
            return digests, data
        here = [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]
        before = self._seen[1 - self._groups] if len(self._seen) >= self._groups - 1 else frozenset()
        self._seen.append(frozenset(here))
        if before.isdisjoint(here):
            before = frozenset(here[: max(1, len(here) // self._groups)])
        end, kept = 0, b""
        for digest in here:
            size = 4 + int.from_bytes(data[end : end + 4], "little")
            kept += data[end : end + size] if digest in before else b""
            end += size
        return b"".join(digest for digest in here if digest in before), kept


class Equivocate(Attack):
    """Two values in one instance, each to one half of the replicas, with votes to match; accomplices play along."""

    def __init__(self, powers: Powers) -> None:
        super().__init__(powers)
        self._others: dict[bytes, tuple[bytes, bytes]] = {}  # digest -> the other value and its digest
        self._wants = OncePer(powers)

    def incoming(self, sender: int, message: Message) -> Message | None:
        """Note what is proposed, to vote for both."""
        if isinstance(message, (Propose, Sync)) and message.value:
            self._other(message.value)
        return message

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """The other half gets the other value."""
        if isinstance(message, (Propose, Sync)) and message.value:
            other, _ = self._other(message.value)
        if not isinstance(message, (Propose, Write, Accept)):
            return (message,)
        if not self.powers.other_half(to, message.regency, message.instance):
            return (message,)
        if not self._wants((message.regency, message.instance)):
            return (message,)
        if isinstance(message, Propose):
            return (replace(message, value=other),)
        if message.digest not in self._others:
            return (message,)
        return (self.powers.signed(replace(message, digest=self._others[message.digest][1])),)

    def _other(self, value: bytes) -> tuple[bytes, bytes]:
        digest = self.powers.domains.value_digest(value)
        if digest not in self._others:
            other = self.powers.other_value(value)
            self._others[digest] = (other, self.powers.domains.value_digest(other))
        return self._others[digest]


class DoubleVotes(Attack):
    """Votes for whatever anybody votes for, in every instance and regency, whether or not it may."""

    def __init__(self, powers: Powers) -> None:
        super().__init__(powers)
        self._wants = OncePer(powers)
        self._voted: set[tuple[int, int, bytes]] = set()  # membership tests only

    def incoming(self, sender: int, message: Message) -> Message | None:
        """Join in."""
        if isinstance(message, (Write, Accept)):
            key = (message.instance, message.regency, message.digest)
            if key not in self._voted and self._wants(key):
                self._voted.add(key)
                fields = (message.view, message.regency, message.instance, message.digest)
                for peer in self.powers.peers:
                    self.powers.send(peer, Write(*fields), 0)
                    self.powers.send(peer, self.powers.signed(Accept(*fields, bytes(64))), 0)
        return message


class WrongDigest(Attack):
    """WRITE for a value that nobody proposed."""

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """Another digest, for everybody a different one."""
        if isinstance(message, Write) and self.powers.feels_like_it():
            return (replace(message, digest=self.powers.draw.randbytes(DIGEST_BYTES)),)
        return (message,)


class WithholdAccept(Attack):
    """Keeps its ACCEPTs to itself, or from some."""

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """No ACCEPT and no decision."""
        if isinstance(message, (Accept, Decision)) and self.powers.feels_like_it():
            return ()
        return (message,)


class Replay(Attack):
    """Says again what it said long ago, and passes on what others signed."""

    def __init__(self, powers: Powers) -> None:
        super().__init__(powers)
        self._heard: deque[Message] = deque(maxlen=_KEPT_MESSAGES)

    def incoming(self, sender: int, message: Message) -> Message | None:
        """Keep what others signed."""
        if isinstance(message, (Accept, StopData, Sync, Decision)):
            self._heard.append(message)
        return message

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """Now and then something old beside the new."""
        powers = self.powers
        old = powers.draw.choice(self._heard) if self._heard and powers.draw.random() < powers.rate / 4 else None
        if powers.draw.random() < 0.3:
            self._heard.append(message)
        return (message,) if old is None else (message, old)


class Censor(Attack):
    """Never orders the requests of one client."""

    @property
    def _source(self) -> int:
        return 1 + self.powers.victim % 2

    def requests(self, source: int, frames: bytes) -> bytes:
        """The victim is not heard."""
        return b"" if source == self._source else frames

    def incoming(self, sender: int, message: Message) -> Message | None:
        """And neither are those who speak for it."""
        if isinstance(message, Forward):
            return None
        return replace(message, data=b"") if isinstance(message, Stop) else message


class LieAboutProgress(Attack):
    """Claims to be far ahead, or behind; asks for decisions without end."""

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """Another number."""
        powers = self.powers
        if not isinstance(message, Progress) or not powers.feels_like_it():
            return (message,)
        lie = powers.draw.choice((0, message.decided + 1, message.decided + 3, message.decided + 1000, 2**62))
        ask = FetchDecisions(message.view, message.regency, powers.draw.choice((0, 1, 1, 2**62)), 2**62)
        return (replace(message, decided=lie), ask)


class LieAboutDecisions(Attack):
    """Hands out decisions, request bodies and values that are not the true ones."""

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """Something else."""
        powers = self.powers
        if isinstance(message, Decision) and powers.feels_like_it():
            return (self._other_decision(message),)
        if isinstance(message, RequestBodies) and powers.feels_like_it():
            return (replace(message, data=powers.draw.choice((b"", b"\1", message.data[::-1]))),)
        if isinstance(message, ProposedValue) and powers.feels_like_it():
            return (replace(message, value=powers.other_value(message.value)),)
        return (message,)

    def _other_decision(self, message: Decision) -> Decision:
        powers, proof = self.powers, message.proof
        value = powers.other_value(message.value)
        forged = replace(proof, digest=powers.domains.value_digest(value))
        first = proof.signatures[:1]
        lies = (
            replace(message, value=value),
            replace(message, value=value, proof=forged),
            replace(message, proof=replace(proof, signatures=first * len(proof.signatures))),
            replace(message, proof=replace(proof, signatures=first)),
            replace(message, instance=message.instance + 1, proof=replace(proof, instance=proof.instance + 1)),
            replace(message, data=b""),
        )
        return powers.draw.choice(lies)


class LieToClients(Attack):
    """Tells clients other results."""

    def replies(self, source: int, frames: bytes) -> bytes:
        """The last byte of the first reply's result, or of its digest, is changed."""
        if len(frames) < FRAME_HEADER_BYTES + REPLY_HEADER_BYTES or not self.powers.feels_like_it():
            return frames
        length = int.from_bytes(frames[:4], "little")
        last = FRAME_HEADER_BYTES - 2 + length
        return frames[:last] + bytes([frames[last] ^ 1]) + frames[last + 1 :]


class FloodEarly(Attack):
    """Fills the buffers for messages that come early."""

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """With each WRITE, more of them for the instances and regencies to come."""
        powers = self.powers
        if not isinstance(message, Write) or powers.draw.random() >= powers.rate / 8:
            return (message,)
        flood = [
            replace(message, instance=message.instance + 1 + number % 8, regency=message.regency + number // 64)
            for number in range(_FLOOD)
        ]
        return (message, *flood)
