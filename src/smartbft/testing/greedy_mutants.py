"""Planted bugs that greedy clients use: the pool as it was when what nobody can propose held room and places."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from smartbft._fastpath.frames import REQUEST, frame
from smartbft._fastpath.pool import RequestPool, join_requests, split_requests
from smartbft.core.replica import Replica
from smartbft.core.vouching import pool_arguments
from smartbft.limits import FRAME_HEADER_BYTES, REQUEST_OVERHEAD_BYTES
from smartbft.testing import replica as simulated
from smartbft.testing.planting import replaced
from smartbft.testing.replica import SimulatedReplica

# What a pool takes of requests, or all of them.
_Filter = Callable[[RequestPool, list[bytes]], list[bytes]]


def _requests_of(frames: bytes) -> list[bytes] | None:
    """The requests of a run of complete REQUEST frames; None: it is something else."""
    requests = []
    while frames:
        end = FRAME_HEADER_BYTES - 1 + int.from_bytes(frames[:4], "little")
        if len(frames) < max(end, FRAME_HEADER_BYTES + REQUEST_OVERHEAD_BYTES) or frames[4] != REQUEST:
            return None
        requests.append(frames[FRAME_HEADER_BYTES:end])
        frames = frames[end:]
    return requests


@contextmanager
def _filtered(keep: _Filter) -> Iterator[None]:
    """Pools get only what `keep` leaves of what clients send and members pass on."""
    receive, adopt = SimulatedReplica.receive_requests, Replica.adopt

    def receive_some(replica: SimulatedReplica, source: int, frames: bytes) -> None:
        requests = _requests_of(frames)
        if requests is not None:
            frames = b"".join(frame(REQUEST, request) for request in keep(replica.pool, requests))
        receive(replica, source, frames)

    def adopt_some(replica: Replica, sender: int, data: bytes) -> None:
        requests, at = [], 0
        while at < len(data):
            end = at + 4 + int.from_bytes(data[at : at + 4], "little")
            requests.append(data[at + 4 : end])
            at = end
        adopt(replica, sender, join_requests(keep(replica.pool, requests)))

    with replaced(SimulatedReplica, "receive_requests", receive_some), replaced(Replica, "adopt", adopt_some):
        yield


@contextmanager
def gaps_keep_room() -> Iterator[None]:
    """A full pool takes nothing new, whatever fills it, and nothing goes as time passes."""
    make_pool = simulated.make_pool

    def make_patient_pool(*arguments: Any) -> RequestPool:
        with replaced(simulated, "pool_arguments", lambda *rest: pool_arguments(*rest) | {"max_idle": 1 << 60}):
            return make_pool(*arguments)

    def keep(pool: RequestPool, requests: list[bytes]) -> list[bytes]:
        return [] if pool.stats()["full"] else requests

    with replaced(simulated, "make_pool", make_patient_pool), _filtered(keep):
        yield


@contextmanager
def gaps_hold_places() -> Iterator[None]:
    """Each session that has requests here holds one of the places of its key, also if none could be proposed."""
    places: dict[int, dict[bytes, list[int]]] = {}
    limits: dict[int, int] = {}
    make_pool = simulated.make_pool

    def make_noted_pool(*arguments: Any) -> RequestPool:
        pool = make_pool(*arguments)
        places[id(pool)], limits[id(pool)] = {}, arguments[2].max_sessions_per_key
        pools.append(pool)  # or another one may get its identity
        return pool

    def keep(pool: RequestPool, requests: list[bytes]) -> list[bytes]:
        kept = []
        for request in requests:
            ((key, session, _, _, _),) = split_requests(join_requests([request]))
            held = [one for one in places[id(pool)].get(key, []) if pool.session(key, one) is not None]
            if session in held or len(held) < limits[id(pool)]:
                kept.append(request)
                held += [session] if session not in held else []
            places[id(pool)][key] = held
        return kept

    pools: list[RequestPool] = []
    with replaced(simulated, "make_pool", make_noted_pool), _filtered(keep):
        yield
