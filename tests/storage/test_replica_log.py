"""The face of the log: tokens, modes, statistics, reading instances back while it grows."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from smartbft._fastpath.log import LogParser
from smartbft.errors import CorruptLog, DurabilityLost, LocalProtocolError, StorageError
from smartbft.storage import PersistenceMode, ReplicaLog, reader

CHAIN = bytes(range(32))
SEGMENT = 4096


@dataclass(frozen=True)
class Record:
    kind: int
    instance: int
    parts: tuple[bytes, ...]

    @property
    def raw(self) -> tuple[int, int, bytes]:
        return self.kind, self.instance, b"".join(self.parts)


def open_log(folder: Path, mode: PersistenceMode = "sync", **changes: Any) -> ReplicaLog:
    return ReplicaLog(folder, CHAIN, 1, mode=mode, **{"segment_bytes": SEGMENT} | changes)


def three_records(instance: int) -> list[Record]:
    return [
        Record(1, instance, (b"value", bytes([1 + instance % 200]) * 300)),
        Record(2, instance, (b"accept",)),
        Record(3, instance, (b"proof", b"", b"more")),
    ]


@pytest.fixture
def grown(tmp_path: Path) -> Iterator[tuple[ReplicaLog, list[Record]]]:
    """A log of several segments, and what is in it."""
    with open_log(tmp_path) as log:
        records = [record for instance in range(1, 41) for record in three_records(instance)]
        log.wait(log.append(records))
        assert log.statistics().segments > 4
        yield log, records


@pytest.mark.parametrize("mode", ["async", "sync"])
def test_records_are_recovered(tmp_path: Path, mode: PersistenceMode) -> None:
    with open_log(tmp_path, mode) as log:
        assert log.append(three_records(1)) == 3
        assert log.append(three_records(2)[:1]) == 4
        log.wait(4)
        assert log.released() == 4
    with open_log(tmp_path, mode) as log:
        assert log.recovered() == [record.raw for record in three_records(1) + three_records(2)[:1]]
        assert log.append(three_records(3)) == 3


def test_memory_mode_releases_at_once_and_keeps_nothing(tmp_path: Path) -> None:
    with open_log(tmp_path / "none", "memory") as log:
        assert log.append(three_records(1)) == log.released() == 3
        assert log.statistics().records == 3
        assert (list(log.read(1, 1)), log.pending_bytes(), log.space_low()) == ([], 0, False)
    assert not (tmp_path / "none").exists()


def test_statistics_count_what_was_written(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        log.wait(log.append(three_records(1)))
        statistics = log.statistics()
    assert statistics.records == 3
    assert statistics.record_bytes == 3 * 72 + 312 + 8 + 16
    assert statistics.syncs >= 1
    assert 0 < statistics.sync_p50_seconds <= statistics.sync_p99_seconds
    assert 1 <= statistics.group_records_mean <= 3


def test_wrong_use_is_named(tmp_path: Path) -> None:
    with pytest.raises(LocalProtocolError, match="unknown persistence 'disk'"):
        open_log(tmp_path, "disk")  # type: ignore[arg-type]
    with open_log(tmp_path) as log:
        with pytest.raises(LocalProtocolError, match="nothing to append"):
            log.append([])
        with pytest.raises(StorageError, match="does not fit into a segment"):
            log.append([Record(1, 1, (bytes(SEGMENT),))])


def test_a_lost_disk_raises_everywhere(tmp_path: Path) -> None:
    log = open_log(tmp_path, fault_plan=[("write", 2, "EIO")])
    token = log.append(three_records(1))
    with pytest.raises(DurabilityLost):
        log.wait(token)
    for attempt in (log.released, log.close, lambda: log.append(three_records(2))):
        with pytest.raises(DurabilityLost):
            attempt()


def test_instances_are_read_back(grown: tuple[ReplicaLog, list[Record]]) -> None:
    log, records = grown
    for first, last in ((1, 1), (40, 40), (7, 19), (1, 40), (39, 100), (41, 50), (5, 4)):
        expected = [record.raw for record in records if first <= record.instance <= last]
        assert list(log.read(first, last)) == expected


def test_close_marks_are_no_records(tmp_path: Path) -> None:
    """A segment whose first record is the mark of a clean close is searched like any other."""
    for instance in range(1, 30):
        with open_log(tmp_path) as log:
            log.wait(log.append([Record(1, instance, (bytes(1000 + instance * 7 % 160),))]))
            assert [found for _, found, _ in log.read(1, 99)] == list(range(1, instance + 1))
            assert [found for _, found, _ in log.read(instance, instance)] == [instance]


def test_reading_sees_what_is_appended(grown: tuple[ReplicaLog, list[Record]]) -> None:
    log, _ = grown
    for instance in range(41, 60):
        log.wait(log.append(three_records(instance)[:2]))
        assert [kind for kind, _, _ in log.read(instance, instance)] == [1, 2]
        log.wait(log.append(three_records(instance)[2:]))
        assert [kind for kind, _, _ in log.read(instance, instance)] == [1, 2, 3]


def test_reading_while_another_thread_appends(tmp_path: Path) -> None:
    with open_log(tmp_path) as log:
        written = 0
        done = threading.Event()

        def write() -> None:
            nonlocal written
            for instance in range(1, 150):
                log.wait(log.append(three_records(instance)))
                written = instance
            done.set()

        thread = threading.Thread(target=write)
        thread.start()
        while not done.is_set():
            upto = written
            found = list(log.read(1, upto))
            assert found == [record.raw for instance in range(1, upto + 1) for record in three_records(instance)]
        thread.join()


def test_only_the_segments_that_matter_are_read(
    grown: tuple[ReplicaLog, list[Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    log, _ = grown
    parsed = []

    class Counting:
        def __init__(self, *identity: Any) -> None:
            self._parser = LogParser(*identity)

        def __getattr__(self, name: str) -> Any:
            if name.startswith("parse"):
                parsed.append(name)
            return getattr(self._parser, name)

    monkeypatch.setattr(reader, "LogParser", Counting)
    for _ in range(3):
        assert len(list(log.read(20, 20))) == 3
    assert 1 <= len(parsed) <= 2
    assert set(parsed) == {"parse"}


def test_a_record_that_rots_is_not_served(grown: tuple[ReplicaLog, list[Record]]) -> None:
    log, _ = grown
    assert len(list(log.read(1, 1))) == 3
    path = log.folder / "segment-0000000000000000.log"
    with path.open("r+b") as file:
        file.seek(512 + 72 + 100)
        file.write(b"rot")
    with pytest.raises(CorruptLog, match="offset 512") as caught:
        list(log.read(1, 1))
    assert caught.value.segment == path.name


def test_forgotten_instances_are_read_no_more(grown: tuple[ReplicaLog, list[Record]]) -> None:
    log, records = grown
    assert list(log.read(1, 40)) == [record.raw for record in records]
    removed = log.forget(21)
    assert removed > 1
    left = list(log.read(1, 40))
    assert left == [record.raw for record in records][-len(left) :]
    assert [raw for raw in left if raw[1] >= 21] == [record.raw for record in records if record.instance >= 21]
    assert log.forget(21) == 0
    assert list(log.read(1, 2)) == []


def test_segments_may_go_while_they_are_read(grown: tuple[ReplicaLog, list[Record]]) -> None:
    log, records = grown
    reading = log.read(1, 40)
    assert next(reading) == records[0].raw
    assert log.forget(30) > 2
    rest = [raw for raw in reading if raw[1] >= 30]
    assert rest == [record.raw for record in records if record.instance >= 30]


def test_a_file_that_vanishes_otherwise_is_an_error(
    grown: tuple[ReplicaLog, list[Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only a segment that is gone is left out."""
    log, _ = grown

    def missing(self: reader.LogReader, number: int, finished: bool) -> list[Any]:
        raise FileNotFoundError("something else")

    monkeypatch.setattr(reader.LogReader, "_places", missing)
    with pytest.raises(FileNotFoundError):
        list(log.read(1, 2))


def test_nothing_is_forgotten_in_memory(tmp_path: Path) -> None:
    with open_log(tmp_path / "none", "memory") as log:
        log.append(three_records(1))
        assert log.forget(9) == 0
