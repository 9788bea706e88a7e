"""What faults cost: the pause when the leader dies, throughput under a slow leader, and beside clients that misbehave.

python benchmarks/faults.py
python benchmarks/faults.py --only killed --kills 9 --json
python benchmarks/faults.py --only "client: flood" --only "client: gaps" --seconds 5 --repeat 5
"""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

sys.path.insert(0, str(Path(__file__).parent.parent))
from benchmarks.bad_clients import ATTACKS, CONNECTING
from smartbft.cli.output import print_json, print_rows, print_table, say
from smartbft.cli.progress import Progress
from smartbft.cli.run import run
from smartbft.config import ReplicaConfig
from smartbft.measurement.chaos import ChaosRun
from smartbft.measurement.cluster import Measurement, Run, Until, as_dict
from smartbft.measurement.faults import Faults
from smartbft.measurement.machine import description
from smartbft.measurement.processes import ProcessCluster, workspace
from smartbft.measurement.report import context, milliseconds
from smartbft.measurement.scenario import Scenario
from smartbft.runtime.client import AsyncClient
from smartbft.runtime.load import LoadGenerator
from smartbft.testnet import Testnet
from smartbft.types import Parameters

HERE = Path(__file__).parent
LEADER_KILLED = "leader killed"
# A slow leader keeps each proposal back for so much of the request timeout, or of the proposal timeout.
JUST_UNDER_THE_TIMEOUT = 0.9
# Requests in a batch of a leader that proposes at once, but little.
TINY_BATCHES = (1, 8)
# Proposals that a request waits for, where each leaves out what was not there so many proposals before.
WAITING_FOR_PROPOSALS = (2, 3)
# Request timeouts until a leader just under the request timeout is replaced: four late proposals, and a reserve.
ADAPTATION_TIMEOUTS = 5
# What a run takes beside its load: requests are signed ahead, replicas start and stop, logs are checked.
AROUND_A_LOAD_SECONDS = 5.0
# With these request timeouts: the default, and a short one.
TIMEOUTS = (Parameters().request_timeout, 250_000)


class LeadersDie(ChaosRun):
    """The leader is killed, started again, and then the next one; `kills` times."""

    kills = 1

    async def faults(self, faults: Faults) -> None:
        for _ in range(self.kills):
            await faults.kill_leader()


class SlowLeaderCluster(ProcessCluster):
    """The first leader is slow in a way that `slow_leader.py` knows, with its measure."""

    way: tuple[str, int | str] = ("delay", 0)

    def command(self, config: ReplicaConfig) -> list[str]:
        genesis = self.network.genesis
        if config.replica != genesis.view.leader(0):
            return super().command(config)
        return [sys.executable, str(HERE / "slow_leader.py"), str(config.home), *map(str, self.way)]


class SlowLeaderRun(Run):
    """A load under a leader that is too slow, or nearly."""

    way: tuple[str, int | str] = ("delay", 0)

    def _make_cluster(self, network: Testnet) -> ProcessCluster:
        cluster = SlowLeaderCluster(network)
        cluster.way = self.way
        return cluster


class BadClientRun(Run):
    """A load beside a client that misbehaves, in a process of its own."""

    attack = ""

    @contextlib.asynccontextmanager
    async def _beside(self, generator: LoadGenerator, client: AsyncClient) -> AsyncIterator[Until]:
        command = [sys.executable, str(HERE / "bad_clients.py"), str(self._network.folder / "genesis.toml")]
        attacker = await asyncio.create_subprocess_exec(
            *command, self.attack, self._scenario.transport, stdout=asyncio.subprocess.PIPE
        )
        try:
            if attacker.stdout is not None:  # what its start costs is not part of the attack
                await attacker.stdout.readline()
            yield None
            if attacker.returncode is not None:
                raise click.ClickException(f"the attacker ended by itself, with {attacker.returncode}")
        finally:
            with contextlib.suppress(ProcessLookupError):
                attacker.kill()
            await attacker.wait()


def measure(kind: type[Run], scenario: Scenario, quiet: bool) -> Measurement:
    """One run."""
    with workspace(prefix="smartbft-bench-") as work, Progress(scenario, quiet=quiet) as progress:
        if issubclass(kind, ChaosRun):
            return run(kind(scenario, work, progress.report, progress.note).measure())
        return run(kind(scenario, work, progress.report).measure())


