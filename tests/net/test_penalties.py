"""Penalties: pauses that grow with offences and are forgotten, for a bounded number of offenders."""

from __future__ import annotations

import pytest

from smartbft.net.penalties import Penalties, Probation


def offences(count: int, apart: float) -> list[float]:
    """The pause after each of so many offences, committed so long after the last pause was over."""
    penalties: Penalties[str] = Penalties(0.1, 2.0, 8)
    now, pauses = 100.0, []
    for _ in range(count):
        penalties.offence("a", now)
        pauses.append(round(penalties.remaining("a", now), 6))
        now += pauses[-1] + apart
    return pauses


def test_pauses_double_up_to_a_maximum() -> None:
    assert offences(7, 0.01) == [0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]


def test_good_behaviour_is_remembered() -> None:
    assert offences(3, 3.0) == [0.1, 0.1, 0.1]


def test_the_pause_ends_and_is_nobody_elses() -> None:
    penalties: Penalties[str] = Penalties(0.1, 2.0, 8)
    penalties.offence("a", 5.0)
    assert penalties.remaining("a", 5.04) == pytest.approx(0.06)
    assert penalties.remaining("a", 5.1) == 0
    assert penalties.remaining("b", 5.0) == 0


def test_memory_is_bounded_and_the_latest_offenders_are_known() -> None:
    penalties: Penalties[int] = Penalties(0.1, 2.0, 8)
    for who in range(1_000):
        penalties.offence(who, 5.0)
    assert len(penalties) == 8
    assert [who for who in range(1_000) if penalties.remaining(who, 5.0)] == list(range(992, 1_000))


# --- addresses ---


def test_an_address_on_probation_is_let_in_at_a_rate() -> None:
    probation = Probation(10.0, 4.0, 8)
    assert not probation.includes("a", 100.0)
    assert probation.wait("a", 100.0) == 0
    probation.offence("a", 0.0, 100.0)
    assert probation.includes("a", 109.9)
    entered, now = [], 100.0
    while len(entered) < 5:
        if not probation.wait("a", now):
            probation.enter("a", now)
            entered.append(now)
        now += 0.125
    assert entered == [100.0, 100.25, 100.5, 100.75, 101.0]
    assert not probation.includes("b", 100.0)
    assert not probation.includes("a", 110.0)
    assert probation.wait("a", 110.0) == 0


def test_pauses_after_offences_do_not_add_up() -> None:
    probation = Probation(10.0, 4.0, 8)
    for _ in range(100):
        probation.offence("a", 0.75, 100.0)
    assert probation.wait("a", 100.0) == pytest.approx(0.75)
    probation.offence("a", 0.0, 100.5)
    assert probation.wait("a", 100.5) == pytest.approx(0.25), "a small offence takes no pause back, and makes none"


def test_probation_goes_on_for_as_long_after_each_offence_and_memory_is_bounded() -> None:
    probation = Probation(10.0, 4.0, 8)
    for number in range(1000):
        probation.offence(f"{number}", 0.0, 100.0 + number)
    assert len(probation) == 8
    assert probation.includes("999", 1108.9)
    assert not probation.includes("999", 1109.0)
    probation.offence("999", 0.0, 1108.0)
    assert probation.includes("999", 1117.9)
    assert not probation.includes("1", 101.0)
