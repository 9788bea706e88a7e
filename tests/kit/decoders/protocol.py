"""Decoders of the control plane: protocol messages, proofs, values, handshakes, status, replies at the client."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from functools import partial

import msgspec
from msgspec.structs import replace
from oracles import wire

from kit.examples import DIGEST, MESSAGES, PROOF, STOP_DATA, SYNC
from kit.fuzzing import Decode, Decoder
from smartbft import messages
from smartbft._fastpath.pool import EXECUTED, OVERLOADED, SESSION_REFUSED
from smartbft.core.evidence import Evidence, decode_evidence, make_evidence
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import MalformedMessage, RemoteProtocolError
from smartbft.limits import FRAME_HEADER_BYTES
from smartbft.messages import Accept, Message, Proof
from smartbft.net import handshake
from smartbft.net.handshake import Acceptor, ClientDialer, Identity, ReplicaDialer
from smartbft.runtime.requests import ReplyCollector
from smartbft.runtime.status import decode_answer, decode_question, encode_answer
from smartbft.types import Value

# Markers of MessagePack: fixed integers, arrays and maps at their limits, and every kind with a length of its own.
_MARKERS = [bytes([marker]) for marker in b"\x00\x7f\x80\x90\x91\x96\x9f\xa0\xbf\xc0\xc1\xc2\xc3\xe0\xff"]
_MARKERS += [b"\xc4\x20", b"\xc5\x00\x20", b"\xc6\xff\xff\xff\xff", b"\xcc\x02", b"\xcd\x00\x02", b"\xcf" + bytes(8)]
_MARKERS += [b"\xd3" + b"\xff" * 8, b"\xdc\x00\x05", b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff"]

# --- messages, proofs, values ---

_lenient_message = msgspec.msgpack.Decoder(Message)
_lenient_proof = msgspec.msgpack.Decoder(Proof)
_lenient_evidence = msgspec.msgpack.Decoder(Evidence)
_VOTE = Accept(0, 1, 2, DIGEST, bytes(64))
_EVIDENCE = [
    make_evidence(DIGEST, 0, _VOTE, replace(_VOTE, digest=bytes(32))),
    make_evidence(DIGEST, 1, _VOTE, STOP_DATA),
    make_evidence(DIGEST, 2, SYNC, replace(SYNC, value=b"")),
]


def _lenient(decoder: msgspec.msgpack.Decoder[object], data: bytes) -> object:
    """Planted bug: nobody looks whether the encoding is the canonical one."""
    try:
        return decoder.decode(data)
    except msgspec.DecodeError as error:
        raise MalformedMessage(str(error)) from None


def _careless_value(data: bytes) -> Value:
    """Planted bug: the length is not looked at."""
    return Value(struct.unpack_from("<Q", data)[0], data[8:])


# --- handshakes ---

_CHAIN = bytes(range(32))
_SIGNERS = [Ed25519Signer(bytes([replica + 1]) * 32) for replica in range(2)]
_KEYS = [signer.public_key for signer in _SIGNERS]
_DIALERS_NONCE, _ACCEPTORS_NONCE = b"a" * 32, b"b" * 32
_IDENTITIES = [Identity(replica, signer, view=0, level=2) for replica, signer in enumerate(_SIGNERS)]


def _replica_dialer() -> ReplicaDialer:
    return ReplicaDialer(_CHAIN, _IDENTITIES[0], 1, _KEYS[1], _DIALERS_NONCE)


def _client_dialer() -> ClientDialer:
    return ClientDialer(_CHAIN, 1, _KEYS[1], _DIALERS_NONCE)


def _acceptor(peers: dict[int, bytes] | None) -> Acceptor:
    return Acceptor(_CHAIN, _IDENTITIES[1], peers, _ACCEPTORS_NONCE)


_FOR_REPLICAS = {0: _KEYS[0]}
_dialing, _accepting = _replica_dialer(), _acceptor(_FOR_REPLICAS)
_HELLO = _dialing.start()
_WELCOME = _accepting.receive(_HELLO)
_CONVINCING = _HELLO + _dialing.receive(_WELCOME)
_CLIENT_HELLO = _client_dialer().start()
_CLIENT_WELCOME = _acceptor(None).receive(_CLIENT_HELLO)


def _who_dials(data: bytes) -> None:
    """The port for replicas: nobody is let in but by the very bytes of the replica with that key."""
    accepting = _acceptor(_FOR_REPLICAS)
    accepting.receive(data)
    if accepting.peer is not None and not data.startswith(_CONVINCING):
        raise AssertionError("somebody else was taken for replica 0")


def _trusting(data: bytes) -> None:
    """Planted bug: the proof that follows a HELLO is not checked."""
    accepting = _acceptor(_FOR_REPLICAS)
    accepting._check_proof = lambda *_: None  # type: ignore[method-assign]
    accepting.receive(data)
    if accepting.peer is not None and not data.startswith(_CONVINCING):
        raise AssertionError("somebody else was taken for replica 0")


def _client_dials(data: bytes) -> bytes:
    return _acceptor(None).receive(data)


def _answer_to(make: Callable[[], ReplicaDialer | ClientDialer], honest: bytes) -> Decode:
    """A dialer: nobody is taken for replica 1 but by the very bytes of its answer, however they are cut."""

    def hear(data: bytes) -> None:
        dialing = make()
        dialing.start()
        cut = len(data) // 2
        dialing.receive(data[:cut])
        dialing.receive(data[cut:])
        if dialing.peer is not None and not data.startswith(honest):
            raise AssertionError("somebody else was taken for replica 1")

    return hear


def _asserting(data: bytes) -> None:
    """Planted bug: an `assert` where the length is checked."""
    assert len(data) < 5 or int.from_bytes(data[:4], "little") <= 1025
    _acceptor(_FOR_REPLICAS).receive(data)


def _unversioned(data: bytes) -> object:
    """Planted bug: the version is skipped unread."""
    return handshake._decode(handshake._VERSION.pack(handshake.PROTOCOL_VERSION) + data[2:])


# --- status ---


def _standard_library(data: bytes) -> dict[str, object]:
    """Planted bug: what is JSON but no object, or no JSON at all, is somebody else's problem."""
    answer = json.loads(data)
    return dict(answer)


