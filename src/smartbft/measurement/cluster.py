"""One run of a cluster of replica processes under load: set up, measure, stop, check."""

from __future__ import annotations

import asyncio
import math
import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

from smartbft._fastpath import coin as native_coin
from smartbft._fastpath.pool import EXECUTED
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import LocalProtocolError
from smartbft.measurement import checks, cpu
from smartbft.measurement.faults import FaultFigures
from smartbft.measurement.machine import VerificationSample, verification_limit, verification_rate, verification_sample
from smartbft.measurement.processes import ProcessCluster, Workspace, running
from smartbft.measurement.requests import MINT, SPEND, UNSIGNED, Job, distribute
from smartbft.measurement.scenario import Scenario
from smartbft.measurement.signing import sign
from smartbft.measurement.status import Facts, ask_all, connect_to_any, settled
from smartbft.runtime.client import AsyncClient
from smartbft.runtime.load import CLOSED_LOOP, LoadGenerator, LoadResult, Pace, Traffic
from smartbft.testnet import Testnet, create_testnet

# Called with a phase ("starting", "load", ...), the seconds in it, and the transactions completed so far.
Report = Callable[[str, float, int], None]
Until = asyncio.Future[None] | None

_SETTLE_SECONDS = 20.0
# Unsigned requests that all replicas together never exceeded, on two cores.
_UNSIGNED_PER_SECOND = 400_000
# More than this part of the time of all cores never went into signature checks; so much traffic is signed ahead.
_MOST_EFFICIENT = 0.85
# Request digests and log records of the measured load may well fill this much memory and disk, so it is bounded.
_MAX_REQUESTS = 1_500_000


@dataclass
class Sample:
    """The replicas at one moment: CPU time of their threads, and, a little later, what they say of themselves.

    Attributes:
        pids: their processes.
        completed: transactions completed when the replicas had answered.
    """

    pids: dict[int, int]
    threads: dict[int, cpu.Snapshot]
    facts: dict[int, Facts]
    completed: int


@dataclass(frozen=True)
class ReplicaFigures:
    """What one replica did between the warm-up and the end of the load.

    Attributes:
        cpu: of its threads.
        signature_checks: requests whose signature it checked.
        instances: consensus instances decided, and `transactions`: completed by the clients meanwhile.
        log: what its log says at the end (see `LogStatistics`); `record_bytes`, `records`, `syncs` and `sync_seconds`
            are those of the interval.
        resident_bytes: memory at the end.
    """

    cpu: cpu.CpuUse
    signature_checks: int
    instances: int
    transactions: int
    log: dict[str, float]
    resident_bytes: int


@dataclass(frozen=True)
class Measurement:
    """Everything that a run tells. What relates CPU time to transactions is 0 for a run with faults.

    Attributes:
        replicas: figures of those that ran from the beginning to the end of the load.
        verification_rates: signatures per second of the whole machine, before and after the load; empty if unsigned.
        faults: what was done to the replicas during the load, and what it cost.
    """

    scenario: Scenario
    load: LoadResult
    replicas: dict[int, ReplicaFigures]
    checks: list[checks.Check]
    verification_rates: list[float] = field(default_factory=list)
    faults: list[FaultFigures] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """All checks hold."""
        return all(check.passed for check in self.checks)

    @property
    def mean_batch(self) -> float:
        """Transactions per consensus instance."""
        instances = sum(figures.instances for figures in self.replicas.values())
        return sum(figures.transactions for figures in self.replicas.values()) / instances if instances else 0.0

    @property
    def serial_microseconds(self) -> float:
        """Serial cost: CPU microseconds per transaction of the busiest thread outside the verify and log pools."""
        busiest = max((figures.cpu.busiest for figures in self.replicas.values()), default=0.0)
        return 1e6 * busiest / self.load.completed if self.load.completed and not self.faults else 0.0

    @property
    def core_microseconds(self) -> float:
        """CPU microseconds of all replicas and the clients per transaction; unlike the throughput, hardly disturbed by
        whatever else the machine does.
        """
        spent = sum(figures.cpu.total for figures in self.replicas.values()) + self.load.client_cpu_seconds
        return 1e6 * spent / self.load.completed if self.load.completed and not self.faults else 0.0

    @property
    def verify_share(self) -> float:
        """The part of that time that goes into signature checks: what `E` would be if all cores were busy."""
        verify = sum(figures.cpu.verify for figures in self.replicas.values())
        return 1e6 * verify / self.load.completed / self.core_microseconds if self.core_microseconds else 0.0

    @property
    def efficiency(self) -> float:
        """`E`: throughput over what the machine could do if it only checked every signature on each replica."""
        if not self.verification_rates or self.faults:
            return 0.0
        rate = sum(self.verification_rates) / len(self.verification_rates)
        return self.load.transactions_per_second / (rate / len(self.replicas))


