"""Catching up: a replica that is behind fetches the decided batches it lacks, with their proofs, from its peers.

A claim about progress is worth nothing without a proof: it only tells whom to ask. Every decision that arrives was
checked by validation, so one honest peer is enough and a lying one costs a timer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartbft.core.inputs import Timer
from smartbft.core.naming import name_members
from smartbft.limits import FETCH_DECISIONS_AT_ONCE
from smartbft.messages import Decision, FetchDecisions, Gone, Progress
from smartbft.quorum import weak_quorum

if TYPE_CHECKING:
    from smartbft.core.replica import Replica


class CatchUp:
    """What the peers claim to have decided, and the decisions on their way here."""

    __slots__ = ("_asked_until", "_attempts", "_claims", "_fetched", "_reach", "_replica", "_waiting")

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._claims = dict.fromkeys(replica.view.ids, 0)
        self._reach = dict.fromkeys(replica.view.ids, 0)  # the first decision that a peer's log has, as far as it said
        self._fetched: dict[int, Decision] = {}
        self._asked_until = 0
        self._attempts = 0
        self._waiting = False

    def waiting_for(self) -> str:
        """Which decisions are missing here and who has them, in words; empty when at most one is."""
        replica = self._replica
        most = max(self._claims.values())
        if most <= replica.decided + 1:
            return ""
        ahead = [peer for peer, decided in self._claims.items() if decided > replica.decided + 1]
        return f"decisions {replica.decided + 1} to {most} from {name_members(ahead)}"

    def claims(self, peer: int) -> int:
        """How far `peer` says, or shows, that it has decided."""
        return self._claims[peer]

    def on_progress(self, peer: int, message: Progress) -> None:
        """`peer` says how far it is. The newest word counts: a replica that lost its memory is behind again."""
        self._claims[peer] = 0
        self.note(peer, message.decided)

    def note(self, peer: int, decided: int) -> None:
        """A hint that `peer` has decided up to `decided`. One instance behind is normal; the timer tells whether it
        lasts.
        """
        replica = self._replica
        if decided <= self._claims[peer]:
            return
        self._claims[peer] = decided
        if decided > replica.decided and not self._waiting:
            self._waiting = True
            replica.set_timer(Timer.CATCH_UP, replica.parameters.resend_interval)

    def having(self, instance: int) -> list[int]:
        """The other members whose logs have the decision of an instance, as far as they said."""
        return [
            peer
            for peer, decided in self._claims.items()
            if decided >= instance >= self._reach[peer] and peer != self._replica.id
        ]

    def reached(self) -> int:
        """An instance up to which at least one correct member has decided: `f + 1` members claim so."""
        claimed = sorted(self._claims.values(), reverse=True)
        return claimed[min(self._replica.view.f, len(claimed) - 1)]

    def _ahead(self) -> list[int]:
        replica = self._replica
        return [peer for peer, decided in self._claims.items() if decided > replica.decided and peer != replica.id]

    def is_cut_off(self) -> bool:
        """Whether the next decision is in no log that we know of: `f + 1` members say so, or all that are ahead."""
        ahead, gone = self._ahead(), self._gone()
        return bool(gone) and (len(gone) == len(ahead) or len(gone) >= weak_quorum(self._replica.view.n))

    def is_surely_cut_off(self) -> bool:
        """Whether at least one correct member, which is ahead, does not have the next decision in its log any more."""
        return len(self._gone()) >= weak_quorum(self._replica.view.n)

    def _gone(self) -> list[int]:
        """Who is ahead and has dropped the next decision, as it says."""
        return [peer for peer in self._ahead() if self._reach[peer] > self._replica.decided + 1]

    def on_gone(self, sender: int, message: Gone) -> None:
        """A peer's log begins later than what we asked for."""
        self._reach[sender] = message.first
        self.note(sender, message.first - 1)
        if self.is_cut_off():
            self._replica.transfer.begin()

    def on_timer(self) -> None:
        """Still behind: ask the next of the peers that claim to be ahead, and whose logs may reach us."""
        self._waiting = False
        replica = self._replica
        ahead = self._ahead()
        if not ahead:
            return
        reaching = [peer for peer in ahead if self._reach[peer] <= replica.decided + 1]
        if not reaching and not replica.transfer.paused:
            replica.transfer.begin()
        elif reaching and replica.may_decide() and not replica.transfer.paused:
            self._ask(reaching[self._attempts % len(reaching)])
            self._attempts += 1
        self._waiting = True
        replica.set_timer(Timer.CATCH_UP, replica.parameters.resend_interval)

    def _ask(self, peer: int) -> None:
        replica = self._replica
        first = replica.decided + 1
        self._asked_until = min(self._claims[peer], first + FETCH_DECISIONS_AT_ONCE - 1)
        replica.send(peer, FetchDecisions(replica.view.number, replica.regency, first, self._asked_until))

    def on_decision(self, sender: int, message: Decision) -> None:
        """A decision with a valid proof: deliver it if it is the next one, keep it if it comes a little early."""
        replica = self._replica
        if message.instance <= replica.decided or message.instance > replica.decided + FETCH_DECISIONS_AT_ONCE:
            return
        self._fetched[message.instance] = message
        self.deliver()
        if replica.decided >= self._asked_until and self._claims[sender] > replica.decided:
            # The range that was asked for is complete and there is more: go on without waiting for the timer.
            self._ask(sender)

    def deliver(self) -> None:
        """Deliver what was fetched and comes next, as far as the application keeps up."""
        replica = self._replica
        while replica.may_decide() and (decision := self._fetched.pop(replica.decided + 1, None)) is not None:
            logged = replica.ordering.logged(decision.proof.digest)
            replica.decide(decision.instance, decision.value, decision.data, decision.proof, logged)

    def is_behind(self) -> bool:
        """Whether a correct replica says that it has decided more than one instance more."""
        return self.reached() > self._replica.decided + 1

    def on_keys_changed(self) -> None:
        """What was fetched beyond was checked with keys that may not be the right ones: it is asked for again, and at
        once. A member that changes its key often must not cost whoever catches up a wait each time.
        """
        self._fetched.clear()
        self._asked_until = 0

    def on_decided(self) -> None:
        """Forget fetched decisions that were decided here meanwhile."""
        for instance in [instance for instance in self._fetched if instance <= self._replica.decided]:
            del self._fetched[instance]

    def on_fetch(self, sender: int, message: FetchDecisions) -> None:
        """A peer asks for decisions: serve what is here, a bounded range at a time.

        What is not here any more is answered with where the log begins; `serve_decisions` does that.
        """
        last = min(message.last, message.first + FETCH_DECISIONS_AT_ONCE - 1, self._replica.decided)
        if message.first >= 1:
            self._replica.checkpoints.on_decisions_fetched(sender)
            self._replica.serve_decisions(sender, message.first, last)
