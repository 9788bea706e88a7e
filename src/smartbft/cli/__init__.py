"""The ``smartbft`` command: see ``smartbft --help``. Sub-commands are imported when they are used."""

from smartbft.cli.entry import main

__all__ = ["main"]
