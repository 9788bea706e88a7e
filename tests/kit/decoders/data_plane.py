"""Native decoders of the data plane: frames, request lists, the pool's reception, replies by the thousand."""

from __future__ import annotations

import struct
from collections.abc import Callable

from oracles import wire

from kit.fuzzing import Decoder
from kit.mutation import Mutator
from kit.pool_twins import RULES, START, make_request, native_pool
from smartbft._fastpath.frames import HELLO, MESSAGE, REPLY, REQUEST, STATUS, FrameReader, ReplyMatcher, frame
from smartbft._fastpath.pool import (
    RequestPool,
    encode_request,
    join_requests,
    request_digests,
    split_requests,
)
from smartbft.errors import RemoteProtocolError
from smartbft.limits import (
    FRAME_HEADER_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_REPLY_BYTES,
    MAX_REQUEST_BYTES,
    MAX_STATUS_QUESTION_BYTES,
)

_LENGTHS = [struct.pack("<I", length) for length in (0, 1, 115, 116, 117, 2**31, 2**32 - 1)]
_LENGTHS += [struct.pack("<I", MAX_REQUEST_BYTES + more) for more in (1, 2)] + [struct.pack("<Q", 2**63), b"\0" * 8]

_REQUESTS = [
    make_request(1, START, 1),
    make_request(1, START, 2, size=20),
    make_request(2, START, 1, size=RULES.max_operation_bytes),
]
_LIST = join_requests(_REQUESTS)
_FRAMES = [frame(REQUEST, request) for request in _REQUESTS]

# --- frames ---


def _on_the_port_for_clients(data: bytes) -> None:
    pool = native_pool(RULES)
    reader = FrameReader({REQUEST: MAX_REQUEST_BYTES, STATUS: MAX_STATUS_QUESTION_BYTES}, pool, 1)
    reader.feed(data, START)
    _check_reader(reader, data)
    _check_pool(pool)


def _on_the_port_for_replicas(data: bytes) -> None:
    reader = FrameReader({MESSAGE: MAX_MESSAGE_BYTES})
    reader.feed(data, START)
    _check_reader(reader, data)


def _check_reader(reader: FrameReader, data: bytes) -> None:
    if reader.buffered() > len(data):
        raise AssertionError("a reader keeps more than it was given")


def _check_pool(pool: RequestPool) -> None:
    stats = pool.stats()
    if stats["pending"] > RULES.max_requests or stats["bytes"] > RULES.max_bytes:
        raise AssertionError(f"the pool is beyond its limits: {stats}")


def _allocate_then_check(data: bytes) -> None:
    """Planted bug: the buffer is made as long as the header says, and only then compared with the limit."""
    if len(data) >= FRAME_HEADER_BYTES:
        bytearray(int.from_bytes(data[:4], "little"))
    _on_the_port_for_replicas(data)


# --- request lists ---


def _requests(data: bytes) -> list[tuple[bytes, int, int, bytes, bytes]]:
    requests = split_requests(data)
    if len(request_digests(RULES.chain_id, data)) != 32 * len(requests):
        raise AssertionError("digests of some requests are missing")
    return requests


def _join(requests: list[tuple[bytes, int, int, bytes, bytes]]) -> bytes:
    return join_requests([encode_request(*request) for request in requests])


def _up_to_a_bad_one(data: bytes) -> list[tuple[bytes, int, int, bytes, bytes]]:
    """Planted bug: what follows the last whole request is dropped without a word."""
    end = 0
    while end + 4 <= len(data) and end + 4 + int.from_bytes(data[end : end + 4], "little") <= len(data):
        end += 4 + int.from_bytes(data[end : end + 4], "little")
    return split_requests(data[:end])


def _reception(admit: Callable[[RequestPool, bytes], int]) -> Callable[[bytes], None]:
    def receive(data: bytes) -> None:
        pool = native_pool(RULES)
        try:
            admit(pool, data)
        except RemoteProtocolError:
            if pool.stats()["pending"]:
                raise AssertionError("a part of a malformed list was admitted") from None
            raise
        _check_pool(pool)

    return receive


def _in_parts(data: bytes) -> None:
    """Planted bug: a list is admitted request by request, so that what precedes a malformed one stays."""
    pool = native_pool(RULES)
    at = 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4], "little")
        try:
            pool.admit(data[at:end], 1, START)
        except RemoteProtocolError:
            if pool.stats()["pending"]:
                raise AssertionError("a part of a malformed list was admitted") from None
            raise
        at = end


