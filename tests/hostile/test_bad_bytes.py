"""Bad bytes on real connections: each costs its sender the connection, with a clear reason, and nobody else anything.

What the parts do with such bytes one by one is tested beside them (tests/fastpath, tests/net, tests/fuzz).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace

import msgspec
import pytest
from kit.hostile import client_of, client_of_all, peer_of, stranger_at
from kit.patience import PATIENCE_SECONDS
from kit.requests import TestClient

from smartbft import AsyncClient, LocalCluster, LocalProtocolError
from smartbft._fastpath.frames import HELLO, MESSAGE, REPLY, REQUEST, STATUS, FrameReader, frame
from smartbft._fastpath.pool import BAD_SIGNATURE, EXECUTED, join_requests
from smartbft.apps import counter
from smartbft.core.validation import Validator
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import HandshakeError
from smartbft.limits import (
    MAX_BAD_SIGNATURES_PER_SOURCE,
    MAX_EARLY_MESSAGES_PER_SENDER,
    MAX_HELLO_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_OPERATION_BYTES,
    MAX_REQUEST_BYTES,
)
from smartbft.messages import Accept, FetchDecisions, Forward, Proof, Propose, Write, encode
from smartbft.messages import Decision as DecisionMessage
from smartbft.net.handshake import NO_CHANNEL, PROTOCOL_VERSION, Acceptor, Identity, ReplicaDialer
from smartbft.types import Value

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture
def reasons(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """What the replicas logged about connections."""
    caplog.set_level(logging.INFO, logger="smartbft")
    return lambda: caplog.text


async def assert_counted(client: AsyncClient, expected: int) -> None:
    """The others go on: an operation of theirs is executed, once."""
    assert counter.decode_value(await client.invoke(counter.add(1), timeout=PATIENCE_SECONDS)) == expected


async def until(condition: Callable[[], object]) -> None:
    """Give way to the replicas until something holds; the scenario's timeout bounds it."""
    while not condition():
        await asyncio.sleep(0)


async def clients(cluster: LocalCluster, replica: int, expected: int) -> None:
    """Wait until a replica has so many connections of clients."""
    while (await cluster.replicas[replica].status())["clients"] != expected:
        await asyncio.sleep(0)


async def peers(cluster: LocalCluster, replica: int, expected: list[int]) -> None:
    """Wait until a replica has channels to exactly these."""
    while (await cluster.replicas[replica].status())["peers"] != expected:
        await asyncio.sleep(0)


# --- before the handshake ---


def hello(*fields: object, version: int = PROTOCOL_VERSION) -> bytes:
    return frame(HELLO, struct.pack("<H", version) + msgspec.msgpack.encode(fields))


def header(length: int, kind: int) -> bytes:
    return struct.pack("<IB", length, kind)


VERSION = struct.pack("<H", PROTOCOL_VERSION)
NONCE = bytes(32)
HELLO_MARK = b"\xc4\x20"  # how a chain id begins in a HELLO
NO_HANDSHAKE = "what it said is no handshake"
STRANGERS = {
    "length 0": (header(0, HELLO), NO_HANDSHAKE),
    "length limit + 1": (header(MAX_HELLO_BYTES + 2, HELLO), NO_HANDSHAKE),
    "length 2^31": (header(2**31, HELLO), NO_HANDSHAKE),
    "length 2^63": (struct.pack("<Q", 2**63), NO_HANDSHAKE),
    "another protocol version": (hello(1, NONCE, NONCE, version=1), f"protocol version 1, this one {PROTOCOL_VERSION}"),
    "another chain": (hello(1, bytes(32), NONCE), "on chain 0000000000000000, this one on"),
    "no HELLO": (frame(REQUEST, b"x" * 200), NO_HANDSHAKE),
    "no protocol of ours": (b"GET / HTTP/1.1\r\n\r\n", NO_HANDSHAKE),
    "not canonical": (frame(HELLO, VERSION + b"\xdc\0\3\1\xc4\x20" + NONCE + b"\xc4\x20" + NONCE), "canonical"),
    "no MessagePack": (frame(HELLO, VERSION + b"\xc1" * 40), "does not decode"),
}


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("port", ["clients", "replicas"])
def test_strangers_are_turned_away_with_a_reason(
    run: Run, reasons: Callable[[], str], stranger: str, port: str
) -> None:
    said, reason = STRANGERS[stranger]

    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            member = cluster.genesis.members[1]
            address = member.client_address if port == "clients" else member.replica_address
            async with stranger_at(address) as connection:
                await connection.send(said)
                # Who speaks of another chain or version is told ours; to noise nothing is said.
                answer = await connection.closed()
                told = FrameReader({HELLO: MAX_HELLO_BYTES}).feed(answer, 0)
                assert [kind for kind, _ in told] == [HELLO] * stranger.startswith("another ")
                await until(lambda: reason in reasons())
                await assert_counted(client, 1)

    run(scenario)


