"""Attacks with questions that are right in themselves, and without end."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from smartbft.limits import DIGEST_BYTES, MAX_FETCH_HELD_DIGESTS
from smartbft.messages import (
    Accept,
    Checkpoint,
    FetchCheckpoints,
    FetchChunk,
    FetchDecisions,
    FetchHeld,
    FetchManifest,
    FetchRequests,
    FetchStanding,
    FetchSync,
    FetchValue,
    Hold,
    Message,
    Propose,
    Sync,
    Write,
)
from smartbft.testing.byzantine.base import Attack, Powers
from smartbft.types import Value

_FLOOD = 800


class AskAllTheTime(Attack):
    """Asks for all that there is, again and again: kilobytes of questions, megabytes of answers."""

    def __init__(self, powers: Powers) -> None:
        super().__init__(powers)
        self._instance = 1
        self._digest = bytes(DIGEST_BYTES)  # of a value that is proposed
        self._requests = bytes(DIGEST_BYTES)  # digests that the value names
        self._held = bytes(DIGEST_BYTES)  # digests that somebody holds
        self._snapshot = (0, bytes(DIGEST_BYTES))
        self._questions: tuple[Callable[[int, int, int], Message], ...] = (
            lambda view, regency, _: FetchValue(view, regency, self._instance, self._digest),
            lambda view, regency, _: FetchRequests(view, regency, self._instance, self._requests),
            lambda view, regency, _: FetchHeld(view, regency, self._held),
            lambda view, regency, number: FetchDecisions(view, regency, 1 + number % self._instance, self._instance),
            lambda view, regency, number: Write(view, regency, 1 + number % self._instance, self._digest),
            lambda view, regency, number: FetchStanding(view, regency, number),
            lambda view, regency, _: FetchSync(view, regency),
            lambda view, regency, _: FetchCheckpoints(view, regency),
            lambda view, regency, _: FetchManifest(view, regency, *self._snapshot),
            lambda view, regency, _: FetchChunk(view, regency, *self._snapshot, 0),
        )

    def incoming(self, sender: int, message: Message) -> Message | None:
        """Note what there is to ask for."""
        if isinstance(message, (Propose, Write, Accept)) and message.instance >= self._instance:
            self._instance = message.instance
        if isinstance(message, (Write, Accept)):
            self._digest = message.digest
        elif isinstance(message, (Propose, Sync)) and message.value:
            self._digest = self.powers.domains.value_digest(message.value)
            self._requests = Value.decode(message.value).digests or self._requests
        elif isinstance(message, Hold):
            self._held = message.digests[: DIGEST_BYTES * MAX_FETCH_HELD_DIGESTS]
        elif isinstance(message, Checkpoint):
            self._snapshot = message.instance, message.digest
        return message

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """Now and then many questions of one kind beside what the replica says, all in one moment."""
        powers = self.powers
        if powers.draw.random() >= powers.rate / 64:
            return (message,)
        ask = powers.draw.choice(self._questions)
        return (message, *(ask(message.view, message.regency, number) for number in range(_FLOOD)))
