"""Greedy clients in the simulator: they have no correct leader replaced, and a run with them repeats like any other."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smartbft.errors import LocalProtocolError
from smartbft.testing import PropertyViolation, Simulation, SimulationOptions
from smartbft.testing.greedy import MOST_DEEDS, GreedyClient
from smartbft.testing.schedule import Schedule, decode_schedule
from smartbft.types import CHANNEL, SIGNATURES

ALONE = SimulationOptions(instances=8, greedy=3, faults="none")


@pytest.mark.parametrize("authentication", [SIGNATURES, CHANNEL])
@pytest.mark.parametrize("seed", range(3))
def test_clients_alone_have_no_leader_replaced(authentication: str, seed: int) -> None:
    world = Simulation(replace(ALONE, seed=seed, authentication=authentication))
    report = world.run()
    assert report.leaders_replaced == 0
    assert "3 greedy clients" in report.scenario
    stats = [host.replica.pool.stats() for host in world.hosts if host.replica is not None]
    assert all(one["evicted"] for one in stats), "their pools were full"
    assert not any(host.replica.pool.ready() for host in world.hosts if host.replica is not None)


def test_the_same_seed_is_the_same_run() -> None:
    assert Simulation(ALONE).run() == Simulation(ALONE).run()


def test_without_greedy_clients_a_seed_stays_what_it_was() -> None:
    options = SimulationOptions(instances=5)
    assert "greedy" not in Simulation(options).scenario.faults()
    assert Simulation(options).run() == Simulation(replace(options, without="")).run()


def test_a_replaced_leader_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    world = Simulation(ALONE)
    monkeypatch.setattr(world, "_highest_regency", lambda: 1)
    with pytest.raises(PropertyViolation, match="clients alone had 1 correct leaders replaced"):
        world.run()


def test_every_deed_is_done() -> None:
    world = Simulation(ALONE)
    (client, *_) = world._greedy_clients
    done: set[str] = set()
    for deed in client._deeds:
        deed()
        done.add(deed.__name__)
    assert len(done) == 5
    assert len(client._deeds) < MOST_DEEDS
    assert isinstance(client, GreedyClient)


def test_greedy_clients_can_be_left_out_and_written_down() -> None:
    scenario = Simulation(ALONE).scenario
    assert scenario.without(["greedy"]).greedy == 0
    assert decode_schedule(Schedule(ALONE, scenario).encode()).scenario == scenario
    with pytest.raises(LocalProtocolError, match="greedy"):
        SimulationOptions(greedy=-1)
