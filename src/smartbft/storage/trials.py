"""Whose snapshot is being rehearsed, remembered beyond the end of a process that it may have brought about."""

from __future__ import annotations

import logging
from pathlib import Path

logger = logging.getLogger(__name__)

_NAME = "rehearsal.trial"
_MAX_BYTES = 32


class Trials:
    """The mark of one replica.

    It holds a member id, and how many rehearsals of that member's snapshots have begun in a row. It is a hint, neither
    synced nor trusted: what cannot be read is none.

    Args:
        folder: the data folder; None: nothing is remembered (memory mode).
    """

    def __init__(self, folder: Path | None) -> None:
        self._path = folder / _NAME if folder is not None else None

    def read(self) -> tuple[int, int] | None:
        """The member and the number; None: no rehearsal has begun, or the last one has ended well."""
        if self._path is None or not self._path.is_file():
            return None
        with self._path.open("rb") as file:
            words = file.read(_MAX_BYTES).split()
        if len(words) != 2 or not all(word.isdigit() for word in words):
            return None
        return int(words[0]), int(words[1])

    def begin(self, seeder: int) -> None:
        """A snapshot of this member is about to be rehearsed."""
        if self._path is None:
            return
        before = self.read()
        count = before[1] + 1 if before is not None and before[0] == seeder else 1
        try:
            self._path.write_bytes(b"%d %d" % (seeder, count))
        except OSError as error:  # a full disk, for example: the hint is not worth a replica
            logger.warning("%s cannot be written: %s", self._path, error)

    def end(self) -> None:
        """A rehearsal has ended well."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)
