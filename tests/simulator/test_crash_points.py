"""A small run, crashed at one event after the other: one follower, the leader, all at once."""

from __future__ import annotations

import pytest

from smartbft.testing import Simulation, SimulationOptions

OPTIONS = SimulationOptions(seed=9, instances=3, clients=2, signatures="keyed-hash", persistence="sync", faults="none")
LEADER = 1


@pytest.mark.slow
@pytest.mark.parametrize("replicas", [(2,), (LEADER,), (0, 1, 2, 3)], ids=["follower", "leader", "all"])
@pytest.mark.parametrize("power", [True, False], ids=["power", "process"])
def test_a_crash_at_every_second_event(replicas: tuple[int, ...], power: bool):
    quiet = Simulation(OPTIONS).run()
    for event in range(2, quiet.events, 2):
        simulation = Simulation(OPTIONS)
        simulation.advance(event)
        simulation.crash(*replicas, power=power)
        report = simulation.run()
        assert report.crashes == len(replicas)


def test_a_second_crash_during_recovery():
    for pause in range(1, 40, 3):
        simulation = Simulation(OPTIONS)
        simulation.advance(100)
        simulation.crash(0, 1, 2, 3, downtime=500)
        while any(host.replica is None for host in simulation.hosts):
            simulation.advance(1)
        simulation.advance(pause)
        simulation.crash(0, 1, 2, 3, downtime=500)
        assert simulation.run().crashes == 8
