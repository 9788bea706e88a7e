"""What checkpoints and state transfers cost a running cluster.

Throughput in the second of a checkpoint over that of its neighbours, and throughput while a replica that lost its disk
comes back with a snapshot over what it is with all replicas.

python benchmarks/checkpoints.py
python benchmarks/checkpoints.py --only checkpoint --schedule sequential
python benchmarks/checkpoints.py --only transfer --times 5 --json
"""

from __future__ import annotations

import asyncio
import statistics
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent.parent))
from smartbft.cli.output import print_json, print_rows, print_table, say
from smartbft.cli.progress import Progress
from smartbft.cli.run import run
from smartbft.measurement.chaos import ChaosRun
from smartbft.measurement.cluster import Measurement, Run, Until
from smartbft.measurement.faults import CALM_SECONDS, HOLD_SECONDS, Faults
from smartbft.measurement.machine import description
from smartbft.measurement.processes import workspace
from smartbft.measurement.report import context, mebibytes
from smartbft.measurement.scenario import Scenario
from smartbft.runtime.client import AsyncClient
from smartbft.runtime.load import LoadGenerator
from smartbft.storage import SNAPSHOT_FOLDER
from smartbft.testnet import Testnet
from smartbft.types import SEQUENTIAL, TOGETHER, Parameters

_LOOK_SECONDS = 0.05
# A checkpoint has its second from a little before its first file is seen.
_BEFORE_SECONDS = 0.2


@dataclass
class Timeline:
    """What was completed when, and which snapshot files were seen first when; times of `time.monotonic`.

    Attributes:
        points: `(time, transactions completed)`.
        largest: bytes of the largest snapshot file.
        seen: file name -> when the first and when the last replica's snapshot of it was seen.
    """

    points: list[tuple[float, int]] = field(default_factory=list)
    seen: dict[str, tuple[float, float]] = field(default_factory=dict)
    largest: int = 0

    async def watch(self, network: Testnet, generator: LoadGenerator) -> None:
        """Look until cancelled."""
        folders = [replica.data_folder / SNAPSHOT_FOLDER for replica in network.replicas]
        known: set[Path] = set()
        while True:
            now = time.monotonic()
            self.points.append((now, generator.completed))
            for path in (path for folder in folders if folder.is_dir() for path in folder.glob("snapshot-*.bin")):
                if path not in known:
                    known.add(path)
                    self.largest = max(self.largest, path.stat().st_size)
                    first, _ = self.seen.get(path.name, (now, now))
                    self.seen[path.name] = (first, now)
            await asyncio.sleep(_LOOK_SECONDS)

    def completed(self, at: float) -> float:
        """How many were completed at a time between two looks."""
        for (before, few), (after, many) in pairwise(self.points):
            if before <= at < after:
                return few + (many - few) * (at - before) / (after - before)
        raise ValueError("outside of the run")

    def rate(self, start: float, end: float) -> float:
        """Transactions per second between two times."""
        return (self.completed(end) - self.completed(start)) / (end - start)

    def checkpoints(self) -> list[dict[str, float]]:
        """Of each checkpoint with a whole second before and after it: the rate in its second, and its neighbours'."""
        found = []
        for first, last in sorted(self.seen.values()):
            start = first - _BEFORE_SECONDS
            if start - 1 < self.points[0][0] or start + 2 >= self.points[-1][0]:
                continue
            inside = self.rate(start, start + 1)
            around = (self.rate(start - 1, start) + self.rate(start + 1, start + 2)) / 2
            ratio = inside / around if around else 0.0
            found.append({"rate": inside, "neighbours": around, "ratio": ratio, "spread_seconds": last - first})
        return found


class Watched(Run):
    """A load with a timeline."""

    timeline: Timeline

    @asynccontextmanager
    async def _beside(self, generator: LoadGenerator, client: AsyncClient) -> AsyncIterator[Until]:
        self.timeline = Timeline()
        watching = asyncio.ensure_future(self.timeline.watch(self._network, generator))
        try:
            async with super()._beside(generator, client) as until:
                yield until
        finally:
            watching.cancel()


class Transfers(Watched, ChaosRun):
    """The same replica loses its disk and comes back by state transfer, `times` times."""

    times = 1

    async def faults(self, faults: Faults) -> None:
        self.transfers: list[dict[str, float]] = []
        await asyncio.sleep(self._scenario.warm_up)
        for _ in range(self.times):
            await faults.wipe(self._scenario.n - 1)
            figures, level = faults.figures()[-1], time.monotonic() - CALM_SECONDS
            began = level - figures.level_after
            rate = self.timeline.rate(began, level)
            found = {"before": figures.rate_before, "without": self.timeline.rate(began - HOLD_SECONDS, began)}
            found |= {"during": rate, "ratio": rate / figures.rate_before, "seconds": figures.level_after}
            self.transfers.append(found | {"instance": figures.transferred})


