"""The 'why' of each rule of protocols.md, sections 0 to 2: the scenario that the rule is there for, played once.

What the line tests of Algorithm 2 and 3, the start and the known failures of others show already is not repeated here;
section 3 is in `test_whys_of_durability.py`.
"""

from __future__ import annotations

import pytest
from kit.cluster import Cluster, Envelope
from kit.regencies import (
    NEW,
    OLD,
    accept,
    accepted_by_all,
    digest_of,
    first_timeout,
    install,
    operations,
    pulse,
    second_timeout,
    sent,
    sent_to,
    stop_data,
    sync,
    value_of,
    wait,
    without,
)
from kit.requests import NOW, TestClient

from smartbft._fastpath.pool import join_requests
from smartbft.core.inputs import Timer
from smartbft.core.records import accept_record
from smartbft.core.safety import VoteGuard
from smartbft.limits import STOP_LIFETIME_RESENDS
from smartbft.messages import Accept, Forward, Propose, Stop, StopData, Sync, Write
from smartbft.protocols.vp_consensus import VPConsensus
from smartbft.types import Parameters

# Section 0


def test_why_the_quorum_is_rounded_up() -> None:
    """n = 5: two quorums of three may share only the faulty replica, so three ACCEPTs decide nothing."""
    cluster = Cluster(5)
    data = TestClient().requests(b"a")
    node = cluster.nodes[0]
    node.admit(data)
    node.receive(1, Propose(0, 0, 1, value_of(data)))
    for sender in (1, 2, 3):
        node.receive(sender, accept(sender, 0, 1, digest_of(data)))
    assert node.replica.decided == 0
    node.receive(4, accept(4, 0, 1, digest_of(data)))
    assert node.replica.decided == 1


# Section 1


def test_why_a_proposal_is_recorded_before_it_is_sent(cluster: Cluster) -> None:
    """Else an honest leader that restarts, with other requests in its pool, proposes a second value."""
    leader = cluster.leader
    leader.admit(TestClient(1).requests(b"before"))
    [first] = {message.value for message in sent(leader, Propose)}
    again = cluster.restart(leader.id)
    again.admit(TestClient(2).requests(b"after"))
    for _ in range(3):
        again.fire(Timer.RESEND)
    assert {message.value for message in sent(again, Propose)} == {first}


def test_why_a_value_that_binds_is_not_held_against_clocks_again(cluster: Cluster) -> None:
    """It may be decided already: a replica with a slow clock must help to decide it, or nobody can."""
    data = TestClient().requests(b"a")
    slow = cluster.nodes[0]
    slow.admit(data)
    ahead = value_of(data, NOW + cluster.parameters.clock_skew + 10_000_000)
    digest = slow.domains.value_digest(ahead)
    bound = [stop_data(signer, accepted=(0, digest), written=[(digest, 0)]) for signer in (1, 2, 3)]
    install(cluster, 1, [0])
    slow.receive(NEW, sync(NEW, bound, ahead))
    assert {message.digest for message in sent(slow, Write)} == {digest}


