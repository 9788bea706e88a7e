"""The blocking client: callbacks, threads that are kept, closing; every call ends in time or raises at once."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from kit.patience import PATIENCE_SECONDS, until
from kit.played import PlayedReplica, Stage, executed, silent

from smartbft import AsyncClient, Client, Indeterminate, NotEnoughReplies
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import LocalProtocolError
from smartbft.runtime import blocking

Run = Callable[[Callable[[], Awaitable[None]]], None]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client's threads are given is enough on any machine, unless a test is about them."""
    monkeypatch.setattr(blocking, "CLIENT_THREAD_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(blocking, "CLIENT_CLOSE_SECONDS", PATIENCE_SECONDS)


def client_of(stage: Stage) -> Client:
    return Client(lambda: AsyncClient(stage.genesis, Ed25519Signer(bytes(32)), transport="plain"))


def with_client(
    run: Run,
    use: Callable[[Client], object],
    script: Callable[[PlayedReplica, int, bytes], list[tuple[int, bytes]]] = executed,
) -> None:
    """Runs `use` on a thread, with a client of played replicas that run on the loop."""

    async def scenario() -> None:
        async with Stage(script) as stage:

            def connected() -> None:
                client = client_of(stage)
                client.connect(PATIENCE_SECONDS)
                try:
                    use(client)
                finally:
                    client.close()

            await asyncio.to_thread(connected)

    run(scenario)


def in_a_callback(client: Client, do: Callable[[], Any]) -> Any:
    """What `do` returns or raises where a callback of the client calls it."""
    outcome: concurrent.futures.Future[Any] = concurrent.futures.Future()
    asked = threading.Event()

    def callback(_: object) -> None:
        asked.wait()
        try:
            outcome.set_result(do())
        except BaseException as error:
            outcome.set_exception(error)

    with kept(client):
        client.submit(b"x").add_done_callback(callback)
    asked.set()
    return outcome.result(PATIENCE_SECONDS)


@contextlib.contextmanager
def kept(client: Client) -> Iterator[None]:
    """As long as the context lasts, something keeps the client's thread."""
    begun, over = threading.Event(), threading.Event()

    def keep() -> None:
        begun.set()
        over.wait()

    assert client._loop is not None
    client._loop.call_soon_threadsafe(keep)
    begun.wait()
    try:
        yield
    finally:
        over.set()


# --- callbacks ---


@pytest.mark.parametrize(
    "wait",
    [
        lambda client: client.invoke(b"y", timeout=PATIENCE_SECONDS),
        lambda client: client.status(0, timeout=PATIENCE_SECONDS),
        lambda client: client.submit(b"y").result(),
        lambda client: client.submit(b"y").exception(),
        lambda client: client.connect(),
        lambda client: client.close(),
    ],
    ids=["invoke", "status", "result", "exception", "connect", "close"],
)
def test_a_callback_that_would_wait_for_its_client_is_told_at_once(run: Run, wait: Callable[[Client], object]) -> None:
    def use(client: Client) -> None:
        with pytest.raises(LocalProtocolError, match="a callback of this client must not wait for it"):
            in_a_callback(client, lambda: waited(client))
        assert client.invoke(b"z", timeout=PATIENCE_SECONDS) == b"done z"

    def waited(client: Client) -> object:
        with kept(client):  # so that no future is done yet
            return wait(client)

    with_client(run, use)


def test_a_callback_may_submit_more(run: Run) -> None:
    def use(client: Client) -> None:
        following = in_a_callback(client, lambda: client.submit(b"y"))
        assert following.result(PATIENCE_SECONDS).result == b"done y"

    with_client(run, use)


def test_a_callback_that_waits_for_something_else_holds_up_nobody(run: Run) -> None:
    def use(client: Client) -> None:
        entered, over = threading.Event(), threading.Event()

        def callback(_: object) -> None:
            entered.set()
            over.wait()

        with kept(client):
            client.submit(b"x").add_done_callback(callback)
        entered.wait()
        assert client.invoke(b"y", timeout=PATIENCE_SECONDS) == b"done y"
        assert client.submit(b"z", timeout=PATIENCE_SECONDS).result().result == b"done z"
        over.set()

    with_client(run, use)


def test_a_client_closes_while_a_callback_waits(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()

    def brief(end: Callable[[], None]) -> Callable[[], None]:
        def ended() -> None:
            monkeypatch.setattr(blocking, "CLIENT_CLOSE_SECONDS", 0.01)
            end()

        return ended

    def use(client: Client) -> None:
        with kept(client):
            client.submit(b"x").add_done_callback(lambda _: over.wait())
        client._callbacks.end = brief(client._callbacks.end)  # type: ignore[method-assign]
        client.close()

    with_client(run, use)
    assert "a callback takes longer" in caplog.text
    over.set()


def test_a_callback_that_ends_its_thread_leaves_the_others_alone(run: Run) -> None:
    def use(client: Client) -> None:
        def leave(_: object) -> None:
            raise SystemExit(3)

        with kept(client):
            client.submit(b"x").add_done_callback(leave)
        assert in_a_callback(client, lambda: "called") == "called"

    with_client(run, use)


def test_a_callback_for_an_outcome_that_is_known_runs_at_once(run: Run) -> None:
    def use(client: Client) -> None:
        future = client.submit(b"x")
        future.result(PATIENCE_SECONDS)
        seen: list[object] = []
        future.add_done_callback(lambda done: seen.append(client.invoke(b"y", timeout=PATIENCE_SECONDS)))
        assert seen == [b"done y"]

    with_client(run, use)


# --- a thread that is kept ---


def test_timeouts_are_kept_whatever_keeps_the_thread(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log handler that writes to a full pipe, say, or a signer in hardware."""
    monkeypatch.setattr(blocking, "CLIENT_THREAD_SECONDS", 0.01)

    def use(client: Client) -> None:
        with kept(client):
            with pytest.raises(Indeterminate, match=r"the client's thread said nothing within 0\.1 seconds"):
                client.invoke(b"x", timeout=0.1)
            with pytest.raises(NotEnoughReplies, match="the client's thread said nothing"):
                client.status(0, timeout=0.1)
            future = client.submit(b"y", timeout=0.1)
            with pytest.raises(Indeterminate, match="may or may not be executed"):
                future.result()
            with pytest.raises(Indeterminate, match="may or may not be executed"):
                future.result()  # and it stays so
            assert future.done()
            with pytest.raises(TimeoutError):
                client.submit(b"z").result(0.01)
        assert client.invoke(b"again", timeout=PATIENCE_SECONDS) == b"done again"
        assert isinstance(future.exception(), Indeterminate)

    with_client(run, use)


def test_a_client_whose_thread_is_kept_closes_all_the_same(
    run: Run, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blocking, "CLIENT_CLOSE_SECONDS", 0.01)

    def use(client: Client) -> None:
        with kept(client):
            client.close()
        assert client._thread is not None
        client._thread.join()  # free again, it ends by itself

    with_client(run, use)
    assert "the client's thread does not end" in caplog.text


# --- futures are what `concurrent.futures` expects ---


def test_futures_work_with_wait_with_as_completed_and_with_asyncio(run: Run) -> None:
    def use(client: Client) -> None:
        futures = [client.submit(b"%d" % number) for number in range(8)]
        done, _ = concurrent.futures.wait(futures, PATIENCE_SECONDS)
        assert {future.result().result for future in done} == {b"done %d" % number for number in range(8)}
        completed = concurrent.futures.as_completed([client.submit(b"x")], PATIENCE_SECONDS)
        assert [future.result().result for future in completed] == [b"done x"]

        async def awaited() -> bytes:
            outcome = await asyncio.wrap_future(client.submit(b"y"))
            return outcome.result

        assert asyncio.run(awaited()) == b"done y"

    with_client(run, use)


def test_a_future_can_be_cancelled_and_then_nobody_waits(run: Run) -> None:
    def use(client: Client) -> None:
        future = client.submit(b"x", timeout=PATIENCE_SECONDS)
        called: list[bool] = []
        future.add_done_callback(lambda done: called.append(done.cancelled()))
        assert future.cancel()
        assert called == [True]
        with pytest.raises(concurrent.futures.CancelledError):
            future.result()
        done, _ = concurrent.futures.wait([future], PATIENCE_SECONDS)
        assert done == {future}

    with_client(run, use, silent)


def test_closing_ends_what_is_in_flight_and_its_callbacks_have_run(run: Run) -> None:
    seen: list[object] = []

    async def scenario() -> None:
        async with Stage(silent) as stage:
            client = client_of(stage)
            await asyncio.to_thread(client.connect, PATIENCE_SECONDS)
            future = client.submit(b"x", timeout=PATIENCE_SECONDS)
            future.add_done_callback(lambda done: seen.append(done.exception()))
            await until(lambda: stage.replicas[0].requests)
            await asyncio.to_thread(client.close)
            assert isinstance(future.exception(), Indeterminate)

    run(scenario)
    assert [type(one) for one in seen] == [Indeterminate]


def test_no_call_outlives_the_client_it_was_made_of(run: Run) -> None:
    """A call that begins while another thread closes ends too: it is refused, or ended with the others."""

    def until_it_is_closed(client: Client) -> str:
        while True:
            try:
                client.invoke(b"x", timeout=PATIENCE_SECONDS)
            except (LocalProtocolError, Indeterminate) as error:
                return type(error).__name__

    async def scenario() -> None:
        for _ in range(20):
            async with Stage(executed) as stage:
                client = client_of(stage)
                await asyncio.to_thread(client.connect, PATIENCE_SECONDS)
                calls = [asyncio.create_task(asyncio.to_thread(until_it_is_closed, client)) for _ in range(4)]
                await until(lambda stage=stage: len(stage.replicas[0].requests) > 8)
                await asyncio.to_thread(client.close)
                for call in calls:
                    assert await call in ("LocalProtocolError", "Indeterminate")

    run(scenario)


def test_a_client_is_made_when_it_is_connected_and_not_before() -> None:
    """So a program may make it and fork, and each child connects its own."""
    made: list[AsyncClient] = []
    stage = Stage(executed, reachable=0)

    def make() -> AsyncClient:
        made.append(AsyncClient(stage.genesis, Ed25519Signer(bytes(32)), transport="plain"))
        return made[-1]

    client = Client(make)
    assert not made
    assert client._loop is None
    client.close()
    with pytest.raises(LocalProtocolError):
        client.connect()
    for sock in stage.sockets:
        sock.close()
