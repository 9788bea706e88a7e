"""The digests of the replicas' states: asked for beside the status, because those of large states take their time."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from typing import TYPE_CHECKING

from smartbft.core.naming import name_members
from smartbft.errors import NotEnoughReplies
from smartbft.measurement.status import Facts

if TYPE_CHECKING:
    from smartbft.runtime.client import AsyncClient

# What an answer with a digest tells beside the status.
FIELDS = ("digest", "digest_instance", "application")


class Digests:
    """What replicas have answered so far.

    Args:
        client: connected.
        within: seconds for each answer.

    Attributes:
        found: by replica, the last digest and what goes with it.
        waiting: replicas that were asked and have not answered yet.
    """

    def __init__(self, client: AsyncClient, within: float) -> None:
        self.found: dict[int, Facts] = {}
        self.waiting: set[int] = set()
        self._client = client
        self._within = within

    async def ask(self, replicas: Collection[int]) -> None:
        """Ask these replicas; returns when each has answered, or not in time."""
        await asyncio.gather(*(self._ask(replica) for replica in replicas))

    async def watch(self, replicas: Collection[int], pause: float) -> None:
        """Ask each of them again and again, with a pause after each answer, until cancelled."""
        await asyncio.gather(*(self._repeat(replica, pause) for replica in replicas))

    def add_to(self, facts: dict[int, Facts]) -> dict[int, Facts]:
        """The status of each replica with what is known of its digest by now."""
        return {replica: {**answer, **self.found.get(replica, {})} for replica, answer in facts.items()}

    def missing(self) -> str:
        """Whose digest is waited for, in words; empty for nobody's."""
        if not self.waiting:
            return ""
        return f"the digest of {name_members(self.waiting)}: a large state, or a busy application"

    async def _ask(self, replica: int) -> None:
        self.waiting.add(replica)
        try:
            answer = await self._client.status(replica, digest=True, timeout=self._within)
        except NotEnoughReplies:
            self.found.pop(replica, None)
        else:
            if isinstance(answer.get("digest"), str) and type(answer.get("digest_instance")) is int:
                self.found[replica] = {name: answer[name] for name in FIELDS if name in answer}
        finally:
            self.waiting.discard(replica)

    async def _repeat(self, replica: int, pause: float) -> None:
        while True:
            await self._ask(replica)
            await asyncio.sleep(pause)
