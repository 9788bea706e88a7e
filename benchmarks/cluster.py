"""Sweep of clusters on this machine: payloads, client models, batch sizes, persistence; a table and a pyperf file.

python benchmarks/cluster.py -o cluster.json
python benchmarks/cluster.py --only unsigned --seconds 5 --repeat 5
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from smartbft.cli.output import print_table, say
from smartbft.cli.progress import Progress
from smartbft.cli.run import run
from smartbft.config import PERSISTENCE_MODES
from smartbft.measurement.cluster import Measurement, Report
from smartbft.measurement.report import milliseconds
from smartbft.measurement.scenario import Scenario, unsigned
from smartbft.measurement.suite import check_output, run_series, save_pyperf
from smartbft.runtime.load import CLOSED_LOOP
from smartbft.types import Parameters

PAYLOADS = ((0, 0), (310, 380), (1024, 0))
CLOSED_LOOP_CLIENTS = (200, 1000)
BATCHES = (64, 512, 2048)
WINDOWS = (256, 1024, 4096)


def scenarios(base: Scenario) -> list[Scenario]:
    """The sweep; each name is unique and says what differs from the headline scenario."""
    lengths = {"seconds": base.seconds, "warm_up": base.warm_up}
    found = [unsigned(operation, result, **lengths) for operation, result in PAYLOADS]
    found += [
        replace(
            unsigned(*PAYLOADS[1], **lengths),
            clients=clients,
            model=CLOSED_LOOP,
            name=f"unsigned 310/380, {clients} closed-loop",
        )
        for clients in CLOSED_LOOP_CLIENTS
    ]
    found += [replace(base, persistence=mode, name=f"signed spend, {mode}") for mode in PERSISTENCE_MODES]
    found.append(replace(base, record_votes=False, name="signed spend, sync, no vote records"))
    found.append(replace(base, transport="tls", name="signed spend, sync, TLS"))
    found += [
        replace(base, clients=clients, model=CLOSED_LOOP, name=f"signed spend, sync, {clients} closed-loop")
        for clients in CLOSED_LOOP_CLIENTS
    ]
    found += [
        replace(base, parameters=Parameters(max_batch_requests=batch), name=f"signed spend, sync, batch {batch}")
        for batch in BATCHES
    ]
    found += [replace(base, window=window, name=f"signed spend, sync, window {window}") for window in WINDOWS]
    return found


def row(name: str, runs: Sequence[Measurement]) -> tuple[str, ...]:
    """One line of the table: medians over the runs."""

    def median(values: Iterator[float]) -> float:
        return statistics.median(values)

    return (
        name,
        f"{median(run.load.transactions_per_second for run in runs):,.0f}",
        milliseconds(median(run.load.latency(0.5) for run in runs)),
        milliseconds(median(run.load.latency(0.99) for run in runs)),
        f"{median(run.mean_batch for run in runs):,.0f}",
        f"{median(run.serial_microseconds for run in runs):.1f}",
        "yes" if all(run.passed for run in runs) else "NO",
    )


@click.command()
@click.option("--seconds", type=click.FloatRange(0.5, 600), default=5.0, show_default=True)
@click.option("--warm-up", type=click.FloatRange(0, 60), default=1.0, show_default=True)
@click.option("--repeat", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option("--only", default="", help="Only the scenarios whose name contains this.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write a pyperf file as well.")
def main(seconds: float, warm_up: float, repeat: int, only: str, output: Path | None) -> None:
    """Measure the sweep."""
    chosen = [each for each in scenarios(Scenario(seconds=seconds, warm_up=warm_up)) if only in each.name]
    if output is not None:
        check_output(output)
    if not chosen:
        raise click.UsageError(f"no scenario's name contains '{only}'")

    @contextmanager
    def watch(scenario: Scenario, number: int) -> Iterator[Report]:
        say(f"{scenario.name}: run {number} of {repeat}")
        with Progress(scenario) as progress:
            yield progress.report

    results = run(run_series(chosen, repeat, watch))
    if output is not None:
        save_pyperf(output, [(each.name, runs) for each, runs in zip(chosen, results, strict=True)])
    columns = ("scenario", "per second", "p50", "p99", "batch", "serial us", "checks")
    print_table(columns, [row(each.name, runs) for each, runs in zip(chosen, results, strict=True)])


if __name__ == "__main__":
    main()
