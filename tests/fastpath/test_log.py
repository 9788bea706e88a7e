"""The durable log on real files: what it keeps, what it refuses, what it reports."""

from __future__ import annotations

import os
import select
import threading
from pathlib import Path
from typing import Any

import pytest

from smartbft._fastpath import log as native
from smartbft._fastpath.log import DurableLog
from smartbft.errors import CorruptLog, DurabilityLost, LocalProtocolError, StorageError

CHAIN = bytes(range(32))
SEGMENT = 8192


def open_log(folder: Path, **changes: Any) -> DurableLog:
    settings: dict[str, Any] = {"mode": native.SYNC, "segment_bytes": SEGMENT} | changes
    replica = settings.pop("replica", 1)
    return DurableLog(str(folder), settings.pop("chain_id", CHAIN), replica, **settings)


def bodies(count: int) -> list[tuple[int, int, bytes]]:
    return [(1 + i % 3, i, bytes([1 + i % 255]) * (i * 37 % 1000)) for i in range(count)]


def append_until_it_fails(log: DurableLog, first: int) -> None:
    for instance in range(first, first + 1000):
        log.wait(log.append(1, instance, [b"x" * 500]))


@pytest.mark.parametrize("mode", [native.ASYNC, native.SYNC])
def test_records_come_back_in_order_over_many_segments(tmp_path: Path, mode: int) -> None:
    written = bodies(120)
    log = open_log(tmp_path, mode=mode)
    assert log.recovered() == []
    for expected, (kind, instance, body) in enumerate(written, 1):
        assert log.append(kind, instance, (body[:7], body[7:])) == expected
    log.wait(120)
    assert log.completed() == 120
    assert log.stats()["segments"] > 5
    log.close()
    again = open_log(tmp_path, mode=mode)
    assert again.recovered() == written
    assert again.recovered() == []
    again.close()


def test_appending_goes_on_after_each_restart(tmp_path: Path) -> None:
    written = bodies(60)
    for start in range(0, 60, 7):
        log = open_log(tmp_path)
        assert log.recovered() == written[:start]
        for kind, instance, body in written[start : start + 7]:
            log.append(kind, instance, [body])
        log.close()
    log = open_log(tmp_path)
    assert log.recovered() == written
    log.close()


def test_segments_may_change_size(tmp_path: Path) -> None:
    written = bodies(90)
    for start, size in ((0, 4096), (30, 16384), (60, 8192)):
        log = open_log(tmp_path, segment_bytes=size)
        for kind, instance, body in written[start : start + 30]:
            log.append(kind, instance, [body])
        log.close()
    log = open_log(tmp_path)
    assert log.recovered() == written
    log.close()


def test_memory_mode_touches_no_file(tmp_path: Path) -> None:
    log = open_log(tmp_path / "none", mode=native.MEMORY)
    assert log.append(1, 1, [b"x"]) == 1
    assert log.completed() == 1
    log.wait(1)
    assert (log.pending_bytes(), log.space_low(), log.recovered()) == (0, False, [])
    log.close()
    assert not (tmp_path / "none").exists()


def test_the_event_is_readable_when_something_completed(tmp_path: Path) -> None:
    with select.epoll() as poll:
        log = open_log(tmp_path)
        poll.register(log.fileno(), select.EPOLLIN)
        assert poll.poll(0) == []
        sequence = log.append(1, 1, [b"x"])
        assert poll.poll(30) != []
        assert log.completed() == sequence
        assert poll.poll(0) == []
        log.close()


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    with pytest.raises(StorageError, match="in use by process"):
        open_log(tmp_path)
    log.close()
    open_log(tmp_path).close()


@pytest.mark.parametrize(("change", "words"), [({"replica": 2}, "replica"), ({"chain_id": bytes(32)}, "chain")])
def test_another_replicas_or_chains_folder_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    open_log(tmp_path).close()
    with pytest.raises(StorageError, match=f"another {words}"):
        open_log(tmp_path, **change)
    open_log(tmp_path).close()


def test_wrong_settings_are_named(tmp_path: Path) -> None:
    for change, words in (
        ({"segment_bytes": 100}, "segment of 100 bytes"),
        ({"segment_bytes": 8193}, "multiple of 8"),
        ({"sync_floor_seconds": -1.0}, "sync floor"),
        ({"mode": 7}, "unknown log mode"),
        ({"fault_plan": [("write", 1, "lie")]}, "fault plan"),
        ({"fault_plan": [("walk", 1, "EIO")]}, "unknown call"),
    ):
        with pytest.raises((StorageError, LocalProtocolError), match=words):
            open_log(tmp_path, **change)
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file"):
        open_log(tmp_path / "file")


