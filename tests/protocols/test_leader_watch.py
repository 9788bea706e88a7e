"""Leaders that keep proposals back: who is asked, who is late, and what is not the leader's fault."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kit.cluster import Cluster, Envelope, Node
from kit.requests import TestClient

from smartbft._fastpath.pool import split_requests
from smartbft.core.inputs import Timer
from smartbft.core.proposal_delays import ProposalDelays
from smartbft.limits import LATE_PROPOSALS, MAX_EXECUTION_BACKLOG
from smartbft.messages import FetchRequests, FetchValue, Forward, Progress, Propose, Stop, Write
from smartbft.protocols.mod_smart.leader_watch import LeaderWatch
from smartbft.protocols.vp_consensus import VPConsensus
from smartbft.types import Parameters, Value

LEADER, FOLLOWER = 1, 0
PARAMETERS = Parameters(batch_delay=0, proposal_timeout=100_000)
HALF = PARAMETERS.proposal_timeout // 2


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(parameters=PARAMETERS)


def look(node: Node, microseconds: int) -> None:
    """Time passes, and the timer fires."""
    node.now += microseconds
    node.fire(Timer.PROPOSAL)


def sent(node: Node, kind: type) -> list[Envelope]:
    return [envelope for envelope in node.outbox if isinstance(envelope[2], kind)]


def hold(kind: type, held: list[Envelope], to: tuple[int, ...] = (0, 1, 2, 3)) -> Callable[[Envelope], bool]:
    """A filter for `Cluster.run` that keeps messages of one kind back."""

    def passes(envelope: Envelope) -> bool:
        if isinstance(envelope[2], kind) and envelope[1] in to:
            held.append(envelope)
            return False
        return True

    return passes


def keep_back(cluster: Cluster, data: bytes, delay: int, to: list[int] | None = None) -> None:
    """One instance, whose proposal the leader keeps back for so long."""
    held: list[Envelope] = []
    cluster.submit(data, to)
    cluster.run(hold(Propose, held))
    for node in cluster.nodes:
        if node.id == LEADER:
            node.now += delay
    for _ in range(delay // HALF):
        for node in cluster.followers:
            look(node, HALF)
        cluster.run(hold(Propose, held))
    for node in cluster.followers:
        look(node, delay % HALF)
    cluster.nodes[LEADER].outbox.extend(held)
    cluster.run()


def waited(node: Node) -> int:
    return node.ordering._watch.delays._waited


# --- who is asked, and who is late


def reminded_of(cluster: Cluster, unverified: int) -> list[bytes]:
    """Two requests are ready at a follower when half of the time is over, and others are not verified."""
    node = cluster.nodes[FOLLOWER]
    client = TestClient()
    node.admit(client.requests(b"first"))
    node.now += 1
    node.admit(client.requests(b"second"))
    node.pool.admit(TestClient(2).requests(*(b"%d" % number for number in range(unverified))), 7, node.now)
    look(node, HALF)
    ((_, to, message),) = sent(node, Forward)
    assert to == LEADER
    return [operation for _, _, _, operation, _ in split_requests(message.data)]


def test_a_follower_reminds_the_leader_alone_of_what_is_ready(cluster: Cluster) -> None:
    assert reminded_of(cluster, 1) == [b"first", b"second"]


def test_a_follower_with_much_to_verify_reminds_the_leader_of_the_oldest_request(cluster: Cluster) -> None:
    """The leader will have much to verify as well."""
    assert reminded_of(cluster, 2) == [b"first"]


def test_nobody_is_reminded_of_what_was_proposed_in_time(cluster: Cluster) -> None:
    client = TestClient()
    for number in range(5):
        cluster.submit(client.requests(b"%d" % number))
        cluster.run()
        look(cluster.nodes[FOLLOWER], HALF)
    assert sent(cluster.nodes[FOLLOWER], Forward) == []
    assert waited(cluster.nodes[FOLLOWER]) == 0


def test_one_timer_serves_many_instances(cluster: Cluster) -> None:
    client = TestClient()
    for number in range(20):
        cluster.submit(client.requests(b"%d" % number))
        cluster.run()
    assert cluster.nodes[FOLLOWER].timers().count(Timer.PROPOSAL) == 1


def test_a_proposal_that_comes_before_the_second_look_is_not_late(cluster: Cluster) -> None:
    keep_back(cluster, TestClient().requests(b"a"), 2 * HALF - 1)
    assert [waited(node) for node in cluster.nodes] == [0, 0, 0, 0]


def test_a_proposal_that_was_asked_for_in_vain_is_late(cluster: Cluster) -> None:
    keep_back(cluster, TestClient().requests(b"a"), 2 * HALF)
    assert [waited(node) for node in cluster.nodes] == [2 * HALF, 0, 2 * HALF, 2 * HALF]


def test_a_leader_that_is_late_most_of_the_time_is_replaced(cluster: Cluster) -> None:
    client = TestClient()
    for number in range(LATE_PROPOSALS):
        assert {node.replica.regency for node in cluster.nodes} == {0}
        keep_back(cluster, client.requests(b"%d" % number), 8 * HALF)
    node = cluster.nodes[FOLLOWER]
    assert {node.replica.regency for node in cluster.nodes} == {1}
    status = node.replica.status()
    assert status["regency_changes"] == 1
    assert "4 proposals came late: 1.6 of 1.6 s went by waiting for them" in status["last_regency_change"]["reason"]
    allowed = {node.ordering._watch.delays.allowed(node.now) for node in cluster.followers if node.id != LEADER}
    assert 4 * HALF in allowed


def test_what_was_asked_for_is_withdrawn_when_the_leader_is_quick_again(cluster: Cluster) -> None:
    """One replica alone saw late proposals."""
    client, node = TestClient(), cluster.nodes[FOLLOWER]
    for number in range(LATE_PROPOSALS):
        held: list[Envelope] = []
        cluster.submit(client.requests(b"%d" % number))
        cluster.run(hold(Propose, held, to=(FOLLOWER,)))
        for _ in range(8):
            look(node, HALF)
        cluster.nodes[LEADER].outbox.extend(held)
        cluster.run()
        node.ordering._watch.delays.decided(8 * HALF, 8 * HALF)  # it decided with the others; now as if it had not
    cluster.submit(client.requests(b"more"))
    cluster.run()
    assert node.ordering.changing()
    for number in range(3):
        node.ordering._watch.delays.decided(0, 2_000_000)
        node.ordering._watch.delays.requests.decided(0, 2_000_000, 1, 0, 2 * HALF)
        cluster.submit(client.requests(b"quick %d" % number))
        cluster.run()
    node.now += 2_000_000
    node.fire(Timer.RESEND)
    node.fire(Timer.RESEND)
    assert not node.ordering.changing()
    assert node.replica.regency == 0


# --- what is not the leader's fault


@pytest.mark.parametrize("told", [[0], [2, 3], [0, 2, 3]])
def test_a_client_that_tells_followers_only_makes_no_leader_late(cluster: Cluster, told: list[int]) -> None:
    """L4: the leader proposes what it is reminded of."""
    client = TestClient()
    for number in range(3 * LATE_PROPOSALS):
        cluster.submit(client.requests(b"%d" % number), told)
        cluster.run()
        for node in cluster.followers:
            look(node, HALF)
        cluster.run()
        for node in cluster.followers:
            node.now += PARAMETERS.fetch_grace
            node.fire(Timer.FETCH)
        cluster.run()
        for node in cluster.followers:
            look(node, HALF)
            look(node, HALF)
    assert {node.replica.decided for node in cluster.nodes} == {3 * LATE_PROPOSALS}
    assert [waited(node) for node in cluster.nodes] == [0, 0, 0, 0]
    assert {node.replica.regency for node in cluster.nodes} == {0}


def test_a_client_that_leaves_a_gap_reminds_nobody(cluster: Cluster) -> None:
    client, node = TestClient(), cluster.nodes[FOLLOWER]
    client.requests(b"never sent")
    node.admit(client.requests(b"after the gap"))
    look(node, HALF)
    look(node, HALF)
    assert sent(node, Forward) == []
    assert node.ordering._watch._since < 0


def unverified(cluster: Cluster) -> Node:
    """A follower whose requests are here, the proposal as well, and whose verification takes its time."""
    node, data = cluster.nodes[FOLLOWER], TestClient().requests(b"a")
    for other in cluster.nodes:
        if other is not node:
            other.admit(data)
    node.pool.admit(data, 7, node.now)
    node.verify = lambda: None
    cluster.run()
    node.ordering._watch.look()
    for _ in range(4):
        look(node, HALF)
    return node


def test_verification_here_is_not_the_leaders_fault(cluster: Cluster) -> None:
    node = unverified(cluster)
    assert node.replica.decided == 0
    assert node.ordering._watch._waited == 0


def test_our_own_backlog_of_execution_is_not_the_leaders_fault(cluster: Cluster) -> None:
    client, node = TestClient(), cluster.nodes[FOLLOWER]
    node.application_blocked = True
    for number in range(MAX_EXECUTION_BACKLOG):
        cluster.submit(client.requests(b"%d" % number))
        cluster.run()
    assert not node.replica.may_propose()
    node.admit(client.requests(b"more"))
    for _ in range(4):
        look(node, HALF)
    assert sent(node, Forward) == []
    assert node.ordering._watch._waited == 0


def test_a_replica_that_only_learns_watches_nobody(cluster: Cluster) -> None:
    node = cluster.nodes[FOLLOWER]
    node.replica.guard.suspend("it learns")
    node.admit(TestClient().requests(b"a"))
    look(node, HALF)
    assert sent(node, Forward) == []


def test_a_decision_that_came_without_its_proposal_says_nothing_about_the_leader(cluster: Cluster) -> None:
    """We were cut off, or stood still: the others went on."""
    node = cluster.nodes[FOLLOWER]
    cluster.submit(TestClient().requests(b"a"))
    cluster.run(lambda envelope: envelope[1] != FOLLOWER and envelope[0] != FOLLOWER)
    for _ in range(4):
        look(node, HALF)
    cluster.drop_all()
    node.receive(2, Progress(0, 0, 1))
    node.fire(Timer.CATCH_UP)
    cluster.run()
    assert node.replica.decided == 1
    assert waited(node) == 0


# --- other ways to be slow


def test_bodies_that_the_leader_keeps_back_are_its_delay(cluster: Cluster) -> None:
    """The proposal comes at once, and names a request that nobody else has."""
    held: list[Envelope] = []
    cluster.submit(TestClient(1).requests(b"theirs"), [0, 2, 3])
    cluster.nodes[LEADER].admit(TestClient(2).requests(b"mine"))
    cluster.run()
    node = cluster.nodes[FOLLOWER]
    node.now += PARAMETERS.fetch_grace
    node.fire(Timer.FETCH)
    cluster.run(hold(FetchRequests, held))
    look(node, HALF)
    look(node, HALF)
    assert node.ordering._watch._waited > 0


def test_a_time_ahead_of_all_clocks_is_its_delay(cluster: Cluster) -> None:
    node, data = cluster.nodes[FOLLOWER], TestClient().requests(b"a")
    node.admit(data)
    value = Value(node.now + cluster.parameters.clock_skew + 1_900_000, node.pool.form_batch(8, 1 << 20, node.now)[0])
    node.receive(LEADER, Propose(0, 0, 1, value.encode()))
    look(node, HALF)
    look(node, HALF)
    assert node.ordering._watch._waited == 2 * HALF


def test_a_proposal_for_some_only_is_asked_for_by_the_others(cluster: Cluster) -> None:
    """`f + 1` see it in time and suspect nobody; without the others' votes nothing would be decided."""
    late = cluster.nodes[3]
    cluster.submit(TestClient().requests(b"a"))

    def passes(envelope: Envelope) -> bool:
        return envelope[0] != LEADER or (isinstance(envelope[2], Propose) and envelope[1] != 3)

    cluster.run(passes)
    assert [node.replica.decided for node in cluster.nodes] == [0, 0, 0, 0]
    look(late, HALF)
    assert {to for _, to, _ in sent(late, FetchValue)} == {0, 2}
    cluster.run(passes)
    assert [cluster.nodes[id].replica.decided for id in (0, 2, 3)] == [1, 1, 1]


