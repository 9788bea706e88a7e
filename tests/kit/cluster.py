"""A lockstep cluster of pure replicas: messages move when the test says so, disks complete when the test says so.

Smaller than the simulator on purpose: for tests that look at single steps of the protocol.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from nacl.signing import SigningKey

from kit.requests import CHAIN, NOW
from smartbft._fastpath.pool import FROM_MEMBER, RequestPool, join_results, split_requests
from smartbft.core.effects import (
    Broadcast,
    Effect,
    Execute,
    MakeConsensusKey,
    Penalise,
    Persist,
    Record,
    Reply,
    Send,
    ServeDecisions,
    SetTimer,
    VotesOnRecord,
)
from smartbft.core.inputs import (
    ConsensusKeyMade,
    DecisionsServed,
    Executed,
    Input,
    MessageReceived,
    Persisted,
    RequestsVerified,
    Start,
    Timer,
    TimerFired,
)
from smartbft.core.recovery import RecoveredState, recover
from smartbft.core.replica import SYNC_LEVEL, Replica
from smartbft.core.vouching import pool_arguments
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Ed25519KeyVerifier, Ed25519Signer
from smartbft.messages import FetchStanding, Message, Standing, decode, encode
from smartbft.protocols.mod_smart import ModSmart
from smartbft.types import CHANNEL, Member, Parameters, View

Envelope = tuple[int, int, Message]  # from, to, message


def secret(replica: int) -> bytes:
    return bytes([100 + replica]) * 32


def make_view(n: int = 4) -> View:
    keys = [bytes(SigningKey(secret(replica)).verify_key) for replica in range(n)]
    return View(0, tuple(Member(replica, key, key) for replica, key in enumerate(keys)))


def make_pool(parameters: Parameters, replica: int = 0, view: View | None = None) -> RequestPool:
    return RequestPool(
        CHAIN,
        replica=replica,
        window=parameters.window,
        max_requests=10_000,
        max_bytes=1 << 24,
        max_operation_bytes=4096,
        max_sessions=1000,
        max_sessions_per_key=4,
        max_unverified_per_source=1000,
        lease=parameters.session_lease,
        skew=parameters.clock_skew,
        **pool_arguments(parameters, view or make_view(), replica),
    )


class Node:
    """One replica with a log that is a list, an application that echoes, and everything it did, on record."""

    def __init__(
        self,
        id: int,
        view: View,
        parameters: Parameters,
        records: list[Record] | None = None,
        *,
        signers: Sequence[Ed25519Signer] = (),
        intact: bool = True,
    ) -> None:
        self.id = id
        self.signers = list(signers)  # of consensus keys made after the first
        self.intact = intact
        self.wants_key = False
        self.on_record = False
        self.view = view
        self.domains = Domains(CHAIN)
        self.pool = make_pool(parameters, id, view)
        self.replica = Replica(
            id,
            view,
            self.domains,
            Ed25519Signer(secret(id)),
            self.pool,
            parameters,
            permanent=Ed25519Signer(secret(id)),
            verifier=Ed25519KeyVerifier(),
            level=SYNC_LEVEL,
            ordering=ModSmart,
            make_pool=lambda: make_pool(parameters, id, view),
        )
        self.validator = self.replica.validator
        self.now = NOW
        self.log: list[Record] = list(records or [])
        self.effects: list[Effect] = []
        self.outbox: list[Envelope] = []
        self.executed: list[Execute] = []
        self.replies: list[Reply] = []
        self.unsynced: deque[Persist] = deque()
        self.disk_blocked = False
        self.application_blocked = False
        self.step(Start(self.recovered()))

    def introduce(self, others: Sequence[Node] = ()) -> None:
        """Have the questions of the start answered: by `others`, or as replicas that know nothing would."""
        asked = [m for _, to, m in self.outbox if isinstance(m, FetchStanding)]
        self.outbox = [envelope for envelope in self.outbox if not isinstance(envelope[2], FetchStanding)]
        if not asked:
            return
        for other in others:
            other.receive(self.id, asked[0])
            answers = [m for _, to, m in other.outbox if isinstance(m, Standing) and to == self.id]
            other.outbox = [envelope for envelope in other.outbox if not isinstance(envelope[2], Standing)]
            self.receive(other.id, answers[-1])
        for peer in self.view.ids if not others else ():
            if peer != self.id:
                self.receive(peer, Standing(self.view.number, 0, asked[0].token, None, None, None))

    def recovered(self) -> RecoveredState:
        state = recover(((r.kind, r.instance, b"".join(r.parts)) for r in self.log), self.domains)
        state.intact, state.signers = self.intact, list(self.signers)
        return state

    def make_key(self, number: int = 0) -> Ed25519Signer:
        """Answer the replica's question for a new consensus key."""
        assert self.wants_key
        self.wants_key = False
        signer = Ed25519Signer(bytes([200 + 8 * number + self.id]) * 32)
        self.signers.append(signer)
        self.step(ConsensusKeyMade(signer))
        return signer

    @property
    def ordering(self) -> ModSmart:
        ordering = self.replica.ordering
        assert isinstance(ordering, ModSmart)
        return ordering

    def step(self, event: Input) -> list[Effect]:
        effects = self.replica.step(event, self.now)
        self.effects.extend(effects)
        for effect in effects:
            self._perform(effect)
        self.complete_disk()
        self.complete_application()
        return effects

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Send):
            self.outbox.append((self.id, effect.to, effect.message))
        elif isinstance(effect, Broadcast):
            self.outbox.extend((self.id, to, effect.message) for to in self.view.ids if to != self.id)
        elif isinstance(effect, Persist):
            self.unsynced.append(effect)
        elif isinstance(effect, Execute):
            self.executed.append(effect)
        elif isinstance(effect, MakeConsensusKey):
            self.wants_key = True
        elif isinstance(effect, VotesOnRecord):
            self.on_record = True
        elif isinstance(effect, ServeDecisions):
            wanted = (one for one in self.log if effect.first <= one.instance <= effect.last)
            self.step(DecisionsServed(effect, sum(len(part) for one in wanted for part in one.parts)))
        elif isinstance(effect, Reply):
            self.replies.append(effect)
            self.pool.release(effect.digests, effect.data)

    def complete_disk(self) -> None:
        while self.unsynced and not self.disk_blocked:
            write = self.unsynced.popleft()
            self.log.extend(write.records)
            for effect in write.then:
                self._perform(effect)
            self.step(Persisted(write.token))

    def complete_application(self) -> None:
        while not self.application_blocked and len(self.executed) > self.replica.executed:
            execute = self.executed[self.replica.executed]
            results = join_results([operation for _, _, _, operation, _ in split_requests(execute.data)])
            self.step(Executed(execute.instance, results))

    def admit(self, data: bytes, source: int = 7) -> None:
        """Requests arrive from a client connection and are verified."""
        if self.replica.parameters.request_authentication == CHANNEL:
            ((key, *_), *_) = split_requests(data)
            self.pool.holds.prove(source, key)
        self.pool.admit(data, source, self.now)
        self.verify()

    def verify(self) -> None:
        liars = []
        while (job := self.pool.take_unverified(1000)) is not None:
            bad = self.pool.apply_verdicts(job, job.run())
            liars += [(source - FROM_MEMBER, count) for source, count in bad if source >= FROM_MEMBER]
        self.step(RequestsVerified(tuple(liars)))

    def receive(self, sender: int, message: Message) -> list[Effect]:
        """A message as it comes from the wire: decoded, validated, stepped; then verification catches up."""
        effects = self.step(MessageReceived(self.validator.validate(sender, decode(encode(message)))))
        if self.pool.stats()["unverified"]:
            self.verify()
        return effects

    def fire(self, timer: Timer) -> list[Effect]:
        return self.step(TimerFired(timer))

    def timers(self) -> list[Timer]:
        return [effect.timer for effect in self.effects if isinstance(effect, SetTimer)]

    def penalties(self) -> list[Penalise]:
        return [effect for effect in self.effects if isinstance(effect, Penalise)]

    def served(self) -> list[ServeDecisions]:
        return [effect for effect in self.effects if isinstance(effect, ServeDecisions)]


