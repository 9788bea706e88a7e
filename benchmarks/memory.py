"""Memory of the replicas at a steady state: resident bytes after 1 M transactions over those after 200 k.

SPENDs with one input and one output, so that spent coins go and the state does not grow; what is left to grow would be
a leak. Examples, with the environment of ``make venv``:

    .venv/bin/python -m benchmarks.memory
    .venv/bin/python -m benchmarks.memory --one-replica --persistence async --first 50000 --last 250000
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import click

from smartbft.cli.exit_codes import CheckFailed
from smartbft.cli.output import json_option, print_json, print_rows, print_table, say
from smartbft.cli.progress import Progress
from smartbft.cli.run import run
from smartbft.config import PERSISTENCE_MODES
from smartbft.measurement import cpu
from smartbft.measurement.cluster import Measurement, Run
from smartbft.measurement.one_replica import OneReplicaRun
from smartbft.measurement.processes import workspace
from smartbft.measurement.report import context, mebibytes
from smartbft.measurement.scenario import Scenario

# The most that a run may take; it ends with its transactions.
_SECONDS = 3600.0
_POINTS = 10


@dataclass
class Growth:
    """Resident bytes of each replica as the transactions go by; looked at five times a second while the load runs.

    Attributes:
        first: transactions of the first point.
        points: `(transactions, resident bytes by replica)`.
    """

    first: int
    points: list[tuple[int, dict[int, int]]] = field(default_factory=list)

    def look(self, run: Run, completed: int) -> None:
        """Take a point."""
        if run.cluster is not None and completed >= self.first:
            sizes = {replica.replica: cpu.resident_bytes(replica.pid) for replica in run.cluster.replicas}
            self.points.append((completed, sizes))

    def shown(self) -> list[tuple[int, dict[int, int]]]:
        """The first point, the last one, and some between them."""
        step = max(1, len(self.points) // _POINTS)
        return [*self.points[:-1:step], self.points[-1]]

    def ratio(self) -> float:
        """The last point over the first, of the replica that grew most."""
        (_, before), (_, after) = self.points[0], self.points[-1]
        return max(after[replica] / before[replica] for replica in after)


@click.command()
@click.option("--first", type=click.IntRange(1), default=200_000, show_default=True, help="Transactions before.")
@click.option("--last", type=click.IntRange(2), default=1_000_000, show_default=True, help="Transactions at the end.")
@click.option("--persistence", type=click.Choice(PERSISTENCE_MODES), default="sync", show_default=True)
@click.option("--keys", type=click.IntRange(1, 65536), default=1024, show_default=True, help="Client keys.")
@click.option("--window", type=click.IntRange(1, 65536), default=2048, show_default=True, help="Outstanding at once.")
@click.option("--one-replica", is_flag=True, help="One replica, its peers played: quicker.")
@click.option("--most", type=click.FloatRange(1.0), default=1.5, show_default=True, help="Fail above this ratio.")
@json_option
def main(first: int, last: int, one_replica: bool, most: float, as_json: bool, **options: Any) -> None:
    """Measure how the memory of the replicas grows."""
    if last <= first:
        raise click.BadParameter(f"must be more than {first}", param_hint="--last")
    scenario = Scenario(
        outputs=1,
        clients=options["keys"],
        window=options["window"],
        persistence=options["persistence"],
        transactions=last,
        seconds=_SECONDS,
        warm_up=0.0,
        name="memory",
    )
    growth = Growth(first)
    measurement = run(_measure(scenario, growth, one_replica, as_json))
    (start, _), (end, _) = growth.points[0], growth.points[-1]
    if as_json:
        print_json(
            {
                "points": [{"transactions": at, "resident_bytes": sizes} for at, sizes in growth.shown()],
                "ratio": growth.ratio(),
                "passed": growth.ratio() < most,
            }
        )
    else:
        print_rows(context(measurement), "what was measured")
        replicas = sorted(measurement.replicas)
        rows = [(f"{at:,}", *(mebibytes(sizes[replica]) for replica in replicas)) for at, sizes in growth.shown()]
        print_table(("transactions", *(f"replica {replica}" for replica in replicas)), rows, "resident memory")
        say(
            f"after {end:,} transactions {growth.ratio():.2f} times the memory after {start:,} (to stay below {most:g})"
        )
    if growth.ratio() >= most:
        raise CheckFailed(f"the memory grew by a factor of {growth.ratio():.2f}")


async def _measure(scenario: Scenario, growth: Growth, one_replica: bool, quiet: bool) -> Measurement:
    with workspace(prefix="smartbft-memory-") as work, Progress(scenario, quiet=quiet) as progress:

        def report(phase: str, seconds: float, completed: int) -> None:
            progress.report(phase, seconds, completed)
            if phase == "load":
                growth.look(measured, completed)

        kind = OneReplicaRun if one_replica else Run
        measured = kind(scenario, work, report, check=False)
        return await measured.measure()


if __name__ == "__main__":
    main()
