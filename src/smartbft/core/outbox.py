"""What one step asks for: the effects, in order, and the tokens of what goes into the log."""

from __future__ import annotations

from collections.abc import Sequence

from smartbft.core.effects import (
    Broadcast,
    CancelTimer,
    Effect,
    MakeConsensusKey,
    Penalise,
    Persist,
    Record,
    Send,
    SetTimer,
    VotesOnRecord,
)
from smartbft.core.inputs import Timer
from smartbft.messages import Message


class Outbox:
    """The side of a replica on which its parts ask for something.

    Args:
        record_votes: False leaves what binds out of the log.
    """

    def __init__(self, *, record_votes: bool) -> None:
        self.record_votes = record_votes
        self._token = 0
        self._effects: list[Effect] = []

    def _taken(self) -> list[Effect]:
        """All that was asked for since the last call."""
        effects, self._effects = self._effects, []
        return effects

    def emit(self, effect: Effect) -> None:
        """Have something done, after what was asked for before."""
        self._effects.append(effect)

    def persist(self, records: tuple[Record, ...], then: Sequence[Send | Broadcast] = ()) -> int:
        """Append records to the log; `then` leaves once they are durable. Returns the token."""
        self._token += 1
        self._effects.append(Persist(self._token, records, tuple(then)))
        return self._token

    @property
    def last_token(self) -> int:
        """The token of the last record."""
        return self._token

    def persist_promise(self, record: Record, then: Sequence[Send | Broadcast] = ()) -> int:
        """As `persist`, for what binds this replica; where votes are not recorded, `then` leaves at once (token 0)."""
        if self.record_votes:
            return self.persist((record,), then)
        self._effects.extend(then)
        return 0

    def send(self, to: int, message: Message) -> None:
        """Send something that does not bind."""
        self._effects.append(Send(to, message))

    def broadcast(self, message: Message) -> None:
        """Send something that does not bind to every other member."""
        self._effects.append(Broadcast(message))

    def tell(self, to: int | None, message: Message) -> None:
        """Send something that does not bind to one member, or to every other one."""
        if to is None:
            self.broadcast(message)
        else:
            self.send(to, message)

    def ask_for(self, effect: MakeConsensusKey | VotesOnRecord) -> None:
        """Have the runtime do something about our keys."""
        self._effects.append(effect)

    def set_timer(self, timer: Timer, delay: int) -> None:
        """Start or restart a timer; `delay` in microseconds."""
        self._effects.append(SetTimer(timer, delay))

    def cancel_timer(self, timer: Timer) -> None:
        """Stop a timer."""
        self._effects.append(CancelTimer(timer))

    def penalise(self, peer: int, reason: str) -> None:
        """Report a peer that broke the protocol."""
        self._effects.append(Penalise(peer, reason))
