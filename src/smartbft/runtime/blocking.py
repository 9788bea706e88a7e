"""`Client`: the blocking face of `AsyncClient`, for programs without an event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias, TypeVar

from smartbft.config import ClientProfile, Seconds, parse_seconds
from smartbft.errors import ClientError, Indeterminate, LocalProtocolError, NotEnoughReplies
from smartbft.forks import check_process
from smartbft.limits import CLIENT_CLOSE_SECONDS, CLIENT_THREAD_SECONDS
from smartbft.runtime.client import AsyncClient
from smartbft.runtime.requests import Outcome, check_operation

logger = logging.getLogger(__name__)

T = TypeVar("T")
Callback: TypeAlias = Callable[[concurrent.futures.Future[Outcome]], object]


class Client:
    """Invokes operations and waits for their results; runs an `AsyncClient` on a thread of its own.

    May be used by several threads at once. It belongs to the process that connects it: a forked child makes one of its
    own, and every call there raises `LocalProtocolError`.

    Args:
        make: makes the `AsyncClient`.

    Example:
        >>> def pay(profile: str) -> bytes:
        ...     with Client.from_profile(profile) as client:
        ...         return client.invoke(b"operation", timeout=10)
    """

    def __init__(self, make: Callable[[], AsyncClient]) -> None:
        self._make = make
        self._process = 0
        # Held for moments only, and by a signal handler's call on top of the one that it interrupts.
        self._lock = threading.RLock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._callbacks = _Callbacks()
        self._client: AsyncClient | None = None
        self._closed = False

    @classmethod
    def from_profile(cls, profile: ClientProfile | Path | str, key: str = "client") -> Client:
        """As `AsyncClient.from_profile`."""
        return cls(lambda: AsyncClient.from_profile(profile, key))

    def __enter__(self) -> Client:
        self.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def connect(self, timeout: Seconds = 5.0) -> None:
        """As `AsyncClient.connect`."""
        timeout = parse_seconds(timeout, "timeout")
        if self._closed or self._client is not None:
            self._check_caller()
            raise LocalProtocolError("a Client connects once")
        client = self._make()
        self._process = os.getpid()
        self._client = client
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=_run, args=(self._loop,), name="smartbft-client", daemon=True)
        try:
            self._thread.start()
            self._call(client.connect(timeout), timeout, NotEnoughReplies)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections and stop the thread. Idempotent. In a forked child there is nothing to close.

        Raises:
            LocalProtocolError: called by a callback of this client, which would wait for itself.
        """
        if self._closed or self._client is None or self._process != os.getpid():
            self._closed = True
            return
        self._check_caller()
        with self._lock:
            was_closed, self._closed = self._closed, True
        if not was_closed:
            self._stop(self._client)

    def invoke(self, operation: bytes, timeout: Seconds = 30.0) -> bytes:
        """As `AsyncClient.invoke`.

        Raises:
            LocalProtocolError: also in a forked child, and in a callback of this client (see `submit`).
        """
        self._check_caller()
        operation, timeout = check_operation(operation), parse_seconds(timeout, "timeout")
        return self._call(self._connected().invoke(operation, timeout), timeout, Indeterminate)

    def submit(self, operation: bytes, timeout: Seconds = 30.0) -> concurrent.futures.Future[Outcome]:
        """Start an invocation without waiting for it; many may be in flight. The future ends as `invoke` does.

        Callbacks of futures run one after the other on a thread for them. A callback may submit more, and must not
        wait: it could wait for what waits for it. So `invoke`, and the result of a future that has none yet, raise
        `LocalProtocolError` there.

        Raises:
            LocalProtocolError: `operation` or `timeout` is wrong; or the client is not connected, or closed.
        """
        operation, timeout = check_operation(operation), parse_seconds(timeout, "timeout")
        return _Invocation(self, self._schedule(self._connected().submit(operation, timeout)), timeout)

    def ask(self, unknown: Indeterminate, timeout: Seconds = 30.0) -> bytes:
        """As `AsyncClient.ask`."""
        self._check_caller()
        timeout = parse_seconds(timeout, "timeout")
        return self._call(self._connected().ask(unknown, timeout), timeout, Indeterminate)

    def status(self, replica: int, *, digest: bool = False, timeout: Seconds = 5.0) -> dict[str, Any]:
        """As `AsyncClient.status`."""
        self._check_caller()
        timeout = parse_seconds(timeout, "timeout")
        question = self._connected().status(replica, digest=digest, timeout=timeout)
        return self._call(question, timeout, NotEnoughReplies)

    # --- who may call ---

    def _check_caller(self) -> None:
        """Raises LocalProtocolError where waiting would never end."""
        if self._process:
            check_process(self._process, "this client")
        if threading.current_thread() in (self._thread, self._callbacks.thread):
            raise LocalProtocolError(
                "a callback of this client must not wait for it: use 'submit' with a callback, or another thread"
            )

    def _connected(self) -> AsyncClient:
        if self._process:
            check_process(self._process, "this client")
        if self._client is None or self._closed:
            raise LocalProtocolError("connect the client first: 'with client:' or 'client.connect()'")
        return self._client

    # --- the thread ---

    def _schedule(self, coroutine: Coroutine[Any, Any, T]) -> concurrent.futures.Future[T]:
        """Have the thread run it. Nothing begins once `close` has, so everything that began ends."""
        with self._lock:
            if self._loop is not None and not self._closed:
                return asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        coroutine.close()
        raise LocalProtocolError("the client is closed: make a new one")

    def _call(self, coroutine: Coroutine[Any, Any, T], timeout: float, late: type[ClientError]) -> T:
        """Run it to its end, and not for longer than its own timeout allows, whatever keeps the thread."""
        running = self._schedule(coroutine)
        try:
            return running.result(timeout + CLIENT_THREAD_SECONDS)
        except TimeoutError:
            if running.done():
                return running.result()
            raise late(_late(timeout) if late is NotEnoughReplies else _unknown(timeout)) from None
        finally:
            running.cancel()

    def _stop(self, client: AsyncClient) -> None:
        loop, thread = self._loop, self._thread
        if loop is None or thread is None:
            return
        if not thread.is_alive():
            loop.close()
            return
        ending = asyncio.run_coroutine_threadsafe(_close(client), loop)
        ending.add_done_callback(lambda _: loop.call_soon_threadsafe(loop.stop))
        thread.join(CLIENT_CLOSE_SECONDS)
        if thread.is_alive():  # it ends once it is free
            logger.warning("the client's thread does not end within %g seconds: it is left", CLIENT_CLOSE_SECONDS)
            return
        ending.result()
        self._callbacks.end()


