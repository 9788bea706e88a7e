"""Checkpoints of replicas whose disks differ: they find together, and the log can be dropped."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from kit.cluster import Cluster, Node
from kit.requests import TestClient

from smartbft._fastpath.pool import join_requests
from smartbft.core.checkpoints import Checkpoints
from smartbft.core.effects import ForgetDecisions, TakeSnapshot
from smartbft.core.inputs import SnapshotSkipped, SnapshotTaken
from smartbft.limits import CHECKPOINTS_PER_MEETING
from smartbft.types import Parameters

INTERVAL = 2
MEETING = CHECKPOINTS_PER_MEETING * INTERVAL
INSTANCES = 3 * MEETING + 8
NEVER = 10**9


def digest(instance: int) -> bytes:
    return instance.to_bytes(32, "big")


def taken(node: Node) -> list[int]:
    return [effect.instance for effect in node.effects if isinstance(effect, TakeSnapshot)]


def forgotten(node: Node) -> int:
    return max((effect.before for effect in node.effects if isinstance(effect, ForgetDecisions)), default=0)


def run(disks: Sequence[int], without_room: Sequence[int] = ()) -> Cluster:
    """Order instances one by one; a snapshot of replica `k` is on its disk `disks[k]` instances after it was taken, but
    for the first one of those that have no room then.
    """
    cluster = Cluster(parameters=Parameters(checkpoint_interval=INTERVAL))
    client = TestClient()
    written = [0] * len(cluster.nodes)
    for instance in range(1, INSTANCES + 1):
        cluster.submit(join_requests([client.request(b"x", sequence=instance)]))
        cluster.run()
        for node, disk in zip(cluster.nodes, disks, strict=True):
            snapshots, count = taken(node), written[node.id]
            if count < len(snapshots) and instance >= snapshots[count] + disk:
                written[node.id] += 1
                if count == 0 and node.id in without_room:
                    node.step(SnapshotSkipped(snapshots[0]))
                else:
                    node.step(SnapshotTaken(snapshots[count], 100, digest(snapshots[count])))
        cluster.run()
    return cluster


def test_a_quick_replica_waits_for_the_others() -> None:
    cluster = run([0, 0, 5, NEVER])  # with the last one silent, all others are needed
    for node in cluster.nodes[:3]:
        assert taken(node) == taken(cluster.nodes[0])
        assert forgotten(node) > INSTANCES - MEETING


def test_who_missed_each_other_meet() -> None:
    """Two have their first snapshot of another instance than the two others, so neither is ever stable."""
    cluster = run([0, 0, 0, 0], without_room=[2, 3])
    assert [taken(node)[:2] for node in cluster.nodes] == 2 * [[2, MEETING]] + 2 * [[2, 4]]
    for node in cluster.nodes:
        assert MEETING in taken(node)
        assert forgotten(node) > INSTANCES - MEETING


def test_equal_disks_take_every_checkpoint() -> None:
    assert taken(run([0, 0, 0, 0]).nodes[0]) == list(range(INTERVAL, INSTANCES + 1, INTERVAL))


def test_planted_bug_nobody_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then what a slow replica has is old, and what the quick ones have it lacks: nothing is ever forgotten."""
    monkeypatch.setattr(Checkpoints, "_is_wanted", lambda *_: True)
    assert forgotten(run([0, 0, 5, NEVER]).nodes[0]) == 0


def test_planted_bug_nobody_meets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartbft.core.checkpoints.CHECKPOINTS_PER_MEETING", NEVER)
    assert forgotten(run([0, 0, 0, 0], without_room=[2, 3]).nodes[0]) == 0
