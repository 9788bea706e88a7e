"""Promise D2 for the log: what was acknowledged survives a power loss at any moment, and the log always opens again."""

from __future__ import annotations

from pathlib import Path

import pytest
from kit.log_runs import FaultPlan, make_records, quick_folder, recover, run
from kit.power_loss import Entry
from kit.power_loss_runs import Image, check_recovered, crash_everywhere, parsed, record_run

from smartbft._fastpath import log as native


def put(folder: Path, image: Image) -> Path:
    folder.mkdir()
    for name, content in image.items():
        (folder / name).write_bytes(content)
    return folder


def test_what_was_acknowledged_survives_a_power_loss_at_any_moment() -> None:
    with quick_folder() as folder:
        result, entries = record_run(folder, make_records(60))
        assert result.error is None
        images = crash_everywhere(result, entries)
        assert len(images) > 300
        # The files themselves, for some of them: the log opens, takes more, and keeps that too.
        for number, (position, image) in enumerate(images[:: len(images) // 60]):
            data = put(folder / str(number), image)
            found = recover(data)
            check_recovered(result, found, result.acknowledged_at(position))
            more = run(data, make_records(3, first=1000))
            assert more.error is None
            assert recover(data) == found + make_records(3, first=1000)


def test_a_second_power_loss_while_recovering_from_the_first() -> None:
    with quick_folder() as folder:
        result, entries = record_run(folder, make_records(12))
        images = crash_everywhere(result, entries, seeds=1)
        for number, (position, image) in enumerate(images[7::9]):
            acknowledged = result.acknowledged_at(position)
            inner = folder / str(number)
            inner.mkdir()
            again, more = record_run(inner, make_records(6, first=500), image)
            assert again.at_start >= acknowledged
            assert again.error is None
            again.at_start = acknowledged
            crash_everywhere(again, more, image, seeds=1)


def test_asynchronous_mode_loses_a_suffix_at_most() -> None:
    with quick_folder() as folder:
        result, entries = record_run(folder, make_records(60), mode=native.ASYNC)
        images = crash_everywhere(result, entries, acknowledges=False)
        assert any(len(parsed(image)) < result.acknowledged_at(position) for position, image in images)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_ten_thousand_power_losses() -> None:
    crashes = 0
    for first in range(40):
        with quick_folder() as folder:
            result, entries = record_run(folder, make_records(60, first=first * 100))
            crashes += len(crash_everywhere(result, entries, seeds=4))
    assert crashes >= 10_000


# --- planted bugs -----------------------------------------------------------------------------------------------------


def syncs_of(entries: list[Entry], call: bytes) -> list[int]:
    """Which of the syncs (files' and folder's are counted together) are of this kind."""
    syncs = [entry.call for entry in entries if entry.call in (b"S", b"D")]
    return [k for k, kind in enumerate(syncs, 1) if kind == call]


def is_found(plan: FaultPlan) -> bool:
    with quick_folder() as folder:
        result, entries = record_run(folder, make_records(12), plan=plan)
        assert result.error is None
        try:
            crash_everywhere(result, entries, seeds=6)
        except (AssertionError, LookupError):
            return True
        except native.CorruptLog:
            return True
    return False


# Which call a lie meets depends on how writer and preparer take turns, so a search for the planted bug is repeated.
ATTEMPTS = 10


def lies_found(call: bytes) -> int:
    """How many of the syncs of this kind are missed when each is left out in turn, in runs of their own."""
    with quick_folder() as folder:
        _, entries = record_run(folder, make_records(12))
    return sum(is_found([("sync", k, "lie")]) for k in syncs_of(entries, call))


def test_acknowledging_before_the_sync_is_found() -> None:
    assert is_found([("sync", k, "lie") for k in range(1, 200)])
    # One that is left out now and then is covered by the next before anyone could notice: the log's close, for example.
    assert any(lies_found(b"S") >= 4 for _ in range(ATTEMPTS))


def test_a_missing_sync_of_the_folder_is_found() -> None:
    """Taken out of the journal of a good run: which of the calls a planned lie meets depends on the threads' turns."""
    with quick_folder() as folder:
        result, entries = record_run(folder, make_records(12))
        assert any(entry.call == b"D" for entry in entries)
        with pytest.raises((AssertionError, LookupError, native.CorruptLog)):
            crash_everywhere(result, [entry for entry in entries if entry.call != b"D"], seeds=6)
