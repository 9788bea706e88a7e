"""The handshake: who is let in, and every way of being somebody else."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbft._fastpath.frames import HELLO, MESSAGE, REQUEST
from smartbft._fastpath.hashing import derive_key
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import FrameError, HandshakeError, LocalProtocolError, MalformedMessage, RemoteProtocolError
from smartbft.limits import MAX_HELLO_BYTES
from smartbft.net.handshake import (
    PROTOCOL_VERSION,
    Acceptor,
    ClientDialer,
    Handshake,
    Identity,
    Peer,
    ReplicaDialer,
)

CHAIN = bytes(range(32))
OTHER_CHAIN = bytes(32)
SIGNERS = {replica: Ed25519Signer(bytes([replica + 1]) * 32) for replica in range(4)}
KEYS = {replica: signer.public_key for replica, signer in SIGNERS.items()}
NONCE_A, NONCE_B = b"a" * 32, b"b" * 32
CERTIFICATE = b"c" * 32


def identity(replica: int, signer: Ed25519Signer | None = None) -> Identity:
    return Identity(replica, signer or SIGNERS[replica], view=0, level=2)


def acceptor(
    replica: int = 1, *, chain: bytes = CHAIN, channel: bytes = CERTIFICATE, nonce: bytes = NONCE_B
) -> Acceptor:
    lower = {peer: key for peer, key in KEYS.items() if peer < replica}
    return Acceptor(chain, identity(replica), lower, nonce, channel)


def dialer(replica: int = 0, to: int = 1, **other: object) -> ReplicaDialer:
    settings = {"chain": CHAIN, "nonce": NONCE_A, "channel": CERTIFICATE, "me": identity(replica)} | other
    return ReplicaDialer(settings["chain"], settings["me"], to, KEYS[to], settings["nonce"], settings["channel"])


def run(dialing: ReplicaDialer | ClientDialer, accepting: Handshake) -> None:
    """Carry bytes back and forth until both are silent."""
    to_acceptor = dialing.start()
    while to_acceptor:
        to_dialer = accepting.receive(to_acceptor)
        to_acceptor = dialing.receive(to_dialer)


def frame(payload: bytes, kind: int = HELLO) -> bytes:
    return struct.pack("<IB", len(payload) + 1, kind) + payload


def hello(*fields: object, version: int = PROTOCOL_VERSION) -> bytes:
    return frame(struct.pack("<H", version) + msgspec.msgpack.encode(fields))


# --- who is let in ---


def test_two_replicas_learn_who_the_other_is() -> None:
    dialing, accepting = dialer(), acceptor()
    run(dialing, accepting)
    assert dialing.peer == Peer(1, view=0, level=2)
    assert accepting.peer == Peer(0, view=0, level=2)


def test_a_replica_tells_its_times_as_they_are_when_it_is_asked() -> None:
    times = [5, 7]
    me = Identity(1, SIGNERS[1], 0, 2, lambda: (times[0], times[1]))
    for _ in range(2):
        times[0] += 2**40
        dialing = ClientDialer(CHAIN, 1, KEYS[1], NONCE_A, CERTIFICATE)
        run(dialing, Acceptor(CHAIN, me, None, NONCE_B, CERTIFICATE))
        assert dialing.peer == Peer(1, view=0, level=2, clock=times[0], agreed_time=7)


def test_a_client_learns_who_the_replica_is_and_stays_nobody() -> None:
    dialing = ClientDialer(CHAIN, 1, KEYS[1], NONCE_A, CERTIFICATE)
    accepting = Acceptor(CHAIN, identity(1), None, NONCE_B, CERTIFICATE)
    run(dialing, accepting)
    assert dialing.peer == Peer(1, view=0, level=2)
    assert accepting.peer == Peer(None)


def test_bytes_may_arrive_one_by_one_and_what_follows_is_handed_on() -> None:
    dialing, accepting = dialer(), acceptor()
    answer = b"".join(accepting.receive(dialing.start()[at : at + 1]) for at in range(len(dialing.start())))
    proof = b"".join(dialing.receive(answer[at : at + 1]) for at in range(len(answer)))
    following = frame(b"first message", MESSAGE)
    for byte in (proof + following)[:-1]:
        if accepting.peer is not None:
            break
        accepting.receive(bytes([byte]))
    accepting = acceptor()
    accepting.receive(dialing.start())
    assert accepting.receive(proof + following) == b""
    assert accepting.peer == Peer(0, view=0, level=2)
    assert accepting.remainder == following


def test_the_bytes_are_those_of_the_documentation() -> None:
    """docs/wire-format.md, "Handshake", spelled out."""
    dialing, accepting = dialer(), acceptor()
    dialers = b"\x98\x02\xc4\x20" + CHAIN + b"\xc4\x20" + NONCE_A + b"\x00\x00\x02\x00\x00"
    acceptors = b"\x98\x02\xc4\x20" + CHAIN + b"\xc4\x20" + NONCE_B + b"\x01\x00\x02\x00\x00"
    assert dialing.start() == frame(b"\x02\x00" + dialers)
    welcome = accepting.receive(dialing.start())
    domain = derive_key("smartbft v1 handshake", CHAIN)
    proof = SIGNERS[1].sign(domain + b"\x01" + CERTIFICATE + dialers + acceptors)
    assert welcome == frame(b"\x02\x00" + acceptors) + frame(b"\x02\x00\x92\x03\xc4\x40" + proof)
    proof = SIGNERS[0].sign(domain + b"\x00" + CERTIFICATE + dialers + acceptors)
    assert dialing.receive(welcome) == frame(b"\x02\x00\x92\x03\xc4\x40" + proof)


# --- who is not ---


def test_another_chain_is_refused_by_both_sides() -> None:
    with pytest.raises(HandshakeError, match=r"on chain 0000.*same genesis"):
        acceptor().receive(dialer(chain=OTHER_CHAIN).start())
    answer = acceptor(chain=OTHER_CHAIN).receive(dialer(chain=OTHER_CHAIN).start())
    with pytest.raises(HandshakeError, match="same genesis"):
        dialer().receive(answer)


def test_a_dialer_that_is_refused_learns_why() -> None:
    refusing, dialing = acceptor(chain=OTHER_CHAIN), dialer()
    with pytest.raises(HandshakeError):
        refusing.receive(dialing.start())
    with pytest.raises(HandshakeError, match="same genesis"):
        dialing.receive(refusing.parting())
    welcoming = acceptor()
    welcoming.receive(dialer().start())
    assert welcoming.parting() == b""
    assert dialer().parting() == b""


def test_another_protocol_version_is_named_whatever_follows() -> None:
    with pytest.raises(HandshakeError, match=f"protocol version 3, this one {PROTOCOL_VERSION}"):
        acceptor().receive(hello("a", "layout", "of", "the", "future", version=3))


def test_a_forged_sender_id_is_found_out() -> None:
    impostor = dialer(0, to=2, me=identity(0, SIGNERS[3]))
    with pytest.raises(HandshakeError, match="claims to be replica 0 but lacks the permanent key"):
        run(impostor, acceptor(2))


def test_an_impostor_that_accepts_is_found_out() -> None:
    impostor = Acceptor(CHAIN, identity(1, SIGNERS[3]), {0: KEYS[0]}, NONCE_B, CERTIFICATE)
    with pytest.raises(HandshakeError, match="claims to be replica 1"):
        run(dialer(), impostor)


def test_the_wrong_replica_at_an_address() -> None:
    with pytest.raises(HandshakeError, match="dialed replica 1 but replica 2 answered"):
        run(dialer(0, to=1), Acceptor(CHAIN, identity(2), KEYS, NONCE_B, CERTIFICATE))


@pytest.mark.parametrize("stranger", [1, 2, 3, 77])
def test_only_replicas_with_lower_ids_dial(stranger: int) -> None:
    claim = hello(2, CHAIN, NONCE_A, stranger, 0, 2, 0, 0)
    with pytest.raises(HandshakeError, match=rf"replica {stranger} is not one of those that dial this one \(0\)"):
        acceptor(1).receive(claim)


def test_each_port_is_for_one_kind() -> None:
    client = ClientDialer(CHAIN, 1, KEYS[1], NONCE_A, CERTIFICATE)
    with pytest.raises(HandshakeError, match="use the replica's client address"):
        acceptor().receive(client.start())
    with pytest.raises(HandshakeError, match="use the replica's replica address"):
        Acceptor(CHAIN, identity(1), None, NONCE_B, CERTIFICATE).receive(dialer().start())


# --- clients that prove a key ---


CLIENT = Ed25519Signer(b"k" * 32)


def proving(*, channel: bytes = CERTIFICATE, nonce: bytes = NONCE_A, signer: Ed25519Signer = CLIENT) -> ClientDialer:
    return ClientDialer(CHAIN, 1, KEYS[1], nonce, channel, signer)


def for_clients(*, nonce: bytes = NONCE_B) -> Acceptor:
    return Acceptor(CHAIN, identity(1), None, nonce, CERTIFICATE)


def test_a_client_proves_its_key() -> None:
    dialing, accepting = proving(), for_clients()
    run(dialing, accepting)
    assert dialing.peer == Peer(1, view=0, level=2)
    assert accepting.peer == Peer(None, key=CLIENT.public_key)


def test_a_client_that_claims_a_key_is_nobody_until_it_has_proven_it() -> None:
    dialing, accepting = proving(), for_clients()
    answer = accepting.receive(dialing.start())
    assert accepting.peer is None
    accepting.receive(dialing.receive(answer))
    assert accepting.peer is not None


class Impostor(Ed25519Signer):
    """Claims another client's key."""

    def __init__(self, secret: bytes) -> None:
        super().__init__(secret)
        self.public_key = CLIENT.public_key