class _Callbacks:
    """The thread that callbacks run on, if there are any: what they do holds up nothing else."""

    def __init__(self) -> None:
        self.thread: threading.Thread | None = None
        self._waiting: queue.SimpleQueue[tuple[Callback, concurrent.futures.Future[Outcome]] | None] = (
            queue.SimpleQueue()
        )

    def run(self, callback: Callback, future: concurrent.futures.Future[Outcome]) -> None:
        """Run it when those before it are done; called on the client's thread only."""
        if self.thread is None:
            self.thread = threading.Thread(target=self._run, name="smartbft-client-callbacks", daemon=True)
            self.thread.start()
        self._waiting.put((callback, future))

    def end(self) -> None:
        """Wait for the callbacks that are left, if they do not take too long."""
        if self.thread is None:
            return
        self._waiting.put(None)
        self.thread.join(CLIENT_CLOSE_SECONDS)
        if self.thread.is_alive():
            logger.warning("a callback takes longer than %g seconds: its thread is left", CLIENT_CLOSE_SECONDS)

    def _run(self) -> None:
        while (waiting := self._waiting.get()) is not None:
            callback, future = waiting
            try:
                callback(future)
            except BaseException:  # also SystemExit: the next callback is somebody else's
                logger.exception("a callback of an invocation failed")
            del waiting, callback, future  # nothing is kept alive until the next one


class _Invocation(concurrent.futures.Future[Outcome]):
    """The outcome of an invocation: there in time, whatever keeps the client's thread."""

    def __init__(self, client: Client, running: concurrent.futures.Future[Outcome], timeout: float) -> None:
        super().__init__()
        self._owner = client
        self._running = running
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout + CLIENT_THREAD_SECONDS
        running.add_done_callback(self._take)

    def add_done_callback(self, fn: Callback) -> None:
        """As in `concurrent.futures`; it runs on the thread for callbacks, or here if the outcome is known."""
        super().add_done_callback(lambda future: self._hand_over(fn, future))

    def cancel(self) -> bool:
        """Nobody waits any more; the operation may be executed all the same."""
        cancelled = super().cancel()
        if cancelled:
            self._running.cancel()
        return cancelled

    def result(self, timeout: float | None = None) -> Outcome:
        """The outcome, within `timeout` seconds."""
        error = self.exception(timeout)
        try:
            if error is not None:
                raise error
            return super().result(0)
        finally:
            del error  # it refers to this frame, through its traceback

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """What `result` raises, if anything, within `timeout` seconds."""
        if not self.done():
            self._owner._check_caller()
        left = max(0.0, self._deadline - time.monotonic())
        try:
            return super().exception(left if timeout is None else min(timeout, left))
        except TimeoutError:
            if timeout is not None and timeout < left:
                raise
        self._settle(lambda: self.set_exception(Indeterminate(_unknown(self._timeout))))
        self._running.cancel()
        return super().exception(0)

    def _hand_over(self, callback: Callback, future: concurrent.futures.Future[Outcome]) -> None:
        if threading.current_thread() is self._owner._thread:
            self._owner._callbacks.run(callback, future)
        else:
            callback(future)

    def _take(self, running: concurrent.futures.Future[Outcome]) -> None:
        """The client's thread has the outcome."""
        if running.cancelled():
            if super().cancel():
                self.set_running_or_notify_cancel()
            return
        error = running.exception()
        if error is not None:
            self._settle(lambda: self.set_exception(error))
        else:
            self._settle(lambda: self.set_result(running.result()))

    def _settle(self, settle: Callable[[], None]) -> None:
        """The first of the thread, the deadline and a cancellation decides."""
        with contextlib.suppress(concurrent.futures.InvalidStateError):
            settle()


def _run(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()


def _late(timeout: float) -> str:
    return (
        f"the client's thread said nothing within {timeout:g} seconds and {CLIENT_THREAD_SECONDS:g} more: something "
        "keeps it, perhaps a handler of log messages, or a signer that waits"
    )


def _unknown(timeout: float) -> str:
    return f"{_late(timeout)}; the operation may or may not be executed"


async def _close(client: AsyncClient) -> None:
    """Other threads' calls that are in flight end with the client: nobody must wait for a loop that stands still."""
    await client.aclose()
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)
