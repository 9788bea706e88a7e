"""Replica processes of a test network that never outlive their parent, and leave no folder behind.

Three layers, each for a harder death of the parent: a normal exit or Ctrl-C stops the replicas (SIGTERM) and removes
the folder. When the parent is killed, the replicas see their standard input close (``--exit-with-parent``) and end; and
the janitor, a process in a session of its own, sees the last holder of its pipe disappear and removes the folder.
A frozen replica sees nothing, so the janitor is told of it through the same pipe, and thaws it when the parent is gone.
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

from smartbft.config import ReplicaConfig
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
            command = [sys.executable, "-m", "smartbft.measurement.janitor", str(folder), str(os.getpid())]
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
    _lifeline: int | None = None

    async def start(self, lifeline: int | None = None) -> None:
        """Start all replicas and wait until every one is ready.

        Raises:
            NotEnoughReplies: one did not become ready; says why.
        """
        self._lifeline = lifeline
        for config in self.network.replicas:
            self.replicas.append(await self._spawn(config))
        await asyncio.gather(*(self._wait_until_ready(replica) for replica in self.replicas))

    async def stop(self) -> dict[int, int]:
        """Stop what still runs: SIGTERM, then SIGKILL for whoever does not exit in time. Returns exit codes."""
        for replica in self.replicas:
            _signal(replica, signal.SIGCONT)
            _signal(replica, signal.SIGTERM)
        await asyncio.gather(*(self._reap(replica) for replica in self.replicas))
        return self.exit_codes

    def process(self, replica: int) -> ReplicaProcess:
        """The newest process of a replica."""
        return next(running for running in self.replicas if running.replica == replica)

    async def kill(self, replica: int) -> None:
        """SIGKILL, and wait for the end."""
        process = self.process(replica).process
        if process.returncode is None:
            process.kill()
        await process.wait()

    async def end(self, replica: int) -> int:
        """SIGTERM, and wait for the end; returns the exit code."""
        running = self.process(replica)
        _signal(running, signal.SIGTERM)
        await self._reap(running)
        return self.exit_codes[replica]

    def freeze(self, replica: int) -> None:
        """SIGSTOP: it neither runs nor notices anything until it is thawed."""
        running = self.process(replica)
        if self._lifeline is not None:
            os.write(self._lifeline, b"%d\n" % running.pid)
        _signal(running, signal.SIGSTOP)

    def thaw(self, replica: int) -> None:
        """SIGCONT."""
        _signal(self.process(replica), signal.SIGCONT)

    async def restart(self, replica: int) -> None:
        """Start a replica whose process has ended; returns when it is ready.

        Raises:
            NotEnoughReplies: it did not become ready; says why.
        """
        before = self.process(replica)
        await before.process.wait()
        if before.process.stdin is not None:
            before.process.stdin.close()
        (config,) = (config for config in self.network.replicas if config.replica == replica)
        self.replicas[self.replicas.index(before)] = running = await self._spawn(config)
        self.exit_codes.pop(replica, None)
        await self._wait_until_ready(running)

    def wipe(self, replica: int) -> None:
        """Remove the data folder of a replica whose process has ended; its keys stay."""
        (config,) = (config for config in self.network.replicas if config.replica == replica)
        shutil.rmtree(config.data_folder)
        config.data_folder.mkdir()

    def command(self, config: ReplicaConfig) -> list[str]:
        """What runs a replica."""
        return [sys.executable, "-m", "smartbft", "start", "--home", str(config.home), "--exit-with-parent"]

    async def _spawn(self, config: ReplicaConfig) -> ReplicaProcess:
        home, lifeline = config.home, self._lifeline
        log_path = home / "run" / "replica.log"
        with log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *self.command(config),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                pass_fds=() if lifeline is None else (lifeline,),
            )
        return ReplicaProcess(config.replica, process, log_path)

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


def _signal(replica: ReplicaProcess, number: signal.Signals) -> None:
    """To a process that has not ended."""
    if replica.process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            replica.process.send_signal(number)


@asynccontextmanager
async def running(cluster: ProcessCluster, lifeline: int | None = None) -> AsyncIterator[ProcessCluster]:
    """The replicas of `cluster`, running inside the block, stopped after it whatever happens."""
    try:
        await cluster.start(lifeline)
        yield cluster
    finally:
        await asyncio.shield(asyncio.ensure_future(cluster.stop()))
