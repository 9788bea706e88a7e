"""Serves decided batches from the log to peers that are behind, to each no faster than it reads."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from smartbft._fastpath.frames import MESSAGE, frame
from smartbft.core.effects import ServeDecisions
from smartbft.core.inputs import DecisionsServed, Input
from smartbft.core.recovery import decisions_in
from smartbft.crypto.domains import Domains
from smartbft.errors import SmartBFTError
from smartbft.messages import Decision, encode
from smartbft.storage import ReplicaLog

logger = logging.getLogger(__name__)

# Ranges of one peer that wait to be served; a peer that is behind asks again anyway.
_MAX_QUEUED = 4


class Channels(Protocol):
    """The channels to the other replicas."""

    def send(self, to: int, frame: bytes) -> None:
        """Send to one; lost if the channel is down."""

    async def writable(self, peer: int) -> bool:
        """Wait until `peer` has taken what we wrote; False if it is not connected any more."""


class DecisionServer:
    """Carries out `ServeDecisions`.

    Args:
        log: where the decisions are.
        domains: of the chain.
        view: number of the view in force.
        regency: tells the current regency.
        peers: the channels.
        take: feeds an input to the core.
        failed: called with an error that ends the replica (a corrupt log).
    """

    def __init__(
        self,
        log: ReplicaLog,
        domains: Domains,
        view: int,
        regency: Callable[[], int],
        peers: Channels,
        take: Callable[[Input], None],
        failed: Callable[[BaseException], None],
    ) -> None:
        self._log = log
        self._domains = domains
        self._view = view
        self._regency = regency
        self._peers = peers
        self._take = take
        self._failed = failed
        self._queues: dict[int, asyncio.Queue[ServeDecisions]] = {}
        self._queued: set[ServeDecisions] = set()
        self._tasks: list[asyncio.Task[None]] = []

    def serve(self, effect: ServeDecisions) -> None:
        """Queue a range; one that waits already is not queued twice."""
        queue = self._queues.get(effect.to)
        if queue is None:
            queue = self._queues[effect.to] = asyncio.Queue(_MAX_QUEUED)
            self._tasks.append(asyncio.get_running_loop().create_task(self._run(queue)))
        if effect in self._queued or queue.full():
            self._take(DecisionsServed(effect, 0))
            return
        self._queued.add(effect)
        queue.put_nowait(effect)

    async def close(self) -> None:
        """Stop serving."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _run(self, queue: asyncio.Queue[ServeDecisions]) -> None:
        """Serve one peer: another that asks and does not read must not hold it up."""
        while True:
            effect = await queue.get()
            self._queued.discard(effect)
            try:
                self._take(DecisionsServed(effect, await self._serve(effect)))
            except (SmartBFTError, OSError) as error:
                logger.error("decisions %d to %d cannot be read from the log: %s", effect.first, effect.last, error)
                self._failed(error)
                return

    async def _serve(self, effect: ServeDecisions) -> int:
        """Returns the bytes that were sent."""
        sent = 0
        for instance in range(effect.first, effect.last + 1):
            # One decision in memory at a time: batches are large, and the peer may be slow.
            if not await self._peers.writable(effect.to):
                break
            payload = await asyncio.to_thread(self._load, instance)
            if payload is None:
                break
            self._peers.send(effect.to, payload)
            sent += len(payload)
        return sent

    def _load(self, instance: int) -> bytes | None:
        """The MESSAGE frame of a decision, read on a thread of its own; None if it is not in the log."""
        records = self._log.read(instance, instance)
        for decided in decisions_in(records, self._domains, instance, instance):
            decision = Decision(
                self._view, self._regency(), decided.instance, decided.value, decided.data, decided.proof
            )
            return frame(MESSAGE, encode(decision))
        return None
