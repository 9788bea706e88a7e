"""`Replica`: its life inside somebody's program, wrong configurations, hostile clients and peers."""

from __future__ import annotations

import asyncio
import logging
import signal
import struct
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kit.hostile import client_of, client_of_all, peer_of
from kit.patience import PATIENCE_SECONDS
from kit.requests import TestClient

from smartbft import (
    ApplicationFailed,
    AsyncClient,
    ConfigError,
    CorruptLog,
    InvariantViolation,
    LocalCluster,
    LocalProtocolError,
    Replica,
    StorageError,
)
from smartbft._fastpath.frames import MESSAGE, REQUEST, STATUS, frame
from smartbft.apps import counter
from smartbft.config import Address, Genesis
from smartbft.limits import MAX_BAD_SIGNATURES_PER_SOURCE
from smartbft.net.transport import Listener
from smartbft.runtime.assembly import RunningReplica
from smartbft.runtime.new_key import KeyDesk
from smartbft.runtime.snapshots import SnapshotKeeper
from smartbft.smr.application import ExecutionContext
from smartbft.testnet import Testnet, create_testnet

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture
def testnet(tmp_path: Path) -> Testnet:
    return create_testnet(tmp_path / "net", 1, application="counter", transport="plain", persistence="sync")


# --- life ---


def test_a_replica_lives_inside_the_callers_program(run: Run, testnet: Testnet) -> None:
    configuration = (logging.root.level, list(logging.root.handlers))

    async def scenario() -> None:
        handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        async with Replica(testnet.homes[0], counter.Counter()) as replica:
            await replica.ready()
            assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)] == handlers
            assert (await replica.status())["replica"] == 0
        assert (logging.root.level, list(logging.root.handlers)) == configuration
        await replica.wait()
        await replica.aclose()
        with pytest.raises(LocalProtocolError, match="does not run"):
            await replica.status()
        with pytest.raises(LocalProtocolError, match="started once"):
            await replica.start()

    run(scenario)


def test_an_application_that_fails_ends_the_replica_and_its_block(run: Run, testnet: Testnet) -> None:
    class Broken(counter.Counter):
        def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
            raise KeyError("a bug")

    async def serve(replica: Replica) -> None:
        async with replica, AsyncClient.from_profile(testnet.profile) as client:
            await client.invoke(counter.add(1), PATIENCE_SECONDS)

    async def scenario() -> None:
        replica = Replica(testnet.homes[0], Broken())
        with pytest.raises(ApplicationFailed, match=r"the application failed at request 0 .* KeyError\('a bug'\)"):
            await serve(replica)
        with pytest.raises(ApplicationFailed):
            await replica.wait()

    run(scenario)


def test_a_body_that_ends_before_a_failed_replica_does_hears_of_it(run: Run, testnet: Testnet) -> None:
    """It stops a moment later, so that the others get its votes."""

    async def serve() -> None:
        async with Replica(testnet.homes[0], counter.Counter()) as replica:
            assert replica._parts is not None
            replica._parts._failing.begin(ApplicationFailed("planted"))

    async def scenario() -> None:
        with pytest.raises(ApplicationFailed, match="planted"):
            await serve()

    run(scenario)


def test_a_fatal_error_comes_out_of_the_context_manager(run: Run, testnet: Testnet) -> None:
    async def scenario() -> None:
        replica = Replica(testnet.homes[0], counter.Counter())

        async def serve() -> None:
            async with replica:
                asyncio.get_running_loop().call_soon(replica.fail, InvariantViolation("planted"))
                await asyncio.Event().wait()

        with pytest.raises(InvariantViolation, match="planted"):
            await serve()
        with pytest.raises(InvariantViolation, match="planted"):
            await replica.wait()

    run(scenario)


@pytest.mark.parametrize("waits", [False, True])
def test_a_fatal_error_while_it_starts_is_what_comes_out(
    run: Run, testnet: Testnet, monkeypatch: pytest.MonkeyPatch, waits: bool
) -> None:
    """And not the cancellation by which it got there: a command would end without a word."""
    start = RunningReplica.start

    async def fails(parts: RunningReplica, sockets: None) -> None:
        await start(parts, sockets)
        parts._fail(InvariantViolation("planted"))
        if waits:
            await asyncio.sleep(0)

    async def scenario() -> None:
        with monkeypatch.context() as planted:
            planted.setattr(RunningReplica, "start", fails)
            with pytest.raises(InvariantViolation, match="planted"):
                async with Replica(testnet.homes[0], counter.Counter()):
                    pytest.fail("it did not start")
            task = asyncio.current_task()
            assert task is not None
            assert not task.cancelling()
            replica = Replica(testnet.homes[0], counter.Counter())
            with pytest.raises(InvariantViolation, match="planted"):
                await replica.start()
        async with Replica(testnet.homes[0], counter.Counter()) as replica:
            await replica.ready()

    run(scenario)


