"""A replica whose disk is slower than those of the others: memory does not fill up with what it has not written."""

from __future__ import annotations

import pytest
from kit.cluster import Cluster, Node
from kit.regencies import operations, pulse
from kit.requests import TestClient

from smartbft.core import delivery
from smartbft.core.delivery import Delivery
from smartbft.core.inputs import Timer
from smartbft.limits import UNEXECUTED_BATCH_BYTES
from smartbft.messages import FetchDecisions
from smartbft.types import Parameters

ROOM = 4  # batches


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(delivery, "MAX_UNLOGGED_BYTES", ROOM * UNEXECUTED_BATCH_BYTES)
    return Cluster(parameters=Parameters(batch_delay=0))


def order(cluster: Cluster, client: TestClient, count: int) -> None:
    for _ in range(count):
        cluster.submit(client.requests(b"x"))
        cluster.run()


def slow_down(cluster: Cluster) -> Node:
    slow = cluster.followers[0]
    slow.disk_blocked = True
    return slow


def resume(node: Node) -> None:
    node.disk_blocked = False
    node.complete_disk()


def test_what_waits_for_the_disk_is_bounded(cluster: Cluster) -> None:
    slow, client = slow_down(cluster), TestClient()
    order(cluster, client, 3 * ROOM)
    assert {node.replica.decided for node in cluster.nodes if node is not slow} == {3 * ROOM}
    assert slow.replica.decided == ROOM
    for _ in range(3):
        pulse(cluster)
    assert slow.replica.decided == ROOM, "what comes by other ways is not taken up either"
    resume(slow)
    for _ in range(3):
        pulse(cluster)
    order(cluster, client, 1)
    assert [node.replica.executed for node in cluster.nodes] == [3 * ROOM + 1] * 4
    assert operations(slow) == operations(cluster.leader)


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


def test_planted_bug_nobody_counts_what_waits_for_the_disk(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Delivery, "full", property(lambda delivery: delivery._unexecuted >= 1 << 30))
    with pytest.raises(AssertionError):
        test_what_waits_for_the_disk_is_bounded(cluster)
