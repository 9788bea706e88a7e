"""Looking into the log of a stopped replica: read-only, no lock taken, nothing cut or repaired."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from smartbft._fastpath.log import LogParser, read_segment_header
from smartbft.errors import CorruptLog, StorageError
from smartbft.storage.reading import begun_segments, read_segment, segment_numbers
from smartbft.storage.recovery import segment_name


@dataclass(frozen=True, slots=True)
class RecordSummary:
    """One record: where it is and what it is about.

    Attributes:
        segment: file name.
        offset: of the record's header in that file.
        body_bytes: length of the body.
    """

    segment: str
    offset: int
    kind: int
    instance: int
    body_bytes: int


@dataclass(slots=True)
class LogReport:
    """What `verify_log` found.

    Attributes:
        verdict: ``complete``; ``torn tail``: a crash cut off the last write, nothing that was acknowledged is missing;
            ``corrupt``: see `problem`.
        problem: empty unless corrupt.
        problem_segment: file name; `problem_offset`: byte offset in it.
        end_offset: where the intact part of the last segment read ends.
        first_instance: lowest instance of any record, `last_instance` the highest; None without records.
        records_of_kind: how many records of each kind.
    """

    chain_id: bytes = b""
    replica: int = -1
    verdict: str = "complete"
    problem: str = ""
    problem_segment: str = ""
    problem_offset: int = 0
    segments: int = 0
    records: int = 0
    body_bytes: int = 0
    end_offset: int = 0
    first_instance: int | None = None
    last_instance: int | None = None
    records_of_kind: dict[int, int] = field(default_factory=dict)

    @property
    def intact(self) -> bool:
        """A replica would start from this log."""
        return self.verdict != "corrupt"

    def _count(self, record: RecordSummary) -> None:
        self.records += 1
        self.body_bytes += record.body_bytes
        self.records_of_kind[record.kind] = self.records_of_kind.get(record.kind, 0) + 1
        first, last = self.first_instance, self.last_instance
        self.first_instance = record.instance if first is None else min(first, record.instance)
        self.last_instance = record.instance if last is None else max(last, record.instance)


def inspect_log(folder: Path | str) -> Iterator[RecordSummary]:
    """The records of the log in `folder`, in order, one segment in memory at a time.

    Raises:
        StorageError: there is no log in the folder.
        CorruptLog: damage; every record before it has been yielded.
    """
    yield from _Reader(Path(folder)).records()


def verify_log(folder: Path | str) -> LogReport:
    """Check every byte of the log in `folder` and say what it holds.

    Raises:
        StorageError: there is no log in the folder, or one of another format version.
    """
    reader = _Reader(Path(folder))
    report = reader.report
    try:
        for record in reader.records():
            report._count(record)
    except CorruptLog as error:
        report.verdict = "corrupt"
        report.problem = str(error)
        report.problem_segment, report.problem_offset = error.segment, error.offset
    return report


class _Reader:
    """Walks the segments of a folder and notes what it learns in a report."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.report = LogReport()

    def records(self) -> Iterator[RecordSummary]:
        """All records, in log order.

        Raises:
            CorruptLog: after the last record that is whole: the log is damaged there; or a segment is missing.
            StorageError: there is no log.
        """
        if not segment_numbers(self._folder):
            raise StorageError(f"{self._folder} holds no log: expected files like {segment_name(0)}")
        names, damage = begun_segments(self._folder)
        parser: LogParser | None = None
        for index, name in enumerate(names):
            data = read_segment(self._folder / name)
            if parser is None:
                parser = self._parser_for(name, data)
            yield from self._records_of(parser, name, data, damage is None and index == len(names) - 1)
        if damage is not None:
            self.report.verdict = "corrupt"
            raise damage

    def _records_of(self, parser: LogParser, name: str, data: bytes, last: bool) -> Iterator[RecordSummary]:
        problem: CorruptLog | None = None
        try:
            found = parser.parse(data, last)
        except CorruptLog as error:
            problem = CorruptLog(f"{name}: {error}", error.offset, name)
            intact = self._parser_for(name, data)
            found = intact.parse_intact(data)
            offsets = intact.offsets
        else:
            offsets = parser.offsets
        self.report.segments += 1
        self.report.verdict, self.report.end_offset = parser.verdict, parser.offset
        for (kind, instance, body), offset in zip(found, offsets, strict=True):
            yield RecordSummary(name, offset, kind, instance, len(body))
        if problem is not None:
            raise problem

    def _parser_for(self, name: str, data: bytes) -> LogParser:
        header = read_segment_header(data)
        if header is None:
            raise CorruptLog(f"{name}: the segment header is damaged", 0, name)
        self.report.chain_id, self.report.replica = header["chain_id"], header["replica"]
        return LogParser(header["chain_id"], header["replica"])
