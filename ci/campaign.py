"""Long campaigns: one command with a time budget, that resumes where the last one ended, on as many cores as you like.

    python ci/campaign.py --suite byzantine --minutes 10
    python ci/campaign.py --suite power-loss --minutes 60 --until 100000 --processes 4
    python ci/campaign.py --suite histories --only 123      one piece again
    python ci/campaign.py --list                            the totals so far

Adds to ci/totals.json, per suite: how much has been run so far (over all commits), where to go on, the commit of the
last run, and every failure with the command that repeats it. An interrupt (Ctrl-C) keeps what is done.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import gc
import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from suites import SUITES, Piece, run_piece

from smartbft.testing.parallel import interrupts_blocked

TOTALS = Path(__file__).parent / "totals.json"
SAVE_EVERY = 30.0
PROGRESS_EVERY = 5.0


def commit() -> str:
    """The commit that is checked out, with a "+" if the product differs from it."""

    def git(*arguments: str) -> str:
        words = ["git", "-C", str(TOTALS.parent.parent), *arguments]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()

    return git("rev-parse", "--short", "HEAD") + ("+" if git("status", "--porcelain", "src", "tests/kit") else "")


@dataclass
class News:
    """What has been run and is not in the totals yet."""

    pieces: int = 0
    count: int = 0
    figures: dict[str, float] = field(default_factory=dict)
    failures: list[dict[str, Any]] = field(default_factory=list)

    def add(self, suite: str, number: int, piece: Piece) -> dict[str, Any] | None:
        """Count one piece; returns its failure, if it is one."""
        self.pieces += 1
        self.count += piece.count
        self.figures = merged(self.figures, piece.figures)
        if not piece.promise:
            return None
        again = piece.command or f"python ci/campaign.py --suite {suite} --only {number}"
        failure = {"promise": piece.promise, "message": piece.message[:500], "command": again}
        self.failures.append(failure)
        return failure


def merged(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    """Sums by name; the greater of what begins with "most"."""
    both = dict(one)
    for name, value in other.items():
        before = both.get(name, 0)
        both[name] = max(before, value) if name.startswith("most") else round(before + value, 3)
    return both


class Totals:
    """The file of totals. Several campaigns may write to it at a time, as long as their suites differ."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> dict[str, Any]:
        """All of it."""
        return json.loads(self._path.read_text()) if self._path.exists() else {}

    def entry(self, suite: str) -> dict[str, Any]:
        """What is there of a suite."""
        empty = {"unit": SUITES[suite].unit, "count": 0, "next": 0, "figures": {}, "failures": [], "commit": ""}
        return {**empty, **self.read().get(suite, {})}

    def add(self, suite: str, start: int, news: News) -> None:
        """Add what was run from piece `start` on, which is where the totals must end."""
        with self._locked():
            totals, entry = self.read(), self.entry(suite)
            if entry["next"] != start:
                raise SystemExit(f"another campaign has run '{suite}' meanwhile: {news.pieces} pieces do not count")
            now = commit()
            entry["next"] += news.pieces
            entry["count"] += news.count
            entry["figures"] = merged(entry["figures"], news.figures)
            entry["failures"] += [{"commit": now, **failure} for failure in news.failures]
            entry["commit"] = now
            new = self._path.with_suffix(".new")
            new.write_text(json.dumps({**totals, suite: entry}, indent=2, sort_keys=True) + "\n")
            new.replace(self._path)

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)


def rare_collections() -> None:
    """Runs make few cycles, and looking for garbage often is wasted."""
    gc.set_threshold(50_000, 20, 100)


