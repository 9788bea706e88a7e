"""Replica processes of a test network that never outlive their parent, and leave no folder behind.

Three layers, each for a harder death of the parent: a normal exit or Ctrl-C stops the replicas (SIGTERM) and removes
the folder. When the parent is killed, the replicas see their standard input close (``--exit-with-parent``) and end; and
the janitor, a process in a session of its own, sees the last holder of its pipe disappear and removes the folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from smartbft.errors import NotEnoughReplies
from smartbft.testnet import Testnet

READY_SECONDS = 30.0
STOP_SECONDS = 15.0
READY = b"ready"


@dataclass
class Workspace:
    """A temporary folder and the write end of its janitor's pipe.

    Attributes:
        folder: the folder.
        lifeline: file descriptor that the replicas inherit: while anybody holds it, the janitor waits.
    """

    folder: Path
    lifeline: int


@contextmanager
def workspace(*, keep: bool = False, prefix: str = "smartbft-") -> Iterator[Workspace]:
    """A temporary folder that disappears with the block, or with this process and all replicas it started.

    Args:
        keep: leave the folder where it is.
    """
    folder = Path(tempfile.mkdtemp(prefix=prefix))
    reader, writer = os.pipe()
    janitor: subprocess.Popen[bytes] | None = None
    try:
        if not keep:
            command = [sys.executable, "-m", "smartbft.measurement.janitor", str(folder)]
            # In a session of its own, so that a Ctrl-C at the terminal does not reach it.
            janitor = subprocess.Popen(command, stdin=reader, start_new_session=True, close_fds=True)  # noqa: S603
        yield Workspace(folder, writer)
    finally:
        os.close(reader)
        os.close(writer)
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
        if janitor is not None:
            _wait_for_janitor(janitor)


def _wait_for_janitor(janitor: subprocess.Popen[bytes]) -> None:
    try:
        janitor.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        janitor.kill()
        janitor.wait()


@dataclass
class ReplicaProcess:
    """A running ``smartbft start``."""

    replica: int
    process: asyncio.subprocess.Process
    log_path: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def problem(self) -> str:
        """The last line of its log: why it ended."""
        lines = self.log_path.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else f"exit code {self.process.returncode}, no message"


@dataclass
class ProcessCluster:
    """The replica processes of a test network.

    Attributes:
        network: its genesis, homes and client profile.
        replicas: running or ended.
        exit_codes: of the replicas, once stopped.
    """

    network: Testnet
    replicas: list[ReplicaProcess] = field(default_factory=list)
    exit_codes: dict[int, int] = field(default_factory=dict)

    async def start(self, lifeline: int | None = None) -> None:
        """Start all replicas and wait until every one is ready.

        Raises:
            NotEnoughReplies: one did not become ready; says why.
        """
        for config in self.network.replicas:
            self.replicas.append(await self._spawn(config.replica, config.home, lifeline))
        await asyncio.gather(*(self._wait_until_ready(replica) for replica in self.replicas))

    async def stop(self) -> dict[int, int]:
        """Stop what still runs: SIGTERM, then SIGKILL for whoever does not exit in time. Returns exit codes."""
        for replica in self.replicas:
            with contextlib.suppress(ProcessLookupError):
                if replica.process.returncode is None:
                    replica.process.send_signal(signal.SIGTERM)
        await asyncio.gather(*(self._reap(replica) for replica in self.replicas))
        return self.exit_codes

    async def _spawn(self, replica: int, home: Path, lifeline: int | None) -> ReplicaProcess:
        log_path = home / "run" / "replica.log"
        with log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "smartbft",
                "start",
                "--home",
                str(home),
                "--exit-with-parent",
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                pass_fds=() if lifeline is None else (lifeline,),
            )
        return ReplicaProcess(replica, process, log_path)

    async def _wait_until_ready(self, replica: ReplicaProcess) -> None:
        stdout = replica.process.stdout
        try:
            async with asyncio.timeout(READY_SECONDS):
                line = await stdout.readline() if stdout is not None else b""
        except TimeoutError:
            line = b""
        if READY not in line:
            raise NotEnoughReplies(f"replica {replica.replica} did not become ready: {replica.problem()}")

    async def _reap(self, replica: ReplicaProcess) -> None:
        process = replica.process
        try:
            async with asyncio.timeout(STOP_SECONDS):
                code = await process.wait()
        except TimeoutError:
            process.kill()
            code = await process.wait()
        if process.stdin is not None:
            process.stdin.close()
        self.exit_codes[replica.replica] = code


@asynccontextmanager
async def running(cluster: ProcessCluster, lifeline: int | None = None) -> AsyncIterator[ProcessCluster]:
    """The replicas of `cluster`, running inside the block, stopped after it whatever happens."""
    try:
        await cluster.start(lifeline)
        yield cluster
    finally:
        await asyncio.shield(asyncio.ensure_future(cluster.stop()))
