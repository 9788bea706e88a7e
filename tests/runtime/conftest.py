"""Help for tests of the runtime."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from kit.patience import PATIENCE_SECONDS


@pytest.fixture
def run() -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a coroutine function on a fresh loop; a test that hangs fails instead."""

    def runner(scenario: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await scenario()

        asyncio.run(bounded())

    return runner
