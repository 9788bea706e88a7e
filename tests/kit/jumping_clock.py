"""``smartbft start`` whose wall clock is what a file says it is: SIGUSR1 makes it read the offset, in seconds.

python jumping_clock.py HOME FILE
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from smartbft.cli import main

if __name__ == "__main__":
    home, file = sys.argv[1], Path(sys.argv[2])
    true_clock = time.time_ns
    offset = 0

    def jump(number: int, frame: object) -> None:
        """The clock is set."""
        global offset
        offset = int(file.read_text()) * 1_000_000_000

    signal.signal(signal.SIGUSR1, jump)
    time.time_ns = lambda: true_clock() + offset
    main(["start", "--home", home, "--exit-with-parent"])
