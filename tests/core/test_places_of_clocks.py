"""Places of sessions by clocks that differ within the skew, used by a client alone."""

from __future__ import annotations

from kit.cluster import Cluster
from kit.requests import NOW, TestClient

from smartbft.core.inputs import Timer
from smartbft.types import Parameters

SESSIONS = 4  # of one key, in the kit's pools


def test_a_place_that_is_free_by_some_clocks_only_has_no_leader_replaced() -> None:
    """The sessions of a key lapse by two clocks that are ahead; by the leader's clock there is no place for another."""
    cluster = Cluster(parameters=Parameters(batch_delay=0))
    leader = cluster.leader
    for session in range(SESSIONS):
        cluster.submit(TestClient(1, NOW + session).requests(b"opens"))
        cluster.run()
    fast = cluster.followers[:2]
    for node in cluster.nodes:
        node.now = NOW + cluster.parameters.session_lease - 20_000_000
        if node in fast:
            node.now += 25_000_000
    honest = TestClient(999, leader.now)
    cluster.submit(honest.requests(b"first"))
    cluster.run()
    mine = TestClient(1, leader.now).requests(b"attacker")
    cluster.submit(mine, to=[node.id for node in fast])
    assert [node.pool.ready() for node in fast] == [1, 1]
    for tick in range(120):
        for node in cluster.nodes:
            node.now += 50_000
        cluster.submit(honest.requests(b"h%d" % tick))
        if tick % 5 == 0:
            for node in cluster.nodes:
                node.fire(Timer.REQUEST)
                node.fire(Timer.RESEND)
        cluster.run()
    assert [node.replica.regency for node in cluster.nodes] == [0] * 4
