"""Finds the records of an instance in the files of a log, which may be growing: for peers that are behind.

It relies on one thing that the log's owner sees to: instances never go back from one record to the next.
"""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from threading import Lock

from blake3 import blake3

from smartbft._fastpath.log import HEADER_SIZE, SEGMENT_HEADER_SIZE, LogParser
from smartbft.errors import CorruptLog
from smartbft.storage.recovery import RawRecord, in_segment, segment_name, segment_number

# Segments whose records' places are remembered. A peer that catches up reads on and on, so the last ones suffice.
INDEXED_SEGMENTS = 4
# Of a record header (docs/log-format.md): magic, kind, ..., instance; and where the checksum of the body is.
_RECORD_START = struct.Struct("<4sH10xQ")
_BODY_CHECKSUM = slice(40, 56)
_CLOSE_MARK = 0


@dataclass(frozen=True, slots=True)
class _Place:
    kind: int
    instance: int
    offset: int
    body_bytes: int


@dataclass(frozen=True, slots=True)
class _Index:
    """Where the records of a segment are; `finished`: nothing will be added."""

    finished: bool
    places: list[_Place]

    def covers(self, instance: int) -> bool:
        """Whether all records of the instance that this segment will ever have are in the index."""
        return self.finished or (bool(self.places) and self.places[-1].instance > instance)


class LogReader:
    """Reads records by instance. Safe to use from several threads; knows nothing of who writes."""

    def __init__(self, folder: Path, chain_id: bytes, replica: int) -> None:
        self._folder = folder
        self._identity = (chain_id, replica)
        self._lock = Lock()
        self._indexes: OrderedDict[int, _Index] = OrderedDict()
        self._starts: dict[int, int] = {}

    def read(self, first: int, last: int) -> Iterator[RawRecord]:
        """The records of instances `first` to `last` that have been written so far, in log order.

        Segments may be removed meanwhile, the oldest first: what was in them is left out.

        Raises:
            CorruptLog: a record that was intact is not any more.
            OSError: a file cannot be read.
        """
        numbers = self._numbers()
        for number, following in zip_longest(numbers, numbers[1:]):
            try:
                yield from self._read_segment(number, following, first, last)
            except FileNotFoundError:
                if segment_name(number) in os.listdir(self._folder):
                    raise

    def forget_missing(self) -> None:
        """Forget where the records of segments were that have been removed."""
        numbers = set(self._numbers())
        with self._lock:
            self._starts = {number: start for number, start in self._starts.items() if number in numbers}
            for number in [number for number in self._indexes if number not in numbers]:
                del self._indexes[number]

    def _numbers(self) -> list[int]:
        return sorted(number for name in os.listdir(self._folder) if (number := segment_number(name)) is not None)

    def _read_segment(self, number: int, following: int | None, first: int, last: int) -> Iterator[RawRecord]:
        start, end = self._start(number), None if following is None else self._start(following)
        if start is not None and end is not None:
            self._starts[number] = start  # for good: it is being written no more
        if start is None or start > last or (end is not None and end < first):
            return
        with self._lock:
            index = self._index(number, last, following)
        places = [place for place in index.places if first <= place.instance <= last]
        if places:
            with (self._folder / segment_name(number)).open("rb") as file:
                for place in places:
                    yield place.kind, place.instance, _body(file.fileno(), place, segment_name(number))

    def _start(self, number: int) -> int | None:
        """The instance of a segment's first record; None where there is none yet."""
        known = self._starts.get(number)
        return self._read_start(number) if known is None else known

    def _read_start(self, number: int) -> int | None:
        offset = SEGMENT_HEADER_SIZE
        with (self._folder / segment_name(number)).open("rb") as file:
            while any(raw := os.pread(file.fileno(), _RECORD_START.size, offset)):
                if len(raw) < _RECORD_START.size:
                    return None
                _, kind, instance = _RECORD_START.unpack(raw)
                if kind != _CLOSE_MARK:
                    return int(instance)
                offset += HEADER_SIZE
        return None

    def _index(self, number: int, last: int, following: int | None) -> _Index:
        """The index of a segment; that of one which grows is made again when it does not go as far as is asked for."""
        index = self._indexes.get(number)
        if index is None or not index.covers(last):
            # Asked first: what is finished by then has all its records in the file that is read after it.
            finished = following is not None and self._is_begun(following)
            index = _Index(finished, self._places(number, finished))
        self._indexes[number] = index
        self._indexes.move_to_end(number)
        while len(self._indexes) > INDEXED_SEGMENTS:
            self._indexes.popitem(last=False)
        return index

    def _places(self, number: int, finished: bool) -> list[_Place]:
        parser = LogParser(*self._identity)
        data = (self._folder / segment_name(number)).read_bytes()
        try:
            records = parser.parse(data, last=False) if finished else parser.parse_intact(data)
        except CorruptLog as error:
            raise in_segment(error, segment_name(number)) from None
        return [
            _Place(kind, instance, offset, len(body))
            for (kind, instance, body), offset in zip(records, parser.offsets, strict=True)
        ]

    def _is_begun(self, number: int) -> bool:
        with (self._folder / segment_name(number)).open("rb") as file:
            return any(file.read(SEGMENT_HEADER_SIZE))


def _body(descriptor: int, place: _Place, name: str) -> bytes:
    record = os.pread(descriptor, HEADER_SIZE + place.body_bytes, place.offset)
    body = record[HEADER_SIZE:]
    if len(body) != place.body_bytes or blake3(body).digest()[:16] != record[_BODY_CHECKSUM]:
        raise CorruptLog(f"{name}: the record at offset {place.offset} is damaged", place.offset, name)
    return body