async def measure(
    scenario: Scenario, work: Workspace, report: Report | None = None, *, check: bool = True
) -> Measurement:
    """Run `scenario` on a new test network in the folder of `work`.

    Args:
        report: told about progress.
        check: also read the logs afterwards and check them.

    Raises:
        NotEnoughReplies, Indeterminate: the cluster did not start, or stopped answering.
    """
    return await Run(scenario, work, report, check=check).measure()


class Run:
    """The steps of one run and what they hand to each other (arguments as for `measure`).

    `smartbft.measurement.one_replica` overrides which of the replicas are processes, and who stands in for the others.

    Attributes:
        cluster: the replica processes, once they were started.
    """

    def __init__(
        self, scenario: Scenario, work: Workspace, report: Report | None = None, *, check: bool = True
    ) -> None:
        self.cluster: ProcessCluster | None = None
        self._scenario = scenario
        self._work = work
        self._report = report or _silent
        self._check = check
        self._seeds = [os.urandom(32) for _ in range(scenario.clients)]
        self._signers = [Ed25519Signer(seed) for seed in self._seeds]
        self._network = self._make_network()
        self._session = time.time_ns() // 1000
        self._minted = 0
        self._acknowledged = b""

    # --- who takes part ---

    def _processes(self) -> Testnet:
        """The part of the network that runs as replica processes: all of it."""
        return self._network

    def _make_cluster(self, network: Testnet) -> ProcessCluster:
        return ProcessCluster(network)

    def _companions(self) -> AbstractAsyncContextManager[object]:
        """Whatever else has to run while the replicas do."""
        return nullcontext()

    def _generator(self, lanes: list[Traffic], window: int) -> LoadGenerator:
        return self._make_generator(lanes, window)

    def _make_generator(
        self, lanes: list[Traffic], window: int, *, persistent: bool = False, pace: Pace | None = None
    ) -> LoadGenerator:
        scenario = self._scenario
        return LoadGenerator(
            self._network.genesis,
            lanes,
            window=window,
            needed=self._replies_needed(),
            tls=scenario.transport == "tls",
            model=scenario.model,
            persistent=persistent,
            pace=pace,
        )

    def _replies_needed(self) -> int:
        return self._scenario.replies_needed

    # --- the steps ---

    async def measure(self) -> Measurement:
        """Do all of it. Call it once."""
        scenario = self._scenario
        sample = None if scenario.load == UNSIGNED else verification_sample(self._signers, scenario.request_bytes)
        cluster = self.cluster = self._make_cluster(self._processes())
        members = [config.replica for config in cluster.network.replicas]
        self._report("signing", 0.0, 0)
        setup, lanes = await self._sign(sample)
        self._report("starting", 0.0, 0)
        async with running(cluster, self._work.lifeline), self._companions(), self._client() as client:
            await connect_to_any(client, _SETTLE_SECONDS, members)
            rates = self._verification_rate(sample)
            if setup is not None:
                self._report("minting", 0.0, 0)
                await self._send_setup(setup)
            load, samples = await self._load(cluster, client, lanes)
            final = await settled(client, _SETTLE_SECONDS, members)
            rates += self._verification_rate(sample)
            memory = {replica.replica: cpu.resident_bytes(replica.pid) for replica in cluster.replicas}
            self._report("stopping", 0.0, load.total)
        if scenario.persistence != "memory":
            self._report("checking", 0.0, load.total)
        found = self._checks(load, final, cluster.exit_codes) if self._check else []
        # What a process counted is gone with it: there are figures for those that ran all the time.
        same = [replica for replica in memory if samples[0].pids.get(replica) == samples[1].pids.get(replica)]
        figures = {replica: _figures(replica, *samples, memory[replica]) for replica in same}
        return Measurement(scenario, load, figures, found, rates, self._fault_figures())

    def _make_network(self) -> Testnet:
        scenario = self._scenario
        minters = [signer.public_key.hex() for signer in self._signers] if scenario.load == MINT else []
        parameters = scenario.application_parameters(minters)
        if scenario.load == SPEND:
            del parameters["minters"]  # the network's own minter
        return create_testnet(
            self._work.folder / "network",
            scenario.n,
            application=scenario.application,
            application_parameters=parameters,
            parameters=scenario.parameters,
            persistence=scenario.persistence,
            transport=scenario.transport,
            signature_check=scenario.signature_check,
            record_votes=scenario.record_votes,
            application_sync=scenario.application_sync,
            verify_threads=scenario.verify_threads,
            sync_floor_seconds=scenario.sync_floor_seconds,
            log_level="warning",
            chain_name="measurement",
        )

    def _client(self) -> AsyncClient:
        profile = self._network.profile
        return _Asking(profile.genesis, self._network.signer(), transport=profile.transport)

    def _verification_rate(self, sample: VerificationSample | None) -> list[float]:
        return [] if sample is None else [verification_rate(sample, self._scenario.probe_seconds)]

    async def _sign(self, sample: VerificationSample | None) -> tuple[Traffic | None, list[Traffic]]:
        """The setup's and the load's traffic: enough, since each process checks every signature."""
        scenario, chain_id = self._scenario, self._network.genesis.chain_id
        checkers = len(self._processes().replicas)
        possible = _UNSIGNED_PER_SECOND if sample is None else _MOST_EFFICIENT * verification_limit(sample)
        wanted = scenario.transactions or self._requests(possible / checkers)
        rounds = math.ceil(min(wanted, _MAX_REQUESTS) / scenario.clients)
        keys = [signer.public_key for signer in self._signers]
        value = 1 if scenario.load == MINT else rounds + 1
        setup, coins = None, [b""] * len(keys)
        if scenario.load == SPEND:
            distribution = distribute(chain_id, self._network.signer("minter"), self._session, keys, value)
            setup, coins, self._minted = distribution.traffic, distribution.coins, distribution.supply
        job = Job(
            kind=scenario.load,
            chain_id=chain_id,
            session=self._session,
            seeds=self._seeds,
            coins=coins,
            payees=keys[1:] + keys[:1],
            value=value,
            outputs=scenario.outputs,
            operation_bytes=scenario.operation_bytes,
            rounds=rounds,
        )
        return setup, await sign(job, lanes=scenario.model == CLOSED_LOOP)

    def _requests(self, most: float) -> float:
        """How many requests the load needs, if the cluster completes at `most` so many a second."""
        scenario = self._scenario
        return most * (scenario.seconds + scenario.warm_up) + scenario.window

    async def _send_setup(self, setup: Traffic) -> None:
        async with self._generator([setup], self._scenario.parameters.window) as generator:
            result = await generator.run_all()
        self._acknowledged = result.acknowledged

    async def _load(
        self, cluster: ProcessCluster, client: AsyncClient, lanes: list[Traffic]
    ) -> tuple[LoadResult, tuple[Sample, Sample]]:
        scenario = self._scenario
        sampling: list[asyncio.Task[Sample]] = []
        async with (
            self._generator(lanes, scenario.lane_window) as generator,
            self._beside(generator, client) as until,
        ):
            load = await generator.run(
                scenario.seconds,
                scenario.warm_up,
                progress=lambda seconds, completed: self._report("load", seconds, completed),
                at_boundary=lambda: sampling.append(_sample(cluster, client, generator)),
                until=until,
            )
        first, last = await asyncio.gather(*sampling)
        if not load.completed:
            raise LocalProtocolError("nothing was left after the warm-up: all signed traffic was used up; shorten it")
        if scenario.load == MINT:
            self._minted = load.results.get(native_coin.OK, 0)
        return load, (first, last)

    @asynccontextmanager
    async def _beside(self, generator: LoadGenerator, client: AsyncClient) -> AsyncIterator[Until]:
        """What goes on while the load runs. Yields until when it runs at least; None: as long as the scenario says."""
        yield None

    def _fault_figures(self) -> list[FaultFigures]:
        """What was done to the replicas, and to which of them: nothing."""
        return []

    def _lost_logs(self) -> list[int]:
        """The replicas whose log was removed on purpose: none."""
        return []

    def _checks(self, load: LoadResult, final: dict[int, Facts], exit_codes: dict[int, int]) -> list[checks.Check]:
        scenario, genesis = self._scenario, self._network.genesis
        live = {replica: str(facts["digest"]) for replica, facts in final.items()}
        found = [
            checks.all_executed(load.statuses, load.results, EXECUTED, native_coin.OK),
            checks.same_state(live),
            checks.clean_exits(exit_codes),
        ]
        if scenario.persistence == "memory":
            return found
        logs = {
            config.replica: checks.read_log(config.data_folder, genesis, config.replica)
            for config in self._processes().replicas
        }
        found.append(checks.replayed_state(logs, live, self._lost_logs()))
        if scenario.load != UNSIGNED:
            found.append(checks.money_conserved(logs, self._minted))
        found.append(checks.nothing_lost(logs, self._acknowledged + load.acknowledged))
        return found


