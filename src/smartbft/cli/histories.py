"""``smartbft histories``: is what clients see linearizable? Histories of a cluster under attack, checked one by one."""

from __future__ import annotations

import dataclasses
import math
import time
from typing import TYPE_CHECKING

import click

from smartbft.cli.exit_codes import CheckFailed
from smartbft.cli.output import examples, json_option, print_json, print_table
from smartbft.cli.progress import seeds_progress

if TYPE_CHECKING:
    from smartbft.testing.histories import HistoryCampaign
    from smartbft.testing.history_mutants import HistoryMutant


@click.command(
    epilog=examples(
        "smartbft histories --seeds 5",
        "smartbft histories --seeds 500 --jobs 2",
        "smartbft histories --mutant read-from-one",
    )
)
@click.option("--seeds", type=click.IntRange(1), default=50, show_default=True, help="How many histories.")
@click.option("--first-seed", type=click.IntRange(0), default=0, show_default=True, help="The seed of the first one.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes.")
@click.option("--seconds", type=click.FloatRange(min=0), default=math.inf, help="Begin no history later than this.")
@click.option("--mutant", help="Plant this bug, to see clients notice it; 'list' names them.")
@json_option
def histories(seeds: int, first_seed: int, jobs: int, seconds: float, mutant: str | None, as_json: bool) -> None:
    """Check that clients of a key-value store see one copy of it, whatever happens to the replicas.

    In each history leaders are killed and cut off, the network loses messages, and f replicas answer all requests
    with the same lies. The answers that clients believed must fit into one order (linearizability); operations that
    they gave up may have happened at any time, or never. A failure is repeated by the line that is printed with it.
    """
    from smartbft.testing.histories import run_histories

    if mutant == "list":
        _list_mutants(as_json)
        return
    if mutant is not None:
        _hunt(_mutant(mutant), first_seed)
        return
    began = time.monotonic()
    with seeds_progress(seeds, quiet=as_json) as show:
        campaign = run_histories(
            seeds,
            first=first_seed,
            jobs=jobs,
            seconds=seconds,
            progress=lambda now: show(now.histories, now.histories / max(time.monotonic() - began, 1e-3)),
        )
    if as_json:
        print_json(dataclasses.asdict(campaign))
    else:
        _print(campaign, first_seed)
    if campaign.failures:
        raise CheckFailed(f"{len(campaign.failures)} of {campaign.histories} histories failed")


def _print(campaign: HistoryCampaign, first: int) -> None:
    click.echo(
        f"{campaign.histories} histories from {first}: {len(campaign.failures)} failed; {campaign.counted} of 200 "
        f"operations or more; {campaign.operations} operations, {campaign.indeterminate} indeterminate, "
        f"{campaign.configurations} configurations searched; go on with --first-seed {first + campaign.histories}"
    )
    click.echo(
        f"{campaign.attacks} attacks, {campaign.crashes} crashes, {campaign.regencies} regency changes (in "
        f"{campaign.replaced} histories), {campaign.lies} lies to clients"
    )
    for failure in campaign.failures:
        click.echo(f"FAILED {failure.failure}")
        click.echo(f"  repeat with: {failure.command}")


def _list_mutants(as_json: bool) -> None:
    from smartbft.testing.history_mutants import HISTORY_MUTANTS

    if as_json:
        print_json([{"name": one.name, "rule": one.rule, "seeds": one.seeds} for one in HISTORY_MUTANTS])
    else:
        print_table(("mutant", "seeds", "what it breaks"), [(one.name, one.seeds, one.rule) for one in HISTORY_MUTANTS])


def _mutant(name: str) -> HistoryMutant:
    from smartbft.testing.history_mutants import HISTORY_MUTANTS

    for one in HISTORY_MUTANTS:
        if one.name == name:
            return one
    raise click.UsageError(f"no mutant is called '{name}': see 'smartbft histories --mutant list'")


def _hunt(mutant: HistoryMutant, first: int) -> None:
    from smartbft.testing.history_mutants import hunt_history

    found = hunt_history(mutant, first)
    if found is None:
        click.echo(f"not found within {mutant.seeds} histories: {mutant.rule}")
        return
    count, outcome = found
    click.echo(f"found in history {count}, by what clients saw alone: {mutant.rule}")
    raise CheckFailed(outcome.failure)
