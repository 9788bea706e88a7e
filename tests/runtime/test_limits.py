"""A full disk, a slow disk, another loop, signatures checked by the application."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from kit.patience import PATIENCE_SECONDS, let_pass, reach, until
from kit.requests import TestClient

from smartbft import Indeterminate, LocalCluster, limits
from smartbft._fastpath.frames import REQUEST, frame
from smartbft.apps import counter
from smartbft.apps.coin import CoinApplication, balance, decode_balance
from smartbft.runtime import assembly
from smartbft.smr.application import LocalOptions
from smartbft.storage import ReplicaLog

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A log that says of itself what the test wants."""

    class Disk(ReplicaLog):
        low = False
        waiting = 0

        def space_low(self) -> bool:
            return self.low or super().space_low()

        def pending_bytes(self) -> int:
            return self.waiting or super().pending_bytes()

    monkeypatch.setattr(assembly, "ReplicaLog", Disk)
    return Disk


def test_a_disk_that_fills_up_refuses_new_requests_and_takes_them_again(run: Run, disk: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = LocalCluster(4, counter.Counter, "sync", folder=tmp_path)
        async with cluster, cluster.client(retransmit=60) as client:
            await reach(client)
            assert counter.decode_value(await client.invoke(counter.add(1))) == 1
            disk.low = True
            await until(lambda: all(replica._running()._refusing for replica in cluster.replicas.values()))
            asked = asyncio.create_task(client.invoke(counter.add(10), timeout=20))
            await until(lambda: any(len(pending.votes.statuses()) == 4 for pending in client._pending.values()))
            let_pass(20)
            with pytest.raises(Indeterminate, match="replica 3 OVERLOADED") as unknown:
                await asked
            disk.low = False
            await until(lambda: not any(replica._running()._refusing for replica in cluster.replicas.values()))
            assert counter.decode_value(await client.ask(unknown.value)) == 11
            assert counter.decode_value(await client.invoke(counter.add(1))) == 12

    run(scenario)


def test_a_slow_disk_stops_the_reading_of_clients(run: Run, disk: Any, tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = LocalCluster(4, counter.Counter, "sync", folder=tmp_path)
        async with cluster, cluster.client(retransmit=60) as client:
            await reach(client)
            assert counter.decode_value(await client.invoke(counter.add(1))) == 1
            disk.waiting = limits.MAX_LOG_QUEUE_BYTES + 1
            gates = [replica._running()._clients for replica in cluster.replicas.values()]
            await until(lambda: all(gate._paused for gate in gates))
            before = [(await replica.status())["pool"]["admitted"] for replica in cluster.replicas.values()]
            asked = asyncio.create_task(client.invoke(counter.add(1)))
            late = cluster.client()
            await late.connect(PATIENCE_SECONDS)  # a new connection is not read either, once it has introduced itself
            for _ in range(20):
                await asyncio.sleep(0.005)
            admitted = [(await replica.status())["pool"]["admitted"] for replica in cluster.replicas.values()]
            assert admitted == before
            disk.waiting = 0
            assert counter.decode_value(await asked) == 2
            await late.aclose()

    run(scenario)


def test_signatures_checked_by_the_application_are_ordered_results(run: Run) -> None:
    """The papers' sequential mode: a bad signature is executed, to the same result everywhere."""

    async def scenario() -> None:
        chain: list[bytes] = []
        local = LocalOptions(verify_signatures=True)

        def application() -> CoinApplication:
            return CoinApplication.from_genesis(chain[0], {"minters": ["00" * 31 + "09"]}, local)

        cluster = LocalCluster(4, application, signature_check="sequential")
        chain.append(cluster.genesis.chain_id)
        async with cluster, cluster.client() as client:
            await reach(client)
            forger = TestClient(5, chain_id=cluster.genesis.chain_id, session=client.session)
            forged = frame(REQUEST, forger.request(balance(bytes(32)), good=False))
            for connection in client._connections.values():
                connection.send(forged)
            while (await cluster.replicas[0].status())["executed"] < 1:
                await asyncio.sleep(0.01)
            assert decode_balance(await client.invoke(balance(client.key))).amount == 0
            status = await cluster.replicas[0].status()
            assert status["pool"]["signature_checks"] == 0
            assert status["pool"]["bad_signatures"] == 0

    run(scenario)


def test_the_library_runs_on_uvloop_too(tmp_path: Path) -> None:
    uvloop = pytest.importorskip("uvloop")

    async def scenario() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            for transport in ("plain", "tls"):
                cluster = LocalCluster(4, counter.Counter, "sync", folder=tmp_path / transport, transport=transport)
                async with cluster, cluster.client() as client:
                    results = await asyncio.gather(*(client.invoke(counter.add(1)) for _ in range(100)))
                    assert max(map(counter.decode_value, results)) == 100

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(scenario())
