"""When a leader counts as too slow: pure arithmetic over waits and durations."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartbft.core.proposal_delays import ProposalDelays
from smartbft.limits import LATE_PROPOSALS, MAX_PROPOSAL_PATIENCE_DOUBLINGS, PROPOSAL_PATIENCE_TIMEOUTS
from smartbft.types import Parameters

MILLISECOND = 1_000
SECOND = 1_000_000
PARAMETERS = Parameters(proposal_timeout=100_000)
PATIENCE = PROPOSAL_PATIENCE_TIMEOUTS * PARAMETERS.request_timeout


@pytest.fixture
def delays() -> ProposalDelays:
    return ProposalDelays(PARAMETERS)


def late(delays: ProposalDelays, count: int, waited: int, votes: int = 20 * MILLISECOND) -> None:
    for _ in range(count):
        delays.decided(waited, waited + votes)


def test_a_leader_just_under_the_request_timeout_is_too_slow_after_a_few_proposals(delays: ProposalDelays) -> None:
    late(delays, LATE_PROPOSALS - 1, 1800 * MILLISECOND)
    assert not delays.too_slow
    late(delays, 1, 1800 * MILLISECOND)
    assert delays.too_slow


def test_a_leader_just_over_the_limit_is_too_slow_when_that_has_cost_half_a_timeout(delays: ProposalDelays) -> None:
    late(delays, 9, 110 * MILLISECOND)
    assert not delays.too_slow
    late(delays, 1, 110 * MILLISECOND)
    assert delays.too_slow


@pytest.mark.parametrize("pause", [200 * MILLISECOND, 1900 * MILLISECOND])
def test_pauses_now_and_then_mean_nothing(delays: ProposalDelays, pause: int) -> None:
    for _ in range(20):
        late(delays, 1, pause)
        for _ in range(100):
            delays.decided(0, 50 * MILLISECOND)
        assert not delays.too_slow


def test_a_leader_that_is_late_only_now_and_then_but_long_is_found(delays: ProposalDelays) -> None:
    """One long wait among six quick proposals leaves less than a sixth of the throughput."""
    for _ in range(LATE_PROPOSALS):
        late(delays, 1, 1800 * MILLISECOND)
        for _ in range(6):
            delays.decided(0, 50 * MILLISECOND)
    assert delays.too_slow


def test_where_everything_is_slow_waiting_for_proposals_is_the_smaller_part(delays: ProposalDelays) -> None:
    """A slow disk or a far network: a proposal is one sync and one trip, the votes after it are two of each."""
    late(delays, 100, 300 * MILLISECOND, votes=600 * MILLISECOND)
    assert not delays.too_slow


def test_it_is_said_in_words(delays: ProposalDelays) -> None:
    late(delays, 4, 1800 * MILLISECOND)
    assert delays.in_words(0) == (
        "4 proposals came late: 7.2 of 7.3 s went by waiting for them, and 0.1 s are allowed for each"
    )


def test_an_instance_that_passes_requests_over_counts_as_long_as_it_took(delays: ProposalDelays) -> None:
    for _ in range(99):
        delays.decided(0, 10 * MILLISECOND, 10 * MILLISECOND)
    assert not delays.too_slow
    delays.decided(0, 10 * MILLISECOND, 10 * MILLISECOND)
    assert delays.too_slow
    assert delays.in_words(0) == (
        "100 proposals came late, or with room and without requests that had long been there (100 of them): 1 of 1 s"
        " went by waiting for them, and 0.1 s are allowed for each"
    )


def test_an_instance_is_lost_once_whatever_is_wrong_with_it(delays: ProposalDelays) -> None:
    delays.decided(300 * MILLISECOND, 400 * MILLISECOND, 400 * MILLISECOND)
    assert (delays._late, delays._passed_over, delays._waited) == (1, 1, 400 * MILLISECOND)


def test_what_is_allowed_doubles_with_each_slow_leader_up_to_the_request_timeout(delays: ProposalDelays) -> None:
    seen = []
    for _ in range(8):
        seen.append(delays.allowed(0))
        late(delays, 4, 1800 * MILLISECOND)
        delays.leader_replaced(0)
        assert not delays.too_slow
    assert seen == [100_000, 200_000, 400_000, 800_000, 1_600_000, 2_000_000, 2_000_000, 2_000_000]


def test_a_leader_replaced_for_another_reason_changes_nothing(delays: ProposalDelays) -> None:
    for _ in range(10):
        delays.decided(0, SECOND)
        delays.leader_replaced(0)
    assert delays.allowed(0) == PARAMETERS.proposal_timeout


def test_what_was_doubled_is_halved_again_and_lasts_longer_each_time(delays: ProposalDelays) -> None:
    late(delays, 4, SECOND)
    delays.leader_replaced(0)
    assert delays.allowed(2 * PATIENCE - 1) == 200_000
    assert delays.allowed(2 * PATIENCE) == 100_000
    late(delays, 4, SECOND)
    delays.leader_replaced(2 * PATIENCE)
    assert delays.allowed(2 * PATIENCE + 4 * PATIENCE - 1) == 200_000
    assert delays.allowed(2 * PATIENCE + 4 * PATIENCE) == 100_000


def test_a_network_that_is_always_too_slow_costs_fewer_and_fewer_changes(delays: ProposalDelays) -> None:
    """Every leader needs 150 ms: what is allowed is raised again whenever it has been lowered."""
    now, changes = 0, []
    while now < 24 * 3600 * SECOND:
        now += SECOND
        if delays.allowed(now) < 150 * MILLISECOND:
            late(delays, LATE_PROPOSALS * 2, 150 * MILLISECOND)
            delays.leader_replaced(now)
            changes.append(now)
    pauses = [after - before for before, after in pairwise(changes)]
    doubled = MAX_PROPOSAL_PATIENCE_DOUBLINGS - 1
    assert pauses[:doubled] == sorted(pauses[:doubled])
    assert len(changes) <= 2 + doubled + 24 * 3600 * SECOND // (PATIENCE << MAX_PROPOSAL_PATIENCE_DOUBLINGS)


def test_a_clock_that_is_set_back_does_not_prolong_it(delays: ProposalDelays) -> None:
    late(delays, 4, SECOND)
    delays.leader_replaced(10**15)
    assert delays.allowed(5) == 200_000
    assert delays.allowed(5 + 2 * PATIENCE) == 100_000


def test_the_wait_for_a_batch_is_not_the_leaders_delay() -> None:
    delays = ProposalDelays(Parameters(batch_delay=50_000))
    assert delays.allowed(0) == 200_000


@pytest.mark.parametrize(("timeout", "active"), [(1_999_999, True), (2_000_000, False), (10_000_000, False)])
def test_a_proposal_timeout_as_long_as_the_request_timeout_switches_it_off(timeout: int, active: bool) -> None:
    assert ProposalDelays(Parameters(proposal_timeout=timeout)).active is active


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from((0, 0, 100_001, 500_000, 1_900_000)), st.integers(1_000, 2_000_000)), max_size=60
    )
)
def test_nobody_is_too_slow_who_costs_less_than_half_of_the_time(instances: list[tuple[int, int]]) -> None:
    """Over any stretch of instances that ends now: the sum that ends at zero finds exactly the worst of them."""
    delays = ProposalDelays(PARAMETERS)
    for number, (waited, votes) in enumerate(instances, 1):
        delays.decided(waited, waited + votes)
        stretches = [instances[first:number] for first in range(number)]
        worst = any(
            sum(w > 0 for w, _ in stretch) >= LATE_PROPOSALS
            and sum(w for w, _ in stretch) >= PARAMETERS.request_timeout // 2
            and 2 * sum(w for w, _ in stretch) >= sum(w + v for w, v in stretch)
            for stretch in stretches
        )
        if delays.too_slow:
            assert worst
