"""A member with valid keys says anything it likes, in regency changes too: all that comes of it is
`RemoteProtocolError` or a penalty, never another exception. Correct replicas never execute different batches, and hold
evidence against nobody but the liar.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable

import pytest
from kit.cluster import Cluster, Node, secret
from kit.mutation import Mutator, executions
from kit.requests import CHAIN, NOW, TestClient
from msgspec.structs import replace

from smartbft._fastpath.pool import request_digests
from smartbft.core.effects import ReportEvidence
from smartbft.core.evidence import make_evidence, verify
from smartbft.core.inputs import Timer
from smartbft.core.replica import Replica
from smartbft.core.validation import Validator
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import InvariantViolation, RemoteProtocolError
from smartbft.messages import (
    Accept,
    Accepted,
    Decision,
    FetchDecisions,
    FetchRequests,
    FetchStanding,
    FetchSync,
    FetchValue,
    Forward,
    Message,
    Progress,
    Proof,
    Propose,
    ProposedValue,
    RequestBodies,
    Standing,
    Stop,
    StopData,
    Sync,
    Write,
    Written,
    decode,
    encode,
    stop_data_statement,
    sync_statement,
)
from smartbft.types import Value

EXTREMES = (0, 1, 2**31, 2**62)


class Liar:
    """Makes messages of replica `id`, rightly signed, about what is going on or about anything."""

    def __init__(self, id: int, cluster: Cluster, draw: random.Random, mutator: Mutator) -> None:
        self.id = id
        self.cluster = cluster
        self.draw = draw
        self.mutator = mutator
        self.signer = Ed25519Signer(secret(id))
        self.domains = Domains(CHAIN)
        self.clients = [TestClient(100 + number) for number in range(3)]
        self.data = [client.requests(b"lie %d" % client.session) for client in self.clients]
        self.values = [Value(NOW + 1, request_digests(CHAIN, self.data[0])).encode()]
        self.heard: dict[int, dict[int, StopData]] = {}  # what others have promised: regency -> signer -> STOPDATA
        self.proofs: list[Proof | None] = [None]

    def hear(self, message: Message) -> None:
        """What correct replicas say can be used against them."""
        if isinstance(message, Propose):
            self.values.append(message.value)
        elif isinstance(message, StopData):
            self.heard.setdefault(message.regency, {})[message.signer] = message
            self.proofs.append(message.proof)
        elif isinstance(message, Sync):
            for promise in message.stop_data:
                self.hear(promise)

    def number(self, near: int) -> int:
        return self.draw.choice([near, near, near, near + 1, max(0, near - 1), *EXTREMES])

    def requests(self) -> bytes:
        data = self.draw.choice(self.data)
        return self.mutator.mutate(data) if self.draw.random() < 0.3 else data

    def value(self) -> bytes:
        if self.draw.random() < 0.5:
            return self.draw.choice(self.values)
        timestamp = self.draw.choice([NOW, NOW + self.draw.randrange(10**6), 0, 2**64 - 1])
        return Value(timestamp, self.digests()).encode()

    def digests(self) -> bytes:
        return b"".join(self.draw.choice([bytes(32), request_digests(CHAIN, self.data[0])]) for _ in range(2))

    def proof(self, regency: int, instance: int, digest: bytes) -> Proof:
        payload = self.domains.accept_payload(0, regency, instance, digest)
        members = self.draw.choice([(self.id,), (0, 1, 2), (self.id, self.id, self.id)])
        return Proof(0, regency, instance, digest, tuple((member, self.signer.sign(payload)) for member in members))

    def regency(self, target: Node) -> int:
        now = target.replica.regency
        return self.draw.choice([now, now, now, now, now + 1, max(0, now - 1), 2**62])

    def promise(self, regency: int, instance: int, digest: bytes) -> StopData:
        """A STOPDATA: one that was heard, or our own with anything in it that passes for a lock or a write."""
        draw = self.draw
        heard = list(self.heard.get(regency, {}).values())
        if heard and draw.random() < 0.3:
            return draw.choice(heard)
        older = draw.choice([0, max(0, regency - 1), regency])
        lock = draw.choice([None, Accepted(older, digest)])
        written = draw.choice([(), (Written(digest, older),), (Written(digest, older), Written(digest, 0))])
        last = draw.choice([*self.proofs, self.proof(0, max(0, instance - 1), digest)])
        unsigned = StopData(0, regency, self.id, instance, lock, written, last, bytes(64))
        payload = self.domains.stop_data_payload(stop_data_statement(unsigned))
        return replace(unsigned, signature=self.signer.sign(payload))

    def sync(self, regency: int, instance: int, digest: bytes, value: bytes) -> Sync:
        """A SYNC of promises that were heard, and of our own."""
        promises = {**self.heard.get(regency, {}), self.id: self.promise(regency, instance, digest)}
        if self.draw.random() < 0.2:
            promises.pop(self.draw.choice(sorted(promises)))
        chosen = tuple(promise for _, promise in sorted(promises.items()))
        unsigned = Sync(0, regency, chosen, self.draw.choice([value, b"", self.values[-1]]), bytes(64))
        return replace(unsigned, signature=self.signer.sign(self.domains.sync_payload(sync_statement(unsigned))))

    def change_message(self, target: Node, regency: int, instance: int, digest: bytes) -> Message:
        """Something about the leader: the phases of Algorithm 3, and the start."""
        value, vote = self.value(), self.signer.sign(self.domains.accept_payload(0, regency, instance, digest))
        choices: list[Callable[[], Message]] = [
            lambda: Stop(0, regency, self.number(regency + 1), self.draw.choice([b"", self.requests()])),
            lambda: self.promise(regency, instance, digest),
            lambda: self.sync(regency, instance, digest, value),
            lambda: self.sync(target.replica.regency, target.replica.decided + 1, digest, value),
            lambda: FetchSync(0, regency),
            lambda: FetchValue(0, regency, instance, digest),
            lambda: ProposedValue(0, regency, instance, value),
            lambda: FetchStanding(0, regency, self.number(1)),
            lambda: Standing(0, regency, self.number(1), self.draw.choice(self.proofs), None, None),
            lambda: Standing(0, regency, NOW, None, None, Accept(0, regency, instance, digest, vote)),
        ]
        return self.draw.choice(choices)()

    def message(self, target: Node) -> Message:
        draw = self.draw
        instance, regency = self.number(target.replica.decided + 1), self.regency(target)
        value = self.value()
        digest = draw.choice([self.domains.value_digest(value), self.domains.value_digest(self.values[-1]), bytes(32)])
        signature = self.signer.sign(self.domains.accept_payload(0, regency, instance, digest))
        choices: list[Callable[[], Message]] = [
            lambda: Propose(0, regency, instance, value),
            lambda: Write(0, regency, instance, digest),
            lambda: Accept(0, regency, instance, digest, signature),
            lambda: Decision(0, regency, instance, value, self.requests(), self.proof(regency, instance, digest)),
            lambda: FetchRequests(0, regency, instance, self.digests()),
            lambda: RequestBodies(0, regency, instance, self.requests()),
            lambda: Forward(0, regency, self.requests()),
            lambda: FetchDecisions(0, regency, self.number(1), self.number(2)),
            lambda: Progress(0, regency, self.number(target.replica.decided)),
            *8 * [lambda: self.change_message(target, regency, instance, digest)],
        ]
        return draw.choice(choices)()

    def attack(self, target: Node) -> None:
        wire = encode(self.message(target))
        if self.draw.random() < 0.2:
            wire = self.mutator.mutate(wire)
        with contextlib.suppress(RemoteProtocolError):
            target.receive(self.id, decode(wire))


def honest_step(cluster: Cluster, liar: Liar, draw: random.Random, clients: list[TestClient]) -> None:
    """One event of the ordinary course of things."""
    correct = [node for node in cluster.nodes if node.id != liar.id]
    node = draw.choice(correct)
    choice = draw.random()
    if choice < 0.15:
        data = draw.choice(clients).requests(b"operation")
        for other in correct:
            other.admit(data)
        liar.data[draw.randrange(3)] = data
    elif choice < 0.3:
        node.now += draw.choice([1, 1000, 10**6])
        node.fire(draw.choice([timer for timer in Timer if timer in node.timers()] or [Timer.PROGRESS]))
    elif node.outbox:
        sender, to, message = node.outbox.pop(draw.randrange(min(3, len(node.outbox))))
        liar.hear(message)
        if to != liar.id:
            cluster.nodes[to].receive(sender, message)


def agreed(cluster: Cluster, liar: Liar) -> None:
    histories = [node.executed for node in cluster.nodes if node.id != liar.id]
    for one in histories:
        for other in histories:
            for mine, theirs in zip(one, other, strict=False):
                assert (mine.data, mine.timestamp) == (theirs.data, theirs.timestamp), "correct replicas differ"


def accused_nobody_else(cluster: Cluster, liar: Liar) -> int:
    """How much evidence the correct replicas have against the liar; none against each other."""
    count = 0
    for node in cluster.nodes:
        for effect in node.effects:
            if isinstance(effect, ReportEvidence) and node.id != liar.id:
                evidence = make_evidence(CHAIN, effect.accused, effect.first, effect.second)
                assert verify(evidence, cluster.view, liar.domains).holds, "evidence does not hold"
                assert effect.accused == liar.id, f"replica {effect.accused} is accused"
                count += 1
    return count


def fuzz(seed: int, events: int, seen: dict[str, int] | None = None) -> int:
    """One run; returns how many instances the correct replicas executed. `seen` counts what happened."""
    draw = random.Random(seed)
    cluster = Cluster()
    liar = Liar(draw.choice([0, 1, 1, 3]), cluster, draw, Mutator(seed))  # replica 1 leads
    clients = [TestClient(1 + number) for number in range(3)]
    for _ in range(events):
        if draw.random() < 0.4:
            liar.attack(draw.choice([node for node in cluster.nodes if node.id != liar.id]))
        else:
            honest_step(cluster, liar, draw, clients)
    agreed(cluster, liar)
    seen = {} if seen is None else seen
    seen["evidence"] = seen.get("evidence", 0) + accused_nobody_else(cluster, liar)
    seen["regencies"] = seen.get("regencies", 0) + max(n.replica.regency for n in cluster.nodes if n.id != liar.id)
    return max(node.replica.executed for node in cluster.nodes if node.id != liar.id)


EVENTS = 400


def fuzz_seeds(count: int, seen: dict[str, int] | None = None) -> int:
    return sum(fuzz(seed, EVENTS, seen) for seed in range(count))


@pytest.mark.timeout(900)
def test_a_lying_member_causes_no_other_error_and_no_disagreement() -> None:
    seen: dict[str, int] = {}
    assert fuzz_seeds(max(12, executions() // EVENTS), seen) > 0
    assert seen["evidence"] > 0
    assert seen["regencies"] > 0


def test_planted_bug_unchecked_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proofs are not checked: forged decisions make correct replicas differ, or accuse each other."""
    monkeypatch.setattr(Validator, "check_proof", lambda self, proof: None)
    known = r"correct replicas differ|agreed time went back|evidence does not hold|is accused"
    with pytest.raises((AssertionError, InvariantViolation), match=known):
        fuzz_seeds(200)


def test_planted_bug_unchecked_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    """STOPDATA in a SYNC are not checked: the liar leaves out locks, or puts words into others' mouths."""
    monkeypatch.setattr(Validator, "check_stop_data", lambda self, message: None)
    with pytest.raises((AssertionError, InvariantViolation, KeyError)):
        fuzz_seeds(200)


def test_planted_bug_a_list_is_not_parsed_before_it_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard against bad lists is gone: the exception escapes."""

    def careless(self: Replica, sender: int, data: bytes) -> None:
        try:
            self.pool.admit(data, 0, self.now)
        except RemoteProtocolError as error:
            raise ValueError("escaped") from error

    monkeypatch.setattr(Replica, "adopt", careless)
    with pytest.raises(ValueError, match="escaped"):
        fuzz_seeds(50)
