"""What a violation says of the run that broke a promise: enough to run it again, and to know where to look."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

from smartbft.testing import AppendLog, PropertyViolation, Simulation, SimulationOptions
from smartbft.testing.faults import Faults


class Forgetful(AppendLog):
    """Planted bug: the applications differ from some instance on."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        Forgetful.made += 1
        self._number = Forgetful.made

    def execute_batch(self, data, context):  # type: ignore[no-untyped-def]
        results = super().execute_batch(data, context)
        return results[:-1] + bytes([self._number]) if context.instance == 5 else results


def violation(options: SimulationOptions, **more: object) -> PropertyViolation:
    with pytest.raises(PropertyViolation) as raised:
        Simulation(options, **more).run()  # type: ignore[arg-type]
    return raised.value


def test_a_violation_names_seed_instance_and_replica() -> None:
    found = violation(SimulationOptions(seed=7, instances=20, faults="none"), application=Forgetful)
    assert found.promise == "total order"
    (named,) = re.findall(r"replica (\d+) .* in instance (\d+)", found.message)
    assert (found.seed, found.replicas, found.instance) == (7, (int(named[0]),), int(named[1]))
    assert found.instance == 5


def test_one_about_no_replica_or_instance_names_all_and_the_last_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Faults, "_restart", lambda faults, host: faults._is_over())
    seed = next(n for n in range(100) if Simulation(SimulationOptions(seed=n, instances=5)).scenario.crashes)
    simulation = Simulation(SimulationOptions(seed=seed, instances=5, patience=3))
    with pytest.raises(PropertyViolation, match="liveness") as raised:
        simulation.run()
    found = raised.value
    assert (found.seed, found.instance, found.replicas) == (seed, simulation.decided, (0, 1, 2, 3))


@pytest.mark.parametrize("again", [copy.copy, lambda error: pickle.loads(pickle.dumps(error))])
def test_a_violation_goes_from_process_to_process(again) -> None:  # type: ignore[no-untyped-def]
    found = PropertyViolation("agreement", "they differ", instance=3, replicas=(1, 2))
    found.locate(9, 8, (0, 1, 2, 3))
    for error in (found, again(found)):
        assert str(error) == "agreement: they differ"
        assert (error.promise, error.message) == ("agreement", "they differ")
        assert (error.seed, error.instance, error.replicas) == (9, 3, (1, 2))
