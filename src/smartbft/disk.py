"""Files that survive a crash whole: what a process of ours writes once and needs again.

The log and the snapshots have ways of their own (`smartbft.storage`); this is for settings, keys, markers and evidence.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path


def write_file(path: Path, content: bytes, mode: int) -> None:
    """Write, sync, rename, sync the folder: after a crash the old content is there, or the new one.

    Args:
        mode: permission bits of the new file.

    Raises:
        OSError: it cannot be written; the old content is still there.
    """
    temporary = path.with_name(path.name + ".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):  # on a full disk it would take the room that others wait for
            temporary.unlink()
        raise
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable: files made, renamed or removed there.

    Raises:
        OSError: it cannot be synced.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
