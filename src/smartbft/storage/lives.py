"""Whether a replica's record of its votes is intact when it starts: what its earlier lives may have lost.

A vote that left and is not on record is as bad as a lie, so the answer is yes only where it can be shown: the replica
has never run (the marker that its home was created with is there), its log was synced, or its log was handed to an
operating system that has not been restarted since. What counts is how it ran before, not how it is started now: a life
whose votes may not outlast it leaves a marker that says so. Once lost, the record stays lost: the log that the replica
writes from then on does not bring it back, so another marker says so, until a new consensus key begins a new record.
"""

from __future__ import annotations

import os
from pathlib import Path

from smartbft.disk import sync_folder, write_file
from smartbft.storage.recovery import is_blank, segment_number

NEVER_STARTED = "never-started"
VOTES_LOST = "votes-lost"
VOTES_AT_RISK = "votes-at-risk"
_UNRECORDED = "unrecorded"
_BOOT = "boot"
_PART = 1 << 20  # bytes of a segment looked at in one piece: the first one tells, unless all of them are zeros
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Lives:
    """The traces that one replica's lives leave beside its log.

    Args:
        home: the replica's folder, with the marker of a replica that has never run.
        data: the folder of its log.
        run: where the boot of the last start is noted.
    """

    def __init__(self, home: Path, data: Path, run: Path) -> None:
        self._marker = home / NEVER_STARTED
        self._boot = run / _BOOT
        self._lost = home / VOTES_LOST
        self._at_risk = home / VOTES_AT_RISK
        # How the life before ran, if its votes may be gone; that the marker cannot be read is no comfort.
        self._risk = _read(self._at_risk) or (_UNRECORDED if self._at_risk.exists() else "")
        self._fresh = self._marker.exists()
        self._had_log = data.is_dir() and any(_is_begun(data / name) for name in sorted(os.listdir(data)))
        self._same_boot = bool(_boot_id()) and _read(self._boot) == _boot_id()

    def intact(self, mode: str, record_votes: bool = True) -> bool:
        """Whether every vote that may have left is in the log; ask before `begin`.

        Args:
            mode: ``memory``, ``async`` or ``sync``.
            record_votes: False: votes are not logged, so no restart has them.
        """
        if self._lost.exists():
            return False
        if self._fresh:
            return True
        if not self._had_log or not record_votes:
            return False
        if self._risk and not (self._risk == "async" and self._same_boot):
            return False
        return mode == "sync" or (mode == "async" and self._same_boot)

    def begin(self, mode: str, record_votes: bool = True) -> None:
        """A life begins; call it when the log is open, which syncs what it holds, and before anything is said.

        Args: as for `intact`.
        """
        self._boot.parent.mkdir(mode=0o700, exist_ok=True)
        self._boot.write_text(_boot_id())
        self._note_risk("" if mode == "sync" and record_votes else mode if record_votes else _UNRECORDED)
        if self._fresh:
            self._marker.unlink()
            sync_folder(self._marker.parent)

    def _note_risk(self, risk: str) -> None:
        """Durable before the first vote of this life, so that no later start overlooks it."""
        if risk:
            write_file(self._at_risk, risk.encode(), 0o600)
        elif self._risk:
            self._at_risk.unlink()
            sync_folder(self._at_risk.parent)

    def lose(self) -> None:
        """The record is lost, for all lives to come; before the log is opened, which would look like a record."""
        if not self._lost.exists():
            self._lost.touch(mode=0o600)
            sync_folder(self._lost.parent)

    def find(self) -> None:
        """Votes are on record again, under a key that never signed a forgotten one, and the log shows it."""
        if self._lost.exists():
            self._lost.unlink()
            sync_folder(self._lost.parent)


def mark_never_started(home: Path) -> None:
    """Leave the marker in a new home; the first start removes it."""
    (home / NEVER_STARTED).touch(mode=0o600)


def _is_begun(path: Path) -> bool:
    """Whether a file is a segment with something in it; one that reads as zeros has no votes, whatever it had."""
    if segment_number(path.name) is None:
        return False
    with path.open("rb") as file:
        return not all(is_blank(part) for part in iter(lambda: file.read(_PART), b""))


def _boot_id() -> str:
    """What names the running boot of this machine; empty where the system does not tell."""
    return _read(_BOOT_ID)


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(64).decode("ascii", "replace").strip()
    except OSError:
        return ""
