"""Persist before you speak, as a property: nothing leaves before the log has released its token, and all in order."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbft.core.effects import Broadcast, Persist, Record, Send
from smartbft.errors import DurabilityLost
from smartbft.messages import Progress
from smartbft.runtime.journal import Journal


class GatedLog:
    """A log that releases what the test allows."""

    def __init__(self) -> None:
        self.appended = 0
        self.allowed = 0
        self.lost = False

    def append(self, records: Sequence[Record]) -> int:
        if self.lost:
            raise DurabilityLost("the disk is gone")
        self.appended += len(records)
        return self.appended

    def released(self) -> int:
        if self.lost:
            raise DurabilityLost("the disk is gone")
        return min(self.allowed, self.appended)


def persist(token: int, records: int = 1, messages: int = 1) -> Persist:
    then = tuple(Send(0, Progress(0, 0, 100 * token + number)) for number in range(messages))
    return Persist(token, tuple(Record(1, token, (b"body",)) for _ in range(records)), then)


def said(messages: list[Send | Broadcast]) -> list[int]:
    return [message.message.decided for message in messages if isinstance(message.message, Progress)]


def assert_order(make: Callable[[GatedLog], Journal], steps: list[tuple[int, int, int]]) -> None:
    """Append and allow in any interleaving: each message leaves once, in order, and never before its records."""
    log = GatedLog()
    journal = make(log)
    last_record = [0]
    spoken: list[int] = []
    expected: list[int] = []
    for token, (records, messages, allowed) in enumerate(steps, start=1):
        journal.append(persist(token, records, messages))
        last_record.append(last_record[-1] + records)
        expected += [100 * token + number for number in range(messages)]
        log.allowed = max(log.allowed, allowed)
        spoken += said(journal.release())
        covered = max(number for number, last in enumerate(last_record) if last <= log.allowed)
        assert journal.released == covered
        assert spoken == [number for number in expected if number // 100 <= covered]
    log.allowed = last_record[-1]
    assert spoken + said(journal.release()) == expected


STEPS = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 3), st.integers(0, 40)), max_size=20)


@given(STEPS)
def test_messages_leave_in_order_and_never_early(steps: list[tuple[int, int, int]]) -> None:
    assert_order(Journal, steps)


class Hasty(Journal):
    """A planted bug: what waits for the newest record leaves with the one before it."""

    def release(self) -> list[Send | Broadcast]:
        messages = super().release()
        if self._waiting:
            _, self.released, then = self._waiting.popleft()
            messages += then
        return messages


class Forgetful(Journal):
    """A planted bug: only the newest of several released tokens speaks."""

    def release(self) -> list[Send | Broadcast]:
        return super().release()[-1:]


@pytest.mark.parametrize("bug", [Hasty, Forgetful])
def test_the_property_notices_planted_bugs(bug: type[Journal]) -> None:
    with pytest.raises(AssertionError):
        assert_order(bug, [(1, 2, 0), (2, 1, 1), (1, 2, 4)])


def test_without_a_log_everything_is_released_by_release_and_not_before() -> None:
    journal = Journal(None)
    journal.append(persist(1))
    journal.append(persist(2))
    assert journal.released == 0
    assert said(journal.release()) == [100, 200]
    assert journal.released == 2


def test_a_lost_disk_releases_nothing() -> None:
    log = GatedLog()
    journal = Journal(log)
    journal.append(persist(1))
    log.allowed, log.lost = 1, True
    with pytest.raises(DurabilityLost):
        journal.release()
    assert journal.released == 0
    with pytest.raises(DurabilityLost):
        journal.append(persist(2))
