"""One test per numbered line of Mod-SMaRt's Algorithm 2 (normal phase at a replica); the names carry the line
numbers.
"""

from __future__ import annotations

import pytest
from kit.cluster import Cluster
from kit.requests import CHAIN, NOW, TestClient

from smartbft._fastpath.pool import request_digests, split_requests
from smartbft.core.effects import SetTimer
from smartbft.core.inputs import RequestsVerified, Timer
from smartbft.core.records import DECISION, VALUE, parse_decision
from smartbft.messages import Accept, Forward, Propose, Write
from smartbft.types import Parameters, Value


def operations(data: bytes) -> list[bytes]:
    return [operation for _, _, _, operation, _ in split_requests(data)]


def test_line_1_2_a_request_from_a_client_is_received(cluster: Cluster) -> None:
    cluster.leader.admit(TestClient().requests(b"a"))
    assert cluster.leader.pool.stats()["admitted"] == 1


def test_line_3_nothing_pending_nothing_proposed(cluster: Cluster) -> None:
    cluster.leader.verify()
    assert not cluster.leader.outbox


def test_line_3_one_instance_at_a_time(cluster: Cluster) -> None:
    client = TestClient()
    cluster.leader.admit(client.requests(b"a"))
    proposed = [m for _, _, m in cluster.leader.outbox if isinstance(m, Propose)]
    cluster.leader.admit(client.requests(b"b"))
    assert [m for _, _, m in cluster.leader.outbox if isinstance(m, Propose)] == proposed


def test_line_3_only_the_leader_proposes(cluster: Cluster) -> None:
    for node in cluster.followers:
        node.admit(TestClient().requests(b"a"))
        assert not node.outbox


def test_line_4_a_batch_is_bounded() -> None:
    cluster = Cluster(parameters=Parameters(max_batch_requests=3, batch_delay=0))
    cluster.submit(TestClient().requests(*[b"%d" % i for i in range(10)]))
    cluster.run()
    assert [len(operations(execute.data)) for execute in cluster.nodes[0].executed] == [3, 3, 3, 1]


def test_line_4_a_batch_is_fair() -> None:
    cluster = Cluster(parameters=Parameters(max_batch_requests=4))
    cluster.leader.application_blocked = True
    greedy, modest = TestClient(1), TestClient(2)
    # One request first occupies the instance, so that the next batch chooses between both clients.
    cluster.submit(TestClient(3).requests(b"first"))
    cluster.submit(greedy.requests(*[b"g%d" % i for i in range(9)]))
    cluster.submit(modest.requests(b"m0", b"m1"))
    cluster.run()
    second = operations(cluster.nodes[0].executed[1].data)
    assert sorted(second) == [b"g0", b"g1", b"m0", b"m1"]


def test_line_4_requests_are_ordered_although_all_clocks_leapt_beyond_their_sessions(cluster: Cluster) -> None:
    """As when all machines slept for hours: nothing else would advance the agreed time, and so refuse them."""
    client = TestClient()
    cluster.submit(client.requests(b"before"))
    cluster.run()
    agreed = cluster.nodes[0].replica.agreed_time
    for node in cluster.nodes:
        node.now += 2 * cluster.parameters.session_lease
    cluster.submit(client.requests(b"after"))
    cluster.run()
    assert operations(cluster.nodes[0].executed[-1].data) == [b"after"]
    assert cluster.nodes[0].replica.agreed_time == agreed + 1


def test_line_5_instances_are_numbered_without_gap(cluster: Cluster) -> None:
    client = TestClient()
    for _ in range(3):
        cluster.submit(client.requests(b"x"))
        cluster.run()
    assert [execute.instance for execute in cluster.nodes[2].executed] == [1, 2, 3]


