"""Exactly once, whatever happens to the leader: a request in flight is executed once, and its client gets the reply.

Scripted on the lockstep cluster: the leader dies after a given message, or replicas restart, and the client sends its
request again to everybody, as the client library does.
"""

from __future__ import annotations

import pytest
from kit.cluster import Cluster, Envelope, Node
from kit.requests import TestClient

from smartbft._fastpath.frames import REPLY, frame
from smartbft._fastpath.pool import EXECUTED, RequestPool, split_requests
from smartbft.core.inputs import RequestsVerified, Timer
from smartbft.messages import Accept, Forward, Message, Propose, Stop, StopData, Sync, Write
from smartbft.types import Parameters

SOURCE = 7
HALF = Parameters().request_timeout // 2


def make_cluster(n: int = 4) -> Cluster:
    return Cluster(n, Parameters(batch_delay=0))


def executed_operations(node: Node) -> list[bytes]:
    """Everything the node's application has executed, in order."""
    return [operation for one in node.executed for _, _, _, operation, _ in split_requests(one.data)]


def replies(node: Node) -> list[bytes]:
    """The reply payloads that leave towards the client's connection now, without the replica's id."""
    found = []
    for source, frames in node.pool.take_replies():
        assert source == SOURCE
        while frames:
            end = 4 + int.from_bytes(frames[:4], "little")
            payload = frames[5:end]
            assert frames[:end] == frame(REPLY, payload)
            found.append(payload[2:])
            frames = frames[end:]
    return found


def wait(cluster: Cluster, alive: list[Node], microseconds: int) -> None:
    """Time passes, everybody looks at the oldest request, and messages between the living are delivered."""
    for node in alive:
        node.now += microseconds
        node.fire(Timer.REQUEST)
    run_among(cluster, alive)


def run_among(cluster: Cluster, alive: list[Node]) -> None:
    ids = {node.id for node in alive}
    cluster.run(lambda envelope: envelope[0] in ids and envelope[1] in ids)


def replace_leader(cluster: Cluster, alive: list[Node]) -> None:
    """Forwarding, suspicion and the change to the next regency; each failed regency doubles the timeout."""
    regency = alive[0].replica.regency
    for _ in range(8):
        wait(cluster, alive, HALF)
        if all(node.replica.regency > regency for node in alive):
            return
    raise AssertionError("no regency change")


class FailsAfter:
    """Lets messages pass until the leader has sent `count` of one kind; then the leader is cut off."""

    def __init__(self, leader: int, kind: type[Message], count: int) -> None:
        self.leader, self.kind, self.left = leader, kind, count
        self.dead = False

    def __call__(self, envelope: Envelope) -> bool:
        sender, to, message = envelope
        if sender == self.leader and isinstance(message, self.kind):
            self.dead = self.dead or self.left == 0
            self.left -= 1
        return not (self.dead and self.leader in (sender, to))


@pytest.mark.parametrize("kind", [Propose, Write, Accept])
@pytest.mark.parametrize("count", [0, 1, 2])
def test_a_request_in_flight_when_the_leader_dies_is_executed_once(kind: type[Message], count: int) -> None:
    cluster = make_cluster()
    leader, survivors = cluster.leader, cluster.followers
    data = TestClient().requests(b"in flight")
    cluster.submit(data)
    cluster.run(FailsAfter(leader.id, kind, count))
    if not all(node.replica.decided for node in survivors):
        replace_leader(cluster, survivors)
    cluster.submit(data, [node.id for node in survivors])  # the client asks again
    wait(cluster, survivors, HALF)
    assert [executed_operations(node) for node in survivors] == [[b"in flight"]] * 3
    answers = {reply for node in survivors for reply in replies(node)}
    assert len(answers) == 1, "replies of correct replicas are equal, byte for byte"
    assert answers.pop()[0] == EXECUTED


def test_requests_before_and_after_a_regency_change_are_one_history() -> None:
    cluster = make_cluster()
    client = TestClient()
    cluster.submit(client.requests(b"1"))
    cluster.run()
    old, survivors = cluster.leader, cluster.followers
    cluster.submit(client.requests(b"2", b"3"), [node.id for node in survivors])
    replace_leader(cluster, survivors)
    cluster.submit(client.requests(b"4"), [node.id for node in survivors])
    run_among(cluster, survivors)
    assert [executed_operations(node) for node in survivors] == [[b"1", b"2", b"3", b"4"]] * 3
    old.outbox.clear()
    returned = cluster.restart(old.id)
    for node in cluster.nodes:
        node.fire(Timer.PROGRESS)
    cluster.run()
    for _ in range(4):
        if returned.replica.decided == survivors[0].replica.decided:
            break
        returned.now += cluster.parameters.resend_interval
        returned.fire(Timer.CATCH_UP)
        cluster.run()
    assert executed_operations(returned) == [b"1", b"2", b"3", b"4"]


