"""Whether requests wait too long for a leader none of whose proposals is late, and which leaves none out for ever.

Each such rule can be used up to its limit, and all of them at once: proposals that are nearly late, without those who
asked last, keep everybody waiting for several proposals. So what counts beside the single instance is the average: how
long the requests that were ordered have waited for the leader. By Little's law (J. D. C. Little, *A proof for the
queuing formula L = λW*, Operations Research 9(3), 1961) it is the time that each instance kept requests waiting, times
their number, summed up and divided by how many were ordered; nobody needs to be timed.

As with late proposals (`smartbft.core.proposal_delays`) an *episode* counts, which ends as soon as the average falls
below what is allowed, or the smaller part of the time was the leader's: good times cannot be saved up, and where votes
and disks are slow, the leader is not to blame.
"""

from __future__ import annotations

from smartbft.limits import LATE_PROPOSALS, LATE_SHARE_OF_TIMEOUT


class RequestWaits:
    """The judgement of one replica. Times are microseconds."""

    __slots__ = ("_busy", "_lost", "_ordered", "_slow", "_timeout", "_waited")

    def __init__(self, timeout: int) -> None:
        self._timeout = timeout
        self._begin_episode()

    def _begin_episode(self) -> None:
        self._slow = 0  # instances that kept their requests waiting too long
        self._ordered = 0  # requests
        self._waited = 0  # the sum of what each of them waited for the leader
        self._lost = 0  # of the time, as far as the average waiting request lost it
        self._busy = 0  # how long the instances took

    def decided(self, wait: int, duration: int, ordered: int, left: int, allowed: int) -> None:
        """An instance is decided.

        Args:
            wait: for its proposal.
            duration: from when the leader could have proposed to the decision, `wait` included.
            ordered: requests in it.
            left: requests that it leaves out although there was room, and the leader was told of them.
            allowed: how long a request may wait for the leader, on average.
        """
        if not ordered:
            return
        waited = wait * ordered + duration * left
        self._slow += waited >= allowed * ordered
        self._ordered += ordered
        self._waited += waited
        self._lost += waited // (ordered + left)
        self._busy += duration
        if self._waited < allowed * self._ordered or 2 * self._lost < self._busy:
            self._begin_episode()

    @property
    def lasting(self) -> bool:
        """Whether the requests that were ordered last have waited too long."""
        return self._slow > 0

    @property
    def too_long(self) -> bool:
        """Whether this leader should be replaced: that lasted for several instances, and cost a good deal of time."""
        return self._slow >= LATE_PROPOSALS and self._lost >= self._timeout // LATE_SHARE_OF_TIMEOUT

    def leader_replaced(self) -> None:
        """What was seen says nothing about the next leader."""
        self._begin_episode()

    def in_words(self, allowed: int) -> str:
        """Why this leader should be replaced."""
        average = self._waited // max(1, self._ordered)
        return (
            f"the last {self._ordered} requests waited for its proposals, {average / 1e6:.2g} s each on average, and"
            f" {allowed / 1e6:g} s are allowed"
        )
