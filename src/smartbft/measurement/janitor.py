"""Removes a folder when the last process that holds its pipe is gone. Run as a process; see `measurement.processes`.

The standard input is a pipe whose write end the parent and the replicas hold. The parent writes the process id of each
replica that it freezes, one a line: frozen, a replica would hold the pipe for ever when the parent dies.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import sys
from pathlib import Path

_LOOK_SECONDS = 0.2


def main(folder: str, parent: int) -> None:
    """Wait for the end of the pipe, then remove `folder` if it is still there.

    Args:
        parent: process id of whoever started this; it may be gone by now.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # A closed terminal must not end the wait: nothing is written there anyway.
    with contextlib.suppress(OSError):
        _wait(sys.stdin.fileno(), parent)
    if Path(folder).is_dir():
        shutil.rmtree(folder, ignore_errors=True)


def _wait(pipe: int, parent: int) -> None:
    """Until the end of the pipe; thaws what the parent froze as soon as the parent is gone."""
    frozen, received = set[int](), b""
    while True:
        if frozen and os.getppid() != parent:
            _thaw(frozen)
            frozen.clear()
        if not select.select([pipe], [], [], _LOOK_SECONDS if frozen else None)[0]:
            continue
        chunk = os.read(pipe, 4096)
        if not chunk:
            return
        *lines, received = (received + chunk).split(b"\n")
        frozen.update(int(line) for line in lines)


def _thaw(frozen: set[int]) -> None:
    for pid in frozen:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGCONT)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
