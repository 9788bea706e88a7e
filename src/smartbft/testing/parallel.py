"""Many independent runs, one after the other or on several processes."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TypeVar

Case = TypeVar("Case")
Outcome = TypeVar("Outcome")


def outcomes(run: Callable[[Case], Outcome], cases: Iterable[Case], jobs: int) -> Iterator[Outcome]:
    """What `run` says of each case, in order; who stops asking cancels what has not begun.

    Args:
        run: a function that other processes can import by its name.
        cases: what to run; they and the outcomes travel between processes.
        jobs: processes; 1 runs everything in this one.
    """
    if jobs == 1:
        yield from map(run, cases)
        return
    # Fresh interpreters: a fork would copy whatever threads and native state the caller has.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_end_quietly) as executor:
        try:
            with interrupts_blocked():
                found = executor.map(run, cases, chunksize=4)
            yield from found
        finally:
            executor.shutdown(cancel_futures=True)


@contextlib.contextmanager
def interrupts_blocked() -> Iterator[None]:
    """Processes that are started here do not hear of Ctrl-C, which goes to all of a terminal's processes, while they
    import what they need. An interrupt of this one comes when the block ends.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT,))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_quietly() -> None:
    """In each process: Ctrl-C ends it without a word, for the first one has the word."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGINT,))
