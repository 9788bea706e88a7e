"""The start of a replica: it asks before it promises anything (protocols.md section 3)."""

from __future__ import annotations

import dataclasses

import pytest
from kit.cluster import Cluster, Node, secret
from kit.requests import TestClient

from smartbft.core import taking_part
from smartbft.core.effects import Penalise
from smartbft.core.inputs import Timer
from smartbft.core.records import ACCEPT, DECISION, REGENCY, VALUE
from smartbft.core.recovery import RecoveredState
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.messages import Accept, FetchStanding, Message, Propose, Standing, Stop, StopData, Vote, Write
from smartbft.types import Parameters

VOTES = (Propose, Write, Accept, StopData)


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(parameters=Parameters(batch_delay=0))
    cluster.submit(TestClient().requests(b"first"))
    cluster.run()
    return cluster


def restarted(cluster: Cluster, id: int = 0) -> Node:
    """A new life of a replica that nobody has answered yet."""
    node = cluster.nodes[id] = Node(id, cluster.view, cluster.parameters, cluster.nodes[id].log)
    return node


def answer(node: Node, cluster: Cluster, peer: int, **changes: object) -> None:
    """What `peer` answers to the node, with `changes`."""
    question = next(m for _, _, m in node.outbox if isinstance(m, FetchStanding))
    other = cluster.nodes[peer]
    other.receive(node.id, question)
    standing = next(m for _, to, m in reversed(other.outbox) if isinstance(m, Standing) and to == node.id)
    fields = {name: getattr(standing, name) for name in standing.__struct_fields__}
    node.receive(peer, Standing(**{**fields, **changes}))


def votes(node: Node) -> list[Message]:
    return [message for _, _, message in node.outbox if isinstance(message, VOTES)]


def test_nothing_binds_before_enough_have_answered(cluster: Cluster) -> None:
    node = restarted(cluster, cluster.leader.id)
    node.admit(TestClient(2).requests(b"second"))
    answer(node, cluster, (node.id + 1) % 4)
    assert not votes(node)
    assert "standing of 1" in str(node.replica.status()["waiting_for"])
    answer(node, cluster, (node.id + 2) % 4)
    assert {type(vote) for vote in votes(node)} == {Propose, Write}


def test_an_answer_to_the_question_of_an_earlier_life_does_not_count(cluster: Cluster) -> None:
    node = restarted(cluster)
    answer(node, cluster, 1, token=1)
    answer(node, cluster, 2, token=1)
    assert not node.replica.status()["takes_part"]


def test_the_same_replica_counts_once(cluster: Cluster) -> None:
    node = restarted(cluster)
    answer(node, cluster, 1)
    answer(node, cluster, 1)
    assert not node.replica.status()["takes_part"]


def test_the_question_is_repeated(cluster: Cluster) -> None:
    node = restarted(cluster)
    node.outbox.clear()
    node.fire(Timer.RESEND)
    assert [to for _, to, m in node.outbox if isinstance(m, FetchStanding)] == [1, 2, 3]


def test_it_first_decides_what_others_have_proven(cluster: Cluster) -> None:
    lost = cluster.nodes[0].log[:]
    cluster.submit(TestClient(2).requests(b"second"))
    cluster.run()
    cluster.nodes[0].log = lost
    node = restarted(cluster)
    answer(node, cluster, 1, vote=None, accept=None)
    answer(node, cluster, 2, vote=None, accept=None)
    assert not node.replica.status()["takes_part"]
    for _ in range(3):
        node.fire(Timer.CATCH_UP)
        cluster.run(lambda envelope: not isinstance(envelope[2], (FetchStanding, Standing)))
    assert node.replica.decided == 2
    assert node.replica.status()["takes_part"]


def test_a_replica_without_its_votes_learns_and_serves_and_never_votes(cluster: Cluster) -> None:
    node = learner(cluster, 0)
    for number in (2, 3):
        cluster.submit(TestClient(number).requests(b"more"))
        cluster.run()
        for timer in (Timer.CATCH_UP, Timer.RESEND, Timer.REQUEST):
            node.fire(timer)
        cluster.run()
    assert node.replica.decided == node.replica.executed == 3
    assert node.replica.status()["learns"] == taking_part.LOST_VOTES
    assert not [m for sender, _, m in cluster.delivered if sender == 0 and isinstance(m, VOTES) and m.instance > 1]
    assert {record.kind for record in node.log}.isdisjoint({VALUE, ACCEPT, REGENCY})
    answer(restarted(cluster, 1), cluster, 0)  # it answers like any other


