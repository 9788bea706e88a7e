"""Carries out what the core asks about snapshots: capture and write in the background, serve, store, install, forget.

Everything that touches the disk runs on one thread of its own, in order; what is sent to peers is held to a rate, so
that a replica that catches up does not slow down the others.
"""

from __future__ import annotations

import asyncio
import errno
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol

from smartbft._fastpath.frames import MESSAGE, frame
from smartbft.core.effects import (
    BeginTransfer,
    FinishTransfer,
    ForgetDecisions,
    InstallSnapshot,
    ServeSnapshot,
    StoreChunk,
    TakeSnapshot,
)
from smartbft.core.inputs import Input, SnapshotLoaded, SnapshotLost, SnapshotSkipped, SnapshotTaken
from smartbft.errors import ApplicationFailed, CorruptSnapshot, DurabilityLost, LocalProtocolError, StorageError
from smartbft.limits import MAX_TRANSFER_QUEUE, TRANSFER_BYTES_PER_SECOND
from smartbft.messages import SnapshotChunk, SnapshotManifest, decode_proof, encode
from smartbft.runtime.rehearsals import RehearsalStage
from smartbft.smr.application import BatchStateMachine
from smartbft.storage import SnapshotStore, Trials

logger = logging.getLogger(__name__)

# No space, no quota, or no file of that size: there may be room again later.
_NO_ROOM = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))


class Application(Protocol):
    """The executor, as far as snapshots need it."""

    def ask(self, question: Callable[[BatchStateMachine, int], Any], done: Callable[[Any], None]) -> None:
        """Call `question` between two batches, and `done` with the answer on the loop."""

    def try_out(
        self,
        question: Callable[[BatchStateMachine, int], Any],
        done: Callable[[Any], None],
        again: Callable[[Any], bool] | None = None,
    ) -> None:
        """As `ask`, for a question that may never be answered."""

    def give_up(self) -> None:
        """Nobody waits for the answers to such questions any more."""

    def restore(self, state: bytes, instance: int) -> None:
        """Replace the application's state, in turn with the batches."""


class Channels(Protocol):
    """The channels to the other replicas."""

    def send(self, to: int, frame: bytes) -> None:
        """Send to one; lost if the channel is down."""

    async def writable(self, peer: int) -> bool:
        """Wait until `peer` has taken what we wrote; False if it is not connected any more."""