def slow_ways(parameters: Parameters) -> Iterator[tuple[str, tuple[str, int | str]]]:
    """How a leader is slow: in words, and for `slow_leader.py`."""
    for limit in (parameters.request_timeout, parameters.proposal_timeout):
        delay = int(JUST_UNDER_THE_TIMEOUT * limit)
        yield f"proposals after {delay / 1e6:g} s", ("delay", delay)
    for requests in TINY_BATCHES:
        yield f"{requests} in a batch", ("batch", requests)
    # What is older may not be left out again and again.
    age = int(JUST_UNDER_THE_TIMEOUT * parameters.proposal_timeout * 3 / 4)
    yield f"each request after {age / 1e6:g} s", ("age", age)
    # Nearly late, and without those who asked last.
    delay = int(JUST_UNDER_THE_TIMEOUT * parameters.proposal_timeout)
    for proposals in WAITING_FOR_PROPOSALS:
        yield f"each request waits for {proposals} proposals after {delay / 1e6:g} s", ("steps", f"{delay}:{proposals}")
    # Nearly half of the time: then nobody is told of anything.
    yield f"each request waits for 2 proposals after {delay / 2e6:g} s", ("steps", f"{delay // 2}:2")


def cases(base: Scenario) -> Iterator[tuple[str, type[Run], Scenario]]:
    """Name, run and scenario; those called ``fault-free`` are what the ones after them are related to."""
    for timeout in TIMEOUTS:
        parameters = Parameters(request_timeout=timeout)
        # What is measured is the throughput after the adaptation, where there is something to adapt to.
        adaptation = ADAPTATION_TIMEOUTS * timeout / 1_000_000
        scenario = replace(base, parameters=parameters, warm_up=base.warm_up + adaptation)
        yield f"fault-free, timeout {timeout / 1e6:g} s", Run, scenario
        for words, way in slow_ways(parameters):
            kind = type("SlowLeader", (SlowLeaderRun,), {"way": way})
            yield f"slow leader, timeout {timeout / 1e6:g} s, {words}", kind, scenario
    yield "fault-free", Run, base
    for attack in ATTACKS:
        if attack not in CONNECTING:
            yield f"client: {attack}", type("Attacked", (BadClientRun,), {"attack": attack}), base
    secured = replace(base, transport="tls")
    yield "fault-free, TLS", Run, secured
    for attack in CONNECTING:
        yield f"client: {attack}", type("Attacked", (BadClientRun,), {"attack": attack}), secured


def choose(names: Sequence[str], only: Sequence[str]) -> set[str]:
    """The names that are meant: the one that is written like this, or all that contain it.

    Raises:
        click.UsageError: there is none.
    """
    chosen: set[str] = set()
    for part in only:
        found = {part} & set(names) or {name for name in names if part in name}
        if not found:
            raise click.UsageError(f"no case's name contains '{part}': --help lists them")
        chosen |= found
    return chosen if only else set(names)


def related(results: dict[str, list[Measurement]]) -> Iterator[dict[str, Any]]:
    """Medians of every case, beside those of the fault-free case before it."""
    before: tuple[float, float] = (0.0, 0.0)
    for name, runs in results.items():
        rate = statistics.median(each.load.transactions_per_second for each in runs)
        p99 = statistics.median(each.load.latency(0.99) for each in runs)
        if name.startswith("fault-free"):
            before = (rate, p99)
        yield {
            "case": name,
            "transactions_per_second": rate,
            "relative": rate / before[0] if before[0] else None,
            "p99_seconds": p99,
            "p99_relative": p99 / before[1] if before[1] else None,
            "passed": all(each.passed for each in runs),
        }


def leaders_die(base: Scenario, kills: int, quiet: bool) -> Measurement:
    """The pauses after `kills` leaders were killed, one after the other."""
    kind = type("SomeLeadersDie", (LeadersDie,), {"kills": kills})
    # Signed ahead for this long; the load ends when all faults are repaired.
    return measure(kind, replace(base, seconds=5.0 + 5.0 * kills, name=LEADER_KILLED), quiet)


