"""The normal phase of Mod-SMaRt (Algorithm 2): one consensus instance after another, each deciding a batch.

What happens when the leader fails is in `smartbft.protocols.mod_smart.synchronization`.

Only the current instance `i` and the one before are live. Messages for later instances wait in a bounded out-of-
context buffer; messages about older ones are answered with the decision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from smartbft.core.chassis import Chassis
from smartbft.core.effects import Record
from smartbft.core.inbox import Inbox
from smartbft.core.inputs import Timer
from smartbft.core.recovery import RecoveredState
from smartbft.core.regency_changes import RegencyChanges
from smartbft.limits import EARLY_INSTANCES_AHEAD, MAX_EARLY_MESSAGES_PER_SENDER
from smartbft.messages import Accept, FetchRequests, Message, Proof, Propose, RequestBodies, Vote, Write
from smartbft.protocols.mod_smart.leader_watch import LeaderWatch
from smartbft.protocols.mod_smart.synchronization import Synchronization
from smartbft.protocols.vp_consensus import VPConsensus
from smartbft.types import Value

ConsensusMessage = Propose | Write | Accept


class ModSmart:
    """The ordering protocol at one replica.

    Attributes:
        current: the instance that is running or will run next (`currentCons`).
        previous: the instance before it, kept so that a delayed replica can finish it.
    """

    def __init__(self, chassis: Chassis) -> None:
        self._chassis = chassis
        self.current = VPConsensus(chassis, chassis.decided + 1, self.regency)
        self.previous: VPConsensus | None = None
        self._synchronization = Synchronization(chassis, self)
        self._watch = LeaderWatch(chassis, self)
        self._last_batch = 0  # requests in our last proposal
        self._batch_due = 0  # when a wait for more requests ends; 0: nobody waits
        self._bodies_sent: dict[int, tuple[int, int]] = {}  # peer -> the instance it asked about, and when it was told
        self._seen: dict[int, Vote] = {}
        self._seen_accepts: dict[int, Accept] = {}
        self._early: Inbox[ConsensusMessage] = Inbox(chassis.view.ids, MAX_EARLY_MESSAGES_PER_SENDER)
        self._handlers: dict[type[Message], Callable[[int, Any], None]] = {
            **dict.fromkeys((Propose, Write, Accept), self._on_vote),
            FetchRequests: self._on_fetch_requests,
            RequestBodies: self._on_request_bodies,
            **self._synchronization.handlers(),
        }

    @property
    def regency(self) -> int:
        """The installed regency (`creg` in the paper)."""
        return self._chassis.guard.regency

    @property
    def changes(self) -> RegencyChanges:
        """What is remembered of the regency changes."""
        return self._synchronization.changes

    @property
    def timeout(self) -> int:
        """Microseconds from a request's arrival to the suspicion of the leader."""
        return self._synchronization.timeout

    @property
    def leader(self) -> int:
        """The id of the leader of the installed regency."""
        return self._chassis.view.leader(self.regency)

    def recover(self, recovered: RecoveredState) -> None:
        """Take up the regency and the votes of the next instance, found in the log."""
        self._synchronization.recover(recovered)
        self.current = VPConsensus(self._chassis, self._chassis.decided + 1, self.regency)
        self.current.recover(recovered.votes)
        self._synchronization.resume()

    # Messages

    def on_message(self, sender: int, message: Message) -> None:
        """A verified consensus message, one about request bodies, or one of the synchronization phase."""
        if message.regency != self.regency:
            self._synchronization.heard(sender, message.regency)
        self._handlers[type(message)](sender, message)

    def heard(self, sender: int, regency: int) -> None:
        """`sender` shows that it is in `regency`."""
        if regency != self.regency:
            self._synchronization.heard(sender, regency)

    def _on_vote(self, sender: int, message: ConsensusMessage) -> None:
        self._note_vote(sender, message)
        self._on_consensus(sender, message)

    def _note_vote(self, sender: int, message: ConsensusMessage) -> None:
        seen = self._seen.get(sender)
        if seen is None or (seen.instance, seen.regency) < (message.instance, message.regency):
            self._seen[sender] = Vote(message.instance, message.regency)
        if isinstance(message, Accept):
            last = self._seen_accepts.get(sender)
            if last is None or (last.instance, last.regency) < (message.instance, message.regency):
                self._seen_accepts[sender] = message

    def prove(self, proof: Proof) -> None:
        """A valid proof that somebody showed: if it is of the running instance, it decides."""
        self.current.prove(proof)

    def seen_of(self, member: int) -> tuple[Vote | None, Accept | None]:
        """The highest vote seen from a member, and its highest signed one."""
        return self._seen.get(member), self._seen_accepts.get(member)

    def take_part(self) -> None:
        """The start is over: say again what was promised, and go on with what came meanwhile."""
        self._synchronization.take_part()
        self.resend(None)
        self.current.go_on()
        self._take_early(self.current)

    def _on_consensus(self, sender: int, message: ConsensusMessage) -> None:
        instance = self.current.instance
        if message.instance == instance and self._in_time(message):
            self._deliver(self.current, sender, message)
        elif message.instance >= instance:
            # Early (or of a regency not installed here): the sender has decided what comes before.
            self._chassis.note_progress(sender, message.instance - 1)
            if message.instance <= instance + EARLY_INSTANCES_AHEAD:
                self._early.put(sender, message.instance, message)
        elif self.previous is None or message.instance < self.previous.instance:
            self._chassis.answer_with_decision(sender, message.instance)
        elif message.regency > self.previous.regency or not self._deliver(self.previous, sender, message):
            # A vote of i - 1 that was here before: its sender repeats itself because it could not decide. Or one of a
            # later regency than it was decided in here: votes are kept per regency, so these would have no end.
            self._chassis.answer_with_decision(sender, message.instance)

    def _in_time(self, message: ConsensusMessage) -> bool:
        """Not of a regency to come; and no proposal before its regency has begun."""
        if message.regency == self.regency and isinstance(message, Propose):
            return self._chassis.guard.synchronized
        return message.regency <= self.regency

    @staticmethod
    def _deliver(consensus: VPConsensus, sender: int, message: ConsensusMessage) -> bool:
        if isinstance(message, Write):
            return consensus.on_write(sender, message)
        if isinstance(message, Accept):
            return consensus.on_accept(sender, message)
        consensus.on_propose(sender, message)
        return not consensus.decided

    def _on_fetch_requests(self, sender: int, message: FetchRequests) -> None:
        chassis = self._chassis
        if message.instance < self.current.instance:
            chassis.answer_with_decision(sender, message.instance)
            return
        if message.instance == self.current.instance and self._may_have_bodies(sender):
            data = self.current.bodies(message.digests)
            if data:
                self._bodies_sent[sender] = (message.instance, chassis.now)
                bodies = RequestBodies(chassis.view.number, self.regency, message.instance, data)
                chassis.answer(sender, bodies, len(data))

    def _on_request_bodies(self, sender: int, message: RequestBodies) -> None:
        if message.instance == self.current.instance:
            self.current.on_bodies(sender, message)

    def _may_have_bodies(self, peer: int) -> bool:
        """Whether a peer has not had bodies of this instance a moment ago: whoever misses some asks others in turn."""
        instance, at = self._bodies_sent.get(peer, (0, 0))
        pause = self._chassis.parameters.resend_interval // 2
        again = instance != self.current.instance or abs(self._chassis.now - at) >= pause
        return again and self._chassis.may_answer(peer, RequestBodies)

    # Algorithm 2

    def on_requests(self) -> None:
        """Requests were verified: go on with a proposal that waited for them, or propose."""
        self.current.consider()
        self._propose()
        self._watch.look()

    def on_executed(self) -> None:
        """The application is done with a batch: there may be room for the decision that waits, or for a proposal."""
        self.current.go_on()
        self._propose()
        self._watch.look()

    def _propose(self) -> None:
        """Algorithm 2, lines 3-6: nothing is running, requests are pending: the leader proposes a fair batch."""
        chassis = self._chassis
        if self.leader != chassis.id or self.current.proposal is not None or not chassis.may_propose():
            return
        ready = chassis.pool.ready()
        if not chassis.guard.synchronized or not (ready or chassis.statements()) or self._waits_for_more(ready):
            return
        value, data = self._form_batch()
        if value is not None:
            self.current.propose(value, data)

    def _form_batch(self) -> tuple[Value | None, bytes]:
        chassis = self._chassis
        limits = chassis.parameters.max_batch_requests, chassis.parameters.max_batch_bytes
        self._batch_due = 0
        statements = chassis.statements()
        times = chassis.batch_times()
        for timestamp in times:
            digests, data = chassis.pool.form_batch(*limits, timestamp)
            if digests:
                value = Value(timestamp, digests, statements)
                self._last_batch = value.count
                return value, data
        return (Value(times[0], b"", statements), b"") if statements else (None, b"")

    def form_value(self) -> tuple[bytes, bytes]:
        """What a new leader proposes where nothing binds: an encoded value and its requests; empty without any."""
        value, data = self._form_batch() if self._chassis.may_propose() else (None, b"")
        return (value.encode(), data) if value is not None else (b"", b"")

    def _waits_for_more(self, ready: int) -> bool:
        """Whether to let more requests join the batch: all of them share one instance's votes and syncs.

        More are on their way while some are being verified, and while fewer are here than the last batch had: clients
        that wait for a reply come back soon after it. A lone client never waits; nobody waits longer than the batch
        delay.
        """
        chassis = self._chassis
        if ready >= chassis.parameters.max_batch_requests:
            return False
        if ready >= self._last_batch and not chassis.pool.stats()["unverified"]:
            return False
        if not self._batch_due:
            self._batch_due = chassis.now + chassis.parameters.batch_delay
            if chassis.parameters.batch_delay:
                chassis.set_timer(Timer.BATCH, chassis.parameters.batch_delay)
        return chassis.now < self._batch_due

    def on_decided(self, instance: int) -> None:
        """Algorithm 2, line 12: the instance is over; the next one takes up what came early for it."""
        self._chassis.cancel_timer(Timer.FETCH)
        self._chassis.cancel_timer(Timer.HOLD)
        self._watch.decided(self.current)
        self.previous = self.current
        self.previous.decided = True
        self.current = VPConsensus(self._chassis, instance + 1, self.regency)
        self._synchronization.on_decided()
        if why := self.too_slow():
            self._synchronization.suspect(why, b"")
        self._take_early(self.current)

    def on_installed(self, instance: int) -> None:
        """A snapshot stands for everything up to `instance`."""
        for timer in (Timer.FETCH, Timer.HOLD, Timer.BATCH):
            self._chassis.cancel_timer(timer)
        self._batch_due = 0
        self._watch.forget()
        self.previous = None
        self.current = VPConsensus(self._chassis, instance + 1, self.regency)
        self._synchronization.on_decided()
        self._take_early(self.current)

    def standing_records(self) -> tuple[Record, ...]:
        """The installed regency and how it began."""
        return self._synchronization.standing_records()

    def _take_early(self, started: VPConsensus) -> None:
        """Go on with what came early for the instance that starts (or starts again, in a new regency)."""
        for sender, message in self._early.take(started.instance):
            if self.current is started:
                self._on_consensus(sender, message)
        if self.current is started:
            self._propose()
            self._watch.look()

    # New consensus keys

    def on_keys_changed(self, members: tuple[int, ...]) -> None:
        """These members vote with other keys from the next instance: forget what was checked with the old ones."""
        for member in members:
            self._early.drop(member)
            self._seen_accepts.pop(member, None)
        self._synchronization.on_keys_changed(members)

    def promise_anew(self) -> None:
        """Our own key is another from now on: promise a regency with it."""
        self._synchronization.promise_anew()

    # The synchronization phase

    def leave_regency(self, failed: bool) -> None:
        """A new regency is installed: nothing more is proposed, written or accepted in the old one."""
        for timer in (Timer.FETCH, Timer.HOLD, Timer.BATCH):
            self._chassis.cancel_timer(timer)
        self._batch_due = 0
        self._watch.leave(failed)
        self.current.enter(self.regency)

    def begin_regency(self) -> None:
        """The SYNC of the installed regency has come: go on as in the normal phase."""
        self._take_early(self.current)

    def suspect(self, data: bytes) -> None:
        """Forwarded requests are still not ordered: the leader fails."""
        self._synchronization.suspect(f"requests were not ordered within {self.timeout / 1e6:g} s", data)

    def too_slow(self) -> str:
        """Why the leader is too slow to keep, in words; empty: it is not."""
        delays = self._watch.delays
        return delays.in_words(self._chassis.now) if delays.too_slow else ""

    # Time

    def on_timer(self, timer: Timer) -> None:
        """FETCH: bodies are missing; HOLD: a timestamp may be due now; BATCH: no more waiting for requests; PROPOSAL:
        the leader takes long.
        """
        if timer == Timer.FETCH:
            self.current.fetch()
        elif timer == Timer.HOLD:
            self.current.consider()
        elif timer == Timer.BATCH and self._batch_due:
            self._batch_due = min(self._batch_due, self._chassis.now)
            self._propose()
        elif timer == Timer.PROPOSAL:
            self._watch.on_timer()
        elif timer in (Timer.REGENCY, Timer.VALUE):
            self._synchronization.on_timer(timer)

    def resend(self, to: int | None) -> None:
        """Send what binds us in `i`, in `i - 1` and in the regency again, as far as it is durable."""
        guard = self._chassis.guard
        self.current.ask_for_value()  # a question binds nobody: a replica that starts may need it to know where it is
        if guard.suspended and not guard.follows:
            return
        if not guard.suspended:
            # Before the STOPDATA that tells of them: after a restart they may not have left before.
            self._resend_votes(to)
        self._synchronization.resend(to)

    def _resend_votes(self, to: int | None) -> None:
        for consensus in (self.previous, self.current):
            for message in consensus.sent_messages() if consensus else ():
                self._chassis.tell(to, message)

    def running(self) -> bool:
        """Whether an instance has begun and is not decided, or a regency change is under way."""
        return self.current.begun() or self.changing()

    def changing(self) -> bool:
        """Whether a regency change is under way: it is driven by repetition, whatever else goes on."""
        return self._synchronization.running()

    def logged(self, digest: bytes) -> bool:
        """Whether the log holds this value of the current instance."""
        return self.current.logged(digest)

    def waiting_for(self) -> str:
        """What the regency change or the running instance waits for, in words."""
        if self.changing():
            return self._synchronization.waiting_for()
        return self.current.waiting_for() if self.current.begun() else ""
