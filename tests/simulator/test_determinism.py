"""The same seed gives the same run (promise A5): in another process, under another hash seed, with and without a text
trace, and when leaders die and are replaced."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence

import pytest

from smartbft.testing import Simulation, SimulationOptions

SEEDS = int(os.environ.get("SMARTBFT_DETERMINISM_SEEDS", "200"))
HASH_SEEDS = ("0", "1", "4294967295")
PROCESSES = 2  # for each hash seed
# Every run kills the leader early and for long, where votes survive that. One line per seed: its trace, its regency.
PROGRAM = """
import json, os, random, sys
from smartbft.testing import Simulation, SimulationOptions

MUTANT = {mutant!r}

def trace(seed):
    simulation = Simulation(SimulationOptions(seed=seed, instances=6))
    simulation.advance(100 + seed % 400)
    if simulation.scenario.persistence != "memory":
        simulation.crash(1, downtime=3_000_000, power=False)
    if MUTANT == "set":
        # What is planted: the order of a set of strings decides.
        simulation.scheduler.random.seed("".join({{f"client {{index}}" for index in range(8)}}))
    if MUTANT == "process":
        simulation.scheduler.random.seed(os.getpid())
    report = simulation.run()
    return report.trace_hash, max(host.replica.core.regency for host in simulation.core_hosts)

print(json.dumps([trace(seed) for seed in range({seeds})]))
"""


def start(hash_seed: str, seeds: int, mutant: str = "") -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(seeds=seeds, mutant=mutant)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )


def traces(seeds: int, hash_seeds: Sequence[str], mutant: str = "") -> list[list[tuple[str, int]]]:
    """Trace and regency of each seed, for each process; two processes at a time."""
    found = []
    for position in range(0, len(hash_seeds), 2):
        for process in [start(hash_seed, seeds, mutant) for hash_seed in hash_seeds[position : position + 2]]:
            out, errors = process.communicate(timeout=280)
            assert process.returncode == 0, errors
            found.append([(trace, regency) for trace, regency in json.loads(out)])
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_every_seed_gives_the_same_trace_in_every_process():
    first, *others = traces(SEEDS, HASH_SEEDS * PROCESSES)
    assert len(others) == len(HASH_SEEDS) * PROCESSES - 1
    for other in others:
        assert [seed for seed in range(SEEDS) if other[seed] != first[seed]] == []
    assert len({trace for trace, _ in first}) == SEEDS
    assert sum(regency > 0 for _, regency in first) > SEEDS // 2  # leaders were replaced


@pytest.mark.parametrize(("mutant", "hash_seeds"), [("set", HASH_SEEDS), ("process", ("0", "0"))])
def test_a_run_that_depends_on_its_process_is_found(mutant: str, hash_seeds: tuple[str, ...]):
    """The planted bugs of this suite: the order of a set of strings decides, or a process's own number."""
    first, *others = traces(2, hash_seeds, mutant)
    assert any(other != first for other in others)


def test_a_run_can_be_repeated_in_one_process_and_its_text_follows_the_hash():
    options = SimulationOptions(seed=5, instances=10)
    first = Simulation(options).run()
    text = Simulation(options, text=True)
    assert text.run() == first
    lines = list(text.trace.lines())
    assert len(lines) > 500
    assert any("TIMER" in line.upper() for line in lines)


def test_an_application_that_is_not_deterministic_is_found():
    """Results that differ from life to life of a replica."""
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
