"""Whether a leader is too slow: how late its proposals came, and how late they may come.

A leader that keeps every proposal back until just before its requests time out is never suspected for a timeout, and
leaves the cluster a few batches per timeout (Amir, Coan, Kirsch and Lane, *Byzantine replication under attack*, DSN
2008, which calls it the pre-prepare delay attack). One that proposes in time, but next to nothing, leaves as little. As
Aardvark does (Clement, Wong, Alvisi, Dahlin and Marchetti, NSDI 2009), such a leader is replaced although it makes
progress, and what is expected of a leader is lowered where no leader fulfils it.

One late proposal means nothing: a machine may stand still for a while. What counts is an *episode*: a stretch of
instances in which at least half of the time went by waiting for late proposals (a cumulative sum, which ends when it
falls to zero). So a leader that is late now and then, but for long, is found as well as one that is always late; and
where everything is slow (a far network, a slow disk), waiting for proposals is the smaller part. Beside it, the average
wait of a request counts (`smartbft.core.request_waits`), for leaders that are nearly late with each proposal.
"""

from __future__ import annotations

from smartbft.core.request_waits import RequestWaits
from smartbft.limits import (
    LATE_PROPOSALS,
    LATE_SHARE_OF_TIMEOUT,
    MAX_PROPOSAL_PATIENCE_DOUBLINGS,
    PROPOSAL_PATIENCE_TIMEOUTS,
)
from smartbft.types import Parameters


class ProposalDelays:
    """The judgement of one replica. Times are microseconds.

    Attributes:
        base: how long a proposal may take, as long as no leader was too slow.
        requests: how long requests waited on average.
    """

    __slots__ = (
        "_busy",
        "_doublings",
        "_holds",
        "_late",
        "_passed_over",
        "_since",
        "_timeout",
        "_waited",
        "base",
        "requests",
    )

    def __init__(self, parameters: Parameters) -> None:
        # A leader that lets requests join its batch is not late for it.
        self.base = max(parameters.proposal_timeout, 4 * parameters.batch_delay)
        self.requests = RequestWaits(parameters.request_timeout)
        self._timeout = parameters.request_timeout
        self._late = 0  # late proposals of the episode
        self._passed_over = 0  # those among them that came in time and left old requests out
        self._waited = 0  # for them
        self._busy = 0  # how long the instances since its beginning took, those with late proposals included
        self._doublings = 0
        self._holds = 0  # what was lowered is lowered for twice as long each time
        self._since = 0

    @property
    def active(self) -> bool:
        """Whether proposals are watched at all: not if each may take as long as a request."""
        return self.base < self._timeout

    def allowed(self, now: int) -> int:
        """How long a proposal may take before it is late: doubled by each leader that was too slow, up to the request
        timeout, and halved again when that has lasted long enough.

        A network on which all leaders look slow has O(log(timeout)) changes until they do not, and then as many as
        the logarithm of the time that passes: each time the patience lasts twice as long, up to a bound.
        """
        self._since = min(self._since, now)  # the clock was set back
        while now - self._since >= self._patience and (self._doublings or self._holds):
            self._since += self._patience
            if self._doublings:
                self._doublings -= 1
            else:
                self._holds -= 1
        return min(self.base << self._doublings, self._timeout)

    @property
    def _patience(self) -> int:
        return PROPOSAL_PATIENCE_TIMEOUTS * self._timeout << self._holds

    def decided(self, waited: int, duration: int, passed_over: int = 0) -> None:
        """An instance is decided.

        Args:
            waited: for its proposal, if that was late; else 0.
            duration: from when the leader could have proposed to the decision, `waited` included.
            passed_over: how much of it is lost because the proposal, although it had room, left out requests that the
                leader had long had. That is as good as a late proposal.
        """
        if passed_over > 0:
            self._passed_over += 1
        waited = max(waited, passed_over)
        if waited > 0:
            self._late += 1
            self._waited += waited
        if self._late:
            self._busy += max(waited, duration)
        if 2 * self._waited < self._busy:
            self._begin_episode()

    def _begin_episode(self) -> None:
        self._late = self._passed_over = self._waited = self._busy = 0

    @property
    def too_slow(self) -> bool:
        """Whether this leader should be replaced: several proposals were late, and that cost a good deal of time; or
        requests waited too long on average.
        """
        return self._often_late or self.requests.too_long

    @property
    def _often_late(self) -> bool:
        return self._late >= LATE_PROPOSALS and self._waited >= self._timeout // LATE_SHARE_OF_TIMEOUT

    def in_words(self, now: int) -> str:
        """Why this leader should be replaced."""
        if not self._often_late:
            return self.requests.in_words(self.allowed(now))
        late = f"{self._late} proposals came late"
        if self._passed_over:
            late += f", or with room and without requests that had long been there ({self._passed_over} of them)"
        return (
            f"{late}: {self._waited / 1e6:.2g} of {self._busy / 1e6:.2g} s went by waiting for them, and"
            f" {self.allowed(now) / 1e6:g} s are allowed for each"
        )

    def leader_replaced(self, now: int, failed: bool = True) -> None:
        """A regency is over; if its leader was late, whoever asked for the change, the next one may be slower.

        Args:
            now: microseconds.
            failed: False: it ended with a key change. A liar can bring that about, and should not make others patient.
        """
        self.allowed(now)
        if failed and (self._late or self.requests.lasting):
            if self.base << self._doublings < self._timeout:
                self._doublings += 1
            self._holds = min(self._holds + 1, MAX_PROPOSAL_PATIENCE_DOUBLINGS)
            self._since = now
        self.requests.leader_replaced()
        self._begin_episode()
