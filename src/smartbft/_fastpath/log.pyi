"""The durable log: segmented, zero-filled ahead, checksummed, chained, group-committed on its own native thread.

Format, verdicts and failure rule: docs/log-format.md. A record is `(kind, instance, body)`.
"""

from collections.abc import Sequence
from typing import TypedDict

from typing_extensions import Buffer

MEMORY: int  # nothing is written
ASYNC: int  # complete when the operating system has the write
SYNC: int  # complete after fdatasync

HEADER_SIZE: int  # bytes of a record header
SEGMENT_HEADER_SIZE: int

class SegmentHeader(TypedDict):
    chain_id: bytes
    replica: int
    segment: int
    size: int  # bytes of the file; 0: not zero-filled ahead
    previous: bytes  # header checksum of the last record before this segment
    nonce: bytes

def read_segment_header(segment: Buffer) -> SegmentHeader | None:
    """What the header of a segment says; None when it has none or a damaged one."""

class LogEncoder:
    """Sans-IO encoder: turns records into the exact bytes of the log, carrying the checksum chain along."""

    def __init__(
        self,
        chain_id: bytes,
        replica: int,
        segment: int = 0,
        previous: bytes = b"",
        *,
        size: int = 0,
        nonce: bytes = b"",
    ) -> None:
        """At the start of a segment.

        Args:
            chain_id: 32 bytes.
            previous: chain value of the record before (`LogEncoder.previous`, `LogParser.previous`); empty at first.
            size: bytes of the segment where it is zero-filled ahead; 0 when it ends with its last record.
            nonce: 16 random bytes that nobody else knows; empty: derived from the rest (same log, same bytes).
        """
    def segment_header(self) -> bytes:
        """The bytes a segment begins with. They must be synced before records follow."""
    def encode(self, kind: int, instance: int, parts: Sequence[Buffer]) -> bytes:
        """Header, body (the parts joined), padding to 8 bytes.

        Raises:
            StorageError: the record does not fit into the segment.
            LocalProtocolError: `kind` is not in 1..65535 or `instance` not in 0..2**64 - 1.
        """
    def mark_synced(self) -> None:
        """Everything encoded so far is on disk: what is damaged there later was not torn."""
    @property
    def previous(self) -> bytes: ...  # chain value that the next segment begins with
    @property
    def offset(self) -> int: ...  # where the next record goes in the segment

class LogParser:
    """Sans-IO parser of the bytes of one segment after another; the same code reads the real log and the simulator's."""

    def __init__(self, chain_id: bytes, replica: int) -> None: ...
    def parse(self, segment: Buffer, last: bool) -> list[tuple[int, int, bytes]]:
        """Records `(kind, instance, body)` of the next segment; `last` when no further segment follows.

        Raises:
            CorruptLog: see `verdict`; with the offset inside the segment.
            StorageError: the segment is another chain's or replica's, or of another format version.
        """
    def parse_intact(self, segment: Buffer) -> list[tuple[int, int, bytes]]:
        """The intact records at the start of a segment that may be being written; no verdict on what follows them."""
    @property
    def verdict(self) -> str: ...  # "complete", "torn tail" or "corrupt", of the last segment parsed
    @property
    def offset(self) -> int: ...  # where the next record of the last segment would go (everything before is intact)
    @property
    def offsets(self) -> list[int]: ...  # of the records of the last segment parsed
    @property
    def segment(self) -> int: ...  # number of the last segment parsed
    @property
    def previous(self) -> bytes: ...  # chain value for what is encoded next

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
            fault_plan: for tests: `(call, k, fault)`: the k-th `open`, `write`, `sync`, `rename`, `read`, `allocate` or
                `remove` fails with `EIO`, `ENOSPC`, `EINTR` or `short` (write, read, allocate), or does nothing and reports
                success (`lie`, sync only); with `+` behind the name of the call, so do all that follow the k-th.
                `("journal", 0, path)` keeps a write journal in that file.
        Raises:
            StorageError: folder in use, another chain or replica, format version; CorruptLog.
        """
    def recovered(self) -> list[tuple[int, int, bytes]]:
        """The records found when the log was opened, handed over once (the memory is released afterwards)."""
    def append(self, kind: int, instance: int, parts: Sequence[Buffer], *, more: bool = False) -> int:
        """Queue one record; returns its sequence number (1, 2, ...). Never blocks on the disk.

        Args:
            more: another record follows at once: the writer takes neither before that, so that one sync covers both.
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
        """Block (GIL released) until `sequence` is complete.

        Raises:
            DurabilityLost: a write or sync failed before that.
            StorageError: no record with that number was appended.
        """
    def forget(self, instance: int) -> int:
        """Remove the oldest finished segments as long as all their records are of instances before `instance`; never the
        one being written. Returns how many went. Waits for the disk (GIL released): call it on a worker thread.

        Raises:
            StorageError: a file could not be removed, or the folder not synced; the log goes on. What could not be
                removed is tried again at the next call; after a failed sync nothing more is removed until the log is
                opened again.
        """
    def fileno(self) -> int:
        """The eventfd that becomes readable when `completed` has something new."""
    def space_low(self) -> bool:
        """True when the next segment could not be prepared: admit no new requests (`Overloaded`)."""
    def pending_bytes(self) -> int:
        """Bytes of records that were appended and are not complete: beyond a bound, stop reading from clients."""
    def stats(self) -> dict[str, float]:
        """`bytes`, `records`, `syncs`, `sync_seconds` (sum), `sync_p50`, `sync_p99`, `group_records_mean`, `segments`."""
    def close(self) -> None:
        """Write and sync everything queued, stop the thread, release the lock. Idempotent.

        Raises:
            DurabilityLost: a write or sync failed, now or earlier; the lock is released all the same.
        """
