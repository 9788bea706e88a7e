"""Connections leave file descriptors to the log and to snapshots, however few the system gives this process (H2)."""

from __future__ import annotations

import asyncio
import os
import resource
from dataclasses import replace

import pytest

from smartbft import limits
from smartbft.net import descriptors
from smartbft.net.watch import ConnectionLimits
from smartbft.runtime.network import PEER_LIMITS
from tests.net.test_transport import PATIENT, Pair, client_of, hung_up, run


@pytest.mark.parametrize("available", [64, 256, 1024, 4096, 20_000, 2**40])
def test_all_connections_together_leave_some(available: int) -> None:
    clients = descriptors.for_clients(ConnectionLimits(), available)
    replicas = descriptors.for_replicas(PEER_LIMITS, available)
    assert 1 <= clients.strangers <= limits.MAX_STRANGERS_FOR_CLIENTS
    assert 1 <= clients.connections <= limits.MAX_CLIENT_CONNECTIONS
    assert clients.connections + clients.strangers < clients.descriptors < replicas.descriptors < available
    if available >= 1024:
        assert available - replicas.descriptors == limits.RESERVED_DESCRIPTORS
        assert replicas.descriptors - clients.descriptors >= limits.MAX_STRANGERS_FOR_REPLICAS
        # Silent ones are asked for their place before there are no descriptors for the newest.
        in_use = clients.connections + clients.strangers + limits.RESERVED_DESCRIPTORS
        assert in_use <= clients.descriptors


def test_where_there_are_enough_nothing_is_lowered() -> None:
    clients = descriptors.for_clients(ConnectionLimits(), descriptors._WANTED + 1024)
    assert (clients.connections, clients.strangers) == (
        limits.MAX_CLIENT_CONNECTIONS,
        limits.MAX_STRANGERS_FOR_CLIENTS,
    )


def test_the_limit_is_raised_as_far_as_it_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    unlimited = resource.RLIM_INFINITY
    for before, after in (
        ((1024, 4096), (4096, 4096)),
        ((1024, unlimited), (descriptors._WANTED, unlimited)),
        ((unlimited, unlimited), (unlimited, unlimited)),
        ((100_000, 200_000), (100_000, 200_000)),
    ):
        now = [before]
        monkeypatch.setattr(resource, "getrlimit", lambda _, now=now: now[0])
        monkeypatch.setattr(resource, "setrlimit", lambda _, pair, now=now: now.__setitem__(0, pair))
        descriptors.raise_limit()
        assert now == [after]


def test_connections_stop_before_the_descriptors_do() -> None:
    async def scenario() -> None:
        async with Pair(limits=PATIENT, clients=True) as pair:
            known = await client_of(pair)
            lowest = os.dup(0)
            os.close(lowest)
            pair.listener.lobby._limits = replace(PATIENT, descriptors=lowest)
            turned_away, _ = await pair.raw()
            await hung_up(turned_away)
            assert not pair.listener.strangers
            pair.listener.lobby._limits = PATIENT
            await client_of(pair)  # the listener has only rested
            assert not known[0].at_eof()

    run(scenario)


def test_whoever_waits_makes_room_for_the_next() -> None:
    async def scenario() -> None:
        async with Pair(limits=PATIENT, clients=True) as pair:
            waiting, _ = await pair.raw()
            while not pair.listener.strangers:
                await asyncio.sleep(0)
            lowest = os.dup(0)
            os.close(lowest)
            pair.listener.lobby._limits = replace(PATIENT, descriptors=lowest)
            await pair.raw()
            await hung_up(waiting)

    run(scenario)
