"""``smartbft demo``: four replica processes, a load of signed transactions, figures, checks; nothing is left behind."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from smartbft.cli.exit_codes import CheckFailed
from smartbft.cli.output import examples, json_option, print_json, print_rows, print_table, say
from smartbft.cli.parameters import persistence_option
from smartbft.cli.run import run
from smartbft.config import TRANSPORTS
from smartbft.config.replica import Persistence, Transport

if TYPE_CHECKING:
    from smartbft.measurement.cluster import Measurement
    from smartbft.measurement.scenario import Scenario

CHAOS_CHECKPOINT_INTERVAL = 24


@click.command(
    epilog=examples("smartbft demo", "smartbft demo --chaos", "smartbft demo --seconds 3 --persistence memory --json")
)
@click.option(
    "--seconds",
    type=click.FloatRange(0.5, 600),
    show_default="10; with --chaos 20",
    help="Length of the load; with --chaos at least so long, and until all faults are repaired.",
)
@click.option(
    "--chaos", is_flag=True, help="Kill the leader, freeze a replica, and remove the data of another, under load."
)
@click.option("--clients", type=click.IntRange(1, 16384), default=1024, show_default=True, help="Client keys.")
@click.option(
    "--window",
    type=click.IntRange(1, 16384),
    show_default="2048, or as many as so few clients may have",
    help="Requests outstanding.",
)
@click.option("--closed-loop", is_flag=True, help="One connection per client, one request outstanding on each.")
@click.option("-n", "--replicas", "n", type=click.IntRange(1, 16), default=4, show_default=True, help="How many.")
@persistence_option
@click.option("--transport", type=click.Choice(TRANSPORTS), default="tls", show_default=True)
@click.option("--keep", is_flag=True, help="Keep the folder with homes and logs, and say where it is.")
@json_option
def demo(
    seconds: float | None,
    chaos: bool,
    clients: int,
    window: int | None,
    closed_loop: bool,
    n: int,
    persistence: Persistence,
    transport: Transport,
    keep: bool,
    as_json: bool,
) -> None:
    """Start replica processes on this machine, mint coins, run signed SPENDs, and check what came of it.

    With --chaos the leader is killed with SIGKILL and started again, another replica is frozen (SIGSTOP) and resumed,
    and a third one loses its data folder: the others go on, and all end with the same state.

    Ends with exit code 7 if a check fails. Stops everything and removes its folder at the end, on Ctrl-C at any moment,
    and also when it is killed.
    """
    from smartbft.measurement.report import context, fault_table, figures, verdicts
    from smartbft.measurement.scenario import Scenario, usual_window
    from smartbft.runtime.load import CLOSED_LOOP, MULTIPLEXED
    from smartbft.types import Parameters

    seconds = seconds or (20.0 if chaos else 10.0)
    scenario = Scenario(
        seconds=seconds,
        warm_up=min(1.0, seconds / 4),
        clients=clients,
        window=window or usual_window(clients),
        model=CLOSED_LOOP if closed_loop else MULTIPLEXED,
        n=n,
        persistence=persistence,
        transport=transport,
        # So often that the replica which is wiped needs a snapshot.
        parameters=Parameters(checkpoint_interval=CHAOS_CHECKPOINT_INTERVAL) if chaos else Parameters(),
        name="demo",
    )
    measurement = run(_measure(scenario, keep, chaos, quiet=as_json))
    if as_json:
        from smartbft.measurement.cluster import as_dict

        print_json(as_dict(measurement))
    else:
        print_rows(context(measurement), "what was measured")
        print_rows(figures(measurement), "figures")
        if chaos:
            print_table(*fault_table(measurement), "faults")
        print_rows(verdicts(measurement), "checks")
    if not measurement.passed:
        failed = "; ".join(f"{check.name} ({check.detail})" for check in measurement.checks if not check.passed)
        raise CheckFailed(f"the demo found a fault: {failed}. Please report it")


async def _measure(scenario: Scenario, keep: bool, chaos: bool, quiet: bool) -> Measurement:
    from smartbft.cli.progress import Progress
    from smartbft.measurement.chaos import ChaosRun
    from smartbft.measurement.cluster import measure
    from smartbft.measurement.processes import workspace

    showing = Progress(scenario, quiet=quiet, open_end=chaos)
    with workspace(keep=keep, prefix="smartbft-demo-") as work, showing as progress:
        if keep:
            say(f"the network is in {work.folder}")
        if chaos:
            return await ChaosRun(scenario, work, progress.report, progress.note).measure()
        return await measure(scenario, work, progress.report)