def test_line_6_the_proposal_goes_to_all_in_the_leaders_regency(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    cluster.leader.admit(data)
    proposals = [(to, m) for _, to, m in cluster.leader.outbox if isinstance(m, Propose)]
    assert [to for to, _ in proposals] == [node.id for node in cluster.followers]
    message = proposals[0][1]
    assert (message.view, message.regency, message.instance) == (0, 0, 1)
    assert Value.decode(message.value) == Value(NOW, request_digests(CHAIN, data))


def test_line_6_the_predicate_refuses_an_empty_or_repeated_batch(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    digest = request_digests(CHAIN, data)
    follower = cluster.followers[0]
    follower.admit(data)
    follower.receive(cluster.leader.id, Propose(0, 0, 1, Value(NOW, digest + digest).encode()))
    assert not [m for _, _, m in follower.outbox if isinstance(m, Write)]
    assert follower.penalties()


def test_line_6_the_predicate_wants_contiguous_numbers(cluster: Cluster) -> None:
    client = TestClient()
    first, second = client.requests(b"a"), client.requests(b"b")
    follower = cluster.followers[0]
    follower.admit(first + second)
    follower.receive(cluster.leader.id, Propose(0, 0, 1, Value(NOW, request_digests(CHAIN, second)).encode()))
    assert not [m for _, _, m in follower.outbox if isinstance(m, Write)]


def test_line_7_a_decision_needs_a_quorum_of_accepts(cluster: Cluster) -> None:
    cluster.submit(TestClient().requests(b"a"))
    witness = cluster.followers[0]
    cluster.run(lambda e: not (isinstance(e[2], Accept) and e[1] == witness.id and e[0] != cluster.leader.id))
    assert witness.replica.decided == 0  # its own and the leader's: two of three
    assert cluster.leader.replica.decided == 1


def test_line_8_9_a_proven_decision_is_delivered_whatever_the_state(cluster: Cluster) -> None:
    """The paper holds decisions back while stopped; a STOP alone changes nothing here (protocols.md 2.3)."""
    lagging = cluster.followers[0]
    cluster.submit(TestClient().requests(b"a"))
    cluster.run(lambda e: lagging.id not in e[:2])
    assert lagging.replica.decided == 0
    cluster.leader.fire(Timer.PROGRESS)
    cluster.run()
    lagging.fire(Timer.CATCH_UP)
    cluster.run()
    assert lagging.executed[0].data == cluster.leader.executed[0].data


def test_line_10_11_the_decision_log_holds_batch_and_proof(cluster: Cluster) -> None:
    cluster.submit(TestClient().requests(b"a"))
    cluster.run()
    for node in cluster.nodes:
        kinds = [record.kind for record in node.log]
        assert kinds[0] == VALUE
        assert kinds[-1] == DECISION
        proof = parse_decision(b"".join(node.log[-1].parts)).proof
        node.validator.check_proof(proof)
        assert node.recovered().decisions[0].data == node.executed[0].data


def test_line_12_the_next_instance_can_run_at_once(cluster: Cluster) -> None:
    cluster.submit(TestClient().requests(b"a"))
    cluster.run()
    assert {node.ordering.current.instance for node in cluster.nodes} == {2}
    assert not any(node.ordering.running() for node in cluster.nodes)


def test_line_13_execution_is_in_batch_order_on_all_replicas(cluster: Cluster) -> None:
    cluster.submit(TestClient(1).requests(b"a0", b"a1") + TestClient(2).requests(b"b0"))
    cluster.run()
    executions = cluster.executions()
    assert all(execution == executions[0] for execution in executions)
    ordered = operations(executions[0][0])
    assert ordered.index(b"a0") < ordered.index(b"a1")


def test_line_14_15_decided_requests_leave_the_pool_and_its_timer(cluster: Cluster) -> None:
    cluster.submit(TestClient().requests(b"a"))
    assert cluster.followers[0].pool.oldest_pending() == NOW
    cluster.run()
    for node in cluster.nodes:
        assert node.pool.oldest_pending() == -1
        assert node.pool.stats()["pending"] == 0


def test_line_16_each_operation_is_executed_once(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    for _ in range(3):
        cluster.submit(data)
        cluster.run()
    assert cluster.executions() == [[data]] * 4


def test_line_17_replies_go_to_the_client_and_name_the_request(cluster: Cluster) -> None:
    data = TestClient().requests(b"ping")
    cluster.submit(data)
    cluster.run()
    for node in cluster.nodes:
        [(source, frames)] = node.pool.take_replies()
        assert source == 7
        assert request_digests(CHAIN, data) in frames
        assert frames.endswith(b"ping")


def test_line_18_19_a_forwarded_request_is_received_like_a_clients(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    follower = cluster.followers[0]
    cluster.submit(data, to=[follower.id])
    follower.now += cluster.parameters.request_timeout
    follower.fire(Timer.REQUEST)
    assert [m.data for _, _, m in follower.outbox if isinstance(m, Forward)] == [data] * 3
    cluster.run()
    assert cluster.executions() == [[data]] * 4


@pytest.mark.parametrize("garbage", [b"\x01", b"\x05\0\0\0short", (116).to_bytes(4, "little") + bytes(116)])
def test_line_18_19_a_forwarded_list_that_is_none_costs_its_sender_the_channel(
    cluster: Cluster, garbage: bytes
) -> None:
    follower = cluster.followers[0]
    follower.receive(3, Forward(0, 0, TestClient().requests(b"a") + garbage))
    assert [penalty.peer for penalty in follower.penalties()] == [3]
    assert follower.pool.stats()["pending"] == 0


def test_line_20_21_a_bad_signature_is_not_admitted_and_blocks_nothing(cluster: Cluster) -> None:
    client = TestClient()
    bad, good = client.request(b"a", 1, good=False), client.request(b"a", 1)
    node = cluster.leader
    from smartbft._fastpath.pool import join_requests

    node.admit(join_requests([bad]))
    assert not node.outbox
    node.admit(join_requests([good]))
    assert [m for _, _, m in node.outbox if isinstance(m, Propose)]


def test_line_21_a_number_ahead_of_a_gap_waits(cluster: Cluster) -> None:
    from smartbft._fastpath.pool import join_requests

    client = TestClient()
    first, third = client.request(b"1", 1), client.request(b"3", 3)
    cluster.submit(join_requests([first, third]))
    cluster.run()
    assert [operations(e.data) for e in cluster.nodes[0].executed] == [[b"1"]]
    cluster.submit(join_requests([client.request(b"2", 2)]))
    cluster.run()
    assert [operations(e.data) for e in cluster.nodes[0].executed] == [[b"1"], [b"2", b"3"]]


def test_line_22_an_accepted_request_is_pending(cluster: Cluster) -> None:
    follower = cluster.followers[0]
    follower.admit(TestClient().requests(b"a", b"b"))
    assert follower.pool.ready() == 2


def test_line_23_a_deadline_runs_only_for_what_a_leader_could_propose(cluster: Cluster) -> None:
    from smartbft._fastpath.pool import join_requests

    follower = cluster.followers[0]
    follower.admit(join_requests([TestClient().request(b"2", 2)]))
    assert follower.pool.oldest_pending() == -1
    follower.admit(TestClient(2).requests(b"1"))
    assert follower.pool.oldest_pending() == NOW


def test_line_24_received_ordered_and_executed_are_kept_apart(cluster: Cluster) -> None:
    client = TestClient()
    node = cluster.followers[0]
    cluster.submit(client.requests(b"a"))
    assert node.pool.session(client.public_key, NOW) in ((1, 0, 0), None)
    node.application_blocked = True
    cluster.run()
    assert node.pool.session(client.public_key, NOW) == (1, 1, 0)
    node.application_blocked = False
    node.complete_application()
    assert node.pool.session(client.public_key, NOW) == (1, 1, 1)


def proposals(cluster: Cluster) -> list[int]:
    """Requests in each proposal that waits in the leader's outbox, per receiver once."""
    return [
        Value.decode(m.value).count
        for _, to, m in cluster.leader.outbox
        if isinstance(m, Propose) and to == cluster.followers[0].id
    ]


def test_line_4_a_lone_request_is_proposed_at_once(cluster: Cluster) -> None:
    client = TestClient()
    for _ in range(3):
        cluster.submit(client.requests(b"a"))
        assert proposals(cluster) == [1]
        cluster.run()


def test_line_4_requests_under_verification_may_join_until_the_delay_is_over(cluster: Cluster) -> None:
    leader = cluster.leader
    leader.pool.admit(TestClient(1).requests(b"a"), 7, leader.now)
    job = leader.pool.take_unverified(1)
    assert job is not None
    leader.pool.admit(TestClient(2).requests(b"b"), 7, leader.now)
    leader.pool.apply_verdicts(job, job.run())
    leader.step(RequestsVerified())
    assert proposals(cluster) == []
    assert SetTimer(Timer.BATCH, cluster.parameters.batch_delay) in leader.effects
    leader.now += cluster.parameters.batch_delay
    leader.fire(Timer.BATCH)
    assert proposals(cluster) == [1]


def test_line_4_a_batch_waits_for_as_many_as_the_last_had(cluster: Cluster) -> None:
    clients = [TestClient(number) for number in (1, 2, 3)]
    cluster.submit(b"".join(client.requests(b"x") for client in clients))
    cluster.run()
    cluster.submit(clients[0].requests(b"y") + clients[1].requests(b"y"))
    assert proposals(cluster) == []
    cluster.submit(clients[2].requests(b"y"))
    assert proposals(cluster) == [3]


def test_line_4_without_a_delay_nobody_waits() -> None:
    cluster = Cluster(parameters=Parameters(batch_delay=0))
    clients = [TestClient(number) for number in (1, 2, 3)]
    cluster.submit(b"".join(client.requests(b"x") for client in clients))
    cluster.run()
    cluster.submit(clients[0].requests(b"y"))
    assert proposals(cluster) == [1]
