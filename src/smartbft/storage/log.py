"""The log of a replica: a typed face of the native log, and reading decided instances back for peers that lack them."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, TypeAlias

from smartbft._fastpath import log as native
from smartbft._fastpath.log import DurableLog
from smartbft.errors import LocalProtocolError
from smartbft.storage.reader import LogReader
from smartbft.storage.recovery import RawRecord

PersistenceMode: TypeAlias = Literal["memory", "async", "sync"]
MODES: dict[PersistenceMode, int] = {"memory": native.MEMORY, "async": native.ASYNC, "sync": native.SYNC}


class Record(Protocol):
    """What can be appended: the body is the parts, joined."""

    @property
    def kind(self) -> int: ...
    @property
    def instance(self) -> int: ...
    @property
    def parts(self) -> Sequence[bytes]: ...


@dataclass(frozen=True, slots=True)
class LogStatistics:
    """Counters since the log was opened. Seconds include the sync floor, where one is set.

    Attributes:
        record_bytes: headers, bodies and padding that were written (in memory mode: would have been).
        sync_recent_seconds: mean of the syncs since the statistics were last asked for, or of the last that there were.
        sync_p50_seconds: median of the last 4096 syncs; `sync_p99_seconds` alike.
        group_records_mean: records per group commit.
        segments: segments begun since the log was created.
    """

    record_bytes: int
    records: int
    syncs: int
    sync_seconds: float
    sync_recent_seconds: float
    sync_p50_seconds: float
    sync_p99_seconds: float
    group_records_mean: float
    segments: int


class ReplicaLog:
    """Appends records, tells when they are released, and reads them back.

    A *token* is the number of a record, 1, 2, 3, ... since opening; it is released when that record and all before it
    have reached the level of the mode: at once in ``memory``, when the operating system has them in ``async``, when
    they are on disk in ``sync``. An event loop watches `fileno` and calls `released` when it is readable.
    """

    def __init__(
        self,
        folder: Path | str,
        chain_id: bytes,
        replica: int,
        *,
        mode: PersistenceMode,
        segment_bytes: int,
        sync_floor_seconds: float = 0.0,
        fault_plan: Sequence[tuple[str, int, str]] = (),
    ) -> None:
        """Open or create the log in `folder` and read it back (nothing is touched in ``memory`` mode).

        Args:
            chain_id: 32 bytes; the log of another chain or replica is refused.
            segment_bytes: size of new segments; bounds the size of a record.
            sync_floor_seconds: added to each sync; emulates a slower disk, for benchmarks that say so.
            fault_plan: for tests (`DurableLog`).

        Raises:
            StorageError: the folder is in use or cannot be used, or holds something else.
            CorruptLog: the log is damaged other than by a write that a crash cut off.
        """
        if mode not in MODES:
            raise LocalProtocolError(f"unknown persistence {mode!r}: use one of {', '.join(MODES)}")
        self.folder = Path(folder)
        self.mode: PersistenceMode = mode
        self._asked_at = (0.0, 0.0)  # syncs and their seconds when the statistics were last asked for
        self._recent_sync = 0.0
        self._reader = LogReader(self.folder, chain_id, replica)
        self._log = DurableLog(
            os.fspath(folder),
            chain_id,
            replica,
            mode=MODES[mode],
            segment_bytes=segment_bytes,
            sync_floor_seconds=sync_floor_seconds,
            fault_plan=fault_plan,
        )

    def recovered(self) -> list[RawRecord]:
        """The records found at opening, in order. Handed over once; they are as durable as the mode promises."""
        return self._log.recovered()

    def append(self, records: Sequence[Record]) -> int:
        """Queue records in this order, for one sync; never waits for the disk. Returns the token of the last one.

        Raises:
            DurabilityLost: a write or a sync failed earlier; nothing is accepted any more.
            StorageError: a record is larger than a segment.
            LocalProtocolError: there is no record.
        """
        if not records:
            raise LocalProtocolError("nothing to append: a token stands for at least one record")
        for record in records[:-1]:
            self._log.append(record.kind, record.instance, record.parts, more=True)
        last = records[-1]
        return self._log.append(last.kind, last.instance, last.parts)

    def released(self) -> int:
        """The highest token that is released; makes `fileno` unreadable until there is more.

        Raises:
            DurabilityLost: a write or a sync failed: nothing that was not released may be acknowledged, ever.
        """
        return self._log.completed()

    def wait(self, token: int) -> None:
        """Block this thread until `token` is released. Raises DurabilityLost."""
        self._log.wait(token)

    def forget(self, instance: int) -> int:
        """Drop what a checkpoint has made superfluous: whole finished segments, oldest first, as long as all their
        records are of instances before `instance`. Returns how many went.

        Waits for the disk, so call it on a worker thread. The caller sees to it that the snapshot is on disk before,
        and that a promise which still binds is recorded again at a later instance: a REGENCY record goes with its
        segment like any other.

        Raises:
            StorageError: something could not be removed or synced. The log goes on; try again after the next
                checkpoint.
        """
        removed = self._log.forget(instance)
        if removed:
            self._reader.forget_missing()
        return removed

    def fileno(self) -> int:
        """A descriptor that is readable when `released` has something new to say (or the log has failed)."""
        return self._log.fileno()

    def space_low(self) -> bool:
        """The disk is filling up: what is in flight can still be logged, but take on no new requests."""
        return self._log.space_low()

    def pending_bytes(self) -> int:
        """Bytes appended and not released: beyond a bound, stop reading from clients."""
        return self._log.pending_bytes()

    def statistics(self) -> LogStatistics:
        """What the log has done since it was opened."""
        stats = self._log.stats()
        syncs, seconds = stats["syncs"] - self._asked_at[0], stats["sync_seconds"] - self._asked_at[1]
        if syncs:
            self._recent_sync = seconds / syncs
            self._asked_at = (stats["syncs"], stats["sync_seconds"])
        return LogStatistics(
            record_bytes=int(stats["bytes"]),
            records=int(stats["records"]),
            syncs=int(stats["syncs"]),
            sync_seconds=stats["sync_seconds"],
            sync_recent_seconds=self._recent_sync,
            sync_p50_seconds=stats["sync_p50"],
            sync_p99_seconds=stats["sync_p99"],
            group_records_mean=stats["group_records_mean"],
            segments=int(stats["segments"]),
        )

    def read(self, first: int, last: int) -> Iterator[RawRecord]:
        """The records of instances `first` to `last` that have been written so far, in log order.

        Reads files, so call it on a worker thread; the log may be appended to meanwhile. In ``memory`` mode there are
        none.

        Raises:
            CorruptLog: a record that was intact is not any more.
        """
        if self.mode != "memory":
            yield from self._reader.read(first, last)

    def close(self) -> None:
        """Write and sync what is queued, stop the threads, release the folder. Idempotent.

        Raises:
            DurabilityLost: a write or a sync failed, now or earlier; the folder is released all the same.
        """
        self._log.close()

    def __enter__(self) -> ReplicaLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