def test_what_fails_while_it_closes_leaves_nothing_open(
    run: Run, testnet: Testnet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ports, the lock of the data folder and the threads are free again, whichever part fails."""

    async def scenario() -> None:
        for part in (Listener, KeyDesk, SnapshotKeeper):
            replica = Replica(testnet.homes[0], counter.Counter())
            await replica.start()
            with monkeypatch.context() as planted:
                close = part.close

                async def closes(self: Any, close: Any = close) -> None:
                    await close(self)
                    raise KeyError("planted")

                planted.setattr(part, "close", closes)
                with pytest.raises(KeyError, match="planted"):
                    await replica.aclose()
        async with Replica(testnet.homes[0], counter.Counter()) as replica:
            await replica.ready()

    run(scenario)


def test_the_bodys_own_errors_come_out_as_they_are(run: Run, testnet: Testnet) -> None:
    async def scenario() -> None:
        with pytest.raises(KeyError, match="mine"):
            async with Replica(testnet.homes[0], counter.Counter()):
                raise KeyError("mine")

    run(scenario)


def test_cancelling_the_task_closes_the_replica(run: Run, testnet: Testnet) -> None:
    async def serve(started: asyncio.Event) -> None:
        async with Replica(testnet.homes[0], counter.Counter()):
            started.set()
            await asyncio.Event().wait()

    async def scenario() -> None:
        for _ in range(2):  # the ports and the data folder are free again
            started = asyncio.Event()
            task = asyncio.create_task(serve(started))
            await started.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    run(scenario)


# --- wrong configurations ---


def test_a_data_folder_in_use(run: Run, testnet: Testnet) -> None:
    async def scenario() -> None:
        async with Replica(testnet.homes[0], counter.Counter()):
            with pytest.raises(StorageError, match="in use"):
                await Replica(testnet.homes[0], counter.Counter()).start()

    run(scenario)


def test_a_corrupt_log_is_not_started_with_and_not_touched(run: Run, testnet: Testnet) -> None:
    async def scenario() -> None:
        async with LocalCluster(1, counter.Counter, "sync") as cluster:
            async with cluster.client() as client:
                for _ in range(5):
                    await client.invoke(counter.add(1))
            await cluster.stop(0)
            segment = next((cluster.folder / "replica-0" / "data").glob("segment-*"))
            content = bytearray(segment.read_bytes())
            content[700] ^= 1  # in the first record's body
            segment.write_bytes(content)
            with pytest.raises(CorruptLog):
                await cluster.start(0)
            assert segment.read_bytes() == bytes(content)

    run(scenario)


def test_an_address_in_use(run: Run, testnet: Testnet) -> None:
    async def scenario() -> None:
        async with Replica(testnet.homes[0], counter.Counter()):
            config = replace(testnet.replicas[0], persistence="memory")
            with pytest.raises(ConfigError, match="cannot listen on"):
                await Replica(config, counter.Counter()).start()

    run(scenario)


def test_plain_tcp_stays_on_this_machine(testnet: Testnet) -> None:
    genesis = Genesis.load(testnet.replicas[0].genesis_path)
    member = replace(genesis.members[0], client_address=Address("192.0.2.1", 7000))
    genesis = replace(genesis, members=(member,))
    with pytest.raises(ConfigError, match=r"transport: plain TCP on 192.0.2.1:7000"):
        Replica(testnet.replicas[0], counter.Counter(), genesis=genesis)
    Replica(testnet.replicas[0], counter.Counter(), genesis=genesis, force_plain=True)


# --- hostile clients ---


@pytest.mark.parametrize(
    "bytes_sent",
    [
        struct.pack("<IB", 0, REQUEST),
        struct.pack("<IB", 2**32 - 1, REQUEST),
        frame(MESSAGE, b"for replicas only"),
        frame(REQUEST, b"no request"),
        frame(STATUS, b"{}}"),
        frame(STATUS, b'{"digest": 1}'),
        frame(STATUS, b'{"unknown": true}'),
        frame(99, b"?"),
    ],
)
def test_bad_bytes_cost_a_client_its_connection_and_nobody_else(run: Run, bytes_sent: bytes) -> None:
    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            async with client_of(cluster, 1) as connection:
                await connection.send(bytes_sent)
                assert await connection.closed() == b""
            assert counter.decode_value(await client.invoke(counter.add(1))) == 1

    run(scenario)


def test_a_flood_of_bad_signatures_costs_only_its_sender(run: Run) -> None:
    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            async with client_of(cluster, 1) as connection:
                for number in range(MAX_BAD_SIGNATURES_PER_SOURCE + 1):
                    attacker = TestClient(9 + number, chain_id=cluster.genesis.chain_id, session=client.session)
                    await connection.send(frame(REQUEST, attacker.request(counter.add(1), good=False)))
                await connection.closed()
            assert counter.decode_value(await client.invoke(counter.add(1))) == 1

    run(scenario)


def test_a_bad_copy_does_not_block_the_good_request(run: Run) -> None:
    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            await client.connect()
            honest = TestClient(9, chain_id=cluster.genesis.chain_id, session=client.session)
            good = honest.request(counter.add(1))
            bad = good[:-64] + bytes(64)
            async with client_of_all(cluster) as connections:
                for connection in connections:
                    await connection.send(frame(REQUEST, bad) + frame(REQUEST, good))
                while (await cluster.replicas[0].status())["decided"] < 1:
                    await asyncio.sleep(0.01)
            assert counter.decode_value(await client.invoke(counter.add(1))) == 2

    run(scenario)


# --- hostile peers ---


def test_a_peer_that_breaks_the_protocol_is_dropped_and_must_wait(run: Run) -> None:
    """Replica 0's key is in the wrong hands: garbage from it ends its channel, and the others go on."""

    async def scenario() -> None:
        cluster = LocalCluster(4, counter.Counter)
        async with cluster, cluster.client() as client:
            await cluster.stop(0)
            for payload in [b"garbage", b"\x93\x09\x07\x00"] * 5:
                async with peer_of(cluster, 3, own=0) as connection:
                    await connection.send(frame(MESSAGE, payload))
                    await connection.closed()
            # The rightful owner of the key is let in again.
            await cluster.start(0)
            while 0 not in (await cluster.replicas[3].status())["peers"]:
                await asyncio.sleep(0.01)
            assert counter.decode_value(await client.invoke(counter.add(1))) == 1

    run(scenario)
