"""The capacity of one replica process, and its serial cost per transaction.

Its peers are played by this process (`smartbft.measurement.peers`), which also sends pre-signed load from many client
keys over one pipelined connection. Examples, with the environment of ``make venv``:

    .venv/bin/python -m benchmarks.replica
    .venv/bin/python -m benchmarks.replica --persistence memory --role follower -o replica.json
    .venv/bin/python -m benchmarks.replica --compare-table --sync-floor 4ms --repeat 3
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from smartbft.cli.exit_codes import CheckFailed
from smartbft.cli.output import json_option, print_json, print_rows, print_table, say
from smartbft.cli.parameters import DURATION
from smartbft.cli.progress import Progress
from smartbft.cli.run import run
from smartbft.config import PERSISTENCE_MODES
from smartbft.config.replica import SIGNATURE_CHECKS, Persistence, SignatureCheck
from smartbft.measurement import scenario as scenarios
from smartbft.measurement.cluster import Measurement, as_dict
from smartbft.measurement.one_replica import FOLLOWER, LEADER, OneReplicaRun
from smartbft.measurement.processes import workspace
from smartbft.measurement.report import context, figures
from smartbft.measurement.requests import SPEND
from smartbft.measurement.scenario import Scenario
from smartbft.measurement.suite import check_output, save_pyperf, table1
from smartbft.types import Parameters

# With one replica, throughput over the machine's verification rate is not the E of a cluster.
_NAMES = {"efficiency E": "throughput / batch verification"}


@click.command()
@click.option("--seconds", type=click.FloatRange(0.5, 600), default=10.0, show_default=True, help="Of each run.")
@click.option("--warm-up", type=click.FloatRange(0, 60), default=2.0, show_default=True, help="Seconds cut off.")
@click.option("--repeat", type=click.IntRange(1, 100), default=1, show_default=True, help="Runs of each scenario.")
@click.option("--keys", type=click.IntRange(1, 65536), default=1024, show_default=True, help="Client keys.")
@click.option("--window", type=click.IntRange(1, 65536), default=8192, show_default=True, help="Outstanding at once.")
@click.option("--max-batch", type=click.IntRange(1, 8192), default=2048, show_default=True, help="Requests per batch.")
@click.option("--persistence", type=click.Choice(PERSISTENCE_MODES), default="sync", show_default=True)
@click.option("--sync-floor", type=DURATION, default="0s", help="Added to each sync, e.g. 4ms: a slower disk.")
@click.option("--signature-check", type=click.Choice(SIGNATURE_CHECKS), default="parallel", show_default=True)
@click.option("--verify-threads", type=click.IntRange(0, 256), default=0, help="0: one per core.")
@click.option("--unsigned", is_flag=True, help="Payloads of 310/380 bytes without signatures, against an echo.")
@click.option("--role", type=click.Choice((LEADER, FOLLOWER)), default=LEADER, show_default=True)
@click.option("--compare-table", is_flag=True, help="Sequential sync and Dura-SMaRt, and their ratio.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Write a pyperf file as well.")
@json_option
def main(repeat: int, role: str, compare_table: bool, output: Path | None, as_json: bool, **options: Any) -> None:
    """Measure one replica whose three peers are played."""
    if output is not None:
        check_output(output)
    wanted = _compared(options) if compare_table else [_single(options)]
    results: list[list[Measurement]] = [[] for _ in wanted]
    for number in range(repeat):
        for scenario, found in zip(wanted, results, strict=True):
            if not as_json:
                say(f"{scenario.name}: run {number + 1} of {repeat}")
            found.append(run(_measure(scenario, role, as_json)))
    if output is not None:
        save_pyperf(output, [(scenario.name, found) for scenario, found in zip(wanted, results, strict=True)])
    if as_json:
        print_json([_as_dict(measurement, role) for found in results for measurement in found])
    else:
        for found in results:
            _print(found, role)
        if compare_table:
            _print_ratio(results)
    _fail_if_wrong([measurement for found in results for measurement in found])


def _base(options: dict[str, Any]) -> Scenario:
    return Scenario(
        clients=options["keys"],
        window=options["window"],
        seconds=options["seconds"],
        warm_up=options["warm_up"],
        verify_threads=options["verify_threads"],
        sync_floor_seconds=options["sync_floor"] / 1_000_000,
        parameters=Parameters(max_batch_requests=options["max_batch"]),
    )


def _single(options: dict[str, Any]) -> Scenario:
    persistence: Persistence = options["persistence"]
    check: SignatureCheck = options["signature_check"]
    base = _base(options)
    if options["unsigned"]:
        # The echo takes operations of any content: 310 and 380 bytes as in the paper's requests and replies.
        echo = scenarios.unsigned(310, 380)
        changes = {name: getattr(echo, name) for name in ("load", "request_bytes", "reply_bytes", "application")}
        return replace(base, **changes, persistence=persistence, signature_check="sequential", name="replica unsigned")
    return replace(base, persistence=persistence, signature_check=check, name=f"replica {check} {persistence}")


def _compared(options: dict[str, Any]) -> list[Scenario]:
    """The first and the last column of the SPEND row of the SMaRtChain paper's Table I, on one replica."""
    cells = [cell for cell in table1(_base(options)) if cell.row == SPEND]
    return [replace(cell.scenario, name=f"replica {cell.scenario.name}") for cell in (cells[0], cells[-1])]


async def _measure(scenario: Scenario, role: str, quiet: bool) -> Measurement:
    with workspace(prefix="smartbft-replica-") as work, Progress(scenario, quiet=quiet) as progress:
        return await OneReplicaRun(scenario, work, progress.report, role=role).measure()


def _print(found: Sequence[Measurement], role: str) -> None:
    print_rows([("replicas", _played(found[-1], role)), *context(found[-1])], found[-1].scenario.name)
    for number, measurement in enumerate(found, start=1):
        print_rows([(_NAMES.get(name, name), value) for name, value in figures(measurement)], f"run {number}")
    if len(found) > 1:
        rate = statistics.median(each.load.transactions_per_second for each in found)
        serial = statistics.median(each.serial_microseconds for each in found)
        say(f"median of {len(found)} runs: {rate:,.0f} transactions per second, serial cost {serial:.2f} us")


def _played(measurement: Measurement, role: str) -> str:
    return f"1 real ({role}), {measurement.scenario.n - 1} played; a request is complete with its one reply"


def _as_dict(measurement: Measurement, role: str) -> dict[str, Any]:
    facts = as_dict(measurement)
    facts["scenario"]["replicas"] = _played(measurement, role)
    return facts


def _print_ratio(results: Sequence[Sequence[Measurement]]) -> None:
    rows = []
    medians = [statistics.median(each.load.transactions_per_second for each in found) for found in results]
    for found, median in zip(results, medians, strict=True):
        ratio = f"{median / medians[0]:.2f}"
        rows.append((found[-1].scenario.name, f"{median:,.0f}", f"{found[-1].mean_batch:,.0f}", ratio))
    print_table(("scenario", "per second (median)", "mean batch", "ratio"), rows, "one replica, all cores")


def _fail_if_wrong(measurements: Sequence[Measurement]) -> None:
    failed = [check for measurement in measurements for check in measurement.checks if not check.passed]
    if failed:
        raise CheckFailed("; ".join(f"{check.name} ({check.detail})" for check in failed))


if __name__ == "__main__":
    main()
