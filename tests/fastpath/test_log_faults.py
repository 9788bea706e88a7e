"""Promise D4: any system call may fail at any time; nothing is acknowledged that a restart does not find."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.log_runs import RawRecord, Run, make_records, open_log, quick_folder, recover, run
from kit.power_loss import read_journal

from smartbft._fastpath.log import DurableLog
from smartbft.errors import DurabilityLost, StorageError

BEFORE = make_records(20)
RECORDS = make_records(50, first=100)


CALLS = ["open", "write", "sync", "rename", "read", "allocate"]


def faulty_run(folder: Path, call: str, k: int, fault: str, records: list[RawRecord]) -> Run | None:
    """A log that holds something is opened, appended to and closed while one call fails; None if there were fewer."""
    data, journal = folder / "data", folder / "journal"
    assert run(data, BEFORE).error is None
    result = run(data, records, [(call, k, fault), ("journal", 0, str(journal))])
    found = recover(data)
    assert found == (BEFORE + records)[: len(found)], "wrong data"
    assert len(found) >= result.last_acknowledged, "an acknowledged record is missing"
    assert len(found) >= len(BEFORE)
    if result.error is None:
        assert found == BEFORE + records
    fired = any(entry.call == b"F" for entry in read_journal(journal))
    return result if fired else None


def faulty_runs(call: str, fault: str, records: list[RawRecord] = RECORDS) -> Iterator[tuple[int, Run]]:
    """One run for each call that the run makes, which fails. How many that are varies a little with the grouping."""
    for k in itertools.count(1):
        with quick_folder() as folder:
            result = faulty_run(folder, call, k, fault, records)
        if result is None:
            assert k > 2
            return
        yield k, result


def append_and_wait(log: DurableLog, times: int) -> None:
    for instance in range(times):
        log.wait(log.append(1, instance, [b"x"]))


@pytest.mark.parametrize("call", CALLS)
def test_a_failing_call_ends_the_log_and_loses_nothing(call: str) -> None:
    for k, result in faulty_runs(call, "EIO"):
        assert result.error is not None, f"{call} {k} failed and nobody was told"


@pytest.mark.parametrize("call", CALLS)
def test_a_full_disk_loses_nothing(call: str) -> None:
    for k, result in faulty_runs(call, "ENOSPC"):
        # The next segment may be prepared later; nothing else may be left out.
        assert result.error is not None or call in ("open", "sync", "rename", "allocate"), k


@pytest.mark.parametrize("call", CALLS)
def test_an_interrupted_call_is_repeated(call: str) -> None:
    for k, result in faulty_runs(call, "EINTR"):
        assert result.error is None, k


@pytest.mark.parametrize("call", ["write", "read", "allocate"])
def test_a_short_call_is_continued(call: str) -> None:
    for k, result in faulty_runs(call, "short"):
        assert result.error is None, k


def test_a_failed_sync_is_never_retried() -> None:
    """The next sync would succeed, and would say nothing about the pages that the failed one dropped."""
    with quick_folder() as folder:
        # The header of the first segment takes two syncs of the file and one of the folder; the spare alike.
        log = open_log(folder, [("sync", k, "EIO") for k in range(7, 9)])
        with pytest.raises(DurabilityLost):
            append_and_wait(log, 5)
        for attempt in (lambda: log.append(1, 2, [b"y"]), log.completed, log.close, log.close):
            with pytest.raises(DurabilityLost):
                attempt()


def test_an_event_tells_of_the_failure() -> None:
    with quick_folder() as folder:
        log = open_log(folder, [("write", 2, "EIO")])
        with pytest.raises(DurabilityLost, match="cannot write to segment 0"):
            log.wait(log.append(1, 1, [b"x"]))
        with pytest.raises(DurabilityLost):
            log.completed()
        with pytest.raises(DurabilityLost):
            log.close()


def test_the_folder_is_released_after_a_failure() -> None:
    with quick_folder() as folder:
        with pytest.raises(StorageError):
            open_log(folder, [("sync", 1, "EIO")])
        open_log(folder).close()


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_every_call_of_a_run_of_five_hundred() -> None:
    records = make_records(300, first=100)
    calls = 0
    for call in CALLS:
        for fault in ("EIO", "ENOSPC", "EINTR"):
            for k, result in faulty_runs(call, fault, records):
                calls += 1
                assert result.error is not None or fault != "EIO", k
    assert calls >= 1500
