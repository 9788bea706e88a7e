"""When a request waits too long: it is forwarded once, and the leader is suspected until somebody listens."""

from __future__ import annotations

from types import SimpleNamespace

from smartbft.core.forwarding import Forwarding
from smartbft.limits import REQUEST_LOOKS_PER_TIMEOUT

TIMEOUT = 1_000_000
REQUEST = b"\x03\0\0\0abc"


class Ordering:
    """Takes note of suspicions; as long as it does not take part, they go unheard."""

    def __init__(self) -> None:
        self.timeout = TIMEOUT
        self.takes_part = False
        self.heard = 0
        self.unheard = 0

    def suspect(self, data: bytes) -> None:
        assert data == REQUEST
        self.heard += self.takes_part
        self.unheard += not self.takes_part


def watched(ordering: Ordering) -> SimpleNamespace:
    pool = SimpleNamespace(oldest_pending=lambda: 5, overdue=lambda before, most: REQUEST if before > 5 else b"")
    return SimpleNamespace(
        ordering=ordering,
        pool=pool,
        now=5,
        regency=0,
        view=SimpleNamespace(number=0),
        sent=[],
        may_propose=lambda: True,
        could_propose=lambda: True,
        set_timer=lambda timer, delay: None,
    )


def looks(forwarding: Forwarding, replica: SimpleNamespace, timeouts: int) -> None:
    for _ in range(timeouts * REQUEST_LOOKS_PER_TIMEOUT + 1):
        forwarding.on_timer()
        replica.now += TIMEOUT // REQUEST_LOOKS_PER_TIMEOUT


def test_a_suspicion_that_came_before_the_replica_took_part_is_raised_again():
    ordering = Ordering()
    replica = watched(ordering)
    replica.broadcast = replica.sent.append
    forwarding = Forwarding(replica)  # type: ignore[arg-type]
    looks(forwarding, replica, 2)
    assert ordering.unheard > 0
    assert len(replica.sent) == 1
    ordering.takes_part = True
    looks(forwarding, replica, 1)
    assert ordering.heard > 0
    assert len(replica.sent) == 1


def test_nobody_is_suspected_before_the_timeout():
    ordering = Ordering()
    ordering.takes_part = True
    replica = watched(ordering)
    replica.broadcast = replica.sent.append
    forwarding = Forwarding(replica)  # type: ignore[arg-type]
    for _ in range(REQUEST_LOOKS_PER_TIMEOUT - 1):
        forwarding.on_timer()
        replica.now += TIMEOUT // REQUEST_LOOKS_PER_TIMEOUT
    assert len(replica.sent) == 1
    assert ordering.heard == 0
