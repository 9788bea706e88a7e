"""Histories of clients of a cluster under attack, and campaigns that check each of them (promise A6).

A history comes from a key-value store in the simulator: the seed's faults (loss, crashes, isolations, clock jumps), and
on top of them attacks on whoever leads (it is killed or cut off from its peers, or the cluster falls apart), and `f`
replicas that answer every request with one and the same lie before the others can tell the truth. Clients give up on
slow operations, whose outcome is then unknown to them. One history in five comes from seven replicas.
"""

from __future__ import annotations

import math
import os
import random
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from smartbft._fastpath.frames import REPLY, frame
from smartbft._fastpath.pool import EXECUTED, join_requests, request_digests
from smartbft.apps import key_value
from smartbft.errors import SmartBFTError
from smartbft.limits import FRAME_HEADER_BYTES
from smartbft.testing.audit import audit
from smartbft.testing.clients import SimulatedClient
from smartbft.testing.history import History, Operation
from smartbft.testing.linearizability import KeyValueModel, LinearizabilityReport, check_linearizable
from smartbft.testing.options import PERSISTENCE_LEVELS, SimulationOptions
from smartbft.testing.parallel import outcomes
from smartbft.testing.replica import EPOCH
from smartbft.testing.simulation import FINISHED_EVERY, Simulation

#: What a history has at least, so that it counts for promise A6.
LEAST_OPERATIONS = 200
#: Clients that believe anything would go on for ever.
MOST_OPERATIONS = 4_000
_KEYS = 4
_CLIENTS = 4
_IN_FLIGHT = 3
_INSTANCES = 260
_ATTACKS = 8
_FRAME = struct.Struct("<IB")
_REPLY = struct.Struct("<HBBIQQ32s")


def history_options(seed: int) -> SimulationOptions:
    """What is simulated for the history of a seed; votes survive crashes, for anybody may crash."""
    return SimulationOptions(
        seed=seed,
        n=7 if seed % 5 == 4 else 4,
        instances=_INSTANCES,
        clients=_CLIENTS,
        in_flight=_IN_FLIGHT,
        signatures="keyed-hash",
        persistence=("sync", "sync", "async")[seed % 3],
        faulty=2 if seed % 5 == 4 else 1,  # those that lie to clients
    )


def store_operation(draw: random.Random, client: int, number: int) -> bytes:
    """Writes (each with a value of its own), reads and deletions of a few keys; other clients have keys of theirs."""
    if client >= _CLIENTS:
        # What misbehaving clients do is in no history.
        return key_value.put(b"other-%d" % client, b"%d" % number)
    key = b"key-%d" % int(_KEYS * draw.random())
    kind = draw.random()
    if kind < 0.5:
        return key_value.put(key, b"%d.%d.%06x" % (client, number, draw.getrandbits(24)))
    return key_value.get(key) if kind < 0.9 else key_value.delete(key)


class _Unchecked:
    """In place of the checkers that look inside replicas: clients' answers alone must show that something is wrong."""

    def __getattr__(self, name: str) -> Any:
        return _Unchecked()

    def __call__(self, *_: Any) -> None:
        return None

    def __len__(self) -> int:
        return 0


