"""The synchronization phase of Mod-SMaRt until its SYNC: one test (at least) for each line, 1-29, of Algorithm 3.

Lines are numbered as the paper's text refers to them (EDCC 2012, section V-D): 1-4 time-outs, 5-10 StartRegChange,
11-18 STOP, 19-23 the new regency, 24-29 STOPDATA at the leader; lines 30-44 are in `test_mod_smart_from_sync.py`.
"""

from __future__ import annotations

import pytest
from kit.cluster import Cluster
from kit.regencies import (
    FORGED_STOP_DATA,
    NEW,
    OLD,
    empty_sync,
    first_timeout,
    install,
    refused,
    second_timeout,
    sent,
    sent_to,
    stop_data,
    value_of,
    wait,
)
from kit.requests import TestClient

from smartbft._fastpath.pool import join_requests
from smartbft.core.effects import ReportEvidence, SetTimer
from smartbft.core.inputs import Timer
from smartbft.core.records import REGENCY
from smartbft.core.records import SYNC as SYNC_RECORD
from smartbft.messages import Accept, FetchSync, Forward, Stop, StopData, Sync
from smartbft.protocols.mod_smart.suspicions import Suspicions
from smartbft.types import Parameters

# Lines 1-4: time-outs of requests


def test_line_1_no_deadline_without_a_request(cluster: Cluster) -> None:
    for _ in range(5):
        second_timeout(cluster.nodes[0])
    assert not cluster.nodes[0].outbox