def test_why_a_value_that_does_not_bind_is(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    node = cluster.nodes[0]
    node.admit(data)
    install(cluster, 1, [0])
    ahead = value_of(data, NOW + cluster.parameters.clock_skew + 10_000_000)
    node.receive(NEW, sync(NEW, [stop_data(signer) for signer in (0, 2, 3)], ahead))
    assert not sent(node, Write)


def test_why_messages_about_decided_instances_are_answered(cluster: Cluster) -> None:
    """A replica that slept through some instances says something old, and gets what it lacks."""
    client = TestClient()
    first = client.requests(b"0")
    for data in (first, client.requests(b"1")):
        cluster.submit(data, to=[OLD, 2, 3])
        cluster.run(without(0))
    late = cluster.nodes[0]
    late.admit(first)
    late.receive(OLD, Propose(0, 0, 1, value_of(first)))
    assert sent(late, Write)
    cluster.run()
    assert operations(late) == [b"0"]
    for _ in range(3):
        pulse(cluster)
    assert operations(late) == [b"0", b"1"]


# Section 2.2


def test_why_a_body_named_by_a_proposal_is_taken_though_the_pool_holds_another(cluster: Cluster) -> None:
    """A client signs two requests with one number and tells different replicas different ones: one is ordered, all
    agree on its bytes, and the other starts no timer that cannot end.
    """
    client = TestClient()
    one, other = join_requests([client.request(b"one", 1)]), join_requests([client.request(b"other", 1)])
    deceived = cluster.nodes[0]
    deceived.admit(other)
    cluster.submit(one, to=[OLD, 2, 3])
    cluster.run()
    pulse(cluster)
    pulse(cluster)
    assert cluster.executions() == [[one]] * 4
    deceived.outbox.clear()
    second_timeout(deceived)
    assert not sent(deceived, Stop)
    assert not sent(deceived, Forward)


def test_why_numbers_are_held_against_the_decided_prefix_and_not_the_executed_one(cluster: Cluster) -> None:
    """Else the verdict about a batch would depend on how fast an application is."""
    client = TestClient()
    slow = cluster.nodes[0]
    slow.application_blocked = True
    for number in range(3):
        cluster.submit(client.requests(b"%d" % number))
        cluster.run(lambda envelope: envelope[0] != 3 and envelope[1] != 3)  # so the slow one is needed for a quorum
    assert [node.replica.decided for node in cluster.nodes] == [3, 3, 3, 0]
    assert slow.replica.executed == 0


# Section 2.3


def test_why_one_timer_for_the_oldest_request_is_enough(cluster: Cluster) -> None:
    """A leader that orders everybody's requests but one client's is suspected."""
    censored = TestClient(1).requests(b"censored")
    cluster.submit(censored, to=[0, 2, 3])
    watcher = cluster.nodes[0]
    first_timeout(watcher)
    other = TestClient(2)
    for number in range(4):
        cluster.submit(other.requests(b"%d" % number))
        cluster.run(lambda envelope: not isinstance(envelope[2], Forward))
        wait(watcher, watcher.ordering.timeout // 8)
    assert watcher.replica.decided == 4
    assert {message.target for message in sent(watcher, Stop)} == {1}


def test_why_a_long_queue_is_no_reason_for_suspicion() -> None:
    """Requests that came in one packet, at one time, are ordered one by one: each has its own turn."""
    cluster = Cluster(parameters=Parameters(max_batch_requests=1, batch_delay=0))
    watcher = cluster.nodes[0]
    cluster.submit(b"".join(TestClient(number).requests(b"x") for number in range(1, 9)))
    wait(watcher, 0)
    for turn in range(1, 9):
        # One instance in a third of the timeout: the last request waits for more than twice the timeout.
        assert watcher.replica.decided == turn - 1
        watcher.outbox = [envelope for envelope in watcher.outbox if not isinstance(envelope[2], Forward)]
        assert not sent(watcher, Stop)
        held = [envelope for node in cluster.nodes for envelope in node.outbox]
        while any(getattr(message, "instance", 0) <= turn for _, _, message in held):
            for node in cluster.nodes:
                node.outbox.clear()
            for sender, to, message in held:
                if getattr(message, "instance", 0) <= turn:
                    cluster.nodes[to].receive(sender, message)
            later = [envelope for envelope in held if getattr(envelope[2], "instance", 0) > turn]
            held = later + [envelope for node in cluster.nodes for envelope in node.outbox]
        for node, waiting in ((node, [each for each in held if each[0] == node.id]) for node in cluster.nodes):
            node.outbox = waiting
        wait(watcher, watcher.ordering.timeout // 3)
    assert watcher.replica.decided == 8
    assert not sent(watcher, Stop)


def test_why_stops_of_long_ago_do_not_add_up(cluster: Cluster) -> None:
    """One replica after the other has a bad moment, hours apart: no leader is replaced for that."""
    node = cluster.nodes[0]
    for sender in (2, 3, 1, 2, 3):
        node.receive(sender, Stop(0, 0, 1, b""))
        node.now += (STOP_LIFETIME_RESENDS + 1) * cluster.parameters.resend_interval
    assert not sent(node, Stop)
    assert node.replica.regency == 0


def late_write(cluster: Cluster) -> list[bytes]:
    """A collect is taken while a WRITE quorum is on its way: the operations that correct replicas execute.

    Replica 1 is Byzantine and leads regency 0. It has everybody write `a`; the WRITEs reach nobody before all install
    regency 1, where nothing binds and replica 2 proposes `b`; then they reach 0 and 3.
    """
    a, b = TestClient(1).requests(b"a"), TestClient(2).requests(b"b")
    cluster.submit(a, to=[0, 2, 3])
    for id in (0, 2, 3):
        cluster.nodes[id].receive(OLD, Propose(0, 0, 1, value_of(a)))
    writes = {id: Write(0, 0, 1, digest_of(a)) for id in (0, OLD, 2, 3)}
    cluster.drop_all()
    install(cluster, 1, [0, 2, 3])
    for id in (0, 3):
        for sender in writes:
            if sender != id:
                cluster.nodes[id].receive(sender, writes[sender])
    late = [message for id in (0, 3) for message in sent_to(cluster.nodes[id], OLD, Accept)]
    leader = cluster.nodes[NEW]
    leader.receive(OLD, stop_data(OLD))
    collects = [sent_to(cluster.nodes[id], NEW, StopData)[0] for id in (0, 3)]
    statement = sync(NEW, sorted([*collects, stop_data(OLD)], key=lambda each: each.signer), value_of(b))
    # Replica 1 shows the late ACCEPTs of regency 0, with its own, to replica 3: that decides `a` there.
    for message, sender in zip(late, (0, 3), strict=False):
        if sender != 3:
            cluster.nodes[3].receive(sender, message)
    cluster.nodes[3].receive(OLD, accept(OLD, 0, 1, digest_of(a)))
    assert statement.value == value_of(b)
    cluster.drop_all()
    cluster.nodes[0].admit(b)
    cluster.nodes[0].receive(NEW, statement)
    cluster.nodes[0].receive(NEW, Write(0, 1, 1, digest_of(b)))
    cluster.nodes[0].receive(OLD, Write(0, 1, 1, digest_of(b)))
    for sender in (OLD, NEW):
        cluster.nodes[0].receive(sender, accept(sender, 1, 1, digest_of(b)))
    return [operation for id in (0, 3) for operation in operations(cluster.nodes[id])]


def test_why_installing_is_a_promise(cluster: Cluster) -> None:
    """A collect taken while late WRITEs can still turn into ACCEPTs would let two values be decided."""
    assert late_write(cluster) == [b"b"]


def test_why_installing_is_a_promise_planted_bug(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def try_accept(consensus: VPConsensus, regency: int, digest: bytes) -> None:
        chassis, writes = consensus._chassis, len(consensus._writes[regency, digest])
        if chassis.guard.approve_accept(consensus.instance, regency, digest, writes, chassis.view.quorum):
            vote = consensus._signed_accept(regency, digest)
            consensus._speak(accept_record(consensus.instance, 0, regency, digest), [vote])
            consensus.on_accept(chassis.id, vote)

    monkeypatch.setattr(VoteGuard, "_may_vote", lambda guard, instance, regency: instance > guard._decided)
    monkeypatch.setattr(VPConsensus, "_try_accept", try_accept)
    assert sorted(late_write(cluster)) == [b"a", b"b"]


def test_why_the_promise_survives_a_restart(cluster: Cluster) -> None:
    data = TestClient().requests(b"a")
    cluster.submit(data)
    cluster.drop_all()
    install(cluster, 1, [0])
    node = cluster.restart(0)
    assert node.replica.regency == 1
    node.admit(data)
    node.outbox.clear()
    node.receive(OLD, Propose(0, 0, 1, value_of(data)))
    for sender in (1, 2, 3):
        node.receive(sender, Write(0, 0, 1, digest_of(data)))
    assert not sent(node, Write)
    assert not sent(node, Accept)


def test_why_stopdata_is_the_same_after_a_restart(cluster: Cluster) -> None:
    """Two different STOPDATA of one replica for one regency would be evidence against an honest one."""
    accepted_by_all(cluster, TestClient().requests(b"a"))
    install(cluster, 1, [0])
    [before] = sent(cluster.nodes[0], StopData)
    node = cluster.restart(0)
    node.fire(Timer.RESEND)
    assert {message.signature for message in sent(node, StopData)} == {before.signature}


def test_why_votes_are_repeated_before_the_stopdata_that_tells_of_them(cluster: Cluster) -> None:
    """Both were recorded, and the power went before either was sent: nobody may see a vote below the promise first."""
    cluster.submit(TestClient().requests(b"a"))
    cluster.run(lambda envelope: isinstance(envelope[2], Propose))
    cluster.drop_all()
    install(cluster, 1, [0])
    node = cluster.restart(0)
    kinds = [type(message) for _, _, message in node.outbox if isinstance(message, Write | StopData)]
    assert list(dict.fromkeys(kinds)) == [Write, StopData]


def test_why_a_collect_for_a_settled_instance_counts_as_empty(cluster: Cluster) -> None:
    """A replica that is behind accepted a value in instance 1; the others have decided it. It must not bind again."""
    data = TestClient().requests(b"a")
    cluster.submit(data)
    cluster.run(lambda envelope: not (isinstance(envelope[2], Accept) and envelope[1] == 0))
    cluster.drop_all()
    assert [node.replica.decided for node in cluster.nodes] == [0, 1, 1, 1]
    install(cluster)
    cluster.run(without(OLD))
    for _ in range(3):
        pulse(cluster, without(OLD), (OLD,))
    assert [operations(node) for node in cluster.nodes if node.id != OLD] == [[b"a"]] * 3
    assert all(node.replica.guard.synchronized for node in cluster.nodes if node.id != OLD)
    more = TestClient(2).requests(b"b")
    cluster.submit(more)
    cluster.run(without(OLD))
    assert [operations(node) for node in cluster.nodes if node.id != OLD] == [[b"a", b"b"]] * 3


def test_why_any_holder_may_pass_the_sync_on(cluster: Cluster) -> None:
    """The new leader sends its SYNC to one replica and dies: the others get it from there."""
    install(cluster)
    cluster.run(lambda envelope: not isinstance(envelope[2], Sync) or envelope[1] == 3)
    assert [node.replica.guard.synchronized for node in cluster.nodes] == [False, False, True, True]
    for _ in range(3):
        pulse(cluster, without(NEW), (NEW,))
    assert all(node.replica.guard.synchronized for node in cluster.nodes)


def test_why_two_syncs_of_one_leader_harm_nobody(cluster: Cluster) -> None:
    """A Byzantine leader starts its regency with two values: neither is decided, and the next regency goes on."""
    a, b = TestClient(1).requests(b"a"), TestClient(2).requests(b"b")
    cluster.submit(a + b)
    cluster.drop_all()
    install(cluster, 1, [0, 1, 3])
    statements = [sent_to(cluster.nodes[id], NEW, StopData)[0] for id in (0, 1, 3)]
    cluster.drop_all()
    for id, value in ((0, value_of(a)), (1, value_of(b)), (3, value_of(a))):
        cluster.nodes[id].receive(NEW, sync(NEW, statements, value))
    cluster.run(without(NEW))
    assert {node.replica.decided for node in cluster.nodes} == {0}
    install(cluster, 2, [0, 1, 3])
    cluster.run(without(NEW))
    for _ in range(3):
        pulse(cluster, without(NEW), (NEW,))
    finished = [cluster.nodes[id] for id in (0, 1, 3)]
    assert len({tuple(operations(node)) for node in finished}) == 1
    assert sorted(operations(finished[0])) == [b"a", b"b"]


@pytest.mark.parametrize("n", [4, 7])
def test_why_n_minus_f_are_enough_f_replicas_are_silent(n: int) -> None:
    """The leader and f - 1 others fall silent: the rest goes on by itself, timers and all."""
    cluster = Cluster(n)
    silent = tuple(range(1, 1 + cluster.view.f))
    data = TestClient().requests(b"a")
    cluster.submit(data, to=[id for id in cluster.view.ids if id not in silent])
    for _ in range(60):
        for node in cluster.nodes:
            if node.id not in silent:
                node.now += cluster.parameters.resend_interval
                for timer in (Timer.REQUEST, Timer.RESEND, Timer.CATCH_UP):
                    node.fire(timer)
                if not node.replica.guard.synchronized and _ % 16 == 15:
                    node.fire(Timer.REGENCY)
        cluster.run(without(*silent))
    assert [operations(node) for node in cluster.nodes if node.id not in silent] == [[b"a"]] * (n - cluster.view.f)


@pytest.mark.parametrize("kind", [Stop, StopData, Sync, Propose, Write, Accept, Forward])
def test_why_what_binds_is_sent_again(cluster: Cluster, kind: type) -> None:
    """All messages of one kind are lost for a while, and the leader is dead: repetition brings all of it back."""
    data = TestClient().requests(b"a")
    cluster.submit(data, to=[0, 2, 3])
    lossy = True

    def passes(envelope: Envelope) -> bool:
        return without(OLD)(envelope) and not (lossy and isinstance(envelope[2], kind))

    for step in range(40):
        lossy = step < 14
        for node in cluster.nodes:
            if node.id != OLD:
                node.fire(Timer.REQUEST)
        pulse(cluster, passes, (OLD,))
    assert [operations(node) for node in cluster.nodes if node.id != OLD] == [[b"a"]] * 3


def test_why_f_plus_1_members_in_a_higher_regency_are_followed(cluster: Cluster) -> None:
    """A replica that was cut off during two regency changes comes back, and votes in the third regency."""
    cut = 0
    for regency in (1, 2):
        install(cluster, regency, [1, 2, 3])
        cluster.run(without(cut))
    late = cluster.nodes[cut]
    assert late.replica.regency == 0
    for _ in range(3):
        pulse(cluster)
    assert late.replica.regency == 2
    assert late.replica.guard.synchronized
    data = TestClient().requests(b"a")
    cluster.submit(data)
    cluster.run(without(1))  # so it is needed
    assert operations(late) == [b"a"]


def test_why_a_claim_of_one_member_is_not_followed(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.receive(3, Write(0, 1000, 1, bytes(32)))
    assert node.replica.regency == 0
