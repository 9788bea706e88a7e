"""Questions about the status: many askers, one answer; no asker keeps the replica from its work."""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path

import pytest
from kit.patience import PATIENCE_SECONDS, status_of

from smartbft import LocalCluster
from smartbft._fastpath.frames import STATUS, frame
from smartbft.apps import counter
from smartbft.errors import MalformedMessage
from smartbft.limits import MAX_OPEN_QUESTIONS, MAX_STATUS_SHARE, STATUS_INTERVAL_SECONDS
from smartbft.runtime import assembly, status
from smartbft.runtime.status import Facts, Question, StatusDesk, decode_question, encode_answer, thread_times
from smartbft.smr.application import BatchStateMachine
from smartbft.smr.per_operation import PerOperation

Run = Callable[[Callable[[], Awaitable[None]]], None]


class Replica:
    """Counts how often it is asked; digests come when the test says so."""

    def __init__(self) -> None:
        self.looks = 0
        self.digests: list[Callable[[Facts], None]] = []
        self.questions: list[tuple[Sequence[Question], Callable[[list[Facts], float], None]]] = []
        self.desk = StatusDesk(self.facts, self.digests.append, lambda *asked: self.questions.append(asked))

    def facts(self) -> Facts:
        self.looks += 1
        return {"looks": self.looks}


