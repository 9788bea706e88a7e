"""Many independent runs, one after the other or on several processes."""

from __future__ import annotations

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
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as executor:
        try:
            yield from executor.map(run, cases, chunksize=4)
        finally:
            executor.shutdown(cancel_futures=True)
