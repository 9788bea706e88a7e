"""Every checker, fed a good history, stays silent, and fed a bad one, raises."""

from __future__ import annotations

import pytest
from kit.cluster import make_view, secret
from kit.requests import CHAIN, NOW, TestClient

from smartbft._fastpath.pool import EXECUTED, OVERLOADED, REJECTED, join_requests, request_digests
from smartbft.core.effects import Record
from smartbft.core.records import PROPOSED, WRITTEN, accept_record, decision_record, value_record
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Ed25519KeyVerifier, Ed25519Signer
from smartbft.messages import Accept, Proof, Propose, Write
from smartbft.quorum import quorum
from smartbft.testing.checkers import (
    Agreement,
    Checkers,
    Durability,
    PropertyViolation,
    Provability,
    Replies,
    TotalOrder,
    Validity,
    Votes,
    dissemination_quorum,
)
from smartbft.testing.clients import Reply
from smartbft.types import Value

DOMAINS = Domains(CHAIN)
VIEW = make_view()
A, B = b"a" * 32, b"b" * 32


def make_proof(instance: int = 1, digest: bytes = A, signers=(0, 1, 2), regency: int = 0, **changes) -> Proof:
    payload = DOMAINS.accept_payload(0, regency, instance, digest)
    signatures = tuple((signer, Ed25519Signer(secret(signer)).sign(payload)) for signer in signers)
    fields = {"view": 0, "regency": regency, "instance": instance, "digest": digest, "signatures": signatures}
    return Proof(**{**fields, **changes})


def test_the_checkers_quorum_is_the_papers():
    assert [dissemination_quorum(n) for n in (1, 4, 5, 6, 7, 10, 13)] == [1, 3, 4, 4, 5, 7, 9]
    assert all(dissemination_quorum(n) == quorum(n) for n in range(1, 65))


def test_agreement():
    checker = Agreement()
    for replica in (0, 1):
        checker.decided(replica, 1, A)
        checker.decided(replica, 2, B)
    checker.restarted(0, 1)
    checker.decided(0, 2, B)
    with pytest.raises(PropertyViolation, match="agreement"):
        checker.decided(2, 1, B)


def test_integrity():
    checker = Agreement()
    checker.decided(0, 1, A)
    with pytest.raises(PropertyViolation, match="integrity"):
        checker.decided(0, 1, A)
    with pytest.raises(PropertyViolation, match="integrity"):
        checker.decided(1, 2, B)


def provability() -> Provability:
    return Provability(VIEW, DOMAINS, Ed25519KeyVerifier())


def test_provability_accepts_any_quorum():
    checker = provability()
    for signers in ((0, 1, 2), (1, 2, 3), (0, 1, 2, 3)):
        checker.check(1, A, make_proof(signers=signers))
    checker.check(2, A, make_proof(2, regency=7))
    assert [signer for signer, _ in sorted(checker._known)] == [0, 0, 1, 1, 2, 2, 3], "each signature was verified"


@pytest.mark.parametrize(
    "proof",
    [
        make_proof(signers=(0, 1)),
        make_proof(signers=(0, 1, 1)),
        make_proof(signatures=(*make_proof(signers=(0, 1)).signatures, (9, bytes(64)))),
        make_proof(signatures=make_proof(2).signatures),
        make_proof(signatures=make_proof(regency=1).signatures),
        make_proof(signatures=make_proof(digest=B).signatures),
        make_proof(2),
        make_proof(digest=B),
        make_proof(view=1),
        make_proof(signatures=((0, bytes(64)), *make_proof(signers=(1, 2)).signatures)),
    ],
    ids=[
        "too few",
        "twice the same",
        "a stranger",
        "another instance's",
        "another regency's",
        "another value's",
        "for another instance",
        "for another value",
        "for another view",
        "forged",
    ],
)
def test_provability_refuses(proof: Proof):
    checker = provability()
    checker.check(1, A, make_proof())
    with pytest.raises(PropertyViolation, match="provability"):
        checker.check(1, A, proof)


