"""One simulated run: replicas, clients, network, disks and faults from one seed, with every promise checked."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial

from smartbft._fastpath.hashing import derive_key
from smartbft._fastpath.pool import RequestPool
from smartbft.core.chassis import Chassis, Ordering
from smartbft.core.replica import Replica
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Signer
from smartbft.limits import MAX_LOG_QUEUE_BYTES, MAX_POOL_BYTES, MAX_POOL_REQUESTS
from smartbft.protocols.mod_smart import ModSmart
from smartbft.smr.application import BatchStateMachine, StateMachine
from smartbft.smr.per_operation import as_batch
from smartbft.testing.application import AppendLog, random_operation
from smartbft.testing.audit import applications, audit
from smartbft.testing.byzantine import ATTACKS, Attack, Late, Powers
from smartbft.testing.checkers import Checkers, PropertyViolation
from smartbft.testing.clients import ClientFigures, SimulatedClient
from smartbft.testing.drawing import draw_scenario
from smartbft.testing.faults import Faults
from smartbft.testing.greedy import GreedyClient
from smartbft.testing.history import History
from smartbft.testing.host import Host
from smartbft.testing.network import SimulatedNetwork
from smartbft.testing.options import PERSISTENCE_LEVELS, SimulationOptions
from smartbft.testing.replica import EPOCH, make_pool
from smartbft.testing.scenario import Attacker, Crash, Isolation, Scenario, Wipe
from smartbft.testing.scheduler import Scheduler
from smartbft.testing.signatures import Ed25519Scheme, KeyedHashScheme, SignatureScheme
from smartbft.testing.trace import Kind, TextTrace, Trace
from smartbft.testing.troublemakers import RECENT_REQUESTS, Troublemaker
from smartbft.types import SIGNATURES, Member, View

# How often (in events) the bounds of queues are looked at, and whether a healed run is over.
BOUNDS_EVERY = 256
FINISHED_EVERY = 16
# Sessions are numbered by the client's start time: early enough that no replica's clock is behind it.
SESSION_LEAD = 10_000_000

OperationMaker = Callable[[random.Random, int, int], bytes]


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """What a run that kept every promise did.

    Attributes:
        options: what was asked for.
        scenario: what the seed made of it, in words.
        instances: consensus instances decided.
        requests: requests answered.
        events: events of the run.
        messages: packets handed to the network.
        crashes: crashes of single replicas.
        retransmissions: requests that honest clients sent again because no answer had come.
        longest_wait_seconds: the longest time an honest client waited for an answer, in virtual time.
        healed_seconds: virtual time from the healing of the network to the last answer (0: all had come before).
        virtual_seconds: how long the run took in virtual time.
        regency_changes: regencies installed from the healing of the network until everything was answered.
        leaders_replaced: the highest regency that a replica was in at the end.
        convicted: faulty members against whom replicas have gathered evidence.
        trace_hash: equal for two runs that went through the same events.
    """

    options: SimulationOptions
    scenario: str
    instances: int
    requests: int
    events: int
    messages: int
    crashes: int
    retransmissions: int
    longest_wait_seconds: float
    healed_seconds: float
    virtual_seconds: float
    regency_changes: int
    leaders_replaced: int
    convicted: int
    trace_hash: str


class Simulation:
    """A cluster in virtual time.

    Args:
        options: what to simulate.
        application: makes one replica's application; must be deterministic.
        operation: makes a client's next operation from the run's randomness, the client's index and the sequence
            number.
        ordering: the ordering protocol under test.
        invariant: called with all applications (one per replica) when the run is over; raises if something is wrong.
        history: told what honest clients ask and are answered, and when.
        scenario: what goes wrong, in place of what the options and the seed make of it.
        text: keep the trace as text too.

    Attributes:
        trace: the events so far.
        checkers: the promises under watch.
        client_figures: how honest clients fare.
        crashes: of single replicas, so far.
        snapshots, transfers: written, and installed, so far.
        rehearsals: of snapshots, begun so far.
    """

    def __init__(
        self,
        options: SimulationOptions,
        *,
        application: Callable[[], StateMachine | BatchStateMachine] = AppendLog,
        operation: OperationMaker = random_operation,
        ordering: Callable[[Chassis], Ordering] = ModSmart,
        invariant: Callable[[list[StateMachine | BatchStateMachine]], None] | None = None,
        history: History | None = None,
        scenario: Scenario | None = None,
        text: bool = False,
    ) -> None:
        self.options = options
        self.history = history
        self.client_figures = ClientFigures()
        self._application = application
        self.trace: Trace = TextTrace() if text else Trace()
        self.scheduler = Scheduler(options.seed)
        self._draw = self.scheduler.random
        self.replica_ids = tuple(range(options.n))
        self.chain_id = derive_key("smartbft v1 simulated chain", options.seed.to_bytes(8, "little"))
        self.domains = Domains(self.chain_id)
        chosen = options
        if options.authentication == "auto" and getattr(application, "needs_signatures", True):
            chosen = replace(options, authentication=SIGNATURES)
        self.scenario = scenario or draw_scenario(chosen)
        self.scheme: SignatureScheme = Ed25519Scheme() if self.scenario.real_signatures else KeyedHashScheme()
        self._signers = {id: self.scheme.signer(self._secret(b"replica", id)) for id in self.replica_ids}
        self._permanent = {id: self.scheme.signer(self._secret(b"permanent", id)) for id in self.replica_ids}
        self.view = View(0, tuple(self._member(id) for id in self.replica_ids))
        self.verifier = self.scheme.key_verifier()
        self._keys_made = 0
        self.network = SimulatedNetwork(self.scheduler, self.scenario.network)
        self.enough_replies = self.view.quorum if self.scenario.persistence == "sync" else self.view.f + 1
        self.byzantine = self.scenario.byzantine
        self.checkers = self._make_checkers()
        self._votes_again: set[int] = set()  # membership tests only
        self._make_machines()
        honest, all_clients = options.clients, options.clients + self.scenario.troublemakers
        greedy = range(all_clients, all_clients + self.scenario.greedy)
        self.honest_clients = [self._make_client(index, operation) for index in range(honest)]
        troublemakers = [self._make_troublemaker(index, operation) for index in range(honest, all_clients)]
        self.clients: list[SimulatedClient | Troublemaker | GreedyClient] = [*self.honest_clients, *troublemakers]
        self._greedy_clients = [self._make_greedy_client(index) for index in greedy]
        self.clients += self._greedy_clients
        self.recent_requests: deque[bytes] = deque(maxlen=RECENT_REQUESTS)
        self.outstanding = 0
        self.answered = 0
        self.decided = 0
        self.healed = False
        self._ordering = ordering
        self._invariant = invariant
        self.faults = Faults(self)
        self.snapshots = 0
        self.transfers = 0
        self.rehearsals = 0
        self._healed_at = (0, 0)  # when, and the highest regency then
        self._keys_at_healing = 0  # how many consensus keys had been replaced then
        self._recovered_at = (0, 0)
        self._begun = False
        self._unchecked = 0
        self._deadline = options.patience * 1_000_000

    def _secret(self, purpose: bytes, number: int) -> bytes:
        return derive_key("smartbft v1 simulated secret", self.chain_id + purpose + number.to_bytes(4, "little"))

    def _member(self, id: int) -> Member:
        return Member(id, self._permanent[id].public_key, self._signers[id].public_key)

    def make_signer(self, replica: int) -> Signer:
        """A new consensus key of a replica."""
        self._keys_made += 1
        return self.scheme.signer(self._secret(b"consensus key %d" % self._keys_made, replica))

    def _make_checkers(self) -> Checkers:
        return Checkers(
            self.view,
            self.domains,
            self.scheme.key_verifier(),
            persistence=self.scenario.persistence,
            byzantine=self.byzantine,
            channel=self.scenario.channel,
            resend_interval=self.scenario.parameters.resend_interval,
        )

    def _make_machines(self) -> None:
        """One machine per replica, a second one for each that is twins, and the attackers on theirs."""
        self.hosts = [Host(self, id, id) for id in self.replica_ids]
        copies = [Host(self, id, self.options.n + number) for number, id in enumerate(self.scenario.twins)]
        self.machines = [*self.hosts, *copies]
        self.machines_of = {id: [one for one in self.machines if one.id == id] for id in self.replica_ids}
        for attacker in self.scenario.attackers:
            host = self.hosts[attacker.replica]
            powers = Powers(
                host.id,
                self.view,
                self.domains,
                self.scenario.parameters,
                host.key_ring(self._permanent[host.id], self._signers[host.id]),
                self._draw,
                attacker.rate,
                attacker.victim,
                host.say,
            )
            host.attacks = (*host.attacks, self._make_attack(attacker, powers))

    def _make_attack(self, attacker: Attacker, powers: Powers) -> Attack:
        attack = ATTACKS[attacker.attack]
        if attacker.after is None:
            return attack(powers)
        return Late(powers, attack, partial(self._votes_again.__contains__, attacker.after))

    def votes_again(self, replica: int) -> None:
        """A replica that had lost its disk votes with a new key: it does not count towards `f` any more."""
        self._votes_again.add(replica)

    @property
    def core_hosts(self) -> list[Host]:
        """The machines that must make progress once they are healed, and be equal at the end."""
        missing = self.byzantine.union(self.scenario.left_out)
        return [host for host in self.hosts if host.id not in missing and not host.rotten]

    def _make_client(self, index: int, operation: OperationMaker) -> SimulatedClient:
        signer = self.scheme.signer(self._secret(b"client", index))
        return SimulatedClient(self, index, signer, EPOCH - SESSION_LEAD, partial(operation, self._draw, index))

    def _make_troublemaker(self, index: int, operation: OperationMaker) -> Troublemaker:
        signer = self.scheme.signer(self._secret(b"client", index))
        return Troublemaker(self, index, signer, EPOCH - SESSION_LEAD, partial(operation, self._draw, index))

    def _make_greedy_client(self, index: int) -> GreedyClient:
        def throwaway(number: int) -> Signer:
            return self.scheme.signer(self._secret(b"throwaway key %d" % number, index))

        signer = self.scheme.signer(self._secret(b"client", index))
        return GreedyClient(self, index, signer, throwaway, EPOCH - SESSION_LEAD)

    def make_core(self, id: int, pool: RequestPool) -> Replica:
        """The product's core for one life of a replica."""
        return Replica(
            id,
            self.view,
            self.domains,
            self._signers[id],
            pool,
            self.scenario.parameters,
            permanent=self._permanent[id],
            verifier=self.verifier,
            level=PERSISTENCE_LEVELS[self.scenario.persistence],
            ordering=self._ordering,
            make_pool=lambda: make_pool(self.chain_id, id, self.scenario.parameters, self.view),
        )

    def make_application(self) -> BatchStateMachine:
        """A fresh application for one life of a replica."""
        return as_batch(self._application())

    # The run

    def run(self) -> SimulationReport:
        """Run until every request is answered on all replicas.

        Raises:
            PropertyViolation: a promise was broken; liveness too, if the healed cluster does not finish in time.
            SmartBFTError: the product raised an error of its own, an `InvariantViolation` for instance.
        """
        self.advance(0)
        while not (self.healed and self._is_finished()):
            self.advance(FINISHED_EVERY)
        with self._located():
            self._check_regency_changes()
            audit(self)
        if self._invariant is not None:
            self._invariant([getattr(one, "machine", one) for one in applications(self)])
        return self._report()

    def advance(self, events: int) -> None:
        """Let the next `events` events happen; then a test may interfere, and go on with `run`. Raises as `run`."""
        with self._located():
            if not self._begun:
                self._begin()
            if not self.scheduler.run(events):
                raise PropertyViolation("liveness", "nothing is left to happen, but requests wait for an answer")
            self._unchecked += events
            if self._unchecked >= BOUNDS_EVERY:
                self._unchecked = 0
                self._check_bounds()

    @contextmanager
    def _located(self) -> Iterator[None]:
        """A violation names the run that it was seen in."""
        try:
            yield
        except PropertyViolation as violation:
            violation.locate(self.options.seed, self.decided, self.replica_ids)
            raise

    def _begin(self) -> None:
        self._begun = True
        for host in self.machines:
            host.start()
        for id in self.replica_ids:
            for peer in self.replica_ids[:id]:
                self.connect(id, peer)
        for client in self.clients:
            self.scheduler.after(self.scheduler.between(0, 1_000), client.wake)

    def crash(self, *replicas: int, downtime: int = 10_000, power: bool = True) -> None:
        """Crash replicas now, all at once; they start again after `downtime` microseconds.

        Args:
            replicas: their ids; those that are down already stay as they are.
            downtime: microseconds.
            power: lose what is not synced; else only the process dies.
        """
        self.faults.crash(Crash(replicas, 0, 0, (downtime,) * len(replicas), power))

    def disk_failed(self, host: Host) -> None:
        """The disk of a machine has failed: its replica stops."""
        self.faults.disk_failed(host)

    def wipe(self, replica: int, downtime: int = 10_000) -> None:
        """A replica loses its disk now, and starts again after `downtime` microseconds."""
        self.faults.wipe(Wipe(replica, 0, downtime))

    def isolate(self, replica: int, duration: int) -> None:
        """Cut a replica from its peers now, for `duration` microseconds; clients still reach it."""
        self.faults.isolate(Isolation(replica, 0, duration))

    def _report(self) -> SimulationReport:
        clients = self.client_figures
        return SimulationReport(
            options=self.options,
            scenario=self.scenario.summary(),
            instances=self.decided,
            requests=self.answered,
            events=self.scheduler.events,
            messages=self.network.sent,
            crashes=self.faults.crashes,
            retransmissions=clients.retransmissions,
            longest_wait_seconds=clients.longest_wait / 1e6,
            healed_seconds=max(0, clients.last_answer - self._healed_at[0]) / 1e6,
            virtual_seconds=self.scheduler.now / 1e6,
            regency_changes=self._recovered_at[1] - self._healed_at[1],
            leaders_replaced=self._highest_regency(),
            convicted=len(self.checkers.accusations.named),
            trace_hash=self.trace.digest(),
        )

    def wants_requests(self) -> bool:
        """Whether clients go on: until the instances asked for are decided."""
        return self.decided < self.options.instances and not self.healed

    def on_decided(self, instance: int) -> None:
        """A replica has decided an instance: the first one to do so moves the plan of faults along."""
        if instance <= self.decided:
            return
        self.decided = instance
        self.faults.begin_after(instance)
        self.maybe_heal()

    def maybe_heal(self) -> None:
        """The second phase: once all planned faults are over, a healed core must answer everything in time."""
        enough = self.decided >= self.options.instances or self.scheduler.now > self._deadline
        if enough and not self.healed and self.faults.over:
            self.healed = True
            self._deadline = self.scheduler.now + self.options.patience * 1_000_000
            self.faults.heal()
            self._healed_at = self._recovered_at = (self.scheduler.now, self._highest_regency())
            self._keys_at_healing = self.checkers.provability.keys_replaced
            self.trace.note(self.scheduler.now, Kind.HEALED, 0, self.decided)
            for client in self.honest_clients:
                client.probe()

    def answered_one(self) -> None:
        """A client has its answer; once it was the last one after the healing, the core has recovered."""
        self.answered += 1
        self.outstanding -= 1
        if self.healed and not self.outstanding:
            self._recovered_at = (self.scheduler.now, self._highest_regency())

    def _highest_regency(self) -> int:
        running = (host.replica.core for host in self.core_hosts if host.replica is not None)
        return max((core.regency for core in running), default=0)

    def _check_regency_changes(self) -> None:
        """L1: at most `f` leaders are bad, so `f + 1` changes are enough, beside one that was under way before; and
        each new key ends a regency that its member promised with the old one. Clients alone have none replaced.
        """
        replaced, options = self._highest_regency(), self.options
        if replaced and self.scenario.greedy and options.faults == "none" and not self.byzantine:
            raise PropertyViolation("leaders stay", f"clients alone had {replaced} correct leaders replaced")
        changes = self._recovered_at[1] - self._healed_at[1]
        new_keys = self.checkers.provability.keys_replaced - self._keys_at_healing
        if changes > self.view.f + 1 + new_keys:
            raise PropertyViolation(
                "progress after healing", f"it took {changes} regency changes for f = {self.view.f}"
            )

    def _check_bounds(self) -> None:
        """9: nothing grows past its limit; and the clock of the run does not pass its deadline."""
        for host in self.hosts:
            replica = host.replica
            if replica is None:
                continue
            stats = replica.pool.stats()
            if stats["pending"] > MAX_POOL_REQUESTS or stats["bytes"] > MAX_POOL_BYTES:
                raise PropertyViolation(
                    "bounded queues", f"the pool of replica {host.id} holds {stats}", replicas=(host.id,)
                )
            if replica.log.pending_bytes() > MAX_LOG_QUEUE_BYTES:
                raise PropertyViolation(
                    "bounded queues", f"the log queue of replica {host.id} is too long", replicas=(host.id,)
                )
        if self.scheduler.now <= self._deadline:
            return
        if self.healed:
            raise PropertyViolation("liveness", self._what_is_missing())
        self.faults.planned.clear()
        self.maybe_heal()

    def _what_is_missing(self) -> str:
        states = ["down" if host.replica is None else f"{host.replica.core.status()}" for host in self.hosts]
        return (
            f"after {self.options.patience} s on a healed network {self.outstanding} requests have no answer; "
            f"replicas: {'; '.join(states)}"
        )

    def _is_finished(self) -> bool:
        if self.outstanding or not all(client.done for client in self._greedy_clients):
            return False
        for host in self.core_hosts:
            replica = host.replica
            if replica is None or replica.executed != self.decided or not replica.idle() or replica.core.learns:
                return False
            # What greedy clients tell few replicas may not stay there, if it could be proposed.
            if self._greedy_clients and replica.pool.ready():
                return False
        return True

    # Channels

    def connect(self, a: int, b: int) -> None:
        """The channel between two replicas comes up: each side hears of it at a time of its own."""
        if a != b:
            for here, there in ((a, b), (b, a)):
                self.scheduler.after(self.scheduler.between(1, 5_000), self._connected, (here, there))

    def _connected(self, ends: tuple[int, int]) -> None:
        here, there = ends
        self.trace.note(self.scheduler.now, Kind.CONNECTED, here, there)
        for machine in self.machines_of[here]:
            if machine.replica is not None:
                machine.replica.peer_connected(there)


def simulate(options: SimulationOptions) -> SimulationReport:
    """Run one seed with the default application. Raises as `Simulation.run`."""
    return Simulation(options).run()