def test_a_key_that_is_not_there_is_not_proven() -> None:
    with pytest.raises(HandshakeError, match="the client lacks the key"):
        run(proving(signer=Impostor(b"i" * 32)), for_clients())


def test_a_clients_proof_holds_for_one_connection_channel_and_direction() -> None:
    dialing = proving()
    hello_bytes = dialing.start()
    proof = dialing.receive(for_clients().receive(hello_bytes))
    again = for_clients(nonce=b"x" * 32)
    again.receive(hello_bytes)
    with pytest.raises(HandshakeError, match="the client lacks the key"):
        again.receive(proof)
    with pytest.raises(HandshakeError, match="lacks the permanent key"):
        run(proving(channel=b"m" * 32), for_clients())
    reflected = for_clients()
    reflected.receive(hello_bytes)
    with pytest.raises(HandshakeError, match="a second HELLO"):
        reflected.receive(hello_bytes)


def test_a_key_for_which_anybody_can_sign_is_refused() -> None:
    identity_point = (1).to_bytes(32, "little")
    accepting = for_clients()
    accepting.receive(hello(4, CHAIN, NONCE_A, identity_point))
    with pytest.raises(HandshakeError, match="the client lacks the key"):
        accepting.receive(hello(3, identity_point + bytes(32)))


