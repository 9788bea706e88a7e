"""Penalties: pauses that grow with offences and are forgotten, for a bounded number of offenders."""

from __future__ import annotations

import pytest

from smartbft.net.penalties import Penalties


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
