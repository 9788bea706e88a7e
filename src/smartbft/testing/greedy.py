"""Greedy clients: correct signatures, and no other aim than room, places and time at the cost of all others.

They want the pool full of what nobody can order, the places of their keys taken at one replica alone, and correct
leaders replaced. They go on after the network is healed, for a while.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from smartbft._fastpath.frames import REQUEST, frame
from smartbft._fastpath.pool import join_requests, request_digests
from smartbft.limits import REQUEST_OVERHEAD_BYTES
from smartbft.testing.clients import FIRST_CLIENT_ENDPOINT, make_request
from smartbft.testing.trace import Kind

if TYPE_CHECKING:
    from smartbft.crypto.signatures import Signer
    from smartbft.testing.simulation import Simulation

# What one greedy client does in a run at most.
MOST_DEEDS = 30
# Sessions of one deed, and keys of one that throws them away.
MOST_SESSIONS = 24
MOST_KEYS = 40
# Sizes of operations, bytes.
SIZES = (0, 0, 200, 4_096)


class GreedyClient:
    """A client that wants all there is.

    Args:
        world: the simulation it is part of.
        index: its number among all clients; the honest ones come first.
        signer: its key.
        throwaway: makes another key from a number.
        session: its first session number.
    """

    __slots__ = (
        "_deeds",
        "_deeds_left",
        "_keys",
        "_session",
        "_throwaway",
        "_world",
        "endpoint",
        "signer",
        "source",
    )

    def __init__(
        self, world: Simulation, index: int, signer: Signer, throwaway: Callable[[int], Signer], session: int
    ) -> None:
        self._world = world
        self.endpoint = FIRST_CLIENT_ENDPOINT + index
        self.source = index + 1
        self.signer = signer
        self._throwaway = throwaway
        self._session = session
        self._keys = 0
        self._deeds_left = MOST_DEEDS
        self._deeds: tuple[Callable[[], None], ...] = (
            self._fill_with_gaps,
            self._fill_with_gaps,
            self._many_keys,
            self._take_places,
            self._take_places,
            self._gap_later,
            self._flood_one,
        )

    def wake(self, _: None = None) -> None:
        """Take what can be taken, and again a little later."""
        world = self._world
        if not self._deeds_left:
            return
        self._deeds_left -= 1
        draw = world.scheduler.random
        self._deeds[int(draw.random() * len(self._deeds))]()
        world.scheduler.after(world.scheduler.between(1, world.scenario.mischief_pause), self.wake)

    @property
    def done(self) -> bool:
        """Whether it has had enough."""
        return not self._deeds_left

    def receive(self, packet: tuple[int, bytes]) -> None:
        """Whatever comes back is of no interest."""

    # What it does

    def _fill_with_gaps(self) -> None:
        """Windows of many sessions, each without its first request: nobody can ever propose one of them."""
        to, size = self._some(), self._size()
        for _ in range(1 + self._below(MOST_SESSIONS)):
            self._send([self._request(self.signer, number, size) for number in self._window_after(1)], to)
            self._session += 1

    def _many_keys(self) -> None:
        """The same with one request of each of many keys; where requests carry no signatures, of its one key."""
        to, size = self._some(), self._size()
        for _ in range(1 + self._below(MOST_KEYS)):
            signer = self.signer
            if not self._world.scenario.channel:
                self._keys += 1
                signer = self._throwaway(self._keys)
            self._send([self._request(signer, 2, size)], to)
            self._session += 1

    def _take_places(self) -> None:
        """Sessions behind gaps at one replica, mostly the leader, then a good request of the same key to the others."""
        leader = self._leader() if self._world.scheduler.chance(0.8) else self._below(self._world.options.n)
        for _ in range(self._world.scenario.parameters.max_sessions_per_key):
            self._send([self._request(self.signer, 2, 0)], [leader])
            self._session += 1
        self._send([self._request(self.signer, 1, 0)], [id for id in self._world.replica_ids if id != leader])
        self._session += 1

    def _gap_later(self) -> None:
        """A session that opens, and leaves its gap after that."""
        to, size = self._some(), self._size()
        self._send([self._request(self.signer, 1, size)], list(self._world.replica_ids))
        self._send([self._request(self.signer, number, size) for number in self._window_after(2)], to)
        self._session += 1

    def _flood_one(self) -> None:
        """Good requests, as many as a session may have, to some replicas only."""
        to, size = self._some(), self._size()
        self._send([self._request(self.signer, 1 + number, size) for number in range(self._window())], to)
        self._session += 1

    # Parts

    def _below(self, bound: int) -> int:
        return int(self._world.scheduler.random.random() * bound)

    def _size(self) -> int:
        """Of an operation that fits into a batch: no genesis allows batches for which one is too large."""
        most = self._world.scenario.parameters.max_batch_bytes - 4 - REQUEST_OVERHEAD_BYTES
        return min(most, SIZES[self._below(len(SIZES))])

    def _window(self) -> int:
        return self._world.scenario.parameters.window

    def _window_after(self, gap: int) -> range:
        return range(gap + 1, self._window() + 1)

    def _leader(self) -> int:
        running = [host.replica.core for host in self._world.hosts if host.replica is not None]
        return running[self._below(len(running))].leader if running else 0

    def _some(self) -> list[int]:
        """All replicas, one, or each with a chance."""
        world = self._world
        if world.scheduler.chance(0.4):
            return list(world.replica_ids)
        if world.scheduler.chance(0.5):
            return [self._leader()]
        return [id for id in world.replica_ids if world.scheduler.chance(0.7)]

    def _request(self, signer: Signer, number: int, size: int) -> bytes:
        world = self._world
        request = make_request(world, signer, self._session, number, bytes(size))
        digest = request_digests(world.chain_id, join_requests([request]))
        world.checkers.validity.sent(digest, signer.public_key, self._session, number)
        return request

    def _send(self, requests: list[bytes], to: list[int]) -> None:
        world = self._world
        data = b"".join(frame(REQUEST, request) for request in requests)
        for replica in to if data else ():
            world.trace.note(world.scheduler.now, Kind.CLIENT, self.endpoint, replica)
            world.network.send(self.endpoint, replica, world.hosts[replica].deliver_requests, (self.source, data))
