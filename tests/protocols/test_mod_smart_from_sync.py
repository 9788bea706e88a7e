"""The synchronization phase of Mod-SMaRt from its SYNC on: lines 30-44 of Algorithm 3, and how things go on.

Lines 1-29 are in `test_mod_smart_until_sync.py`.
"""

from __future__ import annotations

import pytest
from kit.cluster import Cluster
from kit.regencies import (
    FORGED_STOP_DATA,
    NEW,
    OLD,
    accept,
    digest_of,
    empty_sync,
    install,
    refused,
    second_timeout,
    sent,
    sent_to,
    stop_data,
    sync,
    value_of,
    without,
)
from kit.requests import NOW, TestClient

from smartbft.core.effects import CancelTimer, ReportEvidence
from smartbft.core.inputs import Timer
from smartbft.core.safety import VoteGuard
from smartbft.messages import (
    Accept,
    Decision,
    FetchDecisions,
    Propose,
    Stop,
    StopData,
    Sync,
    Write,
)

# Lines 30-35: SYNC at everybody


def test_line_31_only_the_leader_of_the_regency_may_sign_it(cluster: Cluster) -> None:
    install(cluster, 1, [0])
    statements = [stop_data(signer) for signer in (0, 2, 3)]
    assert refused(cluster.nodes[0], 3, sync(3, statements))
    assert refused(cluster.nodes[0], 2, sync(OLD, statements))
    assert not cluster.nodes[0].replica.guard.synchronized


def test_line_31_only_the_first_of_a_regency_counts(cluster: Cluster) -> None:
    install(cluster, 1, [0])
    node = cluster.nodes[0]
    one, two = TestClient(1).requests(b"a"), TestClient(2).requests(b"b")
    node.admit(one + two)
    first, second = empty_sync(value_of(one)), empty_sync(value_of(two))
    node.receive(NEW, first)
    node.receive(NEW, second)
    assert {m.digest for m in sent(node, Write)} == {digest_of(one)}
    assert ReportEvidence(NEW, first, second) in node.effects


def test_line_31_a_sync_of_an_older_regency_changes_nothing(cluster: Cluster) -> None:
    install(cluster, 2, [0])
    node = cluster.nodes[0]
    records = len(node.log)
    node.receive(NEW, empty_sync())
    assert len(node.log) == records
    assert not node.replica.guard.synchronized


@pytest.mark.parametrize("name", FORGED_STOP_DATA)
def test_line_33_a_sync_with_an_invalid_stopdata_is_refused_whole(cluster: Cluster, name: str) -> None:
    """The paper skips such an entry; a leader that relays one is faulty (protocols.md 2.3)."""
    install(cluster, 1, [3])
    node = cluster.nodes[3]
    good = [stop_data(signer) for signer in (1, 2, 3)]
    assert refused(node, NEW, sync(NEW, [FORGED_STOP_DATA[name], *good]))
    assert not node.replica.guard.synchronized
    node.receive(NEW, sync(NEW, good))
    assert node.replica.guard.synchronized


def test_line_33_field_note_b1_stopdata_of_another_regency_is_refused(cluster: Cluster) -> None:
    install(cluster, 2, [0])
    stale = [stop_data(0, 1), stop_data(2, 2), stop_data(3, 2)]
    assert refused(cluster.nodes[0], 3, sync(3, stale, regency=2))


def test_line_34_a_signer_counts_once_and_signers_are_in_order(cluster: Cluster) -> None:
    install(cluster, 1, [0])
    node = cluster.nodes[0]
    assert refused(node, NEW, sync(NEW, [stop_data(0), stop_data(0), stop_data(2), stop_data(2)]))
    assert refused(node, NEW, sync(NEW, [stop_data(3), stop_data(2), stop_data(0)]))


