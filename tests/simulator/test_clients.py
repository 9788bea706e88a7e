"""Clients in the simulator: exactly once while leaders die, and clients whose misdeeds are their own affair.

Every run is watched by all checkers: each request is executed at most once, replies agree, and after healing every
honest request has its answer (docs/simulator.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from smartbft.core.forwarding import Forwarding
from smartbft.testing import PropertyViolation, Simulation, SimulationOptions, simulation
from smartbft.testing.drawing import draw_scenario
from smartbft.testing.mutants import MUTANTS
from smartbft.testing.scenario import Scenario
from smartbft.testing.troublemakers import Troublemaker
from smartbft.types import CHANNEL, SIGNATURES

TIMEOUT = 200_000  # of requests, microseconds
Change = Callable[[Scenario], Scenario]


def scripted(options: SimulationOptions, change: Change) -> Simulation:
    """A run whose scenario is changed by the test before it begins."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation, "draw_scenario", lambda options: change(draw_scenario(options)))
        return Simulation(options)


def regencies(run: Simulation) -> set[int]:
    return {host.replica.core.regency for host in run.hosts if host.replica is not None}


# --- leaders that die


def kill_leaders(seed: int, kills: int, *, persistence: str = "sync", authentication: str = SIGNATURES) -> Simulation:
    """A run in which whoever leads is killed again and again, for longer than the request timeout."""
    options = SimulationOptions(
        seed=seed, instances=25, faults="none", persistence=persistence, authentication=authentication
    )

    def impatient(scenario: Scenario) -> Scenario:
        return replace(scenario, parameters=replace(scenario.parameters, request_timeout=100_000))

    run = scripted(options, impatient)
    for _ in range(kills):
        run.advance(150 + seed % 50)
        alive = [host.replica for host in run.hosts if host.replica is not None]
        if len(alive) == len(run.hosts):
            regency = max(replica.core.regency for replica in alive)
            run.crash(run.view.leader(regency), downtime=800_000, power=seed % 2 == 0)
        run.advance(200)
    run.run()
    return run


@pytest.mark.parametrize("authentication", [SIGNATURES, CHANNEL])
@pytest.mark.parametrize("seed", range(6))
def test_exactly_once_while_leaders_are_killed(seed: int, authentication: str) -> None:
    run = kill_leaders(seed, kills=4, authentication=authentication)
    assert max(regencies(run)) >= 1
    assert run.answered >= 25


@pytest.mark.parametrize("seed", range(3))
def test_exactly_once_while_the_operating_systems_keep_the_logs(seed: int) -> None:
    run = kill_leaders(2 * seed + 1, kills=3, persistence="async")
    assert run.answered >= 25


def test_planted_bug_a_batch_executed_twice_is_found() -> None:
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name == "duplicate-executed")
    with mutant.plant(), pytest.raises(PropertyViolation, match="exactly once"):
        kill_leaders(0, kills=2)


# --- clients that harm themselves


def with_deeds(seed: int, *deeds: str, authentication: str = SIGNATURES) -> Simulation:
    """A run without other faults, with one client that does nothing but `deeds`, all the time."""
    options = SimulationOptions(seed=seed, instances=250, faults="none", clients=3, authentication=authentication)

    def with_troublemaker(scenario: Scenario) -> Scenario:
        return replace(
            scenario,
            troublemakers=1,
            mischief_pause=5_000,
            think_time=20_000,
            parameters=replace(scenario.parameters, request_timeout=TIMEOUT),
            disk=replace(scenario.disk, stall_rate=0.0),
        )

    run = scripted(options, with_troublemaker)
    for client in run.clients:
        if isinstance(client, Troublemaker):
            client._mischief = tuple(getattr(client, deed) for deed in deeds)
    return run


DEEDS = {
    "tells one replica only": ("_tell_one",),
    "leaves gaps": ("_leave_gap", "_leave_gap", "_tell_one"),
    "signs garbage": ("_sign_badly", "_forge"),
    "sends garbage": ("_send_garbage",),
    "says different things to different replicas": ("_equivocate",),
    "opens sessions out of time": ("_open_session",),
    "replays others": ("_replay",),
    "floods": ("_flood",),
}


@pytest.mark.parametrize("authentication", [SIGNATURES, CHANNEL])
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("deeds", DEEDS.values(), ids=DEEDS.keys())
def test_a_bad_client_harms_only_itself(seed: int, deeds: tuple[str, ...], authentication: str) -> None:
    """Every honest request is ordered and answered, and nobody suspects the leader."""
    run = with_deeds(seed, *deeds, authentication=authentication)
    report = run.run()
    assert report.virtual_seconds > 3 * TIMEOUT / 1e6, "too short for a suspicion"
    assert run.outstanding == 0
    assert regencies(run) == {0}


def test_planted_bug_a_timer_that_a_gap_starts_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Deadlines that run for whatever is pending, not only for what a leader could propose."""
    look = Forwarding.on_timer

    def look_at_everything(forwarding: Forwarding) -> None:
        replica = forwarding._replica
        if replica.pool.stats()["pending"] and not replica.pool.ready() and not replica.ordering.running():
            replica.ordering.suspect(b"")
        look(forwarding)

    monkeypatch.setattr(Forwarding, "on_timer", look_at_everything)
    run = with_deeds(0, *DEEDS["leaves gaps"])
    run.run()
    assert regencies(run) != {0}
