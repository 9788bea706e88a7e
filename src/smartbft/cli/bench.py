"""``smartbft bench``: measure a cluster on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from smartbft.cli.exit_codes import CheckFailed
from smartbft.cli.lazy import SuggestingGroup
from smartbft.cli.output import examples, json_option, print_json, print_rows, print_table, say
from smartbft.cli.parameters import DURATION, persistence_option
from smartbft.cli.run import run
from smartbft.config import TRANSPORTS
from smartbft.config.replica import Persistence

if TYPE_CHECKING:
    from smartbft.measurement.cluster import Measurement, Report
    from smartbft.measurement.scenario import Scenario

Function = TypeVar("Function", bound=Callable[..., Any])


def _check_output(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    """Refuse a file that cannot be written before measuring for an hour."""
    from smartbft.measurement.suite import check_output

    if path is not None:
        check_output(path)
    return path


_SHARED = (
    click.option("--seconds", type=click.FloatRange(0.5, 3600), default=10.0, show_default=True, help="Of each run."),
    click.option("--warm-up", type=click.FloatRange(0, 600), default=2.0, show_default=True, help="Seconds cut off."),
    click.option("--repeat", type=click.IntRange(1, 100), default=3, show_default=True, help="Runs of each scenario."),
    click.option("--clients", type=click.IntRange(1, 65536), default=1024, show_default=True, help="Client keys."),
    click.option(
        "--window",
        type=click.IntRange(1, 65536),
        show_default="2048, or as many as so few clients may have",
        help="Outstanding at once.",
    ),
    click.option("--closed-loop", is_flag=True, help="One connection and one outstanding request per client."),
    click.option("--transport", type=click.Choice(TRANSPORTS), default="plain", show_default=True),
    click.option("--sync-floor", type=DURATION, default="0s", help="Added to each sync, e.g. 4ms: a slower disk."),
    click.option(
        "-o", "--output", type=click.Path(path_type=Path), callback=_check_output, help="Write a pyperf file too."
    ),
)


def shared_options(function: Function) -> Function:
    """The options that every benchmark has."""
    for option in reversed(_SHARED):
        function = option(function)
    return function


@click.group(
    cls=SuggestingGroup,
    epilog=examples("smartbft bench cluster", "smartbft bench table1 --sync-floor 4ms -o table1.json"),
)
def bench() -> None:
    """Measure a cluster of replica processes on this machine; the clients run here as well.

    Each result names machine, versions, load, client model and persistence. A run whose checks fail ends with exit
    code 7.
    """


@bench.command(
    epilog=examples(
        "smartbft bench cluster --closed-loop --clients 200", "smartbft bench cluster --unsigned 310/380 --json"
    )
)
@click.option("--load", type=click.Choice(("spend", "mint")), default="spend", show_default=True)
@click.option("--unsigned", metavar="OPERATION/RESULT", help="Bytes of payload instead, without signatures, in memory.")
@click.option("-n", "--replicas", "n", type=click.IntRange(1, 64), default=4, show_default=True)
@persistence_option
@click.option("--outputs", type=click.IntRange(1, 2), default=2, show_default=True, help="Of each SPEND.")
@click.option("--max-batch", type=click.IntRange(1, 8192), default=2048, show_default=True, help="Requests per batch.")
@click.option("--no-vote-records", is_flag=True, help="Leave votes out of the log (unsafe; for comparison).")
@shared_options
@json_option
def cluster(
    load: str,
    unsigned: str | None,
    n: int,
    persistence: Persistence,
    outputs: int,
    max_batch: int,
    no_vote_records: bool,
    as_json: bool,
    **shared: Any,
) -> None:
    """Throughput, latency and cost of one scenario."""
    from dataclasses import replace

    from smartbft.measurement import scenario as scenarios
    from smartbft.types import Parameters

    if unsigned is not None:
        operation, result = _sizes(unsigned)
        base = scenarios.unsigned(operation, result)
    else:
        signed = scenarios.paper_mint() if load == "mint" else scenarios.Scenario()
        base = replace(signed, persistence=persistence, outputs=outputs, record_votes=not no_vote_records)
    chosen = replace(_shared(base, shared), n=n, parameters=Parameters(max_batch_requests=max_batch))
    chosen = replace(chosen, name=chosen.name or f"{load} {persistence}")
    measurements = _repeat([chosen], shared["repeat"], as_json)[0]
    _save(shared["output"], [(chosen.name, measurements)])
    _print_runs(measurements, as_json)
    _fail_if_wrong(measurements)


@bench.command(epilog=examples("smartbft bench table1 --repeat 5", "smartbft bench table1 --sync-floor 4ms --json"))
@shared_options
@json_option
def table1(as_json: bool, **shared: Any) -> None:
    """The coin table of the SMaRtChain paper. Ten cells beside the paper's, and the ratios between columns."""
    from smartbft.measurement import suite
    from smartbft.measurement.cluster import as_dict
    from smartbft.measurement.scenario import Scenario

    cells = suite.table1(_shared(Scenario(), shared))
    runs = _repeat([cell.scenario for cell in cells], shared["repeat"], as_json)
    _save(shared["output"], [(cell.scenario.name, found) for cell, found in zip(cells, runs, strict=True)])
    rows = suite.table1_rows(list(zip(cells, runs, strict=True)))
    if as_json:
        print_json(
            [
                {"row": cell.row, "column": cell.column, "paper": cell.paper, "runs": [as_dict(each) for each in found]}
                for cell, found in zip(cells, runs, strict=True)
            ]
        )
    else:
        columns = ("transaction", "column", "here, per second", "paper, per second", "ratio", "paper's ratio")
        print_table(columns, rows, "SMaRtCoin, n = 4 (SMaRtChain paper, Table I)")
        say("ratio: to the row's first column. The machines differ, so the ratios are what can be compared.")
    for found in runs:
        _fail_if_wrong(found)


