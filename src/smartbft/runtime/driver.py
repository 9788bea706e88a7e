"""The driver: hands inputs to the pure core and carries out the effects, in order, on one event loop.

Everything here runs per socket read, per protocol message or per batch; never per transaction. The driver owns no
socket and no file: it is given objects that do, so that tests can put others in their place.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from smartbft._fastpath.frames import MESSAGE, frame
from smartbft._fastpath.pool import RequestPool
from smartbft.core.effects import (
    Broadcast,
    CancelTimer,
    Effect,
    Execute,
    MakeConsensusKey,
    Penalise,
    Persist,
    RehearseBatch,
    Reply,
    ReportDivergence,
    ReportEvidence,
    ReportFault,
    Send,
    ServeDecisions,
    SetTimer,
    StoreChunk,
    VotesOnRecord,
)
from smartbft.core.inputs import (
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
from smartbft.core.recovery import RecoveredState
from smartbft.core.replica import Replica
from smartbft.core.validation import Validator
from smartbft.errors import ApplicationFailed, UnknownKey
from smartbft.messages import decode, encode
from smartbft.runtime.clocks import wall_clock
from smartbft.runtime.journal import Journal
from smartbft.runtime.verification import VerificationPump

logger = logging.getLogger(__name__)

# What comes of a message that was worth its while: something is recorded, or a transfer goes on.
_USEFUL = frozenset((Persist, StoreChunk, RehearseBatch))


class Peers(Protocol):
    """The channels to the other replicas."""

    def send(self, to: int, frame: bytes) -> None:
        """Send to one; lost if the channel is down."""

    def broadcast(self, frame: bytes) -> None:
        """Send to all."""

    def penalise(self, peer: int, reason: str) -> None:
        """Drop the channel of a peer that broke the protocol."""


class Clients(Protocol):
    """The connections of clients."""

    def write(self, replies: list[tuple[int, bytes]]) -> None:
        """Write `(source, frames)`."""


class Executor(Protocol):
    """Runs the application."""

    def execute(self, batch: Execute) -> None:
        """Queue a batch; `Driver.executed` is called with its results, in instance order."""


class Snapshots(Protocol):
    """Writes, serves, stores and installs snapshots."""

    def actions(self) -> dict[type[Any], Callable[[Any], None]]:
        """Who carries out which effect."""


class Keys(Protocol):
    """The consensus keys that a replica makes for itself."""

    def make(self, effect: MakeConsensusKey) -> None:
        """Make one; `Driver.take` gets it as `ConsensusKeyMade`."""

    def on_record(self, effect: VotesOnRecord) -> None:
        """The record of votes is intact again."""


class Driver:
    """Connects one core to the world.

    Args:
        core: the replica's state machine.
        validator: makes `Verified` messages.
        pool: the core's request pool.
        journal: the log, as tokens; `immediate` when nothing has to be waited for (memory mode).
        peers, clients, executor, snapshots: who carries out the effects.
        serve: reads old decisions from the log for a peer.
        report: keeps evidence against a member.
        keys: makes consensus keys.
        regulate: called after every turn: opens and closes the gates of the pool and of the sockets.
        fail: called with an error that ends the replica (DurabilityLost, InvariantViolation, or a bug). After
            ApplicationFailed the driver goes on until it is stopped, but takes no results any more.
        clock: the wall clock in microseconds.
    """

    def __init__(
        self,
        core: Replica,
        validator: Validator,
        pool: RequestPool,
        journal: Journal,
        *,
        immediate: bool,
        peers: Peers,
        clients: Clients,
        executor: Executor,
        snapshots: Snapshots,
        serve: Callable[[ServeDecisions], None],
        report: Callable[[ReportEvidence], None],
        keys: Keys,
        regulate: Callable[[], None],
        fail: Callable[[BaseException], None],
        clock: Callable[[], int] = wall_clock,
    ) -> None:
        self._core = core
        self._validator = validator
        self._pool = pool
        self._journal = journal
        self._immediate = immediate
        self._peers = peers
        self._clients = clients
        self._executor = executor
        self._regulate = regulate
        self._fail = fail
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._pump: VerificationPump | None = None
        self._inputs: deque[Input] = deque()
        self._held: deque[Reply] = deque()
        self._timers: dict[Timer, asyncio.TimerHandle] = {}
        self._running = False
        self._stopped = False
        self._executes = True  # False: the application has failed
        self._settling = False
        self._useful = 0  # effects that a message of use has
        self._actions: dict[type[Any], Callable[[Any], None]] = {
            Persist: journal.append,
            Send: self._send,
            Broadcast: self._broadcast,
            SetTimer: self._set_timer,
            CancelTimer: self._cancel_timer,
            Execute: executor.execute,
            Reply: self._reply,
            ServeDecisions: serve,
            Penalise: self._penalise,
            ReportEvidence: report,
            ReportDivergence: _report_divergence,
            ReportFault: lambda effect: logger.critical("%s", effect.reason),
            MakeConsensusKey: keys.make,
            VotesOnRecord: keys.on_record,
            **snapshots.actions(),
        }
        self._changes = core.changes
        self._changes_seen = 0

    # --- life ---

    def start(self, recovered: RecoveredState, pump: VerificationPump | None) -> None:
        """Begin with what the log held. `pump` is None when the application checks signatures itself."""
        self._pump = pump
        self.take(Start(recovered))

    def stop(self) -> None:
        """Take no further input; effects that are not carried out yet are lost, as in a crash."""
        self._stopped = True
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._inputs.clear()

    # --- what happens ---

    def message(self, sender: int, payload: bytes) -> float:
        """A MESSAGE frame from a peer.

        Returns:
            The seconds of CPU that it cost, if that was a waste: nothing came of it that is worth keeping. Many of a
            correct replica's are of that kind, too, but they are few, and cheap.

        Raises:
            RemoteProtocolError: it is malformed or invalid.
        """
        began, useful = time.thread_time(), self._useful
        try:
            verified = self._validator.validate(sender, decode(payload))
        except UnknownKey as error:
            logger.debug("dropped a message of replica %d: %s", sender, error)
        else:
            self.take(MessageReceived(verified))
        return time.thread_time() - began if self._useful == useful else 0.0

    def peer_connected(self, peer: int) -> None:
        """The channel to `peer` is up."""
        self.take(PeerConnected(peer))

    def requests_arrived(self) -> None:
        """Sockets fed the pool; looked after once per iteration of the loop, whatever the number of sockets."""
        if not self._settling:
            self._settling = True
            self._loop.call_soon(self._after_reads)

    def verdicts_ready(self) -> None:
        """The verifier's event."""
        try:
            if self._pump is not None and not self._stopped and self._pump.drain():
                self.take(RequestsVerified(self._pump.take_liars()))
        except Exception as error:
            self._end(error)

    def log_ready(self) -> None:
        """The log's event."""
        try:
            if not self._stopped:
                self._release()
                self._run()
        except Exception as error:
            self._end(error)

    def executed(self, instance: int, results: bytes) -> None:
        """The application has executed a batch."""
        self.take(Executed(instance, results))

    def take(self, event: Input) -> None:
        """Take one input, now or after those that are being carried out."""
        if self._stopped:
            return
        self._inputs.append(event)
        self._run()

    # --- the loop of inputs and effects ---

    def _run(self) -> None:
        if self._running:
            return
        self._running = True
        try:
            while self._inputs and not self._stopped:
                event = self._inputs.popleft()
                if type(event) is Executed and not self._executes:
                    continue
                self._carry_out(self._core.step(event, self._clock()))
                if self._immediate:
                    self._release()
                if self._changes.count != self._changes_seen:
                    self._note_regency_change()
            self._settle()
        except Exception as error:
            self._end(error)
        finally:
            self._running = False

    def _carry_out(self, effects: list[Effect]) -> None:
        actions = self._actions
        for effect in effects:
            kind = type(effect)
            self._useful += kind in _USEFUL
            actions[kind](effect)

    def _release(self) -> None:
        """What the log has reached may leave: first the messages that waited for it, then the replies."""
        journal = self._journal
        before = journal.released
        for effect in journal.release():
            self._actions[type(effect)](effect)
        released = journal.released
        if released != before:
            self._inputs.append(Persisted(released))
            while self._held and self._held[0].after <= released:
                reply = self._held.popleft()
                self._pool.release(reply.digests, reply.data)

    def _settle(self) -> None:
        """The end of every turn: the verifier gets work, the clients get what waits for them."""
        if self._pump is not None:
            self._pump.fill()
        replies = self._pool.take_replies()
        if replies:
            self._clients.write(replies)
        self._regulate()

    def _after_reads(self) -> None:
        self._settling = False
        if self._stopped:
            return
        if self._pump is None:
            self.take(RequestsVerified())
            return
        try:
            self._settle()
        except Exception as error:
            self._end(error)

    def _end(self, error: Exception) -> None:
        if isinstance(error, ApplicationFailed):
            self._executes = False
        else:
            self.stop()
        self._fail(error)

    # --- effects ---

    def _send(self, effect: Send) -> None:
        self._peers.send(effect.to, frame(MESSAGE, encode(effect.message)))

    def _broadcast(self, effect: Broadcast) -> None:
        self._peers.broadcast(frame(MESSAGE, encode(effect.message)))

    def forget_replies(self) -> None:
        """A snapshot takes the place of what was executed: its reply cache has what clients will ask for again."""
        self._held.clear()

    def _reply(self, effect: Reply) -> None:
        if effect.after <= self._journal.released:
            self._pool.release(effect.digests, effect.data)
        else:
            self._held.append(effect)

    def _set_timer(self, effect: SetTimer) -> None:
        self._cancel(effect.timer)
        self._timers[effect.timer] = self._loop.call_later(effect.delay / 1_000_000, self._fired, effect.timer)

    def _cancel_timer(self, effect: CancelTimer) -> None:
        self._cancel(effect.timer)

    def _cancel(self, timer: Timer) -> None:
        running = self._timers.pop(timer, None)
        if running is not None:
            running.cancel()

    def _fired(self, timer: Timer) -> None:
        self._timers.pop(timer, None)
        self.take(TimerFired(timer))

    def _penalise(self, effect: Penalise) -> None:
        self._peers.penalise(effect.peer, effect.reason)

    def _note_regency_change(self) -> None:
        """One line for each change of the leader: who, why, how long it took."""
        self._changes_seen = self._changes.count
        if self._changes.last is not None:
            logger.warning("the leader was replaced", extra=self._changes.last.as_dict())


def _report_divergence(effect: ReportDivergence) -> None:
    """Whether correct replicas have diverged is certain or not; the log says which."""
    found = effect.divergence
    logger.log(logging.CRITICAL if found.certain else logging.WARNING, "%s", found)
