"""Who is at the other end: the handshake that opens every connection, as sans-IO state machines.

Three frames of kind HELLO, whose payload is ``u16 protocol version`` and a MessagePack array:

1. the dialer sends `ReplicaHello` or `ClientHello` with a fresh nonce,
2. the acceptor answers `ReplicaHello` with its own nonce and `Proof`, its signature over both,
3. a dialing replica answers `Proof`; so does a client that began with `KeyHello`, where requests are not signed. One
   that signs its requests proves nothing here.

A proof is a signature by the replica's permanent key over ``domain(chain id) | side | channel | the dialer's hello
| the acceptor's hello``. The hellos hold both roles, ids, nonces, views and levels, and `side` is who proves (0 the
dialer, 1 the acceptor): so a proof means nothing on another chain, connection or direction. `channel` is the hash
of the acceptor's TLS certificate (32 zero bytes on plain TCP). The dialer has compared that certificate with the
genesis before it says a word, so its own proof holds for this TLS channel alone and both ends of it are
authenticated; Python's `ssl` neither offers TLS 1.3 channel bindings nor accepts a client certificate by its
fingerprint. Plain TCP authenticates peers with the same proofs, but lacks integrity and confidentiality afterwards:
it is for measurements.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Union

import msgspec

from smartbft._fastpath.frames import HELLO
from smartbft._fastpath.hashing import derive_key
from smartbft._fastpath.verify import is_small_order, verify
from smartbft.crypto.signatures import Signer
from smartbft.errors import FrameError, HandshakeError, LocalProtocolError, MalformedMessage
from smartbft.limits import DIGEST_BYTES, FRAME_HEADER_BYTES, MAX_HELLO_BYTES, SIGNATURE_BYTES

PROTOCOL_VERSION = 2
NONCE_BYTES = 32
NO_CHANNEL = bytes(32)

_DIALER = b"\0"
_ACCEPTOR = b"\1"
_VERSION = struct.Struct("<H")
_HEADER = struct.Struct("<IB")

_Bytes32 = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
_ReplicaId = Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)]
_View = Annotated[int, msgspec.Meta(ge=0, le=2**32 - 1)]
_Level = Annotated[int, msgspec.Meta(ge=0, le=2)]
_Time = Annotated[int, msgspec.Meta(ge=0, le=2**62)]
_Signature = Annotated[bytes, msgspec.Meta(min_length=SIGNATURE_BYTES, max_length=SIGNATURE_BYTES)]


class _Frame(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, gc=False):
    """Base of the handshake's messages."""


class ClientHello(_Frame, frozen=True, tag=1, gc=False):
    """A client introduces itself: it is nobody in particular, its requests are signed."""

    chain_id: _Bytes32
    nonce: _Bytes32


class ReplicaHello(_Frame, frozen=True, tag=2, gc=False):
    """A replica introduces itself.

    Attributes:
        level: its persistence: 0 memory, 1 asynchronous, 2 synchronous.
        clock, agreed_time: its clock and the last time decided there, microseconds; 0: it does not say. From those of
            `2f + 1` replicas a client knows which number its session may have, however wrong its own clock is.
    """

    chain_id: _Bytes32
    nonce: _Bytes32
    replica: _ReplicaId
    view: _View
    level: _Level
    clock: _Time = 0
    agreed_time: _Time = 0


class Proof(_Frame, frozen=True, tag=3, gc=False):
    """The signature that shows possession of the claimed replica's permanent key, or of the client's key."""

    signature: _Signature


class KeyHello(_Frame, frozen=True, tag=4, gc=False):
    """A client introduces itself by its key, for all the requests that it will send on this connection."""

    chain_id: _Bytes32
    nonce: _Bytes32
    key: _Bytes32


_Hello = ClientHello | ReplicaHello | KeyHello
_Message = Union[ClientHello, ReplicaHello, Proof, KeyHello]  # noqa: UP007 - msgspec builds its decoder from this union
_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Message)


