"""What `ci/campaign.py` runs: suites of numbered pieces, each of which can be run by itself and again."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from kit.crash_cycles import count_through_crashes
from kit.cut_offs import random_cut_off
from kit.decoders import ALL as DECODERS
from kit.fuzzing import fuzz
from kit.log_runs import make_records, quick_folder
from kit.power_loss_runs import crash_everywhere, record_run
from kit.processes import run as run_bounded
from kit.rehearsals import random_rehearsal
from kit.splits import check_culprits, random_split

from smartbft.testing import Failure, PropertyViolation, SimulationOptions, run_seed
from smartbft.testing.histories import LEAST_OPERATIONS, check_history
from smartbft.testing.power_losses import lose_power_often

# One piece of each suite that has no natural one: seconds, so that a campaign ends when its time is over.
_EXECUTIONS = 10_000
_CYCLES = 5
_RECORDS = 60


@dataclass(frozen=True)
class Piece:
    """What one piece came to.

    Attributes:
        count: how much of the suite's unit it was.
        figures: added to the totals by name; the greater one is kept of those that begin with "most".
        promise, message: what was broken, and how that showed; empty if nothing was.
        command: repeats the failure; empty for the one that every suite has.
    """

    count: int
    figures: dict[str, float] = field(default_factory=dict)
    promise: str = ""
    message: str = ""
    command: str = ""


@dataclass(frozen=True)
class Suite:
    """A suite.

    Attributes:
        row: the promise.
        unit: what is counted.
        piece: runs the piece of a number, the same every time as far as the machine allows.
        alone: several pieces at a time would disturb each other.
    """

    row: str
    unit: str
    piece: Callable[[int], Piece]
    alone: bool = False


def _simulated(options: SimulationOptions, seed: int) -> Piece:
    outcome = run_seed(replace(options, seed=seed))
    if isinstance(outcome, Failure):
        return Piece(1, {}, outcome.promise, outcome.message, outcome.command)
    figures = {"virtual_seconds": outcome.virtual_seconds, "most_regency_changes": outcome.regency_changes}
    return Piece(1, figures)


def _history(seed: int) -> Piece:
    """Counts if it has enough operations."""
    outcome = check_history(seed)
    if outcome.linearizability is None:
        return Piece(1, {}, outcome.promise, outcome.failure, outcome.command)
    found = outcome.linearizability
    figures = {"operations": found.operations, "indeterminate": found.indeterminate, "crashes": outcome.crashes}
    return Piece(int(found.operations >= LEAST_OPERATIONS), figures)


def _cut_off(number: int) -> Piece:
    """Any replicas, at any phase, of four or seven. Counts if the phase has come."""
    world = random_cut_off(number)
    world.live()
    came = world.begun is not None
    assert world.level() or not came, "some have not caught up"
    return Piece(int(came), {"with_seven": int(came and world.view.n == 7)})


def _split(number: int) -> Piece:
    """Any lies of `f` or `f + 1` replicas together, of four or seven."""
    world = random_split(number)
    apart = check_culprits(world)
    return Piece(1, {"with_seven": int(world.view.n == 7), "apart": int(apart)})


def _power_losses(seed: int) -> Piece:
    """The whole cluster, on simulated disks."""
    outcome = lose_power_often(seed)
    failure = outcome.failure
    figures = {"runs": 1, "replicas_without_power": outcome.losses, "requests": outcome.requests}
    if failure is not None:
        return Piece(outcome.points, figures, failure.promise, failure.message)
    return Piece(outcome.points, figures)


def _power_losses_of_a_log(seed: int) -> Piece:
    """What every power loss between two calls of the real log may leave, sector by sector."""
    with quick_folder() as folder:
        result, entries = record_run(folder, make_records(_RECORDS, first=seed * 1_000))
        return Piece(len(crash_everywhere(result, entries, seeds=4)), {"runs": 1})


def _crash_cycles(seed: int) -> Piece:
    """Real processes: kill -9 of all, `_CYCLES` times on one cluster."""
    with tempfile.TemporaryDirectory() as folder:
        codes = run_bounded(lambda: count_through_crashes(Path(folder), "sync", seed=seed, cycles=_CYCLES))
    if any(codes.values()):
        return Piece(_CYCLES, {"clusters": 1}, "exit codes", f"the replicas ended with {codes}")
    return Piece(_CYCLES, {"clusters": 1})


def _decoded(number: int) -> Piece:
    """Mutated bytes into one decoder after the other."""
    decoder = DECODERS[number % len(DECODERS)]
    fuzz(decoder, _EXECUTIONS, seed=number)
    return Piece(_EXECUTIONS, {decoder.name: _EXECUTIONS})


_SIMULATED = {
    "honest": ("A1", SimulationOptions(instances=25)),
    "honest-7": ("A1", SimulationOptions(n=7, instances=15)),
    "byzantine": ("A1", SimulationOptions(instances=10, byzantine="any")),
    "byzantine-7": ("A1", SimulationOptions(n=7, instances=8, byzantine="any")),
    "keys": ("A1", SimulationOptions(instances=10, byzantine="keys")),
    "keys-7": ("A1", SimulationOptions(n=7, instances=8, byzantine="keys")),
    "late-liars": ("A1", SimulationOptions(instances=10, byzantine="any", late_liars=True)),
    "late-liars-7": ("A1", SimulationOptions(n=7, instances=8, byzantine="any", late_liars=True)),
    **{
        f"hide-accepts-{n}": ("L1", SimulationOptions(n=n, instances=8, byzantine="hide-accepts"))
        for n in (4, 5, 7, 8)
    },
    "twins": ("A2", SimulationOptions(instances=6, clients=2, twins=True)),
    "greedy": ("L1", SimulationOptions(instances=15, greedy=4, faults="none")),
    "greedy-faults": ("A1", SimulationOptions(instances=10, greedy=2, byzantine="any")),
    "mutations": ("A3", SimulationOptions(instances=8, mutations=True)),
}

def _rehearsal(seed: int) -> Piece:
    """A replica comes back by rehearsal, among liars, and crashes on the way."""
    world = random_rehearsal(seed)
    return Piece(1, {"rehearsals": world.rehearsals, "transfers": world.transfers})


SUITES = {
    **{name: Suite(row, "seeds", partial(_simulated, options)) for name, (row, options) in _SIMULATED.items()},
    "cut-off": Suite("L2", "scenarios", _cut_off),
    "rehearsals": Suite("A1", "runs", _rehearsal),
    "splits": Suite("A4", "scenarios", _split),
    "histories": Suite("A6", "histories", _history),
    "kill-9": Suite("D1", "cycles", _crash_cycles, alone=True),
    "power-loss": Suite("D2", "crash points", _power_losses),
    "power-loss-log": Suite("D2", "crash points", _power_losses_of_a_log),
    "decoders": Suite("H1", "executions", _decoded),
}


def run_piece(suite: str, number: int) -> Piece:
    """Run one piece; whatever it raises is in the outcome, so that nothing ends a campaign of many hours."""
    try:
        return SUITES[suite].piece(number)
    except PropertyViolation as violation:
        return Piece(0, {}, violation.promise, violation.message)
    except Exception as error:
        kind = "broken" if isinstance(error, AssertionError) else "unexpected error"
        return Piece(0, {}, kind, f"{type(error).__name__}: {error}")
