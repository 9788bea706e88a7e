"""Weaknesses that were found in other implementations of Mod-SMaRt: one test each, and the bug planted here.

B1 to B10 are known from public issues, sources and papers about BFT-SMaRt. Each scenario is a function of a cluster; it
passes with the product as it is, and fails when the rule against the weakness is taken away.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kit.cluster import Cluster, Envelope, Node, make_pool
from kit.regencies import install, refused, second_timeout, sent, value_of
from kit.requests import NOW, TestClient
from kit.statements import V, W, proof, signed, stop_data, sync, unbound
from msgspec.structs import replace

from smartbft._fastpath.pool import EXECUTED
from smartbft.core import epoch_change
from smartbft.core.catch_up import CatchUp
from smartbft.core.effects import Reply
from smartbft.core.epoch_change import evaluate
from smartbft.core.inbox import Inbox
from smartbft.core.inputs import Timer
from smartbft.core.validation import Validator
from smartbft.crypto.signatures import Ed25519KeyVerifier
from smartbft.errors import RemoteProtocolError
from smartbft.limits import MAX_EARLY_MESSAGES_PER_SENDER, MAX_EXECUTION_BACKLOG
from smartbft.messages import (
    Accept,
    Decision,
    FetchStanding,
    Message,
    Progress,
    Propose,
    RequestBodies,
    Standing,
    Stop,
    Sync,
    Write,
    Written,
)
from smartbft.protocols.mod_smart.suspicions import Suspicions
from smartbft.types import Parameters

Patch = pytest.MonkeyPatch
LEADER, LIAR = 1, 3  # of regency 0, and in most scenarios


def make_cluster(n: int = 4) -> Cluster:
    return Cluster(n, Parameters(batch_delay=0))


def decide(cluster: Cluster, *operations: bytes, client: TestClient | None = None) -> bytes:
    """One instance for each operation; returns the last request list."""
    client = client or TestClient()
    data = b""
    for operation in operations:
        data = client.requests(operation)
        cluster.submit(data)
        cluster.run()
    return data


def lenient(patch: Patch, method: str, *words: str) -> None:
    """Plant: the validator lets pass what it would refuse with one of these words."""
    original = getattr(Validator, method)

    def careless(self: Validator, *arguments: object) -> None:
        try:
            original(self, *arguments)
        except RemoteProtocolError as error:
            if not any(word in str(error) for word in words):
                raise

    patch.setattr(Validator, method, careless)


# B1: a leader reuses collects that were signed in an older regency, or that non-members signed; a proof is not bound
# to the instance and regency it is shown for.


def assert_b1() -> None:
    node = make_cluster().nodes[0]
    old = sync((*unbound()[:2], stop_data(2, 2)))
    outsider = sync((*unbound()[:2], signed(replace(stop_data(0), signer=4))))
    for message in (old, outsider):
        assert refused(node, 2, message)
    data = TestClient().requests(b"x")
    value = value_of(data)
    made = proof(1, digest=node.domains.value_digest(value))
    for shown in (replace(made, instance=2), replace(made, regency=1)):
        assert refused(node, 2, Decision(0, 0, shown.instance, value, data, shown))
    assert refused(node, 2, Decision(0, 0, 2, value, data, made))


def test_b1_old_collects_non_members_and_unbound_proofs_are_refused() -> None:
    assert_b1()


@pytest.mark.parametrize(
    ("method", "word"),
    [
        ("check_sync", "with STOPDATA of"),
        ("check_stop_data", "its signer is no member"),
        ("check_proof", "ACCEPT in a proof"),
        ("_check_decision", "with a proof for instance"),
    ],
)
def test_b1_planted_bugs(method: str, word: str, monkeypatch: Patch) -> None:
    lenient(monkeypatch, method, word)
    with pytest.raises((AssertionError, KeyError)):
        assert_b1()


# B2: after a restart the regency is taken from the last answer, without a look whether the answers agree.


def assert_b2() -> None:
    cluster = make_cluster()
    decide(cluster, b"one")
    old = cluster.nodes[0]
    node = cluster.nodes[0] = Node(0, cluster.view, cluster.parameters, old.log)
    (token,) = {message.token for message in sent(node, FetchStanding)}
    for sender, regency in ((1, 0), (2, 0), (LIAR, 9)):
        node.receive(sender, Standing(0, regency, token, None, None, None))
    assert node.replica.regency == 0


def test_b2_one_answer_does_not_make_a_regency() -> None:
    assert_b2()


def test_b2_planted_bug(monkeypatch: Patch) -> None:
    reached = Suspicions.reached_by
    monkeypatch.setattr(Suspicions, "reached_by", lambda self, count: reached(self, 1))
    with pytest.raises(AssertionError):
        assert_b2()


# B3: a leader proposes a batch again that is decided; numbers of requests are forgotten in a restart, so that old
# signed requests are executed again.


def assert_b3(plant: Callable[[Node], None] = lambda node: None) -> None:
    cluster = make_cluster()
    data = decide(cluster, b"once")
    for node in cluster.nodes:
        cluster.restart(node.id)
    cluster.drop_all()
    again = value_of(data, NOW + 10)
    for node in cluster.followers:
        plant(node)
        node.admit(data)
        node.receive(LEADER, Propose(0, 0, 2, again))
        node.receive(LEADER, RequestBodies(0, 0, 2, data))
        assert not sent(node, Write)
        assert node.pool.stats()["pending"] == 0


def test_b3_a_decided_batch_is_not_ordered_again_even_after_a_restart() -> None:
    assert_b3()


def test_b3_planted_bug() -> None:
    def forget_sessions(node: Node) -> None:
        node.pool = node.replica.pool = make_pool(node.replica.parameters, node.id)

    with pytest.raises(AssertionError):
        assert_b3(forget_sessions)


# B4: entries of a write set are counted in place of replicas, and timestamps have no upper bound: one lying collect
# displaces a decided value.


def assert_b4() -> None:
    node = make_cluster().nodes[0]
    lie = replace(stop_data(LIAR, 1), accepted=None, write_set=(Written(W, 5), Written(W, 6)))
    doubled = signed(replace(lie, regency=9))
    ahead = stop_data(LIAR, 1, 1, (5, W), ((W, 5),))
    honest = [stop_data(signer, 1, 1, (0, V), ((V, 0),)) for signer in range(2)]
    for message in (doubled, ahead):
        assert refused(node, 2, sync((*honest, message), regency=message.regency))
    # Well formed, and still a lie: the others have not written it.
    lone = stop_data(LIAR, 9, 1, (5, W), ((W, 6),))
    assert evaluate([*(replace(one, regency=9) for one in honest), lone], 4, 1).digest != W


def test_b4_entries_do_not_count_as_replicas() -> None:
    assert_b4()


def _one_is_enough(regency: int, digest: bytes, collects: list[epoch_change.Collect], f: int) -> bool:
    return any(collect.written.get(digest, -1) >= regency for collect in collects)


@pytest.mark.parametrize("plant", ["entries twice", "timestamps ahead", "certified by one"])
def test_b4_planted_bugs(plant: str, monkeypatch: Patch) -> None:
    if plant == "certified by one":
        monkeypatch.setattr(epoch_change, "_certified", _one_is_enough)
    elif plant == "entries twice":
        # Without the order of regencies a doubled entry is judged as the last of them.
        lenient(monkeypatch, "check_stop_data", "names a value twice")
        monkeypatch.setattr(epoch_change, "_quorum_highest", lambda *_: True)
        monkeypatch.setattr(Validator, "_check_sync_value", lambda *_: None)
        lenient(monkeypatch, "check_sync", "with STOPDATA of")
    else:
        lenient(monkeypatch, "check_stop_data", "holds a vote of that regency")
        monkeypatch.setattr(Validator, "_check_sync_value", lambda *_: None)
    with pytest.raises(AssertionError):
        assert_b4()


# B5: a higher decided instance is believed although its proof is invalid; an honest leader then sends a SYNC that
# everybody refuses, and one faulty replica defeats every honest leader.


def assert_b5(plant: Callable[[Node], None] = lambda node: None) -> None:
    cluster = make_cluster()
    install(cluster)
    cluster.drop_all()
    leader = cluster.nodes[2]
    plant(leader)
    refused(leader, LIAR, signed(replace(stop_data(LIAR, 1, 9, last=proof(8, (LIAR,))))))
    for signer in (0, 1):
        leader.receive(signer, stop_data(signer))
    assert sent(leader, Sync)
    for envelope in [envelope for envelope in leader.outbox if isinstance(envelope[2], Sync)]:
        cluster.nodes[envelope[1]].receive(2, envelope[2])
    assert all(node.replica.guard.synchronized for node in cluster.nodes)


def test_b5_a_higher_instance_without_a_proof_does_not_stop_an_honest_leader() -> None:
    assert_b5()


def test_b5_planted_bug() -> None:
    def believe(node: Node) -> None:
        node.validator.check_proof = lambda proof: None  # type: ignore[method-assign]

    with pytest.raises(AssertionError):
        assert_b5(believe)


# B6: signatures of ACCEPTs go into the proof unverified, so that a decided instance may own a worthless proof.


def assert_b6(plant: Callable[[Node], None] = lambda node: None) -> None:
    cluster = make_cluster()
    cluster.submit(TestClient().requests(b"x"))
    held: list[Envelope] = []

    def hold_accepts(envelope: Envelope) -> bool:
        if isinstance(envelope[2], Accept):
            held.append(envelope)
            return False
        return True

    cluster.run(hold_accepts)
    for node in cluster.nodes[:LIAR]:
        plant(node)
        forged = replace(next(message for sender, _, message in held if sender == LIAR), signature=bytes(64))
        refused(node, LIAR, forged)
    for sender, to, message in held:
        if LIAR not in (sender, to):
            cluster.nodes[to].receive(sender, message)
    judge = Validator(cluster.view, cluster.nodes[0].domains, Ed25519KeyVerifier(), cluster.parameters)
    for node in cluster.nodes[:LIAR]:
        made = node.replica.last_proof()
        assert made is not None
        try:
            judge.check_proof(made)
        except RemoteProtocolError as error:
            raise AssertionError(f"the proof of replica {node.id} is worthless: {error}") from error


def test_b6_every_signature_in_a_proof_verifies() -> None:
    assert_b6()


def test_b6_planted_bug() -> None:
    def trust(node: Node) -> None:
        node.validator._checks[Accept] = lambda *_: None

    with pytest.raises(AssertionError):
        assert_b6(trust)


# B7: a proof is taken with 2f + 1 signatures where Q are needed (n > 3f + 1), or for another instance than claimed.


def assert_b7(size: int | None = None) -> None:
    cluster = make_cluster(5)
    if size is not None:
        object.__setattr__(cluster.view, "quorum", size)
    node = cluster.nodes[0]
    data = TestClient().requests(b"x")
    value = value_of(data)
    made = proof(1, (1, 2, 3, 4), digest=node.domains.value_digest(value))
    three = replace(made, signatures=made.signatures[:3])
    assert refused(node, 4, Decision(0, 0, 1, value, data, three))
    assert refused(node, 4, Decision(0, 0, 2, value, data, made))
    node.receive(4, Decision(0, 0, 1, value, data, made))
    assert node.replica.decided == 1


def test_b7_a_proof_needs_a_quorum_for_the_instance_it_is_shown_for() -> None:
    assert_b7()


def test_b7_planted_bugs(monkeypatch: Patch) -> None:
    with pytest.raises(AssertionError):
        assert_b7(3)
    lenient(monkeypatch, "_check_decision", "with a proof for instance")
    with pytest.raises(AssertionError):
        assert_b7()


# B8: a leader that leaves correct replicas out blocks clients that wait for Q answers: decisions are passed on when
# asked for, with their proof, and the reply of every session is kept.


def assert_b8() -> None:
    cluster = make_cluster()
    data = TestClient().requests(b"left out")
    cluster.submit(data)
    cluster.run(lambda envelope: envelope[1] != LIAR)
    late = cluster.nodes[LIAR]
    assert late.replica.decided == 0
    late.receive(0, Progress(0, 0, 1))
    late.fire(Timer.CATCH_UP)
    cluster.run()
    assert late.replica.executed == 1
    late.admit(data)
    replies = [frames for _, frames in late.pool.take_replies()]
    assert [frames[7] for frames in replies] == [EXECUTED]
    assert [effect for effect in late.effects if isinstance(effect, Reply)]


def test_b8_a_replica_that_was_left_out_answers_too() -> None:
    assert_b8()


def test_b8_planted_bug(monkeypatch: Patch) -> None:
    monkeypatch.setattr(CatchUp, "on_fetch", lambda *_: None)
    with pytest.raises(AssertionError):
        assert_b8()


# B9: early messages are kept without bounds, so that memory runs out.


def assert_b9() -> None:
    node = make_cluster().nodes[0]
    node.receive(2, Write(0, 0, 2, V))
    for number in range(2_000):
        node.receive(LIAR, Write(0, number % 7, 2 + number % 12, V))
    assert len(node.ordering._early) <= MAX_EARLY_MESSAGES_PER_SENDER + 1
    assert [sender for sender, _ in node.ordering._early.take(2)].count(2) == 1


def test_b9_early_messages_are_bounded_and_nobody_elses_are_lost() -> None:
    assert_b9()


def _everything(self: Inbox[Message], sender: int, instance: int, message: Message) -> None:
    self._messages[sender].append((instance, message))


def _one_for_all(self: Inbox[Message], sender: int, instance: int, message: Message) -> None:
    self._messages[sender].append((instance, message))
    while len(self) > MAX_EARLY_MESSAGES_PER_SENDER:
        oldest = min(self._messages.values(), key=lambda share: share[0][0] if share else 2**62)
        del oldest[0]


@pytest.mark.parametrize("put", [_everything, _one_for_all])
def test_b9_planted_bugs(put: Callable[..., None], monkeypatch: Patch) -> None:
    """No bound at all; and a global one, which lets the liar push out the messages of others."""
    monkeypatch.setattr(Inbox, "put", put)
    with pytest.raises(AssertionError):
        assert_b9()


# B10: one instance in flight and a slow application: the leader is changed for what it cannot help.


def assert_b10(plant: Callable[[Node], None] = lambda node: None) -> None:
    cluster = make_cluster()
    for node in cluster.nodes:
        node.application_blocked = True
    client = TestClient()
    decide(cluster, *[b"slow %d" % number for number in range(MAX_EXECUTION_BACKLOG)], client=client)
    cluster.submit(client.requests(b"waits"))
    cluster.run()
    assert {node.replica.decided for node in cluster.nodes} == {MAX_EXECUTION_BACKLOG}
    for node in cluster.followers:
        plant(node)
        for _ in range(3):
            second_timeout(node)
        assert not sent(node, Stop)


def test_b10_a_slow_application_is_not_the_leaders_fault() -> None:
    assert_b10()


def test_b10_planted_bug() -> None:
    def impatient(node: Node) -> None:
        node.replica.may_propose = lambda: True  # type: ignore[method-assign]

    with pytest.raises(AssertionError):
        assert_b10(impatient)


def test_every_known_failure_has_its_test_and_its_planted_bug() -> None:
    for number in range(1, 11):
        names = [name for name in globals() if name.startswith(f"test_b{number}_")]
        assert len(names) == 2, number
        assert sum("planted" in name for name in names) == 1, number
