"""Checkpoints: when they are taken, whom they convince, what is forgotten and what is not."""

from __future__ import annotations

from typing import Any

import pytest
from kit.checkpoints import DIGEST, found, order, statement
from kit.cluster import Cluster, Node

from smartbft.core.checkpoints import Mark
from smartbft.core.effects import Broadcast, ForgetDecisions, Persist, Send, TakeSnapshot
from smartbft.core.inputs import SnapshotSkipped, SnapshotTaken
from smartbft.core.records import REGENCY, SYNC, VALUE
from smartbft.core.recovery import recover
from smartbft.errors import CorruptLog, StateDiverged, UnknownKey
from smartbft.limits import CHECKPOINTS_PER_MEMBER, FETCHING_RESENDS, MOST_SNAPSHOTS_KEPT
from smartbft.messages import Checkpoint, Decision, FetchChunk, FetchDecisions, Gone
from smartbft.snapshots import FoundSnapshots, Manifest, Snapshot
from smartbft.types import Parameters

EVERY_TWO = Parameters(checkpoint_interval=2)
OTHER = bytes(range(1, 33))


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(parameters=EVERY_TWO)


# --- taking ---


def test_checkpoints_are_taken_at_the_same_instances(cluster: Cluster) -> None:
    order(cluster, 5)
    for node in cluster.nodes:
        taken = found(node, TakeSnapshot)
        # The second is left out while the first is being written.
        assert [effect.instance for effect in taken] == [2]
        node.step(SnapshotTaken(2, 100, DIGEST))
    assert len({found(node, TakeSnapshot)[0].sessions.export() for node in cluster.nodes}) == 1
    order(cluster, 1, first=6)
    assert [effect.instance for effect in found(cluster.nodes[0], TakeSnapshot)] == [2, 6]


def test_what_comes_after_a_checkpoint_waits_for_its_capture(cluster: Cluster) -> None:
    node = cluster.followers[0]
    order(cluster, 1)
    node.application_blocked = True
    order(cluster, 3, first=2)
    # Instances 3 and 4 are decided, but not handed over before the application is captured after 2.
    assert [execute.instance for execute in node.executed] == [1, 2]
    node.application_blocked = False
    node.complete_application()
    order_of = [
        type(effect).__name__ + str(effect.instance)
        for effect in node.effects
        if hasattr(effect, "timestamp") or isinstance(effect, TakeSnapshot)
    ]
    assert order_of == ["Execute1", "Execute2", "TakeSnapshot2", "Execute3", "Execute4"]


def test_a_snapshot_without_room_is_left_out(cluster: Cluster) -> None:
    order(cluster, 2)
    node = cluster.nodes[0]
    node.step(SnapshotSkipped(2))
    order(cluster, 2, first=3)
    assert [effect.instance for effect in found(node, TakeSnapshot)] == [2, 4]


# --- saying ---


def test_a_checkpoint_is_signed_once_it_is_durable(cluster: Cluster) -> None:
    order(cluster, 2)
    node = cluster.nodes[0]
    assert not [effect for effect in found(node, Broadcast) if isinstance(effect.message, Checkpoint)]
    node.step(SnapshotTaken(2, 100, DIGEST))
    assert found(node, Broadcast)[-1].message == statement(node, 0, 2)


@pytest.mark.parametrize(
    "forged",
    [
        lambda node: statement(node, 1, 2),
        lambda node: Checkpoint(0, 0, 4, 100, DIGEST, statement(node, 2, 2).signature),
        lambda node: Checkpoint(0, 0, 2, 101, DIGEST, statement(node, 2, 2).signature),
        lambda node: Checkpoint(0, 0, 2, 100, OTHER, statement(node, 2, 2).signature),
    ],
)
def test_a_forged_checkpoint_is_refused(cluster: Cluster, forged: Any) -> None:
    cluster.nodes[0].replica.keys.known = 10  # it knows the keys that are in force there
    with pytest.raises(UnknownKey, match="bad signature"):  # its sender may have a new key that is not known here
        cluster.nodes[0].receive(2, forged(cluster.nodes[0]))


