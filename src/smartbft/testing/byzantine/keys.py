"""Attacks on new consensus keys: statements, the values that carry them, and signatures with keys of another time."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from smartbft.crypto.signatures import Signer
from smartbft.limits import KEY_BYTES, MAX_KEY_STATEMENTS
from smartbft.messages import (
    Accept,
    Checkpoint,
    Decision,
    KeyAnnouncement,
    Message,
    Progress,
    Propose,
    StopData,
    Sync,
    Write,
)
from smartbft.testing.byzantine.base import Attack, M, OncePer, Powers
from smartbft.types import KeyStatement, Value

_KEPT_STATEMENTS = 16
# Keys that one attacker makes in a run at most: some runs are long.
_MOST_KEYS = 40


class _Gossip:
    """The key statements that were heard, of whomever, the oldest first."""

    def __init__(self) -> None:
        self.heard: list[KeyStatement] = []

    def note(self, message: Message) -> None:
        """Keep what the message has."""
        if isinstance(message, KeyAnnouncement):
            self._keep(KeyStatement.decode(message.statement))
        elif isinstance(message, (Propose, Decision, Sync)) and message.value:
            for statement in Value.decode(message.value).statements:
                self._keep(statement)

    def _keep(self, statement: KeyStatement) -> None:
        if statement not in self.heard:
            self.heard = [*self.heard[1 - _KEPT_STATEMENTS :], statement]


class ChangeKeys(Attack):
    """Has its key replaced as often as it can, at times by two keys at once, each announced to one half of the others.

    It goes on voting with whatever key is in force; or it lets its replica believe that its votes are lost, time and
    again.
    """

    def __init__(self, powers: Powers) -> None:
        super().__init__(powers)
        self._goes_on = powers.draw.random() < 0.7
        self._announced: tuple[KeyStatement, KeyStatement] | None = None
        self._keys = 0

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """A statement beside what it says, until it is in force; then the next one."""
        if not isinstance(message, (Write, Progress)):
            return (message,)
        key = self.powers.key_of(self.powers.id)
        if key is not None and (self._announced is None or self._announced[0].replaces != key):
            self._announced = self._next(key)
        if self._announced is None:
            return (message,)
        statement = self._announced[self.powers.other_half(to, self._keys, 0)]
        return (message, KeyAnnouncement(message.view, message.regency, statement.encode()))

    def _next(self, key: bytes) -> tuple[KeyStatement, KeyStatement] | None:
        if self._keys >= _MOST_KEYS:
            return None
        powers = self.powers
        self._keys += 1
        one = powers.ring.make()
        other = powers.ring.make() if powers.feels_like_it() else one
        if self._goes_on:
            powers.ring.adopt(one)
        return powers.key_statement(one, key), powers.key_statement(other, key)


class LieAboutKeys(Attack):
    """Announces keys that it does not own, that others have announced, or that are out of date; for others as well."""

    def __init__(self, powers: Powers) -> None:
        super().__init__(powers)
        self._gossip = _Gossip()
        self._key = powers.ring.make()

    def incoming(self, sender: int, message: Message) -> Message | None:
        """Note statements to abuse."""
        self._gossip.note(message)
        return message

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """A lie beside what it says."""
        powers = self.powers
        if powers.draw.random() >= powers.rate / 8:
            return (message,)
        if powers.key_of(powers.id) == self._key.public_key:
            self._key = powers.ring.make()
        statement = _lie(powers, self._key, self._gossip.heard)
        return (message, KeyAnnouncement(message.view, message.regency, statement.encode()))


def _well_signed(powers: Powers, key: Signer, heard: Sequence[KeyStatement]) -> list[KeyStatement]:
    """Key statements whose signatures hold; only the first one fits the keys in force for sure.

    Args:
        powers: of the liar.
        key: a key of its own.
        heard: statements to say again.
    """
    own = powers.key_of(powers.id) or bytes(KEY_BYTES)
    another = powers.draw.choice(powers.ring.all)
    return [
        powers.key_statement(key, own),
        powers.key_statement(key, another.public_key),  # replaces a key of another time
        powers.key_statement(another, own),  # back to an old one
        *heard[-3:],
    ]


def _forged(powers: Powers, key: Signer, heard: Sequence[KeyStatement]) -> list[KeyStatement]:
    """Key statements of others, or with keys of others. Arguments as in `_well_signed`."""
    own = powers.key_of(powers.id) or bytes(KEY_BYTES)
    victim = powers.draw.choice(powers.peers)
    theirs = powers.key_of(victim) or bytes(KEY_BYTES)
    honest = powers.key_statement(key, own)
    stolen = [one for one in heard[-3:] if one.member != powers.id]
    return [
        powers.key_statement(key, theirs, victim),  # in the name of another, for whom it cannot sign
        replace(honest, key=theirs),
        replace(honest, key=powers.draw.randbytes(KEY_BYTES)),
        replace(honest, possession=honest.signature),
        *(_with_key_of(powers, one, own) for one in stolen),
    ]


def _with_key_of(powers: Powers, other: KeyStatement, own: bytes) -> KeyStatement:
    """The key that another has announced in the name of this replica, properly signed: only possession is missing."""
    payload = powers.domains.key_payload(powers.view.number, powers.id, own, other.key)
    return KeyStatement(powers.id, own, other.key, other.possession, powers.ring.permanent.sign(payload))


def _lie(powers: Powers, key: Signer, heard: Sequence[KeyStatement]) -> KeyStatement:
    kind = powers.draw.choice((_well_signed, _forged))
    return powers.draw.choice(kind(powers, key, heard))


class ProposeKeys(Attack):
    """As the leader: values with statements that are foreign, old, twice there or of its own making, or without those
    that wait; and votes for them.
    """

    def __init__(self, powers: Powers) -> None:
        super().__init__(powers)
        self._gossip = _Gossip()
        self._key = powers.ring.make()
        self._wants = OncePer(powers)
        self._others: dict[bytes, bytes] = {}  # value -> the one in its place
        self._digests: dict[bytes, bytes] = {}

    def incoming(self, sender: int, message: Message) -> Message | None:
        """Note statements to abuse."""
        self._gossip.note(message)
        return message

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """Another value, and votes to match."""
        powers = self.powers
        if isinstance(message, (Propose, Sync)) and message.value:
            if powers.view.leader(message.regency) != powers.id or not self._wants(message.value):
                return (message,)
            return (powers.signed(replace(message, value=self._other(message.value))),)
        if isinstance(message, (Write, Accept)) and message.digest in self._digests:
            return (powers.signed(replace(message, digest=self._digests[message.digest])),)
        return (message,)

    def _other(self, value: bytes) -> bytes:
        if value not in self._others:
            other = self._with_other_statements(Value.decode(value)).encode()
            digest = self.powers.domains.value_digest
            self._others[value] = other
            self._digests[digest(value)] = digest(other)
        return self._others[value]

    def _with_other_statements(self, value: Value) -> Value:
        powers = self.powers
        key = powers.ring.make() if powers.draw.random() < 0.5 else self._key
        fresh = _well_signed(powers, key, ())[0]
        lie, another = (_lie(powers, key, self._gossip.heard) for _ in range(2))
        kept = [one for one in value.statements if one.member != powers.id]
        choices = [
            sorted([*kept, fresh], key=lambda one: one.member),
            sorted([*kept, lie], key=lambda one: one.member),
            [lie, another],
            [fresh, fresh],
            [another],
            [],
        ]
        statements = tuple(powers.draw.choice(choices)[:MAX_KEY_STATEMENTS])
        alone = bool(statements) and powers.draw.random() < 0.3
        return Value(value.timestamp, b"" if alone else value.digests, statements)


class OldKeys(Attack):
    """Signs votes, promises and checkpoints with any key that it ever had, or has made and not announced; as the leader
    of a regency it prefers the promises that others made with their old keys.
    """

    def __init__(self, powers: Powers) -> None:
        super().__init__(powers)
        self._first: dict[tuple[int, int], StopData] = {}  # signer, regency -> what came first
        powers.ring.make()

    def incoming(self, sender: int, message: Message) -> Message | None:
        """Keep everybody's first promise of a regency, also those that others relay."""
        for promise in (message,) if isinstance(message, StopData) else getattr(message, "stop_data", ()):
            self._first.setdefault((promise.signer, promise.regency), promise)
        return message

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """The same with another signature, at times beside the true one."""
        powers = self.powers
        if not isinstance(message, (Accept, StopData, Sync, Checkpoint)) or not powers.feels_like_it():
            return (message,)
        if isinstance(message, Sync):
            if powers.view.leader(message.regency) != powers.id:
                return (message,)
            message = replace(message, stop_data=tuple(self._older(one) for one in message.stop_data))
        signed = self._signed(message)
        return (signed,) if powers.draw.random() < 0.5 else (signed, message)

    def _older(self, promise: StopData) -> StopData:
        if promise.signer == self.powers.id:
            return self._signed(promise)
        return self._first.get((promise.signer, promise.regency), promise)

    def _signed(self, message: M) -> M:
        return self.powers.signed(message, self.powers.draw.choice(self.powers.ring.all))
