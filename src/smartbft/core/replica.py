"""One replica as a pure object: `step(input, now)` returns the effects, in order.

This is the chassis: it decides nothing about ordering (that is the protocol's business) and touches no socket, disk
or clock. It holds the parts together: each input, message and timer goes to the part whose it is, and what concerns
several parts (a decision, new keys, a snapshot) is told to them here, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

from smartbft._fastpath.pool import FROM_MEMBER, RequestPool
from smartbft.core.answer_rates import AnswerRates
from smartbft.core.catch_up import CatchUp
from smartbft.core.chassis import Chassis, Ordering
from smartbft.core.checkpoint_schedule import CheckpointSchedule
from smartbft.core.checkpoints import Checkpoints, Mark
from smartbft.core.decisions import RecentDecisions
from smartbft.core.delivery import Delivery
from smartbft.core.effects import Effect, InstallSnapshot, ReportEvidence
from smartbft.core.evidence import Statement
from smartbft.core.forwarding import Forwarding
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
from smartbft.core.key_changes import KeyChanges
from smartbft.core.member_keys import KeyInForce, MemberKeys
from smartbft.core.outbox import Outbox
from smartbft.core.records import decision_record
from smartbft.core.recovery import Decided, RecoveredState, RecoveredVotes
from smartbft.core.regency_changes import RegencyChanges
from smartbft.core.repetition import Repetition
from smartbft.core.safety import VoteGuard
from smartbft.core.sequential_transfer import SequentialTransfer
from smartbft.core.serving import Serving
from smartbft.core.state_transfer import StateTransfer, TransferMessage
from smartbft.core.taking_part import LOST_VOTES, NO_KEY, TakingPart
from smartbft.core.validation import Rehearsed, Validator, Verified
from smartbft.core.vouching import Vouching, waiting_for_room
from smartbft.core.witness import Witness
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import KeyVerifier, Signer
from smartbft.errors import LocalProtocolError, RemoteProtocolError
from smartbft.limits import (
    LIVE_INSTANCES,
    MAX_EXECUTION_BACKLOG,
    RECENT_DECISIONS_BYTES,
    RECENT_DECISIONS_IN_MEMORY_MODE,
    REQUEST_LOOKS_PER_TIMEOUT,
)
from smartbft.messages import (
    Accept,
    Decision,
    FetchDecisions,
    FetchHeld,
    FetchStanding,
    Forward,
    HeldRequests,
    Hold,
    KeyAnnouncement,
    Message,
    Progress,
    Proof,
    Standing,
    Sync,
)
from smartbft.snapshots import Manifest, Snapshot
from smartbft.types import KeyStatement, Parameters, View

MEMORY_LEVEL = 0
ASYNC_LEVEL = 1
SYNC_LEVEL = 2

MessageHandler = Callable[[int, Any], None]  # takes the sender and a message of the class it stands for in the table


class Replica(Outbox):
    """A replica of the view, driven by `step`.

    Args:
        id: its member id.
        view: the view in force.
        domains: the chain's hash and signature domains.
        signer: signs votes with the consensus key that the view names; later keys come with the start, or as input.
        permanent: signs with the permanent key.
        verifier: checks signatures.
        pool: the native request pool and session table, state of this object.
        parameters: the chain's protocol parameters.
        level: how durable a reply is: MEMORY_LEVEL, ASYNC_LEVEL or SYNC_LEVEL; told to clients.
        ordering: makes the ordering protocol on this chassis, for example `smartbft.protocols.mod_smart.ModSmart`.
        record_votes: False leaves votes out of the log, for comparison with the papers; a restart then forgets them.
        transfer_sources: from how many peers at once a snapshot is fetched; 0: from all that have it.
        make_pool: makes another pool like `pool`, for rehearsals; only needed with sequential checkpoints.

    Raises:
        LocalProtocolError: sequential checkpoints without `make_pool`.
    """

    def __init__(
        self,
        id: int,
        view: View,
        domains: Domains,
        signer: Signer,
        pool: RequestPool,
        parameters: Parameters,
        *,
        permanent: Signer,
        verifier: KeyVerifier,
        level: int,
        ordering: Callable[[Chassis], Ordering],
        record_votes: bool = True,
        transfer_sources: int = 0,
        make_pool: Callable[[], RequestPool] | None = None,
    ) -> None:
        super().__init__(record_votes=record_votes)
        self.id = id
        self.view = view
        self.domains = domains
        self.signer = signer
        self.permanent = permanent
        self.pool = pool
        self.parameters = parameters
        self.schedule = CheckpointSchedule(parameters, view)
        self.guard = VoteGuard()
        self.keys = MemberKeys(view)
        self.validator = Validator(view, domains, verifier, parameters, self.keys)
        self.now = 0
        self.rates = AnswerRates(self)
        self.decided = 0
        self.executed = 0
        self.agreed_time = 0
        self.durable = 0
        kept = RECENT_DECISIONS_IN_MEMORY_MODE if level == MEMORY_LEVEL else LIVE_INSTANCES
        self._delivery = Delivery(self, RecentDecisions(kept, RECENT_DECISIONS_BYTES), level)
        self._serving = Serving(self, self._delivery.recent, has_log=level != MEMORY_LEVEL)
        self.catch_up = CatchUp(self)
        self.checkpoints = Checkpoints(self)
        self.transfer = self._make_transfer(transfer_sources or len(view.ids), make_pool)
        self._forwarding = Forwarding(self)
        self.key_changes = KeyChanges(self)
        self._taking_part = TakingPart(self)
        self._witness = Witness(view, self._accuse, self._key_of)
        self._vouching = Vouching(self)
        self._repetition = Repetition(self, self._taking_part, self._vouching)
        self._started = False
        self.ordering = ordering(self)
        self._message_handlers = self._common_messages()
        self._timer_handlers = self._common_timers()

    def _make_transfer(self, sources: int, make_pool: Callable[[], RequestPool] | None) -> StateTransfer:
        """Where nobody is faulty the word of one is enough, whatever the schedule."""
        if not self.schedule.sequential or self.view.f == 0:
            return StateTransfer(self, sources)
        if make_pool is None:
            raise LocalProtocolError("sequential checkpoints need `make_pool`: rehearsals have sessions of their own")
        return SequentialTransfer(self, sources, make_pool)

    def _common_messages(self) -> dict[type[Message], MessageHandler]:
        """Who takes a message that is none of the ordering protocol's."""
        return {
            Decision: self.catch_up.on_decision,
            Progress: self.catch_up.on_progress,
            FetchDecisions: self.catch_up.on_fetch,
            Forward: lambda sender, message: self.adopt(sender, message.data),
            KeyAnnouncement: self.key_changes.on_announcement,
            FetchStanding: self._taking_part.on_fetch_standing,
            Standing: self._taking_part.on_standing,
            **dict.fromkeys((Hold, FetchHeld, HeldRequests), self._vouching.on_message),
            **dict.fromkeys(get_args(TransferMessage), self.transfer.on_message),
        }

    def _common_timers(self) -> dict[Timer, Callable[[], None]]:
        """Who takes a timer that is none of the ordering protocol's."""
        return {
            Timer.RESEND: self._repetition.on_resend,
            Timer.PROGRESS: self._repetition.on_progress,
            Timer.REQUEST: self._on_request_timer,
            Timer.CATCH_UP: self.catch_up.on_timer,
            Timer.VOUCH: self._vouching.on_timer,
            Timer.KEYS: self.key_changes.on_rested,
            Timer.TRANSFER: self.transfer.on_timer,
        }

    @property
    def regency(self) -> int:
        """The installed regency."""
        return self.ordering.regency

    @property
    def leader(self) -> int:
        """The id of the current leader."""
        return self.ordering.leader

    @property
    def learns(self) -> str:
        """Why this replica only learns and serves, in words; empty: it votes, or will."""
        return self._taking_part.learns

    def step(self, event: Input, now: int) -> list[Effect]:
        """Take one input and return what is to be done, in order.

        Args:
            event: what happened.
            now: the wall clock in microseconds.

        Raises:
            LocalProtocolError: the first input is not `Start`, or a second one is.
            InvariantViolation: a bug, or an application result for an instance that is not executing.
        """
        if self._started == isinstance(event, Start):
            raise LocalProtocolError("the first input of a replica, and only the first, is Start")
        self.now = now
        if type(event) is MessageReceived:
            self._on_message(event.verified)
        elif type(event) is RequestsVerified:
            self._forwarding.blame(event.liars)
            self._vouching.announce()
            self.ordering.on_requests()
        elif type(event) is Persisted:
            self.durable = max(self.durable, event.token)
            self.checkpoints.on_persisted()
            self._taking_part.on_persisted(self.durable)
            if self._delivery.logged(self.durable):
                self._on_room()
        elif type(event) is Executed:
            if self._delivery.executed(event.instance, event.results):
                self._on_room()
        elif type(event) is TimerFired:
            self._on_timer(event.timer)
        elif type(event) is PeerConnected:
            self._repetition.to_connected(event.peer)
        elif type(event) is ConsensusKeyMade:
            self.key_changes.on_made(event.signer)
        elif type(event) is Start:
            self._start(event.recovered)
        else:
            self._on_served(event)
        return self._taken()

    def _on_served(self, event: Input) -> None:
        """The host has read something for a peer, or has done something with a snapshot."""
        if type(event) is DecisionsServed:
            self._serving.served(event)
        else:
            self.transfer.on_event(event)

    def _on_room(self) -> None:
        """There may be room for decisions that wait, or for a proposal."""
        self.ordering.on_executed()
        self.catch_up.deliver()

    @property
    def changes(self) -> RegencyChanges:
        """What is remembered of the regency changes."""
        return self.ordering.changes

    @property
    def accepted(self) -> int:
        """The last instance in which this replica has sent an ACCEPT or knows the decision: none after it is decided
        with its vote.
        """
        return self.decided + int(self.guard.accepts(self.decided + 1))

    def status(self) -> dict[str, Any]:
        """Where this replica stands, for operators."""
        last = self.changes.last
        divergence = self.checkpoints.divergence() or self.transfer.divergence()
        return {
            "view": self.view.number,
            "regency": self.regency,
            "leader": self.leader,
            "decided": self.decided,
            "executed": self.executed,
            "agreed_time": self.agreed_time,
            "checkpoint": self.checkpoints.newest,
            "log_begins": self._serving.first(),
            "transferred": self.transfer.installed,
            "takes_part": not self.guard.suspended,
            "learns": self.learns,
            "regency_changes": self.changes.count,
            "last_regency_change": last.as_dict() if last is not None else None,
            "divergence": divergence.as_dict() if divergence is not None else None,
            "waiting_for": "; ".join(filter(None, (self.waiting_for(), self.checkpoints.waiting_for()))),
        }

    def waiting_for(self) -> str:
        """What the next decision or execution waits for, and from whom; empty while there is nothing to do."""
        return (
            self._taking_part.waiting_for()
            or self.transfer.waiting_for()
            or self.catch_up.waiting_for()
            or self.key_changes.waiting_for()
            or self.ordering.waiting_for()
            or self._waiting_for_requests()
        )

    def _waiting_for_requests(self) -> str:
        if self.executed < self.decided:
            return f"the application, which executes instance {self.executed + 1} of {self.decided}"
        if self.pool.oldest_pending() < 0:
            return waiting_for_room(self.pool)
        if self.leader != self.id:
            return f"the proposal of instance {self.decided + 1} from its leader, replica {self.leader}"
        return f"the verification of {self.pool.stats()['unverified']} requests, which it will propose as the leader"

    # Start

    def _start(self, recovered: RecoveredState) -> None:
        """Every start is the same: take up decisions and votes, re-execute, say again what we said."""
        self._started = True
        self._begin_with(recovered)
        for decision in recovered.decisions:
            self._deliver(decision, token=0)
        lost = "" if recovered.intact else LOST_VOTES
        key = self.keys.latest(self.id)
        self.signer = next((one for one in recovered.signers if one.public_key == key), self.signer)
        if self.signer.public_key != key:
            lost, recovered.votes = NO_KEY, RecoveredVotes()  # nothing can be signed for the next instance
        self.ordering.recover(recovered)
        self._taking_part.begin(recovered, lost)
        if recovered.sync is not None and not self.keys.any_changed():
            self._witness.saw_sync(recovered.sync, self.decided)
        self._repetition.begin()
        self.key_changes.begin()
        self.set_timer(Timer.REQUEST, self.parameters.request_timeout // REQUEST_LOOKS_PER_TIMEOUT)

    def _begin_with(self, recovered: RecoveredState) -> None:
        """The runtime has restored the application from the newest snapshot."""
        found = recovered.snapshots
        if found.newest is not None:
            self._delivery.begin_after(found.newest, found.manifests[-1])
        marks = [Mark(manifest.instance, manifest.size, manifest.digest) for manifest in found.manifests]
        self.checkpoints.recovered(marks, recovered.first)
        self.transfer.recovered(found)

    def section(self, instance: int) -> bytes:
        """What the core keeps beside the sessions, for the snapshot of an executed instance."""
        return self._delivery.section(instance)

    # What arrives

    def install(self, manifest: Manifest, snapshot: Snapshot) -> None:
        """A transferred snapshot takes the place of the instances that are gone."""
        if changed := self._delivery.begin_after(snapshot, manifest):
            self._on_keys_changed(changed)
        self.emit(InstallSnapshot(snapshot.instance, snapshot.state))
        self.checkpoints.installed(Mark(manifest.instance, manifest.size, manifest.digest))
        self.ordering.on_installed(snapshot.instance)
        self.catch_up.on_decided()
        self._taking_part.look()

    def _on_message(self, verified: Verified) -> None:
        sender, message = verified.sender, verified.message
        if isinstance(verified, Rehearsed):
            self._on_rehearsed(sender, message)
            return
        self._witness.saw(sender, message, self.decided)
        handler = self._message_handlers.get(type(message))
        if self.transfer.paused and (handler is None or isinstance(message, (Decision, Standing))):
            return  # as if it were lost: nothing is decided while the application's state is void
        if handler is None:
            self.ordering.on_message(sender, message)
        else:
            self.ordering.heard(sender, message.regency)
            handler(sender, message)

    def _on_rehearsed(self, sender: int, message: Message) -> None:
        if isinstance(message, Decision):
            self.transfer.on_rehearsed(sender, message)

    def adopt(self, sender: int, data: bytes) -> None:
        """Requests that were not ordered in time; the pool parses all of them before it takes the first.

        Their signatures are checked later (`Forwarding.blame`).
        """
        try:
            self.pool.admit(data, FROM_MEMBER + sender, self.now)
        except RemoteProtocolError as error:
            self.penalise(sender, f"passed on requests that are no request list: {error}")

    def _on_timer(self, timer: Timer) -> None:
        handler = self._timer_handlers.get(timer)
        if handler is None:
            self.ordering.on_timer(timer)
        else:
            handler()

    def _on_request_timer(self) -> None:
        self.pool.pass_time(self.now)
        self._forwarding.on_timer()
        self.key_changes.on_timer()

    # Answers

    def may_answer(self, to: int, answer: type[Message]) -> bool:
        """Whether a peer may get another answer of this kind now (`smartbft.core.answer_rates`)."""
        return self.rates.may(to, answer)

    def answer(self, to: int, message: Message, size: int = 0) -> None:
        """Send an answer, at the expense of the peer's budget. `size`: its bytes, where bytes are counted."""
        self.rates.charge(to, type(message), size)
        self.send(to, message)

    # The chassis: what the ordering protocol asks for, beside the effects

    def _accuse(self, accused: int, first: Statement, second: Statement) -> None:
        """A member has signed two statements that contradict each other."""
        entry = self._key_of(accused, first)
        key = entry.statement.encode() if entry is not None and entry.statement is not None else b""
        self.emit(ReportEvidence(accused, first, second, key))

    def _key_of(self, member: int, statement: Statement) -> KeyInForce | None:
        """Under which key of a member its statement counts: promises with the key of now."""
        return self.keys.entry_at(member, statement.instance if isinstance(statement, Accept) else self.keys.known)

    def last_proof(self) -> Proof | None:
        """The proof of the last decision; None before the first one."""
        return self._delivery.last_proof

    def durable_proof(self) -> Proof | None:
        """The proof of the last decision that is on record: a later one may hold an ACCEPT of ours that is not yet."""
        return self._delivery.durable_proof

    def decided_value(self, instance: int) -> bytes:
        """The encoded value of a decided instance, or b"" if it is not in memory any more."""
        return self._delivery.decided_value(instance)

    def overdue(self) -> bytes:
        """The pending requests that were not ordered in time, as a bounded request list."""
        return self._forwarding.overdue()

    def suspects(self) -> bool:
        """Whether the oldest pending request, or key statement, was forwarded and is still not ordered."""
        return self._forwarding.suspects or self.key_changes.suspects

    def watch_again(self) -> None:
        """A regency begins: the deadlines of pending requests start again."""
        self._forwarding.watch_again()
        self.key_changes.watch_again()

    def in_force(self, sync: Sync) -> bool:
        """Whether all who signed a SYNC, or the STOPDATA in it, did so with their keys of now."""
        return self.validator.in_force(sync)

    def statements(self) -> tuple[KeyStatement, ...]:
        """The key statements that wait to be ordered, as many as one value may hold."""
        return self.key_changes.statements()

    def is_behind(self) -> bool:
        """Whether more than `f` others say that they have decided more than one instance more."""
        return self.catch_up.is_behind()

    def may_propose(self) -> bool:
        """Not while too many decided batches wait for the application."""
        return self._delivery.backlog < MAX_EXECUTION_BACKLOG

    def may_decide(self) -> bool:
        """Not while the memory is full of decided batches: what the others go on to decide is fetched later."""
        return not self._delivery.full

    def batch_times(self) -> tuple[int, ...]:
        """The clock's, and the one after the agreed time.

        Clocks may have leapt beyond the lease of every session that has requests here, as when all machines slept.
        Nothing would advance the agreed time then, nor refuse them: their time is the agreed one.
        """
        return tuple(dict.fromkeys((max(self.now, self.agreed_time + 1), self.agreed_time + 1)))

    def could_propose(self) -> bool:
        """Not if the session of each pending request has lapsed by our clock, and is of a time that the agreed one has
        not reached: nobody orders such a request, and no leader is to blame.
        """
        size = self.parameters.max_batch_bytes
        return any(self.pool.form_batch(1, size, timestamp)[0] for timestamp in self.batch_times())

    def decide(self, instance: int, value: bytes, data: bytes, proof: Proof, logged: bool) -> None:
        """Deliver a decision: log it, execute it in parallel with the logging, go on with the next instance."""
        record = decision_record(instance, proof) if logged else decision_record(instance, proof, value, data)
        token = self.persist((record,))
        if changed := self._deliver(Decided(instance, value, data, proof), token):
            self._on_keys_changed(changed)
        self.ordering.on_decided(instance)
        self.catch_up.on_decided()
        self._taking_part.look()

    def _on_keys_changed(self, members: tuple[int, ...]) -> None:
        """From the next instance on these members vote with other keys: what was checked with the old ones is void."""
        for member in members:
            self._witness.forget(member)
        self.ordering.on_keys_changed(members)
        self.catch_up.on_keys_changed()
        self.key_changes.on_keys_changed(members)
        self._taking_part.on_keys_changed(members)

    def _deliver(self, decision: Decided, token: int) -> tuple[int, ...]:
        changed = self._delivery.deliver(decision, token)
        self._witness.decided(decision.proof)
        return changed

    def fetch_decision(self, instance: int, holders: tuple[int, ...]) -> None:
        """The instance is decided elsewhere: ask those who accepted its value."""
        for holder in holders:
            if holder != self.id:
                self.note_progress(holder, instance)

    def note_progress(self, peer: int, decided: int) -> None:
        """A hint that `peer` has decided all instances up to `decided`."""
        self.catch_up.note(peer, decided)

    def answer_with_decision(self, to: int, instance: int) -> None:
        """Send a decided instance to a peer that lacks it, at most one per resend interval unless it moves on."""
        self._serving.answer(to, instance)

    def serve_decisions(self, to: int, first: int, last: int) -> None:
        """Send decisions `first` to `last`, as far as they are durable here."""
        self._serving.serve(to, first, last)
