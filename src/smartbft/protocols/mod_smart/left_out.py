"""What the leader's batches leave out although it was told of it: for the average wait of requests
(`smartbft.core.request_waits`).

A leader may leave out what was ready here, if it did not have it. So a follower whose leader takes half of the allowed
time tells it everything that is ready, and so does one that sees something left out, in a batch with room, that was
ready half of that time before the proposal came. From then on what is left out counts as waiting for the leader for as
long as an instance takes, and the leader is told again of all that has come meanwhile, until it has ordered what it was
told of. One that is told of something while its next proposal is on its way has that in the one after it: beside what
it orders, this makes no long wait on average.

All of this holds only while we have verified most of what is here. Where verification is what takes long, nobody
verifies in the same order, and batches leave out much that is ready here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartbft._fastpath.pool import request_digests
from smartbft.core.chassis import Chassis
from smartbft.limits import DIGEST_BYTES, MAX_REMINDER_BYTES, MAX_REQUEST_BYTES
from smartbft.messages import Forward
from smartbft.protocols.vp_consensus import VPConsensus
from smartbft.types import Value

if TYPE_CHECKING:
    from smartbft.protocols.mod_smart.ordering import ModSmart

_NEVER = -1
_LENGTH_BYTES = 4  # before each request of a list


def has_room(chassis: Chassis, consensus: VPConsensus) -> bool:
    """Whether any request would have fitted into the batch."""
    parameters = chassis.parameters
    room = parameters.max_batch_bytes - len(consensus.data or b"")
    count = Value.decode(consensus.proposal or b"").count
    return count < parameters.max_batch_requests and room >= _LENGTH_BYTES + MAX_REQUEST_BYTES


def waits_among(chassis: Chassis, oldest: int, listed: bytes) -> bool:
    """Whether the oldest pending request, which came at `oldest`, is in a list that was made in the same order; if not,
    nothing of that list waits any more.
    """
    if not listed:
        return False
    data = chassis.pool.overdue(oldest + 1, _LENGTH_BYTES + MAX_REQUEST_BYTES)
    end = _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")
    return data[:end] in listed


class LeftOut:
    """What the leader was told of, and what it does about it. Times are microseconds."""

    __slots__ = ("_before", "_chassis", "_count", "_ordering", "_told", "_told_at")

    def __init__(self, chassis: Chassis, ordering: ModSmart) -> None:
        self._chassis = chassis
        self._ordering = ordering
        self._told = b""  # request list
        self._count = 0  # requests in it
        self._told_at = 0
        self._before = _NEVER  # when the instance before began

    def forget(self) -> None:
        """Another leader, or instances were settled elsewhere."""
        self._told, self._before = b"", _NEVER

    def caught_up(self) -> bool:
        """Whether most of what is here was verified: the leader should then have most of it as well."""
        pool = self._chassis.pool
        return 2 * pool.stats()["unverified"] <= pool.ready()

    def decided(self, consensus: VPConsensus, began: int, half: int) -> int:
        """An instance is decided, and its requests have left the pool.

        Args:
            consensus: the instance.
            began: when the leader could have proposed something, as far as we know.
            half: how long it may take until something that is ready here is in a proposal that comes here.

        Returns:
            How many requests it leaves out although there was room, and the leader was told of them.
        """
        chassis = self._chassis
        before, self._before = self._before, began
        oldest, proposed = chassis.pool.oldest_pending(), consensus.proposed_at
        if oldest < 0:
            self._told = b""
            return 0
        if not self._told and oldest + half > proposed:
            return 0
        if not proposed or not has_room(chassis, consensus) or not self.caught_up():
            return 0
        if waits_among(chassis, oldest, self._told):
            left = min(chassis.pool.ready(), self._count)
            if abs(chassis.now - self._told_at) >= half // 2:
                self.tell()
            return left
        self._told = b""
        # A proposal that was here when the instance began here was made during the one before: we are behind a bit.
        if oldest + half <= (proposed if proposed > began else before):
            self.tell()
        return 0

    def tell(self) -> None:
        """The leader is sent what is ready here, as far as one message holds it."""
        chassis, ordering = self._chassis, self._ordering
        self._told_at = chassis.now
        self._told = chassis.pool.overdue(chassis.now + 1, MAX_REMINDER_BYTES)
        self._count = len(request_digests(chassis.domains.chain_id, self._told)) // DIGEST_BYTES
        if self._told:
            chassis.send(ordering.leader, Forward(chassis.view.number, ordering.regency, self._told))
