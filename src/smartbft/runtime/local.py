"""A whole cluster in one process, on one event loop, over loopback sockets: for tests and notebooks. Nothing forks."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
import time
import weakref
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from smartbft.config import PERSISTENCE_MODES, TRANSPORTS, Address, Genesis, GenesisMember, ReplicaConfig
from smartbft.config.replica import Persistence, SignatureCheck, Transport
from smartbft.crypto.certificates import fingerprint, make_certificate
from smartbft.crypto.signatures import Ed25519Signer, Signer
from smartbft.errors import ApplicationFailed, LocalProtocolError, StateDiverged
from smartbft.forks import check_process, keep_from_children
from smartbft.limits import DEFAULT_SEGMENT_BYTES, MAX_MEMBERS
from smartbft.runtime.client import AsyncClient
from smartbft.runtime.network import Secrets
from smartbft.runtime.node import Replica
from smartbft.smr.application import BatchStateMachine, StateMachine
from smartbft.smr.per_operation import as_batch
from smartbft.storage import mark_never_started
from smartbft.types import Parameters

_HOST = "127.0.0.1"
# How long the body of an `async with` has for the errors of its own calls, before it is cancelled.
_LAST_WORDS_SECONDS = 0.1


class LocalCluster:
    """`n` replicas and their clients in this process.

    Once the application has failed or diverged on more than `f` replicas, nothing can be ordered any more: pending and
    later calls of its clients raise the application's error, the body of the ``async with`` is cancelled, and the error
    comes out of it. Replicas that fail for other reasons, as a lost disk, are the body's business.

    Args:
        n: how many replicas.
        application: makes the application of one replica, in its initial state.
        persistence: ``memory``, ``async`` or ``sync``; with the latter two a stopped replica finds its log again.
        transport: ``plain`` (the cluster never leaves this process) or ``tls``.
        signature_check: ``parallel``, or ``sequential`` for applications that check signatures themselves.
        folder: where homes and logs are kept; None for a temporary folder, removed at the end.
        parameters: protocol parameters; the defaults are those of a genesis.
        segment_bytes: size of a log segment.
        record_votes: log votes before they leave. False is unsafe across restarts, and for comparison only.

    Raises:
        LocalProtocolError: an argument is wrong.
        ConfigError: one of `parameters` is out of bounds.

    Example:
        >>> from smartbft.apps.counter import Counter, add
        >>> async def main() -> None:
        ...     async with LocalCluster(4, Counter) as cluster, cluster.client() as client:
        ...         await client.invoke(add(1))
    """

    def __init__(
        self,
        n: int,
        application: Callable[[], StateMachine | BatchStateMachine],
        persistence: Persistence = "memory",
        *,
        transport: Transport = "plain",
        signature_check: SignatureCheck = "parallel",
        folder: Path | str | None = None,
        parameters: Parameters | None = None,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
        record_votes: bool = True,
    ) -> None:
        _check_arguments(n, application, persistence, transport)
        self.persistence = persistence
        self.transport = transport
        self._application = application
        self.folder = Path(tempfile.mkdtemp(prefix="smartbft-") if folder is None else folder)
        self._remove = weakref.finalize(self, _remove_folder, self.folder, os.getpid()) if folder is None else None
        self._segment_bytes = segment_bytes
        self._signature_check: SignatureCheck = signature_check
        self._record_votes = record_votes
        self._sockets = [(_bind(), _bind()) for _ in range(n)]
        self._process = os.getpid()
        self._releases = [keep_from_children(listener.fileno()) for pair in self._sockets for listener in pair]
        self.replicas: dict[int, Replica] = {}
        self._started: set[int] = set()
        self._closed = False
        self._clients: weakref.WeakSet[AsyncClient] = weakref.WeakSet()
        self._watchers: dict[int, asyncio.Task[None]] = {}
        self._failures: dict[int, BaseException] = {}  # by replica, of those that were not stopped since
        self._fatal: BaseException | None = None
        self._task: asyncio.Task[Any] | None = None  # in the body of the `async with`
        self._cancelled = False
        try:
            self._secrets = [self._make_secrets(replica) for replica in range(n)]
            members = tuple(self._member(replica) for replica in range(n))
            self.genesis = Genesis(
                "local", time.time_ns() // 1000, members, parameters or Parameters(), application="local_cluster"
            )
        except BaseException:
            self._release()
            raise

    # --- life ---

    async def __aenter__(self) -> LocalCluster:
        try:
            for replica in range(len(self._secrets)):
                await self.start(replica)
            for running in self.replicas.values():
                await running.ready()
            if self._fatal is not None:
                raise self._fatal
        except BaseException:
            await self.aclose()
            raise
        self._task = asyncio.current_task()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        task, self._task = self._task, None
        if self._cancelled and task is not None and isinstance(error, asyncio.CancelledError):
            task.uncancel()
        await self.aclose()
        if self._fatal is not None and (error is None or self._cancelled):
            raise self._fatal from None

    # --- replicas that fail ---

    async def _watch(self, replica: int, running: Replica) -> None:
        """Wait for the end of a replica: if it has failed, the cluster may have."""
        try:
            await running.wait()
        except (ApplicationFailed, StateDiverged) as error:
            self._failures[replica] = error
        except Exception:  # its disk, for example: it may be started again, and goes on
            return
        if self._fatal is None and len(self._failures) > self.genesis.view.f:
            failures = sorted(self._failures.values(), key=lambda error: not isinstance(error, ApplicationFailed))
            self._end(failures[0])

    def _end(self, error: BaseException) -> None:
        """Too many replicas have failed for anything to be ordered."""
        self._fatal = error
        for client in list(self._clients):
            client.failed(error)
        asyncio.get_running_loop().call_later(_LAST_WORDS_SECONDS, self._cancel)

    def _cancel(self) -> None:
        if self._task is not None:
            self._cancelled = True
            self._task.cancel()

    async def aclose(self) -> None:
        """Stop every replica. Idempotent. In a forked child there is nothing to stop."""
        if os.getpid() != self._process:
            return
        self._closed = True
        for replica in list(self.replicas):
            await self.stop(replica)
        self._release()

    def _release(self) -> None:
        """Give ports and folder back."""
        for release in self._releases:
            release()
        for pair in self._sockets:
            for listener in pair:
                listener.close()
        if self._remove is not None:
            self._remove()

    async def start(self, replica: int) -> Replica:
        """Start a replica that does not run; it finds its log again, if it has one.

        Raises:
            LocalProtocolError: it is running, there is no such replica, or the cluster is closed.
            StorageError: as `Replica.start`.
        """
        self.genesis.member(replica)
        check_process(self._process, "this cluster")
        if self._closed:
            raise LocalProtocolError("the cluster is closed: make a new one")
        if replica in self.replicas:
            raise LocalProtocolError(f"replica {replica} is running")
        home = self.folder / f"replica-{replica}"
        (home / "data").mkdir(parents=True, exist_ok=True)
        if replica not in self._started:
            self._started.add(replica)
            mark_never_started(home)
        config = ReplicaConfig(
            replica,
            home,
            persistence=self.persistence,
            transport=self.transport,
            signature_check=self._signature_check,
            record_votes=self._record_votes,
            segment_bytes=self._segment_bytes,
        )
        application = as_batch(self._application())
        # The replica gets duplicates: ours keep the ports while it is down.
        for_replicas, for_clients = self._sockets[replica]
        running = Replica(
            config,
            application,
            genesis=self.genesis,
            secrets=self._secrets[replica],
            sockets=(for_replicas.dup(), for_clients.dup()),
        )
        await running.start()
        self.replicas[replica] = running
        self._watchers[replica] = asyncio.create_task(self._watch(replica, running))
        return running

    async def stop(self, replica: int) -> None:
        """Stop a replica; its log stays.

        Raises:
            LocalProtocolError: it is not running.
        """
        if replica not in self.replicas:
            raise LocalProtocolError(f"replica {replica} is not running")
        await self.replicas.pop(replica).aclose()
        await self._watchers.pop(replica)
        self._failures.pop(replica, None)

    # --- use ---

    def client(self, signer: Signer | None = None, *, retransmit: float = 1.0) -> AsyncClient:
        """A new client of the cluster, with a key of its own unless `signer` is given.

        Args:
            signer: for a client that keeps its key: ``Ed25519Signer(seed)``, or what
                `smartbft.crypto.keys.load_signer` reads.
            retransmit: seconds until the first retransmission.

        Raises:
            SmartBFTError: more than `f` replicas have failed; this is why.
        """
        if self._fatal is not None:
            raise self._fatal
        client = AsyncClient(
            self.genesis,
            signer or Ed25519Signer(os.urandom(32)),
            transport=self.transport,
            persistence=self.persistence,
            retransmit=retransmit,
        )
        self._clients.add(client)
        return client

    # --- making it ---

    def _make_secrets(self, replica: int) -> Secrets:
        tls = None
        if self.transport == "tls":
            keys = self.folder / f"replica-{replica}" / "keys"
            keys.mkdir(parents=True, exist_ok=True)
            key, certificate = make_certificate(f"replica {replica}")
            tls = (keys / "tls.crt", keys / "tls.key")
            for path, content in zip(tls, (certificate, key), strict=True):
                path.touch(mode=0o600)
                path.write_bytes(content)
        return Secrets(Ed25519Signer(os.urandom(32)), Ed25519Signer(os.urandom(32)), tls)

    def _member(self, replica: int) -> GenesisMember:
        secrets = self._secrets[replica]
        addresses = [Address(_HOST, listener.getsockname()[1]) for listener in self._sockets[replica]]
        certificate = fingerprint(secrets.tls[0]) if secrets.tls is not None else os.urandom(32)
        keys = (secrets.permanent.public_key, secrets.consensus.public_key)
        return GenesisMember(replica, *keys, certificate, addresses[0], addresses[1])


def _check_arguments(n: int, application: object, persistence: str, transport: str) -> None:
    """Say what is wrong before any socket is bound."""
    if not isinstance(n, int) or not 1 <= n <= MAX_MEMBERS:
        raise LocalProtocolError(f"n is {n!r}: a cluster has 1 to {MAX_MEMBERS} replicas, 3 f + 1 to tolerate f faults")
    if not callable(application):
        raise LocalProtocolError(
            f"'{type(application).__name__}' makes no applications: each replica needs one of its own, so give the "
            "class, or a function without arguments that makes one"
        )
    for name, value, choices in (("persistence", persistence, PERSISTENCE_MODES), ("transport", transport, TRANSPORTS)):
        if value not in choices:
            raise LocalProtocolError(f"{name} is {value!r}: it is one of {', '.join(choices)}")


def _remove_folder(folder: Path, owner: int) -> None:
    """A forked child that ends leaves the folder to the process that made it."""
    if os.getpid() == owner:
        shutil.rmtree(folder)


def _bind() -> socket.socket:
    """A socket with a free loopback port, which stays ours."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        listener.bind((_HOST, 0))
        stack.pop_all()
        return listener
