"""Removes a folder when the last process that holds its pipe is gone. Run as a process; see `measurement.processes`.

The standard input is a pipe whose write end the parent and the replicas hold; nobody writes to it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
from pathlib import Path


def main(folder: str) -> None:
    """Wait for the end of the pipe, then remove `folder` if it is still there."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # A closed terminal must not end the wait: nothing is written there anyway.
    with contextlib.suppress(OSError):
        while os.read(sys.stdin.fileno(), 4096):
            pass
    if Path(folder).is_dir():
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