def test_total_order():
    checker = TotalOrder()
    assert checker.handed_over(0, 1, 10, A, b"x")
    assert not checker.handed_over(1, 1, 10, A, b"x")
    checker.applied(0, 1, b"result")
    checker.restarted(0, 0)
    assert not checker.handed_over(0, 1, 10, A, b"x")
    checker.applied(0, 1, b"result")
    with pytest.raises(PropertyViolation, match="total order"):
        checker.handed_over(0, 1, 10, A, b"x")
    with pytest.raises(PropertyViolation, match="total order"):
        checker.handed_over(0, 3, 10, A, b"x")
    for other in ((11, A, b"x"), (10, B, b"x"), (10, A, b"y")):
        with pytest.raises(PropertyViolation, match="total order"):
            TotalOrder.handed_over(checker, 2, 1, *other)
        checker.restarted(2, 0)
    with pytest.raises(PropertyViolation, match="total order"):
        checker.applied(1, 1, b"another result")
    with pytest.raises(PropertyViolation, match="total order"):
        checker.applied(3, 2, b"result")


class Ordered:
    """A validity checker with requests of two clients."""

    def __init__(self) -> None:
        self.checker = Validity(CHAIN)
        self.clients = TestClient(1), TestClient(2)
        self.requests = {}
        for number, client in enumerate(self.clients):
            for sequence in (1, 2, 3):
                request = client.request(b"operation", sequence)
                digest = request_digests(CHAIN, join_requests([request]))
                self.checker.sent(digest, client.public_key, NOW, sequence)
                self.requests[number, sequence] = request

    def order(self, instance: int, time: int, *names: tuple[int, int]) -> bytes:
        return self.checker.ordered(instance, time, join_requests([self.requests[name] for name in names]))


def test_validity_accepts_contiguous_sessions():
    ordered = Ordered()
    digests = ordered.order(1, 10, (0, 1), (1, 1), (0, 2))
    ordered.order(2, 11, (1, 2))
    assert len(digests) == 96
    assert ordered.checker.executed_in[digests[:32]] == 1


def test_validity_refuses():
    ordered = Ordered()
    ordered.order(1, 10, (0, 1))
    with pytest.raises(PropertyViolation, match="exactly once"):
        ordered.order(2, 11, (0, 1))
    ordered = Ordered()
    with pytest.raises(PropertyViolation, match="exactly once"):
        ordered.order(1, 10, (0, 1), (0, 1))
    for names in (((0, 2),), ((0, 1), (0, 3))):
        with pytest.raises(PropertyViolation, match="external validity"):
            Ordered().order(1, 10, *names)
    with pytest.raises(PropertyViolation, match="external validity"):
        Ordered().order(1, 10)
    with pytest.raises(PropertyViolation, match="external validity"):
        Ordered().order(2, 10, (0, 1))
    ordered = Ordered()
    ordered.order(1, 10, (0, 1))
    with pytest.raises(PropertyViolation, match="external validity"):
        ordered.order(2, 10, (0, 2))
    stranger = join_requests([TestClient(3).request(b"never sent", 1)])
    with pytest.raises(PropertyViolation, match="external validity"):
        Ordered().checker.ordered(1, 10, stranger)


def test_votes_are_not_contradicted():
    checker = Votes(VIEW)
    for message, other in (
        (Write(0, 0, 1, A), Write(0, 0, 1, B)),
        (Propose(0, 0, 1, b"v" * 40), Propose(0, 0, 1, b"w" * 40)),
    ):
        checker.sent(0, message)
        checker.sent(0, message)
        checker.sent(1, other)
        with pytest.raises(PropertyViolation, match="no contradiction"):
            checker.sent(0, other)
    checker.sent(0, Write(0, 1, 1, B))
    checker.sent(0, Write(0, 0, 2, B))


def test_accept_needs_a_write_quorum():
    checker = Votes(VIEW)
    accept = Accept(0, 0, 1, A, bytes(64))
    checker.received(0, 1, Write(0, 0, 1, A))
    checker.received(0, 1, Write(0, 0, 1, A))
    checker.received(0, 2, Write(0, 0, 1, B))
    checker.received(0, 2, Write(0, 1, 1, A))
    checker.sent(0, Write(0, 0, 1, A))
    with pytest.raises(PropertyViolation, match="write quorum"):
        checker.sent(0, accept)
    checker = Votes(VIEW)
    for sender in (1, 2):
        checker.received(0, sender, Write(0, 0, 1, A))
    checker.sent(0, Write(0, 0, 1, A))
    checker.sent(0, accept)
    checker.sent(0, accept)


VALUE = Value(NOW, A).encode()
VALUE_DIGEST = DOMAINS.value_digest(VALUE)


def durability(**changes) -> Durability:
    return Durability(VIEW, DOMAINS, **{"check_votes": True, "holders": 3, **changes})


def parsed(*records: Record) -> list[tuple[int, int, bytes]]:
    return [(record.kind, record.instance, b"".join(record.parts)) for record in records]


