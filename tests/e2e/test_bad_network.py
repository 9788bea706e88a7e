"""Connections between replica processes that are slow, cut and corrupted on their way: the cluster goes on."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from kit import behind_proxy
from kit.patience import status_of
from kit.processes import QUICK, Load, additions, assert_counted, assert_level, client_of, run
from kit.proxy import Proxy

from smartbft.config import ReplicaConfig
from smartbft.measurement.processes import ProcessCluster
from smartbft.testnet import Testnet, create_testnet, free_ports

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


class ProxiedCluster(ProcessCluster):
    """Every replica listens behind a proxy. A replica dials those with higher ids: all links of 3 pass its proxy."""

    def __init__(self, network: Testnet) -> None:
        super().__init__(network)
        replicas = [config.replica for config in network.replicas]
        taken = {
            address.port
            for member in network.genesis.members
            for address in (member.replica_address, member.client_address)
        }
        free = [port for port in free_ports(len(taken) + len(replicas)) if port not in taken]
        self.ports = dict(zip(replicas, free, strict=False))
        self.proxies = {
            member.id: Proxy(member.replica_address.port, self.ports[member.id], random.Random(member.id))
            for member in network.genesis.members
        }

    def command(self, config: ReplicaConfig) -> list[str]:
        return [sys.executable, str(behind_proxy.__file__), str(config.home), str(self.ports[config.replica])]


@asynccontextmanager
async def proxied(network: Testnet) -> AsyncIterator[ProxiedCluster]:
    cluster = ProxiedCluster(network)
    try:
        for proxy in cluster.proxies.values():
            await proxy.start()
        await cluster.start()
        yield cluster
    finally:
        await cluster.stop()
        for proxy in cluster.proxies.values():
            await proxy.close()


def network_in(folder: Path, transport: str) -> Testnet:
    return create_testnet(
        folder / "net", 4, application="counter", transport=transport, parameters=QUICK, log_level="warning"
    )


@pytest.mark.parametrize("transport", ["plain", "tls"])
def test_slow_and_cut_connections(tmp_path: Path, transport: str) -> None:
    async def scenario() -> None:
        network, load = network_in(tmp_path, transport), additions()
        async with proxied(network) as cluster, client_of(network) as client:
            proxies = cluster.proxies
            async with load.running(client):
                await load.more(50)
                for proxy in proxies.values():
                    proxy.delay = 0.02
                await load.more(50)
                for proxy in [*proxies.values(), *proxies.values()]:  # one connection after the other breaks
                    await proxy.cut()
                    await load.more(10)
                for proxy in proxies.values():
                    proxy.heal()

                await proxies[3].cut(down=True)  # it hears nobody; the others are enough
                await load.more(100)
                while (facts := await status_of(client, 3))["peers"]:
                    await asyncio.sleep(0.02)
                assert facts["waiting_for"] == "a connection to 2 of replicas 0, 1 and 2"
                proxies[3].heal()
                await load.more(20)

                for proxy in proxies.values():  # nobody hears anybody
                    await proxy.cut(down=True)
                standing = len(load.acknowledged)
                await asyncio.sleep(0.5)
                assert len(load.acknowledged) <= standing + 12, "ordered without a connection"
                for proxy in proxies.values():
                    proxy.heal()
                await load.more(100)
            await assert_counted(client, load)
            await assert_level(client, 4)

    run(scenario)


async def connections_after_flips(load: Load, proxies: Sequence[Proxy], chunks: float, bits: int) -> int:
    """Let links corrupt this share of the chunks until so many bits have flipped; how often was dialed anew?"""
    before = sum(proxy.connections for proxy in proxies)
    for proxy in proxies:
        proxy.corrupted_chunks = chunks
    while sum(proxy.flipped for proxy in proxies) < bits:
        await load.more(10)
    for proxy in proxies:
        proxy.heal()
    await load.more(50)
    while sum(proxy.connections for proxy in proxies) == before:  # that takes a moment, unless nobody noticed anything
        await load.more()
    return sum(proxy.connections for proxy in proxies) - before


def test_tls_closes_a_connection_with_a_flipped_bit(tmp_path: Path) -> None:
    async def scenario() -> None:
        network, load = network_in(tmp_path, "tls"), additions()
        async with proxied(network) as cluster, client_of(network) as client:
            async with load.running(client):
                await load.more(50)
                proxies = list(cluster.proxies.values())
                assert await connections_after_flips(load, proxies, 0.01, 8) > 0, "a flipped bit passed TLS"
            await assert_counted(client, load)
            await assert_level(client, 4)

    run(scenario)


def test_on_plain_tcp_flipped_bits_are_the_fault_of_one(tmp_path: Path) -> None:
    """Without TLS a vote may be changed on its way: as if one replica lied, which the others outvote or refuse."""

    async def scenario() -> None:
        network, load = network_in(tmp_path, "plain"), additions()
        async with proxied(network) as cluster, client_of(network) as client:
            async with load.running(client):
                await load.more(50)
                made = await connections_after_flips(load, [cluster.proxies[3]], 0.05, 40)
                assert made > 0, "nobody refused a corrupted frame"
            await assert_counted(client, load)
            await assert_level(client, 4)

    run(scenario)