@pytest.mark.parametrize("n", [4, 5, 7])
def test_line_35_n_minus_f_stopdata_are_needed(n: int) -> None:
    cluster = Cluster(n)
    install(cluster, 1, [0])
    needed = n - cluster.view.f
    statements = [stop_data(signer) for signer in range(n)]
    assert refused(cluster.nodes[0], NEW, sync(NEW, statements[: needed - 1]))
    cluster.nodes[0].receive(NEW, sync(NEW, statements[:needed]))
    assert cluster.nodes[0].replica.guard.synchronized


def test_line_35_the_set_must_be_sound(cluster: Cluster) -> None:
    install(cluster, 1, [0])
    torn = [stop_data(0), stop_data(2), stop_data(3, accepted=(0, bytes(32)))]
    assert refused(cluster.nodes[0], NEW, sync(NEW, torn))


def test_line_35_only_the_value_that_binds_is_taken(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    digest = digest_of(data)
    bound = [stop_data(signer, accepted=(0, digest), written=[(digest, 0)]) for signer in (0, 2, 3)]
    install(cluster, 1, [0])
    node = cluster.nodes[0]
    assert refused(node, NEW, sync(NEW, bound))
    assert refused(node, NEW, sync(NEW, bound, value_of(data, NOW + 1)))
    node.receive(NEW, sync(NEW, bound, value_of(data)))
    assert node.replica.guard.synchronized


# Lines 36-44: going on


def behind_by_one(cluster: Cluster, late: int) -> bytes:
    """Everybody but `late` has decided instance 1; returns its requests."""
    data = TestClient().requests(b"a")
    cluster.submit(data)
    cluster.run(without(late))
    assert cluster.nodes[late].replica.decided == 0
    cluster.drop_all()
    return data


def test_line_36_the_highest_proven_decision_counts(cluster: Cluster) -> None:
    behind_by_one(cluster, 0)
    install(cluster)
    leader = cluster.nodes[NEW]
    leader.receive(0, sent_to(cluster.nodes[0], NEW, StopData)[0])
    leader.receive(3, sent_to(cluster.nodes[3], NEW, StopData)[0])
    [message] = sent_to(leader, 3, Sync)
    assert {each.signer: each.instance for each in message.stop_data} == {0: 1, 2: 2, 3: 2}
    cluster.nodes[3].receive(NEW, message)
    assert cluster.nodes[3].ordering.current.instance == 2


def test_line_37_nothing_is_voted_between_the_installation_and_the_sync(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    node = cluster.nodes[0]
    node.admit(data)
    install(cluster, 1, [0])
    cluster.drop_all()
    node.receive(OLD, Propose(0, 0, 1, value_of(data)))
    node.receive(NEW, Propose(0, 1, 1, value_of(data)))
    for regency in (0, 1):
        for sender in (1, 2, 3):
            node.receive(sender, Write(0, regency, 1, digest_of(data)))
    assert not sent(node, Write)
    assert not sent(node, Accept)
    node.receive(NEW, empty_sync())
    assert {m.regency for m in sent(node, Write)} == {1}
    assert {m.regency for m in sent(node, Accept)} == {1}


def test_line_38_decisions_are_not_held_back_during_the_change(cluster: Cluster) -> None:
    """A quorum of older ACCEPTs still decides: nothing is collected in `Decided`."""
    data = TestClient().requests(b"a")
    cluster.submit(data)
    cluster.run(lambda envelope: not isinstance(envelope[2], Accept))
    cluster.drop_all()
    install(cluster, 1, [0])
    node = cluster.nodes[0]
    assert node.ordering.current.accepted == (0, digest_of(data))
    for sender in (2, 3):
        node.receive(sender, accept(sender, 0, 1, digest_of(data)))
    assert [execute.data for execute in node.executed] == [data]
    assert node.replica.regency == 1


def test_line_39_the_stop_is_over_when_the_regency_begins(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.admit(TestClient().requests(b"a"))
    second_timeout(node)
    install(cluster, 1, [0])
    node.receive(NEW, empty_sync())
    cluster.drop_all()
    node.fire(Timer.RESEND)
    assert not sent(node, Stop)
    assert not node.ordering.changing()
    assert CancelTimer(Timer.REGENCY) in node.effects


def test_line_40_41_missing_decisions_are_fetched_and_delivered_before_the_regency_begins(cluster: Cluster) -> None:
    data = behind_by_one(cluster, 0)
    install(cluster)
    late, leader = cluster.nodes[0], cluster.nodes[NEW]
    for signer in (0, 3):
        leader.receive(signer, sent_to(cluster.nodes[signer], NEW, StopData)[0])
    [message] = sent_to(leader, 0, Sync)
    cluster.drop_all()
    late.receive(NEW, message)
    assert not late.replica.guard.synchronized
    late.fire(Timer.CATCH_UP)
    assert sent(late, FetchDecisions)
    cluster.run()
    assert [execute.data for execute in late.executed] == [data]
    assert late.replica.guard.synchronized


def test_line_40_41_a_leader_that_is_behind_catches_up_before_its_sync(cluster: Cluster) -> None:
    data = behind_by_one(cluster, NEW)
    install(cluster)
    leader = cluster.nodes[NEW]
    for signer in (0, 3):
        leader.receive(signer, sent_to(cluster.nodes[signer], NEW, StopData)[0])
    cluster.drop_all()
    assert not sent(leader, Sync)
    leader.fire(Timer.CATCH_UP)
    cluster.run()
    assert [execute.data for execute in leader.executed] == [data]
    assert {node.replica.guard.synchronized for node in cluster.nodes} == {True}


def test_line_42_43_the_running_instance_goes_on_with_the_value_that_binds(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    cluster.submit(data)
    cluster.run(lambda envelope: not isinstance(envelope[2], Accept))
    cluster.drop_all()
    install(cluster)
    cluster.run(without(OLD))
    assert cluster.executions() == [[data], [], [data], [data]]
    decided = cluster.nodes[0].recovered().decisions[0].proof
    assert (decided.regency, decided.instance) == (1, 1)


def test_line_42_43_the_new_leader_proposes_where_nothing_binds(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    cluster.submit(data, to=[0, 2, 3])
    cluster.drop_all()
    install(cluster)
    cluster.run(without(OLD))
    assert cluster.executions() == [[data], [], [data], [data]]


def test_line_44_with_nothing_to_do_the_next_instance_waits_for_requests(cluster: Cluster) -> None:
    install(cluster)
    cluster.run(without(OLD))
    assert not any(node.ordering.running() for node in cluster.nodes if node.id != OLD)
    data = TestClient().requests(b"a")
    cluster.submit(data)
    cluster.run(without(OLD))
    assert cluster.executions() == [[data], [], [data], [data]]
    assert {m.regency for _, _, m in cluster.delivered if isinstance(m, Propose)} == {1}


def test_a_decided_instance_is_settled_whatever_the_new_regency_says(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    cluster.submit(data)
    cluster.run()
    node = cluster.nodes[0]
    install(cluster, 1, [0])
    cluster.drop_all()
    other = TestClient(9).requests(b"other")
    node.admit(other)
    node.receive(NEW, empty_sync(value_of(other), signers=(1, 2, 3)))
    assert not sent(node, Write)
    node.receive(NEW, Decision(0, 1, 1, value_of(data), data, node.recovered().decisions[0].proof))
    assert [execute.data for execute in node.executed] == [data]


# Planted bug


class Unbound(VoteGuard):
    """Planted bug: the installed regency binds nobody."""

    def _may_vote(self, instance: int, regency: int) -> bool:
        return instance > self._decided


def test_planted_bug_votes_before_the_sync_are_seen(cluster: Cluster) -> None:
    cluster.nodes[0].replica.guard = Unbound()
    with pytest.raises(AssertionError):
        test_line_37_nothing_is_voted_between_the_installation_and_the_sync(cluster)
