"""The few things that snapshots need of a folder, so that the simulator can put its own disk in its place."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol


class Files(Protocol):
    """A flat folder of files. Nothing is durable before `sync`, no name before `sync_folder`.

    Every method raises OSError where the operating system would.
    """

    def names(self) -> list[str]:
        """The files there are, sorted."""

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        """So many bytes from `offset`, or fewer where the file ends; -1: all of the rest."""

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write into a file, which is made if need be."""

    def sync(self, name: str) -> None:
        """The content of a file is on disk."""

    def rename(self, name: str, to: str) -> None:
        """Give a file another name, and replace what had that."""

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    def sync_folder(self) -> None:
        """The names are on disk."""


class FolderFiles:
    """A folder of the operating system, made when something is written to it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> list[str]:
        """The files there are, sorted."""
        return sorted(os.listdir(self._folder)) if self._folder.is_dir() else []

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        """As `Files.read`."""
        path = self._folder / name
        with path.open("rb", buffering=0) as file:
            try:
                file.seek(offset)
                return file.readall() if size < 0 else _read_exactly(file.fileno(), size)
            except OSError as error:
                raise _named(error, path) from None

    def write(self, name: str, offset: int, data: bytes) -> None:
        """As `Files.write`."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            view = memoryview(data)
            while view:
                written = os.pwrite(descriptor, view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            raise _named(error, self._folder / name) from None
        finally:
            os.close(descriptor)

    def sync(self, name: str) -> None:
        """As `Files.sync`."""
        _sync(self._folder / name, os.O_RDWR)

    def rename(self, name: str, to: str) -> None:
        """As `Files.rename`."""
        os.replace(self._folder / name, self._folder / to)

    def remove(self, name: str) -> None:
        """As `Files.remove`."""
        (self._folder / name).unlink(missing_ok=True)

    def sync_folder(self) -> None:
        """As `Files.sync_folder`; the folder's own name included."""
        _sync(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        _sync(self._folder.parent, os.O_RDONLY | os.O_DIRECTORY)


class MemoryFiles:
    """Files that end with the process: for the memory mode."""

    def __init__(self) -> None:
        self._files: dict[str, bytearray] = {}

    def names(self) -> list[str]:
        """The files there are, sorted."""
        return sorted(self._files)

    def read(self, name: str, offset: int = 0, size: int = -1) -> bytes:
        """As `Files.read`."""
        content = self._files.get(name)
        if content is None:
            raise FileNotFoundError(name)
        return bytes(content[offset:] if size < 0 else content[offset : offset + size])

    def write(self, name: str, offset: int, data: bytes) -> None:
        """As `Files.write`."""
        content = self._files.setdefault(name, bytearray())
        if len(content) < offset:
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data

    def sync(self, name: str) -> None:
        """Nothing to do."""

    def rename(self, name: str, to: str) -> None:
        """As `Files.rename`."""
        self._files[to] = self._files.pop(name)

    def remove(self, name: str) -> None:
        """As `Files.remove`."""
        self._files.pop(name, None)

    def sync_folder(self) -> None:
        """Nothing to do."""


def _read_exactly(descriptor: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.read(descriptor, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    except OSError as error:
        raise _named(error, path) from None
    finally:
        os.close(descriptor)


def _named(error: OSError, path: Path) -> OSError:
    """The same error; what fails on an open file does not say by itself which one it was."""
    return OSError(error.errno, error.strerror, str(path))
