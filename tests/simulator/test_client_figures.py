"""How the report of a run tells what its honest clients went through."""

from __future__ import annotations

from smartbft.testing import Simulation, SimulationOptions, run_campaign
from smartbft.testing.clients import RETRANSMIT_MICROSECONDS, ClientFigures
from smartbft.testing.history import History


def test_on_a_quiet_network_nobody_retransmits_or_waits_long():
    report = Simulation(SimulationOptions(seed=7, instances=10, faults="none")).run()
    assert report.retransmissions == 0
    assert 0 < report.longest_wait_seconds < RETRANSMIT_MICROSECONDS / 1e6


def test_a_leader_that_is_down_makes_clients_wait_and_retransmit():
    simulation = Simulation(SimulationOptions(seed=5, instances=10, faults="none"))
    assert simulation.scenario.parameters.request_timeout > RETRANSMIT_MICROSECONDS
    simulation.advance(200)
    simulation.crash(1, downtime=20_000_000, power=False)
    report = simulation.run()
    assert report.retransmissions > 0
    assert report.longest_wait_seconds > RETRANSMIT_MICROSECONDS / 1e6
    assert report.healed_seconds < report.virtual_seconds


def test_a_campaign_adds_retransmissions_up_and_keeps_the_longest_wait():
    options = SimulationOptions(seed=40, instances=6)
    single = [Simulation(SimulationOptions(seed=40 + number, instances=6)).run() for number in range(4)]
    result = run_campaign(options, 4)
    assert result.retransmissions == sum(report.retransmissions for report in single)
    assert result.longest_wait_seconds == max(report.longest_wait_seconds for report in single)


def test_the_figures_of_a_client():
    figures = ClientFigures()
    figures.answered(sent_at=10, now=30)
    figures.answered(sent_at=25, now=35)
    assert (figures.longest_wait, figures.last_answer) == (20, 35)


def test_a_history_tells_indeterminate_operations_apart():
    history = History(patience=100)
    for name, invoked in (("in time", 0), ("late", 5), ("never", 6), ("given up", 7)):
        history.invoked(name, 1, name.encode(), invoked)
    history.answered("in time", b"yes", 100)
    history.answered("late", b"yes", 106)
    history.answered("unknown", b"yes", 107)
    history.gave_up("given up", 50)
    found = [(one.operation, one.result, one.invoked, one.answered) for one in history.operations()]
    assert found == [
        (b"in time", b"yes", 0, 100),
        (b"late", None, 5, 105),
        (b"never", None, 6, 6),
        (b"given up", None, 7, 50),
    ]


def test_a_simulation_tells_its_history_every_request_and_answer():
    history = History()
    simulation = Simulation(SimulationOptions(seed=3, instances=10), history=history)
    report = simulation.run()
    operations = history.operations()
    assert len(operations) == report.requests
    assert all(one.result is not None and one.invoked < one.answered for one in operations)
