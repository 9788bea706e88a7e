"""Frames: hostile bytes in, requests and messages out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit.pool_twins import GOOD, RULES, START, make_request, native_pool

from smartbft._fastpath.frames import HELLO, MESSAGE, REPLY, REQUEST, STATUS, STATUS_ANSWER, FrameReader, frame
from smartbft._fastpath.pool import RequestPool, encode_request, join_requests, request_digests, split_requests
from smartbft.errors import FrameError, MalformedMessage, RemoteProtocolError

LIMITS = {HELLO: 16, MESSAGE: 1000, REQUEST: 400}

payloads = st.tuples(st.sampled_from([HELLO, MESSAGE]), st.binary(max_size=16))


def test_kinds_are_distinct():
    assert len({HELLO, REQUEST, REPLY, MESSAGE, STATUS, STATUS_ANSWER}) == 6


@given(st.lists(payloads), st.data())
def test_any_way_of_cutting_the_stream_gives_the_same_frames(frames, data):
    stream = b"".join(frame(kind, payload) for kind, payload in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=8)))
    reader = FrameReader(LIMITS)
    seen = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        seen += reader.feed(stream[start:end], 0)
    assert seen == frames
    assert reader.buffered() == 0


def test_byte_at_a_time():
    stream = frame(MESSAGE, bytes(300)) + frame(HELLO, b"") + frame(REQUEST, b"a request nobody looks into")
    reader = FrameReader(LIMITS)
    seen = [one for byte in stream for one in reader.feed(bytes([byte]), 0)]
    assert seen == [(MESSAGE, bytes(300)), (HELLO, b""), (REQUEST, b"a request nobody looks into")]


@pytest.mark.parametrize("length", [0, 1002, 2**31 - 1, 2**31, 2**32 - 1])
def test_impossible_length_is_refused_before_the_kind_is_there(length):
    reader = FrameReader(LIMITS)
    with pytest.raises(FrameError):
        reader.feed(length.to_bytes(4, "little"), 0)


@pytest.mark.parametrize("header", [(2**63).to_bytes(8, "little"), (2**63).to_bytes(8, "big"), b"\xff" * 8])
def test_length_of_eight_bytes_is_refused(header):
    with pytest.raises(FrameError):
        FrameReader(LIMITS).feed(header, 0)


@pytest.mark.parametrize("kind", sorted(LIMITS))
def test_limits_of_each_kind(kind):
    reader = FrameReader(LIMITS)
    assert reader.feed(frame(kind, bytes(LIMITS[kind])), 0) == [(kind, bytes(LIMITS[kind]))]
    too_long = frame(kind, bytes(LIMITS[kind] + 1))
    with pytest.raises(FrameError, match=f"{LIMITS[kind] + 1} bytes"):
        reader.feed(too_long[:5], 0)


@pytest.mark.parametrize("kind", [0, REPLY, STATUS, STATUS_ANSWER, 7, 255])
def test_unknown_kind_is_refused_with_its_header(kind):
    with pytest.raises(FrameError):
        FrameReader(LIMITS).feed(frame(kind, b"")[:5], 0)


def test_broken_stream_stays_broken():
    reader = FrameReader(LIMITS)
    with pytest.raises(FrameError):
        reader.feed(bytes(4), 0)
    with pytest.raises(FrameError):
        reader.feed(frame(HELLO, b""), 0)
    assert reader.buffered() == 0


def test_truncated_frame_waits_and_costs_what_was_received():
    reader = FrameReader({MESSAGE: 2**31})
    assert reader.feed((2**30).to_bytes(4, "little") + bytes([MESSAGE]) + bytes(100), 0) == []
    assert reader.buffered() == 105


def test_requests_go_into_the_pool():
    pool = native_pool(RULES)
    reader = FrameReader(LIMITS, pool, 5)
    stream = frame(REQUEST, make_request(1, START, 1)) + frame(HELLO, b"x") + frame(REQUEST, make_request(1, START, 2))
    assert reader.feed(stream, START) == [(HELLO, b"x")]
    assert pool.stats()["pending"] == 2
    assert pool.take_unverified(9).data == join_requests([make_request(1, START, 1), make_request(1, START, 2)])


@pytest.mark.parametrize("step", [1, 7, 121, 200, 1000])
def test_requests_keep_their_order_however_they_come(step):
    pool = native_pool(RULES)
    reader = FrameReader(LIMITS, pool, 5)
    requests = [make_request(key, START, sequence, size=key) for sequence in (1, 2) for key in (1, 2)]
    stream = b"".join(frame(REQUEST, request) for request in requests)
    for at in range(0, len(stream), step):
        reader.feed(stream[at : at + step], START)
    assert pool.take_unverified(9).data == join_requests(requests)


def test_malformed_request_ends_the_connection_but_not_what_came_before():
    pool = native_pool(RULES)
    reader = FrameReader(LIMITS, pool, 5)
    good = frame(REQUEST, make_request(1, START, 1))
    bad = frame(REQUEST, make_request(1, START, 2)[:-1])
    with pytest.raises(MalformedMessage):
        reader.feed(good + bad + good, START)
    assert pool.stats()["pending"] == 1


def test_operation_over_the_pools_limit_is_malformed():
    reader = FrameReader(LIMITS, native_pool(RULES), 5)
    reader.feed(frame(REQUEST, make_request(1, START, 1, size=RULES.max_operation_bytes)), START)
    with pytest.raises(MalformedMessage, match="limit is 64"):
        reader.feed(frame(REQUEST, make_request(1, START, 2, size=RULES.max_operation_bytes + 1)), START)


def test_reader_keeps_its_pool_alive():
    reader = FrameReader(LIMITS, native_pool(RULES), 5)
    assert reader.feed(frame(REQUEST, make_request(1, START, 1)), START) == []


@pytest.mark.parametrize("limits", [{}, {256: 1}, {-1: 1}, {HELLO: -1}, {HELLO: 2**32}])
def test_bad_limits_are_the_callers_mistake(limits):
    with pytest.raises(ValueError, match=r"frame|payload"):
        FrameReader(limits)


@pytest.mark.parametrize("payload", [b"", b"x", bytes(254), bytes(255), bytes(256), bytes(70_000)])
def test_frame_layout(payload):
    assert frame(REPLY, payload) == (len(payload) + 1).to_bytes(4, "little") + bytes([REPLY]) + payload


def test_frame_takes_any_buffer_and_refuses_impossible_kinds():
    assert frame(HELLO, memoryview(bytearray(b"abc"))) == frame(HELLO, b"abc")
    with pytest.raises(ValueError, match="kind"):
        frame(256, b"")


# --- requests


@given(
    st.binary(min_size=32, max_size=32),
    st.integers(0, 2**64 - 1),
    st.integers(1, 2**64 - 1),
    st.binary(max_size=300),
    st.binary(min_size=64, max_size=64),
)
def test_request_round_trip(key, session, sequence, operation, signature):
    encoded = encode_request(key, session, sequence, operation, signature)
    assert split_requests(join_requests([encoded])) == [(key, session, sequence, operation, signature)]


@given(st.lists(st.binary(max_size=150), max_size=4), st.binary(max_size=8))
def test_what_decodes_encodes_to_the_same_bytes(parts, tail):
    data = join_requests(parts) + tail
    try:
        requests = split_requests(data)
    except RemoteProtocolError:
        with pytest.raises(RemoteProtocolError):
            request_digests(bytes(32), data)
        return
    assert join_requests([encode_request(*request) for request in requests]) == data
    assert len(request_digests(bytes(32), data)) == 32 * len(requests)


def mutilations() -> dict[str, bytes]:
    whole = make_request(1, START, 1, size=40)
    length = (40).to_bytes(4, "little")
    assert whole[48:52] == length
    return {
        "empty": b"",
        "no room for a signature": whole[:115],
        "one byte short": whole[:-1],
        "one byte more": whole + b"\0",
        "operation length one less": whole[:48] + (39).to_bytes(4, "little") + whole[52:],
        "operation length one more": whole[:48] + (41).to_bytes(4, "little") + whole[52:],
        "operation length 2**31": whole[:48] + (2**31).to_bytes(4, "little") + whole[52:],
        "operation length 2**32 - 1": whole[:48] + b"\xff" * 4 + whole[52:],
        "sequence number 0": whole[:40] + bytes(8) + whole[48:],
    }


@pytest.mark.parametrize("name", mutilations())
def test_malformed_requests_are_refused_everywhere(name):
    request = mutilations()[name]
    data = join_requests([make_request(1, START, 1), request])
    pool = native_pool(RULES)
    for refusing in (
        split_requests,
        lambda data: request_digests(bytes(32), data),
        lambda data: pool.admit(data, 1, START),
        lambda data: pool.admit_body(data, START),
        lambda _: FrameReader({REQUEST: 1000}, pool, 1).feed(frame(REQUEST, request), START),
    ):
        with pytest.raises(MalformedMessage):
            refusing(data)
    assert pool.stats()["pending"] == 0, "nothing of a malformed list is admitted"


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("client key", (bytes(31), 1, 1, b"", bytes(64))),
        ("signature", (bytes(32), 1, 1, b"", bytes(65))),
        ("session", (bytes(32), 2**64, 1, b"", bytes(64))),
        ("session", (bytes(32), -1, 1, b"", bytes(64))),
        ("sequence", (bytes(32), 1, 0, b"", bytes(64))),
        ("sequence", (bytes(32), 1, 2**64, b"", bytes(64))),
    ],
)
def test_encoding_impossible_fields_is_the_callers_mistake(field, arguments):
    with pytest.raises(ValueError, match=field):
        encode_request(*arguments)


def test_digest_covers_chain_and_signature():
    one = join_requests([make_request(1, START, 1, verdict=GOOD)])
    other = join_requests([make_request(1, START, 1, verdict=GOOD, copy=1)])
    digests = {request_digests(chain, data) for chain in (bytes(32), bytes([1]) * 32) for data in (one, other)}
    assert len(digests) == 4


@pytest.mark.parametrize("count", [1, 2, 3, 9, 17, 40])
def test_digests_are_keyed_blake3_whatever_the_number_of_requests(count):
    from blake3 import blake3

    requests = [make_request(1, START, number + 1, size=number * 37) for number in range(count)]
    key = blake3(bytes(32), derive_key_context="smartbft v1 request digest").digest()
    expected = b"".join(blake3(request, key=key).digest() for request in requests)
    assert request_digests(bytes(32), join_requests(requests)) == expected


def test_pool_refuses_a_chain_id_that_is_no_bytes():
    with pytest.raises(TypeError):
        RequestPool("chain", window=1)  # type: ignore[call-arg,arg-type]
