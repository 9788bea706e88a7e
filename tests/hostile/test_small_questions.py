"""A member asks the same small question again and again, and each answer is large: it gets few of them."""

from __future__ import annotations

import pytest
from kit.cluster import Cluster, Node
from kit.regencies import sent_to
from kit.requests import CHAIN, TestClient

from smartbft._fastpath.pool import request_digests
from smartbft.core.answer_rates import AnswerRates
from smartbft.core.effects import Send, ServeDecisions
from smartbft.core.serving import Serving
from smartbft.messages import Accept, Decision, FetchDecisions, FetchRequests, Message, RequestBodies, Write
from smartbft.types import Parameters

LIAR = 3
TIMES = 300


@pytest.fixture
def node() -> Node:
    """A replica that has decided five instances; two of them are in memory, the others in its log."""
    cluster, client = Cluster(parameters=Parameters(batch_delay=0)), TestClient()
    for _ in range(5):
        cluster.submit(client.requests(b"x"))
        cluster.run()
    node = cluster.nodes[0]
    node.effects.clear()
    node.outbox.clear()
    return node


def decisions(node: Node) -> int:
    """How many decisions the liar is sent."""
    ranges = [effect for effect in node.effects if isinstance(effect, ServeDecisions)]
    sent = [effect for effect in node.effects if isinstance(effect, Send) and isinstance(effect.message, Decision)]
    return sum(one.last - one.first + 1 for one in ranges) + len(sent)


def ask(node: Node, *questions: Message) -> None:
    for _ in range(TIMES):
        for question in questions:
            node.receive(LIAR, question)


def ask_for_all(node: Node) -> None:
    ask(node, FetchDecisions(0, 0, 1, 16), FetchDecisions(0, 0, 4, 5), FetchDecisions(0, 0, 2, 5))


def test_each_decision_is_given_once_in_a_while(node: Node) -> None:
    ask_for_all(node)
    assert decisions(node) == 5
    node.now += node.replica.parameters.resend_interval
    ask_for_all(node)
    assert decisions(node) == 10


def test_planted_bug_every_question_is_answered(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Serving, "_got", lambda _self, _peer: 0)
    monkeypatch.setattr(Serving, "_note", lambda _self, _peer, _last: None)
    ask_for_all(node)
    assert decisions(node) > 100, "until the rate of all decisions ends it"
    monkeypatch.setattr(AnswerRates, "may", lambda _self, _peer, _answer: True)
    node.effects.clear()
    ask_for_all(node)
    assert decisions(node) > 5 * TIMES


def test_old_votes_in_turn_bring_no_more(node: Node) -> None:
    ask(node, *(Write(0, 0, instance, bytes(32)) for instance in (1, 2, 3, 4)))
    assert decisions(node) <= 5


def test_who_goes_on_is_not_held_up(node: Node) -> None:
    for first in range(1, 6):
        node.receive(LIAR, FetchDecisions(0, 0, first, first))
    assert decisions(node) == 5


def test_what_could_not_be_given_yet_is_given_when_it_can() -> None:
    """A decision that is not durable here is not sent, and not counted as sent."""
    cluster = Cluster(parameters=Parameters(batch_delay=0))
    node = cluster.nodes[0]
    cluster.submit(TestClient().requests(b"x"))
    cluster.run(lambda envelope: not (envelope[1] == 0 and isinstance(envelope[2], Accept)))
    node.disk_blocked = True
    for sender in (1, 2):
        [vote] = [m for f, to, m in cluster.delivered if f == sender and to == LIAR and isinstance(m, Accept)]
        node.receive(sender, vote)
    assert node.replica.decided == 1
    node.effects.clear()
    node.receive(LIAR, FetchDecisions(0, 0, 1, 1))
    assert decisions(node) == 0
    node.disk_blocked = False
    node.complete_disk()
    ask(node, FetchDecisions(0, 0, 1, 1))
    assert decisions(node) == 1


def test_bodies_are_given_once_in_a_while() -> None:
    cluster = Cluster(parameters=Parameters(batch_delay=0))
    data = TestClient().requests(b"x")
    leader = cluster.leader
    leader.admit(data)
    ask(leader, FetchRequests(0, 0, 1, request_digests(CHAIN, data)))
    assert len(sent_to(leader, LIAR, RequestBodies)) == 1
    leader.now += cluster.parameters.resend_interval
    ask(leader, FetchRequests(0, 0, 1, request_digests(CHAIN, data)))
    assert len(sent_to(leader, LIAR, RequestBodies)) == 2
