"""Record bodies and recovery: what was logged comes back, anything else is CorruptLog."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.cluster import Cluster
from kit.requests import CHAIN, NOW, TestClient

from smartbft.core.effects import Record
from smartbft.core.records import (
    ACCEPT,
    DECISION,
    PROPOSED,
    VALUE,
    WRITTEN,
    accept_record,
    decision_record,
    largest_body_bytes,
    parse_accept,
    parse_decision,
    parse_regency,
    parse_sync,
    parse_value,
    value_record,
)
from smartbft.core.recovery import decisions_in, recover
from smartbft.crypto.domains import Domains
from smartbft.errors import CorruptLog
from smartbft.limits import MAX_MEMBERS
from smartbft.messages import Proof
from smartbft.types import KeyStatement, Parameters, Value

DOMAINS = Domains(CHAIN)
value_bytes = st.builds(
    lambda timestamp, count: Value(timestamp, bytes(32 * count)).encode(), st.integers(0, 2**63), st.integers(0, 5)
)


def body(record: Record) -> bytes:
    return b"".join(record.parts)


def raw(*records: Record) -> list[tuple[int, int, bytes]]:
    return [(record.kind, record.instance, body(record)) for record in records]


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.booleans(), st.booleans(), value_bytes, st.binary(max_size=99))
def test_value_record_round_trip(
    view: int, regency: int, proposed: bool, written: bool, value: bytes, data: bytes
) -> None:
    flags = PROPOSED * proposed | WRITTEN * written
    parsed = parse_value(body(value_record(3, view, regency, flags, value, data)))
    assert parsed == (type(parsed))(view, regency, proposed, written, value, data)


@given(st.integers(0, 2**40), st.integers(0, 2**40), st.binary(min_size=32, max_size=32))
def test_accept_record_round_trip(view: int, regency: int, digest: bytes) -> None:
    parsed = parse_accept(body(accept_record(3, view, regency, digest)))
    assert (parsed.view, parsed.regency, parsed.digest) == (view, regency, digest)


def a_proof(value: bytes, instance: int = 1) -> Proof:
    return Proof(0, 0, instance, DOMAINS.value_digest(value), ((0, bytes(64)), (2, bytes(64))))


@given(value_bytes, st.binary(max_size=99))
def test_decision_record_round_trip(value: bytes, data: bytes) -> None:
    parsed = parse_decision(body(decision_record(1, a_proof(value), value, data)))
    assert (parsed.proof, parsed.value, parsed.data) == (a_proof(value), value, data)


def test_no_body_is_larger_than_the_bound() -> None:
    n, size = 7, 100_000  # so much that a decision is larger than a SYNC
    parameters = Parameters(max_batch_requests=3, max_batch_bytes=size)
    statements = tuple(KeyStatement(member, bytes(32), bytes(32), bytes(64), bytes(64)) for member in range(n))
    value = Value(2**64 - 1, bytes(96), statements).encode()
    proof = Proof(2**62, 2**62, 2**62, bytes(32), tuple((2**16 - 1, bytes(64)) for _ in range(MAX_MEMBERS)))
    data = bytes(size)
    bound = largest_body_bytes(parameters, n)
    assert bound - 300 < len(body(decision_record(1, proof, value, data))) <= bound
    assert len(body(value_record(1, 2**62, 2**62, 3, value, data))) <= bound


@given(st.sampled_from([parse_value, parse_accept, parse_decision, parse_regency, parse_sync]), st.binary(max_size=200))
def test_any_other_body_is_corrupt(parse: object, garbage: bytes) -> None:
    try:
        parse(garbage)  # type: ignore[operator]
    except CorruptLog:
        return
    # What did parse must be a body that could have been written (a bare value record, say), never an exception.
    assert len(garbage) >= 8


VALUE_1 = Value(NOW, bytes(32)).encode()
LOGGED = value_record(1, 0, 0, WRITTEN, VALUE_1, b"requests")


def test_a_decision_takes_its_value_from_the_value_record() -> None:
    state = recover(raw(LOGGED, decision_record(1, a_proof(VALUE_1))), DOMAINS)
    assert [(d.instance, d.value, d.data) for d in state.decisions] == [(1, VALUE_1, b"requests")]
    assert not state.votes.values


def test_votes_after_the_last_decision_are_kept() -> None:
    later = value_record(2, 0, 0, PROPOSED | WRITTEN, VALUE_1, b"x")
    state = recover(
        raw(LOGGED, decision_record(1, a_proof(VALUE_1)), later, accept_record(2, 0, 0, bytes(32))), DOMAINS
    )
    assert [v.proposed for v in state.votes.values] == [True]
    assert [a.digest for a in state.votes.accepts] == [bytes(32)]


@pytest.mark.parametrize(
    ("records", "what"),
    [
        (raw(decision_record(1, a_proof(VALUE_1))), "without its value"),
        (raw(value_record(2, 0, 0, 0, VALUE_1, b"")), "instance 1 is next"),
        (raw(LOGGED, decision_record(1, a_proof(VALUE_1, instance=2))), "proof for instance 2"),
        ([(77, 1, b"")], "unknown kind 77"),
        (raw(decision_record(1, a_proof(VALUE_1), Value(NOW + 1, b"").encode(), b"")), "without its value"),
    ],
)
def test_impossible_logs_are_corrupt(records: list[tuple[int, int, bytes]], what: str) -> None:
    with pytest.raises(CorruptLog, match=what):
        recover(records, DOMAINS)


def test_decisions_are_served_from_the_middle_of_a_log() -> None:
    cluster = Cluster()
    client = TestClient()
    for _ in range(5):
        cluster.submit(client.requests(b"x"))
        cluster.run()
    records = raw(*cluster.nodes[0].log)
    served = list(decisions_in(records[4:], DOMAINS, 3, 4))
    assert [d.instance for d in served] == [3, 4]
    assert [kind for kind, _, _ in records[:3]] == [VALUE, ACCEPT, DECISION]
    assert [d.data for d in served] == [e.data for e in cluster.nodes[0].executed[2:4]]