def test_a_record_larger_than_a_segment_is_refused(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    room = SEGMENT - native.SEGMENT_HEADER_SIZE - native.HEADER_SIZE
    with pytest.raises(StorageError, match="does not fit"):
        log.append(1, 1, [bytes(room + 1)])
    log.wait(log.append(1, 1, [b"x" * room]))
    log.wait(log.append(1, 2, [b"y" * room]))
    log.close()


def test_waiting_for_what_was_not_appended_is_an_error(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    with pytest.raises(StorageError, match="has not been appended"):
        log.wait(1)
    log.close()


def test_closing_twice_and_appending_after_it(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append(1, 1, [b"x"])
    log.close()
    log.close()
    assert log.completed() == 1
    with pytest.raises(StorageError, match="closed"):
        log.append(1, 2, [b"y"])


def test_dropping_an_open_log_closes_it(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.append(1, 1, [b"x"])
    del log
    log = open_log(tmp_path)
    assert log.recovered() == [(1, 1, b"x")]
    log.close()


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_a_forked_child_leaves_the_log_alone(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.wait(log.append(1, 1, [b"before"]))
    child = os.fork()
    if child == 0:
        log.close()
        del log
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    log.wait(log.append(1, 2, [b"after"]))
    log.close()
    again = open_log(tmp_path)
    assert [body for _, _, body in again.recovered()] == [b"before", b"after"]
    again.close()


def test_one_sync_covers_everything_that_waits(tmp_path: Path) -> None:
    log = open_log(tmp_path, segment_bytes=1 << 20, sync_floor_seconds=0.02)
    for instance in range(498):
        log.append(1, instance, [b"x" * 100])
    log.append(1, 498, [b"x" * 100], more=True)
    assert log.pending_bytes() > 0
    log.wait(log.append(1, 499, [b"x" * 100]))
    stats = log.stats()
    assert log.pending_bytes() == 0
    assert stats["syncs"] < 100
    assert stats["records"] == 500
    assert stats["group_records_mean"] > 5
    assert stats["sync_seconds"] >= 0.02 * stats["syncs"]
    assert 0.02 <= stats["sync_p50"] <= stats["sync_p99"]
    log.close()


def test_records_that_belong_together_are_synced_together(tmp_path: Path) -> None:
    log = open_log(tmp_path, segment_bytes=1 << 16)
    for instance in range(20):
        log.append(1, instance, [b"first"], more=True)
        log.append(2, instance, [b"second"], more=True)
        log.wait(log.append(3, instance, [b"third"]))
    assert log.stats()["syncs"] == 20
    assert log.stats()["group_records_mean"] == 3
    log.append(1, 99, [b"held until something follows"], more=True)
    log.close()
    again = open_log(tmp_path, segment_bytes=1 << 16)
    assert len(again.recovered()) == 61
    again.close()


def test_many_threads_may_append(tmp_path: Path) -> None:
    log = open_log(tmp_path, segment_bytes=1 << 16)
    sequences: list[int] = []

    def work(thread: int) -> None:
        sequences.extend(log.append(1, thread * 1000 + index, [b"z" * 300]) for index in range(100))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(sequences) == list(range(1, 401))
    log.close()
    again = open_log(tmp_path, segment_bytes=1 << 16)
    instances = [instance for _, instance, _ in again.recovered()]
    assert sorted(instances) == sorted(thread * 1000 + index for thread in range(4) for index in range(100))
    again.close()


def test_a_missing_segment_is_corrupt(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    for kind, instance, body in bodies(120):
        log.append(kind, instance, [body])
    log.close()
    (tmp_path / "segment-0000000000000002.log").unlink()
    with pytest.raises(CorruptLog, match="missing") as caught:
        open_log(tmp_path)
    assert caught.value.segment == "segment-0000000000000002.log"


def test_unfinished_segments_are_removed(tmp_path: Path) -> None:
    open_log(tmp_path).close()
    leftover = tmp_path / "segment-0000000000000009.tmp"
    leftover.write_bytes(b"unfinished")
    open_log(tmp_path).close()
    assert not leftover.exists()


def test_a_full_disk_is_reported_before_it_stops_anyone(tmp_path: Path) -> None:
    # The first segment is one allocation; every later one fails, however long this takes.
    log = open_log(tmp_path, fault_plan=[("allocate+", 2, "ENOSPC")])
    while not log.space_low():
        pass
    for instance in range(5):
        log.wait(log.append(1, instance, [b"x" * 500]))
    with pytest.raises(DurabilityLost, match="cannot prepare segment 1"):
        append_until_it_fails(log, 5)
    with pytest.raises(DurabilityLost):
        log.close()
    again = open_log(tmp_path)
    recovered = [instance for _, instance, _ in again.recovered()]
    assert recovered == list(range(len(recovered)))
    assert len(recovered) >= 5
    again.close()


def test_a_disk_with_space_again_is_used(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    log = open_log(tmp_path / "data", fault_plan=[("allocate", 2, "ENOSPC"), ("journal", 0, str(journal))])
    # Not until `space_low`, which may have come and gone before anybody looks.
    while b"allocate" not in journal.read_bytes():  # which names the calls that failed as planned
        pass
    for kind, instance, body in bodies(60):
        log.append(kind, instance, [body])
    log.wait(60)
    assert not log.space_low()
    log.close()