def test_a_replicas_key_is_no_clients_and_the_other_way_round() -> None:
    """The same key in another role signs another hello."""
    as_replica = dialer()
    proof = as_replica.receive(acceptor().receive(as_replica.start()))
    accepting = for_clients()
    accepting.receive(proving(signer=SIGNERS[0]).start())
    with pytest.raises(HandshakeError, match="the client lacks the key"):
        accepting.receive(proof)
    with pytest.raises(HandshakeError, match="use the replica's client address"):
        acceptor().receive(proving().start())


def test_a_proof_from_a_client_that_claimed_nothing_is_out_of_place() -> None:
    accepting = for_clients()
    with pytest.raises(HandshakeError, match="a proof before the HELLO"):
        accepting.receive(hello(3, bytes(64)))


# --- replayed and carried over ---


def test_a_replayed_handshake_fails_because_the_nonce_is_fresh() -> None:
    dialing, accepting = dialer(), acceptor()
    first = dialing.start()
    proof = dialing.receive(accepting.receive(first))
    accepting.receive(proof)
    assert accepting.peer is not None
    again = acceptor(nonce=b"x" * 32)
    again.receive(first)
    with pytest.raises(HandshakeError, match="claims to be replica 0"):
        again.receive(proof)


def test_a_replayed_answer_fails_because_the_nonce_is_fresh() -> None:
    answer = acceptor().receive(dialer().start())
    with pytest.raises(HandshakeError, match="claims to be replica 1"):
        dialer(nonce=b"x" * 32).receive(answer)


def test_a_proof_cannot_be_carried_over_to_another_channel() -> None:
    """A man in the middle shows his own certificate to the dialer and passes everything on."""
    with pytest.raises(HandshakeError, match="lacks the permanent key"):
        run(dialer(channel=b"m" * 32), acceptor())


def test_a_proof_for_one_replica_is_worth_nothing_at_another() -> None:
    """Replica 1 passes what replica 0 says to it on to replica 2, and the answer back."""
    honest, victim = dialer(0, to=1), acceptor(2, channel=CERTIFICATE)
    to_dialer = victim.receive(honest.start())
    with pytest.raises(HandshakeError, match="dialed replica 1 but replica 2 answered"):
        honest.receive(to_dialer)
    proof_for_1 = dialer(0, to=1).receive(acceptor(1).receive(honest.start()))
    victim = acceptor(2, nonce=NONCE_B)
    victim.receive(honest.start())
    with pytest.raises(HandshakeError, match="claims to be replica 0"):
        victim.receive(proof_for_1)