# --- replies at the client ---

_REPLY = struct.Struct("<HBBIQQ32s")


def _reply(replica: int, status: int = EXECUTED, result: bytes = b"result") -> bytes:
    return _REPLY.pack(replica, status, 2, 0, 7, 1_000_000, DIGEST) + result


def _one_reply_of_three(data: bytes, *, replica: int = 3) -> None:
    """Two correct replicas have answered, two more equal answers are needed: one replica never makes a result."""
    collector = ReplyCollector(1, 4, 5)
    collector.expect(DIGEST)
    for correct in (0, 1):
        collector.add(correct, _reply(correct))
    if collector.add(replica, data) is not None:
        raise AssertionError("one replica made a result")


def _unchecked_reply(data: bytes) -> None:
    """Planted bug: the header is read before the length is known."""
    if _REPLY.unpack_from(data)[0] == 3:
        _one_reply_of_three(data)


DECODERS = [
    Decoder(
        "protocol message",
        messages.decode,
        [messages.encode(message) for message in MESSAGES],
        RemoteProtocolError,
        partial(_lenient, _lenient_message),
        messages.encode,
        _MARKERS,
        guide=wire.message_pack,
    ),
    Decoder(
        "decision proof",
        messages.decode_proof,
        [messages.encode_proof(PROOF), messages.encode_proof(Proof(0, 0, 1, DIGEST, ()))],
        RemoteProtocolError,
        partial(_lenient, _lenient_proof),
        messages.encode_proof,
        _MARKERS,
        guide=wire.message_pack,
    ),
    Decoder(
        "evidence",
        decode_evidence,
        [made.encode() for made in _EVIDENCE],
        RemoteProtocolError,
        partial(_lenient, _lenient_evidence),
        Evidence.encode,
        _MARKERS,
        guide=wire.message_pack,
    ),
    Decoder(
        "proposed value",
        Value.decode,
        [Value(1, DIGEST * count).encode() for count in (0, 1, 3)],
        RemoteProtocolError,
        _careless_value,
        Value.encode,
    ),
    Decoder(
        "handshake message",
        handshake._decode,
        [frame[FRAME_HEADER_BYTES:] for frame in (_HELLO, _CLIENT_HELLO, _CONVINCING[len(_HELLO) :])],
        RemoteProtocolError,
        _unversioned,
        lambda message: handshake._encode(message)[FRAME_HEADER_BYTES:],
        _MARKERS,
        guide=lambda data: wire.message_pack(data[2:]),
    ),
    Decoder("handshake of a replica that dials", _who_dials, [_CONVINCING, _HELLO], RemoteProtocolError, _trusting),
    Decoder("handshake of a client that dials", _client_dials, [_CLIENT_HELLO], RemoteProtocolError, _asserting),
    Decoder(
        "answer to a client that dialed",
        _answer_to(_client_dialer, _CLIENT_WELCOME),
        [_CLIENT_WELCOME],
        RemoteProtocolError,
        _answer_to(_client_dialer, _WELCOME),
    ),
    Decoder(
        "answer to a replica that dialed",
        _answer_to(_replica_dialer, _WELCOME),
        [_WELCOME],
        RemoteProtocolError,
        _asserting,
    ),
    Decoder(
        "status question",
        decode_question,
        [b"{}", b'{"digest":true}', b'{"digest": false}'],
        RemoteProtocolError,
        lambda data: decode_question(data) if data.isascii() else json.loads(data),
        fields=[b'"digest"', b"{", b"[", b"null", b"1e999", b"\xff", b'\\ud800"', b"[" * 200],
    ),
    Decoder(
        "status answer",
        decode_answer,
        [encode_answer({"replica": 1, "peers": [0, 2], "pool": {"pending": 0}, "log": {"sync_p50": 0.001}})],
        RemoteProtocolError,
        _standard_library,
        fields=[b'"pool"', b"{", b"[", b"null", b"1e999", b"\xff", b'\\ud800"', b"9" * 200, b"[" * 200],
    ),
    Decoder(
        "reply at the client",
        _one_reply_of_three,
        [_reply(3), _reply(3, OVERLOADED, b""), _reply(3, SESSION_REFUSED, b"")],
        RemoteProtocolError,
        _unchecked_reply,
    ),
]