def test_a_retransmission_to_all_after_a_regency_change_gets_the_reply_and_no_second_execution() -> None:
    cluster = make_cluster()
    survivors = cluster.followers
    data = TestClient().requests(b"once")
    cluster.submit(data, [node.id for node in survivors])
    replace_leader(cluster, survivors)
    first = [replies(node) for node in survivors]
    for _ in range(3):
        cluster.submit(data, [node.id for node in survivors])
        run_among(cluster, survivors)
        assert [replies(node) for node in survivors] == first
    assert all(len(reply) == 1 for reply in first)
    assert [executed_operations(node) for node in survivors] == [[b"once"]] * 3


def test_after_a_restart_the_reply_is_there_again_by_execution_of_the_log() -> None:
    cluster = make_cluster()
    client = TestClient()
    requests = [client.requests(b"%d" % number) for number in range(5)]
    for data in requests:
        cluster.submit(data)
        cluster.run()
    before = {node.id: replies(node) for node in cluster.nodes}
    for node in cluster.nodes:
        restarted = cluster.restart(node.id)
        assert executed_operations(restarted) == [b"0", b"1", b"2", b"3", b"4"]
        for data, reply in zip(requests, before[node.id], strict=True):
            restarted.admit(data)
            assert replies(restarted) == [reply]
        assert restarted.pool.ready() == 0


def test_a_request_that_is_ordered_but_not_executed_at_the_restart_is_executed_once() -> None:
    cluster = make_cluster()
    node = cluster.followers[0]
    node.application_blocked = True
    data = TestClient().requests(b"slow")
    cluster.submit(data)
    cluster.run()
    assert node.replica.decided == 1
    assert node.replica.executed == 0
    restarted = cluster.restart(node.id)
    restarted.admit(data)
    assert executed_operations(restarted) == [b"slow"]
    assert len(replies(restarted)) == 1


def test_duplicates_in_forward_and_stop_are_not_executed_again() -> None:
    """A replica that missed the decision forwards, and asks to stop, with requests that everybody else executed."""
    cluster = make_cluster()
    late = cluster.followers[0]
    data = TestClient().requests(b"once")
    cluster.submit(data)
    cluster.run(lambda envelope: late.id not in envelope[:2])
    assert late.replica.decided == 0
    others = [node for node in cluster.nodes if node is not late]
    for message in (Forward(0, 0, data), Forward(0, 0, data + data), Stop(0, 0, 1, data)):
        for node in others:
            node.receive(late.id, message)
        cluster.run(lambda envelope: late.id not in envelope[:2])
    assert [executed_operations(node) for node in others] == [[b"once"]] * 3
    assert {node.replica.regency for node in others} == {0}
    assert all(node.pool.ready() == 0 for node in others)


def test_requests_that_only_a_stop_has_told_are_ordered_once() -> None:
    """Algorithm 3, line 12: more than f STOPs hand their requests over; then the client's own copy comes too."""
    cluster = make_cluster()
    leader, survivors = cluster.leader, cluster.followers
    data = TestClient().requests(b"told one")
    survivors[0].admit(data)
    for node in survivors:
        node.now += 3 * HALF
        for other in survivors:
            if other is not node:
                node.receive(other.id, Stop(0, 0, 1, data))
    run_among(cluster, survivors)
    assert {node.replica.regency for node in survivors} == {1}
    cluster.submit(data, [node.id for node in survivors])
    wait(cluster, survivors, HALF)
    assert [executed_operations(node) for node in survivors] == [[b"told one"]] * 3
    assert leader.replica.decided == 0


def test_two_leaders_die_one_after_the_other() -> None:
    cluster = make_cluster(7)
    client = TestClient()
    alive = list(cluster.nodes)
    operations = []
    for number in range(2):
        regency = alive[0].replica.regency
        leader = cluster.view.leader(regency)
        alive = [node for node in alive if node.id != leader]
        operations.append(b"%d" % number)
        cluster.submit(client.requests(operations[-1]), [node.id for node in alive])
        replace_leader(cluster, alive)
    assert [executed_operations(node) for node in alive] == [operations] * 5
    assert any(isinstance(message, Sync) for _, _, message in cluster.delivered)
    assert any(isinstance(message, StopData) for _, _, message in cluster.delivered)


class _ExecutesTwice(RequestPool):
    """Planted bug: a retransmission of an executed request enters the pool as if it were new."""

    def admit(self, data, source, now):  # type: ignore[no-untyped-def]
        if self.session(data[4:36], int.from_bytes(data[36:44], "little")) and not self.ready():
            number = self.session(data[4:36], int.from_bytes(data[36:44], "little"))[1] + 1
            data = data[:44] + number.to_bytes(8, "little") + data[52:]
        return super().admit(data, source, now)


def test_planted_bug_a_retransmission_that_is_taken_for_new_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kit.cluster.RequestPool", _ExecutesTwice)
    monkeypatch.setattr(Node, "verify", _verify_blindly)
    with pytest.raises(AssertionError):
        test_a_retransmission_to_all_after_a_regency_change_gets_the_reply_and_no_second_execution()


def _verify_blindly(node: Node) -> None:
    while (job := node.pool.take_unverified(1000)) is not None:
        node.pool.apply_verdicts(job, b"\1" * job.count)
    node.step(RequestsVerified())
