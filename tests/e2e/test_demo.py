"""``smartbft demo`` on real processes: it finds nothing wrong, and leaves nothing behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from smartbft.types import Parameters

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

PATIENCE_SECONDS = 240.0
# Of a load that is interrupted: signing it ahead takes about as long as the load itself.
LONG = "4"
# A demo that, once it has told its replicas to stop, waits for them until it is interrupted.
STOPS_FOR_EVER = """
import asyncio, sys
from smartbft.cli import main
from smartbft.measurement.processes import ProcessCluster
reap = ProcessCluster._reap
async def wait(cluster, replica):
    while not any(task.cancelling() for task in asyncio.all_tasks()):
        await asyncio.sleep(0.01)
    await reap(cluster, replica)
ProcessCluster._reap = wait
main(sys.argv[1:])
"""


class Demo:
    """A running demo whose folders lie in a folder of the test's own."""

    def __init__(self, folder: Path, *options: str, program: tuple[str, ...] = ("-m", "smartbft")) -> None:
        self.folder = folder
        environment = {**os.environ, "TMPDIR": str(folder)}
        self.process = subprocess.Popen(
            [sys.executable, *program, "demo", "--clients", "64", "--window", "128", *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.family: dict[int, psutil.Process] = {}

    def wait_for(self, word: str) -> None:
        """Until the progress on stderr speaks of `word`; notes all processes that belong to the demo by then."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if word in line:
                break
        else:
            pytest.fail(f"the demo ended without '{word}'")
        self.note_family()

    def note_family(self) -> None:
        for child in psutil.Process(self.process.pid).children(recursive=True):
            self.family[child.pid] = child

    def remains(self) -> list[str]:
        """What is left: processes and folders."""
        alive = [f"process {process}" for process in self.family.values() if process.is_running()]
        return alive + [f"folder {path}" for path in self.folder.iterdir()]

    def assert_gone(self) -> None:
        """Orphans end as soon as they notice, so look until they have, or until patience ends."""
        end = time.monotonic() + PATIENCE_SECONDS
        while self.remains() and time.monotonic() < end:
            time.sleep(0.05)
        assert self.remains() == []


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    started: list[Demo] = []

    def make(*options: str, **program: tuple[str, ...]) -> Demo:
        started.append(Demo(tmp_path, *options, **program))
        return started[-1]

    yield make
    for demo in started:
        demo.process.kill()
        demo.process.communicate()


@pytest.mark.parametrize(
    "options",
    [
        ("--transport", "tls"),
        ("--transport", "plain", "--persistence", "memory"),
        ("--transport", "plain", "--persistence", "async", "--closed-loop", "-n", "1"),
    ],
    ids=" ".join,
)
def test_a_short_demo_passes_its_checks_and_leaves_nothing(start, options: tuple[str, ...]) -> None:
    demo = start("--seconds", "1", "--json", *options)
    out, err = demo.process.communicate(timeout=PATIENCE_SECONDS)
    assert demo.process.returncode == 0, err
    found = json.loads(out)
    assert found["passed"]
    assert found["transactions"] > 0
    assert all(check["passed"] for check in found["checks"])
    assert found["latency_seconds"]["p50"] <= found["latency_seconds"]["p99.9"]
    memory = "memory" in options
    assert ("each log replays to its replica's state" in {check["name"] for check in found["checks"]}) is not memory
    assert demo.remains() == []


def test_the_table_is_for_people(start) -> None:
    demo = start("--seconds", "1", "--transport", "plain")
    out, err = demo.process.communicate(timeout=PATIENCE_SECONDS)
    assert demo.process.returncode == 0, err
    for words in ("transactions per second", "latency p50 / p99 / p99.9", "serial cost", "money conserved"):
        assert words in out
    assert "transactions" in err
    assert demo.remains() == []


def test_chaos_costs_a_pause_and_nothing_else(start) -> None:
    demo = start("--chaos", "--seconds", "10", "--transport", "plain", "--json")
    out, err = demo.process.communicate(timeout=PATIENCE_SECONDS)
    assert demo.process.returncode == 0, err
    found = json.loads(out)
    assert found["passed"]
    killed, frozen, wiped = found["faults"]
    assert len({fault["replica"] for fault in found["faults"]}) == 3
    assert killed["name"] == "leader killed (SIGKILL)"
    assert killed["regency_after"] > killed["regency_before"]
    assert killed["without_progress"] > Parameters().request_timeout / 2_000_000  # somebody had to suspect it first
    assert frozen["regency_before"] >= killed["regency_after"]
    assert wiped["level_after"] > 0
    assert wiped["transferred"] > 0, "it has fetched all decisions instead of a snapshot"
    rebuilt = next(check for check in found["checks"] if check["name"].startswith("each log replays"))
    assert f"replica {wiped['replica']} rebuilt its log" in rebuilt["detail"]
    assert demo.remains() == []


def test_a_frozen_replica_does_not_stay_behind(start) -> None:
    demo = start("--chaos", "--seconds", "8", "--transport", "plain")
    demo.wait_for(" frozen")
    demo.process.kill()
    demo.process.communicate(timeout=PATIENCE_SECONDS)
    demo.assert_gone()


@pytest.mark.parametrize(
    ("word", "number"),
    [
        ("signing", signal.SIGINT),
        ("starting", signal.SIGINT),
        ("minting", signal.SIGINT),
        ("load", signal.SIGINT),
        ("load", signal.SIGTERM),
        ("stopping", signal.SIGINT),
    ],
)
def test_an_interrupted_demo_leaves_nothing(start, word: str, number: signal.Signals) -> None:
    program = ("-c", STOPS_FOR_EVER) if word == "stopping" else ("-m", "smartbft")
    demo = start("--seconds", LONG, "--transport", "plain", program=program)
    demo.wait_for(word)
    demo.process.send_signal(number)
    _, err = demo.process.communicate(timeout=PATIENCE_SECONDS)
    assert demo.process.returncode == 130, err
    assert "Traceback" not in err
    demo.assert_gone()


@pytest.mark.parametrize("word", ["signing", "starting", "load"])
def test_a_killed_demo_leaves_nothing(start, word: str) -> None:
    demo = start("--seconds", LONG, "--transport", "plain")
    demo.wait_for(word)
    demo.process.kill()
    demo.process.communicate(timeout=PATIENCE_SECONDS)
    demo.assert_gone()


def test_what_is_left_behind_would_be_found(start, tmp_path: Path) -> None:
    demo = start("--seconds", LONG, "--transport", "plain")
    demo.wait_for("load")
    assert len(demo.family) >= 5
    assert len(demo.remains()) > len(demo.family)
