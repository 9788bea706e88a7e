"""A run of a cluster during which replicas are killed, frozen and wiped."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from smartbft.errors import LocalProtocolError
from smartbft.measurement.cluster import Report, Run, Until
from smartbft.measurement.faults import FaultFigures, Faults, Observer
from smartbft.measurement.processes import Workspace
from smartbft.measurement.scenario import Scenario
from smartbft.quorum import max_faulty
from smartbft.runtime.client import AsyncClient
from smartbft.runtime.lanes import Traffic
from smartbft.runtime.load import LoadGenerator, Pace

# A service is not run at its limit: the rest is for replicas that catch up while it goes on, on the same machine.
_PART_OF_THE_MOST = 0.4
# The faults take as long as they take: the load is signed for so much longer than asked for, and slows down in it.
_RESERVE_SECONDS = 10.0


class ChaosRun(Run):
    """A `Run` with faults; the load goes on until all of them are repaired.

    Args:
        scenario, work, report: as for `smartbft.measurement.cluster.measure`; the cluster must tolerate a fault, and
            its replicas must keep a log.
        tell: called with a line about regency, leader and who is behind, several times a second.

    Raises:
        LocalProtocolError: a scenario without replicas to spare, or without logs.
    """

    def __init__(
        self,
        scenario: Scenario,
        work: Workspace,
        report: Report | None = None,
        tell: Callable[[str], None] | None = None,
    ) -> None:
        if max_faulty(scenario.n) < 1:
            raise LocalProtocolError(f"{scenario.n} replicas tolerate no fault: use 4 or more")
        if scenario.persistence == "memory":
            raise LocalProtocolError("replicas that keep no log cannot be restarted safely: use sync or async")
        super().__init__(scenario, work, report)
        self._tell = tell or _say_nothing
        self._faults: Faults | None = None
        self._figures: list[FaultFigures] = []
        self._pace: Pace | None = None

    async def faults(self, faults: Faults) -> None:
        """What is done; every kind of fault once."""
        await faults.all_kinds()

    def _requests(self, most: float) -> float:
        rate = _PART_OF_THE_MOST * most
        self._pace = Pace(rate, _RESERVE_SECONDS)
        return rate * (self._scenario.seconds + self._scenario.warm_up + _RESERVE_SECONDS)

    def _generator(self, lanes: list[Traffic], window: int) -> LoadGenerator:
        return self._make_generator(lanes, window, persistent=True, pace=self._pace)

    @asynccontextmanager
    async def _beside(self, generator: LoadGenerator, client: AsyncClient) -> AsyncIterator[Until]:
        if self.cluster is None:
            raise LocalProtocolError("the replicas do not run")
        members = [member.id for member in self._network.genesis.members]
        observer = Observer(client, members, self._tell)
        self._faults = Faults(self.cluster, generator, observer)
        looking = asyncio.ensure_future(observer.run())
        script = asyncio.ensure_future(self.faults(self._faults))
        try:
            yield script
            if not script.done():
                raise LocalProtocolError("all transactions were sent before the last fault: let there be more")
            await script
        finally:
            script.cancel()
            looking.cancel()
            await asyncio.gather(script, looking, return_exceptions=True)
        self._figures = self._faults.figures()

    def _fault_figures(self) -> list[FaultFigures]:
        return self._figures

    def _lost_logs(self) -> list[int]:
        return self._faults.wiped if self._faults is not None else []


def _say_nothing(line: str) -> None:
    """Nobody listens."""
