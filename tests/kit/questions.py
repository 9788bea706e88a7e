"""A replica that has much to give, and all messages that one of its peers can send it, each as a question."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count, cycle

from nacl.signing import SigningKey

from kit.cluster import Cluster, Node, secret
from kit.regencies import install
from kit.requests import CHAIN, NOW
from kit.statements import DOMAINS, accept, proof, stop_data
from smartbft._fastpath.pool import encode_request, join_requests, request_digests
from smartbft.core.effects import Effect, ServeDecisions, ServeSnapshot
from smartbft.core.inputs import SnapshotTaken
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.limits import (
    ANSWER_COST_BYTES,
    DIGEST_BYTES,
    MAX_FETCH_HELD_DIGESTS,
    MAX_SNAPSHOT_BYTES,
    SNAPSHOT_CHUNK_BYTES,
)
from smartbft.messages import (
    Accept,
    Checkpoint,
    Decision,
    FetchCheckpoints,
    FetchChunk,
    FetchDecisions,
    FetchHeld,
    FetchManifest,
    FetchRequests,
    FetchStanding,
    FetchSync,
    FetchValue,
    Forward,
    Gone,
    HeldRequests,
    Hold,
    KeyAnnouncement,
    Message,
    Progress,
    Propose,
    ProposedValue,
    RequestBodies,
    SnapshotChunk,
    SnapshotManifest,
    Standing,
    Stop,
    StopData,
    Sync,
    Write,
    encode,
)
from smartbft.snapshots import snapshot_digest
from smartbft.types import CHANNEL, KeyStatement, Parameters, Value

LEADER, LIAR, PEER = 2, 3, 1  # of regency 1; the liar leads regency 2
_WINDOW = 64
_OPERATION = bytes(4096)
_DECIDED = 20
_BEGINS = 3  # the first decision that the leader's log still has
_SNAPSHOT = 10
_DIGEST = bytes(range(32))
_HASHES = bytes(DIGEST_BYTES)


def batch(number: int) -> list[bytes]:
    """Request lists of two clients, as large as one session may have them."""
    keys = [bytes(SigningKey((100 * number + client + 1).to_bytes(32, "little")).verify_key) for client in range(2)]
    numbers = range(1, _WINDOW + 1)
    return [join_requests([encode_request(key, NOW, at, _OPERATION, bytes(64)) for at in numbers]) for key in keys]


class Rich:
    """The leader of regency 1: it has decided large batches, has snapshots and requests that others lack, and an
    instance runs.
    """

    def __init__(self) -> None:
        self.cluster = Cluster(4, Parameters(batch_delay=0, request_authentication=CHANNEL))
        install(self.cluster)
        self.cluster.run()
        for number in range(_DECIDED):
            self._submit(number)
            self.cluster.run()
        self.node: Node = self.cluster.nodes[LEADER]
        assert self.node.replica.decided >= _DECIDED
        self._submit(_DECIDED)
        self.cluster.run(lambda envelope: not isinstance(envelope[2], Accept))
        held = [data for number in range(2) for data in batch(50 + number)]
        for source, data in enumerate(held):
            self.node.admit(data, 20 + source)
        self.held = b"".join(request_digests(CHAIN, data) for data in held)[: MAX_FETCH_HELD_DIGESTS * DIGEST_BYTES]
        for instance in (_SNAPSHOT - 1, _SNAPSHOT):
            self.node.step(SnapshotTaken(instance, MAX_SNAPSHOT_BYTES, _DIGEST))
        self.node.replica.checkpoints.first = _BEGINS
        self.running = self.node.ordering.current.instance
        self.value = self.node.ordering.current.proposal or b""
        self.node.now += 4 * self.cluster.parameters.resend_interval  # what was answered until now is long ago
        self.forget()

    def _submit(self, number: int) -> None:
        for source, data in enumerate(batch(number)):
            for node in self.cluster.nodes:
                node.admit(data, 7 + source)

    def forget(self) -> None:
        """What was said so far is of no interest."""
        self.cluster.drop_all()
        self.node.effects.clear()

    def ask(self, sender: int, questions: Iterator[Message], times: int) -> dict[type, list[int]]:
        """A peer asks without time passing. Returns the sizes of what it gets, by the class of the answer."""
        self.forget()
        for _, question in zip(range(times), questions, strict=False):
            self.node.receive(sender, question)
        return self.got(sender)

    def got(self, peer: int) -> dict[type, list[int]]:
        """What a peer was sent since `forget`."""
        found: dict[type, list[int]] = {}
        sent: list[tuple[type, int]] = [
            (type(message), len(encode(message))) for _, to, message in self.node.outbox if to == peer
        ]
        sent += [one for effect in self.node.effects for one in self._served(effect, peer)]
        for kind, size in sent:
            found.setdefault(kind, []).append(max(size, ANSWER_COST_BYTES))
        return found

    def _served(self, effect: Effect, peer: int) -> Iterator[tuple[type, int]]:
        if isinstance(effect, ServeDecisions) and effect.to == peer:
            for instance in range(effect.first, effect.last + 1):
                yield Decision, sum(len(p) for one in self.node.log if one.instance == instance for p in one.parts)
        elif isinstance(effect, ServeSnapshot) and effect.to == peer:
            size = MAX_SNAPSHOT_BYTES // SNAPSHOT_CHUNK_BYTES * DIGEST_BYTES
            yield (SnapshotManifest, size) if effect.chunk < 0 else (SnapshotChunk, SNAPSHOT_CHUNK_BYTES)

    def sync(self) -> Sync:
        """That of regency 1."""
        found = self.node.ordering._synchronization._sync
        assert found is not None
        return found

    def questions(self, kind: type[Message], sender: int = LIAR) -> Iterator[Message]:
        """Messages of one class without end, so varied that each could have another answer."""
        make = _MAKERS[kind]
        return (make(self, sender, number) for number in count())


def _old(rich: Rich, number: int) -> int:
    """An instance that is over: those of the log and the one that is in no log any more, in turn."""
    return 1 + number % (rich.running - 2)


def _propose(rich: Rich, sender: int, number: int) -> Propose:
    regency = next(at for at in cycle(range(4)) if rich.cluster.view.leader(at) == sender)
    return Propose(0, regency, _old(rich, number), rich.value)


def _decision(rich: Rich, _: int, number: int) -> Decision:
    known = rich.node.replica._delivery.recent.get(rich.running - 1 - number % 2)
    assert known is not None
    return Decision(0, 1, known[0].instance, known[0].value, known[0].data, known[0].proof)


def _fetch_requests(rich: Rich, _: int, number: int) -> FetchRequests:
    instance = rich.running if number % 2 else _old(rich, number)
    return FetchRequests(0, 1, instance, Value.decode(rich.value).digests)


def _fetch_value(rich: Rich, _: int, number: int) -> FetchValue:
    instance = _old(rich, number) if number % 8 == 7 else rich.running
    return FetchValue(0, 1, instance, DOMAINS.value_digest(rich.value))


def _fetch_decisions(rich: Rich, _: int, number: int) -> FetchDecisions:
    first = _old(rich, number)
    return FetchDecisions(0, 1, first, first)


def _stop_data(rich: Rich, sender: int, _: int) -> StopData:
    last = rich.node.replica.last_proof()
    return stop_data(sender, 1, rich.running, last=last)


def _checkpoint(_: Rich, sender: int, number: int) -> Checkpoint:
    payload = DOMAINS.checkpoint_payload(0, number, 100, _DIGEST)
    return Checkpoint(0, 1, number, 100, _DIGEST, Ed25519Signer(secret(sender)).sign(payload))


def _fetch_manifest(_: Rich, __: int, number: int) -> FetchManifest:
    return FetchManifest(0, 1, _SNAPSHOT - number % 3, _DIGEST)


def _fetch_chunk(_: Rich, __: int, number: int) -> FetchChunk:
    return FetchChunk(0, 1, _SNAPSHOT - number % 3, _DIGEST, number)


def _key_announcement(rich: Rich, sender: int, number: int) -> KeyAnnouncement:
    own, made = Ed25519Signer(secret(sender)), Ed25519Signer(number.to_bytes(32, "little"))
    content = (sender, rich.node.replica.keys.latest(sender) or b"", made.public_key)
    possession = made.sign(DOMAINS.possession_payload(0, *content))
    statement = KeyStatement(*content, possession, own.sign(DOMAINS.key_payload(0, *content)))
    return KeyAnnouncement(0, 1, statement.encode())


def _hold(_: Rich, __: int, number: int) -> Hold:
    return Hold(0, 1, b"".join(DOMAINS.value_digest(b"%d %d" % (number, at)) for at in range(8)))


def _manifest(_: Rich, __: int, number: int) -> SnapshotManifest:
    return SnapshotManifest(0, 1, 1 + number % 5, 100, snapshot_digest(_HASHES), _HASHES, proof(1 + number % 5))


_MAKERS: dict[type[Message], Callable[[Rich, int, int], Message]] = {
    Propose: _propose,
    Write: lambda rich, _, number: Write(0, 1, _old(rich, number), _DIGEST),
    Accept: lambda rich, sender, number: accept(sender, 1, _old(rich, number), _DIGEST),
    Decision: _decision,
    FetchRequests: _fetch_requests,
    RequestBodies: lambda rich, _, __: RequestBodies(0, 1, rich.running, batch(_DECIDED)[0]),
    Forward: lambda _, __, number: Forward(0, 1, batch(60 + number % 2)[0]),
    FetchDecisions: _fetch_decisions,
    Progress: lambda _, __, number: Progress(0, 0, number),
    Stop: lambda _, __, number: Stop(0, number % 2, 2 + number, b""),
    StopData: _stop_data,
    Sync: lambda rich, _, __: rich.sync(),
    FetchSync: lambda _, __, number: FetchSync(0, number % 2),
    FetchValue: _fetch_value,
    ProposedValue: lambda rich, _, __: ProposedValue(0, 1, rich.running, rich.value),
    Hold: _hold,
    FetchHeld: lambda rich, _, __: FetchHeld(0, 1, rich.held),
    HeldRequests: lambda _, __, number: HeldRequests(0, 1, batch(70 + number % 2)[0]),
    Checkpoint: _checkpoint,
    FetchCheckpoints: lambda _, __, ___: FetchCheckpoints(0, 1),
    Gone: lambda _, __, number: Gone(0, 1, number),
    FetchManifest: _fetch_manifest,
    SnapshotManifest: _manifest,
    FetchChunk: _fetch_chunk,
    SnapshotChunk: lambda _, __, number: SnapshotChunk(0, 1, _SNAPSHOT, _DIGEST, number, b"chunk"),
    FetchStanding: lambda _, __, number: FetchStanding(0, 1, number),
    Standing: lambda _, __, number: Standing(0, 1, number, None, None, None),
    KeyAnnouncement: _key_announcement,
}
