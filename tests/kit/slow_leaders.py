"""Quiet simulations with a first leader that is slow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from smartbft.testing import Simulation, SimulationOptions, simulation
from smartbft.testing.byzantine.normal_phase import Slow, Stingy, TinyBatches
from smartbft.testing.scenario import Attacker, Scenario
from smartbft.types import SIGNATURES, Parameters

LEADER = 1
SECOND = 1_000_000
TIMEOUT = 2_000_000
PROPOSAL_TIMEOUT = Parameters().proposal_timeout


def scripted(
    *,
    seed: int = 1,
    instances: int = 60,
    delay: int = 0,
    batch: int = 0,
    groups: int = 0,
    n: int = 4,
    clients: int = 3,
    in_flight: int = SimulationOptions().in_flight,
    authentication: str = SIGNATURES,
    proposal_timeout: int = PROPOSAL_TIMEOUT,
    **changes: object,
) -> Simulation:
    """A quiet run, whose first leader keeps its proposals back for `delay` microseconds, or proposes few requests, or
    (`groups`) keeps them back and also leaves out what was not there so many proposals ago.
    """
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
    attacks = ("stingy",) if groups else ("slow",) * bool(delay)
    attacks += ("tiny-batches",) * bool(batch)

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
        elif isinstance(attack, Stingy):
            attack._share, attack._groups = delay / proposal_timeout, groups
        elif isinstance(attack, TinyBatches):
            attack._most = batch
    return run


def cores(run: Simulation) -> list:
    return [host.replica.core for host in run.core_hosts if host.replica is not None]


def regencies(run: Simulation) -> set[int]:
    return {core.regency for core in cores(run)}


def loaded(**changes: Any) -> Simulation:
    """Clients that wait for their replies, with many requests in flight."""
    return scripted(clients=20, in_flight=8, instances=10**6, **changes)


def decided_by(run: Simulation, replica: int) -> int:
    """Requests that a replica has seen ordered."""
    pool = run.hosts[replica].replica.pool
    return pool.stats()["admitted"] - pool.stats()["pending"]


def advance(run: Simulation, until: int) -> None:
    """Run for so many virtual microseconds."""
    while run.scheduler.now < until:
        run.advance(200)


def throughput(run: Simulation, begin: int, end: int) -> float:
    """Requests per second between two points in time."""
    advance(run, begin)
    before, began = decided_by(run, 0), run.scheduler.now
    advance(run, end)
    return (decided_by(run, 0) - before) / (run.scheduler.now - began) * SECOND
