"""The ``smartbft`` command: see ``smartbft --help``. Sub-commands are imported when they are used."""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit; also a Ctrl-C while it is still being imported ends without a traceback."""
    try:
        from smartbft.cli.streams import open_missing

        open_missing()  # before anything else is opened
        from smartbft.cli.entry import run
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)
    sys.exit(run(arguments))
