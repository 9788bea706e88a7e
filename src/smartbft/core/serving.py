"""Giving decisions to peers that lack them: from memory if possible, else from the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartbft.core.decisions import RecentDecisions
from smartbft.core.effects import ServeDecisions
from smartbft.core.inputs import DecisionsServed
from smartbft.messages import Decision, Gone

if TYPE_CHECKING:
    from smartbft.core.replica import Replica


class Serving:
    """What one replica sends to those who are behind.

    Args:
        replica: whose decisions they are.
        recent: those in memory.
        has_log: False in memory mode: there is nothing else.
    """

    __slots__ = ("_answered", "_has_log", "_recent", "_replica", "_served")

    def __init__(self, replica: Replica, recent: RecentDecisions, *, has_log: bool) -> None:
        self._replica = replica
        self._recent = recent
        self._has_log = has_log
        self._answered: dict[int, tuple[int, int]] = {}  # peer -> the instance it got, and when
        self._served: dict[int, tuple[int, int]] = {}  # peer -> the last instance it got lately, and since when

    def answer(self, to: int, instance: int) -> None:
        """Send a decided instance to a peer that lacks it, at most one per resend interval unless it moves on."""
        replica = self._replica
        if replica.catch_up.claims(to) >= instance:
            return
        interval = replica.parameters.resend_interval
        last, at = self._answered.get(to, (0, -interval))
        if instance == last and abs(replica.now - at) < interval:
            return
        self._answered[to] = (instance, replica.now)
        self.serve(to, instance, instance)

    def first(self) -> int:
        """The first instance whose decision is here for others."""
        return self._replica.checkpoints.first if self._has_log else self._recent.first() or self._replica.decided + 1

    def serve(self, to: int, first: int, last: int) -> None:
        """Send decisions `first` to `last`, as far as they are durable here and the peer's budget lasts. If they are
        not here any more, say where ours begin.
        """
        replica = self._replica
        view, regency, begin = replica.view.number, replica.regency, self.first()
        if first < begin:
            if replica.may_answer(to, Gone):
                replica.answer(to, Gone(view, regency, begin))
            return
        first = max(first, self._got(to) + 1)
        for instance in range(first, last + 1):
            known = self._recent.get(instance)
            if not replica.may_answer(to, Decision):
                return
            if known is None:
                proof = replica.durable_proof()
                durable = proof.instance if proof is not None else 0
                if self._has_log and 1 <= instance <= durable:
                    self._serve_from_log(to, instance, min(last, durable))
                    self._note(to, min(last, durable))
                    return
            elif known[1] <= replica.durable:
                decision = known[0]
                answer = Decision(view, regency, instance, decision.value, decision.data, decision.proof)
                replica.answer(to, answer, len(decision.value) + len(decision.data))
                self._note(to, instance)

    def _serve_from_log(self, to: int, first: int, last: int) -> None:
        """How large they are is known once they have been read."""
        self._replica.rates.reserve(to, last - first + 1)
        self._replica.emit(ServeDecisions(to, first, last))

    def served(self, event: DecisionsServed) -> None:
        """Decisions from the log have left, or were not sent after all."""
        served = event.served
        self._replica.rates.settle(served.to, served.last - served.first + 1, event.size)

    def _got(self, peer: int) -> int:
        """The last decision that a peer was given a moment ago: it does not get that again, as often as it may ask.

        A few bytes must not be answered with megabytes without end. Who catches up asks for later and later decisions,
        and again when time has passed.
        """
        got, since = self._served.get(peer, (0, 0))
        return got if abs(self._replica.now - since) < self._replica.parameters.resend_interval // 2 else 0

    def _note(self, peer: int, last: int) -> None:
        got = self._got(peer)
        since = self._served[peer][1] if got else self._replica.now
        self._served[peer] = (max(got, last), since)
