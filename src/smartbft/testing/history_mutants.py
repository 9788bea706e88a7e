"""Planted bugs that clients can see: the checker of histories must find each by what clients saw alone.

`smartbft histories --mutant NAME` shows one being found.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

from smartbft._fastpath.pool import VALID, RequestPool
from smartbft.apps.key_value import KeyValueStore, get
from smartbft.core.replica import Replica
from smartbft.smr.application import OK
from smartbft.smr.per_operation import PerOperation
from smartbft.testing.clients import SimulatedClient
from smartbft.testing.histories import HistoryOutcome, HistorySimulation, check_history
from smartbft.testing.planting import replaced

# How many batches back the batch lies that is executed twice: what followed it is then undone.
_BATCHES_BACK = 4


@dataclass(frozen=True, slots=True)
class HistoryMutant:
    """One planted bug.

    Attributes:
        name: short, for the command line.
        rule: the rule that is broken, and how.
        seeds: within how many seeds, from 0, it is found.
        plant: a context in which the bug is there.
    """

    name: str
    rule: str
    seeds: int
    plant: Callable[[], AbstractContextManager[None]]


def _reply_from_f() -> AbstractContextManager[None]:
    initialise = HistorySimulation.__init__

    def believe_f(simulation: HistorySimulation, *arguments: Any, **options: Any) -> None:
        initialise(simulation, *arguments, **options)
        simulation.enough_replies = simulation.view.f

    return replaced(HistorySimulation, "__init__", believe_f)


def _read_from_one() -> AbstractContextManager[None]:
    """Beside each request the client reads a key from whatever one replica has executed."""
    make_request = SimulatedClient._next_request
    reads = iter(range(2**62))

    def request_and_read(client: SimulatedClient) -> bytes:
        world: Any = client._world
        draw, scheduler = world.scheduler.random, world.scheduler
        key = b"key-%d" % int(4 * draw.random())
        identity = ("read", next(reads))
        host = world.hosts[int(draw.random() * len(world.hosts))]
        world.history.invoked(identity, client.index, get(key), scheduler.now)

        def read(_: None) -> None:
            replica = host.replica
            if replica is None or not isinstance(replica.application, PerOperation):
                return
            machine = replica.application.machine
            value = machine.values.get(key) if isinstance(machine, KeyValueStore) else None
            result = bytes([OK]) + (b"\0" if value is None else b"\1" + value)
            scheduler.after(100, lambda _: world.history.answered(identity, result, scheduler.now))

        scheduler.after(100, read)
        return make_request(client)

    return replaced(SimulatedClient, "_next_request", request_and_read)


class _RepeatingPool:
    """A pool with which a new leader first proposes a batch that was decided before, and nobody finds that wrong."""

    def __init__(self, pool: RequestPool) -> None:
        self._pool = pool
        self._decided: list[tuple[bytes, bytes]] = []
        self._bodies: dict[bytes, bytes] = {}
        self._executed: set[bytes] = set()  # membership tests only: never iterated
        self._led = 0
        self.replica: Replica | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def form_batch(self, max_requests: int, max_bytes: int, timestamp: int) -> tuple[bytes, bytes]:
        regency = self.replica.regency if self.replica is not None else 0
        if regency > self._led and len(self._decided) >= _BATCHES_BACK:
            self._led = regency
            return self._decided[-_BATCHES_BACK]
        return self._pool.form_batch(max_requests, max_bytes, timestamp)

    def resolve(self, digests: bytes, *bound: bool) -> tuple[bytes, bytes, int]:
        if digests in self._bodies:
            return self._bodies[digests], b"", 0
        return self._pool.resolve(digests, *bound)

    def check(self, data: bytes, timestamp: int, max_requests: int, max_bytes: int) -> int:
        if any(data == known for _, known in self._decided):
            return VALID
        return self._pool.check(data, timestamp, max_requests, max_bytes)

    def decide(self, digests: bytes, data: bytes, instance: int, timestamp: int) -> None:
        if digests not in self._bodies:
            self._bodies[digests] = data
            self._decided.append((digests, data))
            self._pool.decide(digests, data, instance, timestamp)

    def executed(self, digests: bytes, *rest: Any) -> None:
        if digests not in self._executed:
            self._executed.add(digests)
            self._pool.executed(digests, *rest)


def _executed_twice() -> AbstractContextManager[None]:
    initialise = Replica.__init__

    def initialise_with_repeating_pool(replica: Replica, *arguments: Any, **options: Any) -> None:
        wrapped: list[Any] = [_RepeatingPool(one) if isinstance(one, RequestPool) else one for one in arguments]
        initialise(replica, *wrapped, **options)
        for one in wrapped:
            if isinstance(one, _RepeatingPool):
                one.replica = replica

    return replaced(Replica, "__init__", initialise_with_repeating_pool)


HISTORY_MUTANTS = (
    HistoryMutant("reply-from-f", "clients believe f equal replies instead of f + 1", 1, _reply_from_f),
    HistoryMutant("read-from-one", "clients believe what a single replica reads out of its state", 5, _read_from_one),
    HistoryMutant(
        "executed-twice", "after a regency change the new leader has an old batch executed again", 10, _executed_twice
    ),
)


def hunt_history(mutant: HistoryMutant, first: int = 0) -> tuple[int, HistoryOutcome] | None:
    """Check histories with the bug in place and nothing but clients to see it, at most `mutant.seeds`.

    Returns the number of histories it took and the outcome, or None: the bug was not found.
    """
    with mutant.plant():
        for number in range(mutant.seeds):
            outcome = check_history(first + number, clients_only=True)
            if outcome.promise == "linearizability":
                return number + 1, outcome
    return None
