"""Replica processes that are frozen, killed and wiped are looked after, whatever becomes of their parent."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from smartbft.measurement.processes import ProcessCluster, running
from smartbft.testnet import create_testnet

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

# A parent with a janitor, and a child that holds the pipe and ends with its standard input, as replicas do; frozen.
PARENT = """
import os, signal, subprocess, sys, time
from smartbft.measurement.processes import workspace
with workspace(prefix="smartbft-test-") as work:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=(work.lifeline,), start_new_session=True)
    if sys.argv[1] == "told":
        os.write(work.lifeline, b"%d\\n" % child.pid)
    os.kill(child.pid, signal.SIGSTOP)
    print(child.pid, work.folder, flush=True)
    time.sleep(600)
"""


def test_a_frozen_replica_stops_with_the_cluster(tmp_path: Path) -> None:
    async def scenario() -> dict[int, int]:
        cluster = ProcessCluster(create_testnet(tmp_path / "net", 1, transport="plain"))
        async with running(cluster):
            cluster.freeze(0)
        return cluster.exit_codes

    assert asyncio.run(scenario()) == {0: 0}


def test_a_replica_is_killed_wiped_and_started_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        network = create_testnet(tmp_path / "net", 1, transport="plain")
        cluster = ProcessCluster(network)
        async with running(cluster):
            first = cluster.process(0).pid
            await cluster.kill(0)
            assert any(network.replicas[0].data_folder.iterdir())
            cluster.wipe(0)
            assert not any(network.replicas[0].data_folder.iterdir())
            await cluster.restart(0)
            assert cluster.process(0).pid != first
            assert await cluster.end(0) == 0
            await cluster.restart(0)
        assert cluster.exit_codes == {0: 0}

    asyncio.run(scenario())


@pytest.mark.parametrize("told", [True, False])
def test_a_frozen_replica_is_thawed_when_the_parent_is_killed(told: bool, tmp_path: Path) -> None:
    """If the janitor is not told (the planted bug), child and folder stay."""
    command = [sys.executable, "-c", PARENT, "told" if told else "not told"]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as parent:
        assert parent.stdout is not None
        pid, folder = parent.stdout.readline().split()
        child = psutil.Process(int(pid))
        parent.kill()
    gone, _ = psutil.wait_procs([child], timeout=120 if told else 1)
    assert bool(gone) is told
    if not told:
        child.kill()
    psutil.wait_procs([child], timeout=120)
    for _ in range(2400):
        if not Path(folder).exists():
            return
        psutil.wait_procs([psutil.Process()], timeout=0.05)
    pytest.fail("the folder stays")
