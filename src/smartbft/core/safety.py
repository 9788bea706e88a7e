"""The only file that may approve a vote.

Every PROPOSE, WRITE, ACCEPT, STOPDATA and SYNC of this replica is asked for here first, and nothing else creates a
record of one. The guard knows all that was promised for the live instances, restarts included, so it can refuse a
contradiction whatever path led to it.
"""

from __future__ import annotations

from smartbft.errors import invariant


class VoteGuard:
    """The promises of one replica: per instance and regency at most one value is proposed, written and accepted, and
    nothing below the installed regency.

    Attributes:
        regency: the installed one. Installing it is a promise: no WRITE or ACCEPT below it in any instance.
        synchronized: whether its SYNC has come; regency 0 needs none.
        ended: whether the regency is over although no other one is installed yet: its SYNC rests on a promise that a
            member has lost. Nothing is voted in it, and no SYNC begins it again.
        suspended: why this replica may promise nothing at all, in words; empty: it takes part.
        follows: whether a suspended replica follows the regencies of the others, as a learner does: that promises
            nothing, because nothing of it leaves.
    """

    __slots__ = (
        "_accepted",
        "_bound",
        "_decided",
        "_first",
        "_proposed",
        "_written",
        "ended",
        "follows",
        "regency",
        "suspended",
        "synchronized",
    )

    def __init__(self) -> None:
        self._proposed: dict[tuple[int, int], bytes] = {}
        self._written: dict[tuple[int, int], bytes] = {}
        self._accepted: dict[tuple[int, int], bytes] = {}
        self._bound: dict[tuple[int, int], bytes] = {}  # what the SYNC of a regency lets us write in an instance
        self._decided = 0
        self._first = 0  # the first instance of a key that has replaced a lost one
        self.regency = 0
        self.synchronized = True
        self.ended = False
        self.suspended = ""
        self.follows = False

    # Taking part (protocols.md section 3)

    def suspend(self, why: str, *, follow: bool = False) -> None:
        """Approve nothing until `resume`: a replica that starts, or (it may follow) one that lost its votes' record."""
        self.suspended = why
        self.follows = follow

    def resume(self) -> None:
        """End `suspend` of a replica that starts."""
        invariant(not self.follows, "a replica that has lost the record of its votes would vote again")
        self.suspended = ""

    def resume_with_new_key(self, first: int) -> None:
        """A replica that has lost the record of its votes votes again, with a key that never signed one.

        Args:
            first: the first instance in which the key is in force; below it nothing is voted, ever.
        """
        invariant(self.follows, "only a replica that learns comes back with a new key")
        invariant(first == self._decided + 1, f"a new key from instance {first}, but {self._decided} are decided")
        self._first = first
        self.suspended = ""
        self.follows = False

    # Regencies (protocols.md 2.3)

    def install(self, regency: int) -> bool:
        """Whether STOPDATA for `regency` may be recorded and sent; from then on nothing below it is voted."""
        if regency <= self.regency or not self._may_follow():
            return False
        self._install(regency)
        return True

    def _install(self, regency: int) -> None:
        self.regency = regency
        self.synchronized = self.ended = False
        self._bound.clear()
        for promises in (self._proposed, self._written):
            for key in [key for key in promises if key[1] < regency]:
                del promises[key]  # nothing is voted there any more, so nothing can contradict it
        self._forget_older_accepts()

    def _forget_older_accepts(self) -> None:
        """Of regencies that are over the newest ACCEPT alone matters: its instance may be decided (`accepts`)."""
        for key in sorted(self._accepted)[:-1]:
            if key[1] < self.regency:
                del self._accepted[key]

    def synchronize(self, regency: int, instance: int, digest: bytes) -> bool:
        """Whether a valid SYNC of `regency` is taken up: the first one of the installed regency.

        Args:
            instance: the one after the highest that the SYNC proves.
            digest: the only value that may be written there in `regency`; empty: nothing binds or is proposed.
        """
        if regency != self.regency or not self.awaits_sync or not self._may_follow():
            return False
        self._synchronize(regency, instance, digest)
        return True

    @property
    def awaits_sync(self) -> bool:
        """Whether a SYNC may still begin the installed regency."""
        return not self.synchronized and not self.ended

    def end_regency(self) -> None:
        """The SYNC of the installed regency has lost its force: wait for another regency."""
        self.synchronized, self.ended = False, True
        self._bound.clear()

    def _synchronize(self, regency: int, instance: int, digest: bytes) -> None:
        self.synchronized = True
        if digest:
            self._bound[instance, regency] = digest

    # Votes

    def approve_propose(self, instance: int, regency: int, digest: bytes, leader: bool) -> bool:
        """Whether PROPOSE(instance, regency, digest) may be recorded and sent: leaders only, one value per regency."""
        return (
            leader
            and self._may_write(instance, regency, digest)
            and self._promise(self._proposed, instance, regency, digest)
        )

    def approve_write(self, instance: int, regency: int, digest: bytes) -> bool:
        """Whether WRITE(instance, regency, digest) may be recorded and sent (VP-Consensus step 2)."""
        return self._may_write(instance, regency, digest) and self._promise(self._written, instance, regency, digest)

    def approve_accept(self, instance: int, regency: int, digest: bytes, writes: int, quorum: int) -> bool:
        """Whether ACCEPT(instance, regency, digest) may be recorded, signed and sent (VP-Consensus step 3).

        Args:
            writes: distinct members whose WRITE for exactly this instance, regency and digest was received.
            quorum: `Q` of the view.
        """
        if writes < quorum or not self._may_vote(instance, regency):
            return False
        approved = self._promise(self._accepted, instance, regency, digest)
        self._forget_older_accepts()
        return approved

    def accepts(self, instance: int) -> bool:
        """Whether an ACCEPT for this instance was approved, in any regency."""
        return any(promised == instance for promised, _ in self._accepted)

    def approve_decide(self, instance: int, accepts: int, quorum: int) -> bool:
        """Whether `accepts` verified ACCEPTs of distinct members decide the instance: each instance once, in order."""
        return accepts >= quorum and instance == self._decided + 1

    def decided(self, instance: int) -> None:
        """The instance is decided and its promises are settled: nothing more is voted in it."""
        invariant(instance == self._decided + 1, f"instance {instance} decided after instance {self._decided}")
        self.settled(instance)

    def settled(self, instance: int) -> None:
        """A snapshot stands for this instance and all before it: nothing more is voted there."""
        invariant(instance >= self._decided, f"a snapshot of instance {instance} after instance {self._decided}")
        self._decided = instance
        for promises in (self._proposed, self._written, self._accepted, self._bound):
            for key in [key for key in promises if key[0] <= instance]:
                del promises[key]

    # Restarts

    def restore_regency(self, regency: int) -> None:
        """The installed regency found in the log after a restart."""
        self._install(regency)

    def restore_sync(self, instance: int, digest: bytes) -> None:
        """The SYNC of that regency, found in the log too."""
        self._synchronize(self.regency, instance, digest)

    def restore(
        self, instance: int, regency: int, digest: bytes, *, proposed: bool, written: bool, accepted: bool
    ) -> None:
        """A promise found in the log after a restart, when the installed regency has been restored."""
        over = regency < self.regency
        kinds = ((proposed and not over, self._proposed), (written and not over, self._written))
        for made, promises in (*kinds, (accepted, self._accepted)):
            if made:
                kept = promises.setdefault((instance, regency), digest)
                invariant(kept == digest, f"the log holds two votes for instance {instance}, regency {regency}")
        self._forget_older_accepts()

    def _may_follow(self) -> bool:
        return not self.suspended or self.follows

    def _may_write(self, instance: int, regency: int, digest: bytes) -> bool:
        return self._may_vote(instance, regency) and self._bound.get((instance, regency), digest) == digest

    def _may_vote(self, instance: int, regency: int) -> bool:
        above = instance > self._decided and instance >= self._first
        return above and regency == self.regency and self.synchronized and not self.suspended

    @staticmethod
    def _promise(promises: dict[tuple[int, int], bytes], instance: int, regency: int, digest: bytes) -> bool:
        return promises.setdefault((instance, regency), digest) == digest
