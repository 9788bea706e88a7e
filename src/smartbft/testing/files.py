"""A folder of files on a simulated disk: what snapshots are written to, with what a crash may leave of it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

SECTOR_BYTES = 512  # what a disk writes whole or not at all


@dataclass(slots=True)
class _File:
    cached: bytearray = field(default_factory=bytearray)
    stable: bytearray = field(default_factory=bytearray)


class SimulatedFiles:
    """Files as the operating system sees them, and as they are on the medium (`smartbft.storage.Files`).

    A file's content is on the medium after `sync`, its name after `sync_folder`.
    """

    __slots__ = ("_names", "_stable_names")

    def __init__(self) -> None:
        self._names: dict[str, _File] = {}
        self._stable_names: dict[str, _File] = {}

    def names(self) -> list[str]:
        """The files there are, sorted."""
        return sorted(self._names)

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        """Bytes of a file. Raises FileNotFoundError."""
        if name not in self._names:
            raise FileNotFoundError(name)
        content = self._names[name].cached
        return bytes(content[offset:] if size < 0 else content[offset : offset + size])

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Hand bytes to the operating system."""
        content = self._names.setdefault(name, _File()).cached
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data

    def sync(self, name: str) -> None:
        """The content of a file is on the medium."""
        file = self._names[name]
        file.stable[:] = file.cached

    def rename(self, name: str, to: str) -> None:
        """Give a file another name, and replace what had that."""
        self._names[to] = self._names.pop(name)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        self._names.pop(name, None)

    def sync_folder(self) -> None:
        """The names are on the medium."""
        self._stable_names = dict(self._names)

    def damage(self, name: str, offset: int) -> None:
        """Flip a bit on the medium, for tests."""
        for content in (self._names[name].cached, self._names[name].stable):
            if offset < len(content):
                content[offset] ^= 1

    def lose_power(self, draw: random.Random) -> None:
        """Names that were not synced are as before or as after; unsynced sectors are there or not, each by itself."""
        names = self._stable_names if draw.random() < 0.5 else self._names
        for file in names.values():
            self._tear(file, draw)
        self._names = dict(names)
        self._stable_names = dict(names)

    @staticmethod
    def _tear(file: _File, draw: random.Random) -> None:
        if file.stable == file.cached:
            return
        survival = draw.choice((0.0, 0.5, 1.0))
        torn = bytearray(len(file.cached))
        for at in range(0, len(torn), SECTOR_BYTES):
            source = file.cached if draw.random() < survival else file.stable
            sector = source[at : at + SECTOR_BYTES]
            torn[at : at + len(sector)] = sector
        file.cached, file.stable = torn, bytearray(torn)
