"""Quiet simulations with a first leader that is slow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smartbft.testing import Simulation, SimulationOptions, simulation
from smartbft.testing.byzantine.normal_phase import Slow, TinyBatches
from smartbft.testing.scenario import Attacker, Scenario
from smartbft.types import SIGNATURES, Parameters

LEADER = 1
TIMEOUT = 2_000_000
PROPOSAL_TIMEOUT = Parameters().proposal_timeout


def scripted(
    *,
    seed: int = 1,
    instances: int = 60,
    delay: int = 0,
    batch: int = 0,
    n: int = 4,
    clients: int = 3,
    in_flight: int = SimulationOptions().in_flight,
    authentication: str = SIGNATURES,
    proposal_timeout: int = PROPOSAL_TIMEOUT,
    **changes: object,
) -> Simulation:
    """A quiet run, whose first leader keeps its proposals back for `delay` microseconds, or proposes few requests."""
    options = SimulationOptions(
        seed=seed,
        n=n,
        instances=instances,
        clients=clients,
        in_flight=in_flight,
        faults="none",
        persistence="sync",
        authentication=authentication,
    )
    parameters = Parameters(
        request_timeout=TIMEOUT, proposal_timeout=proposal_timeout, request_authentication=authentication
    )
    attacks = ("slow",) * bool(delay) + ("tiny-batches",) * bool(batch)

    def change(scenario: Scenario) -> Scenario:
        attackers = tuple(Attacker(LEADER, attack, 1.0, 0) for attack in attacks)
        quiet = replace(scenario, parameters=parameters, attackers=attackers, think_time=1_000)
        disk = replace(quiet.disk, stall_rate=0.0)
        return replace(replace(quiet, disk=disk), **changes)

    drawn = simulation.draw_scenario
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "draw_scenario", lambda given: change(drawn(given)))
        run = Simulation(options)
    for attack in run.hosts[LEADER].attacks:
        if isinstance(attack, Slow):
            attack._share = delay / TIMEOUT
        elif isinstance(attack, TinyBatches):
            attack._most = batch
    return run


def cores(run: Simulation) -> list:
    return [host.replica.core for host in run.core_hosts if host.replica is not None]


def regencies(run: Simulation) -> set[int]:
    return {core.regency for core in cores(run)}