def test_a_truncated_hello_and_nothing_more_is_closed_and_forgotten(run: Run) -> None:
    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            for member in cluster.genesis.members:
                whole = hello(1, cluster.genesis.chain_id, NONCE)
                for length in (1, 4, 5, len(whole) - 1):
                    async with stranger_at(member.client_address) as connection:
                        await connection.send(whole[:length])
                        connection.writer.write_eof()
                        assert await connection.closed() == b""
            await assert_counted(client, 1)

    run(scenario)


def test_a_forged_sender_id_is_turned_away(run: Run, reasons: Callable[[], str]) -> None:
    """Somebody with a key of his own says that he is replica 0."""

    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            member = cluster.genesis.members[3]
            forger = Identity(0, Ed25519Signer(os.urandom(32)), 0, 0)
            dialer = ReplicaDialer(
                cluster.genesis.chain_id, forger, 3, member.permanent_key, os.urandom(32), NO_CHANNEL
            )
            async with stranger_at(member.replica_address) as connection:
                await connection.introduce(dialer)
                assert await connection.closed() == b""
                await until(lambda: "claims to be replica 0 but lacks the permanent key" in reasons())
                await peers(cluster, 3, [0, 1, 2])
                await assert_counted(client, 1)

    run(scenario)


# --- clients ---

CLIENTS = {
    "length 0": (header(0, REQUEST), "length 0"),
    "length limit + 1": (header(MAX_REQUEST_BYTES + 2, REQUEST), f"the limit is {MAX_REQUEST_BYTES}"),
    "length 2^31": (header(2**31, REQUEST), "2147483647 bytes of payload"),
    "length 2^63": (struct.pack("<Q", 2**63), "length 0"),
    "unknown kind": (header(1, 99), "unknown kind 99"),
    "a kind for replicas": (frame(MESSAGE, b"x"), f"unknown kind {MESSAGE}"),
    "a kind for clients' ears": (frame(REPLY, bytes(60)), f"unknown kind {REPLY}"),
    "no request": (frame(REQUEST, b"x"), "a request of 1 bytes"),
    "an operation shorter than it says": (
        frame(REQUEST, bytes(48) + struct.pack("<I", 9) + bytes(72)),
        "declares an operation of 9",
    ),
    "sequence number 0": (frame(REQUEST, bytes(116)), "sequence number 0"),
    "no question": (frame(STATUS, b"[1]"), "does not decode"),
    "a second HELLO": (frame(HELLO, b""), f"unknown kind {HELLO}"),
}


@pytest.mark.parametrize("bad", CLIENTS)
def test_a_clients_bad_bytes_cost_it_the_connection(run: Run, reasons: Callable[[], str], bad: str) -> None:
    said, reason = CLIENTS[bad]

    async def scenario() -> None:
        async with (
            LocalCluster(4, counter.Counter) as cluster,
            cluster.client() as client,
            client_of(cluster, 1) as connection,
        ):
            await connection.send(said)
            await connection.closed()
            await until(lambda: reason in reasons())
            await assert_counted(client, 1)
            await clients(cluster, 1, 1)

    run(scenario)


def test_what_came_before_the_bad_bytes_counts(run: Run) -> None:
    """A good request, then one that is cut short and not well-formed: the first is executed, the second never was."""

    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            author = TestClient(9, chain_id=cluster.genesis.chain_id, session=client.session)
            good = author.request(counter.add(1))
            async with client_of_all(cluster) as connections:
                for connection in connections:
                    await connection.send(frame(REQUEST, good))
                for connection in connections:
                    await connection.reply(EXECUTED)
                    await connection.send(frame(REQUEST, good[:-1]))
                    await connection.closed()
            await assert_counted(client, 2)

    run(scenario)


