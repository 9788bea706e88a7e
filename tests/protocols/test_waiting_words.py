"""What a replica says it waits for, and from whom, at every step that can stall."""

from __future__ import annotations

import pytest
from kit.cluster import Cluster
from kit.regencies import second_timeout, sent, stop_data, wait
from kit.requests import TestClient

from smartbft.core.inputs import Timer
from smartbft.messages import Accept, Progress, Propose, Stop, Write

LEADER, NEW = 1, 2


def words(cluster: Cluster, replica: int) -> str:
    return str(cluster.nodes[replica].replica.status()["waiting_for"])


def test_an_idle_replica_waits_for_nothing() -> None:
    cluster = Cluster()
    assert [words(cluster, replica) for replica in range(4)] == [""] * 4


def test_the_proposal_of_a_silent_leader() -> None:
    cluster = Cluster()
    cluster.nodes[0].admit(TestClient().requests(b"a"))
    assert words(cluster, 0) == "the proposal of instance 1 from its leader, replica 1"


@pytest.mark.parametrize(
    ("passing", "expected"),
    [
        ((Propose,), "WRITE of instance 1 from 2 of replicas 1, 2 and 3"),
        ((Propose, Write), "ACCEPT of instance 1 from 2 of replicas 1, 2 and 3"),
        ((Propose, Write, Accept), ""),
    ],
)
def test_votes(passing: tuple[type, ...], expected: str) -> None:
    cluster = Cluster()
    for node in cluster.nodes:
        node.admit(TestClient().requests(b"a"))
    cluster.run(lambda envelope: isinstance(envelope[2], passing))
    assert words(cluster, 0) == expected


def test_a_regency_change() -> None:
    cluster = Cluster()
    node = cluster.nodes[0]
    node.admit(TestClient().requests(b"a"))
    second_timeout(node)
    assert sent(node, Stop)
    assert words(cluster, 0) == "STOP for regency 1 from 2 of replicas 1, 2 and 3"
    for sender in (1, 3):
        node.receive(sender, Stop(0, 0, 1, b""))
    assert words(cluster, 0) == "the SYNC of regency 1 from its leader, replica 2"
    changes = node.replica.changes
    assert changes.count == 0
    new = cluster.nodes[NEW]
    for sender in (1, 3):
        new.receive(sender, Stop(0, 0, 1, b""))
    new.receive(0, Stop(0, 0, 1, b""))
    assert words(cluster, NEW) == "STOPDATA of regency 1 from 2 of replicas 0, 1 and 3"
    for sender in (0, 3):
        new.receive(sender, stop_data(sender))
    assert words(cluster, NEW) == ""
    assert new.replica.changes.last is not None
    assert new.replica.changes.last.reason == "replicas 1 and 3 asked for regency 1"


def test_a_replica_whose_suspicion_was_heard_says_why() -> None:
    cluster = Cluster()
    for id in (0, 2, 3):
        cluster.nodes[id].admit(TestClient().requests(b"a"))
        second_timeout(cluster.nodes[id])
    cluster.run()
    last = cluster.nodes[0].replica.changes.last
    assert last is not None
    assert (last.before, last.after, last.leader_before, last.leader_after) == (0, 1, LEADER, NEW)
    assert last.reason == "requests were not ordered within 2 s"


def test_missing_decisions() -> None:
    cluster = Cluster()
    node = cluster.nodes[0]
    node.receive(2, Progress(0, 0, 7))
    node.receive(3, Progress(0, 0, 5))
    assert words(cluster, 0) == "decisions 1 to 7 from replicas 2 and 3"
    wait(node, 0)
    node.fire(Timer.CATCH_UP)
    assert words(cluster, 0) == "decisions 1 to 7 from replicas 2 and 3"


def test_an_application_that_is_slow() -> None:
    cluster = Cluster()
    cluster.nodes[0].application_blocked = True
    for node in cluster.nodes:
        node.admit(TestClient().requests(b"a"))
    cluster.run()
    assert words(cluster, 0) == "the application, which executes instance 1 of 1"
