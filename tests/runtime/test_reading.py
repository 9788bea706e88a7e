"""Reads that are not ordered: believed only when they are as good as ordered ones."""

from __future__ import annotations

import asyncio
from base64 import b64encode
from collections.abc import Awaitable, Callable, Sequence

import pytest
from kit.coins import MINTER, SECONDS, coin_cluster
from kit.patience import reach, until

from smartbft import LocalCluster
from smartbft.apps import coin, counter
from smartbft.core.effects import Execute
from smartbft.errors import MalformedMessage
from smartbft.limits import MAX_READ_BYTES, MAX_READ_SHARE, READS_AT_ONCE
from smartbft.runtime import reading
from smartbft.runtime.lookups import Lookups
from smartbft.runtime.reading import agreed, read
from smartbft.runtime.status import Facts, Question, StatusDesk, decode_question, encode_question
from smartbft.smr.application import BatchStateMachine
from smartbft.smr.per_operation import PerOperation

Run = Callable[[Callable[[], Awaitable[None]]], None]
QUERY = coin.balance(MINTER.public_key)


def answer(result: bytes = b"r", instance: int = 5, accepted: int = 5) -> Facts:
    return {"result": b64encode(result).decode(), "instance": instance, "accepted": accepted}


@pytest.mark.parametrize(
    ("answers", "expected"),
    [
        ([answer()] * 3, b"r"),
        ([answer()] * 2, None),
        ([answer()] * 2 + [answer(b"other")], None),
        ([answer()] * 2 + [answer(instance=4, accepted=4)], None),
        ([answer()] * 2 + [answer(accepted=6)], None),
        ([answer(accepted=6)] * 3, None),
        ([answer(b"other")] + [answer()] * 3, b"r"),
        ([answer(accepted=4)] * 3, b"r"),
        ([{"result": "no base64!", "instance": 5, "accepted": 5}] * 3, None),
        ([{"result": "", "instance": True, "accepted": True}] * 3, None),
        ([{"result": 7, "instance": 5, "accepted": 5}, {"problem": "none"}, {}] * 3, None),
    ],
)
def test_a_quorum_at_rest_is_believed(answers: list[Facts], expected: bytes | None) -> None:
    assert agreed(answers, 3) == expected


def hold_back(monkeypatch: pytest.MonkeyPatch, cluster: LocalCluster, *replicas: int) -> None:
    """Decisions stay unexecuted at these replicas: they answer, but with an older state."""
    for replica in replicas:
        driver = cluster.replicas[replica]._parts._driver  # type: ignore[union-attr]
        monkeypatch.setitem(driver._actions, Execute, lambda effect: None)  # type: ignore[union-attr]


def test_what_was_acknowledged_is_never_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result of two replicas is acknowledged, which one of them invents. All the others have not executed it yet:
    three equal answers, and too old.
    """

    async def scenario() -> None:
        async with coin_cluster(4) as cluster, cluster.client(MINTER) as client, cluster.client() as reader:
            await reach(client)
            await reach(reader)
            await client.invoke(coin.mint([5]), SECONDS)
            await _all_have(cluster, "executed", 1)
            hold_back(monkeypatch, cluster, 1, 2, 3)
            minted = asyncio.ensure_future(client.invoke(coin.mint([7]), SECONDS))
            try:
                await _all_have(cluster, "decided", 2)
                assert await read(reader, QUERY, 0.2) is None
            finally:
                minted.cancel()
                await asyncio.gather(minted, return_exceptions=True)

    run(scenario)


def test_planted_bug_votes_are_not_looked_at(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then three replicas that have not executed what was acknowledged are believed."""

    def ignores_votes(answers: Sequence[Facts], quorum: int) -> bytes | None:
        return agreed([one | {"accepted": 0} for one in answers if "result" in one], quorum)

    monkeypatch.setattr(reading, "agreed", ignores_votes)
    with pytest.raises(AssertionError):
        test_what_was_acknowledged_is_never_missing(run, monkeypatch)


async def _all_have(cluster: LocalCluster, what: str, instance: int) -> None:
    for replica in cluster.replicas.values():
        while (await replica.status())[what] < instance:
            await asyncio.sleep(0.001)


async def _decided(cluster: LocalCluster, replica: int) -> int:
    return int((await cluster.replicas[replica].status())["decided"])


def test_one_replica_may_be_gone_or_silent(run: Run) -> None:
    async def scenario() -> None:
        async with coin_cluster(4) as cluster, cluster.client(MINTER) as client:
            await reach(client)
            await client.invoke(coin.mint([5]), SECONDS)
            await cluster.stop(3)
            await until(lambda: len(client.connected) == 3)
            result = await read(client, QUERY, SECONDS)
            assert result is not None
            assert coin.decode_balance(result) == coin.Balance(5, 1)
            await cluster.stop(2)
            await until(lambda: len(client.connected) == 2)
            assert await read(client, QUERY, 0.1) is None, "two replicas are no quorum"

    run(scenario)


def test_nothing_is_ordered_for_a_read(run: Run) -> None:
    async def scenario() -> None:
        async with coin_cluster(1) as cluster, cluster.client() as client:
            for _ in range(3):
                assert await read(client, QUERY, SECONDS) is not None
            assert await _decided(cluster, 0) == 0

    run(scenario)