class SnapshotKeeper:
    """The snapshots of one running replica.

    Args:
        store: where they are.
        view: number of the view in force.
        regency: tells the current regency.
        application: the executor.
        peers: the channels.
        forget: drops what the log holds of instances before the given one (`ReplicaLog.forget`); blocks.
        take: feeds an input to the core.
        installed: called when the application's state is about to be replaced.
        failed: called with an error that ends the replica.
        trials: remembers whose snapshot is rehearsed; None: nobody does.
    """

    def __init__(
        self,
        store: SnapshotStore,
        *,
        view: int,
        regency: Callable[[], int],
        application: Application,
        peers: Channels,
        forget: Callable[[int], int],
        take: Callable[[Input], None],
        installed: Callable[[], None],
        failed: Callable[[BaseException], None],
        trials: Trials | None = None,
    ) -> None:
        self._store = store
        self._view = view
        self._regency = regency
        self._application = application
        self._peers = peers
        self._forget_log = forget
        self._take_input = take
        self._installed = installed
        self._failed = failed
        self._loop = asyncio.get_running_loop()
        self._writer = ThreadPoolExecutor(1, "snapshot")
        self._reader = ThreadPoolExecutor(1, "snapshot")
        self._queues: dict[int, asyncio.Queue[ServeSnapshot]] = {}
        self._serving: list[asyncio.Task[None]] = []
        self._turn = asyncio.Lock()
        self._closed = False
        self._rehearsals = RehearsalStage(
            store, application, take=take, on_writer=lambda job: self._on_writer(_arriving(job)), trials=trials
        )
        self._broken = False  # a write failed: what follows it must not be taken for whole

    def actions(self) -> dict[type[Any], Callable[[Any], None]]:
        """Who carries out which effect."""
        return {
            TakeSnapshot: self._take,
            ForgetDecisions: self._forget,
            ServeSnapshot: self._serve,
            BeginTransfer: self._begin,
            StoreChunk: self._put,
            FinishTransfer: self._finish,
            InstallSnapshot: self._install,
            **self._rehearsals.actions(),
        }

    async def close(self) -> None:
        """Finish what is being written, drop the rest."""
        self._closed = True
        for task in self._serving:
            task.cancel()
        await asyncio.gather(*self._serving, return_exceptions=True)
        for threads in (self._reader, self._writer):
            await asyncio.to_thread(threads.shutdown, wait=True, cancel_futures=True)

    # Our own

    def _take(self, effect: TakeSnapshot) -> None:
        def captured(render: Callable[[], bytes]) -> None:
            self._on_writer(lambda: self._write(effect, render))

        self._application.ask(lambda application, _: application.capture(), captured)

    def _write(self, effect: TakeSnapshot, render: Callable[[], bytes]) -> Input:
        try:
            snapshot = effect.snapshot(_rendered(render, effect.instance))
        except LocalProtocolError as error:
            logger.info("no snapshot after instance %d: %s", effect.instance, error)
            return SnapshotSkipped(effect.instance)
        try:
            manifest = self._store.write(snapshot, effect.proof, effect.keep)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            logger.warning("no room for the snapshot after instance %d: %s", effect.instance, error)
            return SnapshotSkipped(effect.instance)
        return SnapshotTaken(manifest.instance, manifest.size, manifest.digest)

    def _forget(self, effect: ForgetDecisions) -> None:
        def forget() -> None:
            try:
                dropped = self._forget_log(effect.before)
                logger.debug("%d segments before instance %d dropped from the log", dropped, effect.before)
            except DurabilityLost:
                raise
            except StorageError as error:
                logger.warning("the log before instance %d cannot be dropped now: %s", effect.before, error)

        self._on_writer(forget)

    # One that arrives

    def _begin(self, effect: BeginTransfer) -> None:
        self._on_writer(_arriving(lambda: self._store.begin_transfer(effect.manifest)))

    def _put(self, effect: StoreChunk) -> None:
        self._on_writer(_arriving(lambda: self._store.put_chunk(effect.index, effect.data)))

    def _finish(self, effect: FinishTransfer) -> None:
        def finish() -> Input:
            try:
                return SnapshotLoaded(*self._store.finish_transfer(keep=effect.keep))
            except CorruptSnapshot as error:
                logger.warning("the snapshot that arrived is of no use, and is asked for again: %s", error)
                return SnapshotLost()

        self._on_writer(_arriving(finish))

    def _install(self, effect: InstallSnapshot) -> None:
        logger.info("the state is that of a snapshot after instance %d", effect.instance)
        self._installed()
        self._application.restore(effect.state, effect.instance)

    # The writer's thread

    def _on_writer(self, job: Callable[[], Input | None]) -> None:
        """Run a job after those before it, unless one of them failed; an input that it returns goes to the core."""

        def run() -> Input | None:
            if self._broken or self._closed:
                return None
            try:
                return job()
            except BaseException:
                self._broken = True
                raise

        if not self._closed:
            future = self._loop.run_in_executor(self._writer, run)
            future.add_done_callback(self._written)

    def _written(self, future: asyncio.Future[Input | None]) -> None:
        error = None if future.cancelled() else future.exception()
        if future.cancelled() or self._closed:
            return
        if error is None:
            event = future.result()
            if event is not None:
                self._take_input(event)
        elif isinstance(error, OSError):
            self._failed(DurabilityLost(f"a snapshot could not be written: {error}: is the disk failing?"))
        else:
            self._failed(error)

    # Serving

    def _serve(self, effect: ServeSnapshot) -> None:
        """Queue what a peer asks for; what does not fit is asked for again."""
        if self._closed:
            return
        queue = self._queues.get(effect.to)
        if queue is None:
            queue = self._queues[effect.to] = asyncio.Queue(MAX_TRANSFER_QUEUE)
            self._serving.append(self._loop.create_task(self._run(effect.to, queue)))
        if not queue.full():
            queue.put_nowait(effect)

    async def _run(self, peer: int, queue: asyncio.Queue[ServeSnapshot]) -> None:
        """Serve one peer: another that asks and does not read must not hold it up. All of them share the rate."""
        try:
            while True:
                effect = await queue.get()
                if await self._peers.writable(peer):
                    async with self._turn:
                        payload = await self._loop.run_in_executor(self._reader, self._load, effect)
                        if payload is not None:
                            self._peers.send(peer, payload)
                            await asyncio.sleep(len(payload) / TRANSFER_BYTES_PER_SECOND)
        except Exception as error:
            logger.exception("snapshots cannot be served")
            self._failed(error)

    def _load(self, effect: ServeSnapshot) -> bytes | None:
        """The MESSAGE frame that answers; None if the snapshot is not here any more."""
        manifest = self._store.manifest(effect.instance, effect.digest)
        if manifest is None:
            return None
        regency = self._regency()
        if effect.chunk < 0:
            return frame(
                MESSAGE,
                encode(
                    SnapshotManifest(
                        self._view,
                        regency,
                        manifest.instance,
                        manifest.size,
                        manifest.digest,
                        manifest.hashes,
                        decode_proof(manifest.proof),
                    )
                ),
            )
        data = self._store.chunk(effect.instance, effect.digest, effect.chunk)
        if data is None:
            return None
        chunk = SnapshotChunk(self._view, regency, effect.instance, effect.digest, effect.chunk, data)
        return frame(MESSAGE, encode(chunk))


def _rendered(render: Callable[[], bytes], instance: int) -> bytes:
    """The application's state, captured after an instance. Raises ApplicationFailed: it cannot be written down."""
    try:
        state = render()
    except BaseException as error:
        raise ApplicationFailed(
            f"the application failed at writing down its state after instance {instance}: {error!r}: correct it on all "
            "replicas, and start this one again"
        ) from error
    if not isinstance(state, bytes):
        raise ApplicationFailed(
            f"the application's snapshot after instance {instance} is {type(state).__name__}, not bytes: correct it on "
            "all replicas, and start this one again"
        )
    return state


def _arriving(job: Callable[[], Input | None]) -> Callable[[], Input | None]:
    """A job that stores what arrives: without room for it the replica cannot go on, but loses nothing by waiting.

    Unlike a snapshot of its own, which may be left out, it has no other way to the decisions that are gone.
    """

    def run() -> Input | None:
        try:
            return job()
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise DurabilityLost(
                f"no room for the snapshot that arrives: {error}; make room for the state and start the replica again: "
                "the transfer goes on with what is there"
            ) from error

    return run
