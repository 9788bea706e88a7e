"""Serves decided batches from the log to peers that are behind, one request at a time, no faster than they read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from smartbft._fastpath.frames import MESSAGE, frame
from smartbft.core.effects import ServeDecisions
from smartbft.core.recovery import decisions_in
from smartbft.crypto.domains import Domains
from smartbft.errors import SmartBFTError
from smartbft.messages import Decision, encode
from smartbft.runtime.peers import PeerChannels
from smartbft.storage import ReplicaLog

logger = logging.getLogger(__name__)

# Requests that wait to be served; a peer that is behind asks again anyway.
_MAX_QUEUED = 64


class DecisionServer:
    """Carries out `ServeDecisions`.

    Args:
        log: where the decisions are.
        domains: of the chain.
        view: number of the view in force.
        regency: tells the current regency.
        peers: the channels.
        failed: called with an error that ends the replica (a corrupt log).
    """

    def __init__(
        self,
        log: ReplicaLog,
        domains: Domains,
        view: int,
        regency: Callable[[], int],
        peers: PeerChannels,
        failed: Callable[[BaseException], None],
    ) -> None:
        self._log = log
        self._domains = domains
        self._view = view
        self._regency = regency
        self._peers = peers
        self._failed = failed
        self._queue: asyncio.Queue[ServeDecisions] = asyncio.Queue(_MAX_QUEUED)
        self._queued: set[ServeDecisions] = set()
        self._task: asyncio.Task[None] | None = None

    def serve(self, effect: ServeDecisions) -> None:
        """Queue a range; one that waits already is not queued twice."""
        if effect in self._queued or self._queue.full():
            return
        self._queued.add(effect)
        self._queue.put_nowait(effect)
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        """Stop serving."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        while True:
            effect = await self._queue.get()
            self._queued.discard(effect)
            try:
                await self._serve(effect)
            except (SmartBFTError, OSError) as error:
                logger.error("decisions %d to %d cannot be read from the log: %s", effect.first, effect.last, error)
                self._failed(error)
                return

    async def _serve(self, effect: ServeDecisions) -> None:
        for instance in range(effect.first, effect.last + 1):
            # One decision in memory at a time: batches are large, and the peer may be slow.
            payload = await asyncio.to_thread(self._load, instance)
            if payload is None or not await self._peers.writable(effect.to):
                return
            self._peers.send(effect.to, payload)

    def _load(self, instance: int) -> bytes | None:
        """The MESSAGE frame of a decision, read on a thread of its own; None if it is not in the log."""
        records = self._log.read(instance, instance)
        for decided in decisions_in(records, self._domains, instance, instance):
            decision = Decision(
                self._view, self._regency(), decided.instance, decided.value, decided.data, decided.proof
            )
            return frame(MESSAGE, encode(decision))
        return None
