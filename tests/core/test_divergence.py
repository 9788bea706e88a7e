"""Checkpoints on which replicas do not agree: what is certain, what is only suspected, and who is told."""

from __future__ import annotations

from typing import Any

import pytest
from kit.checkpoints import found, order, statement
from kit.cluster import Cluster, Node

from smartbft.core import divergence
from smartbft.core.checkpoints import Mark
from smartbft.core.effects import ReportDivergence, TakeSnapshot
from smartbft.core.inputs import SnapshotTaken
from smartbft.errors import StateDiverged
from smartbft.limits import CHECKPOINTS_PER_MEETING
from smartbft.types import Parameters

EVERY_TWO = Parameters(checkpoint_interval=2)
A, B, C, D = (bytes([number]) * 32 for number in range(1, 5))


def with_state(n: int, ours: bytes) -> tuple[Cluster, Node]:
    """Replica 0 of `n` has the state `ours` after instance 2."""
    cluster = Cluster(n, parameters=EVERY_TWO)
    order(cluster, 2)
    node = cluster.nodes[0]
    node.step(SnapshotTaken(2, 100, ours))
    return cluster, node


def hear(node: Node, states: dict[int, bytes]) -> None:
    for member, digest in states.items():
        node.receive(member, statement(node, member, 2, digest))


def reported(node: Node) -> list[tuple[bool, tuple[int, ...]]]:
    """What the operator was told of: whether it is certain, and who differs."""
    return [(one.divergence.certain, one.divergence.differing) for one in found(node, ReportDivergence)]


def status(node: Node) -> dict[str, Any]:
    return node.replica.status()


@pytest.mark.parametrize(
    ("n", "others"),
    [(4, {1: B, 2: C}), (4, {3: C, 1: D}), (7, {1: B, 2: B, 3: C}), (7, {1: A, 2: A, 3: B, 4: B, 5: C, 6: D})],
)
def test_more_than_f_that_differ_make_it_certain(n: int, others: dict[int, bytes]) -> None:
    _, node = with_state(n, A)
    hear(node, others)
    assert reported(node)[-1][0]
    assert [certain for certain, _ in reported(node)].count(True) == 1
    assert status(node)["divergence"]["certain"]
    assert status(node)["divergence"]["instance"] == 2
    waiting = status(node)["waiting_for"]
    assert waiting.startswith("agreement on a checkpoint")
    assert "run 'smartbft check-application'" in waiting
    for digest in {A, *others.values()}:
        assert digest.hex()[:16] in waiting


def test_it_says_whether_any_f_plus_one_agree() -> None:
    _, node = with_state(4, A)
    hear(node, {1: B, 2: C})
    assert "no 2 replicas agree on the state after instance 2" in status(node)["waiting_for"]
    hear(node, {3: A})
    assert "only 2 replicas agree" in status(node)["waiting_for"]
    assert "replicas 0 and 3: 0101" in status(node)["waiting_for"]


@pytest.mark.parametrize(("n", "liars"), [(4, 1), (7, 2), (5, 1), (1, 0)])
def test_what_f_replicas_say_is_only_suspected(n: int, liars: int) -> None:
    """Whatever they say, and how often: no critical line, nothing is waited for, and checkpoints go on."""
    cluster, node = with_state(n, A)
    for digests in ((B, C), (B, C), (C, D)):
        hear(node, dict(zip(range(1, 1 + liars), digests, strict=False)))
    hear(node, dict.fromkeys(range(1 + liars, n), A))
    assert reported(node) == [(False, tuple(range(1, 2 + number))) for number in range(liars)]
    assert status(node)["waiting_for"] == ""
    assert (status(node)["divergence"] is not None) == bool(liars)
    order(cluster, 2, first=3)
    assert [effect.instance for effect in found(node, TakeSnapshot)] == [2, 4]


def test_planted_bug_one_liar_is_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence.Divergence, "certain", property(lambda found: bool(found.differing)))
    with pytest.raises(AssertionError):
        test_what_f_replicas_say_is_only_suspected(4, 1)


def test_planted_bug_only_an_agreement_of_others_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is outvoted where all differ."""
    monkeypatch.setattr(
        divergence.Divergence,
        "certain",
        property(lambda found: any(len(members) > found.f for members in list(found.groups().values())[1:])),
    )
    with pytest.raises(AssertionError):
        test_more_than_f_that_differ_make_it_certain(4, {1: B, 2: C})


def test_whoever_is_outvoted_stops_and_names_the_tool() -> None:
    _, node = with_state(4, A)
    hear(node, {1: B})
    with pytest.raises(StateDiverged, match="run 'smartbft check-application'"):
        hear(node, {2: B})


def test_the_last_state_that_was_agreed_on_is_kept() -> None:
    """No later snapshot pushes it out, not even where replicas meet that have waited for long."""
    cluster = Cluster(parameters=EVERY_TWO)
    node = cluster.nodes[0]
    order(cluster, 2)
    hear(node, {1: A, 2: A})
    node.step(SnapshotTaken(2, 100, A))
    order(cluster, 2, first=3)
    node.step(SnapshotTaken(4, 100, B))
    for member, digest in ((1, C), (2, D)):
        node.receive(member, statement(node, member, 4, digest))
    order(cluster, 4 * CHECKPOINTS_PER_MEETING, first=5)
    assert [effect.instance for effect in found(node, TakeSnapshot)] == [2, 4]
    assert [mark.instance for mark in node.replica.checkpoints.taken] == [2, 4]
    assert status(node)["divergence"]["certain"]


def test_a_member_that_has_its_state_from_others_is_believed_again() -> None:
    """It stopped, lost its data and came back: its last word counts, and nothing is held against it."""
    cluster, node = with_state(4, A)
    hear(node, {1: A, 2: B, 3: C})
    assert status(node)["divergence"]["certain"]
    hear(node, {2: A, 3: A})
    assert node.penalties() == []
    assert status(node)["divergence"] is None
    assert status(node)["waiting_for"] == ""
    order(cluster, 2, first=3)
    assert [effect.instance for effect in found(node, TakeSnapshot)] == [2, 4]


def test_a_divergence_is_over_with_a_later_state_that_a_quorum_has() -> None:
    cluster, node = with_state(4, A)
    hear(node, {1: A, 2: A, 3: B})
    assert reported(node) == [(False, (3,))]
    order(cluster, 2, first=3)
    node.step(SnapshotTaken(4, 100, A))
    assert status(node)["divergence"]["instance"] == 2
    for member in (1, 2, 3):
        node.receive(member, statement(node, member, 4, A))
    assert status(node)["divergence"] is None


def test_a_restart_finds_it_again() -> None:
    """What others say is repeated to a new connection, and compared with what is on disk."""
    cluster, _ = with_state(4, A)
    node = Node(0, cluster.view, EVERY_TWO)
    node.replica.checkpoints.recovered([Mark(2, 100, A)], 1)
    hear(node, {1: B, 2: C})
    assert status(node)["divergence"]["certain"]
