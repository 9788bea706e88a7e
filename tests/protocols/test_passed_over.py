"""Leaders that leave old requests out of batches that have room: what is a sign, who is reminded, what is lost."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from kit.held_proposals import HALF, PARAMETERS, TICK, Run, operations
from kit.requests import TestClient

from smartbft._fastpath.pool import RequestPool
from smartbft.limits import MAX_BATCH_BYTES, MAX_REMINDER_BYTES, MAX_REQUEST_BYTES
from smartbft.protocols.mod_smart.left_out import LeftOut
from smartbft.protocols.mod_smart.passed_over import PassedOver
from smartbft.types import Parameters


@pytest.fixture(autouse=True)
def _this_rule_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where verification keeps up, the leader is told earlier (`test_left_out.py`)."""
    monkeypatch.setattr(LeftOut, "caught_up", lambda self: False)


# --- who is reminded of what, and when


def test_what_was_left_out_for_long_is_sent_to_the_leader_alone() -> None:
    run = Run(batch=1)
    run.submit(30)
    # 2 more ticks than half: a quarter until the oldest is worth a note, half of the timeout since then.
    run.instances(8)
    assert run.reminders(run.node) == []
    run.instances(2)
    (reminder,) = run.reminders(run.node)
    assert operations(reminder) == list(range(11, 31))


def test_a_reminder_is_bounded() -> None:
    run = Run(batch=1)
    for number in range(1, 101):
        run.cluster.submit(TestClient(number).requests(bytes(4000)))
    run.settle()
    run.instances(12)
    (reminder,) = run.reminders(run.node)
    assert MAX_REMINDER_BYTES - 4200 < len(reminder.data) <= MAX_REMINDER_BYTES


def test_a_batch_with_all_that_was_here_reminds_nobody() -> None:
    run = Run()
    for number in range(30):
        run.submit(3, first=1 + 3 * number)
        run.instances(1, 3 * HALF)
    assert run.node.replica.decided >= 30
    assert [run.reminders(node) for node in run.cluster.nodes] == [[], [], [], []]


def test_what_came_during_the_instance_is_no_sign_however_long_it_took() -> None:
    """A far network or a slow disk: what comes meanwhile waits for the next one."""
    run = Run()
    run.submit(1)
    for number in range(2, 30):
        run.wait(HALF)
        run.submit(1, first=number)
        run.instances(1, 4 * HALF)
    assert run.reminders(run.node) == []
    assert run.lost(run.node) == 0


@pytest.mark.parametrize(
    "parameters",
    [
        Parameters(batch_delay=0, proposal_timeout=100_000, max_batch_requests=1),
        Parameters(batch_delay=0, proposal_timeout=100_000, max_batch_bytes=4 + MAX_REQUEST_BYTES),
    ],
    ids=["as many requests as fit", "as many bytes as fit"],
)
def test_a_full_batch_is_never_held_against_its_leader(parameters: Parameters) -> None:
    run = Run(parameters, batch=1)
    run.submit(60)
    run.instances(50)
    assert run.node.replica.decided == 50
    assert run.reminders(run.node) == []
    assert run.lost(run.node) == 0


