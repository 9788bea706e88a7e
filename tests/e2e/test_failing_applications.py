"""Applications with mistakes, on real processes: each ends or reports in its own way, and says what to do."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from kit.patience import PATIENCE_SECONDS
from kit.processes import run

from smartbft import AsyncClient, Indeterminate, NotEnoughReplies
from smartbft.testnet import Testnet, create_testnet
from smartbft.types import Parameters

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

QUICK = Parameters(request_timeout=400_000, resend_interval=50_000, progress_interval=100_000, checkpoint_interval=2)
POISON = """
import sys
from smartbft import StateMachine


class Application(StateMachine):
    def __init__(self):
        self.executed = []

    def execute(self, operation, context):
        if operation == b"poison":
            {mistake}
        self.executed.append(operation)
        return b" ".join(self.executed)

    def snapshot(self):
        return b" ".join(self.executed)

    def restore(self, snapshot):
        self.executed = snapshot.split()
"""
PERSONAL = """
import os
from smartbft.apps.counter import Counter


class Application(Counter):
    def snapshot(self):
        return super().snapshot() + str(os.getpid()).encode()
"""


class Processes:
    """Four replicas of an application of one's own, started in the folder that has its code."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.network: Testnet = create_testnet(
            folder / "net", 4, application="own:Application", transport="plain", parameters=QUICK
        )
        self.running: list[subprocess.Popen[str]] = []

    def write(self, code: str) -> None:
        (self.folder / "own.py").write_text(code)

    def start(self) -> None:
        self.running = [
            subprocess.Popen(
                [sys.executable, "-B", "-m", "smartbft", "start", "--home", str(home)],
                cwd=self.folder,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                text=True,
            )
            for home in self.network.homes
        ]

    def wait(self) -> list[tuple[int, list[str]]]:
        """Exit code and last words of each."""
        said = [process.communicate(timeout=PATIENCE_SECONDS)[1] for process in self.running]
        return [(process.returncode, words.splitlines()) for process, words in zip(self.running, said, strict=True)]

    def kill(self) -> None:
        for process in self.running:
            if process.returncode is None:
                process.kill()
                process.communicate()

    def invoke(self, *operations: bytes) -> list[bytes]:
        async def scenario() -> list[bytes]:
            client = AsyncClient.from_profile(self.network.profile)
            try:
                await client.connect(PATIENCE_SECONDS)
                return [await client.invoke(operation, PATIENCE_SECONDS) for operation in operations]
            finally:
                await client.aclose()

        return run(scenario)

    def send(self, operation: bytes) -> None:
        """Nobody waits for the answer."""

        async def scenario() -> None:
            client = AsyncClient.from_profile(self.network.profile)
            await client.connect(PATIENCE_SECONDS)
            try:
                await client.invoke(operation, 2.0)
            except (Indeterminate, NotEnoughReplies):
                return
            finally:
                await client.aclose()

        run(scenario)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    made = Processes(tmp_path)
    yield made
    made.kill()


@pytest.mark.parametrize("mistake", ["raise KeyError('a bug')", "sys.exit(0)", "return None"])
def test_an_operation_that_no_replica_survives(processes: Processes, mistake: str) -> None:
    """Each ends with a code of its own and says what to do; corrected code on all of them goes on where they were."""
    processes.write(POISON.format(mistake=mistake))
    processes.start()
    processes.invoke(b"one", b"two", b"three")
    processes.send(b"poison")
    for code, words in processes.wait():
        assert code == 10, words[-20:]
        assert words[-1].startswith("error: the application failed at request 0 of instance")
        assert "operation 0x706f69736f6e (6 bytes)" in words[-1]
        assert "install corrected code on all of them" in words[-1]
    processes.start()
    assert [code for code, _ in processes.wait()] == [10] * 4, "it is decided: the same code meets it again"
    processes.write(POISON.format(mistake="operation = b'healed'"))
    processes.start()
    (result,) = processes.invoke(b"four")
    assert result == b"\0one two three healed four"


def test_states_that_differ_on_all_replicas_fail_the_status(processes: Processes) -> None:
    processes.write(PERSONAL)
    processes.start()
    command = [sys.executable, "-m", "smartbft", "status", "--profile", str(processes.network.profile.path)]
    while True:
        processes.invoke(b"", b"", b"")
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        if done.returncode == 7:
            break
        assert done.returncode == 0, done.stderr
    assert "diverged" in {replica["state"] for replica in json.loads(done.stdout)["replicas"]}
    assert "run 'smartbft check-application'" in done.stderr