def test_a_reflected_proof_is_worth_nothing() -> None:
    """Sending the acceptor its own hello and proof back."""
    accepting = Acceptor(CHAIN, identity(1), KEYS, NONCE_B, CERTIFICATE)
    answer = accepting.receive(dialer().start())
    victim = Acceptor(CHAIN, identity(1), KEYS, NONCE_B, CERTIFICATE)
    with pytest.raises(HandshakeError, match="claims to be replica 1"):
        victim.receive(answer)


# --- hostile bytes ---


@pytest.mark.parametrize(
    ("payload", "complaint"),
    [
        ((1, CHAIN), "does not decode"),
        ((1, CHAIN, NONCE_A, 0), "does not decode"),
        ((1, CHAIN, NONCE_A[:31]), "does not decode"),
        ((1, CHAIN + b"x", NONCE_A), "does not decode"),
        ((2, CHAIN, NONCE_A, -1, 0, 2), "does not decode"),
        ((2, CHAIN, NONCE_A, 1 << 16, 0, 2), "does not decode"),
        ((2, CHAIN, NONCE_A, 0, 1 << 32, 2), "does not decode"),
        ((2, CHAIN, NONCE_A, 0, 0, 3), "does not decode"),
        ((2, CHAIN, NONCE_A, "0", 0, 2), "does not decode"),
        ((3, bytes(63)), "does not decode"),
        ((4, CHAIN, NONCE_A), "does not decode"),
        ((), "does not decode"),
    ],
)
def test_malformed_hellos(payload: tuple[object, ...], complaint: str) -> None:
    with pytest.raises(MalformedMessage, match=complaint):
        acceptor().receive(hello(*payload))


def test_a_hello_in_a_longer_encoding_is_refused() -> None:
    canonical = msgspec.msgpack.encode((2, CHAIN, NONCE_A, 0, 0, 2))
    longer = b"\xdc\x00\x06" + canonical[1:]  # the array's length in three bytes instead of one
    with pytest.raises(MalformedMessage, match="canonical"):
        acceptor().receive(frame(struct.pack("<H", PROTOCOL_VERSION) + longer))


@pytest.mark.parametrize("length", [0, 1, MAX_HELLO_BYTES + 2, 2**31, 2**32 - 1])
def test_lengths_out_of_bounds_are_refused_before_anything_follows(length: int) -> None:
    with pytest.raises(FrameError, match=rf"length {length}"):
        acceptor().receive(struct.pack("<IB", length, HELLO))


@pytest.mark.parametrize("kind", [REQUEST, MESSAGE, 0, 255])
def test_other_frames_first_are_refused(kind: int) -> None:
    with pytest.raises(FrameError, match=f"not with kind {kind}"):
        acceptor().receive(struct.pack("<IB", 5, kind))


def test_messages_out_of_order() -> None:
    with pytest.raises(HandshakeError, match="a proof before the HELLO"):
        acceptor().receive(hello(3, bytes(64)))
    twice = acceptor(2)
    twice.receive(dialer(0, to=2).start())
    with pytest.raises(HandshakeError, match="a second HELLO"):
        twice.receive(dialer(1, to=2).start())
    with pytest.raises(HandshakeError, match="expected the HELLO of replica 1, got a Proof"):
        dialer().receive(hello(3, bytes(64)))
    waiting = dialer()
    welcome = acceptor().receive(waiting.start())
    with pytest.raises(HandshakeError, match="expected the proof of replica 1, got a ReplicaHello"):
        waiting.receive(welcome[: -(64 + 2 + 2 + 2 + 5)] * 2)


@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_raise_nothing_but_remote_protocol_errors(data: bytes, accepting: bool) -> None:
    side = acceptor() if accepting else dialer()
    try:
        side.receive(data)
        side.receive(frame(struct.pack("<H", PROTOCOL_VERSION) + data))
    except RemoteProtocolError:
        pass
    assert side.peer is None


@given(st.data())
def test_a_mutated_handshake_never_authenticates(data: st.DataObject) -> None:
    """One byte of the dialer's messages is changed: the acceptor refuses, or waits for more."""
    dialing, accepting = dialer(), acceptor()
    first = dialing.start()
    proof = dialing.receive(accepting.receive(first))
    messages = [bytearray(first), bytearray(proof)]
    target = data.draw(st.sampled_from(messages))
    at = data.draw(st.integers(0, len(target) - 1))
    target[at] ^= data.draw(st.integers(1, 255))
    victim = acceptor()
    try:
        for message in messages:
            victim.receive(bytes(message))
    except RemoteProtocolError:
        pass
    assert victim.peer is None


def test_wrong_arguments_are_the_callers_fault() -> None:
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        Acceptor(CHAIN, identity(1), None, b"short", CERTIFICATE)
