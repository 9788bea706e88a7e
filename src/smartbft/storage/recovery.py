"""From the bytes of segments to raw records and a verdict. Pure: the product's files and the simulator's disk alike."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, TypeAlias

from smartbft._fastpath.log import LogParser
from smartbft.errors import CorruptLog

RawRecord: TypeAlias = tuple[int, int, bytes]
"""`(kind, instance, body)`; what bodies mean is the business of `smartbft.core.records`."""


def segment_name(number: int) -> str:
    """The file name of a segment."""
    return f"segment-{number:016x}.log"


def segment_number(name: str) -> int | None:
    """The number in a segment's file name; None for any other name."""
    digits = name.removeprefix("segment-").removesuffix(".log")
    try:
        number = int(digits, 16)
    except ValueError:
        return None
    return number if segment_name(number) == name else None


def is_blank(segment: bytes) -> bool:
    """Whether it holds nothing but zeros: prepared, and never begun."""
    return segment.count(0) == len(segment)


class ParsedSegments(NamedTuple):
    """What a log holds.

    Attributes:
        records: in log order.
        verdict: ``complete`` or ``torn tail``.
        offset: where the next record goes in the last segment; with a torn tail, what follows must be cut there.
        segment: number of the last segment; -1 of an empty log.
        previous: chain value for what is encoded next (`LogEncoder`).
    """

    records: list[RawRecord]
    verdict: str
    offset: int
    segment: int
    previous: bytes


def parse_segments(segments: Iterable[bytes], chain_id: bytes, replica: int) -> ParsedSegments:
    """Read a whole log, given as the bytes of its segments in order.

    The first ones may be missing, dropped after a checkpoint: the log then begins in the middle. Segments at the end
    that hold nothing but zeros are prepared ones that were never begun: they are left out.

    Raises:
        CorruptLog: damage other than a torn tail; `segment` names the file it would be.
        StorageError: the log is another chain's or replica's, or of another format version.
    """
    begun = list(segments)
    while begun and is_blank(begun[-1]):
        begun.pop()
    parser = LogParser(chain_id, replica)
    records: list[RawRecord] = []
    number = -1
    for index, segment in enumerate(begun):
        try:
            records += parser.parse(segment, index == len(begun) - 1)
        except CorruptLog as error:
            raise in_segment(error, segment_name(parser.segment)) from None
        number = parser.segment
    return ParsedSegments(records, parser.verdict, parser.offset, number, parser.previous)


def in_segment(error: CorruptLog, name: str) -> CorruptLog:
    """The same error with the name of the segment it is about."""
    return error if error.segment else CorruptLog(f"{name}: {error}", error.offset, name)
