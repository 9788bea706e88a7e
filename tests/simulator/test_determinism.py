"""The same seed gives the same run: in another process, under another hash seed, with and without a text trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from smartbft.testing import Simulation, SimulationOptions

SEEDS = (0, 1, 2, 3)  # seed 0 uses real signatures
PROGRAM = """
import json
from smartbft.testing import Simulation, SimulationOptions
print(json.dumps([Simulation(SimulationOptions(seed=seed, instances=12)).run().trace_hash for seed in {seeds}]))
"""


def hashes_in_a_process(hash_seed: str) -> list[str]:
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(seeds=SEEDS)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_the_trace_hash_is_the_same_in_every_process():
    here = [Simulation(SimulationOptions(seed=seed, instances=12)).run().trace_hash for seed in SEEDS]
    assert len(set(here)) == len(SEEDS)
    for hash_seed in ("0", "1", "4294967295"):
        assert hashes_in_a_process(hash_seed) == here


def test_a_run_can_be_repeated_in_one_process_and_its_text_follows_the_hash():
    options = SimulationOptions(seed=5, instances=10)
    first = Simulation(options).run()
    text = Simulation(options, text=True)
    assert text.run() == first
    lines = list(text.trace.lines())
    assert len(lines) > 500
    assert any("TIMER" in line.upper() for line in lines)


def test_an_application_that_is_not_deterministic_is_found():
    """The planted bug of this suite: results that depend on the order of a set of strings, or on a clock."""
    from smartbft.smr.application import ExecutionContext
    from smartbft.testing import AppendLog, PropertyViolation

    lives = iter(range(1_000))

    class Careless(AppendLog):
        def __init__(self) -> None:
            super().__init__()
            self.chained = next(lives).to_bytes(32, "little")

        def execute_batch(self, data: bytes, context: ExecutionContext) -> bytes:
            return super().execute_batch(data, context)

    with pytest.raises(PropertyViolation, match="total order"):
        Simulation(SimulationOptions(seed=5, instances=10), application=Careless).run()
