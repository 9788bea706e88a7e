"""Python's development mode finds nothing: no socket, loop or task is left behind when a program ends."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# Clients whose loop ends right after them, in order or while they are still dialing; the replicas run on.
PROGRAM = """
import asyncio, gc, random, threading
from smartbft import AsyncClient, LocalCluster, NotEnoughReplies
from smartbft.apps.counter import Counter, add
from smartbft.crypto.signatures import Ed25519Signer

async def one(make):
    async with make() as client:
        await client.invoke(add(1), 100)

async def hasty(make, seconds):
    client = make()
    try:
        await client.connect(seconds)
    except NotEnoughReplies:
        pass
    await client.aclose()

def loops():
    yield None
    try:
        import uvloop
    except ImportError:
        return
    yield uvloop.new_event_loop

class Replicas(threading.Thread):
    def __init__(self, transport):
        super().__init__(daemon=True)
        self.transport, self.ready = transport, threading.Event()

    async def serve(self):
        self.loop, self.over = asyncio.get_running_loop(), asyncio.Event()
        async with LocalCluster(4, Counter, transport=self.transport) as cluster:
            self.genesis = cluster.genesis
            self.ready.set()
            await self.over.wait()

    def run(self):
        asyncio.run(self.serve())

draw = random.Random(1)
for transport in ("plain", "tls"):
    replicas = Replicas(transport)
    replicas.start()
    replicas.ready.wait()
    make = lambda: AsyncClient(replicas.genesis, Ed25519Signer(bytes(32)), transport=transport, persistence="memory")
    for factory in loops():
        for scenario in [one(make), *(hasty(make, draw.uniform(0.0, 0.05)) for _ in range(12))]:
            with asyncio.Runner(loop_factory=factory) as runner:
                runner.run(scenario)
            gc.collect()
    replicas.loop.call_soon_threadsafe(replicas.over.set)
    replicas.join()
"""
# How long a callback took, on whatever machine this is, is told in development mode as well.
_SLOW = re.compile(r"Executing <.*> took [\d.]+ seconds\n")


def in_development_mode(*arguments: object) -> str:
    """Run Python with every warning an error; returns what it complains about."""
    command = [sys.executable, "-W", "error", "-X", "dev", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return _SLOW.sub("", done.stderr)


def test_clients_and_clusters_leave_nothing_behind() -> None:
    assert in_development_mode("-c", PROGRAM) == ""


@pytest.mark.parametrize(
    "arguments",
    [
        ("version",),
        ("testnet", "net", "--json"),
        ("check-application", "counter", "--count", "20"),
        ("sim", "--seed", "1", "--instances", "3"),
        ("demo", "--seconds", "0.5", "--transport", "tls", "--clients", "16", "--json"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_leave_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    said = in_development_mode("-m", "smartbft", *arguments)
    assert "Warning" not in said
    assert "Traceback" not in said


def test_a_socket_that_is_left_open_is_found() -> None:
    with pytest.raises(AssertionError):
        assert in_development_mode("-c", "import socket, gc; socket.socket(); gc.collect()") == ""
