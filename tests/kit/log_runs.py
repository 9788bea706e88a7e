"""Runs of the durable log that are recorded, so that what it acknowledged can be held against what it kept."""

from __future__ import annotations

import contextlib
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from smartbft._fastpath import log as native
from smartbft._fastpath.log import DurableLog
from smartbft.errors import StorageError

CHAIN = bytes(range(32))
REPLICA = 3
SEGMENT = 4096

FaultPlan = Sequence[tuple[str, int, str]]
RawRecord = tuple[int, int, bytes]


@contextlib.contextmanager
def quick_folder() -> Iterator[Path]:
    """A temporary folder in memory where there is such a place: these tests sync thousands of times."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        yield Path(folder)


def open_log(folder: Path, fault_plan: FaultPlan = (), mode: int = native.SYNC) -> DurableLog:
    return DurableLog(str(folder), CHAIN, REPLICA, mode=mode, segment_bytes=SEGMENT, fault_plan=fault_plan)


def make_records(count: int, first: int = 0) -> list[RawRecord]:
    source = random.Random(first)
    return [
        (1 + instance % 3, instance, source.randbytes(source.choice([0, 40, 500, 1500])))
        for instance in range(first, first + count)
    ]


@dataclass
class Run:
    """What was appended, and how much of it was complete when the journal had how many bytes.

    Attributes:
        error: what ended the run, if anything did.
        at_start: how many records the log held before.
    """

    appended: list[RawRecord] = field(default_factory=list)
    acknowledged: list[tuple[int, int]] = field(default_factory=list)
    error: StorageError | None = None
    at_start: int = 0

    @property
    def last_acknowledged(self) -> int:
        return self.acknowledged[-1][1] if self.acknowledged else self.at_start

    def acknowledged_at(self, position: int) -> int:
        return max((count for at, count in self.acknowledged if at <= position), default=self.at_start)


def run(folder: Path, records: list[RawRecord], fault_plan: FaultPlan = (), *, mode: int = native.SYNC) -> Run:
    """Open the log, append the records in groups, wait for each group, close."""
    journal = next((Path(name) for call, _, name in fault_plan if call == "journal"), None)
    result = Run()
    source = random.Random(len(records))
    log = None
    try:
        log = open_log(folder, fault_plan, mode)
        result.appended = log.recovered()
        result.at_start = len(result.appended)
        sequence = 0
        while sequence < len(records):
            for kind, instance, body in records[sequence : sequence + source.randint(1, 5)]:
                sequence = log.append(kind, instance, (body[:9], body[9:]))
                result.appended.append((kind, instance, body))
            log.wait(sequence)
            assert log.completed() >= sequence
            position = journal.stat().st_size if journal else 0
            result.acknowledged.append((position, result.at_start + sequence))
        wait_for_spare(folder, log)
    except StorageError as error:
        result.error = error
    if log is not None:
        try:
            log.close()
        except StorageError as error:
            result.error = error
    return result


def wait_for_spare(folder: Path, log: DurableLog) -> None:
    """Until the next segment is prepared, or cannot be, so that a run makes the same calls every time."""
    spare = folder / f"segment-{int(log.stats()['segments']):016x}.log"
    while not spare.exists() and not log.space_low():
        log.completed()
        time.sleep(0)


def recover(folder: Path) -> list[RawRecord]:
    log = open_log(folder)
    found = log.recovered()
    log.close()
    return found
