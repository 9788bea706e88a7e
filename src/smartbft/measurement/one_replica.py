"""One replica process under load, its peers played: what one replica can do when nobody else needs the machine."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

from smartbft.errors import LocalProtocolError
from smartbft.measurement.cluster import Report, Run
from smartbft.measurement.peers import PlayedPeers, Source
from smartbft.measurement.processes import Workspace
from smartbft.measurement.scenario import Scenario
from smartbft.runtime.load import LoadGenerator, Traffic
from smartbft.testnet import Testnet

LEADER = "leader"
FOLLOWER = "follower"


class OneReplicaRun(Run):
    """A `Run` in which one replica is a process and this process plays the others; the client takes its word alone.

    Args:
        role: ``leader`` or ``follower``: what the real replica is.
        scenario, work, report, check: as for `smartbft.measurement.cluster.measure`; plain TCP and multiplexed clients.

    Raises:
        LocalProtocolError: a scenario or a role that cannot be played.
    """

    def __init__(
        self,
        scenario: Scenario,
        work: Workspace,
        report: Report | None = None,
        *,
        check: bool = True,
        role: str = LEADER,
    ) -> None:
        if scenario.transport != "plain" or scenario.n < 2:
            raise LocalProtocolError("peers can be played on plain TCP only, and there must be some")
        if role not in (LEADER, FOLLOWER):
            raise LocalProtocolError(f"unknown role '{role}': use {LEADER} or {FOLLOWER}")
        # A replica leaves its peers on this machine their share of the cores: here they do not need it.
        threads = scenario.verify_threads or os.cpu_count() or 1
        super().__init__(replace(scenario, verify_threads=threads), work, report, check=check)
        view = self._network.genesis.view
        self._real = view.leader(0) if role == LEADER else view.leader(1)
        self._peers: PlayedPeers | None = None

    def _processes(self) -> Testnet:
        real = tuple(config for config in self._network.replicas if config.replica == self._real)
        return replace(self._network, replicas=real)

    def _replies_needed(self) -> int:
        return 1

    def _companions(self) -> AbstractAsyncContextManager[object]:
        return self._playing()

    @asynccontextmanager
    async def _playing(self) -> AsyncIterator[None]:
        async with PlayedPeers(self._network, self._real) as self._peers:
            yield

    def _generator(self, lanes: list[Traffic], window: int) -> LoadGenerator:
        generator = super()._generator(lanes, window)
        if self._peers is not None and len(lanes) == 1:
            self._peers.follow(Source(lanes[0], lambda: generator.completed + generator.outstanding))
        return generator