class HistorySimulation(Simulation):
    """A key-value store under attack, with a history of its honest clients.

    Args:
        seed: decides everything.
        clients_only: do without every check that looks inside replicas.

    Attributes:
        recorded: the history.
        regency: the highest regency that was installed.
        attacks: how many there were.
        lies: false replies sent.
    """

    def __init__(self, seed: int, *, clients_only: bool = False) -> None:
        own = random.Random(f"smartbft history {seed}")  # noqa: S311 - schedules, not secrets
        self.recorded = History(patience=own.choice((0, 200_000, 600_000)))
        super().__init__(
            history_options(seed),
            application=key_value.KeyValueStore,
            operation=store_operation,
            history=self.recorded,
        )
        self._clients_only = clients_only
        if clients_only:
            self.checkers = _Unchecked()  # type: ignore[assignment]
        self._own = own
        self._lied_to: set[tuple[int, int, bytes]] = set()  # membership tests only: never iterated
        self.regency = 0
        self.attacks = 0
        self.lies = 0
        for liar in own.sample(self.hosts, self.view.f):
            liar.deliver_requests = partial(self._lie, liar.id, liar.deliver_requests)  # type: ignore[method-assign]

    def record(self) -> Sequence[Operation]:
        """Run to the end; returns the history.

        Raises:
            SmartBFTError: a promise other than linearizability was broken.
        """
        self.advance(0)
        self._plan_attack()
        while not (self.healed and self._is_finished()):
            self.advance(FINISHED_EVERY)
        self._look_at_regencies()
        if not self._clients_only:
            audit(self)
        return self.recorded.operations()

    def killed(self) -> int:
        """Crashes of single replicas so far."""
        return self._report().crashes

    def wants_requests(self) -> bool:
        """As for every simulation, up to a bound."""
        return super().wants_requests() and self.answered < MOST_OPERATIONS

    # The replicas that lie to clients

    def _lie(self, liar: int, deliver: Callable[[tuple[int, bytes]], None], packet: tuple[int, bytes]) -> None:
        """Answer requests at once with what its sender might believe; then go on as an honest replica."""
        source, frames = packet
        client = self.clients[source - 1]
        for request in _requests(frames) if isinstance(client, SimulatedClient) else ():
            digest = request_digests(self.chain_id, join_requests([request]))
            if (liar, source, digest) in self._lied_to:
                continue
            self._lied_to.add((liar, source, digest))
            self.lies += 1
            # The same from every liar, down to the last bit.
            false = b"\0\0" if digest[0] < 128 else b"\0\1" + b"0.1.%06x" % int.from_bytes(digest[:3], "little")
            level = PERSISTENCE_LEVELS[self.scenario.persistence]
            head = _REPLY.pack(liar, EXECUTED, level, 0, 1 + digest[1], EPOCH, digest)
            self.network.send(liar, client.endpoint, client.receive, (liar, frame(REPLY, head + false)))
        deliver(packet)

    # Attacks on leaders

    def _plan_attack(self) -> None:
        if self.attacks < _ATTACKS:
            self.scheduler.after(self._own.randint(1_000, 400_000), self._attack)

    def _attack(self, _: None) -> None:
        if self.healed:
            return
        self._look_at_regencies()
        self.attacks += 1
        leader = self._leader()
        # Long enough, more often than not, for the others to replace it.
        duration = int(self.scenario.parameters.request_timeout * self._own.uniform(0.2, 4))
        kind = self._own.randrange(4)
        if kind == 0:
            self.crash(leader, downtime=duration, power=self.scenario.persistence == "sync")
        elif kind == 1:
            self.isolate(leader, duration)
        elif kind == 2:
            other = (leader + 1 + self._own.randrange(len(self.hosts) - 1)) % len(self.hosts)
            self.isolate(leader, duration)
            self.isolate(other, duration)
        else:
            self.crash(*self.replica_ids, downtime=duration // 4, power=self.scenario.persistence == "sync")
        self._plan_attack()

    def _leader(self) -> int:
        running = [host.replica.core for host in self.hosts if host.replica is not None]
        return max(running, key=lambda core: core.regency).leader if running else 0

    def _look_at_regencies(self) -> None:
        running = [host.replica.core.regency for host in self.hosts if host.replica is not None]
        self.regency = max([self.regency, *running])


def _requests(frames: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(frames):
        length, _ = _FRAME.unpack_from(frames, at)
        end = at + FRAME_HEADER_BYTES - 1 + length
        yield frames[at + FRAME_HEADER_BYTES : end]
        at = end


@dataclass(frozen=True, slots=True)
class HistoryOutcome:
    """One seed of a campaign.

    Attributes:
        seed: of the history.
        linearizability: what was checked; None if something failed.
        regency: the highest regency installed: how often leaders were replaced.
        attacks, crashes, lies: what clients had to put up with.
        promise, failure: what was broken, and how that showed; empty if nothing was.
    """

    seed: int
    linearizability: LinearizabilityReport | None
    regency: int
    attacks: int
    crashes: int
    lies: int
    promise: str = ""
    failure: str = ""

    @property
    def command(self) -> str:
        """The command line that repeats it."""
        return f"smartbft histories --seeds 1 --first-seed {self.seed}"


def check_history(seed: int, *, clients_only: bool = False) -> HistoryOutcome:
    """Record and check the history of one seed; whatever the run raises is in the outcome."""
    simulation = HistorySimulation(seed, clients_only=clients_only)
    report, promise, failure = None, "", ""
    try:
        try:
            simulation.record()
        finally:
            # A run that stops half-way has shown its clients something too.
            report = check_linearizable(simulation.recorded.operations(), KeyValueModel())
    except SmartBFTError as error:
        report, promise, failure = None, getattr(error, "promise", type(error).__name__), str(error)
    return HistoryOutcome(
        seed,
        report,
        simulation.regency,
        simulation.attacks,
        simulation.killed(),
        simulation.lies,
        promise,
        failure,
    )


@dataclass(slots=True)
class HistoryCampaign:
    """Sums over histories.

    Attributes:
        histories: how many were checked.
        counted: how many of them had enough operations to count for promise A6.
        operations, indeterminate, configurations: see `LinearizabilityReport`.
        replaced: histories in which the leader was replaced.
        regencies: regency changes, summed.
        attacks, crashes, lies: see `HistoryOutcome`.
        failures: the histories that are not linearizable, or whose run broke another promise.
    """

    histories: int = 0
    counted: int = 0
    operations: int = 0
    indeterminate: int = 0
    configurations: int = 0
    replaced: int = 0
    regencies: int = 0
    attacks: int = 0
    crashes: int = 0
    lies: int = 0
    failures: tuple[HistoryOutcome, ...] = ()

    def add(self, outcome: HistoryOutcome) -> None:
        """Count one history."""
        self.histories += 1
        if outcome.linearizability is None:
            self.failures = (*self.failures, outcome)
            return
        found = outcome.linearizability
        self.counted += found.operations >= LEAST_OPERATIONS
        self.operations += found.operations
        self.indeterminate += found.indeterminate
        self.configurations += found.configurations
        self.replaced += outcome.regency > 0
        self.regencies += outcome.regency
        self.attacks += outcome.attacks
        self.crashes += outcome.crashes
        self.lies += outcome.lies


def run_histories(
    seeds: int,
    *,
    first: int = 0,
    jobs: int = 1,
    seconds: float = math.inf,
    progress: Callable[[HistoryCampaign], None] = lambda _: None,
) -> HistoryCampaign:
    """Check the histories of the seeds ``first``, ``first + 1``, ...

    Args:
        seeds: how many.
        first: the first one.
        jobs: processes; 1 runs everything in this one.
        seconds: no history is begun later than this; ``first`` plus the histories checked is where to go on.
        progress: called after every history.
    """
    campaign = HistoryCampaign()
    end = time.monotonic() + seconds
    for outcome in outcomes(check_history, range(first, first + seeds), min(jobs, os.cpu_count() or 1)):
        campaign.add(outcome)
        progress(campaign)
        if time.monotonic() > end:
            break
    return campaign
