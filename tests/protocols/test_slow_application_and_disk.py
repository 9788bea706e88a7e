"""A replica whose application or disk is slower than those of the others: memory does not fill up with batches that it
has decided and not executed, or not written.
"""

from __future__ import annotations

import pytest
from kit.cluster import Cluster, Node
from kit.regencies import operations, pulse
from kit.requests import TestClient

from smartbft.core import delivery
from smartbft.core.delivery import Delivery
from smartbft.core.inputs import Timer
from smartbft.core.replica import Replica
from smartbft.limits import UNEXECUTED_BATCH_BYTES
from smartbft.messages import Decision, FetchDecisions, Propose
from smartbft.types import Parameters

ROOM = 4  # batches


APPLICATION = "application"
DISK = "disk"
# What is slow, and the bound of what waits for it.
BOUNDS = {APPLICATION: "MAX_UNEXECUTED_BYTES", DISK: "MAX_UNLOGGED_BYTES"}


@pytest.fixture(params=[APPLICATION, DISK])
def part(request: pytest.FixtureRequest) -> str:
    """What is slow."""
    name: str = request.param
    return name


@pytest.fixture
def cluster(part: str, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    monkeypatch.setattr(delivery, BOUNDS[part], ROOM * UNEXECUTED_BATCH_BYTES)
    return Cluster(parameters=Parameters(batch_delay=0))


def order(cluster: Cluster, client: TestClient, count: int) -> None:
    for _ in range(count):
        cluster.submit(client.requests(b"x"))
        cluster.run()


def slow_down(cluster: Cluster, part: str) -> Node:
    slow = cluster.followers[0]
    slow.application_blocked, slow.disk_blocked = part == APPLICATION, part == DISK
    return slow


def resume(node: Node) -> None:
    node.application_blocked = node.disk_blocked = False
    node.complete_disk()
    node.complete_application()


def test_what_waits_is_bounded(cluster: Cluster, part: str) -> None:
    slow, client = slow_down(cluster, part), TestClient()
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


def test_planted_bug_everything_is_taken_up(cluster: Cluster, part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Replica, "may_decide", lambda _: True)
    slow = slow_down(cluster, part)
    order(cluster, TestClient(), 5 * ROOM)
    assert slow.replica.decided == 5 * ROOM


@pytest.mark.parametrize("part", [DISK], indirect=True)
def test_planted_bug_nobody_counts_what_waits_for_the_disk(
    cluster: Cluster, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Delivery, "full", property(lambda delivery: delivery._unexecuted >= 1 << 30))
    with pytest.raises(AssertionError):
        test_what_waits_is_bounded(cluster, part)


def test_it_asks_for_nothing_while_there_is_no_room(cluster: Cluster, part: str) -> None:
    slow = slow_down(cluster, part)
    order(cluster, TestClient(), 3 * ROOM)
    slow.outbox.clear()
    for _ in range(5):
        slow.fire(Timer.CATCH_UP)
    assert not [message for _, _, message in slow.outbox if isinstance(message, FetchDecisions)]


def test_the_decision_that_waited_is_made_when_there_is_room(cluster: Cluster, part: str) -> None:
    """All its ACCEPTs are here, and nothing more comes."""
    slow = slow_down(cluster, part)
    order(cluster, TestClient(), ROOM + 1)
    assert slow.replica.decided == ROOM
    cluster.drop_all()
    resume(slow)
    assert slow.replica.executed == ROOM + 1


def test_also_one_that_was_fetched(cluster: Cluster, part: str) -> None:
    slow = slow_down(cluster, part)
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