VOTES = (
    (value_record(1, 0, 0, WRITTEN, VALUE, b""), Write(0, 0, 1, VALUE_DIGEST)),
    (value_record(1, 0, 0, PROPOSED, VALUE, b""), Propose(0, 0, 1, VALUE)),
    (accept_record(1, 0, 0, VALUE_DIGEST), Accept(0, 0, 1, VALUE_DIGEST, bytes(64))),
)


@pytest.mark.parametrize(("record", "message"), VOTES)
def test_votes_are_stored_before_they_leave(record: Record, message):
    checker = durability()
    with pytest.raises(PropertyViolation, match="persist before speak"):
        checker.sent(0, message)
    checker.stored(1, record)
    with pytest.raises(PropertyViolation, match="persist before speak"):
        checker.sent(0, message)
    checker.stored(0, record)
    checker.sent(0, message)
    checker.restarted(0, parsed(record), 0)
    checker.sent(0, message)
    with pytest.raises(PropertyViolation, match="durability"):
        checker.restarted(0, [], 0)
    durability(check_votes=False).sent(0, message)


def test_a_value_record_covers_only_the_votes_it_names():
    checker = durability()
    checker.stored(0, VOTES[1][0])
    checker.sent(0, VOTES[1][1])
    with pytest.raises(PropertyViolation, match="persist before speak"):
        checker.sent(0, VOTES[0][1])


def test_acknowledged_decisions_are_stored_on_a_quorum_and_stay():
    checker = durability()
    decision = decision_record(1, make_proof())
    with pytest.raises(PropertyViolation, match="durability"):
        checker.replied(0, 1)
    for replica in (0, 1):
        checker.stored(replica, decision)
        checker.replied(replica, 1)
    with pytest.raises(PropertyViolation, match="durability"):
        checker.acknowledged(1, A, 0b11)
    checker.stored(2, decision)
    checker.acknowledged(1, A, 0b111)
    checker.restarted(0, parsed(decision), 0)
    with pytest.raises(PropertyViolation, match="durability"):
        checker.restarted(0, [], 0)
    durability(holders=0).acknowledged(1, A, 0b1)


def make_reply(replica: int, status: int, digest: bytes, instance: int = 1, result: bytes = b"result") -> Reply:
    head = replica.to_bytes(2, "little") + bytes([status, 2]) + bytes(4) + instance.to_bytes(8, "little") + bytes(8)
    return Reply(head + digest + result)


def test_replies():
    validity = Validity(CHAIN)
    validity.executed_in[A] = 1
    checker = Replies(validity)
    checker.sent(0, make_reply(0, EXECUTED, A))
    checker.sent(1, make_reply(1, EXECUTED, A))
    checker.sent(1, make_reply(1, OVERLOADED, A))
    checker.sent(1, make_reply(1, REJECTED, A))
    checker.expect(A)
    for replica, reply in (
        (1, make_reply(0, EXECUTED, A)),
        (1, make_reply(1, EXECUTED, A, result=b"another")),
        (1, make_reply(1, EXECUTED, A, instance=2)),
        (1, make_reply(1, REJECTED, A)),
        (1, make_reply(1, EXECUTED, B)),
    ):
        with pytest.raises(PropertyViolation, match="replies"):
            checker.sent(replica, reply)


def test_the_whole_judges_a_decision_with_its_proof_and_its_batch():
    client = TestClient(1)
    data = client.requests(b"operation")
    digest = request_digests(CHAIN, data)
    value = Value(NOW, digest).encode()
    proof = make_proof(digest=DOMAINS.value_digest(value))

    def checkers() -> Checkers:
        made = Checkers(VIEW, DOMAINS, Ed25519KeyVerifier(), persistence="sync")
        made.validity.sent(digest, client.public_key, NOW, 1)
        return made

    whole = checkers()
    whole.recorded(0, decision_record(1, proof, value, data))
    whole.executes(0, 1, NOW, A, data)
    whole.restarted(1, parsed(decision_record(1, proof, value, data)), 0)
    whole = checkers()
    whole.recorded(0, decision_record(1, make_proof(digest=B), value, data))
    with pytest.raises(PropertyViolation, match="agreement"):
        whole.executes(0, 1, NOW, A, data)
    with pytest.raises(PropertyViolation, match="provability"):
        checkers().recorded(0, decision_record(1, make_proof(signers=(0, 1)), value, data))
    with pytest.raises(PropertyViolation, match="provability"):
        checkers().restarted(0, parsed(decision_record(1, make_proof(signers=(0, 1)), value, data)), 0)
