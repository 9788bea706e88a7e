"""The timeout is short again soon after a time in which regencies failed, however long that was."""

from __future__ import annotations

from smartbft.limits import DECISIONS_PER_TIMEOUT_DECAY
from smartbft.protocols.mod_smart.patience import Patience
from smartbft.types import Parameters

PARAMETERS = Parameters(request_timeout=2_000_000, max_request_timeout=60_000_000)
DOUBLINGS = 5  # from 2 to 60 seconds


def decisions_until_short(failures: int) -> int:
    patience = Patience(PARAMETERS)
    for _ in range(failures):
        patience.installed()
    assert patience.timeout == PARAMETERS.max_request_timeout
    decisions = 0
    while patience.timeout > PARAMETERS.request_timeout:
        patience.decided()
        decisions += 1
    return decisions


def test_a_night_of_failures_costs_no_more_than_a_minute_of_them() -> None:
    assert decisions_until_short(DOUBLINGS) == DOUBLINGS * DECISIONS_PER_TIMEOUT_DECAY
    assert decisions_until_short(1_000) == DOUBLINGS * DECISIONS_PER_TIMEOUT_DECAY


def test_the_cap_holds_at_once() -> None:
    patience = Patience(Parameters(request_timeout=3, max_request_timeout=3))
    patience.installed()
    assert patience.timeout == 3
