"""A simulated disk, and the durable log on it: the product's encoder and parser, group commit in virtual time."""

from __future__ import annotations

import random
from dataclasses import dataclass

from smartbft._fastpath.log import LogParser
from smartbft.errors import invariant
from smartbft.storage.recovery import count_begun, is_blank
from smartbft.testing.files import SECTOR_BYTES, SimulatedFiles

# What can fail: a write (EIO), a write that ends where the disk is full (ENOSPC), a sync (EIO; what was not synced may
# be gone, and the next sync would say that all is well).
FAILURES = ("write", "space", "sync")


@dataclass(frozen=True, slots=True)
class DiskOptions:
    """How a disk behaves. Times are microseconds.

    Attributes:
        write_delay: longest time until the operating system has a group of records.
        sync_delay: longest time of a sync.
        stall_rate: share of syncs that take up to `stall` longer.
        stall: see `stall_rate`.
        segment_bytes: size of a segment of the log.
    """

    write_delay: int = 50
    sync_delay: int = 2_000
    stall_rate: float = 0.0
    stall: int = 50_000
    segment_bytes: int = 256 * 1024


class SimulatedDisk:
    """Files as the operating system sees them, and as they are on the medium. It outlives crashes of its replica.

    Attributes:
        failing: which of FAILURES comes next; empty: none.
        first: number of the first file that was not dropped.
        snapshots: the folder of the snapshots.
    """

    __slots__ = ("_cached", "_stable", "_unsynced", "failing", "first", "snapshots")

    def __init__(self) -> None:
        self.failing = ""
        self.first = 0
        self.snapshots = SimulatedFiles()
        self._cached: list[bytearray] = []
        self._stable: list[bytearray] = []
        self._unsynced: list[tuple[int, int, int]] = []  # file, first byte, end

    def create(self, size: int) -> int:
        """A new zero-filled file, durable at once (the log prepares files ahead of their use); returns its number."""
        self._cached.append(bytearray(size))
        self._stable.append(bytearray(size))
        return len(self._cached) - 1

    def drop(self, file: int) -> None:
        """Remove a file, durably; its number is not used again."""
        self._cached[file] = self._stable[file] = bytearray()
        self._unsynced = [write for write in self._unsynced if write[0] != file]
        self.first = file + 1

    def write(self, file: int, offset: int, data: bytes) -> None:
        """Hand bytes to the operating system. They are lost with the power until `sync`."""
        end = offset + len(data)
        invariant(end <= len(self._cached[file]), "a write beyond the end of a prepared file")
        self._cached[file][offset:end] = data
        self._unsynced.append((file, offset, end))

    def sync(self, writes: int | None = None) -> None:
        """Everything written so far is on the medium; with `writes`, only the oldest unsynced writes of that number."""
        count = len(self._unsynced) if writes is None else writes
        for file, first, end in self._unsynced[:count]:
            self._stable[file][first:end] = self._cached[file][first:end]
        del self._unsynced[:count]

    def fails(self, operation: str) -> bool:
        """Whether this operation fails now; the disk works again after that."""
        if self.failing != operation:
            return False
        self.failing = ""
        return True

    def rot(self, draw: random.Random) -> tuple[int, int, int]:
        """One bit of what is on the medium, somewhere in what was written, is another from now on; returns which."""
        written = [(file, at) for file, content in enumerate(self._stable) for at, byte in enumerate(content) if byte]
        file, at = draw.choice(written)
        bit = draw.randrange(8)
        self.flip(file, at, bit)
        return file, at, bit

    def flip(self, file: int, at: int, bit: int) -> None:
        """One bit on the medium is another from now on."""
        self._stable[file][at] ^= 1 << bit
        self._cached[file][at] = self._stable[file][at]

    def zero(self) -> None:
        """The newest file with something in it reads as zeros from now on."""
        newest = max(file for file, content in enumerate(self._stable) if not is_blank(content))
        self._stable[newest] = bytearray(len(self._stable[newest]))
        self._cached[newest] = bytearray(len(self._stable[newest]))

    def unsynced(self) -> int:
        """How many writes are not on the medium for certain."""
        return len(self._unsynced)

    def files(self) -> list[bytearray]:
        """What a reader sees now, file by file from `first` on; not to be changed."""
        return self._cached[self.first :]

    def lose_power(self, draw: random.Random) -> None:
        """Forget unsynced writes, whole or in part: each 512-byte sector is on the medium or not, in any combination.

        Of several unsynced writes to one sector the medium has the first few.
        """
        survival = draw.choice((0.0, 0.5, 0.9, 1.0))
        sectors: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for file, first, end in self._unsynced:
            for sector in range(first // SECTOR_BYTES, (end + SECTOR_BYTES - 1) // SECTOR_BYTES):
                low, high = max(first, sector * SECTOR_BYTES), min(end, (sector + 1) * SECTOR_BYTES)
                sectors.setdefault((file, sector), []).append((low, high))
        for (file, _), writes in sectors.items():
            for low, high in writes:
                if draw.random() >= survival:
                    break
                self._stable[file][low:high] = self._cached[file][low:high]
        self._unsynced.clear()
        self._cached = [bytearray(file) for file in self._stable]
        self.snapshots.lose_power(draw)


def begun_files(disk: SimulatedDisk) -> list[bytearray]:
    """The files of the log, without the one that is prepared ahead; not to be changed.

    Raises:
        CorruptLog: a file that had been begun reads as zeros.
    """
    files = disk.files()
    numbers = range(disk.first, disk.first + len(files))
    return files[: count_begun(numbers, lambda number: is_blank(files[number - disk.first]))]


def read_log(disk: SimulatedDisk, chain_id: bytes, replica: int) -> list[tuple[int, int, bytes]]:
    """The records `(kind, instance, body)` that the log on `disk` holds now.

    Raises:
        CorruptLog: the bytes are damaged other than by a torn tail.
    """
    parser = LogParser(chain_id, replica)
    files = begun_files(disk)
    records: list[tuple[int, int, bytes]] = []
    for number, content in enumerate(files):
        records += parser.parse(content, number == len(files) - 1)
    return records
