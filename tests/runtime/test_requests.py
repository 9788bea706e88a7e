"""Building requests, and finding enough equal replies: sans-IO."""

from __future__ import annotations

import contextlib
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.requests import CHAIN, TestClient

from smartbft._fastpath.frames import REQUEST
from smartbft._fastpath.pool import (
    BAD_SIGNATURE,
    EXECUTED,
    OVERLOADED,
    REJECTED,
    SESSION_REFUSED,
    join_requests,
    request_digests,
)
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import LocalProtocolError, MalformedMessage
from smartbft.runtime.requests import RESULTS_DIFFER, ReplyCollector, RequestBuilder

DIGEST = b"d" * 32


def reply(
    replica: int,
    status: int = EXECUTED,
    result: bytes = b"result",
    *,
    instance: int = 7,
    time: int = 1000,
    level: int = 2,
) -> bytes:
    return struct.pack("<HBBIQQ32s", replica, status, level, 0, instance, time, DIGEST) + result


def collector(needed: int = 3) -> ReplyCollector:
    made = ReplyCollector(f=1, needed=needed)
    made.expect(DIGEST)
    return made


def test_a_request_is_what_the_replicas_parse() -> None:
    client = TestClient(5)
    builder = RequestBuilder(CHAIN, Ed25519Signer((5).to_bytes(32, "little")))
    request = client.request(b"operation")
    built = builder.build(client.session, 1, b"operation")
    assert built.frame == struct.pack("<IB", len(request) + 1, REQUEST) + request
    assert built.digest == request_digests(CHAIN, join_requests([request]))
    assert builder.key == client.public_key


def test_an_operation_that_is_too_large_is_the_callers_fault() -> None:
    builder = RequestBuilder(CHAIN, Ed25519Signer(bytes(32)))
    assert builder.build(1, 1, bytes(64 * 1024))
    with pytest.raises(LocalProtocolError, match="at most 65536"):
        builder.build(1, 1, bytes(64 * 1024 + 1))


def test_enough_equal_replies_make_a_result() -> None:
    replies = collector(3)
    assert replies.add(0, reply(0)) is None
    assert replies.add(0, reply(0)) is None  # a replica counts once
    assert replies.add(1, reply(1, result=b"a lie")) is None
    assert replies.add(2, reply(2)) is None
    settled = replies.add(3, reply(3))
    assert settled is not None
    digest, outcome = settled
    assert digest == DIGEST
    assert (outcome.status, outcome.result, outcome.instance, outcome.agreed_time) == (EXECUTED, b"result", 7, 1000)


@pytest.mark.parametrize("different", [{"instance": 8}, {"time": 1001}, {"level": 1}, {"result": b"resulT"}])
def test_replies_that_differ_anywhere_do_not_count_together(different: dict[str, object]) -> None:
    replies = collector(2)
    assert replies.add(0, reply(0)) is None
    assert replies.add(1, reply(1, **different)) is None  # type: ignore[arg-type]
    assert replies.add(2, reply(2)) is not None


def test_f_replicas_cannot_refuse_and_f_plus_one_can() -> None:
    for status in (REJECTED, BAD_SIGNATURE):
        replies = collector(3)
        assert replies.add(0, reply(0, status, b"")) is None
        settled = replies.add(2, reply(2, status, b"", time=5))
        assert settled is not None
        assert settled[1].status == status


def test_overload_settles_nothing_and_may_pass() -> None:
    replies = collector(2)
    for replica in range(4):
        assert replies.add(replica, reply(replica, OVERLOADED, b"")) is None
    assert replies.add(0, reply(0)) is None
    assert replies.add(1, reply(1)) is not None


@pytest.mark.parametrize("lie", [0, 1, 1999, 2500, 10**15, 2**64 - 1])
@pytest.mark.parametrize("turn", [0, 1, 2])
def test_the_time_of_a_refused_session_lies_between_the_clocks_of_correct_replicas(lie: int, turn: int) -> None:
    replies = collector(3)
    said = [(1, 2000), (2, 3000)]
    said.insert(turn, (3, lie))
    *first, last = [replies.add(replica, reply(replica, SESSION_REFUSED, b"", time=time)) for replica, time in said]
    assert first == [None, None]
    assert last is not None
    assert 2000 <= last[1].agreed_time <= 3000


def test_results_that_differ_too_much_are_an_outcome_of_their_own() -> None:
    """Replica 3 may lie; where two others differ as well, no result will ever come."""
    replies = collector(3)
    assert replies.add(3, reply(3, result=b"c")) is None
    assert replies.add(0, reply(0, result=b"a")) is None
    settled = replies.add(1, reply(1, result=b"b"))
    assert settled is not None
    assert settled[1].status == RESULTS_DIFFER
    difference = "3 replicas executed it and gave 3 different results: the application is not deterministic"
    assert replies._votes[DIGEST].difference().startswith(difference)


@given(st.permutations(range(4)), st.sampled_from([2, 3]))
def test_one_liar_never_makes_results_differ(order: list[int], needed: int) -> None:
    replies = collector(needed)
    for replica in order:
        settled = replies.add(replica, reply(replica, result=b"a lie" if replica == 3 else b"right"))
        assert settled is None or settled[1].status == EXECUTED


def test_replies_nobody_waits_for_are_ignored() -> None:
    replies = collector(1)
    replies.forget(DIGEST)
    assert replies.add(0, reply(0)) is None


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        (reply(0)[:55], "shorter than its header"),
        (reply(1), "in the name of replica 1 from replica 0"),
        (reply(0, status=5), "unknown status 5"),
    ],
)
def test_malformed_replies(payload: bytes, complaint: str) -> None:
    with pytest.raises(MalformedMessage, match=complaint):
        collector().add(0, payload)


@given(st.binary(max_size=120), st.integers(0, 3))
def test_any_bytes_raise_nothing_but_malformed_message(data: bytes, replica: int) -> None:
    with contextlib.suppress(MalformedMessage):
        assert collector().add(replica, data) is None


@given(st.lists(st.tuples(st.integers(0, 3), st.sampled_from([b"right", b"wrong"])), max_size=12))
def test_one_liar_never_makes_a_result(script: list[tuple[int, bytes]]) -> None:
    """Replica 3 says anything, the others only what is right: a result is right, and came from enough of them."""
    replies = collector(2)
    heard: dict[int, bytes] = {}
    for replica, result in script:
        said = result if replica == 3 else b"right"
        heard[replica] = said
        settled = replies.add(replica, reply(replica, result=said))
        enough = sum(1 for value in heard.values() if value == said) >= 2
        assert (settled is not None) == enough
        if settled is not None:
            assert settled[1].result == b"right"
            return
