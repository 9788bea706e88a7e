"""The live progress line of a run: on a terminal it is redrawn, elsewhere a line a second."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType
from typing import TYPE_CHECKING

from smartbft.cli.output import console, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.status import Status

    from smartbft.measurement.scenario import Scenario

_PHASES = {
    "signing": "signing transactions ahead",
    "starting": "starting the replicas",
    "minting": "minting coins and handing them out",
    "stopping": "stopping the replicas",
    "checking": "reading and re-executing the logs",
}
_LINE_SECONDS = 1.0
_SEEDS_LINE_SECONDS = 2.0


class Progress:
    """Shows what a run is doing on stderr.

    Args:
        scenario: what runs.
        quiet: show nothing (the output is for a script).
        open_end: the load lasts longer than the scenario says if it has to.
    """

    def __init__(self, scenario: Scenario, *, quiet: bool = False, open_end: bool = False) -> None:
        self._scenario = scenario
        self._quiet = quiet
        self._open_end = open_end
        self._status: Status | None = None
        self._phase = ""
        self._printed = 0.0
        self._last = (0.0, 0)
        self._note = ""

    def __enter__(self) -> Progress:
        terminal = console(stderr=True)
        if terminal.is_terminal and not self._quiet:
            self._status = terminal.status("preparing")
            self._status.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def report(self, phase: str, seconds: float, completed: int) -> None:
        """Show `phase`; during the load also the time, the transactions and the current rate."""
        if self._quiet:
            return
        text = self._load_line(seconds, completed) if phase == "load" else _PHASES.get(phase, phase)
        if self._status is not None:
            self._status.update(text)
        elif phase != self._phase or time.monotonic() - self._printed >= _LINE_SECONDS:
            self._printed = time.monotonic()
            say(text)
        self._phase = phase

    def note(self, text: str) -> None:
        """Something about the replicas, to stand at the end of the load's line."""
        self._note = text

    def _load_line(self, seconds: float, completed: int) -> str:
        before, done = self._last
        rate = (completed - done) / (seconds - before) if seconds > before else 0.0
        self._last = (seconds, completed)
        total = self._scenario.seconds + self._scenario.warm_up
        # A load with faults lasts until they are repaired.
        open_end = self._open_end or self._note
        time_shown = f"{seconds:4.1f} s" if open_end else f"{min(seconds, total):4.1f} of {total:.1f} s"
        line = f"load {time_shown} {completed:>9,} transactions {rate:>7,.0f}/s"
        return f"{line}  {self._note}" if self._note else line


@contextlib.contextmanager
def seeds_progress(total: int, *, quiet: bool = False) -> Iterator[Callable[[int, float], None]]:
    """A bar on a terminal, elsewhere a line every few seconds; call what it gives with seeds done and their rate."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    terminal = console(stderr=True)
    if quiet or not terminal.is_terminal:
        yield _lines(total, quiet)
        return
    columns = (TextColumn("seeds"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]:.1f}/s"))
    with Progress(*columns, console=terminal, transient=True) as bar:
        task = bar.add_task("seeds", total=total, rate=0.0)
        yield lambda done, rate: bar.update(task, completed=done, rate=rate)


def _lines(total: int, quiet: bool) -> Callable[[int, float], None]:
    printed = time.monotonic()

    def show(done: int, rate: float) -> None:
        nonlocal printed
        if not quiet and time.monotonic() - printed >= _SEEDS_LINE_SECONDS:
            printed = time.monotonic()
            say(f"{done} of {total} seeds, {rate:.1f} per second")

    return show
