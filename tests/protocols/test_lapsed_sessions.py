"""A session lapses while its first request is on its way: no leader is to blame for what it cannot propose.

A client chooses the number of its session: one whose lease ends while the request waits, told to two replicas that do
not lead, must start no timer that cannot end (protocols.md 2.3).
"""

from __future__ import annotations

import pytest
from kit.cluster import Cluster, Node
from kit.regencies import operations, sent, wait
from kit.requests import TestClient

from smartbft.core.inputs import Timer
from smartbft.core.replica import Replica
from smartbft.limits import REQUEST_LOOKS_PER_TIMEOUT
from smartbft.messages import Forward, Stop
from smartbft.types import Parameters

HOUR = 3600 * 1_000_000
LEFT = 10_000  # microseconds until the session lapses: before anybody asks the leader


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(parameters=Parameters(batch_delay=0))
    cluster.submit(TestClient(1).requests(b"first"))
    cluster.run()
    return cluster


def told_to_two(cluster: Cluster, idle: int) -> tuple[Node, Node]:
    """After a time without requests one comes that is about to lapse, to two followers."""
    for node in cluster.nodes:
        node.now += idle
    one, other = cluster.followers[:2]
    late = TestClient(2, session=one.now - cluster.parameters.session_lease + LEFT).requests(b"late")
    one.admit(late)
    other.admit(late)
    return one, other


def timeouts(cluster: Cluster, count: int) -> None:
    for _ in range(count * REQUEST_LOOKS_PER_TIMEOUT):
        for node in cluster.nodes:
            wait(node, cluster.parameters.request_timeout // REQUEST_LOOKS_PER_TIMEOUT)
            for timer in (Timer.PROPOSAL, Timer.FETCH):
                node.fire(timer)
        cluster.run()


def assert_the_leader_stays(cluster: Cluster) -> None:
    assert [node.replica.regency for node in cluster.nodes] == [0] * 4
    assert not [message for _, _, message in cluster.delivered if isinstance(message, Stop)]


def test_what_nobody_can_propose_starts_no_timer(cluster: Cluster) -> None:
    """Idle for longer than a lease: too old for the clocks, and ahead of the agreed time."""
    told_to_two(cluster, 3 * HOUR)
    timeouts(cluster, 6)
    assert_the_leader_stays(cluster)
    cluster.submit(TestClient(3, session=cluster.leader.now).requests(b"next"))
    cluster.run()
    assert [node.pool.ready() for node in cluster.nodes] == [0] * 4, "the next decision ends it"


def test_planted_bug_the_timer_runs_for_what_nobody_can_propose(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Replica, "could_propose", lambda _: True)
    told_to_two(cluster, 3 * HOUR)
    timeouts(cluster, 6)
    assert cluster.leader.replica.regency > 0


def test_a_leader_takes_what_the_next_batch_may_open(cluster: Cluster) -> None:
    """Idle for a minute: with the time after the agreed one the request can be ordered still, so it is."""
    told_to_two(cluster, HOUR // 60)
    timeouts(cluster, 2)
    assert_the_leader_stays(cluster)
    assert [operations(node) for node in cluster.nodes] == [[b"first", b"late"]] * 4


def test_a_request_that_can_be_ordered_is_forwarded_as_ever(cluster: Cluster) -> None:
    one, _ = told_to_two(cluster, 0)
    wait(one, 0)
    wait(one, one.ordering.timeout // 2)
    assert sent(one, Forward)