def learner(cluster: Cluster, id: int) -> Node:
    """A replica that comes back without the record of its votes."""
    node = cluster.nodes[id] = Node.__new__(Node)
    recover = Node.recovered
    try:
        Node.recovered = lambda self: dataclasses.replace(RecoveredState(), intact=False)  # type: ignore[method-assign]
        node.__init__(id, cluster.view, cluster.parameters)  # type: ignore[misc]
    finally:
        Node.recovered = recover  # type: ignore[method-assign]
    return node


def test_a_learner_follows_regency_changes_without_a_word(cluster: Cluster) -> None:
    node = learner(cluster, 0)
    voters = [other for other in cluster.nodes if other is not node]
    for other in voters:
        other.fire(Timer.PROGRESS)
    cluster.run()
    node.fire(Timer.CATCH_UP)
    cluster.run()
    for other in voters:
        other.ordering.suspect(b"")
    cluster.run()
    cluster.submit(TestClient(2).requests(b"second"))
    cluster.run()
    assert [other.replica.regency for other in cluster.nodes] == [1] * 4
    assert node.replica.decided == node.replica.executed == 2, "it sees the votes of the new regency"
    said = [m for sender, _, m in cluster.delivered if sender == 0 and isinstance(m, (*VOTES, Stop)) and m.regency]
    assert not said
    assert {record.kind for record in node.log} == {DECISION}


def test_a_signed_vote_that_the_log_does_not_have_is_enough(cluster: Cluster) -> None:
    node = restarted(cluster)
    payload = node.domains.accept_payload(0, 0, 2, bytes(32))
    accept = Accept(0, 0, 2, bytes(32), Ed25519Signer(secret(0)).sign(payload))
    answer(node, cluster, 1, accept=accept)
    answer(node, cluster, 2)
    assert node.replica.status()["learns"] == taking_part.FORGOTTEN_VOTES


def accepted_and_lost(cluster: Cluster, kind: int) -> Node:
    """Replica 0 has written and accepted in instance 2, and its log has lost the records of one kind."""
    cluster.submit(TestClient(2).requests(b"second"))
    cluster.run(lambda envelope: not isinstance(envelope[2], Accept) or envelope[0] == 0)
    node = cluster.nodes[0]
    assert node.ordering.current.accepted is not None
    node.log = [record for record in node.log if (record.kind, record.instance) != (kind, 2)]
    return restarted(cluster)


def test_a_lost_accept_is_missed_although_the_write_for_its_value_is_recorded(cluster: Cluster) -> None:
    """Both are votes of one regency, but a collect that tells of the WRITE alone conceals what was accepted."""
    node = accepted_and_lost(cluster, ACCEPT)
    assert [record.kind for record in node.log if record.instance == 2] == [VALUE]
    for peer in (1, 2):
        answer(node, cluster, peer)
    assert node.replica.status()["learns"] == taking_part.FORGOTTEN_VOTES


def test_an_accept_that_is_recorded_is_not_missed(cluster: Cluster) -> None:
    node = accepted_and_lost(cluster, REGENCY)
    for peer in (1, 2):
        answer(node, cluster, peer)
    assert node.replica.status()["takes_part"]


def test_planted_bug_a_write_taken_for_a_record_of_the_accept(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rule as it was: positions alone are compared, whatever kind of vote they are of."""

    def not_beyond(start: taking_part.TakingPart, accept: Accept) -> bool:
        return (accept.instance, accept.regency) <= start._recorded

    monkeypatch.setattr(taking_part.TakingPart, "_is_recorded", not_beyond)
    node = accepted_and_lost(cluster, ACCEPT)
    for peer in (1, 2):
        answer(node, cluster, peer)
    assert node.replica.status()["takes_part"]


def test_claims_without_a_signature_need_more_than_f(cluster: Cluster) -> None:
    node = restarted(cluster)
    answer(node, cluster, 1, vote=Vote(7, 0))
    answer(node, cluster, 2)
    assert node.replica.status()["takes_part"], "one liar must not silence a replica"
    node = restarted(cluster)
    answer(node, cluster, 1, vote=Vote(7, 0))
    answer(node, cluster, 2, vote=Vote(2, 0))
    assert node.replica.status()["learns"] == taking_part.FORGOTTEN_VOTES


def test_an_accept_that_we_did_not_sign_costs_its_sender_the_channel(cluster: Cluster) -> None:
    node = restarted(cluster)
    answer(node, cluster, 1, accept=Accept(0, 0, 2, bytes(32), bytes(64)))
    assert [effect.peer for effect in node.effects if isinstance(effect, Penalise)] == [1]
    answer(node, cluster, 2)
    assert not node.replica.status()["takes_part"]


def test_a_replica_that_does_not_ask_would_be_found(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug of this suite: a start that suspends nothing."""
    monkeypatch.setattr(taking_part.TakingPart, "begin", lambda self, recovered, lost: None)
    node = restarted(cluster, cluster.leader.id)
    node.admit(TestClient(2).requests(b"second"))
    assert votes(node)
