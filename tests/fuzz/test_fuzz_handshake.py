"""Mutated handshakes, questions and replies: only the documented errors, and nobody is let in who should not be."""

from __future__ import annotations

import contextlib

import pytest
from kit.mutation import Mutator, executions

from smartbft._fastpath.hashing import keyed_hash
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import MalformedMessage, RemoteProtocolError
from smartbft.net.handshake import Acceptor, Handshake, Identity, Peer, ReplicaDialer
from smartbft.runtime.requests import ReplyCollector
from smartbft.runtime.status import decode_question

CHAIN = bytes(range(32))
SIGNERS = [Ed25519Signer(bytes([replica + 1]) * 32) for replica in range(3)]
CERTIFICATE = b"c" * 32


class Handshakes:
    """Replica 0 dials replica 1; what it says is changed on the way, cut and put together anew."""

    def __init__(self, seed: int) -> None:
        self.mutator = Mutator(seed, fields=[CHAIN, bytes(32), b"\0\0", SIGNERS[2].public_key, b"\xff" * 4])
        dialer = self.dialer()
        self.hello = dialer.start()
        welcome = self.acceptor().receive(self.hello)
        self.proof = dialer.receive(welcome)
        self.welcome = welcome
        assert dialer.peer == Peer(1, 0, 2)

    def acceptor(self) -> Acceptor:
        return Acceptor(CHAIN, Identity(1, SIGNERS[1], 0, 2), {0: SIGNERS[0].public_key}, b"b" * 32, CERTIFICATE)

    def dialer(self) -> ReplicaDialer:
        return ReplicaDialer(CHAIN, Identity(0, SIGNERS[0], 0, 2), 1, SIGNERS[1].public_key, b"a" * 32, CERTIFICATE)

    def one(self) -> None:
        honest = self.hello + self.proof
        self.judge(self.acceptor(), honest, self.mutator.mutate(honest, self.welcome), Peer(0, 0, 2))
        self.judge(self.dialer(), self.welcome, self.mutator.mutate(self.welcome, honest), Peer(1, 0, 2))

    def judge(self, side: Handshake, honest: bytes, heard: bytes, peer: Peer) -> None:
        """Byte by byte or at once, the verdict is the same; only the honest bytes authenticate, and only once."""
        cut = self.mutator.random.randint(0, len(heard))
        with contextlib.suppress(RemoteProtocolError):
            side.receive(heard[:cut])
            side.receive(heard[cut:])
        if side.peer is not None:
            assert side.peer == peer
            assert heard[: len(honest)] == honest, "bytes that nobody said have authenticated a peer"


class Careless(Handshakes):
    """Planted bug: the proof is only looked at, not checked."""

    def acceptor(self) -> Acceptor:
        careless = super().acceptor()
        careless._check_proof = lambda *_: None  # type: ignore[method-assign]
        return careless


class Questions:
    """STATUS questions: the empty one, and changes of a complete one."""

    def __init__(self, seed: int) -> None:
        self.mutator = Mutator(seed, fields=[b"true", b"false", b'"digest"', b"{", b"\\u0000", b"null"])

    def one(self) -> None:
        with contextlib.suppress(MalformedMessage):
            assert decode_question(self.mutator.mutate(b'{"digest": true}', b"{}")).digest in (True, False)


class Replies:
    """REPLY payloads from a replica that lies: alone it settles nothing."""

    def __init__(self, seed: int) -> None:
        self.mutator = Mutator(seed, fields=[keyed_hash(bytes(32), b"request"), b"\0\0\0", b"\1\0\3"])
        self.digest = self.mutator.fields[0]

    def one(self) -> None:
        collector = ReplyCollector(f=1, needed=2)
        collector.expect(self.digest)
        honest = bytes([1, 0, 0, 2]) + bytes(20) + self.digest + b"result"
        for _ in range(3):
            with contextlib.suppress(MalformedMessage):
                assert collector.add(1, self.mutator.mutate(honest, bytes(56))) is None
        assert collector.add(1, honest) is None
        settled = collector.add(2, b"\2" + honest[1:])
        assert settled is not None
        assert settled[1].result == b"result"


def fuzz(target: Handshakes | Questions | Replies, count: int) -> None:
    for _ in range(count):
        target.one()


@pytest.mark.parametrize("target", [Handshakes, Questions, Replies])
def test_mutated_bytes(target: type[Handshakes | Questions | Replies]) -> None:
    fuzz(target(seed=1), executions())


def test_a_planted_bug_is_found() -> None:
    with pytest.raises(AssertionError, match="bytes that nobody said"):
        fuzz(Careless(seed=1), 20_000)
