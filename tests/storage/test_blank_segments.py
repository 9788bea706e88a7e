"""Segments that read as zeros: one at the end was prepared ahead, all others are lost records, for every reader."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
from oracles import log_format as oracle

from smartbft._fastpath import log as native
from smartbft._fastpath.log import DurableLog
from smartbft.errors import CorruptLog
from smartbft.storage import inspect_log, parse_segments, recovery, verify_log
from smartbft.storage.reading import read_records
from smartbft.storage.recovery import segment_name, segment_number

CHAIN = bytes(range(32))
SEGMENT = 4096
Image = dict[str, bytes]
Records = list[tuple[int, int, bytes]]


def open_log(folder: Path) -> DurableLog:
    return DurableLog(str(folder), CHAIN, 2, mode=native.SYNC, segment_bytes=SEGMENT)


def sound_log(folder: Path) -> tuple[Image, Records]:
    """A log of four segments and the one prepared after them."""
    folder.mkdir()
    log = open_log(folder)
    records = [(1, instance, bytes([1 + instance]) * 1000) for instance in range(11)]
    for kind, instance, body in records:
        log.wait(log.append(kind, instance, [body]))
    begun = int(log.stats()["segments"])
    while not (folder / segment_name(begun)).exists():
        log.completed()
    log.close()
    image = {path.name: path.read_bytes() for path in sorted(folder.glob("segment-*.log"))}
    assert [any(data) for data in image.values()] == [True] * 4 + [False]
    return image, records


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Image, Records]:
    return sound_log(tmp_path_factory.mktemp("sound") / "data")


def put(folder: Path, image: Image) -> Path:
    folder.mkdir()
    for name, data in image.items():
        (folder / name).write_bytes(data)
    return folder


def damaged_images(image: Image) -> Iterator[Image]:
    """Any segments of the log zeroed, the first ones dropped, with the prepared one or without it."""
    for dropped, spare in itertools.product(range(4), (True, False)):
        names = list(image)[dropped : None if spare else -1]
        for zeroed in itertools.product((True, False), repeat=len(names)):
            yield {name: bytes(SEGMENT) if zero else image[name] for name, zero in zip(names, zeroed, strict=True)}


def read_everywhere(folder: Path, image: Image) -> list[CorruptLog | Records]:
    """What each of those that read logs makes of it."""

    def opened() -> Records:
        log = open_log(folder)
        log.close()
        return log.recovered()

    def inspected() -> Records:
        return [(one.kind, one.instance, bytes([1 + one.instance]) * one.body_bytes) for one in inspect_log(folder)]

    found: list[CorruptLog | Records] = []
    for read in (
        lambda: parse_segments(image.values(), CHAIN, 2).records,
        inspected,
        lambda: list(read_records(folder, CHAIN, 2)),
        opened,  # last, for a log that opens is changed
    ):
        try:
            found.append(read())
        except CorruptLog as error:
            found.append(error)
    return found


def test_all_readers_agree_on_what_zeros_mean(tmp_path: Path, sound: tuple[Image, Records]) -> None:
    image, records = sound
    refused = accepted = 0
    for number, damaged in enumerate(damaged_images(image)):
        folder = put(tmp_path / str(number), damaged)
        blank = [not any(data) for data in damaged.values()]
        lost = oracle.has_lost_segments([segment_number(name) or 0 for name in damaged], blank)
        found = read_everywhere(folder, damaged)
        if all(blank):
            found = found[1:]  # bytes alone do not say whether segments before them were dropped
        for one in found:
            if lost:
                refused += 1
                assert isinstance(one, CorruptLog), damaged.keys()
                left = {path.name: path.read_bytes() for path in folder.glob("segment-*.log")}
                assert left == damaged, "nothing is cut, removed or repaired"
            else:
                accepted += 1
                assert isinstance(one, list)
                assert bool(one) == (not all(blank))
                assert not one or one == records[records.index(one[0]) :][: len(one)]
    assert refused > 100
    assert accepted > 20


def test_the_first_segment_without_its_content_is_named(tmp_path: Path, sound: tuple[Image, Records]) -> None:
    """The segment with a replica's newest votes is gone: it must not vote again as if it had never voted."""
    image, records = sound
    name = segment_name(3)
    folder = put(tmp_path / "data", {**image, name: bytes(SEGMENT)})
    for attempt in range(2):
        with pytest.raises(CorruptLog, match="2 segments at the end hold nothing but zeros") as caught:
            open_log(folder)
        assert (caught.value.segment, caught.value.offset) == (name, 0), attempt
    report = verify_log(folder)
    assert (report.verdict, report.problem_segment, report.problem_offset) == ("corrupt", name, 0)
    assert 0 < report.records < len(records), "what is whole is counted"


def test_the_only_segment_left_without_its_content(tmp_path: Path, sound: tuple[Image, Records]) -> None:
    folder = put(tmp_path / "data", {segment_name(3): bytes(SEGMENT)})
    with pytest.raises(CorruptLog, match="the ones before it were dropped") as caught:
        open_log(folder)
    assert caught.value.segment == segment_name(3)
    assert verify_log(folder).problem_segment == segment_name(3)


def test_a_log_that_was_prepared_and_never_begun_opens(tmp_path: Path) -> None:
    folder = put(tmp_path / "data", {segment_name(0): bytes(SEGMENT)})
    assert verify_log(folder).verdict == "complete"
    log = open_log(folder)
    assert log.recovered() == []
    log.wait(log.append(1, 1, [b"first"]))
    log.close()
    assert list(read_records(folder, CHAIN, 2)) == [(1, 1, b"first")]


@pytest.mark.parametrize("length", [0, 100])
def test_a_cut_segment_at_the_end_is_not_a_prepared_one(
    tmp_path: Path, sound: tuple[Image, Records], length: int
) -> None:
    image, _ = sound
    folder = put(tmp_path / "data", {**image, segment_name(3): bytes(length)})
    (folder / segment_name(4)).unlink()
    with pytest.raises(CorruptLog, match="cut to"):
        open_log(folder)
    with pytest.raises(CorruptLog, match="cut to"):
        list(read_records(folder, CHAIN, 2))
    assert verify_log(folder).problem_segment == segment_name(3)


def test_a_segment_without_its_header_is_not_skipped(tmp_path: Path, sound: tuple[Image, Records]) -> None:
    image, _ = sound
    for name in list(image)[:-1]:
        folder = put(tmp_path / name, {**image, name: bytes(512) + image[name][512:]})
        for found in read_everywhere(folder, image)[1:]:
            assert isinstance(found, CorruptLog)
            assert found.segment == name


def test_planted_bug_all_zeros_are_taken_for_prepared_segments(
    tmp_path: Path, sound: tuple[Image, Records], monkeypatch: pytest.MonkeyPatch
) -> None:
    def count(numbers: list[int], blank: object) -> int:
        return next((at for at in range(len(numbers), 0, -1) if not blank(numbers[at - 1])), 0)  # type: ignore[operator]

    monkeypatch.setattr(recovery, "count_begun", count)
    with pytest.raises(AssertionError):
        test_all_readers_agree_on_what_zeros_mean(tmp_path, sound)
