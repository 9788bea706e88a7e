"""Many seeds, one after the other or on several processes, and the one line that repeats each failure."""

from __future__ import annotations

import gc
import os
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace

from smartbft.errors import SmartBFTError
from smartbft.testing.checkers import PropertyViolation
from smartbft.testing.options import SimulationOptions
from smartbft.testing.parallel import outcomes
from smartbft.testing.simulation import Simulation, SimulationReport


@dataclass(frozen=True, slots=True)
class Failure:
    """A seed that broke a promise.

    Attributes:
        options: what was run.
        promise: the property, or the class of the error that the product raised.
        message: what was seen.
        command: the command line that repeats it.
    """

    options: SimulationOptions
    promise: str
    message: str
    command: str


@dataclass(slots=True)
class CampaignResult:
    """What a campaign did.

    Attributes:
        seeds: how many seeds ran.
        instances, requests, events, crashes: sums over them.
        retransmissions, leaders_replaced: sums over them.
        convicting: seeds in which replicas gathered evidence against a faulty one.
        longest_wait_seconds: the longest wait of an honest client in any of them, in virtual time.
        virtual_seconds: simulated time, summed.
        elapsed_seconds: real time.
        processor_seconds: processor time of this process and, once they have ended, its helpers.
        failures: the seeds that failed, in the order in which they ended.
    """

    seeds: int = 0
    instances: int = 0
    requests: int = 0
    events: int = 0
    crashes: int = 0
    retransmissions: int = 0
    leaders_replaced: int = 0
    convicting: int = 0
    longest_wait_seconds: float = 0.0
    virtual_seconds: float = 0.0
    elapsed_seconds: float = 0.0
    processor_seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)

    @property
    def seeds_per_second(self) -> float:
        """Seeds per second of real time."""
        return self.seeds / self.elapsed_seconds if self.elapsed_seconds else 0.0

    def add(self, outcome: SimulationReport | Failure) -> None:
        """Count one seed."""
        self.seeds += 1
        if isinstance(outcome, Failure):
            self.failures.append(outcome)
            return
        self.instances += outcome.instances
        self.requests += outcome.requests
        self.events += outcome.events
        self.crashes += outcome.crashes
        self.retransmissions += outcome.retransmissions
        self.leaders_replaced += outcome.leaders_replaced
        self.convicting += outcome.convicted > 0
        self.longest_wait_seconds = max(self.longest_wait_seconds, outcome.longest_wait_seconds)
        self.virtual_seconds += outcome.virtual_seconds


Progress = Callable[[CampaignResult], None]


def run_seed(options: SimulationOptions) -> SimulationReport | Failure:
    """Run one seed; whatever the run raises becomes a `Failure`."""
    try:
        return Simulation(options).run()
    except Exception as error:
        # A bug of any kind, in the product or here, must not end a campaign of many hours.
        return caught(error, options)


def caught(error: Exception, options: SimulationOptions) -> Failure:
    """What a run raised, as a `Failure`."""
    if isinstance(error, PropertyViolation):
        return Failure(options, error.promise, error.message, options.command())
    if isinstance(error, SmartBFTError):
        return Failure(options, type(error).__name__, str(error), options.command())
    where = traceback.extract_tb(error.__traceback__)[-1]
    message = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
    return Failure(options, "unexpected error", message, options.command())


def run_campaign(
    options: SimulationOptions,
    seeds: int,
    *,
    jobs: int = 1,
    keep_going: bool = False,
    progress: Progress | None = None,
) -> CampaignResult:
    """Run the seeds ``options.seed``, ``options.seed + 1``, ... with otherwise equal options.

    Args:
        options: for the first seed.
        seeds: how many.
        jobs: processes; 1 runs everything in this one.
        keep_going: go on after a failure.
        progress: called after each seed.
    """
    result = CampaignResult()
    started, processor_started = time.perf_counter(), _processor_seconds()
    for outcome in _outcomes([replace(options, seed=options.seed + number) for number in range(seeds)], jobs):
        result.add(outcome)
        result.elapsed_seconds = time.perf_counter() - started
        if progress is not None:
            progress(result)
        if result.failures and not keep_going:
            break
    result.processor_seconds = _processor_seconds() - processor_started
    return result


def _processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@contextmanager
def _rare_collections() -> Iterator[None]:
    """A run makes few cycles and many objects that live as long as it does: looking for garbage often is wasted."""
    before = gc.get_threshold()
    gc.set_threshold(50_000, 20, 100)
    try:
        yield
    finally:
        gc.set_threshold(*before)


def _outcomes(runs: Iterable[SimulationOptions], jobs: int) -> Iterator[SimulationReport | Failure]:
    with _rare_collections() if jobs == 1 else nullcontext():
        yield from outcomes(run_seed, runs, jobs)