def test_the_largest_operation_is_served_and_a_larger_one_is_told_to_the_caller(run: Run) -> None:
    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            author = TestClient(9, chain_id=cluster.genesis.chain_id, session=client.session)
            async with client_of(cluster, 1) as connection:
                await connection.send(frame(REQUEST, author.request(bytes(MAX_OPERATION_BYTES))))
                with pytest.raises(LocalProtocolError, match="at most 65536 are allowed"):
                    await client.invoke(bytes(MAX_OPERATION_BYTES + 1))
                await assert_counted(client, 1)
                await clients(cluster, 1, 2)

    run(scenario)


@pytest.mark.parametrize("size", [9, MAX_OPERATION_BYTES], ids=["small", "large"])
def test_a_flood_of_bad_signatures_costs_only_the_flooder(run: Run, reasons: Callable[[], str], size: int) -> None:
    """Somebody floods every replica while others are served: he loses his connections, and waits for new ones."""

    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            flooder = TestClient(9, chain_id=cluster.genesis.chain_id, session=client.session)
            bad = [flooder.request(bytes(size), number, good=False) for number in range(1, 65)]
            flood = b"".join(frame(REQUEST, request) for request in bad)
            thrown_out = 0

            async def attack(replica: int) -> None:
                nonlocal thrown_out
                while True:
                    with contextlib.suppress(ConnectionError):
                        async with client_of(cluster, replica) as connection:
                            await connection.send(flood)
                            while await connection.read():
                                await connection.send(flood)
                            thrown_out += 1

            def waits() -> bool:
                networks = [replica._running()._network for replica in cluster.replicas.values()]
                return any(listener.lobby._held for network in networks for listener in network._listeners)

            attacks = [asyncio.create_task(attack(replica)) for replica in range(4)]
            for number in range(1, 21):
                await assert_counted(client, number)
            await until(lambda: thrown_out >= 8)
            await until(waits)
            for replica in cluster.replicas.values():
                while (await replica.status())["pool"]["bad_signatures"] <= MAX_BAD_SIGNATURES_PER_SOURCE:
                    await asyncio.sleep(0)
            for task in attacks:
                task.cancel()
            await asyncio.gather(*attacks, return_exceptions=True)
            assert "too many requests with bad signatures" in reasons()
            await assert_counted(client, 21)

    run(scenario)


def test_requests_of_another_chain_are_bad_signatures(run: Run) -> None:
    """A request that was good elsewhere is refused here, and the number is free for the client's own."""

    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            elsewhere = TestClient(9, chain_id=bytes(32), session=client.session)
            here = TestClient(9, chain_id=cluster.genesis.chain_id, session=client.session)
            replayed, own = elsewhere.request(counter.add(100)), here.request(counter.add(1))
            async with client_of_all(cluster) as connections:
                for connection in connections:
                    await connection.send(frame(REQUEST, replayed))
                    await connection.reply(BAD_SIGNATURE)
                for connection in connections:
                    await connection.send(frame(REQUEST, own))
                for connection in connections:
                    assert counter.decode_value(await connection.reply(EXECUTED)) == 1
            await assert_counted(client, 2)

    run(scenario)


def test_a_replayed_request_is_executed_once(run: Run) -> None:
    """Whoever sends a request again gets the stored reply."""

    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            author = TestClient(9, chain_id=cluster.genesis.chain_id, session=client.session)
            request = frame(REQUEST, author.request(counter.add(1)))
            for _ in range(3):
                async with client_of_all(cluster) as connections:
                    for connection in connections:
                        await connection.send(request, request)
                    for connection in connections:
                        assert counter.decode_value(await connection.reply(EXECUTED)) == 1
            await assert_counted(client, 2)

    run(scenario)


# --- replicas with a stolen key ---

