"""Votes of regencies that are over, for the instance that runs: whatever a member sends, little of it is kept, and no
batch takes longer for it.
"""

from __future__ import annotations

import pytest
from kit.cluster import Cluster, Node
from kit.regencies import install, operations, sent, value_of
from kit.requests import TestClient
from kit.statements import DOMAINS, V, accept

from smartbft.core.inputs import MessageReceived
from smartbft.limits import MAX_OLD_VOTES_PER_MEMBER
from smartbft.messages import Decision, ProposedValue, Write
from smartbft.protocols.vp_consensus import VPConsensus

LIAR = 3
REGENCY = 1_000


def kept(node: Node) -> int:
    """The most that is kept of votes: what each batch walks over."""
    current = node.ordering.current
    return max(len(current._voters), len(current._writes), len(current._accepts))


def flooded() -> Node:
    """A liar has voted in each of many regencies that are over."""
    cluster = Cluster()
    install(cluster, REGENCY)
    node = cluster.nodes[0]
    for regency in range(REGENCY):
        for vote in (Write(0, regency, 1, V), accept(LIAR, regency)):
            node.replica.step(MessageReceived(node.validator.validate(LIAR, vote)), node.now)
    return node


def test_a_liar_fills_a_small_share_of_its_own() -> None:
    node = flooded()
    assert kept(node) == 2 * MAX_OLD_VOTES_PER_MEMBER
    for sender in (1, 2):
        for regency in (0, 5, 900):
            node.receive(sender, accept(sender, regency))
    assert kept(node) == 2 * MAX_OLD_VOTES_PER_MEMBER + 2 * 3, "nobody is pushed out by it"


def test_planted_bug_votes_of_old_regencies_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VPConsensus, "_forget_old_votes", lambda *_: None)
    assert kept(flooded()) == 2 * REGENCY


def test_regencies_that_fail_one_after_the_other_leave_little() -> None:
    """Everybody votes in each of them, and each fails."""
    cluster = Cluster()
    node = cluster.nodes[0]
    for regency in range(40):
        for sender in (1, 2, 3):
            node.receive(sender, Write(0, regency, 1, bytes([regency, sender]) * 16))
            node.receive(sender, accept(sender, regency, 1, bytes([regency, sender]) * 16))
        install(cluster, regency + 1, [0])
    assert kept(node) == 3 * 2 * MAX_OLD_VOTES_PER_MEMBER


def test_a_quorum_of_an_old_regency_waits_for_its_value_however_old_it_is() -> None:
    cluster = Cluster()
    node, data = cluster.nodes[0], TestClient().requests(b"x")
    value = value_of(data)
    digest = DOMAINS.value_digest(value)
    install(cluster, 1, [0])
    for sender in (1, 2, 3):
        node.receive(sender, accept(sender, 0, 1, digest))
    for regency in range(1, 20):
        for sender in (1, 2, 3):
            node.receive(sender, accept(sender, regency, 1, V[::-1] if sender == LIAR else bytes(32)))
        install(cluster, regency + 1, [0])
    node.admit(data)
    node.receive(1, ProposedValue(0, 20, 1, value))
    assert operations(node) == [b"x"]


def test_an_accept_that_comes_late_still_decides() -> None:
    cluster = Cluster()
    node, data = cluster.nodes[0], TestClient().requests(b"x")
    digest = DOMAINS.value_digest(value_of(data))
    for sender in (1, 2):
        node.receive(sender, accept(sender, 0, 1, digest))
    install(cluster, REGENCY, [0])
    node.admit(data)
    node.receive(3, accept(3, 0, 1, digest))
    node.receive(1, ProposedValue(0, REGENCY, 1, value_of(data)))
    assert operations(node) == [b"x"]


def test_of_what_was_said_the_newest_accept_alone_is_said_again() -> None:
    consensus = flooded().ordering.current
    accepts = [accept(0, regency) for regency in range(REGENCY)]
    consensus._sent = [(0, vote) for own in accepts for vote in (Write(0, own.regency, 1, V), own)]
    consensus.accepted = (REGENCY - 1, V)
    consensus.enter(REGENCY + 1)
    assert consensus.sent_messages() == accepts[-1:]


def test_a_vote_of_a_later_regency_for_what_is_decided_is_answered_and_not_kept() -> None:
    cluster = Cluster()
    cluster.submit(TestClient().requests(b"x"))
    cluster.run()
    install(cluster, REGENCY)
    node = cluster.nodes[0]
    node.outbox.clear()
    for regency in range(1, REGENCY):
        node.receive(LIAR, Write(0, regency, 1, V))
    assert len(sent(node, Decision)) == 1
    assert node.ordering.previous is not None
    assert len(node.ordering.previous._voters) <= 8