def test_line_1_no_deadline_for_what_a_leader_could_not_propose(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.admit(join_requests([TestClient().request(b"ahead of a gap", 2)]))
    second_timeout(node)
    assert not node.outbox


def test_line_2_3_the_first_timeout_forwards_to_all_and_suspects_nobody(cluster: Cluster) -> None:
    data = TestClient().requests(b"a", b"b")
    node = cluster.nodes[0]
    node.admit(data)
    first_timeout(node)
    assert [(to, m.data) for _, to, m in node.outbox if isinstance(m, Forward)] == [(1, data), (2, data), (3, data)]
    assert not sent(node, Stop)


def test_line_4_the_second_timeout_suspects_the_leader(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.admit(TestClient().requests(b"a"))
    second_timeout(node)
    assert [to for _, to, m in node.outbox if isinstance(m, Stop)] == [1, 2, 3]


def test_line_4_a_request_that_was_ordered_in_time_leads_to_nothing(cluster: Cluster) -> None:
    cluster.submit(TestClient().requests(b"a"))
    cluster.run()
    for node in cluster.nodes:
        second_timeout(node)
    assert not any(sent(node, Stop) or sent(node, Forward) for node in cluster.nodes)


# Lines 5-10: StartRegChange


def test_line_6_one_change_at_a_time(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.admit(TestClient().requests(b"a"))
    second_timeout(node)
    node.outbox.clear()
    for _ in range(5):
        wait(node, node.ordering.timeout)
    assert not sent(node, Stop)
    assert node.ordering.waiting_for().startswith("STOP for regency 1")


def test_line_7_a_stop_alone_stops_nothing(cluster: Cluster) -> None:
    """The paper holds decisions back from here on. Here they are proven, and delivered (protocols.md 2.3)."""
    data = TestClient().requests(b"a")
    cluster.submit(data, to=[0, 2, 3])
    second_timeout(cluster.nodes[0])
    assert sent(cluster.nodes[0], Stop)
    cluster.drop_all()
    cluster.nodes[OLD].now = cluster.nodes[0].now
    cluster.submit(data, to=[OLD])
    cluster.run()
    assert cluster.executions() == [[data]] * 4
    assert {node.replica.regency for node in cluster.nodes} == {0}


def test_line_8_the_next_regency_is_asked_for(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.admit(TestClient().requests(b"a"))
    second_timeout(node)
    assert {(m.regency, m.target) for m in sent(node, Stop)} == {(0, 1)}
    assert node.replica.regency == 0


def test_line_9_a_suspected_request_is_not_timed_again(cluster: Cluster) -> None:
    """Nothing of it leads beyond the next regency while that is not installed."""
    node = cluster.nodes[0]
    node.admit(TestClient().requests(b"a"))
    second_timeout(node)
    for _ in range(3):
        second_timeout(node)
    assert {m.target for m in sent(node, Stop)} == {1}


def test_line_10_stop_carries_the_requests_and_is_repeated_while_it_is_meant(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    node = cluster.nodes[0]
    node.admit(data)
    second_timeout(node)
    assert {m.data for m in sent(node, Stop)} == {data}
    node.outbox.clear()
    node.fire(Timer.RESEND)
    assert [(to, m.target, m.data) for _, to, m in node.outbox if isinstance(m, Stop)] == [
        (to, 1, data) for to in (1, 2, 3)
    ]


def test_line_10_a_stop_that_nobody_needs_any_more_is_not_repeated(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    cluster.submit(data)
    node = cluster.nodes[0]
    second_timeout(node)
    node.outbox = [envelope for envelope in node.outbox if not isinstance(envelope[2], Stop)]
    cluster.run()
    assert cluster.executions() == [[data]] * 4
    wait(node, 1)
    node.fire(Timer.RESEND)
    assert not sent(node, Stop)
    assert not node.ordering.changing()


# Lines 11-18: STOP


def test_line_12_a_stop_for_an_installed_regency_changes_nothing(cluster: Cluster) -> None:
    install(cluster)
    node = cluster.nodes[0]
    before = len(node.log)
    for sender in (1, 2, 3):
        node.receive(sender, Stop(0, 0, 1, b""))
    assert node.replica.regency == 1
    assert len(node.log) == before


def test_line_12_a_stop_that_asks_for_nothing_new_is_malformed(cluster: Cluster) -> None:
    assert refused(cluster.nodes[0], 1, Stop(0, 1, 1, b""))


def test_line_12_a_stop_of_another_view_is_void(cluster: Cluster) -> None:
    assert refused(cluster.nodes[0], 1, Stop(1, 0, 1, b""))


def test_line_13_the_requests_of_a_stop_are_adopted(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    node = cluster.nodes[0]
    node.receive(3, Stop(0, 0, 1, data))
    assert node.pool.ready() == 1


def test_line_14_members_are_counted_once(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    for _ in range(9):
        node.receive(3, Stop(0, 0, 1, b""))
    assert not sent(node, Stop)
    assert node.replica.regency == 0


@pytest.mark.parametrize(("n", "f"), [(4, 1), (5, 1), (7, 2)])
def test_line_15_more_than_f_are_joined(n: int, f: int) -> None:
    node = Cluster(n).nodes[0]
    for sender in range(1, f + 1):
        node.receive(sender, Stop(0, 0, 1, b""))
    assert not sent(node, Stop)
    node.receive(f + 1, Stop(0, 0, 1, b""))
    assert {m.target for m in sent(node, Stop)} == {1}


def test_line_15_a_stop_for_a_later_regency_counts_for_those_before_it(cluster: Cluster) -> None:
    """Replicas whose timers ran differently find together."""
    node = cluster.nodes[0]
    node.receive(2, Stop(0, 0, 4, b""))
    node.receive(3, Stop(0, 0, 1, b""))
    assert {m.target for m in sent(node, Stop)} == {1}
    assert node.replica.regency == 1  # with its own there are three that ask for 1 or more


def test_line_16_only_valid_requests_are_adopted(cluster: Cluster) -> None:
    client = TestClient()
    node = cluster.nodes[0]
    node.receive(3, Stop(0, 0, 1, join_requests([client.request(b"forged", 1, good=False)])))
    assert node.pool.ready() == 0
    assert [penalty.peer for penalty in node.penalties()] == [3]  # a correct replica passes on what it has verified
    node.receive(2, Stop(0, 0, 1, b"\x05\0\0\0short"))
    assert [penalty.peer for penalty in node.penalties()] == [3, 2]
    node.receive(2, Stop(0, 0, 1, join_requests([client.request(b"good", 1)])))
    assert node.pool.ready() == 1


def test_line_17_who_joins_sends_its_own_stop_with_its_own_requests(cluster: Cluster) -> None:
    data = TestClient().requests(b"mine")
    node = cluster.nodes[0]
    node.admit(data)
    node.now += node.ordering.timeout
    node.receive(2, Stop(0, 0, 1, b""))
    node.receive(3, Stop(0, 0, 1, b""))
    assert [(to, m.data) for _, to, m in node.outbox if isinstance(m, Stop)] == [(to, data) for to in (1, 2, 3)]


def test_line_18_adopted_requests_are_ordered_by_the_new_leader(cluster: Cluster) -> None:
    """The request was told to one replica only, and the leader never proposes."""
    data = TestClient().requests(b"a")
    cluster.submit(data, to=[0])
    second_timeout(cluster.nodes[0])
    for other in (2, 3):
        cluster.nodes[other].receive(0, sent_to(cluster.nodes[0], other, Stop)[0])
        assert cluster.nodes[other].pool.ready() == 1


# Lines 19-23: the new regency


@pytest.mark.parametrize(("n", "f"), [(4, 1), (5, 1), (7, 2)])
def test_line_19_more_than_two_f_install(n: int, f: int) -> None:
    node = Cluster(n).nodes[0]
    for sender in range(1, f + 1):
        node.receive(sender, Stop(0, 0, 1, b""))
    assert node.replica.regency == 0
    for sender in range(f + 1, 2 * f):
        node.receive(sender, Stop(0, 0, 1, b""))
        assert node.replica.regency == 0
    node.receive(2 * f, Stop(0, 0, 1, b""))
    assert node.replica.regency == 1  # 2f of others and its own, which it sent when it joined


def test_line_20_a_regency_is_installed_once_and_never_left_for_an_older_one(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    for sender in (1, 2, 3):
        node.receive(sender, Stop(0, 0, 3, b""))
    assert node.replica.regency == 3
    for sender in (1, 2, 3):
        node.receive(sender, Stop(0, 0, 2, b""))
    assert node.replica.regency == 3
    assert [record.kind for record in node.log].count(REGENCY) == 1


def test_line_21_timers_start_again_with_twice_the_timeout_up_to_the_cap() -> None:
    cluster = Cluster(parameters=Parameters(request_timeout=2_000_000, max_request_timeout=7_000_000))
    node = cluster.nodes[0]
    expected = [4_000_000, 7_000_000, 7_000_000]
    for regency, timeout in enumerate(expected, 1):
        install(cluster, regency, [0])
        assert node.ordering.timeout == timeout
        assert SetTimer(Timer.REGENCY, timeout) in node.effects


def test_line_21_the_timeout_decays_with_progress() -> None:
    cluster = Cluster(parameters=Parameters(max_batch_requests=1, batch_delay=0))
    install(cluster)
    cluster.drop_all()
    assert cluster.nodes[0].ordering.timeout == 2 * cluster.parameters.request_timeout
    for node in cluster.nodes:
        node.fire(Timer.RESEND)
    cluster.submit(TestClient().requests(*[b"%d" % i for i in range(16)]))
    cluster.run()
    assert {node.replica.decided for node in cluster.nodes} == {16}
    assert {node.ordering.timeout for node in cluster.nodes} == {cluster.parameters.request_timeout}


def test_line_21_a_regency_without_sync_is_suspected_even_with_an_empty_pool(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    install(cluster, 1, [0])
    cluster.drop_all()
    node.fire(Timer.REGENCY)
    assert {m.target for m in sent(node, Stop)} == {2}


@pytest.mark.parametrize("n", [4, 5, 7])
def test_line_22_members_lead_in_turn(n: int) -> None:
    cluster = Cluster(n)
    leaders = []
    for regency in range(n + 1):
        if regency:
            install(cluster, regency, [0])
        leaders.append(cluster.nodes[0].replica.leader)
    assert leaders == [(1 + regency) % n for regency in range(n + 1)]


def test_line_23_stopdata_goes_to_the_new_leader_alone_signed(cluster: Cluster) -> None:
    install(cluster, 1, [0])
    [(to, message)] = [(to, m) for _, to, m in cluster.nodes[0].outbox if isinstance(m, StopData)]
    assert to == NEW
    assert (message.signer, message.regency, message.instance, message.proof) == (0, 1, 1, None)
    cluster.nodes[3].validator.check_stop_data(message)


def test_line_23_the_promise_is_on_disk_before_stopdata_leaves(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.disk_blocked = True
    install(cluster, 1, [0])
    node.fire(Timer.RESEND)
    assert not sent(node, StopData)
    node.disk_blocked = False
    node.complete_disk()
    assert sent(node, StopData)
    assert [record.kind for record in node.log] == [REGENCY]


def test_line_23_stopdata_holds_the_last_decision_with_its_proof_and_the_collect(cluster: Cluster) -> None:
    client = TestClient()
    cluster.submit(client.requests(b"a"))
    cluster.run()
    second = client.requests(b"b")
    cluster.submit(second)
    cluster.run(lambda envelope: not isinstance(envelope[2], Accept))
    cluster.drop_all()
    install(cluster, 1, [0])
    [message] = sent(cluster.nodes[0], StopData)
    node = cluster.nodes[0]
    assert message.instance == 2
    assert message.proof is not None
    assert message.proof.instance == 1
    digest = node.ordering.current.value_of(message.accepted.digest) and message.accepted.digest
    assert message.accepted.regency == 0
    assert [(entry.digest, entry.regency) for entry in message.write_set] == [(digest, 0)]


def test_line_23_stopdata_is_repeated_until_the_sync_comes(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    install(cluster, 1, [0])
    [first] = sent(node, StopData)
    cluster.drop_all()
    node.fire(Timer.RESEND)
    assert sent_to(node, NEW, StopData) == [first]
    assert len(sent(node, FetchSync)) == 3
    cluster.drop_all()
    node.receive(NEW, empty_sync())
    node.fire(Timer.RESEND)
    assert not sent(node, StopData)


# Lines 24-29: STOPDATA at the new leader


def test_line_24_stopdata_of_another_signer_is_refused(cluster: Cluster) -> None:
    install(cluster, 1, [NEW])
    assert refused(cluster.nodes[NEW], 3, stop_data(0))


def test_line_25_only_the_leader_of_the_regency_collects(cluster: Cluster) -> None:
    install(cluster, 1, [3])
    for signer in (0, 1, 2):
        cluster.nodes[3].receive(signer, stop_data(signer))
    assert not sent(cluster.nodes[3], Sync)


def test_line_25_stopdata_of_a_later_regency_waits_for_it(cluster: Cluster) -> None:
    leader = cluster.nodes[NEW]
    for signer in (0, 3):
        leader.receive(signer, stop_data(signer))
    assert leader.replica.regency == 1  # f + 1 members are there: it follows
    assert sent(leader, Sync)


@pytest.mark.parametrize("name", FORGED_STOP_DATA)
def test_line_26_invalid_stopdata_is_not_collected(cluster: Cluster, name: str) -> None:
    install(cluster, 1, [NEW])
    leader = cluster.nodes[NEW]
    leader.receive(3, stop_data(3))
    assert refused(leader, 0, FORGED_STOP_DATA[name])
    assert not sent(leader, Sync)
    leader.receive(0, stop_data(0))
    assert sent(leader, Sync)


def test_line_27_signers_are_counted_once(cluster: Cluster) -> None:
    install(cluster, 1, [NEW])
    leader = cluster.nodes[NEW]
    for _ in range(3):
        leader.receive(0, stop_data(0))
    assert not sent(leader, Sync)


def test_line_27_two_different_stopdata_of_one_signer_are_evidence(cluster: Cluster) -> None:
    install(cluster, 1, [NEW])
    leader = cluster.nodes[NEW]
    one, other = stop_data(0), stop_data(0, accepted=(0, bytes(32)))
    leader.receive(0, one)
    leader.receive(0, one)
    assert not [effect for effect in leader.effects if isinstance(effect, ReportEvidence)]
    leader.receive(0, other)
    assert ReportEvidence(0, one, other) in leader.effects


@pytest.mark.parametrize("n", [4, 5, 7])
def test_line_28_n_minus_f_stopdata_begin_the_regency(n: int) -> None:
    cluster = Cluster(n)
    needed = n - cluster.view.f
    install(cluster, 1, [NEW])
    leader = cluster.nodes[NEW]
    others = [id for id in cluster.view.ids if id != NEW]
    for signer in others[: needed - 2]:
        leader.receive(signer, stop_data(signer))
        assert not sent(leader, Sync)
    leader.receive(others[needed - 2], stop_data(others[needed - 2]))
    assert len(sent(leader, Sync)) == n - 1


def test_line_28_an_unsound_set_waits_for_more(cluster: Cluster) -> None:
    install(cluster, 1, [NEW])
    leader = cluster.nodes[NEW]
    leader.receive(0, stop_data(0, accepted=(0, bytes(32))))
    leader.receive(1, stop_data(1))
    assert not sent(leader, Sync)
    leader.receive(3, stop_data(3))
    [message] = sent_to(leader, 0, Sync)
    assert len(message.stop_data) == 4


def test_line_29_sync_relays_the_stopdata_unchanged_to_all(cluster: Cluster) -> None:
    install(cluster, 1)
    cluster.drop_all()
    leader = cluster.nodes[NEW]
    statements = {signer: stop_data(signer) for signer in (3, 0)}
    for signer, statement in statements.items():
        leader.receive(signer, statement)
    messages = sent(leader, Sync)
    assert len(messages) == 3
    assert [each for each in messages[0].stop_data if each.signer != NEW] == [statements[0], statements[3]]
    assert [each.signer for each in messages[0].stop_data] == [0, 2, 3]
    for node in cluster.nodes:
        node.validator.check_sync(messages[0])


def test_line_29_the_sync_is_on_disk_before_it_leaves(cluster: Cluster) -> None:
    install(cluster, 1, [NEW])
    leader = cluster.nodes[NEW]
    leader.disk_blocked = True
    for signer in (0, 3):
        leader.receive(signer, stop_data(signer))
    assert not sent(leader, Sync)
    leader.disk_blocked = False
    leader.complete_disk()
    assert sent(leader, Sync)
    assert leader.log[-1].kind == SYNC_RECORD


def test_line_29_the_value_is_the_leaders_own_where_nothing_binds(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    leader = cluster.nodes[NEW]
    leader.admit(data)
    install(cluster, 1, [NEW])
    for signer in (0, 3):
        leader.receive(signer, stop_data(signer))
    assert {m.value for m in sent(leader, Sync)} == {value_of(data)}


# Planted bug


def test_planted_bug_stops_counted_for_members_are_seen(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[int] = []

    def asked_by(suspicions: Suspicions, count: int) -> int:
        heard.append(1)
        return 1 if len(heard) >= 2 * count else 0

    monkeypatch.setattr(Suspicions, "asked_by", asked_by)
    with pytest.raises(AssertionError):
        test_line_14_members_are_counted_once(cluster)