DIGEST = bytes(range(32))
VALUE = Value(1, DIGEST).encode()
PEERS = {
    "length 0": (header(0, MESSAGE), "length 0"),
    "length limit + 1": (header(MAX_MESSAGE_BYTES + 2, MESSAGE), f"the limit is {MAX_MESSAGE_BYTES}"),
    "length 2^31": (header(2**31, MESSAGE), "2147483647 bytes of payload"),
    "length 2^63": (struct.pack("<Q", 2**63), "length 0"),
    "a client's frame": (frame(REQUEST, bytes(200)), f"unknown kind {REQUEST}"),
    "no MessagePack": (frame(MESSAGE, b"\xc1"), "does not decode"),
    "truncated": (frame(MESSAGE, encode(Write(0, 0, 1, DIGEST))[:-1]), "does not decode"),
    "not canonical": (frame(MESSAGE, b"\x95\x02\x00\x00\xcc\x01\xc4\x20" + DIGEST), "canonical"),
    "another view": (frame(MESSAGE, encode(Write(7, 0, 1, DIGEST))), "view 7"),
    "a proposal that is not his": (frame(MESSAGE, encode(Propose(0, 0, 1, VALUE))), "replica 1 leads regency 0"),
    "an unsigned ACCEPT": (frame(MESSAGE, encode(Accept(0, 0, 1, DIGEST, bytes(64)))), "bad signature"),
    "a decision without a quorum": (
        frame(MESSAGE, encode(DecisionMessage(0, 0, 1, VALUE, b"", Proof(0, 0, 1, DIGEST, ())))),
        "proof of instance 1 is for another value",
    ),
}


@pytest.mark.parametrize("bad", PEERS)
def test_a_replicas_bad_bytes_cost_it_the_channel(run: Run, reasons: Callable[[], str], bad: str) -> None:
    said, reason = PEERS[bad]

    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            await cluster.stop(0)
            async with peer_of(cluster, 3, own=0) as connection:
                await connection.send(said)
                await connection.closed()
                await until(lambda: reason in reasons())
                await assert_counted(client, 1)
                await peers(cluster, 3, [1, 2])

    run(scenario)


