"""What the application says reaches its client: codes and texts of refusals, and results of every length."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from kit.patience import let_pass, until
from kit.played import PlayedReplica, Stage, executed, silent

from smartbft import (
    AsyncClient,
    BatchStateMachine,
    ExecutionContext,
    Indeterminate,
    LocalCluster,
    Rejected,
    ResultTooLarge,
    StateMachine,
    join_results,
    limits,
    open_result,
    split_requests,
)
from smartbft._fastpath.pool import REJECTED
from smartbft.apps import coin, counter
from smartbft.smr.application import too_large

Run = Callable[[Callable[[], Awaitable[None]]], None]
KEY = bytes.fromhex("8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c")


class Registrar(StateMachine):
    """Answers with as many zeros as an operation names, and refuses what is no number, each in another way."""

    def __init__(self) -> None:
        self.total = 0

    def check(self, operation: bytes) -> None:
        if operation == b"stumble":
            raise KeyError("a careless check")
        if not operation.isdigit():
            raise Rejected(f"{operation.decode()!r} is not a number\n\x1b[31m" + 1000 * "!", 255)

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        if int(operation) == 254:
            raise Rejected("no", 254)
        self.total += 1
        return bytes(int(operation))

    def snapshot(self) -> bytes:
        return b"%d" % self.total

    def restore(self, snapshot: bytes) -> None:
        self.total = int(snapshot)


async def rejection(client: AsyncClient, operation: bytes) -> Rejected:
    with pytest.raises(Rejected) as raised:
        open_result(await client.invoke(operation))
    return raised.value


def test_text_and_code_of_the_check_reach_the_client(run: Run) -> None:
    async def scenario() -> None:
        async with LocalCluster(4, Registrar) as cluster, cluster.client() as client:
            refused = await rejection(client, b"seven")
            assert refused.code == 255
            told = "the request was not ordered: the application's check refuses it: 'seven' is not a number  [31m!!!"
            assert str(refused).startswith(told)
            assert str(refused).endswith("! (code 255)")
            assert len(str(refused)) < 400
            stumbled = await rejection(client, b"stumble")
            assert stumbled.code == 0
            assert str(stumbled).endswith("refuses it: the check raised KeyError")
            assert (await rejection(client, b"254")).code == 254
            assert open_result(await client.invoke(b"1")) == bytes(1)

    run(scenario)


def test_the_coin_says_why_its_check_refuses_an_operation(run: Run) -> None:
    async def scenario() -> None:
        application = lambda: coin.CoinApplication(bytes(32), [KEY])  # noqa: E731
        async with LocalCluster(4, application) as cluster, cluster.client() as client:
            for operation, code in [(b"?", 1), (coin.spend([KEY], [(bytes([1]) + bytes(31), 1)]), 10)]:
                refused = await rejection(client, operation)
                assert refused.code == code
                assert str(refused).endswith(f"check refuses it: {coin.CODE_NAMES[code]} (code {code})")

    run(scenario)


def test_a_reason_is_believed_of_f_plus_1_replicas(run: Run) -> None:
    """The liar is the first to refuse, and says what the others do not."""

    def refused(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
        if not operation:
            return executed(replica, sequence, operation)
        reason = b"\x09send me your key" if replica.id == 3 else b"\x07no such thing"
        return [(REJECTED, reason)] if replica.id in (3, 0) or replica.attempts(sequence) > 1 else []

    async def scenario() -> None:
        async with Stage(refused, retransmit=0.05) as stage:
            client = await stage.connected()
            with pytest.raises(Rejected, match=r"refuses it: no such thing \(code 7\)$") as raised:
                await client.invoke(b"x")
            assert raised.value.code == 7
            stage.answer_with(silent)

    run(scenario)


def test_a_refusal_is_final_even_if_nobody_agrees_why(run: Run) -> None:
    def refused(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
        if not operation:
            return executed(replica, sequence, operation)
        return [(REJECTED, bytes([replica.id]) + b"why")] if replica.id < 2 else []

    async def scenario() -> None:
        async with Stage(refused) as stage:
            client = await stage.connected()
            asked = asyncio.create_task(client.invoke(b"x", timeout=30))
            await until(lambda: any(len(pending.votes.statuses()) == 2 for pending in client._pending.values()))
            let_pass(30)
            with pytest.raises(Rejected, match=r"the application's check refuses it$"):
                await asked
            await until(lambda: not client._pending)  # its number is filled

    run(scenario)


@pytest.mark.parametrize("length", [limits.MAX_RESULT_BYTES, limits.MAX_RESULT_BYTES + 1])
def test_a_result_of_64_kib_arrives_and_a_longer_one_is_known_to_be_executed(run: Run, length: int) -> None:
    async def scenario() -> None:
        async with LocalCluster(4, Registrar) as cluster, cluster.client() as client:
            result = await client.invoke(b"%d" % length)
            if length == limits.MAX_RESULT_BYTES:
                assert open_result(result) == bytes(length)
            else:
                with pytest.raises(ResultTooLarge, match="was executed"):
                    open_result(result)
            application = cluster.replicas[0]._running()._application
            await until(lambda: application.machine.total == 1)  # type: ignore[attr-defined]

    run(scenario)


class Verbose(BatchStateMachine):
    """Answers each operation with more than can be sent."""

    def execute_batch(self, data: bytes, context: ExecutionContext) -> bytes:
        return join_results([bytes(70_000) if request[3] else b"" for request in split_requests(data)])

    def check_batch(self, data: bytes) -> bytes:
        return b"\1" * len(split_requests(data))

    def snapshot(self) -> bytes:
        return b""

    def restore(self, snapshot: bytes) -> None:
        pass


def test_no_application_cuts_its_clients_off_with_a_result_that_is_too_long(run: Run) -> None:
    """They would close the connection, and open it again for the same reply, without end."""

    async def scenario() -> None:
        async with LocalCluster(4, Verbose) as cluster, cluster.client() as client:
            assert await client.invoke(b"x") == too_large(70_000)
            assert len(client.connected) == 4

    run(scenario)


class Different(counter.Counter):
    """Its results differ on every replica."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        Different.made += 1
        self._number = b"%d" % Different.made

    def execute(self, operation: bytes, context: ExecutionContext) -> bytes:
        return super().execute(operation, context) + self._number


@pytest.mark.parametrize("persistence", ["memory", "sync"])
def test_an_application_that_is_not_deterministic_is_named_as_the_cause(run: Run, persistence: str) -> None:
    async def scenario() -> None:
        async with LocalCluster(4, Different, persistence) as cluster, cluster.client() as client:  # type: ignore[arg-type]
            with pytest.raises(Indeterminate, match=r"gave \d different results: the application is not deterministic"):
                await client.invoke(counter.add(1))

    run(scenario)
