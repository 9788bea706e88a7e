"""What a client can do about `Indeterminate`: the error names its request, and the client asks for that one again."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from kit.patience import let_pass, until
from kit.played import PlayedReplica, Stage, executed, silent

from smartbft import AsyncClient, Client, Indeterminate, LocalCluster, LocalProtocolError, Rejected
from smartbft._fastpath.pool import EXECUTED, REJECTED, SESSION_REFUSED, join_requests, split_requests
from smartbft.apps import counter
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import ArgumentTypeError
from smartbft.limits import MAX_LATE_OUTCOMES
from smartbft.types import CHANNEL, SIGNATURES, Parameters

Run = Callable[[Callable[[], Awaitable[None]]], None]


async def unknown(client: AsyncClient, operation: bytes = b"x") -> Indeterminate:
    """The error of an invocation whose time runs out."""
    asked = asyncio.create_task(client.invoke(operation, timeout=30))
    await until(lambda: client._pending)
    let_pass(30)
    with pytest.raises(Indeterminate) as raised:
        await asked
    return raised.value


def repeated(stage: Stage) -> set[tuple[int, int, bytes]]:
    """What all replicas have got, each request once."""
    return {request for replica in stage.replicas for request in replica.requests}


def test_the_error_names_its_request(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(silent) as stage:
            client = await stage.connected()
            error = await unknown(client, b"operation")
            assert (error.session, error.sequence) == (client.session, 1)
            ((key, session, sequence, operation, _),) = split_requests(join_requests([error.request]))
            assert (key, session, sequence, operation) == (client.key, client.session, 1, b"operation")
            assert f"request 1 of session {client.session} may or may not be executed" in str(error)

    run(scenario)


def test_asking_sends_the_same_request_again_and_gives_its_result(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(silent) as stage:
            client = await stage.connected()
            error = await unknown(client)
            stage.answer_with(executed)
            assert await client.ask(error) == b"done x"
            assert repeated(stage) == {(client.session, 1, b"x")}
            assert all(len(set(replica.payloads)) == 1 for replica in stage.replicas)
            assert await client.invoke(b"y") == b"done y"
            assert await client.ask(error) == b"done x"  # as often as you like

    run(scenario)


def test_a_result_that_came_after_the_invocation_had_given_up_is_kept(run: Run) -> None:
    """Replicas keep the results of a window of requests; a client that asks later than that has it all the same."""

    async def scenario() -> None:
        async with Stage(silent, retransmit=0.05) as stage:
            client = await stage.connected()
            error = await unknown(client)
            stage.answer_with(executed)
            await until(lambda: not client._pending)
            stage.answer_with(silent)
            assert await client.ask(error, timeout=0) == b"done x"
            for number in range(MAX_LATE_OUTCOMES):
                client._late[b"%d" % number] = client._late[error_digest(client, error)]
            stage.answer_with(executed)
            await client.ask(await given_up_at_once(client))
            assert len(client._late) <= MAX_LATE_OUTCOMES + 1

    run(scenario)


def test_the_outcome_of_what_was_given_up_is_fetched_as_long_as_the_replicas_keep_it(run: Run) -> None:
    """They keep the results of the last `window` requests; the client goes on, and asks long after that."""

    def lost_at_first(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
        newest = max(number for _, number, _ in replica.requests)
        kept = sequence > newest - 2 and (sequence > 1 or replica.attempts(1) > 1)
        return executed(replica, sequence, operation) if kept else []

    async def scenario() -> None:
        async with Stage(silent, window=2) as stage:
            client = await stage.connected()
            error = await unknown(client)
            stage.answer_with(lost_at_first)
            assert await client.invoke(b"2") == b"done 2"
            await until(lambda: client._late)
            for number in range(3, 10):
                assert await client.invoke(b"%d" % number) == b"done %d" % number
            assert await client.ask(error, timeout=0) == b"done x"
            assert not client._apart
            assert not client._collector._votes

    run(scenario)


def error_digest(client: AsyncClient, error: Indeterminate) -> bytes:
    return client._builder.rebuild(error.request).digest


async def given_up_at_once(client: AsyncClient) -> Indeterminate:
    with pytest.raises(Indeterminate) as raised:
        await client.invoke(b"at once", timeout=0)
    return raised.value


def test_another_client_with_the_same_key_may_ask(run: Run) -> None:
    """The program crashed; what it wrote down of the error is enough for the next one."""

    async def scenario() -> None:
        async with Stage(silent) as stage:
            client = await stage.connected()
            error = copy.deepcopy(await unknown(client))
            await client.aclose()
            stage.answer_with(executed)
            async with AsyncClient(stage.genesis, client._builder._signer, transport="plain") as other:
                assert await other.ask(Indeterminate("read from a file", request=error.request)) == b"done x"
            assert repeated(stage) == {(error.session, 1, b"x")}

    run(scenario)


def test_many_may_ask_at_once_and_one_that_gives_up_does_not_disturb_the_others(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(silent) as stage:
            client = await stage.connected()
            error = await unknown(client)
            asked = [asyncio.create_task(client.ask(error)) for _ in range(5)]
            await until(lambda: all(len(pending.waiting) == 5 for pending in client._pending.values()))
            asked[0].cancel()
            with pytest.raises(Indeterminate):
                await client.ask(error, timeout=0)
            stage.answer_with(executed)
            asked.append(asyncio.create_task(client.ask(error)))
            assert await asyncio.gather(*asked[1:]) == [b"done x"] * 5

    run(scenario)


def test_while_it_is_not_known_it_stays_unknown(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(silent) as stage:
            client = await stage.connected()
            error = await unknown(client)
            asked = asyncio.create_task(client.ask(error, timeout="20s"))
            await until(lambda: any(pending.waiting for pending in client._pending.values()))
            let_pass(20)
            with pytest.raises(Indeterminate, match="no 3 equal replies within 20 seconds") as again:
                await asked
            assert again.value.request == error.request
            for listener in stage._listeners:  # nor does a lost connection make it undone
                await listener.close()
            await until(lambda: not client.connected)
            with pytest.raises(Indeterminate):
                await client.ask(error, timeout=0)

    run(scenario)


def test_what_the_check_refuses_is_known_to_be_undone(run: Run) -> None:
    def refused(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
        return [(REJECTED, b"")] if operation == b"x" else executed(replica, sequence, operation)

    async def scenario() -> None:
        async with Stage(silent) as stage:
            client = await stage.connected()
            error = await unknown(client)
            stage.answer_with(refused)
            with pytest.raises(Rejected):
                await client.ask(error)
            with pytest.raises(Rejected):
                await client.ask(error, timeout=0)

    run(scenario)


def test_a_session_that_is_over_leaves_it_unknown_and_its_successor_works(run: Run) -> None:
    """Replicas forget the results of a session with it: whether it was executed, nobody can say any more."""

    async def scenario() -> None:
        async with Stage(silent) as stage:
            client = await stage.connected()
            error = await unknown(client)

            def over(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
                old = replica.requests[-1][0] == error.session
                return [(SESSION_REFUSED, b"")] if old else executed(replica, sequence, operation)

            stage.answer_with(over)
            with pytest.raises(Indeterminate, match=f"refuse session {error.session}") as again:
                await client.ask(error)
            assert (again.value.session, again.value.sequence) == (error.session, 1)
            assert client.session != error.session
            assert await client.invoke(b"y") == b"done y"
            with pytest.raises(Indeterminate, match=f"refuse session {error.session}"):
                await client.ask(error)
            assert {request for request in repeated(stage) if request[2] == b"x"} == {(error.session, 1, b"x")}

    run(scenario)


def test_results_that_all_differ_name_the_cause_at_once(run: Run) -> None:
    def different(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
        return [(EXECUTED, b"%d" % replica.id)]

    async def scenario() -> None:
        async with Stage(different, persistence="async") as stage:
            client = await stage.connected()
            cause = (
                "4 replicas executed it and gave 4 different results: the application is not deterministic; "
                "run check-application"
            )
            with pytest.raises(Indeterminate, match=cause) as raised:
                await client.invoke(b"x", timeout=3600)
            with pytest.raises(Indeterminate, match=cause):
                await client.ask(raised.value)
            stage.answer_with(executed)
            assert await client.invoke(b"y") == b"done y"

    run(scenario)


def test_results_that_differ_are_told_of_when_the_time_is_over(run: Run) -> None:
    def different(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
        return [(EXECUTED, b"%d" % replica.id)] if replica.id < 2 else []

    async def scenario() -> None:
        async with Stage(different) as stage:
            client = await stage.connected()
            asked = asyncio.create_task(client.invoke(b"x", timeout=30))
            await until(lambda: any(len(pending.votes.statuses()) == 2 for pending in client._pending.values()))
            let_pass(30)
            with pytest.raises(Indeterminate, match="2 replicas executed it and gave 2 different results"):
                await asked

    run(scenario)


@pytest.mark.parametrize("authentication", [SIGNATURES, CHANNEL])
def test_replicas_execute_what_is_asked_for_once(run: Run, authentication: str) -> None:
    async def scenario() -> None:
        parameters = Parameters(request_authentication=authentication, batch_delay=1000)
        async with LocalCluster(4, counter.Counter, parameters=parameters) as cluster, cluster.client() as client:
            assert counter.decode_value(await client.invoke(counter.add(1))) == 1
            with pytest.raises(Indeterminate) as raised:
                await client.invoke(counter.add(10), timeout=0)
            answers = await asyncio.gather(*(client.ask(raised.value) for _ in range(10)))
            assert [counter.decode_value(answer) for answer in answers] == [11] * 10
            async with cluster.client() as other:
                other._builder = client._builder
                other._prover = client._prover
                if authentication == SIGNATURES:
                    assert counter.decode_value(await other.ask(raised.value)) == 11
            assert counter.decode_value(await client.invoke(counter.add(1))) == 12

    run(scenario)


def test_the_blocking_client_asks_too(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(silent) as stage:

            def use() -> None:
                with Client(lambda: AsyncClient(stage.genesis, Ed25519Signer(bytes(32)), transport="plain")) as client:
                    with pytest.raises(Indeterminate) as raised:
                        client.invoke(b"x", timeout="1ms")
                    stage.answer_with(executed)
                    assert client.ask(raised.value) == b"done x"

            await asyncio.to_thread(use)

    run(scenario)


def test_misuse_is_refused(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(silent) as stage:
            client = await stage.connected()
            error = await unknown(client)
            for wrong, kind, why in [
                ("text", ArgumentTypeError, "not with str"),
                (Indeterminate("of a load"), LocalProtocolError, "names no request"),
                (Indeterminate("", request=error.request[:100]), LocalProtocolError, "no request"),
                (Indeterminate("", request=error.request[:-1]), LocalProtocolError, "declares an operation"),
                (Indeterminate("", request=bytes(32) + error.request[32:]), LocalProtocolError, "ask with its key"),
                (Indeterminate("", request=error.request[:-1] + b"?"), LocalProtocolError, "not signed for this chain"),
            ]:
                await refuses(client, wrong, kind, why)
            await client.aclose()
            await refuses(client, error, LocalProtocolError, "closed")
            unconnected = AsyncClient(stage.genesis, client._builder._signer, transport="plain")
            await refuses(unconnected, error, LocalProtocolError, "connect the client first")

    run(scenario)


async def refuses(client: AsyncClient, wrong: Any, kind: type[Exception], why: str) -> None:
    with pytest.raises(kind, match=why):
        await client.ask(wrong)
