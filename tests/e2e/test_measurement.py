"""Measured clusters of real processes: the naive coin of the paper's table, payloads, and a replica that diverges."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from smartbft.measurement.cluster import Measurement, measure
from smartbft.measurement.processes import workspace
from smartbft.measurement.scenario import Scenario, paper_mint, unsigned

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SHORT = {"seconds": 3.0, "warm_up": 0.2, "clients": 64, "window": 128}

DIVERGING = '''
"""An echo whose state differs from process to process: the planted bug."""
import os

from smartbft.measurement.echo import Echo


class Diverging(Echo):
    def snapshot(self) -> bytes:
        return super().snapshot() + os.getpid().to_bytes(4, "little")
'''


def run(scenario: Scenario) -> Measurement:
    async def main() -> Measurement:
        with workspace(prefix="smartbft-test-") as work:
            return await measure(scenario, work)

    return asyncio.run(main())


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(
            **SHORT,
            persistence="memory",
            application="coin_ledger",
            signature_check="sequential",
            sync_floor_seconds=0.004,
        ),
        paper_mint(**SHORT, persistence="sync", transport="tls"),
        unsigned(0, 0, **SHORT),
        replace(Scenario(**SHORT), record_votes=False, outputs=1),
    ],
    ids=["sequential sync", "mint", "unsigned", "no vote records"],
)
def test_checks_pass_and_costs_are_counted(scenario: Scenario) -> None:
    found = run(scenario)
    assert [check for check in found.checks if not check.passed] == []
    assert found.load.completed > 0
    assert found.core_microseconds > found.serial_microseconds > 0
    assert 1 <= found.mean_batch <= scenario.parameters.max_batch_requests
    signed_outside = scenario.load != "unsigned" and scenario.signature_check == "parallel"
    assert (sum(each.signature_checks for each in found.replicas.values()) > 0) is signed_outside
    assert all(bool(each.log) is (scenario.persistence != "memory") for each in found.replicas.values())


def test_replicas_that_diverge_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "diverging.py").write_text(DIVERGING)
    monkeypatch.chdir(tmp_path)  # where the replicas look for applications
    found = run(unsigned(0, 0, **SHORT, application="diverging:Diverging"))
    assert [check.name for check in found.checks if not check.passed] == ["all replicas at the same state digest"]
    assert not found.passed


def test_bench_prints_and_saves(tmp_path: Path) -> None:
    options = ["--unsigned", "16/8", "--seconds", "2", "--warm-up", "0.1", "--clients", "16", "--window", "16"]
    command = [sys.executable, "-m", "smartbft", "bench", "cluster", *options, "--repeat", "2"]
    done = subprocess.run(
        [*command, "--json", "-o", str(tmp_path / "results.json")], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    runs = json.loads(done.stdout)
    assert len(runs) == 2
    assert all(each["passed"] and each["scenario"]["load"] == "unsigned 16/8 bytes" for each in runs)
    saved = json.loads((tmp_path / "results.json").read_text())
    assert len(saved["benchmarks"][0]["runs"]) == 2
    again = subprocess.run(
        [*command, "-o", str(tmp_path / "results.json")], capture_output=True, text=True, timeout=300
    )
    assert again.returncode == 2
    assert "choose another name" in again.stderr
