"""The 'why' of each rule of protocols.md, section 3: the scenario that the rule is there for, played once."""

from __future__ import annotations

import pytest
from kit.cluster import Cluster
from kit.regencies import (
    NEW,
    OLD,
    accept,
    accepted_by_all,
    install,
    operations,
    proof,
    pulse,
    sent,
    sent_to,
    stop_data,
    without,
)
from kit.requests import TestClient

from smartbft.messages import Accept, Propose, Sync, Write

# Section 3


def executed_without_the_old_leader(cluster: Cluster) -> list[list[bytes]]:
    """The others install regency 1 and have six resend intervals: what has each of them executed then?"""
    install(cluster)
    cluster.run(without(OLD))
    for _ in range(6):
        pulse(cluster, without(OLD), (OLD,))
    return [operations(node) for node in cluster.nodes if node.id != OLD]


def test_why_the_bytes_of_a_value_are_on_disk_before_its_write_leaves(cluster: Cluster) -> None:
    """After a full crash a digest may bind whose bytes nobody has: clients are gone, pools are empty."""
    data = TestClient().requests(b"a")
    accepted_by_all(cluster, data)
    for id in range(4):
        cluster.restart(id)
    cluster.drop_all()
    assert {node.pool.stats()["pending"] for node in cluster.nodes} == {0}
    assert executed_without_the_old_leader(cluster) == [[b"a"]] * 3


def test_why_a_new_leader_without_the_bytes_asks_for_them(cluster: Cluster) -> None:
    """The value binds, and the new leader never saw it."""
    data = TestClient().requests(b"a")
    cluster.submit(data, to=[0, 1, 3])
    cluster.run(lambda envelope: NEW not in envelope[:2] and not isinstance(envelope[2], Accept))
    cluster.drop_all()
    assert executed_without_the_old_leader(cluster) == [[b"a"]] * 3


def test_why_a_decision_is_on_disk_before_the_next_vote_leaves(cluster: Cluster) -> None:
    """Else two replicas that crash forget a decided instance and vote in it again."""
    client = TestClient()
    node = cluster.nodes[0]
    cluster.submit(client.requests(b"a"))
    cluster.run(lambda envelope: not (isinstance(envelope[2], Accept) and envelope[1] == 0))
    cluster.drop_all()
    node.disk_blocked = True
    cluster.submit(client.requests(b"b"))
    [propose] = sent_to(cluster.leader, 0, Propose)
    digest = node.ordering.current.digest
    for sender in (1, 2, 3):
        node.receive(sender, accept(sender, 0, 1, digest))
    assert node.replica.decided == 1
    node.receive(OLD, propose)
    assert not [message for message in sent(node, Write) if message.instance == 2]
    kinds = [record.instance for write in node.unsynced for record in write.records]
    assert kinds == sorted(kinds)  # the decision of 1, then the vote in 2
    node.disk_blocked = False
    node.complete_disk()
    assert [message for message in sent(node, Write) if message.instance == 2]


@pytest.mark.parametrize("lost", range(4))
def test_why_an_accepted_value_is_settled_by_collects_and_never_discarded(lost: int) -> None:
    """Three replicas have accepted and one has decided; all crash, and the one that decided stays away."""
    cluster = Cluster()
    data = TestClient().requests(b"a")
    cluster.submit(data)
    cluster.run(lambda envelope: not isinstance(envelope[2], Accept) or envelope[1] == lost)
    assert [node.replica.decided for node in cluster.nodes].count(1) == 1
    others = [id for id in range(4) if id != lost]
    for id in others:
        cluster.restart(id)
    cluster.drop_all()
    install(cluster, 3, others)  # led by replica 0, which is there unless it is the lost one
    if lost == 0:
        install(cluster, 4, others)
    cluster.run(without(lost))
    for _ in range(4):
        pulse(cluster, without(lost), (lost,))
    assert [operations(cluster.nodes[id]) for id in others] == [[b"a"]] * 3


def test_why_a_proof_makes_a_claim(cluster: Cluster) -> None:
    """STOPDATA that claims decisions costs the one who makes it up his word, and nobody else anything."""
    install(cluster, 1, [NEW])
    leader = cluster.nodes[NEW]
    made_up = stop_data(0, instance=2, last=proof(0, 1, bytes(32), (0, 1)))
    with pytest.raises(Exception, match="2 signatures; 3 are needed"):
        leader.receive(0, made_up)
    for signer in (1, 3):
        leader.receive(signer, stop_data(signer))
    assert sent(leader, Sync)
