"""One-step lies (promise A3): a few messages of a run differ from the true ones by one small step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from msgspec.structs import replace

from smartbft.limits import DIGEST_BYTES
from smartbft.messages import Decision, Message, StopData, Sync
from smartbft.testing.byzantine.base import Attack, Powers

MOST_MUTATIONS = 3
_LATEST_TARGET = 12
_TYPES = get_args(Message)


class Mutate(Attack):
    """At most three messages of the run are changed: regency, view or instance +-1, a swapped digest, an optional field
    left out, one signer or entry less, or an old message of the same type in its place.

    The messages are drawn by type, so that rare ones are met as often as votes.
    """

    def __init__(self, powers: Powers) -> None:
        super().__init__(powers)
        draw = powers.draw
        self._targets = [(draw.choice(_TYPES), draw.randrange(_LATEST_TARGET)) for _ in range(MOST_MUTATIONS)]
        self._counts: dict[type, int] = {}
        self._older: dict[type, Message] = {}
        self._digests: list[bytes] = [bytes(DIGEST_BYTES)]

    def incoming(self, sender: int, message: Message) -> Message | None:
        """Note digests to swap in."""
        self._note_digest(message)
        return message

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """Change it if it is one of the three."""
        kind = type(message)
        count = self._counts.get(kind, 0)
        self._counts[kind] = count + 1
        self._note_digest(message)
        older = self._older.setdefault(kind, message)
        if (kind, count) not in self._targets:
            return (message,)
        return (self.powers.draw.choice(self.steps(message, older)),)

    def steps(self, message: Message, older: Message) -> list[Message]:
        """All messages one step away from this one, signed again where the signature is the attacker's."""
        steps: list[Message] = [older]
        for name in ("view", "regency", "instance", "decided", "target", "last"):
            number = getattr(message, name, None)
            if number is not None:
                steps += [replace(message, **{name: other}) for other in (number - 1, number + 1) if other >= 0]
        if hasattr(message, "digest"):
            steps += [replace(message, digest=digest) for digest in self._digests if digest != message.digest]
        if hasattr(message, "value") and message.value:
            steps.append(replace(message, value=self.powers.other_value(message.value)))
        steps += self._without(message)
        return [self.powers.signed(step) for step in steps]

    def _without(self, message: Message) -> list[Message]:
        """Optional or repeated parts left out."""
        if isinstance(message, StopData):
            return [
                replace(message, accepted=None),
                replace(message, write_set=()),
                replace(message, proof=None),
                replace(message, accepted=None, write_set=(), proof=None),
            ]
        if isinstance(message, Sync):
            without_first = replace(message.stop_data[0], accepted=None, proof=None)
            return [
                replace(message, value=b""),
                replace(message, stop_data=message.stop_data[1:]),
                replace(message, stop_data=(without_first, *message.stop_data[1:])),
            ]
        if isinstance(message, Decision):
            proof = message.proof
            return [
                replace(message, proof=replace(proof, signatures=proof.signatures[1:])),
                replace(message, proof=replace(proof, regency=proof.regency + 1)),
            ]
        return [replace(message, data=b"")] if hasattr(message, "data") else []

    def _note_digest(self, message: Message) -> None:
        digest = getattr(message, "digest", None)
        if digest is not None and digest not in self._digests:
            self._digests = [*self._digests[-3:], digest]