def test_everybody_who_asks_meanwhile_gets_the_same_answer(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        now = 100.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
        monkeypatch.setattr(time, "thread_time", lambda: 0.0)  # what answers cost makes the pause longer
        replica = Replica()
        answers: list[Facts] = []
        for _ in range(1000):
            replica.desk.ask(Question(), answers.append)
        while len(answers) < 1000:
            await asyncio.sleep(0)
        assert replica.looks == 1
        replica.desk.ask(Question(), answers.append)
        for pause, expected in ((0.9, 1), (0.2, 2)):
            now += pause * STATUS_INTERVAL_SECONDS
            for _ in range(3):
                await asyncio.sleep(0)
            assert replica.looks == expected
        assert len(answers) == 1001

    run(scenario)


@pytest.mark.parametrize("digest", [False, True])
def test_a_crowd_of_askers_costs_a_part_of_the_loop(run: Run, monkeypatch: pytest.MonkeyPatch, digest: bool) -> None:
    """Each answer to each of them takes a while, and each asks again at once."""
    cost, crowd = 0.0001, 500

    async def scenario() -> None:
        now, spent, answers = 100.0, 0.0, 0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
        monkeypatch.setattr(time, "thread_time", lambda: spent)
        replica = Replica()

        def answered(_: Facts) -> None:
            nonlocal now, spent, answers
            answers += 1
            now, spent = now + cost, spent + cost
            replica.desk.ask(Question(digest=digest), answered)

        for _ in range(crowd):
            replica.desk.ask(Question(digest=digest), answered)
        while now < 110.0:
            now += 0.001
            await asyncio.sleep(0)
            while replica.digests:
                replica.digests.pop()({"digest": "d"})
        assert answers >= 2 * crowd
        assert spent / (now - 100.0) < 2 * MAX_STATUS_SHARE
        replica.desk.close()

    run(scenario)


def test_planted_bug_answers_cost_nothing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(status, "_pause_after", lambda cost: STATUS_INTERVAL_SECONDS)
    with pytest.raises(AssertionError):
        test_a_crowd_of_askers_costs_a_part_of_the_loop(run, monkeypatch, False)


def test_what_many_ask_is_put_together_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[Facts] = []

    def encode(facts: Facts) -> bytes:
        encoded.append(facts)
        return encode_answer(facts)

    async def scenario() -> None:
        async with LocalCluster(1, counter.Counter) as cluster, cluster.client() as client, cluster.client() as other:
            asked = [one.status(0, timeout=PATIENCE_SECONDS) for one in (client, other) for _ in range(4)]
            monkeypatch.setattr(assembly, "encode_answer", encode)
            assert len(await asyncio.gather(*asked)) == 8
            assert len(encoded) == len({id(facts) for facts in encoded}) <= 8

    run(scenario)


def test_one_digest_at_a_time(run: Run) -> None:
    async def scenario() -> None:
        replica = Replica()
        answers: list[Facts] = []
        for _ in range(10):
            replica.desk.ask(Question(digest=True), answers.append)
        while not replica.digests:
            await asyncio.sleep(0)
        replica.desk.ask(Question(digest=True), answers.append)
        assert len(replica.digests) == 1
        replica.digests[0]({"digest": "d"})
        assert answers == [{"looks": 1, "digest": "d"}] * 11
        replica.desk.ask(Question(digest=True), answers.append)
        while len(replica.digests) < 2:
            await asyncio.sleep(0)
        replica.desk.close()

    run(scenario)


def test_a_closed_desk_answers_nobody(run: Run) -> None:
    async def scenario() -> None:
        replica, answers = Replica(), []
        replica.desk.ask(Question(), answers.append)
        replica.desk.close()
        await asyncio.sleep(2 * STATUS_INTERVAL_SECONDS)
        assert answers == []

    run(scenario)


def test_answers_come_in_the_order_of_the_questions(run: Run) -> None:
    async def scenario() -> None:
        async with LocalCluster(1, counter.Counter) as cluster, cluster.client() as client:
            with_digest = [number % 2 == 0 for number in range(MAX_OPEN_QUESTIONS)]
            asked = [client.status(0, digest=digest, timeout=PATIENCE_SECONDS) for digest in with_digest]
            answers = await asyncio.gather(*asked)
            assert ["digest" in answer for answer in answers] == with_digest

    run(scenario)


def test_too_many_open_questions_close_the_connection(run: Run) -> None:
    async def scenario() -> None:
        async with LocalCluster(1, counter.Counter) as cluster, cluster.client() as client:
            connection = client._connections[0]
            client._questions[0].extend(asyncio.get_running_loop().create_future() for _ in range(100))
            connection.send(frame(STATUS, b"{}") * 100)
            await connection.done
            assert (await status_of(client, 0))["replica"] == 0

    run(scenario)


@pytest.mark.parametrize("payload", [b"", b"[]", b'{"digest": 1}', b'{"other": 1}', b"\xff", b"[" * 10_000])
def test_malformed_questions(payload: bytes) -> None:
    with pytest.raises(MalformedMessage, match="question about the status"):
        decode_question(payload)


def test_without_file_descriptors_the_threads_are_not_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A crowd of connections may have them all: a question about the status must not end the replica."""

    def exhausted(path: Path) -> Iterator[Path]:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(Path, "iterdir", exhausted)
    assert set(thread_times()) == {"loop", "process"}


def test_thread_times_name_the_threads() -> None:
    times = thread_times()
    assert times["loop"] > 0
    assert all(seconds >= 0 for seconds in times.values())


# --- what the application tells ---


class Secretive(PerOperation):
    """Its figures are no figures."""

    def __init__(self) -> None:
        super().__init__(counter.Counter())

    def facts(self) -> dict[str, int]:
        return {"key": bytes(4)}  # type: ignore[dict-item]


class Broken(Secretive):
    """It stumbles over its own figures."""

    def facts(self) -> dict[str, int]:
        raise ZeroDivisionError("no operations yet")


@pytest.mark.parametrize(
    ("application", "problem"),
    [
        (Secretive, "TypeError: Object of type bytes is not JSON serializable"),
        (Broken, "ZeroDivisionError: no operations yet"),
    ],
)
def test_facts_that_cannot_be_told_end_no_replica(
    run: Run, application: Callable[[], BatchStateMachine], problem: str
) -> None:
    async def scenario() -> None:
        async with LocalCluster(1, application) as cluster, cluster.client() as client:
            answer = await client.status(0, digest=True)
            assert answer["application"] == {"error": problem}
            assert len(answer["digest"]) == 64
            assert counter.decode_value(await client.invoke(counter.add(1))) == 1

    run(scenario)