def test_what_is_kept_of_a_member_is_bounded(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    for instance in range(1, 50):
        node.receive(2, statement(node, 2, instance))
    assert len(node.replica.checkpoints._heard[2]) == CHECKPOINTS_PER_MEMBER
    # It cannot push out what others said.
    node.receive(1, statement(node, 1, 3))
    assert list(node.replica.checkpoints._heard[1]) == [3]


# --- convincing ---


def test_f_plus_one_others_make_a_snapshot_worth_fetching(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.receive(1, statement(node, 1, 4))
    node.receive(2, statement(node, 2, 4, OTHER))
    node.receive(1, statement(node, 1, 4))
    assert node.replica.checkpoints.trusted(0) == []
    node.receive(3, statement(node, 3, 4))
    (trusted,) = node.replica.checkpoints.trusted(0)
    assert trusted.mark == Mark(4, 100, DIGEST)
    assert trusted.signers == (1, 3)
    assert node.replica.checkpoints.trusted(4) == []


@pytest.mark.parametrize("ours_first", [True, False])
def test_a_replica_that_has_diverged_stops_and_says_what_differs(cluster: Cluster, ours_first: bool) -> None:
    order(cluster, 2)
    node = cluster.nodes[0]
    if ours_first:
        node.step(SnapshotTaken(2, 100, OTHER))
    node.receive(1, statement(node, 1, 2))
    if not ours_first:
        node.receive(3, statement(node, 3, 2))
    with pytest.raises(StateDiverged) as stopped:
        node.receive(3, statement(node, 3, 2)) if ours_first else node.step(SnapshotTaken(2, 100, OTHER))
    assert stopped.value.instance == 2
    assert "replicas 1 and 3" in str(stopped.value)
    assert (stopped.value.ours, stopped.value.theirs) == (OTHER, DIGEST)
    assert OTHER.hex() in str(stopped.value)
    assert DIGEST.hex() in str(stopped.value)


def test_one_liar_stops_nobody(cluster: Cluster) -> None:
    order(cluster, 2)
    node = cluster.nodes[0]
    node.step(SnapshotTaken(2, 100, OTHER))
    node.receive(1, statement(node, 1, 2))
    node.receive(1, statement(node, 1, 2))
    order(cluster, 1, first=3)
    assert node.replica.executed == 3


# --- forgetting ---


def with_two_snapshots(cluster: Cluster, others: tuple[int, ...]) -> Node:
    """Replica 0 has snapshots of 2 and 4, and so have `others`."""
    node = cluster.nodes[0]
    order(cluster, 2)
    node.step(SnapshotTaken(2, 100, DIGEST))
    order(cluster, 2, first=3)
    for other in others:
        node.receive(other, statement(node, other, 4, OTHER))
    node.step(SnapshotTaken(4, 100, OTHER))
    return node


def test_the_log_before_the_previous_checkpoint_goes_when_the_newest_is_stable(cluster: Cluster) -> None:
    node = with_two_snapshots(cluster, (1,))
    assert found(node, ForgetDecisions) == []
    node.receive(2, statement(node, 2, 4, OTHER))
    assert found(node, ForgetDecisions) == [ForgetDecisions(3)]
    node.receive(3, statement(node, 3, 4, OTHER))
    assert found(node, ForgetDecisions) == [ForgetDecisions(3)]


def test_who_asks_for_what_is_gone_is_told(cluster: Cluster) -> None:
    node = with_two_snapshots(cluster, (1, 2))
    node.receive(3, FetchDecisions(0, 0, 1, 4))
    (answer,) = [effect for effect in found(node, Send) if isinstance(effect.message, Gone)]
    assert (answer.to, answer.message.first) == (3, 3)
    node.receive(3, FetchDecisions(0, 0, 3, 4))
    assert [e.message.instance for e in found(node, Send) if isinstance(e.message, Decision)][-2:] == [3, 4]


def more_checkpoints(cluster: Cluster, node: Node, instances: range) -> None:
    """Replica 0 takes these, and so do the others."""
    for instance in instances:
        order(cluster, 2, first=instance - 1)
        for other in (1, 2):
            node.receive(other, statement(node, other, instance))
        node.step(SnapshotTaken(instance, 100, DIGEST))


def test_what_is_being_fetched_is_kept_with_the_log_after_it(cluster: Cluster) -> None:
    node = with_two_snapshots(cluster, (1, 2))
    node.receive(3, FetchChunk(0, 0, 2, DIGEST, 0))
    more_checkpoints(cluster, node, range(6, 11, 2))
    assert [mark.instance for mark in node.replica.checkpoints.taken] == [2, 8, 10]
    assert found(node, TakeSnapshot)[-1].keep == (2,)
    assert found(node, ForgetDecisions) == [ForgetDecisions(3)]
    node.now += FETCHING_RESENDS * cluster.parameters.resend_interval + 1
    more_checkpoints(cluster, node, range(12, 13, 2))
    assert [mark.instance for mark in node.replica.checkpoints.taken] == [10, 12]
    assert found(node, ForgetDecisions)[-1] == ForgetDecisions(11)


def test_nobody_makes_the_log_grow_for_ever(cluster: Cluster) -> None:
    node = with_two_snapshots(cluster, (1, 2))
    for instance in range(6, 2 * MOST_SNAPSHOTS_KEPT + 7, 2):
        node.receive(3, FetchChunk(0, 0, 2, DIGEST, 0))
        more_checkpoints(cluster, node, range(instance, instance + 1, 2))
    assert len(node.replica.checkpoints.taken) == 2
    assert found(node, ForgetDecisions)[-1].before > 2 * MOST_SNAPSHOTS_KEPT


def changed_regency(cluster: Cluster) -> None:
    """Everybody suspects the leader."""
    for node in cluster.nodes:
        node.ordering.suspect(b"")
        node.step(SnapshotSkipped(0))  # hands over what the ordering asked for
    cluster.run()


def test_the_installed_regency_is_durable_again_before_the_log_goes(cluster: Cluster) -> None:
    changed_regency(cluster)
    assert [node.replica.regency for node in cluster.nodes] == [1] * 4
    node = cluster.nodes[0]
    order(cluster, 2)
    node.step(SnapshotTaken(2, 100, DIGEST))
    order(cluster, 2, first=3)
    node.step(SnapshotTaken(4, 100, OTHER))
    node.disk_blocked = True
    for other in (1, 2):
        node.receive(other, statement(node, other, 4, OTHER))
    again = found(node, Persist)[-1]
    assert [record.kind for record in again.records] == [REGENCY, SYNC]
    assert found(node, ForgetDecisions) == []
    node.disk_blocked = False
    node.complete_disk()
    assert found(node, ForgetDecisions) == [ForgetDecisions(3)]
    # What is left of the log tells the same regency, with the snapshot that covers the rest.
    rest = [(r.kind, r.instance, b"".join(r.parts)) for r in node.log if r.instance >= 3]
    state = recover(rest, node.domains, snapshots_of(2))
    assert state.stop_data is not None
    assert state.sync is not None
    assert state.stop_data.regency == 1
    assert (state.base, state.first, [decided.instance for decided in state.decisions]) == (2, 4, [3, 4])


def snapshots_of(instance: int) -> FoundSnapshots:
    snapshot = Snapshot(0, instance, 1, DIGEST, b"", bytes(4), b"")
    return FoundSnapshots([Manifest(instance, DIGEST, 100, DIGEST, b"")], snapshot)


def test_without_the_repetition_the_regency_would_be_lost(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """This suite can fail."""
    from smartbft.protocols.mod_smart import ModSmart

    monkeypatch.setattr(ModSmart, "standing_records", lambda ordering: ())
    with pytest.raises((AssertionError, IndexError)):
        test_the_installed_regency_is_durable_again_before_the_log_goes(cluster)


# --- recovery ---


def records_of(node: Node) -> list[tuple[int, int, bytes]]:
    return [(record.kind, record.instance, b"".join(record.parts)) for record in node.log]


def test_only_what_follows_the_snapshot_is_recovered(cluster: Cluster) -> None:
    order(cluster, 5)
    node = cluster.nodes[0]
    state = recover(records_of(node), node.domains, snapshots_of(3))
    assert (state.base, [decided.instance for decided in state.decisions]) == (3, [4, 5])
    assert state.first == 1
    beyond = recover(records_of(node), node.domains, snapshots_of(9))
    assert (beyond.decisions, beyond.first) == ([], 10), "nobody is promised what lies between the log and the snapshot"


def test_a_decision_whose_value_was_in_a_dropped_segment_is_not_served(cluster: Cluster) -> None:
    """Found by the simulator (1667 of the attacks on n = 7): segments end between a value and its decision, too."""
    order(cluster, 5)
    node = cluster.nodes[0]
    whole = records_of(node)
    cut = next(index for index, (kind, _, _) in enumerate(whole) if kind == VALUE) + 1
    assert recover(whole[cut:], node.domains, snapshots_of(3)).first == 2
    assert recover(whole, node.domains, snapshots_of(3)).first == 1


def test_a_log_that_begins_after_the_snapshot_is_refused(cluster: Cluster) -> None:
    order(cluster, 5)
    node = cluster.nodes[0]
    rest = [record for record in records_of(node) if record[1] >= 4]
    assert [decided.instance for decided in recover(rest, node.domains, snapshots_of(3)).decisions] == [4, 5]
    for snapshots in (snapshots_of(2), FoundSnapshots()):
        with pytest.raises(CorruptLog, match="is next"):
            recover(rest, node.domains, snapshots)