def _untold() -> tuple[int, int]:
    return 0, 0


@dataclass(frozen=True, slots=True)
class Identity:
    """What a replica says of itself.

    Attributes:
        signer: signs with its permanent key.
        view: number of the view in force.
        level: persistence level of its replies.
        times: its clock and the last agreed time, microseconds.
    """

    replica: int
    signer: Signer
    view: int
    level: int
    times: Callable[[], tuple[int, int]] = _untold

    def hello(self, chain_id: bytes, nonce: bytes) -> ReplicaHello:
        """How it introduces itself on one connection."""
        return ReplicaHello(chain_id, nonce, self.replica, self.view, self.level, *self.times())


@dataclass(frozen=True, slots=True)
class Peer:
    """Who the other side turned out to be; `replica` is None for a client, `key` what a client has proven.

    `clock` and `agreed_time` are what a replica said of them, microseconds; 0: nothing.
    """

    replica: int | None
    view: int = 0
    level: int = 0
    key: bytes | None = None
    clock: int = 0
    agreed_time: int = 0


def _encode(message: _Hello | Proof) -> bytes:
    payload = _VERSION.pack(PROTOCOL_VERSION) + _encoder.encode(message)
    return _HEADER.pack(len(payload) + 1, HELLO) + payload


def _decode(payload: bytes) -> _Hello | Proof:
    if len(payload) < _VERSION.size:
        raise MalformedMessage(f"a HELLO of {len(payload)} bytes has no protocol version")
    (version,) = _VERSION.unpack_from(payload)
    if version != PROTOCOL_VERSION:
        raise HandshakeError(
            f"the other side speaks protocol version {version}, this one {PROTOCOL_VERSION}: use one release everywhere"
        )
    body = payload[_VERSION.size :]
    try:
        message: _Hello | Proof = _decoder.decode(body)
    except (msgspec.DecodeError, ValueError, OverflowError, RecursionError) as error:
        raise MalformedMessage(f"a HELLO does not decode: {error}") from None
    if _encoder.encode(message) != body:
        raise MalformedMessage("a HELLO is not in canonical form")
    return message


