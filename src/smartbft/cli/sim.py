"""``smartbft sim``: run the simulator over many seeds, or repeat one."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from smartbft.cli.exit_codes import CheckFailed
from smartbft.cli.output import examples, json_option, print_json, print_table, say
from smartbft.cli.parameters import OUTPUT_FILE
from smartbft.cli.progress import seeds_progress

# The names in `smartbft.testing.byzantine.ATTACKS`, here so that --help does not load the simulator.
ATTACK_NAMES = (
    "silent",
    "slow",
    "part-way",
    "tiny-batches",
    "stingy",
    "equivocate",
    "double-votes",
    "wrong-digest",
    "withhold-accept",
    "hide-accepts",
    "forged-collects",
    "stale-collects",
    "two-syncs",
    "bad-sync",
    "stop-storm",
    "replay",
    "censor",
    "lie-progress",
    "lie-decisions",
    "lie-clients",
    "lie-snapshots",
    "flood-early",
    "ask-all-the-time",
    "change-keys",
    "lie-keys",
    "propose-keys",
    "old-keys",
    "mutate",
)

if TYPE_CHECKING:
    from smartbft.testing import CampaignResult, Failure, SimulationOptions, SimulationReport
    from smartbft.testing.schedule import Schedule

# What may go with --schedule: all else is in the file.
_BESIDE_A_SCHEDULE = {"schedule", "trace", "mutant", "as_json"}


@click.command(
    epilog=examples(
        "smartbft sim --seeds 5 --instances 10",
        "smartbft sim --seed 3 --instances 10 --json",
        "smartbft sim --byzantine equivocate --seeds 5 --instances 10",
        "smartbft sim --mutant list",
        "smartbft sim --byzantine list",
        "smartbft sim --seeds 1000 --jobs 2 --keep-going",
        "smartbft sim --seed 3 --save-schedule run.json",
        "smartbft sim --schedule run.json",
    )
)
@click.option("--seeds", type=click.IntRange(1), default=100, show_default=True, help="How many seeds to run.")
@click.option("--first-seed", type=click.IntRange(0), default=0, show_default=True, help="The first of them.")
@click.option("--seed", type=click.IntRange(0), help="Repeat this one seed and print its trace hash.")
@click.option("--trace", type=OUTPUT_FILE, help="With --seed: write the events here.")
@click.option("-n", "--replicas", "--n", "n", type=click.IntRange(1, 64), default=4, show_default=True)
@click.option("--instances", type=click.IntRange(1), default=50, show_default=True, help="Instances to decide.")
@click.option("--clients", type=click.IntRange(1, 1000), default=3, show_default=True, help="Client sessions.")
@click.option("--in-flight", type=click.IntRange(1, 1024), default=2, show_default=True, help="Requests per client.")
@click.option(
    "--signatures",
    type=click.Choice(("auto", "keyed-hash", "ed25519")),
    default="auto",
    show_default=True,
    help="auto: Ed25519 for one seed in twenty.",
)
@click.option(
    "--persistence",
    type=click.Choice(("auto", "memory", "async", "sync")),
    default="auto",
    show_default=True,
    help="auto: mostly sync.",
)
@click.option(
    "--authentication",
    type=click.Choice(("auto", "signatures", "channel")),
    default="auto",
    show_default=True,
    help="Of requests; auto: by channel for one seed in four.",
)
@click.option(
    "--checkpoints",
    type=click.Choice(("auto", "together", "sequential")),
    default="auto",
    show_default=True,
    help="Their schedule; auto: sequential for one seed in four. In memory: together.",
)
@click.option("--faults", type=click.Choice(("all", "network", "crashes", "none")), default="all", show_default=True)
@click.option(
    "--byzantine",
    default="",
    metavar="ATTACK[,...]",
    help=f"Up to f replicas attack: any, keys, {', '.join(ATTACK_NAMES)}; 'list' says what each does.",
)
@click.option("--twins", is_flag=True, help="f replicas run twice with the same keys, through drawn partitions.")
@click.option("--mutations", is_flag=True, help="Up to f replicas change three messages each by one small step.")
@click.option(
    "--late-liars",
    is_flag=True,
    help="With --byzantine: each liar begins when a replica that lost its disk votes again with a new key.",
)
@click.option(
    "--greedy",
    type=click.IntRange(0, 1000),
    default=0,
    help="Clients that want all room, places and time for themselves. With --faults none no leader may be replaced.",
)
@click.option("--faulty", type=click.IntRange(0), default=0, help="Draw so many faulty replicas less.")
@click.option("--without", default="", metavar="FAULT[,...]", help="Leave out faults, as --shrink names them.")
@click.option("--shrink", is_flag=True, help="Print the smallest run found that fails like the seed.")
@click.option(
    "--schedule",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Run what this file says, and nothing else.",
)
@click.option(
    "--save-schedule",
    type=OUTPUT_FILE,
    help="Write the run to a file: the first one that fails (made small with --shrink), or that of --seed.",
)
@click.option("--patience", type=click.IntRange(1), default=120, show_default=True, help="Virtual seconds to finish.")
@click.option("--mutant", help="Plant this bug, to see it found; 'list' names them.")
@click.option("--jobs", type=click.IntRange(1, 256), default=1, show_default=True, help="Processes.")
@click.option("--keep-going", is_flag=True, help="Run all seeds even if some fail.")
@json_option
@click.pass_context
def sim(
    context: click.Context,
    /,
    seeds: int,
    first_seed: int,
    seed: int | None,
    trace: Path | None,
    mutant: str | None,
    jobs: int,
    keep_going: bool,
    shrink: bool,
    schedule: Path | None,
    save_schedule: Path | None,
    as_json: bool,
    **settings: Any,
) -> None:
    """Run a whole cluster in virtual time, with faults drawn from a seed and every promise checked at every event.

    The same seed and options give the same run, whatever the machine. A failure prints the command that repeats it.
    """
    from smartbft.testing import SimulationOptions

    if trace is not None and seed is None and schedule is None:
        raise click.UsageError("--trace goes with --seed: it writes the events of one run")
    if seed is not None:
        _alone(context, "--seed", ("seeds", "first_seed", "jobs", "keep_going"))
    if mutant == "list":
        _list_mutants(as_json)
        return
    if settings["byzantine"] == "list":
        _list_attacks(as_json)
        return
    more = "" if mutant is None else f" --mutant {mutant}"
    with _planted(mutant, jobs):
        if schedule is not None:
            _replay(schedule, context, trace, as_json)
            return
        options = SimulationOptions(seed=first_seed if seed is None else seed, **settings)
        if shrink:
            _shrink(options, 1 if seed is not None else seeds, more, save_schedule)
        elif seed is not None:
            _repeat(options, trace, as_json, save_schedule, more)
        else:
            _campaign(options, seeds, jobs, keep_going, as_json, more, save_schedule)


def _alone(context: click.Context, option: str, others: Iterable[str]) -> None:
    """Options that mean nothing beside `option` are a mistake of whoever gave them."""
    for name in others:
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT:
            raise click.UsageError(f"--{name.replace('_', '-')} does not go with {option}")


def _replay(path: Path, context: click.Context, trace: Path | None, as_json: bool) -> None:
    """What a schedule file says."""
    from smartbft.testing.schedule import load_schedule

    _alone(context, "--schedule: the file says it all", sorted(set(context.params) - _BESIDE_A_SCHEDULE))
    schedule = load_schedule(path)
    _run_one(schedule.options, schedule, trace, as_json)


def _save(options: SimulationOptions, failure: Failure | None, path: Path | None, more: str = "") -> None:
    """Write a run to a file, if that is wanted."""
    from smartbft.testing import Simulation
    from smartbft.testing.schedule import Schedule

    if path is not None:
        fails = "" if failure is None else f"{failure.promise}: {failure.message}"
        path.write_bytes(Schedule(options, Simulation(options).scenario, fails).encode())
        command = f"smartbft sim --schedule {shlex.quote(str(path))}{more}"
        say(f"schedule written to {path}: {command!r} runs it again")


def _shrink(options: SimulationOptions, seeds: int, more: str, save_schedule: Path | None) -> None:
    """The first seed that fails, made as small as it gets."""
    from smartbft.testing import run_campaign
    from smartbft.testing.shrinking import shrink

    with seeds_progress(seeds) as show:
        result = run_campaign(options, seeds, progress=lambda now: show(now.seeds, now.seeds_per_second))
    if not result.failures:
        click.echo(f"{_seeds(result.seeds)} from {options.seed}: 0 failed, nothing to shrink")
        return
    say(f"seed {result.failures[0].options.seed} fails; looking for the smallest run that fails like it")
    failure = shrink(result.failures[0])
    click.echo(f"FAILED {failure.promise}: {failure.message}")
    click.echo(f"  repeat with: {failure.command}{more}")
    _save(failure.options, failure, save_schedule, more)
    raise CheckFailed(f"seed {failure.options.seed} failed")


def _planted(name: str | None, jobs: int) -> AbstractContextManager[None]:
    from smartbft.testing.mutants import MUTANTS

    if name is None:
        return nullcontext()
    if jobs != 1:
        raise click.UsageError("--mutant changes this process only: use it without --jobs")
    for mutant in MUTANTS:
        if mutant.name == name:
            return mutant.plant()
    raise click.UsageError(f"no mutant is called '{name}': see 'smartbft sim --mutant list'")


def _list_mutants(as_json: bool) -> None:
    from smartbft.testing.mutants import MUTANTS

    if as_json:
        print_json([{"name": mutant.name, "rule": mutant.rule, "seeds": mutant.seeds} for mutant in MUTANTS])
    else:
        print_table(("mutant", "seeds", "what it breaks"), [(one.name, one.seeds, one.rule) for one in MUTANTS])


def _list_attacks(as_json: bool) -> None:
    from smartbft.testing.byzantine import ATTACKS

    found = [("any", "Up to three that each seed chooses."), ("keys", "Two or three on consensus keys, and others.")]
    for name, attack in ATTACKS.items():
        words = " ".join((attack.__doc__ or "").split())
        found.append((name, words.partition(". ")[0].rstrip(".") + "."))
    if as_json:
        print_json([{"name": name, "does": does} for name, does in found])
    else:
        print_table(("attack", "what it does"), found)


def _repeat(
    options: SimulationOptions, trace: Path | None, as_json: bool, save_schedule: Path | None, more: str
) -> None:
    """One seed."""
    _save(options, None, save_schedule, more)
    _run_one(options, None, trace, as_json)


def _run_one(options: SimulationOptions, schedule: Schedule | None, trace: Path | None, as_json: bool) -> None:
    """One run: its report, its trace, or the way it fails."""
    from smartbft.testing import PropertyViolation, Simulation

    scenario = None if schedule is None else schedule.scenario
    simulation = Simulation(options, scenario=scenario, text=trace is not None)
    try:
        report = simulation.run()
    except PropertyViolation as violation:
        say(simulation.scenario.summary())
        raise CheckFailed(f"seed {options.seed}: {violation} (trace {simulation.trace.digest()})") from None
    finally:
        if trace is not None:
            trace.write_text("".join(f"{line}\n" for line in simulation.trace.lines()))
            say(f"trace written to {trace}")
    if as_json:
        print_json(dataclasses.asdict(report))
    else:
        _print_report(report)


def _print_report(report: SimulationReport) -> None:
    click.echo(f"seed {report.options.seed}: {report.scenario}")
    click.echo(
        f"{report.instances} instances, {report.requests} requests, {report.crashes} crashes, "
        f"{report.leaders_replaced} leaders replaced, {report.events} events, "
        f"{report.virtual_seconds:.3f} virtual seconds"
    )
    if report.convicted:
        click.echo(f"evidence against {report.convicted} faulty replica{'s' if report.convicted > 1 else ''}")
    click.echo(
        f"clients: {report.retransmissions} retransmissions, longest wait {report.longest_wait_seconds:.3f} s, last "
        f"answer {report.healed_seconds:.3f} s after healing"
    )
    click.echo(f"trace {report.trace_hash}")


def _campaign(
    options: SimulationOptions,
    seeds: int,
    jobs: int,
    keep_going: bool,
    as_json: bool,
    more: str,
    save_schedule: Path | None,
) -> None:
    """Many seeds, with a progress line."""
    from smartbft.testing import run_campaign

    with seeds_progress(seeds, quiet=as_json) as show:
        result = run_campaign(
            options,
            seeds,
            jobs=jobs,
            keep_going=keep_going,
            progress=lambda now: show(now.seeds, now.seeds_per_second),
        )
    if as_json:
        print_json({**dataclasses.asdict(result), "seeds_per_second": result.seeds_per_second})
    else:
        _print_campaign(result, options, more)
    if result.failures:
        _save(result.failures[0].options, result.failures[0], save_schedule, more)
        raise CheckFailed(f"{len(result.failures)} of {_seeds(result.seeds)} failed")


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _print_campaign(result: CampaignResult, options: SimulationOptions, more: str) -> None:
    click.echo(
        f"{_seeds(result.seeds)} from {options.seed}: {len(result.failures)} failed; {result.instances} instances, "
        f"{result.requests} requests, {result.crashes} crashes, {result.leaders_replaced} leaders replaced, "
        f"{result.virtual_seconds:.0f} virtual seconds"
    )
    if options.byzantine or options.twins or options.mutations:
        click.echo(f"evidence against a faulty replica in {result.convicting} of {_seeds(result.seeds)}")
    click.echo(
        f"clients: {result.retransmissions} retransmissions, longest wait {result.longest_wait_seconds:.3f} virtual "
        "seconds"
    )
    per_core = result.seeds / result.processor_seconds if result.processor_seconds else 0.0
    click.echo(f"{result.seeds_per_second:.1f} seeds per second; {per_core:.1f} per second of processor time")
    for failure in result.failures:
        click.echo(f"FAILED {failure.promise}: {failure.message}")
        click.echo(f"  repeat with: {failure.command}{more}")
