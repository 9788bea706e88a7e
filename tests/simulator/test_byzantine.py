"""Byzantine replicas (A1), Twins (A2) and one-step lies (A3): nothing they do splits or stops the correct ones."""

from __future__ import annotations

import os
from dataclasses import replace

import pytest

from smartbft.cli.sim import ATTACK_NAMES
from smartbft.errors import LocalProtocolError
from smartbft.testing import PropertyViolation, Simulation, SimulationOptions, run_campaign, run_seed
from smartbft.testing.byzantine import ATTACKS
from smartbft.testing.campaign import Failure
from smartbft.testing.drawing import draw_scenario
from smartbft.testing.faults import Faults
from smartbft.testing.scenario import Deafness
from smartbft.testing.shrinking import shrink

# Continuous integration runs more.
SEEDS = int(os.environ.get("SMARTBFT_SIM_SEEDS", "50"))


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, 7])
def test_any_attacks_of_f_replicas(n: int):
    """A1, and L1: progress within f + 1 regency changes after healing is one of the properties."""
    seeds = SEEDS if n == 4 else SEEDS // 2
    result = run_campaign(SimulationOptions(n=n, instances=10, byzantine="any", seed=1000), seeds, keep_going=True)
    assert result.failures == []


@pytest.mark.slow
@pytest.mark.parametrize("n", [4, 7])
def test_attacks_on_keys(n: int):
    """With seven replicas one of the faulty ones is often correct, and has lost its disk: it needs a new key."""
    seeds = SEEDS if n == 4 else SEEDS // 2
    result = run_campaign(SimulationOptions(n=n, instances=10, byzantine="keys"), seeds, keep_going=True)
    assert result.failures == []


def test_attacks_on_keys_change_keys_beside_replicas_that_need_them():
    liars, correct = 0, 0
    for seed in range(12):
        run = Simulation(SimulationOptions(seed=seed, n=7, instances=8, byzantine="keys"))
        run.run()
        last = run.decided + 1
        changed = {id for id in run.replica_ids if run.checkers.provability.since(id, last)}
        liars += len(changed & run.byzantine)
        correct += len(changed - run.byzantine)
    assert min(liars, correct) > 0


@pytest.mark.slow
def test_twins():
    """A2."""
    result = run_campaign(SimulationOptions(instances=6, clients=2, twins=True), 4 * SEEDS, keep_going=True)
    assert result.failures == []


@pytest.mark.slow
def test_one_step_lies():
    """A3."""
    result = run_campaign(SimulationOptions(instances=8, mutations=True), 2 * SEEDS, keep_going=True)
    assert result.failures == []


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_each_attack(attack: str):
    assert run_campaign(SimulationOptions(instances=6, byzantine=attack), 4, keep_going=True).failures == []


def test_the_command_line_knows_every_attack():
    assert tuple(ATTACKS) == ATTACK_NAMES


def test_attacks_that_nobody_tolerates_are_refused():
    with pytest.raises(LocalProtocolError, match="tolerate no Byzantine one"):
        SimulationOptions(n=3, byzantine="silent")
    with pytest.raises(LocalProtocolError, match="'loud' is none of"):
        SimulationOptions(byzantine="loud")


def test_the_network_helps_the_attackers_now_and_then():
    drawn = [draw_scenario(SimulationOptions(seed=seed, byzantine="any")) for seed in range(200)]
    assert 40 < sum(1 for scenario in drawn if scenario.rounds) < 120
    assert 40 < sum(1 for scenario in drawn if scenario.deafness) < 120
    quiet = [draw_scenario(SimulationOptions(seed=seed, byzantine="any", faults="crashes")) for seed in range(50)]
    honest = [draw_scenario(SimulationOptions(seed=seed)) for seed in range(50)]
    assert not any(scenario.rounds or scenario.deafness for scenario in (*quiet, *honest))


def test_who_is_deaf_to_a_phase_does_not_decide_until_it_is_over():
    options = SimulationOptions(instances=4, faults="none", persistence="sync")
    deaf = Deafness((0, 1, 2, 3), 1, "ACCEPT", 10 * Simulation(options).scenario.parameters.resend_interval)
    run = Simulation(options, scenario=replace(Simulation(options).scenario, deafness=(deaf,)))
    while run.decided < 2:
        run.advance(1)
    began = run.scheduler.now
    while run.decided < 4:
        run.advance(1)
    assert run.scheduler.now - began >= deaf.duration // 2
    run.run()


def test_at_most_f_replicas_are_faulty():
    for n, f in ((4, 1), (7, 2)):
        for seed in range(200):
            for attacks in ("any", "keys"):
                scenario = draw_scenario(SimulationOptions(seed=seed, n=n, byzantine=attacks))
                rotten = {one.replica for one in (*scenario.rot, *scenario.wipes)}
                faulty = scenario.byzantine | scenario.forgetful | rotten | set(scenario.left_out)
                assert 1 <= len(faulty) <= f
            twins = draw_scenario(SimulationOptions(seed=seed, n=n, twins=True))
            assert 1 <= len(twins.twins) <= f
            assert 1 <= len(twins.rounds) <= 12


def test_the_same_seed_gives_the_same_attack():
    options = SimulationOptions(seed=3, instances=6, byzantine="any")
    assert Simulation(options).run() == Simulation(options).run()


def test_faults_are_left_out_by_name():
    options = SimulationOptions(seed=3, byzantine="equivocate,silent")
    names = Simulation(options).scenario.faults()
    assert "attackers:0" in names
    without = Simulation(SimulationOptions(seed=3, byzantine="equivocate,silent", without="attackers:0"))
    assert [attacker.attack for attacker in without.scenario.attackers] == ["silent"]
    with pytest.raises(LocalProtocolError, match="the scenario has no attackers:9"):
        Simulation(SimulationOptions(seed=3, byzantine="silent", without="attackers:9"))


def test_a_failing_run_is_made_small(monkeypatch: pytest.MonkeyPatch):
    """A replica that never comes back stops a run of four with a silent one: only these two faults are left."""
    monkeypatch.setattr(Faults, "_restart", lambda faults, host: faults._is_over())
    base = {"instances": 6, "byzantine": "silent", "faults": "crashes", "patience": 5}
    outcomes = (run_seed(SimulationOptions(seed=seed, **base)) for seed in range(200))
    failure = next(one for one in outcomes if isinstance(one, Failure) and one.promise == "liveness")
    small = shrink(failure)
    assert small.promise == failure.promise
    assert len(Simulation(small.options).scenario.faults()) <= len(Simulation(failure.options).scenario.faults())
    assert small.options.instances <= failure.options.instances
    assert "--byzantine silent" in small.command
    with pytest.raises(PropertyViolation, match="liveness"):
        Simulation(small.options).run()
