"""Every start is the same (protocols.md section 3): before a replica takes part it knows where the others are.

It asks all for their regency, their last decision with its proof, and the highest vote they saw from it. With `n - f`
answers (its own included) and all decisions they prove, it repeats its recorded votes and goes on. A replica whose
record of votes is not intact only learns: it counts towards `f` until a new consensus key of it is ordered. It votes
from the instance after the one that orders it, where its earlier lives cannot have voted: what that instance decided
holds a statement that was made after the loss.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartbft.core.effects import VotesOnRecord
from smartbft.messages import Accept, FetchStanding, Standing

if TYPE_CHECKING:
    from smartbft.core.recovery import RecoveredState
    from smartbft.core.replica import Replica

STARTING = "it has started and asks the others where they are"
LOST_VOTES = "the record of its votes is lost"
NO_KEY = "the secret of its consensus key in force is not in its data folder"
REPLACED_KEY = "its consensus key was replaced by one of another life"
FORGOTTEN_VOTES = "others saw votes of it that its log does not have"


class TakingPart:
    """How one replica comes back.

    Attributes:
        learns: why this replica only learns, in words; empty: it votes, or will.
    """

    def __init__(self, replica: Replica) -> None:
        self.learns = ""
        self._replica = replica
        self._token = 0
        self._recorded = (0, -1)  # the highest instance and regency that the log holds a vote for
        self._accepts: dict[tuple[int, bytes], None] = {}  # regency and digest of the ACCEPTs it holds
        self._standings: dict[int, Standing] = {}
        self._starting = False
        self._on_record: int | None = None  # the token that ends the loss of our votes

    def begin(self, recovered: RecoveredState, lost: str) -> None:
        """Suspend all promises and ask; a replica that is alone has nobody to ask. `lost`: why it may not vote."""
        replica = self._replica
        values = [record.regency for record in recovered.votes.values]
        self._accepts = {(record.regency, record.digest): None for record in recovered.votes.accepts}
        self._recorded = (replica.decided + 1, max([-1, *values, *(regency for regency, _ in self._accepts)]))
        self._token = replica.now
        if lost:
            self._learn(lost)
        elif replica.view.n > 1:
            self._starting = True
            replica.guard.suspend(STARTING)
        self.ask(None)

    def _learn(self, why: str) -> None:
        self.learns = why
        self._starting = False
        self._replica.guard.suspend(why, follow=True)
        self._replica.key_changes.need_key()
        self._replica.ordering.take_part()

    # A new consensus key

    def on_keys_changed(self, members: tuple[int, ...]) -> None:
        """Proofs that were checked with the keys before do not count any more. If it was our key that changed, nothing
        is signed with the old one; called before the next instance begins.
        """
        self._standings.clear()
        replica = self._replica
        if replica.id in members and not replica.guard.follows:
            self.learns = REPLACED_KEY
            self._starting = False
            replica.guard.suspend(REPLACED_KEY, follow=True)
            replica.key_changes.need_key()

    def _come_back(self) -> None:
        """Our new key is in force: vote from the next instance on, once the promise that goes before is recorded."""
        replica, made = self._replica, self._replica.key_changes.made
        if not self.learns or made is None or replica.keys.latest(replica.id) != made.public_key:
            return
        replica.signer = made
        replica.ordering.promise_anew()
        replica.guard.resume_with_new_key(replica.decided + 1)
        replica.key_changes.forget_made()
        self.learns = ""
        self._on_record = replica.last_token
        replica.ordering.take_part()

    def on_persisted(self, durable: int) -> None:
        """The decision with our new key, and the promise that follows it, may be on disk now."""
        if self._on_record is not None and durable >= self._on_record and not self.learns:
            self._on_record = None
            self._replica.ask_for(VotesOnRecord())

    def ask(self, to: int | None) -> None:
        """Ask again, as long as answers are missing."""
        if not self._starting:
            return
        replica = self._replica
        question = FetchStanding(replica.view.number, replica.regency, self._token)
        if to is None:
            replica.broadcast(question)
        else:
            replica.send(to, question)

    def on_fetch_standing(self, sender: int, message: FetchStanding) -> None:
        """A replica has started: tell it where we are and what we saw of it, whether or not we take part."""
        replica = self._replica
        if not replica.may_answer(sender, Standing):
            return
        proof, seen = replica.durable_proof(), replica.ordering.seen_of(sender)
        replica.answer(sender, Standing(replica.view.number, replica.regency, message.token, proof, *seen))

    def on_standing(self, sender: int, message: Standing) -> None:
        """An answer; only those to the question of this life count."""
        accept = message.accept
        if accept is not None and self._is_for_our_key(accept) and not self._is_ours(accept):
            self._replica.penalise(sender, "showed an ACCEPT that we did not sign")
            return
        if self._starting and message.token == self._token:
            self._standings[sender] = message
            self.look()

    def look(self) -> None:
        """Take part, once enough have answered and what they have proven to be decided is decided here."""
        replica = self._replica
        self._come_back()
        if not self._starting or len(self._standings) + 1 < replica.view.n - replica.view.f:
            return
        if self._is_behind() or not self._starting:
            return  # or a proof has decided an instance, and that ended the start
        if self._votes_are_missing():
            self._learn(FORGOTTEN_VOTES)
            return
        self._starting = False
        replica.guard.resume()
        replica.ordering.take_part()

    def _is_behind(self) -> bool:
        """Whether somebody has proven a decision that is not here; a proof of the next one decides it at once."""
        replica = self._replica
        proven = [(sender, known.proof) for sender, known in self._standings.items() if known.proof is not None]
        for sender, proof in proven:
            if proof.instance > replica.decided:
                replica.note_progress(sender, proof.instance)
                replica.ordering.prove(proof)
        return any(proof.instance > replica.decided for _, proof in proven)

    def _votes_are_missing(self) -> bool:
        """Whether somebody shows a signed ACCEPT, or more than `f` have seen any vote, that is not in the log."""
        shown = [standing.accept for standing in self._standings.values() if standing.accept is not None]
        if any(not self._is_recorded(accept) and self._is_ours(accept) for accept in shown):
            return True
        votes = [standing.vote for standing in self._standings.values() if standing.vote is not None]
        return sum(1 for vote in votes if (vote.instance, vote.regency) > self._recorded) > self._replica.view.f

    def _is_recorded(self, accept: Accept) -> bool:
        """Whether the log holds this ACCEPT, or its instance's decision. A WRITE for the value is no record of it."""
        instance, _ = self._recorded
        return accept.instance < instance or (
            accept.instance == instance and (accept.regency, accept.digest) in self._accepts
        )

    def _is_for_our_key(self, accept: Accept) -> bool:
        """Whether it is in an instance for which we have the key; another life may have signed it with another one."""
        replica = self._replica
        known = accept.instance <= replica.keys.known
        return known and replica.keys.key_at(replica.id, accept.instance) == replica.signer.public_key

    def _is_ours(self, accept: Accept) -> bool:
        """Signatures are deterministic: an ACCEPT of ours is what we would sign."""
        replica = self._replica
        payload = replica.domains.accept_payload(accept.view, accept.regency, accept.instance, accept.digest)
        return replica.signer.sign(payload) == accept.signature

    def waiting_for(self) -> str:
        """What the start waits for, and from whom; empty when this replica takes part or learns."""
        if not self._starting:
            return ""
        silent = [id for id in self._replica.view.ids if id not in self._standings and id != self._replica.id]
        missing = self._replica.view.n - self._replica.view.f - 1 - len(self._standings)
        if missing > 0:
            return f"the standing of {missing} of replicas {silent}"
        return "decisions that others have proven"
