"""`Replica`: one replica inside somebody's asyncio program."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from pathlib import Path
from types import TracebackType
from typing import Any

from smartbft.config import Genesis, ReplicaConfig
from smartbft.errors import LocalProtocolError, SmartBFTError
from smartbft.forks import check_process
from smartbft.runtime.application_names import check_named
from smartbft.runtime.assembly import RunningReplica
from smartbft.runtime.network import Secrets, check_loopback, load_secrets
from smartbft.smr.application import BatchStateMachine, StateMachine
from smartbft.smr.per_operation import as_batch

logger = logging.getLogger(__name__)


class Replica:
    """A replica of a replicated application.

    Runs on the loop it is started on; installs no signal handler and configures no logging. An error that ends the
    replica (`DurabilityLost`: the disk failed; `InvariantViolation`: a bug) cancels the body of the ``async with`` and
    comes out of it, and out of `wait`.

    Args:
        home: the replica's home folder, or its configuration.
        application: what is replicated, in its initial state: a `StateMachine` or a `BatchStateMachine`.
        genesis: instead of the file in the home folder.
        secrets: instead of the files in the home folder.
        sockets: listeners that are bound already, for replicas and for clients; the replica closes them.
        force_plain: allow plain TCP on other addresses than loopback.

    Raises:
        ConfigError: a file is wrong, or the genesis names another application.

    Example:
        >>> async def serve(home: str, application: StateMachine) -> None:
        ...     async with Replica(home, application) as replica:
        ...         await replica.ready()
        ...         await replica.wait()
    """

    def __init__(
        self,
        home: Path | str | ReplicaConfig,
        application: StateMachine | BatchStateMachine,
        *,
        genesis: Genesis | None = None,
        secrets: Secrets | None = None,
        sockets: tuple[socket.socket, socket.socket] | None = None,
        force_plain: bool = False,
    ) -> None:
        self.config = home if isinstance(home, ReplicaConfig) else ReplicaConfig.load(home)
        self.genesis = genesis or Genesis.load(self.config.genesis_path)
        self.id = self.config.replica
        self.application = as_batch(application)
        file = None if genesis is not None else str(self.config.genesis_path)
        check_named(self.application, self.genesis.application, file)
        self._sockets = sockets
        self._secrets = secrets or load_secrets(self.config, self.genesis)
        if self.config.transport == "plain" and not force_plain:
            check_loopback(self.config, self.genesis)
        self._process = 0  # that started it
        self._parts: RunningReplica | None = None
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False
        self._closed = False
        self._fatal: BaseException | None = None
        self._ended: asyncio.Future[None] | None = None

    # --- life ---

    async def __aenter__(self) -> Replica:
        self._task = asyncio.current_task()
        try:
            await self.start()
        except BaseException as error:
            self._end_block(error)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            await self.aclose()
        finally:
            self._end_block(error)

    def _end_block(self, error: BaseException | None) -> None:
        """The block ends with `error`. Raises what ended the replica, if that is why."""
        task, self._task = self._task, None
        if self._cancelled and task is not None and isinstance(error, asyncio.CancelledError):
            task.uncancel()
        if self._fatal is not None and (error is None or self._cancelled):
            raise self._fatal from None

    async def start(self) -> None:
        """Read the log, start the threads, listen and dial. Called by ``async with``.

        Raises:
            ConfigError: an address or a key cannot be used.
            StorageError: the data folder is in use, or another replica's; `CorruptLog`: the log is damaged.
        """
        if self._ended is not None:
            raise LocalProtocolError("a Replica is started once; make a new one to start again")
        self._ended = asyncio.get_running_loop().create_future()
        self._process = os.getpid()
        try:
            parts = RunningReplica(self.config, self.genesis, self.application, self._secrets, self.fail)
            self._parts = parts
            await parts.start(self._sockets)
            if self._fatal is not None:
                await asyncio.sleep(0)  # our cancellation arrives here, and not while we close
                raise self._fatal
        except BaseException:
            await self.aclose()
            raise

    async def ready(self) -> None:
        """Returns when the replica listens and has re-executed what its log held.

        Raises:
            SmartBFTError: the replica failed.
        """
        await self._until(self._running().recovered)

    async def wait(self) -> None:
        """Returns when the replica was closed.

        Raises:
            SmartBFTError: the error that ended the replica.
        """
        ended = self._ended
        if ended is None:
            raise LocalProtocolError("the replica was not started")
        await asyncio.shield(ended)

    async def aclose(self) -> None:
        """Stop: close the connections, write and sync what is queued, release the data folder. Idempotent.

        In a forked child there is nothing to stop: the replica is its parent's.
        """
        if self._closed or self._process not in (0, os.getpid()):
            return
        self._closed = True
        if self._parts is not None:
            try:
                await self._parts.close()
            except SmartBFTError as error:
                self._fatal = self._fatal or error
        for listener in self._sockets or ():
            listener.close()
        if self._ended is not None and not self._ended.done():
            self._settle_end()

    async def status(self, *, digest: bool = False) -> dict[str, Any]:
        """The same as `AsyncClient.status` tells: where the replica stands and what its parts count.

        Args:
            digest: include the application's state digest, with the instance it was taken after.
        """
        return await self._running().status(digest)

    def _running(self) -> RunningReplica:
        if self._parts is None or self._closed:
            raise LocalProtocolError("the replica does not run: 'async with Replica(...)' starts it")
        check_process(self._process, "this replica")
        return self._parts

    async def _until(self, event: asyncio.Event) -> None:
        """Wait for an event of the running replica, or for its end."""
        arrived = asyncio.ensure_future(event.wait())
        ended = asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait((arrived, ended), return_when=asyncio.FIRST_COMPLETED)
            if ended.done():
                await ended
                raise LocalProtocolError("the replica was closed")
        finally:
            for future in (arrived, ended):
                future.cancel()
            await asyncio.gather(arrived, ended, return_exceptions=True)

    def fail(self, error: BaseException) -> None:
        """Something happened after which this replica must not go on."""
        if self._fatal is not None or self._closed:
            return
        self._fatal = error
        logger.critical("replica %d stops: %s: %s", self.id, type(error).__name__, error, exc_info=error)
        if self._parts is not None:
            self._parts.halt()
        self._settle_end()
        if self._task is not None:
            self._cancelled = True
            self._task.cancel()

    def _settle_end(self) -> None:
        ended = self._ended
        if ended is None or ended.done():
            return
        if self._fatal is None:
            ended.set_result(None)
        else:
            ended.set_exception(self._fatal)
            ended.exception()  # whoever waits sees it; nobody has to
