"""The durable log of a simulated replica: the product's encoder and parser, group commit in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from smartbft._fastpath.log import HEADER_SIZE, SEGMENT_HEADER_SIZE, LogEncoder, LogParser
from smartbft.core.effects import Record
from smartbft.testing.disk import DiskOptions, SimulatedDisk, begun_files
from smartbft.testing.files import SECTOR_BYTES
from smartbft.testing.scheduler import Scheduler

ALIGNMENT = 8  # of records in a segment

ParsedRecord = tuple[int, int, bytes]


class SimulatedLog(Protocol):
    """What a simulated replica needs of its log."""

    def recovered(self) -> list[ParsedRecord]:
        """The records found when the log was opened, `(kind, instance, body)`."""

    def written(self) -> list[ParsedRecord]:
        """The records that the operating system has: what a peer that is behind can be served from."""

    def append(self, records: tuple[Record, ...]) -> int:
        """Queue records; returns the sequence number of the last."""

    def forget(self, instance: int) -> None:
        """Records of instances before this one are not needed any more."""

    def pending_bytes(self) -> int:
        """Bytes that wait for the disk."""

    def stop(self) -> None:
        """The process is gone: nothing more is written, nothing is released."""


class MemoryLog:
    """Memory mode: nothing is written; records are released as soon as the step is over."""

    def __init__(self, scheduler: Scheduler, released: Callable[[int], None]) -> None:
        self._scheduler = scheduler
        self._released = released
        self._appended = 0
        self._stopped = False

    def recovered(self) -> list[ParsedRecord]:
        """Nothing."""
        return []

    def written(self) -> list[ParsedRecord]:
        """Nothing."""
        return []

    def append(self, records: tuple[Record, ...]) -> int:
        """Release `records` after the current event."""
        self._appended += len(records)
        self._scheduler.after(0, self._release, self._appended)
        return self._appended

    def forget(self, instance: int) -> None:
        """Nothing is kept anyway."""

    def _release(self, sequence: int) -> None:
        if not self._stopped:
            self._released(sequence)

    def pending_bytes(self) -> int:
        """Always 0."""
        return 0

    def stop(self) -> None:
        """Release nothing more."""
        self._stopped = True


class DiskLog:
    """A log on a simulated disk, in the modes "async" and "sync".

    One group is on its way at a time: what was queued when the disk became free is written at once, then synced. In
    "async" mode records count as stored, and are released, when they are written.

    Args:
        disk: the medium; what it holds is read back first, a torn tail is cut.
        scheduler: for the delays.
        options: the disk's delays and the size of segments.
        chain_id, replica: whose log it is.
        sync: whether records are released after the sync.
        stored: called with each record when it has reached the level of the mode, before `released`.
        released: called with the sequence number of the last record of a group.
        failed: called when the disk has failed; nothing is written or released after that.

    Raises:
        CorruptLog: the disk holds a damaged log.
    """

    def __init__(
        self,
        disk: SimulatedDisk,
        scheduler: Scheduler,
        options: DiskOptions,
        chain_id: bytes,
        replica: int,
        *,
        sync: bool,
        stored: Callable[[Record], None],
        released: Callable[[int], None],
        failed: Callable[[], None],
    ) -> None:
        self._disk = disk
        self._scheduler = scheduler
        self._options = options
        self._identity = (chain_id, replica)
        self._sync = sync
        self._stored = stored
        self._released = released
        self._failed = failed
        self._stopped = False
        self._appended = 0
        self._queue: list[Record] = []
        self._queued_bytes = 0
        self._group: list[Record] = []
        self._group_last = 0
        self._writes = 0
        self._written = False
        self._prepared: int | None = None  # the file that the next segment goes into
        self._last_instance: dict[int, int] = {}  # segment -> instance of its last record
        self._records = self._open()

    # Opening

    def _open(self) -> list[ParsedRecord]:
        """Read everything back, cut a torn tail, and go on in a new segment: what is handed over is on the medium."""
        parser = LogParser(*self._identity)
        files = begun_files(self._disk)
        self._prepared = self._disk.first + len(files) if len(self._disk.files()) > len(files) else None
        first, last = self._disk.first, self._disk.first + len(files) - 1
        records: list[ParsedRecord] = []
        for number, content in enumerate(files, first):
            records += parser.parse(content, number == last)
            self._last_instance[number] = records[-1][1] if records else 0
        if files:
            self._disk.write(last, parser.offset, bytes(len(files[-1]) - parser.offset))
        self._disk.sync()
        self._begin_segment(parser.previous if files else b"")
        return records

    def _begin_segment(self, previous: bytes) -> None:
        size = self._options.segment_bytes
        self._file = self._disk.create(size) if self._prepared is None else self._prepared
        self._offset = SEGMENT_HEADER_SIZE
        chain_id, replica = self._identity
        self._encoder = LogEncoder(chain_id, replica, segment=self._file, previous=previous, size=size)
        self._disk.write(self._file, 0, self._encoder.segment_header())
        self._disk.sync()
        self._prepared = self._disk.create(size)

    def recovered(self) -> list[ParsedRecord]:
        """The records found when the log was opened."""
        return list(self._records)

    def written(self) -> list[ParsedRecord]:
        """The records that were recovered or written since, in order."""
        return self._records

    def forget(self, instance: int) -> None:
        """Drop the records of instances before this one, and the finished segments that hold nothing else."""
        self._records = [record for record in self._records if record[1] >= instance]
        while self._disk.first < self._file and self._last_instance.get(self._disk.first, 0) < instance:
            self._disk.drop(self._disk.first)

    # Appending

    def append(self, records: tuple[Record, ...]) -> int:
        """Queue records; returns the sequence number of the last."""
        for record in records:
            self._queue.append(record)
            self._queued_bytes += sum(map(len, record.parts))
        self._appended += len(records)
        if not self._group:
            self._start_group()
        return self._appended

    def _start_group(self) -> None:
        self._group, self._queue = self._queue, []
        self._queued_bytes = 0
        self._group_last = self._appended
        self._written = False
        self._scheduler.after(self._scheduler.between(1, self._options.write_delay), self._write)

    def _write(self, _: None) -> None:
        """The operating system takes the group."""
        if self._stopped:
            return
        if self._disk.fails("write") or self._out_of_space():
            self._written = True  # and nothing more
            self._failed()
            return
        for record in self._group:
            self._write_record(record)
        self._written = True
        if self._sync:
            self._writes = self._disk.unsynced()
            delay = self._scheduler.between(1, self._options.sync_delay)
            if self._options.stall_rate and self._scheduler.chance(self._options.stall_rate):
                delay += self._scheduler.between(0, self._options.stall)
            self._scheduler.after(delay, self._finish_sync)
        else:
            self._finish_group()

    def _out_of_space(self) -> bool:
        """A full disk takes the first part of a write."""
        if not self._disk.fails("space"):
            return False
        self._write_first_sector(self._group[0])
        return True

    def _write_record(self, record: Record) -> None:
        size = HEADER_SIZE + sum(map(len, record.parts))
        if self._offset + size + ALIGNMENT > self._options.segment_bytes:
            # A segment is finished before the next is begun: its last records are synced first.
            self._disk.sync()
            self._begin_segment(self._encoder.previous)
        data = self._encoder.encode(record.kind, record.instance, record.parts)
        self._disk.write(self._file, self._offset, data)
        self._offset += len(data)
        self._last_instance[self._file] = record.instance
        self._records.append((record.kind, record.instance, b"".join(record.parts)))

    def _finish_sync(self, _: None) -> None:
        if self._stopped:
            return
        if self._disk.fails("sync"):
            self._failed()
            return
        self._disk.sync(self._writes)
        self._encoder.mark_synced()
        self._finish_group()

    def _finish_group(self) -> None:
        """Tell who waits; the next group starts before they react."""
        group, last = self._group, self._group_last
        self._group = []
        if self._queue:
            self._start_group()
        for record in group:
            self._stored(record)
        self._released(last)

    # The end

    def stop(self) -> None:
        """The process dies; of a group that was about to be written the operating system may have the first part."""
        self._stopped = True
        if not self._group or self._written:
            return
        taken = int(self._scheduler.random.random() * (len(self._group) + 1))
        for record in self._group[:taken]:
            self._write_record(record)
        if taken < len(self._group) and self._offset % SECTOR_BYTES:
            self._write_first_sector(self._group[taken])

    def _write_first_sector(self, record: Record) -> None:
        """A write that was cut off ends at a sector's border."""
        data = self._encoder.encode(record.kind, record.instance, record.parts)
        room = SECTOR_BYTES - self._offset % SECTOR_BYTES
        if room < len(data) and self._offset + room <= self._options.segment_bytes:
            self._disk.write(self._file, self._offset, data[:room])

    def pending_bytes(self) -> int:
        """Bytes of records that wait for the disk."""
        return self._queued_bytes
