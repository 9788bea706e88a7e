"""A member with valid keys says anything it likes: all that comes of it is `RemoteProtocolError` or a penalty,
never another exception, and correct replicas never execute different batches.
"""

from __future__ import annotations

import contextlib
import random

import pytest
from kit.cluster import Cluster, Node, secret
from kit.mutation import Mutator, executions
from kit.requests import CHAIN, NOW, TestClient

from smartbft._fastpath.pool import request_digests
from smartbft.core.inputs import Timer
from smartbft.core.replica import Replica
from smartbft.core.validation import Validator
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import InvariantViolation, RemoteProtocolError
from smartbft.messages import (
    Accept,
    Decision,
    FetchDecisions,
    FetchRequests,
    Forward,
    Message,
    Progress,
    Proof,
    Propose,
    RequestBodies,
    Write,
    decode,
    encode,
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

    def message(self, target: Node) -> Message:
        draw = self.draw
        instance, regency = self.number(target.replica.decided + 1), draw.choice([0, 0, 0, 0, 1, 2**62])
        value = self.value()
        digest = draw.choice([self.domains.value_digest(value), self.domains.value_digest(self.values[-1]), bytes(32)])
        signature = self.signer.sign(self.domains.accept_payload(0, regency, instance, digest))
        choices: list[Message] = [
            Propose(0, regency, instance, value),
            Write(0, regency, instance, digest),
            Accept(0, regency, instance, digest, signature),
            Decision(0, regency, instance, value, self.requests(), self.proof(regency, instance, digest)),
            FetchRequests(0, regency, instance, self.digests()),
            RequestBodies(0, regency, instance, self.requests()),
            Forward(0, regency, self.requests()),
            FetchDecisions(0, regency, self.number(1), self.number(2)),
            Progress(0, regency, self.number(target.replica.decided)),
        ]
        return draw.choice(choices)

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
        if isinstance(message, Propose):
            liar.values.append(message.value)
        if to != liar.id:
            cluster.nodes[to].receive(sender, message)


def agreed(cluster: Cluster, liar: Liar) -> None:
    histories = [node.executed for node in cluster.nodes if node.id != liar.id]
    for one in histories:
        for other in histories:
            for mine, theirs in zip(one, other, strict=False):
                assert (mine.data, mine.timestamp) == (theirs.data, theirs.timestamp), "correct replicas differ"


def fuzz(seed: int, events: int) -> int:
    """One run; returns how many instances the correct replicas executed."""
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
    return max(node.replica.executed for node in cluster.nodes if node.id != liar.id)


EVENTS = 400


def fuzz_seeds(count: int) -> int:
    return sum(fuzz(seed, EVENTS) for seed in range(count))


def test_a_lying_member_causes_no_other_error_and_no_disagreement() -> None:
    assert fuzz_seeds(max(12, executions() // EVENTS)) > 0


def test_planted_bug_unchecked_signatures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Proofs are not checked: forged decisions make correct replicas differ."""
    monkeypatch.setattr(Validator, "check_proof", lambda self, proof: None)
    with pytest.raises((AssertionError, InvariantViolation), match=r"correct replicas differ|agreed time went back"):
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
