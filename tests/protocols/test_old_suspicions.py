"""Suspicions of long ago do not add up, whatever was done to the clock since."""

from __future__ import annotations

import pytest
from kit.cluster import Cluster
from kit.regencies import sent

from smartbft.limits import STOP_LIFETIME_RESENDS
from smartbft.messages import Stop

HOUR = 3600 * 1_000_000


@pytest.mark.parametrize("jump", [0, HOUR, -HOUR])
def test_a_stop_counts_as_long_as_it_is_repeated(jump: int) -> None:
    cluster = Cluster()
    node = cluster.nodes[0]
    node.receive(2, Stop(0, 0, 1, b""))
    node.now += jump or STOP_LIFETIME_RESENDS * cluster.parameters.resend_interval + 1
    node.receive(3, Stop(0, 0, 1, b""))
    assert not sent(node, Stop), "one asks now: nobody knows whether it is correct"
    node.receive(2, Stop(0, 0, 1, b""))
    assert sent(node, Stop)
