"""The client against replicas that the test plays: timeouts, refusals, retransmission, lies."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from kit.patience import PATIENCE_SECONDS, let_pass, until
from kit.played import PlayedReplica, Stage, executed, silent

from smartbft import AsyncClient, Client, Indeterminate, NotEnoughReplies, Overloaded, Rejected
from smartbft._fastpath.pool import (
    EXECUTED,
    OVERLOADED,
    REJECTED,
)
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import LocalProtocolError
from smartbft.limits import MAX_OPEN_QUESTIONS

Run = Callable[[Callable[[], Awaitable[None]]], None]
RETRANSMIT = 0.05


async def given_up(client: AsyncClient, operation: bytes, answers: int) -> bytes:
    """An invocation whose time runs out once so many replicas have answered; raises what it raises then."""
    asked = asyncio.create_task(client.invoke(operation, timeout=30))
    await until(lambda: any(len(pending.votes.statuses()) == answers for pending in client._pending.values()))
    let_pass(30)
    return await asked


def test_a_result_needs_q_equal_replies_in_the_synchronous_mode_and_f_plus_1_else(run: Run) -> None:
    def two_of_four(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
        return executed(replica, sequence, operation) if replica.id < 2 else []

    async def scenario() -> None:
        async with Stage(two_of_four) as stage:
            client = await stage.connected()
            with pytest.raises(Indeterminate, match=r"no 3 equal replies within 30 seconds \(replica 0 EXECUTED"):
                await given_up(client, b"x", 2)
        async with Stage(two_of_four, persistence="async") as stage:
            client = await stage.connected()
            assert await client.invoke(b"x") == b"done x"

    run(scenario)


def test_a_lying_replica_is_outvoted(run: Run) -> None:
    def one_lies(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
        return [(EXECUTED, b"a lie")] if replica.id == 0 else executed(replica, sequence, operation)

    async def scenario() -> None:
        async with Stage(one_lies) as stage:
            client = await stage.connected()
            for number in range(20):
                assert await client.invoke(b"%d" % number) == b"done %d" % number

    run(scenario)


def test_a_lost_request_is_sent_again_to_all(run: Run) -> None:
    def deaf_at_first(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
        return executed(replica, sequence, operation) if replica.attempts(sequence) > 2 else []

    async def scenario() -> None:
        async with Stage(deaf_at_first, retransmit=RETRANSMIT) as stage:
            client = await stage.connected()
            assert await client.invoke(b"x") == b"done x"
            assert all(len(set(replica.requests)) == 1 for replica in stage.replicas)

    run(scenario)


def test_after_a_timeout_the_number_stays_in_use_until_it_is_settled(run: Run) -> None:
    """What was given up is sent on: a number that was left out would hold up the session for ever."""

    async def scenario() -> None:
        async with Stage(silent, retransmit=RETRANSMIT) as stage:
            client = await stage.connected()
            with pytest.raises(Indeterminate, match="no replica answered"):
                await client.invoke(b"first", timeout=0.1)
            for replica in stage.replicas:
                replica.script = executed
            assert await client.invoke(b"second") == b"done second"
            assert {(number, what) for _, number, what in stage.replicas[0].requests} == {(1, b"first"), (2, b"second")}
            await until(lambda: not client._pending)

    run(scenario)


def test_too_few_replicas_are_told_before_anything_is_sent(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(executed, reachable=2) as stage:
            connecting = asyncio.create_task(stage.client.connect(30))
            await until(lambda: len(stage.client.connected) == 2)
            let_pass(30)
            with pytest.raises(NotEnoughReplies, match="2 of 4 replicas could be reached within 30 seconds; 3"):
                await connecting
            with pytest.raises(NotEnoughReplies):
                await stage.client.invoke(b"x", timeout=0.1)
            assert not any(replica.requests for replica in stage.replicas)

    run(scenario)


def test_without_an_answer_it_is_told_who_is_not_reached(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(silent, reachable=3) as stage:
            client = await stage.connected()
            with pytest.raises(Indeterminate, match=r"no replica answered; replica 3: "):
                await client.invoke(b"x", timeout=0.1)

    run(scenario)


def full(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
    return [(OVERLOADED, b"")]


def full_at_first(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
    return full(replica, sequence, operation) if replica.attempts(sequence) == 1 else executed(replica, sequence, b"x")


@pytest.mark.parametrize("refusing", [1, 2, 3, 4])
def test_what_was_sent_is_never_called_overloaded(run: Run, refusing: int) -> None:
    """Not even where all replicas have no room: the leader may lie about that, and have it ordered all the same."""

    def some_full(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
        return full(replica, sequence, operation) if replica.id < refusing else []

    async def scenario() -> None:
        async with Stage(some_full) as stage:
            client = await stage.connected()
            with pytest.raises(Indeterminate, match=r"replica 0 OVERLOADED.*ask for it"):
                await given_up(client, b"x", refusing)

    run(scenario)


def test_what_was_refused_for_lack_of_room_is_sent_again_and_executed_under_its_number(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(full_at_first, retransmit=RETRANSMIT) as stage:
            client = await stage.connected()
            assert await client.invoke(b"x") == b"done x"
            await until(lambda: not client._pending)
            assert {request[1:] for replica in stage.replicas for request in replica.requests} == {(1, b"x")}

    run(scenario)


def test_a_number_before_one_that_was_executed_is_used_up(run: Run) -> None:
    """What was given up was executed, and all replies to it were lost: nobody waits, so it need not be sent again."""

    def full_for_the_first(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
        return [(OVERLOADED, b"")] if operation == b"first" else executed(replica, sequence, operation)

    async def scenario() -> None:
        async with Stage(full_for_the_first, window=2) as stage:
            client = await stage.connected()
            with pytest.raises(Indeterminate):
                await given_up(client, b"first", 4)
            for number in range(2, 10):
                assert await client.invoke(b"%d" % number) == b"done %d" % number
            assert not client._pending
            assert not client._by_digest
            assert not client._collector._votes

    run(scenario)


def test_a_full_window_says_overloaded_and_sends_nothing(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(silent, window=2) as stage:
            client = await stage.connected()
            waiting = [asyncio.create_task(client.invoke(b"x", timeout=0.4)) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(Overloaded, match="2 requests of this client are in flight"):
                await client.invoke(b"y", timeout=0.1)
            outcomes = await asyncio.gather(*waiting, return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [Indeterminate, Indeterminate]
            assert {number for _, number, _ in stage.replicas[0].requests} == {1, 2}

    run(scenario)


def test_a_cancelled_turn_is_passed_on(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(silent, window=1, retransmit=RETRANSMIT) as stage:
            client = await stage.connected()
            first = asyncio.create_task(client.invoke(b"1"))
            second = asyncio.create_task(client.invoke(b"2"))
            third = asyncio.create_task(client.invoke(b"3"))
            await asyncio.sleep(0.01)
            second.cancel()
            for replica in stage.replicas:
                replica.script = executed
            assert await first == b"done 1"
            assert await third == b"done 3"
            assert (await asyncio.gather(second, return_exceptions=True))[0].__class__ is asyncio.CancelledError

    run(scenario)


def test_a_turn_that_comes_with_its_timeout_is_passed_on(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(silent, window=1) as stage:
            client = await stage.connected()
            first = asyncio.create_task(client.invoke(b"first", timeout=60))
            while not client._pending:
                await asyncio.sleep(0)
            late = asyncio.create_task(client._turn(asyncio.get_running_loop().time() + 60))
            other = asyncio.create_task(client._turn(asyncio.get_running_loop().time() + 60))
            while len(client._waiting) < 2:
                await asyncio.sleep(0)
            client._waiting[0].set_exception(TimeoutError())
            client._drop(1)  # there is room: whoever times out now would have had it
            with pytest.raises(Overloaded):
                await late
            await other
            first.cancel()

    run(scenario)


def test_rejected_operations_are_replaced_by_the_empty_one(run: Run) -> None:
    def picky(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
        return [(REJECTED, b"")] if operation == b"bad" else executed(replica, sequence, operation)

    async def scenario() -> None:
        async with Stage(picky) as stage:
            client = await stage.connected()
            with pytest.raises(Rejected, match="not ordered: the application's check refuses it") as caught:
                await client.invoke(b"bad")
            assert caught.value.code == 0  # not one of the application's
            assert await client.invoke(b"good") == b"done good"
            session = client.session
            assert stage.replicas[0].requests[:3] == [(session, 1, b"bad"), (session, 1, b""), (session, 2, b"good")]

    run(scenario)


def test_sessions_of_one_process_never_share_a_number(run: Run) -> None:
    async def scenario() -> None:
        signer = Ed25519Signer(bytes(32))
        async with Stage(silent) as stage:
            sessions = {AsyncClient(stage.genesis, signer).session for _ in range(200)}
            assert len(sessions) == 200

    run(scenario)


def test_status_answers(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(executed) as stage:
            client = await stage.connected()
            assert await client.status(1, timeout=PATIENCE_SECONDS) == {"n": 1}
            with pytest.raises(NotEnoughReplies, match="replica 3 closed the connection"):
                await client.status(3, timeout=PATIENCE_SECONDS)
            with pytest.raises(LocalProtocolError, match="there is no replica 9"):
                await client.status(9)
        async with Stage(executed, reachable=3) as stage:
            client = await stage.connected()
            with pytest.raises(NotEnoughReplies, match="replica 3 is not connected"):
                await client.status(3)

    run(scenario)


def test_a_replica_that_answers_no_question_is_not_asked_without_end(run: Run) -> None:
    """It would hang up, when it comes back, on a client that has asked for too much."""

    async def scenario() -> None:
        async with Stage(silent) as stage:
            client = await stage.connected()
            stage.replicas[0].received = lambda connection, frames: None  # type: ignore[method-assign]
            for _ in range(MAX_OPEN_QUESTIONS):
                with pytest.raises(NotEnoughReplies, match="did not answer within"):
                    await client.status(0, timeout=0)
            with pytest.raises(NotEnoughReplies, match="has not answered the last 16 questions"):
                await client.status(0, timeout=0)

    run(scenario)


def test_misuse_is_told(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(executed) as stage:
            with pytest.raises(LocalProtocolError, match="connect the client first"):
                await stage.client.invoke(b"x")
            await stage.connected()
            await stage.client.aclose()
            await stage.client.aclose()
            with pytest.raises(LocalProtocolError, match="the client is closed"):
                await stage.client.invoke(b"x")
            with pytest.raises(LocalProtocolError, match="the client is closed"):
                await stage.client.connect()

    run(scenario)


@pytest.mark.parametrize("operation", ["text", None, 7, bytes(65537)])
def test_what_cannot_be_sent_leaves_no_gap_in_the_session(run: Run, operation: Any) -> None:
    """A number that is used up and never sent would hold up all that come after it, for ever."""

    async def scenario() -> None:
        async with Stage(executed, window=1) as stage:
            client = await stage.connected()
            waiting = [asyncio.create_task(client.invoke(what)) for what in (b"before", operation, b"after")]
            answers = await asyncio.gather(*waiting, return_exceptions=True)
            assert isinstance(answers[1], LocalProtocolError)
            assert answers[::2] == [b"done before", b"done after"]
            assert [number for _, number, _ in stage.replicas[0].requests] == [1, 2]

    run(scenario)


def test_closing_ends_what_is_in_flight(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(silent) as stage:
            client = await stage.connected()
            asked = asyncio.create_task(client.invoke(b"x"))
            await asyncio.sleep(0.01)
            await client.aclose()
            with pytest.raises(Indeterminate, match="closed before"):
                await asked

    run(scenario)


def test_closing_ends_the_wait_for_connections_and_answers(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(silent) as stage:
            client = await stage.connected()
            for replica in stage.replicas:
                replica.received = lambda connection, frames: None  # type: ignore[method-assign]
            asked = asyncio.create_task(client.status(0, timeout=60))
            while not client._questions[0]:
                await asyncio.sleep(0)
            for listener in stage._listeners:
                await listener.close()
            with pytest.raises(NotEnoughReplies, match="closed the connection"):
                await asked
            while client.connected:
                await asyncio.sleep(0)
            invoked = asyncio.create_task(client.invoke(b"x", timeout=60))
            while not client._changed._waiters:  # type: ignore[attr-defined]
                await asyncio.sleep(0)
            await client.aclose()
            with pytest.raises(LocalProtocolError, match="the client is closed"):
                await invoked

    run(scenario)


def test_closing_the_blocking_client_ends_the_calls_of_other_threads(run: Run) -> None:
    """Their loop stands still from then on: a call that did not end would never end."""

    async def scenario() -> None:
        async with Stage(silent) as stage:
            for replica in stage.replicas:
                replica.received = lambda connection, frames: None  # type: ignore[method-assign]
            client = Client(lambda: AsyncClient(stage.genesis, Ed25519Signer(bytes(32)), transport="plain"))
            await asyncio.to_thread(client.connect)
            inner = client._client
            assert inner is not None
            await until(lambda: 0 in inner.connected)
            asked = asyncio.create_task(asyncio.to_thread(client.status, 0, timeout=60))
            while not any(inner._questions.values()):
                await asyncio.sleep(0)
            client._loop.call_soon_threadsafe(inner._connections.clear)
            invoked = asyncio.create_task(asyncio.to_thread(client.invoke, b"x", timeout=60))
            while not inner._changed._waiters:  # type: ignore[attr-defined]
                await asyncio.sleep(0)
            await asyncio.to_thread(client.close)
            for ended in (asked, invoked):
                with pytest.raises(LocalProtocolError, match="the client is closed"):
                    await ended

    run(scenario)


def test_the_blocking_client(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(executed) as stage:

            def use() -> None:
                with Client(lambda: AsyncClient(stage.genesis, Ed25519Signer(bytes(32)), transport="plain")) as client:
                    assert client.invoke(b"x") == b"done x"
                    futures = [client.submit(b"%d" % number) for number in range(10)]
                    assert [future.result().result for future in futures] == [b"done %d" % n for n in range(10)]
                    assert client._client is not None
                    while 0 not in client._client.connected:
                        time.sleep(RETRANSMIT)
                    assert client.status(0, timeout=PATIENCE_SECONDS) == {"n": 0}
                with pytest.raises(LocalProtocolError):
                    client.invoke(b"x")
                client.close()

            await asyncio.to_thread(use)

    run(scenario)


def test_the_blocking_client_passes_errors_on() -> None:
    stage = Stage(executed, reachable=0)
    client = Client(lambda: AsyncClient(stage.genesis, Ed25519Signer(bytes(32)), transport="plain"))
    with pytest.raises(NotEnoughReplies):
        client.connect(timeout=0.1)
    with pytest.raises(LocalProtocolError):
        client.connect()
    for sock in stage.sockets:
        sock.close()
