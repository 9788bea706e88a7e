"""Waiting in tests: as long as it takes, on a machine that may stand still for seconds at any line."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from smartbft import AsyncClient, NotEnoughReplies

# The end of a test that hangs; none is that slow.
PATIENCE_SECONDS = 500.0
_LOOK_SECONDS = 0.002


def run_bounded(scenario: Callable[[], Awaitable[None]]) -> None:
    """Run a coroutine function on a fresh loop; one that hangs fails instead."""

    async def bounded() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            await scenario()

    asyncio.run(bounded())


async def until(holds: Callable[[], object]) -> None:
    """Look again and again until something holds."""
    while not holds():
        await asyncio.sleep(_LOOK_SECONDS)


def let_pass(seconds: float) -> None:
    """Have everybody on the running loop believe that so much time has passed.

    So what a test wants to run out can be given much more time than anything needs, and runs out when the test says so.
    """
    loop = asyncio.get_running_loop()
    now = loop.time
    loop.time = lambda: now() + seconds  # type: ignore[method-assign]


async def reach(client: AsyncClient, n: int = 4) -> None:
    """Wait until a client is connected to all replicas: `connect` is content with as many as make a result."""
    await until(lambda: len(client.connected) == n)


async def status_of(client: AsyncClient, replica: int, *, digest: bool = False) -> dict[str, Any]:
    """What one replica says of itself, once it is reached and answers."""
    while True:
        await until(lambda: replica in client.connected)
        try:
            return await client.status(replica, digest=digest, timeout=PATIENCE_SECONDS)
        except NotEnoughReplies:  # its connection was closed
            continue
