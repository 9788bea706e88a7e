"""VP-Consensus: the four steps, fetching of bodies, agreed time, restarts (protocols.md section 1, Mod-SMaRt section
IV).
"""

from __future__ import annotations

import pytest
from kit.cluster import Cluster, Node
from kit.requests import CHAIN, NOW, TestClient

from smartbft._fastpath.pool import join_requests, request_digests
from smartbft.core.effects import Broadcast, Persist, SetTimer
from smartbft.core.inputs import PeerConnected, Timer
from smartbft.core.records import ACCEPT, DECISION, VALUE
from smartbft.core.safety import VoteGuard
from smartbft.messages import Accept, Decision, FetchRequests, Propose, RequestBodies, Write
from smartbft.types import Parameters, Value


def sent(node: Node, kind: type) -> list:
    return [message for _, _, message in node.outbox if isinstance(message, kind)]


def test_step_1_the_proposal_is_on_disk_before_it_is_sent(cluster: Cluster) -> None:
    leader = cluster.leader
    leader.disk_blocked = True
    leader.admit(TestClient().requests(b"a"))
    assert not leader.outbox
    leader.disk_blocked = False
    leader.complete_disk()
    assert sent(leader, Propose)
    assert leader.log[0].kind == VALUE


def test_step_2_value_and_vote_are_on_disk_before_write_leaves(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    follower = cluster.followers[0]
    follower.disk_blocked = True
    follower.admit(data)
    follower.receive(cluster.leader.id, Propose(0, 0, 1, Value(NOW, request_digests(CHAIN, data)).encode()))
    assert not follower.outbox
    [write] = [effect for effect in follower.effects if isinstance(effect, Persist)]
    assert data in write.records[0].parts
    assert [type(effect) for effect in write.then] == [Broadcast]
    follower.disk_blocked = False
    follower.complete_disk()
    assert sent(follower, Write)


def test_step_2_only_the_first_proposal_of_a_regency_counts(cluster: Cluster) -> None:
    client = TestClient()
    one, two = join_requests([client.request(b"a", 1)]), join_requests([client.request(b"b", 1)])
    follower = cluster.followers[0]
    follower.admit(one + two)
    follower.receive(cluster.leader.id, Propose(0, 0, 1, Value(NOW, request_digests(CHAIN, one)).encode()))
    follower.receive(cluster.leader.id, Propose(0, 0, 1, Value(NOW, request_digests(CHAIN, two)).encode()))
    assert {message.digest for message in sent(follower, Write)} == {
        follower.domains.value_digest(Value(NOW, request_digests(CHAIN, one)).encode())
    }
    assert "two proposals" in follower.penalties()[0].reason


def test_step_3_accept_needs_a_quorum_of_writes(cluster: Cluster) -> None:
    cluster.submit(TestClient().requests(b"a"))
    witness = cluster.followers[0]
    others = [node for node in cluster.followers if node is not witness]
    cluster.run(lambda e: not (e[1] == witness.id and e[0] in [o.id for o in others]))
    assert not any(record.kind == ACCEPT for record in witness.log)  # its own WRITE and the leader's: two of three


def test_step_3_a_write_counts_once_per_sender(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    witness, other = cluster.followers[:2]
    witness.admit(data)
    value = Value(NOW, request_digests(CHAIN, data)).encode()
    witness.receive(cluster.leader.id, Propose(0, 0, 1, value))
    for _ in range(5):
        witness.receive(other.id, Write(0, 0, 1, witness.domains.value_digest(value)))
    assert not sent(witness, Accept)


def test_step_3_accept_record_precedes_the_signed_accept(cluster: Cluster) -> None:
    cluster.submit(TestClient().requests(b"a"))
    witness = cluster.followers[0]
    cluster.run(lambda e: e[1] != witness.id or isinstance(e[2], Propose))
    witness.disk_blocked = True
    for node in (cluster.leader, cluster.followers[1]):
        digest = node.ordering.current.digest or node.ordering.previous.digest
        witness.receive(node.id, Write(0, 0, 1, digest))
    assert not sent(witness, Accept)
    witness.disk_blocked = False
    witness.complete_disk()
    assert sent(witness, Accept)
    assert [record.kind for record in witness.log] == [VALUE, ACCEPT]


def test_step_4_the_proof_convinces_anyone(cluster: Cluster) -> None:
    cluster.submit(TestClient().requests(b"a"))
    cluster.run()
    for node in cluster.nodes:
        proof = node.recovered().decisions[0].proof
        for judge in cluster.nodes:
            judge.validator.check_proof(proof)
        assert len(proof.signatures) == cluster.view.quorum


def test_step_4_an_accept_quorum_without_the_value_fetches_the_decision(cluster: Cluster) -> None:
    cluster.submit(TestClient().requests(b"a"))
    witness = cluster.followers[0]
    cluster.run(lambda e: not (e[1] == witness.id and isinstance(e[2], Propose | Write)))
    assert witness.replica.decided == 0
    witness.fire(Timer.CATCH_UP)
    cluster.run()
    assert witness.replica.decided == 1


def test_missing_bodies_are_fetched_after_a_grace_from_the_proposer_first(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    without = cluster.followers[0]
    cluster.submit(data, to=[node.id for node in cluster.nodes if node is not without])
    cluster.run(lambda e: e[0] != without.id and not (e[1] == without.id and not isinstance(e[2], Propose)))
    assert any(effect == SetTimer(Timer.FETCH, cluster.parameters.fetch_grace) for effect in without.effects)
    assert not sent(without, FetchRequests)
    without.fire(Timer.FETCH)
    assert [to for _, to, m in without.outbox if isinstance(m, FetchRequests)] == [cluster.leader.id]


def test_fetched_bodies_lead_to_a_vote(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    without = cluster.followers[0]
    value = Value(NOW, request_digests(CHAIN, data)).encode()
    without.receive(cluster.leader.id, Propose(0, 0, 1, value))
    without.receive(cluster.leader.id, RequestBodies(0, 0, 1, data))
    assert sent(without, Write)


def test_bodies_of_an_earlier_question_are_dropped_and_accuse_nobody(cluster: Cluster) -> None:
    """What was asked for in a regency that is over, or before a restart, may arrive when another value is proposed."""
    follower = cluster.followers[0]
    value = Value(NOW, request_digests(CHAIN, TestClient().requests(b"a"))).encode()
    follower.receive(cluster.leader.id, Propose(0, 0, 1, value))
    follower.receive(3, RequestBodies(0, 0, 1, TestClient(9).requests(b"other")))
    assert follower.pool.stats()["pending"] == 0
    assert follower.penalties() == []


@pytest.mark.parametrize("garbage", [b"\x01", b"\x05\0\0\0short", bytes(200), (116).to_bytes(4, "little") + bytes(116)])
def test_bodies_that_are_no_request_list_cost_their_sender_the_channel_and_nothing_else(
    cluster: Cluster, garbage: bytes
) -> None:
    follower = cluster.followers[0]
    data = TestClient().requests(b"a")
    follower.receive(cluster.leader.id, Propose(0, 0, 1, Value(NOW, request_digests(CHAIN, data)).encode()))
    follower.receive(3, RequestBodies(0, 0, 1, garbage))
    assert [penalty.peer for penalty in follower.penalties()] == [3]
    follower.receive(cluster.leader.id, RequestBodies(0, 0, 1, data))
    assert sent(follower, Write)


def test_only_bodies_of_the_live_proposal_are_served(cluster: Cluster) -> None:
    secret = TestClient(5).requests(b"not proposed")
    cluster.leader.admit(TestClient().requests(b"a"))
    cluster.leader.admit(secret)
    cluster.leader.receive(0, FetchRequests(0, 0, 1, request_digests(CHAIN, secret)))
    assert not sent(cluster.leader, RequestBodies)


def test_a_timestamp_ahead_of_the_clock_is_held_until_it_is_due(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    follower = cluster.followers[0]
    follower.admit(data)
    ahead = cluster.parameters.clock_skew + 5
    value = Value(NOW + ahead, request_digests(CHAIN, data)).encode()
    follower.receive(cluster.leader.id, Propose(0, 0, 1, value))
    assert not sent(follower, Write)
    assert SetTimer(Timer.HOLD, 5) in follower.effects
    follower.now += 5
    follower.fire(Timer.HOLD)
    assert sent(follower, Write)


def test_a_timestamp_that_goes_back_is_refused(cluster: Cluster) -> None:
    client = TestClient()
    cluster.submit(client.requests(b"a"))
    cluster.run()
    data = client.requests(b"b")
    follower = cluster.followers[0]
    follower.admit(data)
    value = Value(NOW, request_digests(CHAIN, data)).encode()
    follower.receive(cluster.leader.id, Propose(0, 0, 2, value))
    assert not sent(follower, Write)
    assert "timestamp" in follower.penalties()[0].reason


def test_early_votes_wait_for_their_instance(cluster: Cluster) -> None:
    client = TestClient()
    late = cluster.followers[0]
    cluster.submit(client.requests(b"a"))
    cluster.run(lambda e: e[1] != late.id)
    held = [e for e in cluster.delivered if False]
    assert not held
    cluster.submit(client.requests(b"b"))
    cluster.run(lambda e: e[1] != late.id or e[2].instance == 2)
    assert late.replica.decided == 0
    # The first decision arrives: the second instance finishes from what was kept.
    decided = cluster.leader.recovered().decisions[0]
    late.receive(cluster.leader.id, Decision(0, 0, 1, decided.value, decided.data, decided.proof))
    assert late.replica.decided == 2


def test_a_repeated_vote_of_the_previous_instance_is_answered_with_the_decision(cluster: Cluster) -> None:
    cluster.submit(TestClient().requests(b"a"))
    behind = cluster.followers[0]
    cluster.run(lambda e: not (e[1] == behind.id and isinstance(e[2], Accept)))
    assert behind.replica.decided == 0
    behind.fire(Timer.RESEND)
    behind.fire(Timer.RESEND)
    cluster.run()
    assert behind.replica.decided == 1


def test_a_restart_repeats_the_same_votes_and_no_others(cluster: Cluster) -> None:
    cluster.submit(TestClient().requests(b"a"))
    node = cluster.followers[0]
    cluster.run(lambda e: not isinstance(e[2], Accept))
    before = [m for _, _, m in cluster.delivered if False]
    assert not before
    votes = [record for record in node.log if record.kind in (VALUE, ACCEPT)]
    assert len(votes) == 2
    again = cluster.restart(node.id)
    repeated = {type(m): m for m in sent(again, Write) + sent(again, Accept)}
    assert repeated[Write].digest == repeated[Accept].digest == again.ordering.current.digest
    # Another value in the same regency: no vote, whatever arrives.
    other = Value(NOW + 1, request_digests(CHAIN, TestClient(4).requests(b"z"))).encode()
    again.admit(TestClient(4).requests(b"z"))
    again.outbox.clear()
    again.receive(cluster.leader.id, Propose(0, 0, 1, other))
    assert not sent(again, Write)


def test_all_restart_after_accept_and_decide_the_same(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    cluster.submit(data)
    cluster.run(lambda e: not isinstance(e[2], Accept))
    assert {node.replica.decided for node in cluster.nodes} == {0}
    for id in range(4):
        cluster.restart(id)
    cluster.run()
    assert cluster.executions() == [[data]] * 4


def test_a_reconnected_peer_hears_what_binds_us_again(cluster: Cluster) -> None:
    cluster.submit(TestClient().requests(b"a"))
    deaf = cluster.followers[0]
    cluster.run(lambda e: e[1] != deaf.id and e[0] != deaf.id)
    for node in cluster.nodes:
        if node is not deaf:
            node.step(PeerConnected(deaf.id))
    cluster.run()
    deaf.fire(Timer.CATCH_UP)
    cluster.run()
    assert deaf.replica.decided == 1


def test_nothing_undurable_is_repeated(cluster: Cluster) -> None:
    leader = cluster.leader
    leader.disk_blocked = True
    leader.admit(TestClient().requests(b"a"))
    leader.step(PeerConnected(0))
    assert not sent(leader, Propose)


def test_a_slow_application_pauses_the_leader() -> None:
    cluster = Cluster(parameters=Parameters(max_batch_requests=1))
    cluster.leader.application_blocked = True
    cluster.submit(TestClient().requests(*[b"%d" % i for i in range(20)]))
    cluster.run()
    assert cluster.leader.replica.decided == 8
    cluster.leader.application_blocked = False
    cluster.leader.complete_application()
    cluster.run()
    assert cluster.leader.replica.decided == 20


def test_without_vote_records_only_decisions_are_logged() -> None:
    cluster = Cluster()
    for node in cluster.nodes:
        node.replica.record_votes = False
    cluster.submit(TestClient().requests(b"a"))
    cluster.run()
    assert [[record.kind for record in node.log] for node in cluster.nodes] == [[DECISION]] * 4
    assert cluster.nodes[0].recovered().decisions[0].data == cluster.nodes[0].executed[0].data


@pytest.mark.parametrize("n", [1, 4, 5, 7])
def test_any_size_of_view_decides(n: int) -> None:
    cluster = Cluster(n)
    data = TestClient().requests(b"a")
    cluster.submit(data)
    cluster.run()
    assert cluster.executions() == [[data]] * n


@pytest.mark.parametrize("kept", [1, 2, 3])
def test_a_restarted_cluster_of_one_goes_on_from_any_record(kept: int) -> None:
    cluster = Cluster(1)
    data = TestClient().requests(b"a")
    cluster.submit(data)
    assert [record.kind for record in cluster.nodes[0].log] == [VALUE, ACCEPT, DECISION]
    del cluster.nodes[0].log[kept:]
    restarted = cluster.restart(0)
    assert [execute.data for execute in restarted.executed] == [data]
    assert [record.kind for record in restarted.log] == [VALUE, ACCEPT, DECISION]


def test_bodies_that_came_from_their_client_meanwhile_accuse_nobody(cluster: Cluster) -> None:
    client = TestClient()
    first, second = client.request(b"a"), client.request(b"b")
    data = join_requests([first, second])
    follower = cluster.followers[0]
    follower.receive(cluster.leader.id, Propose(0, 0, 1, Value(NOW, request_digests(CHAIN, data)).encode()))
    follower.fire(Timer.FETCH)
    assert sent(follower, FetchRequests)
    follower.admit(join_requests([first]))
    follower.receive(cluster.leader.id, RequestBodies(0, 0, 1, data))
    assert not follower.penalties()
    assert sent(follower, Write)


def test_a_restarted_leader_serves_the_bodies_of_its_recorded_proposal(cluster: Cluster) -> None:
    client = TestClient()
    data = join_requests([client.request(b"a"), client.request(b"b")])
    cluster.leader.admit(data)
    leader = cluster.restart(cluster.leader.id)
    follower = cluster.followers[0]
    [propose] = {message.value: message for message in sent(leader, Propose)}.values()
    follower.receive(leader.id, propose)
    follower.fire(Timer.FETCH)
    [fetch] = sent(follower, FetchRequests)
    leader.receive(follower.id, FetchRequests(0, 0, 1, fetch.digests[32:]))
    [bodies] = sent(leader, RequestBodies)
    assert bodies.data == data[len(data) // 2 :]
    leader.now += cluster.parameters.resend_interval
    leader.receive(follower.id, fetch)
    follower.receive(leader.id, sent(leader, RequestBodies)[1])
    assert sent(follower, Write)


class CarelessGuard(VoteGuard):
    """Planted bug: approves ACCEPT one WRITE too early."""

    def approve_accept(self, instance: int, regency: int, digest: bytes, writes: int, quorum: int) -> bool:
        return super().approve_accept(instance, regency, digest, writes + 1, quorum)


def test_planted_bug_accept_before_the_write_quorum_is_seen(cluster: Cluster) -> None:
    for node in cluster.nodes:
        node.replica.guard = CarelessGuard()
    with pytest.raises(AssertionError):
        test_step_3_accept_needs_a_quorum_of_writes(cluster)