def test_a_value_that_only_the_faulty_write_is_no_proposal(cluster: Cluster) -> None:
    node = cluster.nodes[3]
    node.admit(TestClient().requests(b"a"))
    node.receive(2, Write(0, 0, 1, b"v" * 32))
    look(node, HALF)
    assert sent(node, FetchValue) == []
    value = Value(node.now, node.pool.form_batch(8, 1 << 20, node.now)[0]).encode()
    assert not node.ordering.current.on_value(value)
    assert node.ordering.current.proposal is None


# --- planted bugs


def replaced(cluster: Cluster) -> bool:
    client = TestClient()
    for number in range(LATE_PROPOSALS):
        keep_back(cluster, client.requests(b"%d" % number), 8 * HALF)
    return {node.replica.regency for node in cluster.nodes} == {1}


def test_planted_bug_a_judgement_that_nobody_carries_out_is_found(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ProposalDelays, "too_slow", False)
    assert not replaced(cluster)


def test_planted_bug_a_leader_that_is_not_asked_is_found(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a client that tells the followers only makes a correct leader late."""
    monkeypatch.setattr(LeaderWatch, "_ask", lambda self: None)
    with pytest.raises(AssertionError):
        test_a_client_that_tells_followers_only_makes_no_leader_late(cluster, [0, 2, 3])


def test_planted_bug_blaming_the_leader_for_our_verification_is_found(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(VPConsensus, "waits_for_leader", lambda self: not self.data)
    assert unverified(cluster).ordering._watch._waited > 0


def test_the_stop_of_a_slow_leader_carries_no_requests(cluster: Cluster) -> None:
    client = TestClient()
    for number in range(LATE_PROPOSALS):
        keep_back(cluster, client.requests(b"%d" % number), 8 * HALF)
    stops = [envelope for envelope in cluster.delivered if isinstance(envelope[2], Stop)]
    assert stops
    assert all(message.data == b"" for _, _, message in stops)
