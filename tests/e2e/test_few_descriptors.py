"""A crowd of clients at a replica that the system gives few file descriptors: its disk serves on (promise H2)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from kit.processes import QUICK, Load, assert_level, client_of, run

from smartbft.apps import key_value
from smartbft.config import Genesis, ReplicaConfig
from smartbft.limits import MAX_REQUEST_BYTES
from smartbft.measurement.processes import ProcessCluster
from smartbft.net.handshake import NO_CHANNEL, ClientDialer
from smartbft.testnet import create_testnet

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

VICTIM = 3
DESCRIPTORS = 128
CROWD = 2 * DESCRIPTORS
SEGMENT = 80 * 1024
LIMITED = (
    "import os, resource, sys\n"
    "resource.setrlimit(resource.RLIMIT_NOFILE, (%d, %d))\n"
    "os.execv(sys.argv[1], sys.argv[1:])"
)


class LimitedCluster(ProcessCluster):
    """The victim may have few open files."""

    def command(self, config: ReplicaConfig) -> list[str]:
        command = super().command(config)
        if config.replica != VICTIM:
            return command
        return [sys.executable, "-c", LIMITED % (DESCRIPTORS, DESCRIPTORS), *command]


async def push(genesis: Genesis) -> None:
    """One of the crowd: a client that stays as long as it may, and comes again whenever there is no place for it."""
    member, loop = genesis.members[VICTIM], asyncio.get_running_loop()
    while True:
        dialer = ClientDialer(genesis.chain_id, VICTIM, member.permanent_key, os.urandom(32), NO_CHANNEL)
        with socket.socket() as sock, contextlib.suppress(ConnectionError):
            sock.setblocking(False)
            await loop.sock_connect(sock, (member.client_address.host, member.client_address.port))
            await loop.sock_sendall(sock, dialer.start())
            while data := await loop.sock_recv(sock, 1024):
                dialer.receive(data)


def test_a_crowd_of_clients_leaves_descriptors_for_files(tmp_path: Path) -> None:
    async def scenario() -> None:
        network = create_testnet(
            tmp_path / "net",
            4,
            application="key_value",
            transport="plain",
            parameters=replace(
                QUICK, checkpoint_interval=8, max_batch_requests=64, max_batch_bytes=4 + MAX_REQUEST_BYTES
            ),
            segment_bytes=SEGMENT,
        )
        load = Load(lambda number: key_value.put(b"key %d" % number, bytes(1000)))
        cluster = LimitedCluster(network)
        try:
            await cluster.start()
            async with client_of(network) as client:
                crowd = [asyncio.create_task(push(network.genesis)) for _ in range(CROWD)]
                async with load.running(client):
                    await load.more(400)  # many segments and snapshots
                for one in crowd:
                    one.cancel()
                await asyncio.gather(*crowd, return_exceptions=True)
                assert cluster.process(VICTIM).process.returncode is None, cluster.process(VICTIM).problem()
                await assert_level(client, 4)
        finally:
            await cluster.stop()

    run(scenario)
