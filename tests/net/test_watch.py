"""Idle and dripping connections, told by byte counts and a clock that the test turns."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smartbft.net.watch import ConnectionLimits, ConnectionWatch

LIMITS = ConnectionLimits(idle_timeout=60.0, frame_timeout=10.0)


def test_silence_is_closed_after_the_idle_timeout() -> None:
    watch = ConnectionWatch(LIMITS, now=0.0)
    assert watch.look(59.0, received=0, buffered=0) is None
    assert watch.look(60.0, received=1, buffered=0) is None
    assert watch.look(119.0, received=1, buffered=0) is None
    assert "nothing was received for 60 seconds" in str(watch.look(120.5, received=1, buffered=0))


def test_a_frame_that_drips_is_closed_however_regularly_its_bytes_come() -> None:
    watch = ConnectionWatch(LIMITS, now=0.0)
    for second in range(1, 12):
        assert watch.look(float(second), received=second, buffered=second) is None
    assert "a frame is not complete after 10 seconds (12 bytes" in str(watch.look(12.0, received=12, buffered=12))


def test_a_busy_connection_may_always_have_a_partial_frame() -> None:
    watch = ConnectionWatch(LIMITS, now=0.0)
    for second in range(1, 100):
        # 1000 bytes a second in frames of 300: at each look another one is incomplete.
        assert watch.look(float(second), received=1000 * second, buffered=1000 * second % 300 + 1) is None


def test_a_frame_completed_between_two_looks_starts_the_clock_anew() -> None:
    watch = ConnectionWatch(LIMITS, now=0.0)
    assert watch.look(1.0, received=5, buffered=5) is None
    assert watch.look(9.0, received=105, buffered=5) is None  # the same size, another frame
    assert watch.look(18.0, received=106, buffered=6) is None
    assert watch.look(19.5, received=107, buffered=7) is not None


@given(st.lists(st.tuples(st.floats(0.01, 1.0), st.integers(1, 500)), max_size=60))
def test_honest_traffic_is_never_closed(reads: list[tuple[float, int]]) -> None:
    """Frames of 100 bytes, arriving at any pace that completes one at least every few seconds."""
    watch = ConnectionWatch(LIMITS, now=0.0)
    now, received = 0.0, 0
    for pause, size in reads:
        now += pause
        received += max(size, 100)
        assert watch.look(now, received, received % 100) is None
