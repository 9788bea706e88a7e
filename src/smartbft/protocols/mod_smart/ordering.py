"""The normal phase of Mod-SMaRt (Algorithm 2): one consensus instance after another, each deciding a batch.

Only the current instance `i` and the one before are live. Messages for later instances wait in a bounded out-of-
context buffer; messages about older ones are answered with the decision.
"""

from __future__ import annotations

from smartbft.core.chassis import Chassis
from smartbft.core.inbox import Inbox
from smartbft.core.inputs import Timer
from smartbft.core.recovery import RecoveredVotes
from smartbft.limits import EARLY_INSTANCES_AHEAD, MAX_EARLY_MESSAGES_PER_SENDER
from smartbft.messages import Accept, FetchRequests, Message, Propose, RequestBodies, Write
from smartbft.protocols.vp_consensus import VPConsensus
from smartbft.types import Value

ConsensusMessage = Propose | Write | Accept


class ModSmart:
    """The ordering protocol at one replica.

    Attributes:
        regency: the installed regency (`creg` in the paper).
        current: the instance that is running or will run next (`currentCons`).
        previous: the instance before it, kept so that a delayed replica can finish it.
    """

    def __init__(self, chassis: Chassis) -> None:
        self.regency = 0
        self.current = VPConsensus(chassis, chassis.decided + 1, self.regency)
        self.previous: VPConsensus | None = None
        self._chassis = chassis
        self._last_batch = 0  # requests in our last proposal
        self._batch_due = 0  # when a wait for more requests ends; 0: nobody waits
        self._early: Inbox[ConsensusMessage] = Inbox(chassis.view.ids, MAX_EARLY_MESSAGES_PER_SENDER)

    @property
    def leader(self) -> int:
        """The id of the leader of the installed regency."""
        return self._chassis.view.leader(self.regency)

    def recover(self, votes: RecoveredVotes) -> None:
        """Take up the votes of the next instance, found in the log."""
        self.current = VPConsensus(self._chassis, self._chassis.decided + 1, self.regency)
        self.current.recover(votes)
        self.regency = self.current.regency

    # Messages

    def on_message(self, sender: int, message: Message) -> None:
        """A verified consensus message, or one about request bodies."""
        if isinstance(message, (Propose, Write, Accept)):
            self._on_consensus(sender, message)
        elif isinstance(message, FetchRequests):
            self._on_fetch_requests(sender, message)
        elif isinstance(message, RequestBodies) and message.instance == self.current.instance:
            self.current.on_bodies(sender, message)

    def _on_consensus(self, sender: int, message: ConsensusMessage) -> None:
        instance = self.current.instance
        if message.instance == instance and message.regency <= self.regency:
            self._deliver(self.current, sender, message)
        elif message.instance >= instance:
            # Early (or of a regency not installed here): the sender has decided what comes before.
            self._chassis.note_progress(sender, message.instance - 1)
            if message.instance <= instance + EARLY_INSTANCES_AHEAD:
                self._early.put(sender, message.instance, message)
        elif self.previous is None or message.instance < self.previous.instance:
            self._chassis.answer_with_decision(sender, message.instance)
        elif not self._deliver(self.previous, sender, message):
            # A vote of i - 1 that was here before: its sender repeats itself because it could not decide.
            self._chassis.answer_with_decision(sender, message.instance)

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
        if message.instance == self.current.instance:
            data = self.current.bodies(message.digests)
            if data:
                chassis.send(sender, RequestBodies(chassis.view.number, self.regency, message.instance, data))

    # Algorithm 2

    def on_requests(self) -> None:
        """Requests were verified or executed: go on with a proposal that waited for them, or propose."""
        self.current.consider()
        self._propose()

    def _propose(self) -> None:
        """Algorithm 2, lines 3-6: nothing is running, requests are pending: the leader proposes a fair batch."""
        chassis = self._chassis
        if self.leader != chassis.id or self.current.proposal is not None or not chassis.may_propose():
            return
        ready = chassis.pool.ready()
        if not ready or self._waits_for_more(ready):
            return
        self._batch_due = 0
        timestamp = max(chassis.now, chassis.agreed_time + 1)
        digests, data = chassis.pool.form_batch(
            chassis.parameters.max_batch_requests, chassis.parameters.max_batch_bytes, timestamp
        )
        if digests:
            value = Value(timestamp, digests)
            self._last_batch = value.count
            self.current.propose(value, data)

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
        self.previous = self.current
        self.previous.decided = True
        self.current = VPConsensus(self._chassis, instance + 1, self.regency)
        started = self.current
        for sender, message in self._early.take(started.instance):
            if self.current is started:
                self._on_consensus(sender, message)
        if self.current is started:
            self._propose()

    # Time

    def on_timer(self, timer: Timer) -> None:
        """FETCH: bodies are missing; HOLD: a timestamp may be due now; BATCH: the wait for more requests is over."""
        if timer == Timer.FETCH:
            self.current.fetch()
        elif timer == Timer.HOLD:
            self.current.consider()
        elif timer == Timer.BATCH and self._batch_due:
            self._batch_due = min(self._batch_due, self._chassis.now)
            self._propose()

    def resend(self, to: int | None) -> None:
        """Send our messages of `i` and `i - 1` again, as far as they are durable."""
        for consensus in (self.previous, self.current):
            for message in consensus.sent_messages() if consensus else ():
                if to is None:
                    self._chassis.broadcast(message)
                else:
                    self._chassis.send(to, message)

    def running(self) -> bool:
        """Whether an instance has begun and is not decided."""
        return self.current.begun()

    def logged(self, digest: bytes) -> bool:
        """Whether the log holds this value of the current instance."""
        return self.current.logged(digest)

    def waiting_for(self) -> str:
        """What the running instance waits for, in words."""
        return self.current.waiting_for() if self.running() else ""
