"""Tells people what a command waits for when it takes longer than they like to look at nothing."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from smartbft.cli.output import say
from smartbft.cli.run import beside

# Nobody is told about a shorter wait, and nobody is told more often.
PATIENCE_SECONDS = 2.0


@contextlib.asynccontextmanager
async def patience(waiting_for: Callable[[], str]) -> AsyncIterator[None]:
    """While the block runs, say on stderr what it waits for: after two seconds, and when that changes.

    Args:
        waiting_for: what to say; empty for nothing.
    """
    async with beside(_tell(waiting_for)):
        yield


async def _tell(waiting_for: Callable[[], str]) -> None:
    said = ""
    while True:
        await asyncio.sleep(PATIENCE_SECONDS)
        text = waiting_for()
        if text and text != said:
            said = text
            say(text)
