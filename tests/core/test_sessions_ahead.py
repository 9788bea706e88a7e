"""Clocks of correct replicas that differ within the skew, used by a client alone."""

from __future__ import annotations

import pytest
from kit.cluster import Cluster
from kit.requests import TestClient

from smartbft.core.inputs import Timer
from smartbft.types import Parameters


@pytest.mark.parametrize("ahead", [0, 5_000_000, 20_000_000])
def test_a_session_from_the_edge_of_the_future_has_no_leader_replaced(ahead: int) -> None:
    """Two replicas' clocks are ahead of the leader's: what they take for admissible must be so for the leader."""
    cluster = Cluster(parameters=Parameters(batch_delay=0))
    honest = TestClient(999)
    fast = [node for node in cluster.nodes if node is not cluster.leader][:2]
    for node in fast:
        node.now += ahead
    edge = fast[0].now + cluster.parameters.clock_skew
    mine = TestClient(1, edge).requests(b"attacker")
    leader = cluster.leader
    cluster.submit(mine, to=[node.id for node in fast])
    for tick in range(120):
        for node in cluster.nodes:
            node.now += 50_000
        data = honest.requests(b"h%d" % tick)
        cluster.submit(data)
        if tick % 5 == 0:
            for node in cluster.nodes:
                node.fire(Timer.REQUEST)
                node.fire(Timer.RESEND)
        cluster.run()
    assert cluster.leader is leader
    assert [node.replica.regency for node in cluster.nodes] == [0] * 4
