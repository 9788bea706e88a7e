"""What is decoded only where requests carry no signatures: proven keys, unsigned requests, announcements."""

from __future__ import annotations

import struct

from oracles import wire

from kit.fuzzing import Decoder
from kit.hold_twins import CHANNEL_RULES, unsigned
from kit.pool_twins import RULES, START, native_pool
from smartbft import messages
from smartbft._fastpath.frames import REQUEST, FrameReader, frame
from smartbft._fastpath.pool import RequestPool, join_requests, split_requests
from smartbft.core.validation import Validator
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Ed25519KeyVerifier, Ed25519Signer
from smartbft.errors import RemoteProtocolError
from smartbft.limits import DIGEST_BYTES, MAX_REQUEST_BYTES
from smartbft.messages import FetchHeld, HeldRequests, Hold
from smartbft.net.handshake import Acceptor, ClientDialer, Identity
from smartbft.types import CHANNEL, Member, Parameters, View

_CHAIN = CHANNEL_RULES.chain_id
_REPLICA, _CLIENT = Ed25519Signer(b"r" * 32), Ed25519Signer(b"c" * 32)
_REQUESTS = [unsigned(1, START, 1), unsigned(1, START, 2, size=20), unsigned(1, START, 1, size=64)]
_LENGTHS = [struct.pack("<I", length) for length in (0, 1, 115, 116, 117, 2**31, 2**32 - 1)]

# --- a client that proves its key


def _acceptor() -> Acceptor:
    return Acceptor(_CHAIN, Identity(1, _REPLICA, 0, 2), None, b"b" * 32)


_dialer = ClientDialer(_CHAIN, 1, _REPLICA.public_key, b"a" * 32, signer=_CLIENT)
_HELLO = _dialer.start()
_CONVINCING = _HELLO + _dialer.receive(_acceptor().receive(_HELLO))


def _heard(accepting: Acceptor, data: bytes) -> None:
    accepting.receive(data)
    proven = accepting.peer.key if accepting.peer is not None else None
    if proven is not None and not data.startswith(_CONVINCING):
        raise AssertionError("a key was taken for proven")


def _trusting(data: bytes) -> None:
    """Planted bug: the proof that follows a key is not checked."""
    accepting = _acceptor()
    accepting._check_client = lambda *_: None  # type: ignore[method-assign]
    _heard(accepting, data)


# --- requests


def _pool() -> RequestPool:
    pool = native_pool(CHANNEL_RULES)
    pool.holds.prove(1, bytes([1]) * 32)
    return pool


def _check(pool: RequestPool) -> None:
    job = pool.take_unverified(100)
    for key, *_, signature in split_requests(job.data) if job is not None else []:
        if key != bytes([1]) * 32 or any(signature):
            raise AssertionError("a request that the connection may not send was taken")


def _on_a_connection(data: bytes) -> None:
    pool = _pool()
    FrameReader({REQUEST: MAX_REQUEST_BYTES}, pool, 1).feed(data, START)
    _check(pool)


def _unread_signatures(data: bytes) -> None:
    """Planted bug: what is in the place of the signature is nobody's business."""
    pool = native_pool(RULES)
    pool.admit(data, 1, START)
    if any(any(signature) for *_, signature in split_requests(data)):
        raise AssertionError("taken")


def _for_the_pool(data: bytes) -> None:
    pool = _pool()
    pool.admit(data, 1, START)
    _check(pool)


def _careless_frames(data: bytes) -> None:
    """Planted bug: the length is believed before the limit is looked at."""
    if len(data) >= 4:
        bytearray(int.from_bytes(data[:4], "little"))
    _on_a_connection(data)


# --- announcements

_KEYS = [Ed25519Signer(bytes([id + 1]) * 32).public_key for id in range(4)]
_VIEW = View(0, tuple(Member(id, key, key) for id, key in enumerate(_KEYS)))
_VALIDATOR = Validator(_VIEW, Domains(_CHAIN), Ed25519KeyVerifier(), Parameters(request_authentication=CHANNEL))
_MESSAGES = [
    Hold(0, 0, bytes(32)),
    Hold(0, 3, bytes(range(96))),
    FetchHeld(0, 0, bytes(64)),
    HeldRequests(0, 0, join_requests(_REQUESTS)),
]


def _announced(data: bytes) -> None:
    message = messages.decode(data)
    verified = _VALIDATOR.validate(2, message).message
    pool = _pool()
    if isinstance(verified, Hold):
        pool.holds.hold(2, verified.digests, START)
        if pool.holds.wanted(2, START + 1, START, 10) != (b"", 0):
            raise AssertionError("one member made us want something")
    elif isinstance(verified, FetchHeld):
        pool.holds.requests(verified.digests, 1000)
    elif isinstance(verified, HeldRequests) and pool.admit(verified.data, 0, START):
        raise AssertionError("requests were taken that nobody vouched for")


def _partial(data: bytes) -> None:
    """Planted bug: half a digest is believed to be none."""
    message = messages.decode(data)
    if isinstance(message, Hold) and len(message.digests) % DIGEST_BYTES:
        _pool().holds.hold(2, message.digests, START)
    else:
        _announced(data)


DECODERS = [
    Decoder(
        "handshake of a client with a key",
        lambda data: _heard(_acceptor(), data),
        [_CONVINCING, _HELLO],
        RemoteProtocolError,
        _trusting,
    ),
    Decoder(
        "frames of a client with a key",
        _on_a_connection,
        [b"".join(frame(REQUEST, request) for request in _REQUESTS), frame(REQUEST, _REQUESTS[1])],
        RemoteProtocolError,
        _careless_frames,
        fields=_LENGTHS,
        guide=lambda data: wire.frames(data, {REQUEST: MAX_REQUEST_BYTES}),
    ),
    Decoder(
        "requests without signatures",
        _for_the_pool,
        [join_requests(_REQUESTS), b""],
        RemoteProtocolError,
        _unread_signatures,
        fields=_LENGTHS,
        guide=wire.requests,
    ),
    Decoder(
        "announcements",
        _announced,
        [messages.encode(message) for message in _MESSAGES],
        RemoteProtocolError,
        _partial,
        guide=wire.message_pack,
    ),
]
