"""What is left out and counts for the average wait: who is told of what, and when."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from kit.held_proposals import HALF, PARAMETERS, TICK, Run, operations
from kit.requests import TestClient

from smartbft.limits import MAX_REMINDER_BYTES, MAX_REQUEST_BYTES
from smartbft.protocols.mod_smart import left_out
from smartbft.protocols.mod_smart.left_out import LeftOut
from smartbft.protocols.mod_smart.passed_over import PassedOver
from smartbft.types import Parameters

# An instance in which the proposal is nearly late.
NEARLY = 2 * HALF - 1


@pytest.fixture(autouse=True)
def _this_rule_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PassedOver, "decided", lambda *_: 0)


def waits_too_long(run: Run) -> bool:
    return run.node.ordering._watch.delays.requests.lasting


# --- who is told of what, and when


def test_the_leader_is_told_at_once_of_all_that_was_ready_half_of_the_time_before() -> None:
    run = Run(batch=1)
    run.submit(30)
    run.instances(4)
    assert run.reminders(run.node) == []
    run.instances(1)
    (told,) = run.reminders(run.node)
    assert operations(told) == list(range(6, 31))


def test_it_is_told_of_what_came_meanwhile_as_long_as_it_leaves_that_out() -> None:
    run = Run(batch=1)
    run.submit(30)
    run.instances(5)
    run.submit(1, first=99)
    run.instances(5)
    assert [operations(told)[-1] for told in run.reminders(run.node)] == [30, 99]
    run.be_stingy(run.leader, 100)
    run.instances(1)  # whose proposal was made before
    told = len(run.reminders(run.node))
    run.instances(20)
    assert len(run.reminders(run.node)) == told


def test_what_it_is_told_of_at_once_is_bounded() -> None:
    run = Run(batch=1)
    for number in range(1, 101):
        run.cluster.submit(TestClient(number).requests(bytes(4000)))
    run.settle()
    run.instances(5)
    (told,) = run.reminders(run.node)
    assert MAX_REMINDER_BYTES - 4200 < len(told.data) <= MAX_REMINDER_BYTES


def test_a_quick_leader_with_all_that_was_here_is_told_nothing() -> None:
    run = Run()
    for number in range(30):
        run.submit(3, first=1 + 3 * number)
        run.instances(1)
    assert [run.reminders(node) for node in run.cluster.nodes] == [[], [], [], []]


def test_nobody_is_told_where_verification_is_what_takes_long(monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(batch=1)
    run.submit(30)
    monkeypatch.setattr(run.node, "verify", lambda: None)
    run.node.admit(TestClient(77).requests(*(b"%d" % number for number in range(16))))
    run.instances(10)
    assert run.reminders(run.node) == []
    assert len(run.reminders(run.cluster.nodes[2])) > 0


# --- what counts


def test_proposals_that_are_nearly_late_and_leave_out_what_they_were_told_of_are_too_slow() -> None:
    run = Run(batch=20)
    run.submit(80)
    run.instances(2, NEARLY)
    assert waits_too_long(run)


def test_the_same_with_all_in_them_are_not() -> None:
    run = Run()
    for number in range(6):
        run.submit(20, first=1 + 20 * number)
        run.instances(1, NEARLY)
    assert not waits_too_long(run)


FULL = [
    Parameters(batch_delay=0, proposal_timeout=100_000, max_batch_requests=1),
    Parameters(batch_delay=0, proposal_timeout=100_000, max_batch_bytes=4 + MAX_REQUEST_BYTES),
]


@pytest.mark.parametrize("parameters", FULL, ids=["as many requests as fit", "as many bytes as fit"])
def test_a_full_batch_leaves_nothing_out(parameters: Parameters) -> None:
    run = Run(parameters, batch=1)
    run.submit(60)
    run.instances(50)
    assert run.node.replica.decided == 50
    assert run.reminders(run.node) == []
    assert not waits_too_long(run)


@pytest.mark.parametrize("told", [[0], [2, 3], [0, 2, 3]])
def test_clients_that_tell_followers_only_make_nobody_wait_for_the_leader(told: list[int]) -> None:
    """L4: it orders what it is told of, in the next proposal or the one after it."""
    run = Run()
    for number in range(60):
        run.submit(5, told, first=1000 + 5 * number)
        run.submit(1, first=1 + number)
        run.instances(1)
        for node in run.cluster.followers:  # which lack the bodies
            node.ordering.current.fetch()
        run.settle()
        assert run.node.ordering._watch.delays.requests._slow <= 1  # what was told crossed a proposal
    assert any(run.reminders(run.cluster.nodes[id]) for id in told)
    assert {node.replica.regency for node in run.cluster.nodes} == {0}


def test_our_own_pause_is_not_the_leaders() -> None:
    """The proposal was there, and nobody looked."""
    run = Run()
    for number in range(6):
        run.submit(1, first=1 + number)
        run.instances(1, 100 * HALF)
    assert not waits_too_long(run)


def test_a_replica_that_is_behind_tells_the_leader_of_nothing_that_it_could_not_know() -> None:
    """The proposals were here before their instances began: they were made during the one before."""
    run = Run()
    rule = run.node.ordering._watch._left_out
    run.submit(1)
    here = run.node.now
    run.wait(3 * HALF)
    began = run.node.now
    rule._before = here
    early = SimpleNamespace(proposal=bytes(8), data=b"", proposed_at=began)
    assert rule.decided(early, began, HALF) == 0
    assert rule._told == b""
    in_time = SimpleNamespace(proposal=bytes(8), data=b"", proposed_at=began + 1)
    assert rule.decided(in_time, began, HALF) == 0
    assert rule._told != b""


def test_a_new_leader_was_told_of_nothing() -> None:
    run = Run(batch=1)
    run.submit(30)
    run.instances(6)
    assert run.node.ordering._watch._left_out._told
    run.node.ordering._watch.leave(failed=True)
    assert not run.node.ordering._watch._left_out._told


# --- planted bugs


def test_planted_bug_a_full_batch_that_leaves_requests_out_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(left_out, "has_room", lambda *_: True)
    with pytest.raises(AssertionError):
        test_a_full_batch_leaves_nothing_out(FULL[0])


def test_planted_bug_a_leader_that_is_not_told_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def note_only(rule: LeftOut) -> None:
        rule._told = rule._chassis.pool.overdue(rule._chassis.now + 1, MAX_REMINDER_BYTES)
        rule._count, rule._told_at = 1000, rule._chassis.now

    monkeypatch.setattr(LeftOut, "tell", note_only)
    with pytest.raises(AssertionError):
        test_clients_that_tell_followers_only_make_nobody_wait_for_the_leader([0, 2, 3])


def test_the_numbers_fit() -> None:
    assert TICK * 5 == HALF == PARAMETERS.proposal_timeout // 2
