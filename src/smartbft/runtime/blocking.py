"""`Client`: the blocking face of `AsyncClient`, for programs without an event loop."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from smartbft.config import ClientProfile
from smartbft.errors import LocalProtocolError
from smartbft.runtime.client import AsyncClient
from smartbft.runtime.requests import Outcome

T = TypeVar("T")


class Client:
    """Invokes operations and waits for their results; runs an `AsyncClient` on a thread of its own.

    May be used by several threads at once.

    Args:
        make: makes the `AsyncClient`.

    Example:
        >>> def pay(profile: str) -> bytes:
        ...     with Client.from_profile(profile) as client:
        ...         return client.invoke(b"operation", timeout=10)
    """

    def __init__(self, make: Callable[[], AsyncClient]) -> None:
        self._make = make
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="smartbft-client", daemon=True)
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

    def connect(self, timeout: float = 5.0) -> None:
        """As `AsyncClient.connect`."""
        if self._closed or self._client is not None:
            raise LocalProtocolError("a Client connects once")
        self._client = self._make()
        self._thread.start()
        try:
            self._call(self._client.connect(timeout))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close the connections and stop the thread. Idempotent."""
        if self._closed:
            return
        self._closed = True
        if self._thread.is_alive():
            if self._client is not None:
                asyncio.run_coroutine_threadsafe(_close(self._client), self._loop).result()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()

    def invoke(self, operation: bytes, timeout: float = 30.0) -> bytes:
        """As `AsyncClient.invoke`."""
        return self._call(self._connected().invoke(operation, timeout))

    def submit(self, operation: bytes, timeout: float = 30.0) -> concurrent.futures.Future[Outcome]:
        """Start an invocation without waiting for it; many may be in flight. The future ends as `invoke` does."""
        return asyncio.run_coroutine_threadsafe(self._connected().submit(operation, timeout), self._loop)

    def status(self, replica: int, *, digest: bool = False, timeout: float = 5.0) -> dict[str, Any]:
        """As `AsyncClient.status`."""
        return self._call(self._connected().status(replica, digest=digest, timeout=timeout))

    def _connected(self) -> AsyncClient:
        if self._client is None or self._closed:
            raise LocalProtocolError("connect the client first: 'with client:' or 'client.connect()'")
        return self._client

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()


async def _close(client: AsyncClient) -> None:
    """Other threads' calls that are in flight end with the client: nobody must wait for a loop that stands still."""
    await client.aclose()
    await asyncio.gather(*(asyncio.all_tasks() - {asyncio.current_task()}), return_exceptions=True)