# --- replies ---

_DIGEST = bytes(range(32))


def _reply(replica: int, digest: bytes = _DIGEST) -> bytes:
    return frame(REPLY, struct.pack("<HBBIQQ", replica, 0, 2, 0, 7, 1_000_000) + digest + b"result")


def _one_voice(data: bytes, *, needed: int = 3) -> None:
    """One replica has answered: another one's bytes, whatever they are, complete nothing where three are needed."""
    matcher = ReplyMatcher(4, needed)
    matcher.expect(_DIGEST, 0, 0)
    matcher.feed(0, _reply(0), 0)
    if matcher.feed(3, data, 0) or matcher.outstanding() != 1:
        raise AssertionError("two replicas made a result")


def _two_are_enough(data: bytes) -> None:
    """Planted bug: a quorum too small by one."""
    _one_voice(data, needed=2)


def _guided_requests(data: bytes) -> None:
    limits = {REQUEST: MAX_REQUEST_BYTES, STATUS: MAX_STATUS_QUESTION_BYTES}
    for kind, payload in wire.frames(data, limits)[0]:
        if kind == REQUEST:
            wire.requests(struct.pack("<I", len(payload)) + payload)


def _sealed_frames(mutator: Mutator, data: bytes) -> bytes:
    """A stream of frames whose payloads are mutated, and now and then the whole."""
    random = mutator.random
    payloads = [mutator.mutate(mutator.pick(_REQUESTS)) if random.random() < 0.5 else mutator.pick(_REQUESTS)]
    payloads += [mutator.pick(_REQUESTS)] * (random.random() < 0.5)
    stream = b"".join(frame(REQUEST, payload) for payload in payloads)
    return mutator.mutate(stream, data) if random.random() < 0.4 else stream


def _sealed_list(mutator: Mutator, data: bytes) -> bytes:
    """A request list whose requests are mutated and its lengths not, and now and then the whole."""
    random = mutator.random
    requests = [mutator.pick(_REQUESTS) for _ in range(1 + int(random.random() * 3))]
    if random.random() < 0.5:
        requests[-1] = mutator.mutate(requests[-1])
    joined = b"".join(struct.pack("<I", len(request)) + request for request in requests)
    return mutator.mutate(joined, data) if random.random() < 0.6 else joined


DECODERS = [
    Decoder(
        "frames on the port for clients",
        _on_the_port_for_clients,
        [b"".join(_FRAMES), _FRAMES[0] + frame(STATUS, b"{}"), _FRAMES[2]],
        RemoteProtocolError,
        _allocate_then_check,
        fields=_LENGTHS,
        generate=_sealed_frames,
        guide=_guided_requests,
    ),
    Decoder(
        "frames on the port for replicas",
        _on_the_port_for_replicas,
        [frame(MESSAGE, bytes(40)) * 3, frame(MESSAGE, b"")],
        RemoteProtocolError,
        _allocate_then_check,
        fields=[*_LENGTHS, struct.pack("<I", MAX_MESSAGE_BYTES + 2), bytes([HELLO])],
        guide=lambda data: wire.frames(data, {MESSAGE: MAX_MESSAGE_BYTES}),
    ),
    Decoder(
        "request list",
        _requests,
        [_LIST, join_requests(_REQUESTS[:1]), b""],
        RemoteProtocolError,
        _up_to_a_bad_one,
        _join,
        _LENGTHS,
        generate=_sealed_list,
        guide=wire.requests,
    ),
    Decoder(
        "requests for the pool",
        _reception(lambda pool, data: pool.admit(data, 1, START)),
        [_LIST, b""],
        RemoteProtocolError,
        _in_parts,
        fields=_LENGTHS,
        generate=_sealed_list,
        guide=wire.requests,
    ),
    Decoder(
        "bodies for the pool",
        _reception(lambda pool, data: pool.admit_body(data, START)),
        [_LIST, b""],
        RemoteProtocolError,
        _in_parts,
        fields=_LENGTHS,
        generate=_sealed_list,
        guide=wire.requests,
    ),
    Decoder(
        "replies at the matcher",
        _one_voice,
        [_reply(3), _reply(3) * 3, _reply(3, bytes(32)) + _reply(3)],
        RemoteProtocolError,
        _two_are_enough,
        fields=[*_LENGTHS, b"\3\0", _DIGEST],
        guide=lambda data: wire.frames(data, {REPLY: MAX_REPLY_BYTES}),
    ),
]