def test_planted_bug_without_a_check_the_liar_stays(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test above relies on: a replica that does not check ACCEPTs keeps the channel."""
    monkeypatch.setattr(Validator, "_check_accept", lambda *_: None)

    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            await cluster.stop(0)
            async with peer_of(cluster, 3, own=0) as connection:
                await connection.send(PEERS["an unsigned ACCEPT"][0])
                await assert_counted(client, 1)
                await peers(cluster, 3, [0, 1, 2])

    run(scenario)


def test_a_request_signature_is_no_vote(run: Run, reasons: Callable[[], str]) -> None:
    """Replica 0's consensus key signs the right bytes in the domain of requests: worth nothing as an ACCEPT."""

    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            await cluster.stop(0)
            domains = Domains(cluster.genesis.chain_id)
            statement = domains.accept_payload(0, 0, 1, DIGEST)[32:]
            signature = cluster._secrets[0].consensus.sign(domains.request_prefix + statement)
            async with peer_of(cluster, 3, own=0) as connection:
                await connection.say(Accept(0, 0, 1, DIGEST, signature))
                await connection.closed()
            await until(lambda: "ACCEPT of replica 0 for instance 1 has a bad signature" in reasons())
            await assert_counted(client, 1)

    run(scenario)


def test_a_vote_is_no_request_signature(run: Run) -> None:
    """A request signed in the domain of votes, by a member's key: refused; the same one signed properly is not."""

    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            domains = Domains(cluster.genesis.chain_id)
            signer, operation = cluster._secrets[0].consensus, counter.add(5)
            unsigned = struct.pack("<32sQQI", signer.public_key, client.session, 1, len(operation)) + operation
            as_vote = signer.sign(domains.accept_payload(0, 0, 1, DIGEST)[:32] + unsigned)
            async with client_of_all(cluster) as connections:
                for connection in connections:
                    await connection.send(frame(REQUEST, unsigned + as_vote))
                    await connection.reply(BAD_SIGNATURE)
                for connection in connections:
                    await connection.send(frame(REQUEST, unsigned + signer.sign(domains.request_prefix + unsigned)))
                for connection in connections:
                    assert counter.decode_value(await connection.reply(EXECUTED)) == 5
            await assert_counted(client, 6)

    run(scenario)


def test_questions_for_what_nobody_has_are_harmless(run: Run) -> None:
    """A peer asks for decisions that are not there and ranges that make no sense, over and over."""

    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            await cluster.stop(0)
            async with peer_of(cluster, 3, own=0) as connection:
                for first, last in [(1, 0), (0, 2**62), (2**62, 2**62), (5, 1)] * 50:
                    await connection.say(FetchDecisions(0, 0, first, last))
                await assert_counted(client, 1)

    run(scenario)


def test_votes_for_the_future_fill_nothing_but_their_senders_share(run: Run) -> None:
    """Thousands of valid votes for instances that have not begun: a few are kept, and everybody goes on."""

    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            await cluster.stop(0)
            async with peer_of(cluster, 3, own=0) as connection:
                flood = [frame(MESSAGE, encode(Write(0, 0, instance, DIGEST))) for instance in range(2, 5000)]
                flood += [frame(MESSAGE, encode(Write(0, 0, 9, bytes([number]) * 32))) for number in range(200)]
                await connection.send(*flood)
                for number in range(1, 6):
                    await assert_counted(client, number)
                parts = cluster.replicas[3]._parts
                assert parts is not None
                assert len(parts._core.ordering._early) <= MAX_EARLY_MESSAGES_PER_SENDER
                await peers(cluster, 3, [0, 1, 2])
            for number in range(6, 16):
                await assert_counted(client, number)

    run(scenario)


def test_forwarded_requests_with_bad_signatures_stop_nobody(run: Run) -> None:
    """A member forwards nothing but bad signatures, as fast as the leader reads, while a client is served."""

    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            await cluster.stop(0)
            forger = TestClient(9, chain_id=cluster.genesis.chain_id, session=client.session)
            bad = [forger.request(bytes(MAX_OPERATION_BYTES), number, good=False) for number in range(1, 16)]
            flood = frame(MESSAGE, encode(Forward(0, 0, join_requests(bad))))

            async def attack() -> None:
                while True:
                    async with peer_of(cluster, 1, own=0) as connection:
                        while not connection.writer.is_closing():
                            await connection.send(flood)

            attacking = asyncio.create_task(attack())
            for number in range(1, 21):
                await assert_counted(client, number)
            attacking.cancel()
            await asyncio.gather(attacking, return_exceptions=True)
            await assert_counted(client, 21)

    run(scenario)


# --- strangers on TLS ---


@pytest.mark.parametrize(
    "said", [b"GET / HTTP/1.1\r\n\r\n", bytes(100), hello(1, NONCE, NONCE), b"\x16\x03\x01\xff\xff"]
)
def test_strangers_at_a_tls_port(run: Run, said: bytes) -> None:
    """Plain bytes, a plain handshake, half a TLS record: closed, without a word of ours."""

    async def scenario() -> None:
        cluster = LocalCluster(4, counter.Counter, transport="tls")
        async with cluster, cluster.client() as client:
            for address in (cluster.genesis.members[1].client_address, cluster.genesis.members[1].replica_address):
                async with stranger_at(address) as connection:
                    await connection.send(said)
                    connection.writer.write_eof()
                    assert HELLO_MARK not in await connection.closed()
            await assert_counted(client, 1)

    run(scenario)


# --- replicas that lie to a client ---


def test_a_reply_in_another_replicas_name_costs_the_liar_the_clients_trust(run: Run) -> None:
    """A man in the middle of nothing: replica 0's place is taken by somebody with its key who answers as replica 1."""

    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster:
            await cluster.stop(0)
            asked = asyncio.Event()

            async def lie(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                identity = Identity(0, cluster._secrets[0].permanent, 0, 0)
                accepting = Acceptor(cluster.genesis.chain_id, identity, None, os.urandom(32), NO_CHANNEL)
                while accepting.peer is None:
                    data = await reader.read(65536)
                    if not data:  # the client is closed meanwhile
                        writer.close()
                        return
                    writer.write(accepting.receive(data))
                writer.write(frame(REPLY, struct.pack("<HBBIQQ", 1, 0, 0, 0, 1, 1) + bytes(32) + b"\0lie"))
                assert await reader.read() is not None
                asked.set()
                writer.close()

            _, for_clients = cluster._sockets[0]
            server = await asyncio.start_server(lie, sock=for_clients.dup())
            async with cluster.client() as client:
                await assert_counted(client, 1)
                await asked.wait()
                await assert_counted(client, 2)
            server.close()

    run(scenario)


def test_a_client_of_another_chain_reaches_nobody(run: Run) -> None:
    """The genesis that a client has differs in one parameter: no replica talks to it, and it says so."""

    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster:
            other = replace(cluster.genesis, chain_name="other")
            stranger = AsyncClient(other, Ed25519Signer(os.urandom(32)), transport="plain", persistence="memory")
            with pytest.raises(HandshakeError, match="both need the same genesis file"):
                await stranger.connect()
            await stranger.aclose()

    run(scenario)
