"""The durable log: segmented, zero-filled ahead, checksummed, chained, group-committed on its own native thread.

Format, verdicts and failure rule: docs/log-format.md. A record is `(kind, instance, body)`.
"""

from collections.abc import Sequence

from typing_extensions import Buffer

MEMORY: int  # nothing is written
ASYNC: int  # complete when the operating system has the write
SYNC: int  # complete after fdatasync

HEADER_SIZE: int  # bytes of a record header
SEGMENT_HEADER_SIZE: int

class LogEncoder:
    """Sans-IO encoder: turns records into the exact bytes of the log, carrying the checksum chain along."""

    def __init__(self, chain_id: bytes, replica: int, segment: int = 0, previous: bytes = b"") -> None: ...
    def segment_header(self) -> bytes: ...
    def encode(self, kind: int, instance: int, parts: Sequence[Buffer]) -> bytes:
        """Header, body (the parts joined), padding to 8 bytes."""

class LogParser:
    """Sans-IO parser of the bytes of one segment after another; the same code reads the real log and the simulator's."""

    def __init__(self, chain_id: bytes, replica: int) -> None: ...
    def parse(self, segment: Buffer, last: bool) -> list[tuple[int, int, bytes]]:
        """Records `(kind, instance, body)` of the next segment; `last` when no further segment follows.

        Raises:
            CorruptLog: see `verdict`; with the offset inside the segment.
        """
    verdict: str  # "complete", "torn tail" or "corrupt", of the last segment parsed
    offset: int  # where the next record of the last segment would go (everything before is intact)

class DurableLog:
    """Appender with group commit. One process per folder (exclusive lock)."""

    def __init__(
        self,
        folder: str,
        chain_id: bytes,
        replica: int,
        *,
        mode: int,
        segment_bytes: int,
        sync_floor_seconds: float = 0.0,
        fault_plan: Sequence[tuple[str, int, str]] = (),
    ) -> None:
        """Open or create the log in `folder` and read it back.

        Args:
            sync_floor_seconds: added to each sync, for benchmarks that emulate a slower disk (labelled as such).
            fault_plan: for tests: `(call, k, fault)`: the k-th `open`, `write`, `sync`, `rename`, `read` or `allocate`
                fails with `EIO`, `ENOSPC`, `EINTR` or `short`.
        Raises:
            StorageError: folder in use, another chain or replica, format version; CorruptLog.
        """
    def recovered(self) -> list[tuple[int, int, bytes]]:
        """The records found when the log was opened, handed over once (the memory is released afterwards)."""
    def append(self, kind: int, instance: int, parts: Sequence[Buffer]) -> int:
        """Queue one record; returns its sequence number (1, 2, ...). Never blocks on the disk.

        Raises:
            DurabilityLost: an earlier write or sync failed; nothing is accepted any more.
            StorageError: the record is larger than a segment can hold.
        """
    def completed(self) -> int:
        """The highest sequence number that has reached the level of the mode; clears the event.

        Raises:
            DurabilityLost: a write or sync failed.
        """
    def wait(self, sequence: int) -> None:
        """Block (GIL released) until `sequence` is complete."""
    def fileno(self) -> int:
        """The eventfd that becomes readable when `completed` has something new."""
    def space_low(self) -> bool:
        """True when the next segment could not be prepared: admit no new requests (`Overloaded`)."""
    def pending_bytes(self) -> int: ...
    def stats(self) -> dict[str, float]:
        """`bytes`, `records`, `syncs`, `sync_seconds` (sum), `sync_p50`, `sync_p99`, `group_records_mean`, `segments`."""
    def close(self) -> None:
        """Write and sync everything queued, stop the thread, release the lock. Idempotent."""
