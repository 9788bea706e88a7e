"""A replica whose application is slower than those of the others: memory does not fill up with decided batches."""

from __future__ import annotations

import pytest
from kit.cluster import Cluster, Node
from kit.regencies import operations, pulse
from kit.requests import TestClient

from smartbft.core import delivery
from smartbft.core.inputs import Timer
from smartbft.core.replica import Replica
from smartbft.limits import UNEXECUTED_BATCH_BYTES
from smartbft.messages import Decision, FetchDecisions, Propose
from smartbft.types import Parameters

ROOM = 4  # batches


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(delivery, "MAX_UNEXECUTED_BYTES", ROOM * UNEXECUTED_BATCH_BYTES)
    return Cluster(parameters=Parameters(batch_delay=0))


def order(cluster: Cluster, client: TestClient, count: int) -> None:
    for _ in range(count):
        cluster.submit(client.requests(b"x"))
        cluster.run()


def slow_down(cluster: Cluster) -> Node:
    slow = cluster.followers[0]
    slow.application_blocked = True
    return slow


def resume(node: Node) -> None:
    node.application_blocked = False
    node.complete_application()


def test_what_waits_for_the_application_is_bounded(cluster: Cluster) -> None:
    slow, client = slow_down(cluster), TestClient()
    order(cluster, client, ROOM + 2)
    assert {node.replica.decided for node in cluster.nodes if node is not slow} == {ROOM + 2}
    assert slow.replica.decided == ROOM
    for _ in range(3):
        pulse(cluster)
    assert slow.replica.decided == ROOM, "what comes by other ways is not taken up either"
    resume(slow)
    pulse(cluster)
    order(cluster, client, 1)
    assert [node.replica.executed for node in cluster.nodes] == [ROOM + 3] * 4
    assert operations(slow) == operations(cluster.leader)


def test_planted_bug_everything_is_taken_up(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replica, "may_decide", lambda _: True)
    slow = slow_down(cluster)
    order(cluster, TestClient(), 5 * ROOM)
    assert slow.replica.decided == 5 * ROOM


def test_it_asks_for_nothing_while_there_is_no_room(cluster: Cluster) -> None:
    slow = slow_down(cluster)
    order(cluster, TestClient(), 3 * ROOM)
    slow.outbox.clear()
    for _ in range(5):
        slow.fire(Timer.CATCH_UP)
    assert not [message for _, _, message in slow.outbox if isinstance(message, FetchDecisions)]


def test_the_decision_that_waited_is_made_when_there_is_room(cluster: Cluster) -> None:
    """All its ACCEPTs are here, and nothing more comes."""
    slow = slow_down(cluster)
    order(cluster, TestClient(), ROOM + 1)
    assert slow.replica.decided == ROOM
    cluster.drop_all()
    resume(slow)
    assert slow.replica.executed == ROOM + 1


def test_also_one_that_was_fetched(cluster: Cluster) -> None:
    slow = slow_down(cluster)
    client = TestClient()
    order(cluster, client, ROOM)
    cluster.submit(client.requests(b"x"))
    cluster.run(lambda envelope: slow.id not in envelope[:2] or isinstance(envelope[2], Propose))
    cluster.leader.receive(slow.id, FetchDecisions(0, 0, ROOM + 1, ROOM + 1))
    [(_, _, decision)] = [envelope for envelope in cluster.leader.outbox if isinstance(envelope[2], Decision)]
    slow.receive(cluster.leader.id, decision)
    assert slow.replica.decided == ROOM
    resume(slow)
    assert slow.replica.executed == ROOM + 1


def test_what_the_log_held_does_not_keep_a_replica_from_voting(cluster: Cluster) -> None:
    order(cluster, TestClient(), 2 * ROOM)
    again = Node(0, cluster.view, cluster.parameters, cluster.nodes[0].log)
    assert again.replica.decided == 2 * ROOM
    again = Node(0, cluster.view, cluster.parameters, cluster.nodes[0].log)
    assert again.replica.may_decide()
