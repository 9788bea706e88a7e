"""The series of runs that are published: the paper's table, sweeps; and their results as pyperf files."""

from __future__ import annotations

import importlib.util
import statistics
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from smartbft.errors import LocalProtocolError
from smartbft.measurement.cluster import Measurement, Report, as_dict, measure
from smartbft.measurement.machine import description
from smartbft.measurement.processes import workspace
from smartbft.measurement.requests import MINT, SPEND
from smartbft.measurement.scenario import Scenario, paper_mint

Watch = Callable[[Scenario, int], AbstractContextManager[Report]]

COLUMNS = ("sequential sync", "sequential async", "parallel sync", "parallel async", "Dura-SMaRt")

# SMaRtChain paper, Table I: transactions per second and their standard deviation, n = 4, on machines with 32 hardware
# threads, gigabit Ethernet and spinning disks. What can be compared on another machine are the ratios between columns.
PAPER_TABLE_1 = {
    MINT: ((1801, 321), (1821, 82), (4079, 152), (4149, 187), (15015, 422)),
    SPEND: ((1729, 302), (1760, 213), (3881, 177), (4027, 205), (14829, 549)),
}


@dataclass(frozen=True)
class Cell:
    """One cell of Table I.

    Attributes:
        row: ``mint`` or ``spend``.
        column: one of `COLUMNS`.
        scenario: how it is measured here.
    """

    row: str
    column: str
    scenario: Scenario

    @property
    def paper(self) -> tuple[int, int]:
        """The paper's figure and its standard deviation."""
        return PAPER_TABLE_1[self.row][COLUMNS.index(self.column)]


def table1(base: Scenario) -> list[Cell]:
    """The ten cells; `base` gives the lengths, the clients and the sync floor.

    The first four columns are the naive coin, which writes its own ledger inside the execution, batch by batch, with
    the replica's own log switched off; the fifth leaves durability to the replica.
    """
    return [Cell(row, column, _cell(base, row, column)) for row in (MINT, SPEND) for column in COLUMNS]


def _cell(base: Scenario, row: str, column: str) -> Scenario:
    sizes = paper_mint() if row == MINT else Scenario()
    scenario = replace(base, load=row, request_bytes=sizes.request_bytes, reply_bytes=sizes.reply_bytes)
    scenario = replace(scenario, name=f"{row} {column}")
    if column == "Dura-SMaRt":
        return replace(scenario, persistence="sync")
    check, _, sync = column.partition(" ")
    return replace(
        scenario,
        persistence="memory",
        application="coin_ledger",
        application_sync=sync == "sync",
        signature_check="sequential" if check == "sequential" else "parallel",
    )


def table1_rows(results: Sequence[tuple[Cell, Sequence[Measurement]]]) -> list[tuple[str, ...]]:
    """Row, column, ours, the paper's, and both ratios to the first column of the row."""
    first = {cell.row: _mean(runs)[0] for cell, runs in results if cell.column == COLUMNS[0]}
    rows: list[tuple[str, ...]] = []
    for cell, runs in results:
        mean, deviation = _mean(runs)
        paper, paper_deviation = cell.paper
        base = first.get(cell.row, 0.0)
        rows.append(
            (
                cell.row.upper(),
                cell.column,
                f"{mean:,.0f} ± {deviation:,.0f}",
                f"{paper:,} ± {paper_deviation:,}",
                f"{mean / base:.2f}" if base else "",
                f"{paper / PAPER_TABLE_1[cell.row][0][0]:.2f}",
            )
        )
    return rows


def _mean(runs: Sequence[Measurement]) -> tuple[float, float]:
    rates = [run.load.transactions_per_second for run in runs]
    return statistics.fmean(rates), statistics.stdev(rates) if len(rates) > 1 else 0.0


async def run_series(scenarios: Sequence[Scenario], repeat: int, watch: Watch) -> list[list[Measurement]]:
    """Measure each scenario `repeat` times, interleaved, so that a disturbance does not fall on one of them alone.

    Args:
        watch: called before each run with the scenario and the number of the run, from 1; returns who is told of the
            progress of this run.
    """
    results: list[list[Measurement]] = [[] for _ in scenarios]
    for number in range(1, repeat + 1):
        for scenario, found in zip(scenarios, results, strict=True):
            with workspace(prefix="smartbft-bench-") as work, watch(scenario, number) as report:
                found.append(await measure(scenario, work, report))
    return results


def check_output(path: Path) -> None:
    """See before a long measurement that its results can be saved.

    Raises:
        LocalProtocolError: pyperf is not installed, the file exists (results are never overwritten), or its folder does
            not.
    """
    if importlib.util.find_spec("pyperf") is None:
        raise LocalProtocolError("pyperf is not installed: pip install pyperf")
    if path.exists():
        raise LocalProtocolError(f"{path} exists: choose another name for the results")
    if not path.parent.is_dir():
        raise LocalProtocolError(f"the folder {path.parent} does not exist: make it first")


def save_pyperf(path: Path, results: Sequence[tuple[str, Sequence[Measurement]]]) -> None:
    """Write results as a pyperf file: seconds per committed transaction, so that lower is faster."""
    import pyperf  # type: ignore[import-untyped]

    benchmarks = [
        pyperf.Benchmark([_pyperf_run(pyperf, name, measurement) for measurement in runs]) for name, runs in results
    ]
    pyperf.BenchmarkSuite(benchmarks).dump(str(path))


def _pyperf_run(pyperf: Any, name: str, measurement: Measurement) -> Any:
    """One run: a single value, and what a result must name as metadata."""
    load = measurement.load
    facts = as_dict(measurement)
    metadata: dict[str, Any] = {
        "name": name,
        "unit": "second",
        "inner_loops": 1,
        **{f"scenario_{key}": value for key, value in facts["scenario"].items()},
        **{f"machine_{key}": value for key, value in description().items()},
        "transactions_per_second": load.transactions_per_second,
        "serial_microseconds": measurement.serial_microseconds,
        "core_microseconds": measurement.core_microseconds,
        "mean_batch": measurement.mean_batch,
        "checks_passed": "yes" if measurement.passed else "no",
        **{f"latency_{quantile}": value for quantile, value in facts["latency_seconds"].items()},
        **_sync_latency(measurement),
    }
    if measurement.verification_rates:
        metadata["verification_rate"] = statistics.fmean(measurement.verification_rates)
        metadata["efficiency"] = measurement.efficiency
    return pyperf.Run([load.seconds / max(load.completed, 1)], metadata=metadata, collect_metadata=False)


def _sync_latency(measurement: Measurement) -> dict[str, float]:
    logs = [figures.log for figures in measurement.replicas.values() if figures.log]
    return {name: max(log[f"{name}_seconds"] for log in logs) for name in ("sync_p50", "sync_p99") if logs}