class Handshake(ABC):
    """One side of a handshake. Feed what arrives to `receive`, send what it returns, until `peer` is set.

    Attributes:
        peer: the other side, once it has proven who it is.
        remainder: bytes that arrived after the handshake's last frame; they belong to the connection's frame reader.
    """

    def __init__(self, chain_id: bytes, nonce: bytes, channel: bytes = NO_CHANNEL) -> None:
        """`nonce`: 32 fresh random bytes. `channel`: SHA-256 of the acceptor's certificate, zeros on plain TCP."""
        if len(chain_id) != DIGEST_BYTES or len(nonce) != NONCE_BYTES or len(channel) != DIGEST_BYTES:
            raise LocalProtocolError("chain id, nonce and channel of a handshake have 32 bytes each")
        self.peer: Peer | None = None
        self.remainder = b""
        self._chain_id = chain_id
        self._channel = channel
        self._domain = derive_key("smartbft v1 handshake", chain_id)
        self._buffer = bytearray()

    def receive(self, data: bytes | memoryview) -> bytes:
        """Take bytes from the other side; returns the bytes to send back (often none).

        Raises:
            RemoteProtocolError: `HandshakeError` when the other side is on another chain, of another version or not who
                it claims to be; `FrameError` or `MalformedMessage` when its bytes are no handshake.
        """
        self._buffer += data
        answers: list[bytes] = []
        while self.peer is None:
            payload = self._next_frame()
            if payload is None:
                return b"".join(answers)
            answers.append(self._step(_decode(payload)))
        self.remainder += bytes(self._buffer)
        self._buffer.clear()
        return b"".join(answers)

    def buffered(self) -> int:
        """Bytes of an incomplete frame."""
        return len(self._buffer)

    def parting(self) -> bytes:
        """What to send before hanging up, so that the other side learns why: an acceptor's hello, which names its
        version and chain. Empty if that was said already, and on the dialing side.
        """
        return b""

    def _next_frame(self) -> bytes | None:
        if len(self._buffer) < FRAME_HEADER_BYTES:
            return None
        length, kind = _HEADER.unpack_from(self._buffer)
        if kind != HELLO:
            raise FrameError(f"a connection starts with HELLO frames, not with kind {kind}")
        if not 2 <= length <= MAX_HELLO_BYTES + 1:
            raise FrameError(f"a HELLO frame of length {length}; at most {MAX_HELLO_BYTES + 1} is allowed")
        end = FRAME_HEADER_BYTES - 1 + length
        if len(self._buffer) < end:
            return None
        payload = bytes(self._buffer[FRAME_HEADER_BYTES:end])
        del self._buffer[:end]
        return payload

    @abstractmethod
    def _step(self, message: _Hello | Proof) -> bytes:
        """Take the next message of the other side; returns the answer. Raises HandshakeError."""

    def _check_chain(self, chain_id: bytes) -> None:
        if chain_id != self._chain_id:
            raise HandshakeError(
                f"the other side is on chain {chain_id.hex()[:16]}, this one on {self._chain_id.hex()[:16]}: "
                "both need the same genesis file"
            )

    def _statement(self, side: bytes, dialers: _Hello, acceptors: ReplicaHello) -> bytes:
        # Canonical encodings, each with its own length inside: two different pairs never give the same bytes.
        return b"".join((self._domain, side, self._channel, _encoder.encode(dialers), _encoder.encode(acceptors)))

    def _check_proof(self, replica: int, keys: Mapping[int, bytes], signature: bytes, statement: bytes) -> None:
        if not verify(keys[replica], signature, statement):
            raise HandshakeError(
                f"the other side claims to be replica {replica} but lacks the permanent key that the genesis names"
            )

    def _check_client(self, key: bytes, signature: bytes, statement: bytes) -> None:
        # With a key of small order anybody could prove to be its owner.
        if is_small_order(key) or not verify(key, signature, statement):
            raise HandshakeError(f"the client lacks the key {key.hex()[:16]} that it claims to have")


class _Dialer(Handshake):
    """The dialing side's wait for the acceptor's hello and proof."""

    def __init__(self, expected: int, key: bytes, channel: bytes, hello: _Hello) -> None:
        super().__init__(hello.chain_id, hello.nonce, channel)
        self._expected = expected
        self._keys = {expected: key}
        self._mine = hello
        self._hello: ReplicaHello | None = None

    def start(self) -> bytes:
        """The first bytes to send."""
        return _encode(self._mine)

    def _step(self, message: _Hello | Proof) -> bytes:
        if self._hello is None:
            if not isinstance(message, ReplicaHello):
                raise HandshakeError(f"expected the HELLO of replica {self._expected}, got a {type(message).__name__}")
            self._check_chain(message.chain_id)
            if message.replica != self._expected:
                raise HandshakeError(
                    f"dialed replica {self._expected} but replica {message.replica} answered: check the addresses"
                )
            self._hello = message
            return b""
        if not isinstance(message, Proof):
            raise HandshakeError(f"expected the proof of replica {self._expected}, got a {type(message).__name__}")
        hello = self._hello
        statement = self._statement(_ACCEPTOR, self._mine, hello)
        self._check_proof(hello.replica, self._keys, message.signature, statement)
        self.peer = Peer(hello.replica, hello.view, hello.level, clock=hello.clock, agreed_time=hello.agreed_time)
        return self._answer(hello)

    def _answer(self, hello: ReplicaHello) -> bytes:
        return b""


