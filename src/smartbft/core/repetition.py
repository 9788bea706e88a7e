"""Nothing is said only once: what may be lost is said again, now and then, and to a peer whose channel is new."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartbft.core.inputs import PeerConnected, Timer
from smartbft.messages import Progress

if TYPE_CHECKING:
    from smartbft.core.replica import Replica
    from smartbft.core.taking_part import TakingPart
    from smartbft.core.vouching import Vouching


class Repetition:
    """When one replica repeats itself, and in which order."""

    __slots__ = ("_connected", "_replica", "_seen", "_taking_part", "_vouching")

    def __init__(self, replica: Replica, taking_part: TakingPart, vouching: Vouching) -> None:
        self._replica = replica
        self._taking_part = taking_part
        self._vouching = vouching
        self._connected: dict[int, None] = {}  # peers whose channel is new, and that were told nothing yet
        self._seen = (0, False)  # at the last look: the last decided instance, and whether the next one was running

    def begin(self) -> None:
        """The replica has started."""
        self._repeat(None)
        parameters = self._replica.parameters
        self._replica.set_timer(Timer.RESEND, parameters.resend_interval)
        self._replica.set_timer(Timer.PROGRESS, parameters.progress_interval)

    def on_resend(self) -> None:
        """Repeat ourselves if the same instance was running at the last look and still is, or the regency changes."""
        replica = self._replica
        now_at = (replica.decided, replica.ordering.running())
        insists = replica.ordering.changing() or bool(self._taking_part.waiting_for())
        if (now_at == self._seen and now_at[1]) or insists:
            self._repeat(None)
        self._seen = now_at
        self._vouching.repeat(None)
        for peer in list(self._connected):
            self.to_connected(peer)
        replica.key_changes.repeat()
        replica.set_timer(Timer.RESEND, replica.parameters.resend_interval)

    def on_progress(self) -> None:
        """Tell the others how far we are."""
        replica = self._replica
        replica.broadcast(self._progress())
        replica.checkpoints.insist()
        replica.set_timer(Timer.PROGRESS, replica.parameters.progress_interval)

    def to_connected(self, peer: int) -> None:
        """The channel to a peer is up (again): tell it, at once or, if it comes and goes, in a while."""
        rates = self._replica.rates
        self._connected[peer] = None
        if rates.may(peer, PeerConnected):
            rates.charge(peer, PeerConnected)
            del self._connected[peer]
            self._repeat(peer)
            self._vouching.repeat(peer)

    def _repeat(self, to: int | None) -> None:
        """Say how far we are, then again what binds us: in this order, so that nobody sends us what we have."""
        replica = self._replica
        replica.tell(to, self._progress())
        if to is not None:
            replica.checkpoints.resend(to)
        self._taking_part.ask(to)
        replica.ordering.resend(to)

    def _progress(self) -> Progress:
        replica = self._replica
        return Progress(replica.view.number, replica.regency, replica.decided)
