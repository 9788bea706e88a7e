"""What a power loss may leave of files, rebuilt from a write journal (`DurableLog`, fault plan entry `journal`).

The model: a write reaches the disk in sectors of 512 bytes, each whole or not at all and in any order, until a sync of
the file. New names and renames reach it in their order and removals in any, until a sync of the folder.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

SECTOR = 512
ENTRY = struct.Struct("<cIQQ")


@dataclass(frozen=True)
class Entry:
    """One finished call; `end` is where the journal went on."""

    call: bytes
    file: int
    offset: int
    data: bytes
    end: int


def read_journal(path: Path) -> list[Entry]:
    raw = path.read_bytes()
    entries, at = [], 0
    while at < len(raw):
        call, file, offset, length = ENTRY.unpack_from(raw, at)
        at += ENTRY.size + length
        entries.append(Entry(call, file, offset, raw[at - length : at], at))
    return entries


@dataclass
class SimulatedFile:
    """Bytes on disk, and for each sector the contents it was given since the last sync."""

    durable: bytearray = field(default_factory=bytearray)
    current: bytearray = field(default_factory=bytearray)
    versions: dict[int, list[bytes]] = field(default_factory=dict)

    def write(self, offset: int, data: bytes) -> None:
        end = offset + len(data)
        self.current.extend(bytes(max(0, end - len(self.current))))
        self.current[offset:end] = data
        for sector in range(offset // SECTOR, -(-end // SECTOR)):
            content = bytes(self.current[sector * SECTOR : (sector + 1) * SECTOR])
            self.versions.setdefault(sector, []).append(content)

    def sync(self) -> None:
        self.durable = bytearray(self.current)
        self.versions = {}

    def after_power_loss(self, source: random.Random | None, keep: bool) -> bytes:
        """`keep` everything or nothing of what was not synced, or let `source` choose sector by sector."""
        data = bytearray(self.durable)
        for sector, versions in self.versions.items():
            kept = len(versions) if keep else 0
            if source is not None:
                kept = source.choice([0, len(versions), source.randint(0, len(versions))])
            if kept:
                content = versions[kept - 1]
                data.extend(bytes(max(0, sector * SECTOR + len(content) - len(data))))
                data[sector * SECTOR : sector * SECTOR + len(content)] = content
        return bytes(data)


class SimulatedDisk:
    """One folder."""

    def __init__(self, image: dict[str, bytes] | None = None) -> None:
        self.durable_names = {
            name: SimulatedFile(bytearray(data), bytearray(data)) for name, data in (image or {}).items()
        }
        self.names = dict(self.durable_names)
        self.pending_names: list[dict[str, SimulatedFile]] = []
        self.open: dict[int, SimulatedFile] = {}

    def apply(self, entry: Entry) -> None:
        match entry.call:
            case b"C":
                self.open[entry.file] = self.names[entry.data.decode()] = SimulatedFile()
                self.pending_names.append(dict(self.names))
            case b"O":
                self.open[entry.file] = self.names[entry.data.decode()]
            case b"W":
                self.open[entry.file].write(entry.offset, entry.data)
            case b"Z":
                self.open[entry.file].write(entry.offset, bytes(int.from_bytes(entry.data, "little")))
            case b"S":
                self.open[entry.file].sync()
            case b"R":
                old, new = entry.data.decode().split("\0")
                self.names[new] = self.names.pop(old)
                self.pending_names.append(dict(self.names))
            case b"X":
                del self.names[entry.data.decode()]
                self.pending_names.append(dict(self.names))
            case b"D":
                self.durable_names = dict(self.names)
                self.pending_names = []
            case b"F":
                pass  # a planned fault was carried out
            case other:
                raise AssertionError(f"unknown journal entry {other!r}")

    def images(self, seeds: range) -> Iterator[dict[str, bytes]]:
        """Folders that a power loss now may leave: nothing unsynced kept, everything kept, and one for each seed."""
        yield {name: file.after_power_loss(None, False) for name, file in self.durable_names.items()}
        yield {name: file.after_power_loss(None, True) for name, file in self.names.items()}
        for seed in seeds:
            source = random.Random(seed)
            names = source.choice([self.durable_names, *self.pending_names])
            undone = {name: file for name, file in self.durable_names.items() if source.random() < 0.5}
            names = {**undone, **names}
            yield {name: file.after_power_loss(source, False) for name, file in names.items()}
