"""A replica in the simulator: the product's core and pool, driven as the runtime drives them, in virtual time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from zlib import crc32

from smartbft._fastpath.frames import REQUEST, FrameReader
from smartbft._fastpath.pool import FROM_MEMBER, RequestPool, VerifyJob
from smartbft.core.effects import (
    Broadcast,
    CancelTimer,
    Execute,
    InstallSnapshot,
    MakeConsensusKey,
    Penalise,
    Persist,
    Record,
    Reply,
    ReportDivergence,
    ReportEvidence,
    ReportFault,
    Send,
    ServeDecisions,
    SetTimer,
    TakeSnapshot,
    VotesOnRecord,
)
from smartbft.core.inputs import (
    ConsensusKeyMade,
    DecisionsServed,
    Executed,
    Input,
    MessageReceived,
    PeerConnected,
    Persisted,
    RequestsVerified,
    Start,
    Timer,
    TimerFired,
)
from smartbft.core.recovery import decisions_in, recover
from smartbft.core.vouching import pool_arguments
from smartbft.errors import RemoteProtocolError, UnknownKey
from smartbft.limits import (
    MAX_BAD_SIGNATURES_PER_SOURCE,
    MAX_OPERATION_BYTES,
    MAX_POOL_BYTES,
    MAX_POOL_REQUESTS,
    MAX_REQUEST_BYTES,
    MAX_UNVERIFIED_PER_SOURCE,
    VERIFY_JOB_REQUESTS,
    VERIFY_JOBS_IN_FLIGHT,
)
from smartbft.messages import Decision, Hold, Message, StopData, decode, encode
from smartbft.smr.application import ExecutionContext, execute_decided
from smartbft.testing.byzantine import attacked
from smartbft.testing.checkers import PropertyViolation
from smartbft.testing.clients import parse_replies
from smartbft.testing.log import DiskLog, MemoryLog, SimulatedLog
from smartbft.testing.snapshots import Rehearsing, SimulatedSnapshots
from smartbft.testing.trace import Kind
from smartbft.types import Parameters, View

if TYPE_CHECKING:
    from smartbft.testing.host import Host
    from smartbft.testing.simulation import Simulation

EPOCH = 1_700_000_000_000_000  # the wall clock at virtual time 0, microseconds


def make_pool(
    chain_id: bytes,
    replica: int,
    parameters: Parameters,
    view: View,
    room: tuple[int, int] = (MAX_POOL_REQUESTS, MAX_POOL_BYTES),
) -> RequestPool:
    """The request pool of a replica, as the runtime makes it; `room` for so many requests, and bytes of them."""
    return RequestPool(
        chain_id,
        replica=replica,
        window=parameters.window,
        max_requests=room[0],
        max_bytes=room[1],
        max_operation_bytes=MAX_OPERATION_BYTES,
        max_sessions=parameters.max_sessions,
        max_sessions_per_key=parameters.max_sessions_per_key,
        max_unverified_per_source=MAX_UNVERIFIED_PER_SOURCE,
        lease=parameters.session_lease,
        skew=parameters.clock_skew,
        **pool_arguments(parameters, view, replica),
    )


class SimulatedReplica:
    """One life of a replica, from a start to a crash. What it leaves behind is its disk.

    Args:
        world: the simulation it is part of.
        id: its member id.
        host: the machine it runs on, with the disk that its earlier lives have written.
    """

    def __init__(self, world: Simulation, id: int, host: Host) -> None:
        self.id = id
        self.endpoint = host.endpoint
        self.dead = False
        self.executed = 0
        scenario = world.scenario
        room = scenario.pool_requests, scenario.pool_bytes
        self.pool = make_pool(world.chain_id, id, scenario.parameters, world.view, room)
        self.core = world.make_core(id, attacked(self.pool, host.attacks))
        self.application = world.make_application()
        self._world = world
        self._channel = world.scenario.channel
        self._scheduler = world.scheduler
        self._host = host
        self._attacks = host.attacks
        self.judged = id not in world.byzantine
        # Bound once: these are called at every event.
        self._core_step = self.core.step
        self._validate = self.core.validator.validate
        self._note_received = world.checkers.votes.received
        self._clock = EPOCH + host.clock_offset
        self._peers = [(peer.endpoint, peer.deliver_message) for peer in world.machines if peer.id != id]
        self._readers: dict[int, FrameReader] = {}
        self._bad_signatures: dict[int, int] = {}
        self._timers: dict[Timer, int] = {}
        self._timers_set = 0
        self._jobs = 0
        self._executions: deque[Execute | TakeSnapshot | InstallSnapshot | Rehearsing] = deque()
        self._hangs = False  # whether the application does not come back from a rehearsal
        self._waiting: deque[tuple[int, Persist]] = deque()
        self._token = 0
        self._replies: deque[Reply] = deque()
        self._snapshots = SimulatedSnapshots(world, self, host)
        self._handlers: dict[type, Callable[[Any], None]] = {
            Broadcast: self._broadcast,
            Send: self._send,
            Persist: self._persist,
            SetTimer: self._set_timer,
            CancelTimer: self._cancel_timer,
            Execute: self._execute,
            Reply: self._reply,
            ServeDecisions: self._serve_decisions,
            Penalise: self._penalise,
            ReportEvidence: self._report,
            ReportDivergence: self._report_divergence,
            ReportFault: self._report_fault,
            MakeConsensusKey: self._make_key,
            VotesOnRecord: self._on_record,
            **self._snapshots.actions(),
        }
        self.log = self._open_log()

    def _open_log(self) -> SimulatedLog:
        world = self._world
        if world.scenario.persistence == "memory":
            return MemoryLog(self._scheduler, self._on_released)
        return DiskLog(
            self._host.disk,
            self._scheduler,
            world.scenario.disk,
            world.chain_id,
            self.id,
            sync=world.scenario.persistence == "sync",
            stored=self._on_stored,
            released=self._on_released,
            failed=self._on_disk_failed,
        )

    def start(self) -> None:
        """Recover from the log and take the first step."""
        records = self.log.recovered()
        state = recover(records, self._world.domains, self._snapshots.open())
        if self.judged:
            self._world.checkers.restarted(self.id, records, state.base)
        if state.snapshots.newest is not None:
            self.application.restore(state.snapshots.newest.state)
            self.executed = state.base
        host = self._host
        # Without a log every life but the first has forgotten what it said.
        if host.lives > 1 and self._world.scenario.persistence == "memory":
            host.votes_lost = True
        state.intact = not host.votes_lost
        state.signers = list(host.signers)
        self.step(Start(state))

    def crash(self) -> None:
        """Stop at once: nothing that was scheduled for this life happens any more."""
        self.dead = True
        self.log.stop()

    def set_clock(self, offset: int) -> None:
        """The clock jumps."""
        self._clock = EPOCH + offset

    def step(self, event: Input) -> None:
        """Give the core an input and carry out what it asks for."""
        handlers = self._handlers
        for effect in self._core_step(event, self._scheduler.now + self._clock):
            handlers[type(effect)](effect)
        if self._jobs < VERIFY_JOBS_IN_FLIGHT:
            self._pump_verifier()

    # What arrives

    def receive(self, sender: int, data: bytes) -> None:
        """Bytes of a protocol message from a peer, through the product's decoder and validation."""
        try:
            message = decode(data)
            if self._host.deaf_to and type(message) in self._host.deaf_to:
                return
            self._note_received(self.id, sender, message)
            if type(message) is Hold:
                self._world.checkers.vouching.received(self.id, sender, message)
            verified = self._validate(sender, message)
        except UnknownKey:
            return
        except RemoteProtocolError as error:
            self._accuse(sender, f"refused: {error}")
            return
        if self._attacks:
            heard = self._host.hears(sender, message)
            if heard is None:
                return
            if heard is not message:
                verified = self._validate(sender, heard)
        self.step(MessageReceived(verified))

    def _accuse(self, peer: int, what: str) -> None:
        """11: this replica holds something against a peer, which it may only if the peer is Byzantine."""
        if self.judged and peer not in self._world.byzantine:
            raise PropertyViolation(
                "no false accusation",
                f"replica {self.id} against replica {peer}: {what}",
                replicas=(self.id, peer),
            )

    def receive_requests(self, source: int, frames: bytes) -> None:
        """Request frames from a client connection."""
        for attack in self._attacks:
            frames = attack.requests(source, frames)
        reader = self._readers.get(source)
        if reader is None:
            reader = self._readers[source] = FrameReader({REQUEST: MAX_REQUEST_BYTES}, self.pool, source)
            if self._channel:
                self.pool.holds.prove(source, self._world.clients[source - 1].signer.public_key)
        try:
            reader.feed(frames, self._scheduler.now + self._clock)
        except RemoteProtocolError as error:
            self._close(source, str(error))
        if self._channel:
            self._world.checkers.vouching.told(self.id, source, frames)
        self._write_replies()
        if self._jobs < VERIFY_JOBS_IN_FLIGHT:
            self._pump_verifier()

    def _close(self, source: int, why: str) -> None:
        """Close a client's connection, as the runtime does with one that breaks the protocol; it may come again."""
        if source <= len(self._world.honest_clients) and (source or not self._world.byzantine):
            who = f"client {source - 1}" if source else "the peers"
            raise PropertyViolation(
                "no false accusation", f"replica {self.id} holds against {who}: {why}", replicas=(self.id,)
            )
        self._readers.pop(source, None)
        self._bad_signatures.pop(source, None)
        self.pool.drop_source(source)

    def peer_connected(self, peer: int) -> None:
        """The channel to a peer is there again."""
        self.step(PeerConnected(peer))

    # Verification of requests

    def _pump_verifier(self) -> None:
        while self._jobs < VERIFY_JOBS_IN_FLIGHT:
            job = self.pool.take_unverified(VERIFY_JOB_REQUESTS)
            if job is None:
                return
            self._jobs += 1
            self._scheduler.after(self._scheduler.between(1, self._world.scenario.verify_delay), self._on_verified, job)

    def _on_verified(self, job: VerifyJob) -> None:
        if self.dead:
            return
        self._jobs -= 1
        mask = bytearray(job.run()) if self._channel else self._world.scheme.verify_requests(job)
        for position, accepted in enumerate(self.application.check_batch(job.data)):
            if mask[position] and not accepted:
                mask[position] = 2
        self._world.trace.note(self._scheduler.now, Kind.VERDICTS, self.id, crc32(mask))
        liars = []
        for source, bad in self.pool.apply_verdicts(job, mask):
            if source >= FROM_MEMBER:
                liars.append((source - FROM_MEMBER, bad))
                continue
            count = self._bad_signatures[source] = self._bad_signatures.get(source, 0) + bad
            if source <= len(self._world.honest_clients) or count >= MAX_BAD_SIGNATURES_PER_SOURCE:
                self._close(source, "bad signatures")
        self._write_replies()
        self.step(RequestsVerified(tuple(liars)))

    # Messages

    def _broadcast(self, effect: Broadcast) -> None:
        world = self._world
        if self._attacks:
            for peer in world.replica_ids:
                if peer != self.id:
                    self.send_to(peer, effect.message)
            return
        if self.judged:
            world.checkers.sent(self.id, effect.message)
        data = encode(effect.message)
        packet = (self.id, data, crc32(data))
        send = world.network.send
        for peer, deliver in self._peers:
            send(self.endpoint, peer, deliver, packet)

    def _send(self, effect: Send) -> None:
        self.send_to(effect.to, effect.message)

    def send_to(self, to: int, message: Message) -> None:
        """Send a message to a member."""
        if isinstance(message, StopData):
            self._world.faults.promised(self.id)
        if self.judged:
            self._world.checkers.sent(self.id, message)
            self._world.checkers.sent_to(self.id, to, message, self._scheduler.now)
        if self._attacks:
            for said in self._host.says(to, message):
                self._host.transmit(to, said)
        else:
            self._host.transmit(to, message)

    def _serve_decisions(self, effect: ServeDecisions) -> None:
        world, size = self._world, 0
        for decided in decisions_in(self.log.written(), world.domains, effect.first, effect.last):
            size += len(decided.value) + len(decided.data)
            self.send_to(
                effect.to,
                Decision(
                    world.view.number,
                    self.core.regency,
                    decided.instance,
                    decided.value,
                    decided.data,
                    decided.proof,
                ),
            )
        self.step(DecisionsServed(effect, size))

    def _penalise(self, effect: Penalise) -> None:
        self._accuse(effect.peer, f"penalised: {effect.reason}")

    def _report(self, effect: ReportEvidence) -> None:
        if self.judged:
            self._world.checkers.accused(self.id, effect)

    def _report_divergence(self, effect: ReportDivergence) -> None:
        """Replicas run the same deterministic application: only a liar says that its state is another."""
        found = effect.divergence
        if self.judged and (found.certain or not self._world.byzantine.issuperset(found.differing)):
            raise PropertyViolation("equal state", f"replica {self.id}: {found}", replicas=(self.id,))

    def _report_fault(self, effect: ReportFault) -> None:
        if self.judged:
            raise PropertyViolation("equal state", f"replica {self.id}: {effect.reason}", replicas=(self.id,))

    # Consensus keys

    def _make_key(self, _: MakeConsensusKey) -> None:
        self._scheduler.after(self._scheduler.between(1, 1_000), self._on_key_made)

    def _on_key_made(self, _: None) -> None:
        if not self.dead:
            self.step(ConsensusKeyMade(self._host.make_key()))

    def _on_record(self, _: VotesOnRecord) -> None:
        self._host.votes_lost = False
        self._world.votes_again(self.id)

    # Timers

    def _set_timer(self, effect: SetTimer) -> None:
        self._timers_set += 1
        self._timers[effect.timer] = self._timers_set
        self._scheduler.after(effect.delay, self._fire, (effect.timer, self._timers_set))

    def _cancel_timer(self, effect: CancelTimer) -> None:
        self._timers.pop(effect.timer, None)

    def _fire(self, armed: tuple[Timer, int]) -> None:
        timer, number = armed
        if self.dead or self._timers.get(timer) != number:
            return
        del self._timers[timer]
        self._world.trace.note(self._scheduler.now, Kind.TIMER, self.id, timer, timer.name)
        self.step(TimerFired(timer))

    # The log

    def _persist(self, effect: Persist) -> None:
        if self.judged:
            for record in effect.records:
                self._world.checkers.recorded(self.id, record)
        self._waiting.append((self.log.append(effect.records), effect))

    def _on_stored(self, record: Record) -> None:
        if self.judged:
            self._world.checkers.durability.stored(self.id, record)

    def _on_disk_failed(self) -> None:
        """DurabilityLost: the replica stops; it acknowledges nothing, and tries nothing again."""
        self._world.disk_failed(self._host)

    def _on_released(self, sequence: int) -> None:
        """The log has released records: say what waited for them, then tell the core."""
        waiting = self._waiting
        before = self._token
        while waiting and waiting[0][0] <= sequence:
            _, effect = waiting.popleft()
            for saying in effect.then:
                self._handlers[type(saying)](saying)
            self._token = effect.token
        if self._token == before:
            return
        self._world.trace.note(self._scheduler.now, Kind.RELEASED, self.id, self._token)
        while self._replies and self._replies[0].after <= self._token:
            self._release(self._replies.popleft())
        self.step(Persisted(self._token))

    def idle(self) -> bool:
        """Whether nothing waits for the log or the application."""
        return not (self._waiting or self._executions or self._replies)

    # Execution and replies

    def _execute(self, effect: Execute) -> None:
        world = self._world
        if self.judged:
            world.checkers.executes(self.id, effect.instance, effect.timestamp, effect.seed, effect.data)
            world.on_decided(effect.instance)
        self.execute_next(effect)

    def execute_next(self, effect: Execute | TakeSnapshot | InstallSnapshot | Rehearsing) -> None:
        """Have the application asked, in turn."""
        self._executions.append(effect)
        if len(self._executions) == 1 and not self._hangs:
            self._go_on()

    def _on_executed(self, _: None) -> None:
        if self.dead:
            return
        world = self._world
        effect = self._executions.popleft()
        if isinstance(effect, InstallSnapshot):
            self.application.restore(effect.state)
            self.executed = effect.instance
        elif isinstance(effect, TakeSnapshot):
            self._snapshots.capture(effect)
        elif not isinstance(effect, Execute) and not self._snapshots.rehearse(effect):
            self._hangs = True
            return
        if not isinstance(effect, Execute):
            self._go_on()
            return
        context = ExecutionContext(effect.instance, effect.timestamp, effect.seed)
        results = execute_decided(self.application, effect.data, context)
        if self.judged:
            world.checkers.order.applied(self.id, effect.instance, results)
        world.trace.note(self._scheduler.now, Kind.EXECUTED, self.id, effect.instance << 32 | crc32(results))
        self.executed = effect.instance
        self._go_on()
        self.step(Executed(effect.instance, results))

    def _go_on(self) -> None:
        if self._executions:
            delay = self._world.scenario.execute_delay
            self._scheduler.after(self._scheduler.between(1, delay), self._on_executed)

    def give_up_rehearsal(self) -> None:
        """Stop what the application does for a rehearsal; nobody waits for what comes of it."""
        waiting = list(self._executions)
        running = 0 if self._hangs else 1  # the first one is under way
        self._executions = deque(
            effect for at, effect in enumerate(waiting) if at < running or not isinstance(effect, Rehearsing)
        )
        if self._hangs:
            self._hangs = False
            self._go_on()

    def forget_replies(self) -> None:
        """A snapshot takes the place of the batches they belong to; it holds them."""
        self._replies.clear()

    def _reply(self, effect: Reply) -> None:
        if effect.after <= self._token:
            self._release(effect)
        else:
            self._replies.append(effect)

    def _release(self, effect: Reply) -> None:
        self.pool.release(effect.digests, effect.data)
        self._write_replies()

    def _write_replies(self) -> None:
        world = self._world
        for source, frames in self.pool.take_replies():
            for reply in parse_replies(frames) if self.judged else ():
                world.checkers.replied(self.id, reply)
            for attack in self._attacks:
                frames = attack.replies(source, frames)
            client = world.clients[source - 1]
            world.network.send(self.endpoint, client.endpoint, client.receive, (self.id, frames))
