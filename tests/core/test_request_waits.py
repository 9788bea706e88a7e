"""When requests wait too long for their leader on average: pure arithmetic over waits and counts."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smartbft.core.proposal_delays import ProposalDelays
from smartbft.core.request_waits import RequestWaits
from smartbft.limits import LATE_PROPOSALS
from smartbft.types import Parameters

MILLISECOND = 1_000
SECOND = 1_000_000
TIMEOUT = 2 * SECOND
ALLOWED = 60 * MILLISECOND
VOTES = 8 * MILLISECOND


@pytest.fixture
def waits() -> RequestWaits:
    return RequestWaits(TIMEOUT)


def instances(waits: RequestWaits, count: int, wait: int, *, ordered: int = 100, left: int = 0) -> None:
    for _ in range(count):
        waits.decided(wait, wait + VOTES, ordered, left, ALLOWED)


def test_a_leader_under_the_limit_that_leaves_nobody_out_stays(waits: RequestWaits) -> None:
    instances(waits, 1000, ALLOWED - 1)
    assert not waits.too_long
    assert not waits.lasting


def test_one_that_leaves_half_out_each_time_goes_when_that_has_cost_half_a_timeout(waits: RequestWaits) -> None:
    wait = 54 * MILLISECOND
    lost = (wait + wait + VOTES) // 2  # of each instance, for the average request
    needed = -(-TIMEOUT // 2 // lost)
    instances(waits, needed - 1, wait, left=100)
    assert not waits.too_long
    instances(waits, 1, wait, left=100)
    assert waits.too_long


def test_so_does_one_that_orders_a_few_requests_at_once(waits: RequestWaits) -> None:
    instances(waits, 150, 0, ordered=1, left=100)
    assert waits.too_long


def test_what_is_soon_ordered_may_be_left_out(waits: RequestWaits) -> None:
    """Each request is left out once, but proposals are quick."""
    instances(waits, 1000, 20 * MILLISECOND, left=100)
    assert not waits.too_long


def test_one_long_pause_means_nothing_and_is_soon_forgotten(waits: RequestWaits) -> None:
    instances(waits, 1, 3 * SECOND)
    instances(waits, 20, MILLISECOND)
    assert not waits.too_long
    instances(waits, 40, MILLISECOND)
    assert not waits.lasting


def test_a_few_long_pauses_are_found(waits: RequestWaits) -> None:
    instances(waits, LATE_PROPOSALS - 1, SECOND)
    assert not waits.too_long
    instances(waits, 1, SECOND)
    assert waits.too_long


def test_good_times_cannot_be_saved_up(waits: RequestWaits) -> None:
    instances(waits, 100_000, 0)
    instances(waits, 20, 54 * MILLISECOND, left=100)
    assert waits.too_long


def test_where_votes_take_longer_the_leader_is_not_to_blame(waits: RequestWaits) -> None:
    for _ in range(1000):
        waits.decided(300 * MILLISECOND, 900 * MILLISECOND, 100, 0, ALLOWED)
    assert not waits.too_long


def test_a_value_without_requests_says_nothing(waits: RequestWaits) -> None:
    instances(waits, 1000, SECOND, ordered=0, left=100)
    assert not waits.lasting


def test_it_is_said_in_words_and_allowed_for() -> None:
    delays = ProposalDelays(Parameters(proposal_timeout=ALLOWED))
    instances(delays.requests, 18, 54 * MILLISECOND, left=100)
    assert delays.too_slow
    assert delays.in_words(0) == (
        "the last 1800 requests waited for its proposals, 0.12 s each on average, and 0.06 s are allowed"
    )
    delays.leader_replaced(0)
    assert not delays.too_slow
    assert delays.allowed(0) == 2 * ALLOWED


def test_planted_bug_only_what_is_ordered_counts(waits: RequestWaits, monkeypatch: pytest.MonkeyPatch) -> None:
    decided = RequestWaits.decided
    monkeypatch.setattr(
        RequestWaits, "decided", lambda self, w, d, ordered, left, a: decided(self, w, d, ordered, 0, a)
    )
    with pytest.raises(AssertionError):
        test_good_times_cannot_be_saved_up(waits)


instance = st.tuples(
    st.sampled_from((0, 10_000, 59_000, 61_000, 500_000)),  # wait
    st.integers(0, 300_000),  # votes
    st.integers(1, 100),  # ordered
    st.sampled_from((0, 0, 1, 100)),  # left
)


@settings(max_examples=200, deadline=None)
@given(st.lists(instance, max_size=60))
def test_nobody_goes_whose_requests_waited_less_over_every_stretch(run: list[tuple[int, int, int, int]]) -> None:
    waits = RequestWaits(TIMEOUT)
    for number, (wait, votes, ordered, left) in enumerate(run, 1):
        waits.decided(wait, wait + votes, ordered, left, ALLOWED)
        if waits.too_long:
            stretches = [run[first:number] for first in range(number)]
            assert any(
                sum(w * o + (w + v) * n for w, v, o, n in stretch) >= ALLOWED * sum(o for _, _, o, _ in stretch)
                and 2 * sum((w * o + (w + v) * n) // (o + n) for w, v, o, n in stretch)
                >= max(TIMEOUT, sum(w + v for w, v, _, _ in stretch))
                for stretch in stretches
            )