def test_a_reminder_is_repeated_now_and_then() -> None:
    """The connection may have broken; and the leader goes on without."""
    run = Run(batch=1)
    run.submit(80)
    run.instances(10 + PARAMETERS.resend_interval // TICK)
    first, second = run.reminders(run.node)
    assert first.data == second.data


# --- what is lost


def test_every_instance_that_goes_on_without_is_lost() -> None:
    run = Run(batch=1)
    run.submit(60)
    run.instances(10)
    assert len(run.reminders(run.node)) == 1
    run.instances(4)  # in these it may be on its way, or being verified
    assert run.lost(run.node) == 0
    run.instances(10)
    assert [run.lost(node) for node in run.cluster.nodes] == [10 * TICK, 0, 10 * TICK, 10 * TICK]


def test_a_leader_that_orders_what_it_was_reminded_of_has_lost_nothing() -> None:
    run = Run(batch=1)
    run.submit(60)
    run.instances(10)
    run.be_stingy(run.leader, 100)
    run.instances(10)
    assert run.node.pool.oldest_pending() < 0
    assert run.lost(run.node) == 0


def test_a_batch_that_was_kept_back_meanwhile_costs_the_time_until_it_came() -> None:
    """It was perhaps made before the leader could know; to show it late was its own choice."""
    run = Run(batch=1)
    run.submit(60)
    run.instances(10)
    run.instances(1, HALF + TICK)
    assert run.lost(run.node) == HALF + TICK


def test_such_a_leader_is_replaced_and_it_is_said_why() -> None:
    run = Run(batch=1)
    run.submit(200)
    run.instances(13 + PARAMETERS.request_timeout // 2 // TICK)
    assert {node.replica.regency for node in run.cluster.nodes} == {0}
    run.instances(3)
    assert {node.replica.regency for node in run.cluster.nodes} == {1}
    reason = run.node.replica.status()["last_regency_change"]["reason"]
    assert "100 proposals came late, or with room and without requests that had long been there (100 of them)" in reason
    allowed = run.node.ordering._watch.delays.allowed(run.node.now)
    assert allowed == 2 * PARAMETERS.proposal_timeout


def test_a_new_leader_was_reminded_of_nothing() -> None:
    run = Run(batch=1)
    run.submit(60)
    run.instances(12)
    assert run.node.ordering._watch._passed_over._waiting
    run.node.ordering._watch.leave(failed=True)
    assert not run.node.ordering._watch._passed_over._waiting


def test_a_clock_that_was_set_back_puts_it_off_by_half_of_the_time() -> None:
    run = Run(batch=1)
    run.submit(60)
    run.instances(10)
    run.node.now -= 20_000_000
    run.instances(12)
    assert run.lost(run.node) > 0


# --- what is not the leader's fault


@pytest.mark.parametrize("told", [[0], [2, 3], [0, 2, 3]])
def test_a_client_that_tells_followers_only_costs_a_leader_nothing(told: list[int]) -> None:
    """L4: the leader orders what it is reminded of, in one of the next instances."""
    run = Run()
    for number in range(60):
        run.submit(1, told, first=1000 + number)
        run.submit(1, first=1 + number)
        run.instances(1)
        for node in run.cluster.followers:  # which lack its body
            node.ordering.current.fetch()
        run.settle()
    assert any(run.reminders(run.cluster.nodes[id]) for id in told)
    assert [run.lost(node) for node in run.cluster.nodes] == [0, 0, 0, 0]
    assert {node.replica.regency for node in run.cluster.nodes} == {0}


def test_a_replica_that_is_behind_reminds_nobody_of_what_the_leader_could_not_know() -> None:
    """The proposals were here before their instances began: they were made during the one before."""
    run = Run()
    watch = run.node.ordering._watch._passed_over
    run.submit(1)
    here, began = run.node.now, run.node.now + HALF
    watch._before = here
    run.wait(HALF)
    in_time = SimpleNamespace(proposal=bytes(8), data=b"", proposed_at=began + 1)
    early = SimpleNamespace(proposal=bytes(8), data=b"", proposed_at=began)
    assert watch.decided(early, began, HALF) == 0
    assert watch._waiting == b""
    assert watch.decided(in_time, began, HALF) == 0
    assert watch._waiting != b""


def test_the_parameters_leave_room_for_the_rule() -> None:
    """A batch that no request would fit into is full: with the largest batches there is room nearly always."""
    assert 8 * MAX_REQUEST_BYTES < Parameters().max_batch_bytes <= MAX_BATCH_BYTES


# --- planted bugs


def test_planted_bug_a_leader_that_is_not_reminded_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then a client that tells followers only has every instance held against a correct leader."""
    monkeypatch.setattr(PassedOver, "_say", lambda self: None)
    with pytest.raises(AssertionError):
        test_a_client_that_tells_followers_only_costs_a_leader_nothing([0, 2, 3])


def test_planted_bug_full_batches_held_against_a_leader_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PassedOver, "_has_room", lambda self, consensus: True)
    with pytest.raises(AssertionError):
        test_a_full_batch_is_never_held_against_its_leader(Parameters(proposal_timeout=100_000, max_batch_requests=1))


def test_planted_bug_a_pool_that_leaves_a_session_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A correct leader whose batches are not all that it has would be replaced."""
    run = Run()
    whole = RequestPool.form_batch

    class Unfair:
        def __getattr__(self, name: str) -> object:
            return getattr(run.leader.pool, name)

        def form_batch(self, max_requests: int, max_bytes: int, timestamp: int) -> tuple[bytes, bytes]:
            return whole(run.leader.pool, 1, max_bytes, timestamp)

    monkeypatch.setattr(run.leader.replica, "pool", Unfair())
    run.submit(60)
    run.instances(20)
    assert run.lost(run.node) > 0