class ClientDialer(_Dialer):
    """A client's side towards one replica.

    Args:
        chain_id: hash of the genesis.
        replica: the id of the replica that was dialed.
        key: its permanent key (32 bytes), from the genesis.
        nonce: 32 fresh random bytes.
        channel: SHA-256 of the replica's certificate, zeros on plain TCP.
        signer: proves the client's key; None where each request is signed.
    """

    def __init__(
        self,
        chain_id: bytes,
        replica: int,
        key: bytes,
        nonce: bytes,
        channel: bytes = NO_CHANNEL,
        signer: Signer | None = None,
    ) -> None:
        hello = ClientHello(chain_id, nonce) if signer is None else KeyHello(chain_id, nonce, signer.public_key)
        super().__init__(replica, key, channel, hello)
        self._signer = signer

    def _answer(self, hello: ReplicaHello) -> bytes:
        if self._signer is None:
            return b""
        return _encode(Proof(self._signer.sign(self._statement(_DIALER, self._mine, hello))))


class ReplicaDialer(_Dialer):
    """A replica's side towards the replica it dials (arguments as in `ClientDialer`; `identity` is its own)."""

    def __init__(
        self, chain_id: bytes, identity: Identity, replica: int, key: bytes, nonce: bytes, channel: bytes = NO_CHANNEL
    ) -> None:
        super().__init__(replica, key, channel, identity.hello(chain_id, nonce))
        self._signer = identity.signer

    def _answer(self, hello: ReplicaHello) -> bytes:
        return _encode(Proof(self._signer.sign(self._statement(_DIALER, self._mine, hello))))


class Acceptor(Handshake):
    """The side of a replica that was dialed.

    Args:
        chain_id: hash of the genesis.
        identity: its own.
        peers: permanent keys of the replicas that may dial here, by id; None where only clients may (the client port).
        nonce: 32 fresh random bytes.
        channel: SHA-256 of its own certificate, zeros on plain TCP.
    """

    def __init__(
        self,
        chain_id: bytes,
        identity: Identity,
        peers: Mapping[int, bytes] | None,
        nonce: bytes,
        channel: bytes = NO_CHANNEL,
    ) -> None:
        super().__init__(chain_id, nonce, channel)
        self._signer = identity.signer
        self._mine = identity.hello(chain_id, nonce)
        self._welcomed = False
        self._peers = peers
        self._hello: ReplicaHello | KeyHello | None = None

    def _step(self, message: _Hello | Proof) -> bytes:
        if isinstance(message, Proof):
            return self._finish(message)
        if self._hello is not None:
            raise HandshakeError("a second HELLO on one connection")
        self._check_chain(message.chain_id)
        if isinstance(message, (ClientHello, KeyHello)):
            if self._peers is not None:
                raise HandshakeError("a client dialed the port for replicas: use the replica's client address")
            if isinstance(message, KeyHello):
                self._hello = message
            else:
                self.peer = Peer(None)
            return self._welcome(message)
        if self._peers is None:
            raise HandshakeError("a replica dialed the port for clients: use the replica's replica address")
        if message.replica not in self._peers:
            may = ", ".join(map(str, sorted(self._peers))) or "none"
            raise HandshakeError(f"replica {message.replica} is not one of those that dial this one ({may})")
        self._hello = message
        return self._welcome(message)

    def parting(self) -> bytes:
        """Its hello, unless it was sent."""
        return b"" if self._welcomed else _encode(self._mine)

    def _welcome(self, dialers: _Hello) -> bytes:
        self._welcomed = True
        signature = self._signer.sign(self._statement(_ACCEPTOR, dialers, self._mine))
        return _encode(self._mine) + _encode(Proof(signature))

    def _finish(self, proof: Proof) -> bytes:
        hello = self._hello
        if hello is None:
            raise HandshakeError("a proof before the HELLO it belongs to")
        statement = self._statement(_DIALER, hello, self._mine)
        if isinstance(hello, KeyHello):
            self._check_client(hello.key, proof.signature, statement)
            self.peer = Peer(None, key=hello.key)
            return b""
        if self._peers is None:
            raise HandshakeError("a proof before the HELLO it belongs to")
        self._check_proof(hello.replica, self._peers, proof.signature, statement)
        self.peer = Peer(hello.replica, hello.view, hello.level)
        return b""