def begin_worker() -> None:
    """In each process of several: an interrupt is the business of the first one, which waits for the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    rare_collections()


def pieces(suite: str, start: int, processes: int, end: float) -> Iterator[Piece]:
    """The pieces from `start` on, in their order; none is begun after `end`."""
    if processes == 1:
        number = start
        while time.monotonic() < end:
            yield run_piece(suite, number)
            number += 1
        return
    # Fresh interpreters: a fork would copy whatever threads and native state there are.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn"), initializer=begin_worker) as executor:
        running: deque[Future[Piece]] = deque()
        try:
            while True:
                while len(running) < 2 * processes and time.monotonic() < end:
                    with interrupts_blocked():
                        running.append(executor.submit(run_piece, suite, start))
                    start += 1
                if not running:
                    return
                yield running.popleft().result()
        finally:
            executor.shutdown(cancel_futures=True)


class Campaign:
    """One suite, from where its totals end."""

    def __init__(self, suite: str, totals: Totals) -> None:
        self._suite = suite
        self._totals = totals
        entry = totals.entry(suite)
        self._next, self._had = entry["next"], entry["count"]
        self._news = News()
        self._done = 0
        self.failures = 0

    def run(self, processes: int, seconds: float, until: int | None) -> None:
        """Run it until the time is over or enough is counted."""
        began = told = saved = time.monotonic()
        try:
            for piece in pieces(self._suite, self._next, processes, began + seconds):
                self._add(piece)
                now = time.monotonic()
                if now - told > PROGRESS_EVERY:
                    told = now
                    self._tell(now - began, max(0.0, began + seconds - now))
                if now - saved > SAVE_EVERY:
                    saved = now
                    self._save()
                if until is not None and self._had + self._done >= until:
                    break
        except KeyboardInterrupt:
            print("interrupted: what is done counts", file=sys.stderr)
        self._save()

    def _add(self, piece: Piece) -> None:
        failure = self._news.add(self._suite, self._next + self._news.pieces, piece)
        self._done += piece.count
        if failure is not None:
            self.failures += 1
            print(f"FAILED {failure['promise']}: {failure['message']}\n  repeat with: {failure['command']}", flush=True)

    def _tell(self, elapsed: float, left: float) -> None:
        line = f"{self._suite}: {self._had + self._done:,} {SUITES[self._suite].unit} (+{self._done:,}, "
        line += f"{self._done / elapsed:,.1f}/s), {self.failures} failed, {left:.0f} s left"
        print(line, file=sys.stderr, flush=True)

    def _save(self) -> None:
        if self._news.pieces == 0:
            return
        self._totals.add(self._suite, self._next, self._news)
        self._next, self._news = self._next + self._news.pieces, News()


def list_totals(totals: dict[str, Any]) -> None:
    """One line for each suite."""
    print(f"{'suite':16} {'row':4} {'count':>14}  {'unit':13} {'failures':>8}  commit")
    for name, suite in SUITES.items():
        entry = totals.get(name, {})
        failures = len(entry.get("failures", ()))
        commit_of = entry.get("commit", "never run")
        print(f"{name:16} {suite.row:4} {entry.get('count', 0):14,}  {suite.unit:13} {failures:8}  {commit_of}")


def only(suite: str, number: int) -> int:
    """One piece again, without the totals."""
    piece = run_piece(suite, number)
    if piece.promise:
        print(f"FAILED {piece.promise}: {piece.message}")
        return 1
    print(f"{suite} {number}: {piece.count} {SUITES[suite].unit}, nothing failed")
    return 0


def main() -> int:
    """Exit with 1 if something failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--suite", choices=sorted(SUITES))
    parser.add_argument("--minutes", type=float, default=10.0, help="no piece is begun later (default 10)")
    parser.add_argument("--until", type=int, metavar="COUNT", help="stop when the totals have as many")
    parser.add_argument("--processes", type=int, default=1, help="run so many pieces at a time")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="run this one piece again; totals stay as they are")
    parser.add_argument("--totals", type=Path, default=TOTALS)
    parser.add_argument("--list", action="store_true", help="print the totals")
    arguments = parser.parse_args()
    totals = Totals(arguments.totals)
    if arguments.list:
        list_totals(totals.read())
        return 0
    if arguments.suite is None:
        parser.error("which suite? --suite NAME; --list names them")
    if arguments.only is not None:
        return only(arguments.suite, arguments.only)
    processes = 1 if SUITES[arguments.suite].alone else max(1, arguments.processes)
    entry = totals.entry(arguments.suite)
    failures = 0
    if arguments.until is None or entry["count"] < arguments.until:
        rare_collections()
        campaign = Campaign(arguments.suite, totals)
        campaign.run(processes, 60 * arguments.minutes, arguments.until)
        failures, entry = campaign.failures, totals.entry(arguments.suite)
    print(f"{arguments.suite}: {entry['count']:,} {entry['unit']} in all, {len(entry['failures'])} failures")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
