"""The records of a stopped replica's log, one segment in memory at a time; read-only, no lock taken."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from smartbft._fastpath.log import SEGMENT_HEADER_SIZE, LogParser
from smartbft.errors import CorruptLog, StorageError
from smartbft.storage.recovery import RawRecord, count_begun, in_segment, is_blank, segment_name, segment_number


def read_records(folder: Path | str, chain_id: bytes, replica: int) -> Iterator[RawRecord]:
    """The records `(kind, instance, body)` of the log in `folder`, in order; none where there is no log.

    Raises:
        StorageError: there is no such folder, or the log is another chain's or replica's.
        CorruptLog: damage other than a torn tail; the records of the segments before it have been yielded.
    """
    folder = Path(folder)
    names, damage = begun_segments(folder)
    parser = LogParser(chain_id, replica)
    for index, name in enumerate(names):
        try:
            records = parser.parse(read_segment(folder / name), damage is None and index == len(names) - 1)
        except CorruptLog as error:
            raise in_segment(error, name) from None
        yield from records
    if damage is not None:
        raise damage


def segment_numbers(folder: Path) -> list[int]:
    """The numbers of the segment files in a folder, ascending.

    Raises:
        StorageError: there is no such folder.
    """
    if not folder.is_dir():
        raise StorageError(f"{folder} is not a folder")
    return sorted(number for name in os.listdir(folder) if (number := segment_number(name)) is not None)


def begun_segments(folder: Path) -> tuple[list[str], CorruptLog | None]:
    """The names of the segment files that have been begun, in order: without the one that was prepared ahead.

    Returns:
        The names, and what is wrong behind them: a segment is missing, was cut, or holds nothing but zeros although it
        had been begun. None if nothing is.

    Raises:
        StorageError: there is no such folder.
    """
    numbers = segment_numbers(folder)
    names = [segment_name(number) for number in numbers]
    try:
        _check_gaps(numbers)
        count = count_begun(numbers, lambda number: is_blank(read_segment(folder / segment_name(number))))
    except CorruptLog as damage:
        return [name for name in names if name < damage.segment], damage
    return names[:count], None


def _check_gaps(numbers: list[int]) -> None:
    for number, following in itertools.pairwise(numbers):
        if following != number + 1:
            missing = segment_name(number + 1)
            raise CorruptLog(f"{missing} is missing", 0, missing)


def read_segment(path: Path) -> bytes:
    """The bytes of a segment file.

    Raises:
        CorruptLog: it has no room for a header.
    """
    data = path.read_bytes()
    if len(data) < SEGMENT_HEADER_SIZE:
        raise CorruptLog(f"{path.name}: the file was cut to {len(data)} bytes", len(data), path.name)
    return data
