"""Runs of the simulator: tens of seeds with everything that can go wrong, and an application of one's own."""

from __future__ import annotations

import os
import random

import pytest

from smartbft.smr.application import ExecutionContext, StateMachine
from smartbft.testing import PropertyViolation, Simulation, SimulationOptions, run_campaign, run_seed
from smartbft.testing.drawing import draw_scenario
from smartbft.testing.faults import Faults

# Continuous integration runs more.
SEEDS = int(os.environ.get("SMARTBFT_SIM_SEEDS", "50"))


@pytest.mark.slow
@pytest.mark.parametrize(("n", "instances"), [(4, 25), (7, 15)])
def test_many_seeds_keep_every_promise(n: int, instances: int):
    result = run_campaign(SimulationOptions(n=n, instances=instances), SEEDS)
    assert result.failures == []
    assert result.seeds == SEEDS
    assert result.instances >= SEEDS * instances
    assert result.crashes > SEEDS // 4


@pytest.mark.parametrize("n", [1, 2, 5, 7])
def test_other_sizes_of_clusters(n: int):
    result = run_campaign(SimulationOptions(n=n, instances=10, seed=100), 6)
    assert result.failures == []


@pytest.mark.parametrize("persistence", ["memory", "async", "sync"])
@pytest.mark.parametrize("faults", ["network", "crashes", "none"])
def test_every_mode_and_kind_of_faults(persistence: str, faults: str):
    result = run_campaign(SimulationOptions(persistence=persistence, faults=faults, instances=10, seed=200), 4)
    assert result.failures == []


def test_real_signatures():
    options = SimulationOptions(signatures="ed25519", instances=8, seed=7)
    assert Simulation(options).scenario.real_signatures
    assert run_campaign(options, 2).failures == []


def test_scenarios_cover_the_faults():
    scenarios = [draw_scenario(SimulationOptions(seed=seed)) for seed in range(300)]
    assert sum(scenario.real_signatures for scenario in scenarios) == 15
    assert {scenario.persistence for scenario in scenarios} == {"memory", "async", "sync"}
    crashes = [(scenario, crash) for scenario in scenarios for crash in scenario.crashes]
    assert any(len(crash.replicas) == 4 for _, crash in crashes)
    assert any(crash.power for _, crash in crashes)
    assert any(1 in crash.replicas for _, crash in crashes)
    for scenario, crash in crashes:
        assert not crash.power or scenario.persistence == "sync"
        assert len(crash.replicas) == 1 or scenario.persistence != "memory"
    for name in ("loss", "duplication", "straggling"):
        assert any(getattr(scenario.network, name) for scenario in scenarios)
    for name in ("isolations", "troublemakers", "tell_one", "clock_steps", "cuts", "disk_failures", "rot", "left_out"):
        assert any(getattr(scenario, name) for scenario in scenarios)


class Tally(StateMachine):
    """Adds up numbers."""

    def __init__(self) -> None:
        self.total = 0

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        self.total += operation[0]
        return self.total.to_bytes(8, "little")

    def snapshot(self) -> bytes:
        return self.total.to_bytes(8, "little")

    def restore(self, snapshot: bytes) -> None:
        self.total = int.from_bytes(snapshot, "little")


def test_an_application_of_ones_own_with_an_invariant():
    sent: list[int] = []

    def operation(draw: random.Random, client: int, number: int) -> bytes:
        sent.append(draw.randrange(256))
        return bytes([sent[-1]])

    def nothing_is_lost(machines: list[Tally]) -> None:
        assert {machine.total for machine in machines} == {sum(sent)}
        assert len(machines) >= 3

    options = SimulationOptions(seed=11, instances=15, faults="crashes")
    Simulation(options, application=Tally, operation=operation, invariant=nothing_is_lost).run()
    assert len(sent) > 15


def test_a_run_that_cannot_end_is_reported_with_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Faults, "_restart", lambda faults, host: faults._is_over())
    seeds = (seed for seed in range(100) if Simulation(SimulationOptions(seed=seed, instances=5)).scenario.crashes)
    with pytest.raises(PropertyViolation, match=r"liveness: after 3 s on a healed network .* down"):
        Simulation(SimulationOptions(seed=next(seeds), instances=5, patience=3)).run()


def test_a_failure_comes_with_the_command_that_repeats_it(monkeypatch: pytest.MonkeyPatch):
    def fail(simulation: Simulation) -> None:
        raise PropertyViolation("planted", "found")

    monkeypatch.setattr(Simulation, "run", fail)
    failure = run_seed(SimulationOptions(seed=123, in_flight=5, signatures="ed25519"))
    assert failure.promise == "planted"
    assert failure.command == "smartbft sim --seed 123 --n 4 --instances 50 --in-flight 5 --signatures ed25519"
    assert len(run_campaign(SimulationOptions(), 5).failures) == 1
    assert len(run_campaign(SimulationOptions(), 5, keep_going=True).failures) == 5


def test_an_unexpected_error_is_a_failure_of_its_seed(monkeypatch: pytest.MonkeyPatch):
    def fail(simulation: Simulation) -> None:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(Simulation, "run", fail)
    failure = run_seed(SimulationOptions(seed=1))
    assert (failure.promise, "ZeroDivisionError: planted" in failure.message) == ("unexpected error", True)
