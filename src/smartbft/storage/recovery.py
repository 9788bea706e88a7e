"""From the bytes of segments to raw records and a verdict. Pure: the product's files and the simulator's disk alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from smartbft._fastpath.log import LogParser, read_segment_header
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


def is_blank(segment: bytes | bytearray) -> bool:
    """Whether it holds nothing but zeros: prepared, and never begun."""
    return segment.count(0) == len(segment)


def count_begun(numbers: Sequence[int], blank: Callable[[int], bool]) -> int:
    """How many of a log's segments have been begun: all of them, or all but the one that was prepared ahead.

    Args:
        numbers: of the segments that there are, ascending.
        blank: whether the segment with this number is blank; asked from the last one backwards.

    Raises:
        CorruptLog: more zeros than preparing leaves. Only one segment is prepared ahead, and the first ones are dropped
            only while a later one has been begun: a segment with records has become blank.
    """
    begun = len(numbers)
    while begun and blank(numbers[begun - 1]):
        begun -= 1
    unused = numbers[begun:]
    problem = ""
    if len(unused) > 1:
        problem = f"{len(unused)} segments at the end hold nothing but zeros, and no more than one is prepared ahead"
    elif unused and not begun and unused[0] > 0:
        problem = "the only segment holds nothing but zeros, and the ones before it were dropped"
    if problem:
        name = segment_name(unused[0])
        raise CorruptLog(f"{name}: {problem}: records are missing", 0, name)
    return begun


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

    The first ones may be missing, dropped after a checkpoint: the log then begins in the middle. A segment at the end
    that holds nothing but zeros was prepared and never begun: it is left out.

    Raises:
        CorruptLog: damage other than a torn tail; `segment` names the file it would be.
        StorageError: the log is another chain's or replica's, or of another format version.
    """
    found = list(segments)
    first = _first_number(found)
    numbers = range(first, first + len(found))
    begun = found[: count_begun(numbers, lambda number: is_blank(found[number - first]))]
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


def _first_number(segments: Sequence[bytes]) -> int:
    header = read_segment_header(segments[0]) if segments else None
    return int(header["segment"]) if header is not None else 0


def in_segment(error: CorruptLog, name: str) -> CorruptLog:
    """The same error with the name of the segment it is about."""
    return error if error.segment else CorruptLog(f"{name}: {error}", error.offset, name)