class _Asking(AsyncClient):
    """A client that only asks for the status, and so needs no quorum."""

    async def __aenter__(self) -> AsyncClient:
        return self


def _sample(cluster: ProcessCluster, client: AsyncClient, load: LoadGenerator) -> asyncio.Task[Sample]:
    """CPU times now; the replicas' own counters as soon as they answer."""
    pids = {replica.replica: replica.pid for replica in cluster.replicas}
    snapshots = {replica: cpu.threads(pid) for replica, pid in pids.items()}

    async def complete() -> Sample:
        facts = await ask_all(client)
        return Sample(pids, snapshots, facts, load.completed)

    return asyncio.ensure_future(complete())


def _figures(replica: int, first: Sample, last: Sample, resident_bytes: int) -> ReplicaFigures:
    before, after = first.facts.get(replica, {}), last.facts.get(replica, {})

    def grown(part: str, name: str) -> float:
        return float(after.get(part, {}).get(name, 0)) - float(before.get(part, {}).get(name, 0))

    log = dict(after.get("log", {}))
    for name in ("record_bytes", "records", "syncs", "sync_seconds"):
        if name in log:
            log[name] = grown("log", name)
    return ReplicaFigures(
        cpu=cpu.use(first.threads[replica], last.threads[replica]),
        signature_checks=round(grown("pool", "signature_checks")),
        instances=after.get("decided", 0) - before.get("decided", 0),
        transactions=last.completed - first.completed,
        log=log,
        resident_bytes=resident_bytes,
    )


