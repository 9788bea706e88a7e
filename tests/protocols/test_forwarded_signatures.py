"""A correct replica passes on what it has checked: whose requests turn out to be badly signed lies, and nobody else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kit.cluster import Cluster, Node
from kit.requests import CHAIN, NOW, TestClient

from smartbft._fastpath.pool import FROM_MEMBER, encode_request, join_requests, request_digests
from smartbft.core.forwarding import Forwarding
from smartbft.core.inputs import MessageReceived, Timer, TimerFired
from smartbft.messages import Forward, HeldRequests, Hold, Stop
from smartbft.types import CHANNEL, Parameters

LIAR, CORRECT = 2, 3
CLIENT = 7  # the number of a connection
Pass = Callable[[bytes], Forward | Stop]


def forward(data: bytes) -> Forward:
    return Forward(0, 0, data)


def stop(data: bytes) -> Stop:
    return Stop(0, 0, 1, data)


def bad(*operations: bytes, client: int = 5) -> bytes:
    signer = TestClient(client)
    return join_requests([signer.request(operation, good=False) for operation in operations])


def blamed(node: Node) -> list[tuple[int, str]]:
    return [(penalty.peer, penalty.reason) for penalty in node.penalties()]


def hear(node: Node, sender: int, message: Forward | Stop | HeldRequests | Hold) -> None:
    """A message whose requests are not verified yet."""
    node.step(MessageReceived(node.validator.validate(sender, message)))


@pytest.fixture
def node() -> Node:
    return Cluster(4).nodes[1]


@pytest.mark.parametrize("by", [forward, stop])
def test_who_passes_on_bad_signatures_is_penalised(node: Node, by: Pass) -> None:
    good = TestClient(6).requests(b"good")
    hear(node, LIAR, by(good + bad(b"one", b"two")))
    assert blamed(node) == [], "the verdict is not known yet"
    node.verify()
    ((peer, reason),) = blamed(node)
    assert peer == LIAR
    assert "of which 2 had bad signatures" in reason
    assert node.pool.ready() == 1, "what was good is kept"
    node.verify()
    assert len(blamed(node)) == 1


def test_who_passes_on_what_is_good_is_not(node: Node) -> None:
    hear(node, CORRECT, forward(TestClient(6).requests(b"one", b"two")))
    node.verify()
    assert blamed(node) == []
    assert node.pool.ready() == 2


def test_nobody_answers_for_what_a_client_had_sent_before(node: Node) -> None:
    spoilt = bad(b"one")
    node.pool.admit(spoilt, CLIENT, NOW)
    hear(node, CORRECT, forward(spoilt))
    node.verify()
    assert blamed(node) == []


def test_nobody_answers_for_what_another_replica_had_passed_on(node: Node) -> None:
    spoilt = bad(b"one")
    hear(node, LIAR, forward(spoilt))
    hear(node, CORRECT, forward(spoilt))
    node.verify()
    assert [peer for peer, _ in blamed(node)] == [LIAR]


def test_a_client_that_comes_later_does_not_clear_the_liar(node: Node) -> None:
    spoilt = bad(b"one")
    hear(node, LIAR, forward(spoilt))
    node.pool.admit(spoilt, CLIENT, NOW)
    node.verify()
    assert [peer for peer, _ in blamed(node)] == [LIAR]


def test_a_good_copy_and_a_bad_one_are_two_things(node: Node) -> None:
    """The digest covers the signature: whoever has verified one has not passed on the other."""
    client = TestClient(5)
    good, spoilt = client.request(b"one", 1), client.request(b"one", 1, good=False)
    hear(node, LIAR, forward(join_requests([spoilt])))
    hear(node, CORRECT, forward(join_requests([good])))
    node.verify()
    assert [peer for peer, _ in blamed(node)] == [LIAR]
    assert node.pool.ready() == 1


def test_what_is_left_of_a_liar_is_not_checked_and_others_are(node: Node) -> None:
    hear(node, LIAR, forward(bad(*(b"%d" % number for number in range(8)))))
    hear(node, CORRECT, forward(TestClient(6).requests(b"good")))
    job = node.pool.take_unverified(2)
    assert job is not None
    verdicts = node.pool.apply_verdicts(job, job.run())
    assert verdicts == [(FROM_MEMBER + LIAR, 1)], "members take turns"
    before = node.pool.stats()["signature_checks"]
    node.replica._forwarding.blame(((LIAR, 1),))
    node.verify()
    assert node.pool.stats()["signature_checks"] == before
    assert node.pool.ready() == 1


def test_a_flood_of_one_member_does_not_use_up_the_share_of_another(node: Node) -> None:
    flood = [TestClient(50 + number).request(b"x", good=False) for number in range(1100)]
    hear(node, LIAR, forward(join_requests(flood)))
    assert node.pool.stats()["unverified"] == 1000, "the share of one source here"
    hear(node, CORRECT, forward(TestClient(6).requests(b"good")))
    node.verify()
    assert node.pool.ready() == 1
    assert {peer for peer, _ in blamed(node)} == {LIAR}


def test_correct_replicas_forward_only_what_they_have_verified() -> None:
    """Bad and good requests of one session at one replica: it passes on the good ones, and is not blamed."""
    cluster = Cluster(4)
    client = TestClient(5)
    first, second = cluster.nodes[1], cluster.nodes[0]
    first.admit(join_requests([client.request(b"a", 1), client.request(b"b", 2, good=False), client.request(b"c", 3)]))
    first.pool.admit(join_requests([TestClient(8).request(b"unverified", good=False)]), 9, first.now)
    for _ in range(2):
        for late in cluster.nodes:
            late.now += first.replica.parameters.request_timeout
            late.step(TimerFired(Timer.REQUEST))
    cluster.run()
    assert any(isinstance(message, (Forward, Stop)) for _, _, message in cluster.delivered)
    assert all(blamed(one) == [] for one in cluster.nodes)
    assert second.replica.executed >= 1 or second.pool.ready() >= 1


def test_where_requests_carry_no_signatures_nobody_is_blamed() -> None:
    node = Cluster(4, parameters=Parameters(request_authentication=CHANNEL)).nodes[1]
    client = TestClient(5)
    unsigned = join_requests([encode_request(client.public_key, client.session, 1, b"said", bytes(64))])
    digest = request_digests(CHAIN, unsigned)
    for member in (0, LIAR):
        hear(node, member, Hold(0, 0, digest))
    hear(node, LIAR, HeldRequests(0, 0, unsigned))
    node.verify()
    assert blamed(node) == []


def test_planted_bug_nobody_answers_for_what_is_passed_on(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("smartbft.core.replica.FROM_MEMBER", 0)
    monkeypatch.setattr("smartbft.core.replica.Replica.adopt", lambda self, _, data: self.pool.admit(data, 0, self.now))
    with pytest.raises(ValueError, match="not enough values"):
        test_who_passes_on_bad_signatures_is_penalised(node, forward)


def test_planted_bug_whoever_passed_it_on_last_answers(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    last: dict[str, int] = {}

    def adopt(self: object, sender: int, data: bytes) -> None:
        last["sender"] = sender
        self.pool.admit(data, FROM_MEMBER + sender, self.now)  # type: ignore[attr-defined]

    blame = Forwarding.blame
    monkeypatch.setattr("smartbft.core.replica.Replica.adopt", adopt)
    monkeypatch.setattr(
        Forwarding, "blame", lambda self, liars: blame(self, tuple((last["sender"], n) for _, n in liars))
    )
    with pytest.raises(AssertionError):
        test_nobody_answers_for_what_another_replica_had_passed_on(node)