@pytest.mark.parametrize("operation", [coin.mint([1]), b"junk"])
def test_what_changes_the_state_is_not_read(run: Run, operation: bytes) -> None:
    async def scenario() -> None:
        async with coin_cluster(4) as cluster, cluster.client(MINTER) as client:
            assert await read(client, operation, SECONDS) is None
            assert [await _decided(cluster, replica) for replica in range(4)] == [0] * 4

    run(scenario)


class Talkative(PerOperation):
    """Its answers are too long, it has mistakes, or it knows no reads, as the query says."""

    def __init__(self) -> None:
        super().__init__(counter.Counter())

    def read(self, query: bytes) -> bytes | None:
        if query == b"raise":
            raise ZeroDivisionError("no operations yet")
        return bytes(MAX_READ_BYTES + (query == b"long"))


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        (b"raise", "ZeroDivisionError: no operations yet"),
        (b"long", f"at most {MAX_READ_BYTES} are sent"),
        (b"fits", ""),
    ],
)
def test_an_answer_that_cannot_be_given_ends_no_replica(run: Run, query: bytes, problem: str) -> None:
    async def scenario() -> None:
        async with LocalCluster(1, Talkative) as cluster, cluster.client() as client:
            assert problem in (await client.look_up(0, Question(read=query), SECONDS)).get("problem", "")
            assert await read(client, query, SECONDS) == (None if problem else bytes(MAX_READ_BYTES))
            assert counter.decode_value(await client.invoke(counter.add(1), SECONDS)) == 1

    run(scenario)


def test_an_application_without_reads(run: Run) -> None:
    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            assert await read(client, b"anything", SECONDS) is None

    run(scenario)


class NoCore:
    """A replica that starts: the record of its votes has gaps."""

    class transfer:  # noqa: N801
        paused = False

    class guard:  # noqa: N801
        suspended = "it starts"

    accepted = 0


class NoPool:
    agreed_time = 0

    def sessions_of(self, key: bytes) -> list[tuple[int, int, int]]:
        return [(7, 3, 0), (8, 1, 2**60)]


def test_a_replica_that_does_not_take_part_answers_no_read() -> None:
    told: list[list[Facts]] = []
    lookups = Lookups(NoCore(), NoPool())  # type: ignore[arg-type]
    questions = [Question(read=b"query"), Question(sessions=bytes(32))]
    lookups.answer(None, questions, lambda answers, _: told.append(answers))  # type: ignore[arg-type]
    ((read_answer, sessions),) = told
    assert read_answer == {"problem": "the replica does not take part"}
    assert [number for number, _, _ in sessions["sessions"]] == [7, 8]
    assert sessions["sessions"][0][2] == 0 < sessions["sessions"][1][2]


# --- rates and questions ---


def test_a_crowd_of_readers_costs_the_application_a_part_of_its_time(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of them asks again at once, and each turn of answers takes the application a tenth of a second."""

    async def scenario() -> None:
        now, spent, asked = 100.0, 0.0, 0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)

        def look(questions: Sequence[Question], done: Callable[[list[Facts], float], None]) -> None:
            nonlocal now, spent, asked
            assert len(questions) <= READS_AT_ONCE
            asked += len(questions)
            now, spent = now + 0.1, spent + 0.1
            done([{"read": one.read} for one in questions], 0.1)

        desk = StatusDesk(dict, lambda done: None, look)

        def ask(number: int) -> None:
            question = Question(read=str(number).encode())

            def answered(answer: Facts) -> None:
                assert answer == {"read": question.read}, "everybody gets the answer to the own question"
                ask(number)

            desk.ask(question, answered)

        for number in range(100):
            ask(number)
        while now < 200.0:
            now += 0.01
            await asyncio.sleep(0)
        assert asked >= 3 * READS_AT_ONCE
        assert spent / (now - 100.0) < 1.2 * MAX_READ_SHARE
        desk.close()

    run(scenario)


def test_questions_are_as_documented() -> None:
    assert encode_question(Question()) == b"{}"
    assert encode_question(Question(digest=True)) == b'{"digest":true}'
    assert encode_question(Question(read=b"abc")) == b'{"read":"YWJj"}'
    assert decode_question(encode_question(Question(sessions=bytes(32)))) == Question(sessions=bytes(32))


@pytest.mark.parametrize(
    "payload",
    [
        b'{"read": "no base64!"}',
        b'{"sessions": "YWJj"}',
        b'{"read": "YWJj", "digest": true}',
        encode_question(Question(sessions=bytes(32), read=b"abc")),
    ],
)
def test_malformed_questions(payload: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode_question(payload)


def test_the_longest_answer_fits_a_status_answer(run: Run) -> None:
    """1024 coins are listed in one page."""

    async def scenario() -> None:
        async with coin_cluster(1) as cluster, cluster.client(MINTER) as client:
            for _ in range(5):
                await client.invoke(coin.mint([1] * 255), SECONDS)
            result = await read(client, coin.coins(MINTER.public_key), SECONDS)
            assert result is not None
            assert len(coin.decode_coins(result)) == coin.MAX_LISTED

    run(scenario)


def test_the_base_class_orders_everything() -> None:
    assert BatchStateMachine.read(Talkative(), b"") is None
