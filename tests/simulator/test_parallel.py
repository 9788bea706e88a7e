"""Runs on several processes: in order, and quietly ended by Ctrl-C."""

from __future__ import annotations

import signal

import pytest

from smartbft.testing.parallel import interrupts_blocked, outcomes


@pytest.mark.parametrize("jobs", [1, 2])
def test_outcomes_come_in_the_order_of_the_cases(jobs: int) -> None:
    assert list(outcomes(abs, [-3, 2, -1, 0, 5], jobs)) == [3, 2, 1, 0, 5]


def test_ctrl_c_ends_the_processes_without_a_traceback() -> None:
    before = signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, ())
    assert set(outcomes(signal.getsignal, [signal.SIGINT] * 4, 2)) == {signal.SIG_DFL}
    assert (signal.getsignal(signal.SIGINT), signal.pthread_sigmask(signal.SIG_BLOCK, ())) == before


def test_an_interrupt_waits_until_processes_are_started() -> None:
    seen: list[str] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: seen.append("interrupt"))
    try:
        with interrupts_blocked():
            signal.raise_signal(signal.SIGINT)  # to this thread: the runner may have others
            seen.append("started")
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == ["started", "interrupt"]