def _silent(phase: str, seconds: float, completed: int) -> None:
    """No report."""


def as_dict(measurement: Measurement) -> dict[str, Any]:
    """A measurement for scripts; seconds, bytes and counts."""
    load = measurement.load
    replicas = {
        str(replica): {
            "cpu_seconds": figures.cpu.total,
            "verify_cpu_seconds": figures.cpu.verify,
            "log_cpu_seconds": figures.cpu.log,
            "serial_cpu_seconds": figures.cpu.busiest,
            "serial_thread": figures.cpu.busiest_name,
            "signature_checks": figures.signature_checks,
            "instances": figures.instances,
            "resident_bytes": figures.resident_bytes,
            "log": figures.log,
        }
        for replica, figures in sorted(measurement.replicas.items())
    }
    return {
        "scenario": measurement.scenario.describe(),
        "seconds": load.seconds,
        "transactions": load.completed,
        "transactions_per_second": load.transactions_per_second,
        "latency_seconds": {name: load.latency(q) for name, q in (("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999))},
        "mean_batch": measurement.mean_batch,
        "serial_microseconds_per_transaction": measurement.serial_microseconds,
        "core_microseconds_per_transaction": measurement.core_microseconds,
        "verify_share": measurement.verify_share,
        "verification_rates": measurement.verification_rates,
        "efficiency": measurement.efficiency,
        "client_cpu_seconds": load.client_cpu_seconds,
        "replicas": replicas,
        "faults": [asdict(fault) for fault in measurement.faults],
        "checks": [{"name": c.name, "passed": c.passed, "detail": c.detail} for c in measurement.checks],
        "passed": measurement.passed,
    }