def measure(kind: type[Watched], scenario: Scenario, quiet: bool) -> tuple[Measurement, Watched]:
    """One run."""
    with workspace(prefix="smartbft-bench-") as work, Progress(scenario, quiet=quiet) as progress:
        more = (progress.note,) if issubclass(kind, ChaosRun) else ()
        watched = kind(scenario, work, progress.report, *more)
        return run(watched.measure()), watched


def print_cases(title: str, columns: Sequence[str], found: list[dict[str, float]]) -> None:
    """A row for each checkpoint or transfer, and the median of what they cost."""
    shown = [
        tuple(f"{one[name]:,.2f}" if one[name] < 100 else f"{one[name]:,.0f}" for name in columns) for one in found
    ]
    print_table(columns, shown, title)
    if found:
        say(f"median ratio {statistics.median(one['ratio'] for one in found):.2f}")


def checkpoints(base: Scenario, as_json: bool) -> dict[str, Any]:
    """Throughput in the second of each checkpoint, of all replicas or of one, over that of the seconds around it."""
    title = f"checkpoints, {base.parameters.checkpoint_schedule}"
    measurement, watched = measure(Watched, replace(base, name=title), as_json)
    found = watched.timeline.checkpoints()
    if not as_json:
        print_rows([*context(measurement), ("largest snapshot", mebibytes(watched.timeline.largest))], title)
        print_cases("per second", ("rate", "neighbours", "ratio", "spread_seconds"), found)
    return {"checkpoints": found, "largest_bytes": watched.timeline.largest, "passed": measurement.passed}


def transfers(base: Scenario, times: int, as_json: bool) -> dict[str, Any]:
    """Throughput while a wiped replica comes back, from its start until it is level, over that of all replicas."""
    kind = type("SomeTransfers", (Transfers,), {"times": times})
    # Signed ahead for this long; the load ends when the last replica is back.
    title = f"transfers, {base.parameters.checkpoint_schedule}"
    scenario = replace(base, seconds=base.seconds + 6.0 * times, name=title)
    measurement, watched = measure(kind, scenario, as_json)
    found = watched.transfers if isinstance(watched, Transfers) else []
    if not as_json:
        print_rows([*context(measurement), ("largest snapshot", mebibytes(watched.timeline.largest))], title)
        print_cases("per second", ("before", "without", "during", "ratio", "seconds", "instance"), found)
    return {"transfers": found, "largest_bytes": watched.timeline.largest, "passed": measurement.passed}


@click.command()
@click.option("--seconds", type=click.FloatRange(4, 600), default=20.0, show_default=True, help="Of each load.")
@click.option("--warm-up", type=click.FloatRange(0, 60), default=2.0, show_default=True)
@click.option("--interval", type=click.IntRange(1), default=32, show_default=True, help="Decisions per checkpoint.")
@click.option("--times", type=click.IntRange(1, 100), default=3, show_default=True, help="Transfers.")
@click.option("--clients", type=click.IntRange(1, 16384), default=1024, show_default=True)
@click.option("--window", type=click.IntRange(1, 16384), default=2048, show_default=True)
@click.option("--only", type=click.Choice(("", "checkpoint", "transfer")), default="", help="Only one of both.")
@click.option(
    "--schedule",
    "schedules",
    type=click.Choice((TOGETHER, SEQUENTIAL)),
    multiple=True,
    default=(TOGETHER, SEQUENTIAL),
    show_default=True,
    help="Of the checkpoints: all replicas at once, or one after the other; may be given twice.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    seconds: float,
    warm_up: float,
    interval: int,
    times: int,
    clients: int,
    window: int,
    only: str,
    schedules: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure what checkpoints and state transfers cost."""
    report: dict[str, Any] = {"machine": description()}
    for schedule in schedules:
        base = Scenario(
            seconds=seconds,
            warm_up=warm_up,
            clients=clients,
            window=window,
            parameters=Parameters(checkpoint_interval=interval, checkpoint_schedule=schedule),
        )
        found: dict[str, Any] = {}
        if only in ("", "checkpoint"):
            found |= {"checkpoint": checkpoints(base, as_json)}
        if only in ("", "transfer"):
            found |= {"transfer": transfers(base, times, as_json)}
        report[schedule] = found
    if as_json:
        print_json(report)


if __name__ == "__main__":
    main()