def print_pauses(measurement: Measurement) -> None:
    """Median and all of the times without progress."""
    pauses = sorted(fault.without_progress for fault in measurement.faults)
    timeout = measurement.scenario.parameters.request_timeout / 1e6
    print_rows(context(measurement), "what was measured")
    rows = [
        ("time without progress, median", f"{statistics.median(pauses):.2f} s"),
        ("relative to the request timeout", f"{statistics.median(pauses) / timeout:.2f} of {timeout:g} s"),
        ("all", ", ".join(f"{pause:.2f}" for pause in pauses)),
    ]
    print_rows(rows, f"SIGKILL of the leader, {len(pauses)} times")


def print_related(results: dict[str, list[Measurement]]) -> None:
    """The table of the other cases."""
    rows = [
        (
            found["case"],
            f"{found['transactions_per_second']:,.0f}",
            f"{found['relative']:.2f}",
            milliseconds(found["p99_seconds"]),
            f"{found['p99_relative']:.2f}",
            "yes" if found["passed"] else "NO",
        )
        for found in related(results)
    ]
    last = next(iter(results.values()))[-1]
    print_rows(context(last), "what was measured")
    columns = ("case", "per second", "of fault-free", "p99", "of fault-free", "checks")
    print_table(columns, rows, "throughput and latency of the correct clients, medians")


def run_cases(chosen: Sequence[tuple[str, type[Run], Scenario]], repeat: int, quiet: bool) -> dict[str, Any]:
    """Every case `repeat` times, interleaved."""
    results: dict[str, list[Measurement]] = {name: [] for name, _, _ in chosen}
    planned = [scenario.warm_up + scenario.seconds + AROUND_A_LOAD_SECONDS for _, _, scenario in chosen] * repeat
    began = time.monotonic()
    for number, (name, kind, scenario) in enumerate([*chosen] * repeat):
        if not quiet:
            pace = (time.monotonic() - began) / sum(planned[:number]) if number else 1.0
            minutes = pace * sum(planned[number:]) / 60
            say(f"{name}: run {number + 1} of {len(planned)}; all take {minutes:.1f} minutes more")
        results[name].append(measure(kind, replace(scenario, name=name), quiet))
    return results


def case_names() -> list[str]:
    """The names of all cases, in the order in which they are measured."""
    return [LEADER_KILLED, *(name for name, _, _ in cases(Scenario()))]


@click.command(epilog="Cases:\n\n\b\n" + "\n".join(case_names()))
@click.option("--seconds", type=click.FloatRange(0.5, 600), default=4.0, show_default=True, help="Of each load.")
@click.option("--warm-up", type=click.FloatRange(0, 60), default=1.0, show_default=True)
@click.option("--repeat", type=click.IntRange(1, 100), default=3, show_default=True)
@click.option("--kills", type=click.IntRange(1, 100), default=5, show_default=True, help="Leaders killed.")
@click.option("--clients", type=click.IntRange(1, 16384), default=256, show_default=True)
@click.option("--window", type=click.IntRange(1, 16384), default=512, show_default=True)
@click.option("--only", multiple=True, metavar="CASE", help="Only this case, or those whose names contain it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def main(
    seconds: float,
    warm_up: float,
    repeat: int,
    kills: int,
    clients: int,
    window: int,
    only: tuple[str, ...],
    as_json: bool,
) -> None:
    """Measure what faults cost. A case is measured together with the fault-free one that it is related to."""
    base = Scenario(seconds=seconds, warm_up=warm_up, clients=clients, window=window)
    wanted = choose(case_names(), only)
    every = list(cases(base))
    references = [max(i for i in range(len(every)) if i <= k and every[i][1] is Run) for k in range(len(every))]
    keep = {references[k] for k, case in enumerate(every) if case[0] in wanted}
    chosen = [case for k, case in enumerate(every) if case[0] in wanted or k in keep]
    report: dict[str, Any] = {"machine": description()}
    if LEADER_KILLED in wanted:
        killed = leaders_die(base, kills, as_json)
        report[LEADER_KILLED] = as_dict(killed)
        if not as_json:
            print_pauses(killed)
    if chosen:
        results = run_cases(chosen, repeat, as_json)
        report["cases"] = list(related(results))
        if not as_json:
            print_related(results)
    if as_json:
        print_json(report)


if __name__ == "__main__":
    main()