@bench.command(epilog=examples("smartbft bench efficiency", "smartbft bench efficiency --closed-loop --clients 200"))
@shared_options
@json_option
def efficiency(as_json: bool, **shared: Any) -> None:
    """Throughput over what signature checks allow: E.

    That is, throughput of signed SPENDs over what this machine could do if it only checked each signature n times.
    The machine's batch-verification rate, on the same keys and with all cores, is measured before and after the load of
    each run.
    """
    import statistics

    from smartbft.measurement.scenario import Scenario

    chosen = _shared(Scenario(name="efficiency", probe_seconds=1.0), shared)
    measurements = _repeat([chosen], shared["repeat"], as_json)[0]
    _save(shared["output"], [("efficiency", measurements)])
    _print_runs(measurements, as_json)
    if not as_json:
        median = statistics.median(each.efficiency for each in measurements)
        say(f"E = {median:.3f} (median of {len(measurements)} runs)")
    _fail_if_wrong(measurements)


def _shared(base: Scenario, shared: dict[str, Any]) -> Scenario:
    """`base` with what the shared options say."""
    from dataclasses import replace

    from smartbft.measurement.scenario import usual_window
    from smartbft.runtime.load import CLOSED_LOOP, MULTIPLEXED

    return replace(
        base,
        seconds=shared["seconds"],
        warm_up=shared["warm_up"],
        clients=shared["clients"],
        window=shared["window"] or usual_window(shared["clients"]),
        model=CLOSED_LOOP if shared["closed_loop"] else MULTIPLEXED,
        transport=shared["transport"],
        sync_floor_seconds=shared["sync_floor"] / 1_000_000,
    )


def _sizes(text: str) -> tuple[int, int]:
    operation, _, result = text.partition("/")
    if not operation.isdigit() or not result.isdigit():
        raise click.BadParameter(f"'{text}' is not OPERATION/RESULT, e.g. 310/380", param_hint="--unsigned")
    return int(operation), int(result)


def _repeat(scenarios: Sequence[Scenario], repeat: int, quiet: bool) -> list[list[Measurement]]:
    """Each scenario `repeat` times, with progress on stderr."""
    from smartbft.cli.progress import Progress
    from smartbft.measurement.suite import run_series

    @contextmanager
    def watch(scenario: Scenario, number: int) -> Iterator[Report]:
        if not quiet:
            say(f"{scenario.name or scenario.load}: run {number} of {repeat}")
        with Progress(scenario, quiet=quiet) as progress:
            yield progress.report

    return run(run_series(scenarios, repeat, watch))


def _save(path: Path | None, results: list[tuple[str, list[Measurement]]]) -> None:
    from smartbft.measurement.suite import save_pyperf

    if path is not None:
        save_pyperf(path, results)


def _print_runs(measurements: list[Measurement], as_json: bool) -> None:
    from smartbft.measurement.cluster import as_dict
    from smartbft.measurement.report import context, figures

    if as_json:
        print_json([as_dict(measurement) for measurement in measurements])
        return
    print_rows(context(measurements[-1]), "what was measured")
    for number, measurement in enumerate(measurements, start=1):
        print_rows(figures(measurement), f"run {number}")


def _fail_if_wrong(measurements: list[Measurement]) -> None:
    failed = [check for measurement in measurements for check in measurement.checks if not check.passed]
    if failed:
        raise CheckFailed("; ".join(f"{check.name} ({check.detail})" for check in failed))
