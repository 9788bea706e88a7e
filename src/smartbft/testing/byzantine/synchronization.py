"""Attacks on the synchronization phase: STOP, STOPDATA with its collects, and SYNC."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from smartbft.limits import DIGEST_BYTES, SIGNATURE_BYTES
from smartbft.messages import Accepted, FetchSync, Message, Progress, Stop, StopData, Sync, Written
from smartbft.testing.byzantine.base import Attack, OncePer, Powers

_FAR = 2**40


class ForgedCollects(Attack):
    """STOPDATA that forgets, invents or inflates votes, or claims decisions without their proof."""

    def __init__(self, powers: Powers) -> None:
        super().__init__(powers)
        self._said: dict[int, StopData] = {}
        self._seen: list[bytes] = []  # digests that others voted for
        self._forgeries: tuple[Callable[[StopData], StopData], ...] = (
            self._forget,
            self._inflate,
            self._inflate,
            self._invent,
            self._huge,
            self._double,
            self._without_proof,
            self._higher_instance,
        )

    def incoming(self, sender: int, message: Message) -> Message | None:
        """Note values to speak for."""
        digest = getattr(message, "digest", None)
        if digest is not None and digest not in self._seen[-4:]:
            self._seen.append(digest)
        return message

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """A forged statement in place of the true one; the same one when it is repeated, or another."""
        powers = self.powers
        if not isinstance(message, StopData) or message.signer != powers.id:
            return (message,)
        if message.regency not in self._said or powers.draw.random() < 0.2:
            forgery = powers.draw.choice(self._forgeries)
            self._said[message.regency] = powers.signed(forgery(message)) if powers.feels_like_it() else message
        return (self._said[message.regency],)

    def _forget(self, message: StopData) -> StopData:
        return replace(message, accepted=None, write_set=())

    def _digest(self) -> bytes:
        return self.powers.draw.choice(self._seen[-4:]) if self._seen else bytes(DIGEST_BYTES)

    def _inflate(self, message: StopData) -> StopData:
        """The highest timestamp that can be, for a value that somebody proposed."""
        digest, regency = self._digest(), max(0, message.regency - 1)
        return replace(message, accepted=Accepted(regency, digest), write_set=(Written(digest, regency),))

    def _invent(self, message: StopData) -> StopData:
        digest = self.powers.draw.randbytes(DIGEST_BYTES)
        return replace(message, accepted=Accepted(0, digest), write_set=(Written(digest, 0),))

    def _huge(self, message: StopData) -> StopData:
        digest = self._digest()
        return replace(message, accepted=Accepted(_FAR, digest), write_set=(Written(digest, _FAR),))

    def _double(self, message: StopData) -> StopData:
        """Several entries for one value: whoever counts entries counts one replica more than once (B4)."""
        digest, regency = self._digest(), max(0, message.regency - 1)
        entries = tuple(Written(digest, regency) for _ in range(self.powers.view.f + 1))
        return replace(message, accepted=Accepted(regency, digest), write_set=entries)

    def _without_proof(self, message: StopData) -> StopData:
        return replace(message, proof=None)

    def _higher_instance(self, message: StopData) -> StopData:
        """A claim to have decided more, with the proof of something else (B5)."""
        return replace(message, instance=message.instance + self.powers.draw.choice((1, 5, 1000)))


class StaleCollects(Attack):
    """As the new leader: STOPDATA of an older regency, of strangers, or twice of the same (B1)."""

    def __init__(self, powers: Powers) -> None:
        super().__init__(powers)
        self._older: dict[int, list[StopData]] = {}
        self._wants = OncePer(powers)

    def incoming(self, sender: int, message: Message) -> Message | None:
        """Keep everybody's statements, also those that others relay."""
        for statement in (message,) if isinstance(message, StopData) else getattr(message, "stop_data", ()):
            kept = self._older.setdefault(statement.signer, [])
            kept.append(statement)
            del kept[:-4]
        return message

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """A SYNC with other statements than those that were made for it."""
        powers = self.powers
        if not isinstance(message, Sync) or powers.view.leader(message.regency) != powers.id:
            return (message,)
        if not self._wants(message.regency):
            return (message,)
        statements = list(message.stop_data)
        change = powers.draw.randrange(4)
        if change == 0:
            statements[-1] = replace(statements[0], signer=statements[-1].signer)
        elif change == 1:
            statements[-1] = replace(statements[-1], signer=len(powers.view.ids) + 3)
        elif change == 2:
            statements[-1] = statements[0]
        else:
            statements = [self._oldest(statement) for statement in statements]
        return (powers.signed(replace(message, stop_data=tuple(statements))),)

    def _oldest(self, statement: StopData) -> StopData:
        return self._older.get(statement.signer, [statement])[0]


class TwoSyncs(Attack):
    """As the new leader: a different SYNC for each half of the replicas, each valid where that is possible."""

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """The other half gets the other one."""
        powers = self.powers
        if not isinstance(message, Sync) or powers.view.leader(message.regency) != powers.id:
            return (message,)
        if not powers.other_half(to, message.regency, 0):
            return (message,)
        if message.value:
            return (powers.signed(replace(message, value=powers.other_value(message.value))),)
        needed = powers.view.n - powers.view.f
        return (powers.signed(replace(message, stop_data=message.stop_data[-needed:])),)


class BadSync(Attack):
    """As the new leader: a SYNC with too few STOPDATA, that leaves out who knows of a value, or with a wrong value."""

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """Something is wrong with it."""
        powers = self.powers
        if not isinstance(message, Sync) or powers.view.leader(message.regency) != powers.id:
            return (message,)
        if not powers.feels_like_it():
            return (message,)
        return (powers.signed(powers.draw.choice(self._lies(message))),)

    def _lies(self, message: Sync) -> tuple[Sync, ...]:
        powers = self.powers
        few = replace(message, stop_data=message.stop_data[: powers.view.f + 1])
        ignorant = tuple(one for one in message.stop_data if one.accepted is None)
        forgotten = self._with_own(message, accepted=None, write_set=())
        lies = [few, replace(message, stop_data=ignorant), forgotten, replace(message, value=b"")]
        if message.value:
            lies += [replace(message, value=powers.other_value(message.value))] * 3
        return tuple(lies)

    def _with_own(self, message: Sync, **changes: object) -> Sync:
        """With another statement of its own, which is its right to sign."""
        statements = [
            self.powers.signed(replace(one, **changes)) if one.signer == self.powers.id else one
            for one in message.stop_data
        ]
        return replace(message, stop_data=tuple(statements))


class StopStorm(Attack):
    """Asks for new leaders all the time, and claims to be in regencies that nobody has reached."""

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """A STOP beside what it says."""
        powers = self.powers
        if powers.draw.random() >= powers.rate / 4:
            return (message,)
        ahead = powers.draw.choice((1, 1, 2, _FAR))
        view, regency = message.view, message.regency
        lies = (
            Stop(view, regency, regency + ahead, powers.draw.choice((b"", b"\1"))),
            Progress(view, regency + ahead, 0),
            FetchSync(view, regency + ahead),
            StopData(view, regency + ahead, powers.id, 1, None, (), None, bytes(SIGNATURE_BYTES)),
        )
        return (message, powers.signed(powers.draw.choice(lies)))
