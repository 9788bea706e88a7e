"""Looking into a stopped replica's log: nothing is changed, and damage is named by file and offset."""

from __future__ import annotations

from pathlib import Path

import pytest

from smartbft._fastpath import log as native
from smartbft._fastpath.log import DurableLog
from smartbft.errors import CorruptLog, StorageError
from smartbft.storage import RecordSummary, inspect_log, verify_log
from smartbft.storage.reading import read_records

CHAIN = bytes(range(32))
SEGMENT = 4096
RECORDS = [(1 + i % 3, 100 + i, bytes([1 + i]) * (i * 29 % 600)) for i in range(40)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    log = DurableLog(str(tmp_path), CHAIN, 2, mode=native.SYNC, segment_bytes=SEGMENT)
    for kind, instance, body in RECORDS:
        log.append(kind, instance, [body])
    log.close()
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def last_begun(folder: Path) -> Path:
    return max(path for path in folder.glob("segment-*.log") if any(path.read_bytes()))


def damage(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def records_before_damage(folder: Path) -> list[RecordSummary]:
    found: list[RecordSummary] = []
    with pytest.raises(CorruptLog):
        found.extend(_noting(folder, found))
    return found


def _noting(folder: Path, found: list[RecordSummary]) -> list[RecordSummary]:
    for record in inspect_log(folder):
        found.append(record)  # noqa: PERF402
    return []


def test_every_record_is_listed_with_its_place(folder: Path) -> None:
    before = contents(folder)
    found = list(inspect_log(folder))
    assert [(record.kind, record.instance, record.body_bytes) for record in found] == [
        (kind, instance, len(body)) for kind, instance, body in RECORDS
    ]
    for record, (_, _, body) in zip(found, RECORDS, strict=True):
        start = record.offset + native.HEADER_SIZE
        assert (folder / record.segment).read_bytes()[start : start + len(body)] == body
    assert contents(folder) == before


def test_a_sound_log(folder: Path) -> None:
    report = verify_log(folder)
    assert (report.verdict, report.intact, report.problem) == ("complete", True, "")
    assert (report.chain_id, report.replica) == (CHAIN, 2)
    assert (report.records, report.first_instance, report.last_instance) == (40, 100, 139)
    assert report.records_of_kind == {1: 14, 2: 13, 3: 13}
    assert report.body_bytes == sum(len(body) for _, _, body in RECORDS)
    assert report.segments > 3


def test_a_folder_that_is_in_use_can_be_looked_at(folder: Path) -> None:
    log = DurableLog(str(folder), CHAIN, 2, mode=native.SYNC, segment_bytes=SEGMENT)
    assert verify_log(folder).records == 40
    log.close()


def test_damage_in_the_middle_is_named(folder: Path) -> None:
    damage(folder / "segment-0000000000000001.log", 700, b"\xff\xff")
    report = verify_log(folder)
    assert (report.verdict, report.intact) == ("corrupt", False)
    assert report.problem_segment == "segment-0000000000000001.log"
    assert 512 <= report.problem_offset <= 700
    listed = [record.instance for record in records_before_damage(folder)]
    assert listed == [instance for _, instance, _ in RECORDS[: len(listed)]]
    assert report.records == len(listed) > 0
    with pytest.raises(CorruptLog):
        DurableLog(str(folder), CHAIN, 2, mode=native.SYNC, segment_bytes=SEGMENT)


def test_a_torn_tail_is_told_and_left_alone(folder: Path) -> None:
    path = last_begun(folder)
    end = verify_log(folder).end_offset
    # A later sector of a record arrived, its first one did not.
    damage(path, (end // 512 + 2) * 512, b"\x77" * 100)
    before = contents(folder)
    report = verify_log(folder)
    assert (report.verdict, report.intact, report.records, report.end_offset) == ("torn tail", True, 40, end)
    assert contents(folder) == before


def test_a_damaged_header_is_named(folder: Path) -> None:
    for name in ("segment-0000000000000000.log", "segment-0000000000000002.log"):
        path = folder / name
        whole = path.read_bytes()
        damage(path, 20, b"\xff")
        report = verify_log(folder)
        assert (report.verdict, report.problem_segment, report.problem_offset) == ("corrupt", name, 0)
        assert "header is damaged" in report.problem
        path.write_bytes(whole)


def test_a_file_that_was_cut_is_corrupt(folder: Path) -> None:
    path = last_begun(folder)
    whole = path.read_bytes()
    for length in (0, 100, 512, 2000):
        path.write_bytes(whole[:length])
        assert verify_log(folder).verdict == "corrupt", length
    path.write_bytes(whole)
    assert verify_log(folder).verdict == "complete"


def test_a_log_whose_first_segments_were_dropped(folder: Path) -> None:
    everything = list(inspect_log(folder))
    with_gone = DurableLog(str(folder), CHAIN, 2, mode=native.SYNC, segment_bytes=SEGMENT)
    removed = with_gone.forget(120)
    with_gone.close()
    assert removed > 0
    left = list(inspect_log(folder))
    assert left == everything[len(everything) - len(left) :]
    report = verify_log(folder)
    assert (report.verdict, report.first_instance, report.last_instance) == ("complete", left[0].instance, 139)
    assert [instance for _, instance, _ in read_records(folder, CHAIN, 2)] == [record.instance for record in left]


def test_a_missing_segment_is_named(folder: Path) -> None:
    (folder / "segment-0000000000000001.log").unlink()
    report = verify_log(folder)
    assert (report.verdict, report.problem_segment) == ("corrupt", "segment-0000000000000001.log")


def test_a_log_that_was_never_begun(tmp_path: Path) -> None:
    (tmp_path / "segment-0000000000000000.log").write_bytes(bytes(4096))
    report = verify_log(tmp_path)
    assert (report.verdict, report.records, report.segments) == ("complete", 0, 0)


def test_where_there_is_no_log(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="holds no log"):
        verify_log(tmp_path)
    with pytest.raises(StorageError, match="is not a folder"):
        list(inspect_log(tmp_path / "missing"))
