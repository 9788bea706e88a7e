"""Faults on replica processes under load: what is done to whom, and how long it keeps the cluster from progress."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass

from smartbft.errors import NotEnoughReplies
from smartbft.measurement.processes import ProcessCluster
from smartbft.measurement.status import Facts, ask_all
from smartbft.runtime.client import AsyncClient
from smartbft.runtime.load import LoadGenerator

KILLED = "leader killed (SIGKILL)"
FROZEN = "replica frozen (SIGSTOP)"
WIPED = "replica wiped"

# The load runs undisturbed for so long before the first fault and after each repair: what the throughput is then.
CALM_SECONDS = 1.5
# A fault lasts so long after the cluster has shown that it goes on without the replica.
HOLD_SECONDS = 1.0
# The cluster goes on, and a repaired replica is level, within this time, or the run fails.
PATIENCE_SECONDS = 60.0
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class FaultFigures:
    """One fault and what it cost.

    Attributes:
        name: what was done.
        replica: to whom.
        regency_before, regency_after: when it happened, and when the replica was level again.
        without_progress: the longest time in which no transaction was acknowledged, from the fault to the next one;
            seconds.
        lasted: from the fault to its repair, seconds.
        transferred: instance of the snapshot that the replica came back with; 0: it had its own state.
        level_after: from the beginning of the repair until the replica had executed what the others had, seconds.
        rate_before, rate_after: transactions per second in the calm before the fault, and after the repair.
    """

    name: str
    replica: int
    regency_before: int
    regency_after: int
    without_progress: float
    lasted: float
    level_after: float
    rate_before: float
    rate_after: float
    transferred: int = 0


class Observer:
    """Asks all replicas, over and over, where they stand.

    Args:
        client: connected to whoever answers.
        members: the ids of all replicas.
        tell: called after each look with a line for people.

    Attributes:
        facts: what each replica that answered at the last look said of itself.
        regency: the highest that a replica has installed.
        leader: who leads it.
        conditions: in what state replicas were put, for people.
    """

    def __init__(self, client: AsyncClient, members: Collection[int], tell: Callable[[str], None]) -> None:
        self.facts: dict[int, Facts] = {}
        self.regency = -1
        self.leader = -1
        self.conditions: dict[int, str] = {}
        self._client = client
        self._members = sorted(members)
        self._tell = tell
        self._decided_before = 0
        self._looked = asyncio.Event()

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            self._decided_before = self._decided
            self.saw(await ask_all(self._client, within=_LOOK_SECONDS))
            looked, self._looked = self._looked, asyncio.Event()
            looked.set()
            self._tell(self.describe())
            await asyncio.sleep(_LOOK_SECONDS)

    def saw(self, facts: dict[int, Facts]) -> None:
        """Take in the answers of one look. On a busy machine nobody may answer in time: then the last leader stands."""
        self.facts = facts
        for answer in facts.values():
            if answer["regency"] > self.regency:
                self.regency, self.leader = int(answer["regency"]), int(answer["leader"])

    async def look(self) -> None:
        """Returns after the next look."""
        await self._looked.wait()

    def level(self, replica: int) -> bool:
        """Whether it has executed at least what the most advanced had decided at the look before the last."""
        facts = self.facts.get(replica)
        return facts is not None and facts["executed"] >= self._decided_before > 0

    def describe(self) -> str:
        """Regency, leader, and who is missing or behind."""
        if not self.facts:
            return "no replica answers"
        words = [f"regency {self.regency}, leader {self.leader}"]
        for replica in self._members:
            if replica not in self.facts:
                words.append(f"replica {replica} {self.conditions.get(replica, 'does not answer')}")
            elif not self.level(replica) and self._behind(replica):
                words.append(f"replica {replica} behind by {self._behind(replica):,}")
        return ", ".join(words)

    def _behind(self, replica: int) -> int:
        return self._decided - int(self.facts[replica]["executed"])

    @property
    def _decided(self) -> int:
        return max((int(facts["decided"]) for facts in self.facts.values()), default=0)


@dataclass
class _Strike:
    """A fault that happened; what it cost is known when the load is over."""

    name: str
    replica: int
    regency_before: int
    rate_before: float
    began: float
    repaired: float = 0.0
    level: float = 0.0
    regency_after: int = 0
    rate_after: float = 0.0
    transferred: int = 0


class Faults:
    """Does things to the replicas of `cluster` while `load` runs.

    Args:
        observer: running.
    """

    def __init__(self, cluster: ProcessCluster, load: LoadGenerator, observer: Observer) -> None:
        self.wiped: list[int] = []
        self._cluster = cluster
        self._load = load
        self._observer = observer
        self._strikes: list[_Strike] = []
        self._first_rate: float | None = None

    async def all_kinds(self) -> None:
        """The leader is killed and started again; another replica is frozen and thawed; a third one loses its data.

        Raises:
            NotEnoughReplies: the cluster did not go on, or a replica did not get level in time.
        """
        await self._observer.look()
        killed = await self.kill_leader()
        frozen, wiped = self._followers(killed)[:2]
        await self.freeze(frozen)
        await self.wipe(wiped)

    async def kill_leader(self) -> int:
        """SIGKILL to the leader; started again when another one leads. Returns who it was."""
        await self._rate()  # takes a while, in which another one may become leader
        await self._until(lambda: self._observer.leader >= 0, "no replica answers")
        await self._observer.look()
        leader, regency = self._observer.leader, self._observer.regency
        await self._strike(
            KILLED,
            leader,
            self._cluster.kill(leader),
            lambda: self._observer.regency > regency,
            self._cluster.restart,
        )
        return leader

    async def freeze(self, replica: int) -> None:
        """SIGSTOP, and SIGCONT a while later."""

        async def freeze() -> None:
            self._cluster.freeze(replica)

        async def thaw(frozen: int) -> None:
            self._cluster.thaw(frozen)

        await self._strike(FROZEN, replica, freeze(), lambda: replica not in self._observer.facts, thaw)

    async def wipe(self, replica: int) -> None:
        """The replica is stopped, its data folder removed, and it is started again."""

        async def wipe() -> None:
            await self._cluster.end(replica)
            self._cluster.wipe(replica)
            self.wiped.append(replica)

        await self._strike(WIPED, replica, wipe(), lambda: True, self._cluster.restart)

    def figures(self) -> list[FaultFigures]:
        """What each fault cost. Call it when the load is over."""
        ends = [*(strike.began for strike in self._strikes[1:]), time.monotonic()]
        return [
            FaultFigures(
                name=strike.name,
                replica=strike.replica,
                regency_before=strike.regency_before,
                regency_after=strike.regency_after,
                without_progress=self._load.pauses.longest(strike.began, min(end, strike.level + CALM_SECONDS)),
                lasted=strike.repaired - strike.began,
                level_after=strike.level - strike.repaired,
                rate_before=strike.rate_before,
                rate_after=strike.rate_after,
                transferred=strike.transferred,
            )
            for strike, end in zip(self._strikes, ends, strict=True)
        ]

    async def _strike(
        self,
        name: str,
        replica: int,
        act: Awaitable[None],
        noticed: Callable[[], bool],
        repair: Callable[[int], Awaitable[None]],
    ) -> None:
        observer = self._observer
        rate = await self._rate()
        strike = _Strike(name, replica, observer.regency, rate, time.monotonic())
        await act
        self._strikes.append(strike)
        observer.conditions[replica] = name.split()[1]
        await self._until(noticed, f"the cluster does not notice: {name} {replica}")
        completed = self._load.completed
        await self._until(lambda: self._load.completed > completed, f"the cluster does not go on: {name} {replica}")
        await asyncio.sleep(HOLD_SECONDS)
        strike.repaired = time.monotonic()
        await repair(replica)
        observer.conditions[replica] = "not connected yet"
        await observer.look()
        await self._until(lambda: observer.level(replica), f"replica {replica} does not get level with the others")
        strike.level, strike.regency_after = time.monotonic(), observer.regency
        strike.transferred = int(observer.facts[replica]["transferred"])
        strike.rate_after = await self._calm()

    async def _rate(self) -> float:
        """Transactions per second before the next fault."""
        if self._first_rate is None:
            self._first_rate = await self._calm()
        return self._strikes[-1].rate_after if self._strikes else self._first_rate

    async def _calm(self) -> float:
        """Transactions per second while nothing is done."""
        completed, began = self._load.completed, time.monotonic()
        await asyncio.sleep(CALM_SECONDS)
        return (self._load.completed - completed) / (time.monotonic() - began)

    async def _until(self, holds: Callable[[], bool], problem: str) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not holds():
            if time.monotonic() > deadline:
                raise NotEnoughReplies(f"{problem} within {PATIENCE_SECONDS:g} seconds ({self._observer.describe()})")
            await self._observer.look()

    def _followers(self, other_than: int) -> list[int]:
        leader = self._observer.leader
        return [running.replica for running in self._cluster.replicas if running.replica not in (leader, other_than)]