class Cluster:
    """n nodes and the messages between them."""

    def __init__(self, n: int = 4, parameters: Parameters | None = None) -> None:
        self.parameters = parameters or Parameters()
        self.view = make_view(n)
        self.nodes = [Node(id, self.view, self.parameters) for id in range(n)]
        for node in self.nodes:
            node.introduce([other for other in self.nodes if other is not node])
        self.delivered: list[Envelope] = []
        self.drop_all()

    @property
    def leader(self) -> Node:
        return self.nodes[self.nodes[0].replica.leader]

    @property
    def followers(self) -> list[Node]:
        return [node for node in self.nodes if node is not self.leader]

    def drop_all(self) -> None:
        for node in self.nodes:
            node.outbox.clear()

    def restart(self, id: int) -> Node:
        """A crash and a restart: what was in the log is all that is left."""
        before = self.nodes[id]
        node = self.nodes[id] = Node(id, self.view, self.parameters, before.log, signers=before.signers)
        node.introduce([other for other in self.nodes if other is not node])
        return node

    def wipe(self, id: int) -> Node:
        """A crash and a restart without the log: the replica does not know what it has voted."""
        node = self.nodes[id] = Node(id, self.view, self.parameters, intact=False)
        return node

    def submit(self, data: bytes, to: list[int] | None = None) -> None:
        for node in self.nodes:
            if to is None or node.id in to:
                node.admit(data)

    def run(self, passes: Callable[[Envelope], bool] = lambda envelope: True) -> None:
        """Deliver messages, oldest first per node, until nothing moves; those that do not pass are lost."""
        while any(node.outbox for node in self.nodes):
            for node in self.nodes:
                envelopes, node.outbox = node.outbox, []
                for envelope in envelopes:
                    if passes(envelope):
                        sender, to, message = envelope
                        self.delivered.append(envelope)
                        self.nodes[to].receive(sender, message)

    def executions(self) -> list[list[bytes]]:
        return [[execute.data for execute in node.executed] for node in self.nodes]
