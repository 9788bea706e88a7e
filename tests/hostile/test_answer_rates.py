"""Every answer to a peer has a rate: whatever a member asks, and however often, it gets what the table says.

A class of messages that is new and is not in the table, or has no questions in `kit.questions`, fails here.
"""

from __future__ import annotations

from typing import get_args

import pytest
from kit.questions import LIAR, PEER, Rich

from smartbft.core.answer_rates import ANSWERS, RATES, AnswerRates, Unit
from smartbft.core.effects import Send
from smartbft.core.inputs import PeerConnected, Timer
from smartbft.core.repetition import Repetition
from smartbft.core.serving import Serving
from smartbft.limits import REHEARSAL_BLOCK, REHEARSAL_BLOCKS, SNAPSHOTS_KEPT
from smartbft.messages import (
    Checkpoint,
    Decision,
    FetchCheckpoints,
    FetchChunk,
    FetchDecisions,
    FetchHeld,
    FetchManifest,
    FetchRequests,
    FetchStanding,
    FetchSync,
    FetchValue,
    Gone,
    HeldRequests,
    Message,
    Progress,
    ProposedValue,
    RequestBodies,
    SnapshotChunk,
    SnapshotManifest,
    Standing,
    StopData,
    Sync,
)

TIMES = 400
# What nothing but its rate keeps short, and the answer that shows it.
RATE_ALONE: list[tuple[type[Message], type]] = [
    (FetchDecisions, Decision),
    (FetchDecisions, Gone),
    (FetchValue, ProposedValue),
    (FetchHeld, HeldRequests),
    (FetchStanding, Standing),
    (FetchCheckpoints, Checkpoint),
    (FetchManifest, SnapshotManifest),
    (FetchManifest, Checkpoint),
    (FetchChunk, SnapshotChunk),
]
MAIN_ANSWERS = [*RATE_ALONE, (FetchRequests, RequestBodies), (FetchSync, Sync), (StopData, Sync)]


@pytest.fixture
def rich() -> Rich:
    return Rich()


def excess(got: dict[type, list[int]], question: type[Message]) -> list[str]:
    """What a peer got beyond the table."""
    found = []
    for answer, sizes in got.items():
        if answer not in (*ANSWERS[question], Sync):
            allowed, given = 8, len(sizes)  # it made us say something, once or twice, to everybody
        elif RATES[answer].unit is Unit.BYTES_PER_SECOND:
            allowed, given = RATES[answer].at_once + max(sizes), sum(sizes)
        else:
            per_answer = SNAPSHOTS_KEPT if answer is Checkpoint else 1  # one for each snapshot that is here
            allowed, given = RATES[answer].at_once * per_answer, len(sizes)
        if given > allowed:
            found.append(f"{answer.__name__}: {given} instead of {allowed}")
    return found


def test_every_message_is_in_the_table() -> None:
    assert set(ANSWERS) == set(get_args(Message))
    used = {answer for answers in ANSWERS.values() for answer in answers}
    assert set(RATES) == used | {PeerConnected}
    assert all(rate.at_once >= 1 and rate.refill >= 1 and rate.reason for rate in RATES.values())


@pytest.mark.parametrize("question", get_args(Message))
def test_a_flood_is_answered_up_to_the_rate(rich: Rich, question: type[Message]) -> None:
    assert excess(rich.ask(LIAR, rich.questions(question), TIMES), question) == []


@pytest.mark.parametrize(("question", "answer"), MAIN_ANSWERS)
def test_others_are_answered_and_the_liar_when_time_has_passed(
    rich: Rich, question: type[Message], answer: type
) -> None:
    assert answer in rich.ask(LIAR, rich.questions(question), TIMES)
    assert answer in rich.ask(PEER, rich.questions(question, PEER), 4)
    rich.node.now += 4 * rich.cluster.parameters.resend_interval
    assert answer in rich.ask(LIAR, rich.questions(question), TIMES)


@pytest.mark.parametrize(("question", "answer"), RATE_ALONE)
def test_planted_bug_a_question_without_a_rate(
    rich: Rich, question: type[Message], answer: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = AnswerRates.may
    monkeypatch.setattr(AnswerRates, "may", lambda rates, peer, kind: kind is answer or original(rates, peer, kind))
    found = excess(rich.ask(LIAR, rich.questions(question), TIMES), question)
    assert [line.split(":")[0] for line in found] == [answer.__name__]


def test_no_question_of_one_kind_uses_up_the_answers_to_another(rich: Rich) -> None:
    for question in get_args(Message):
        if question is not FetchHeld:
            rich.ask(LIAR, rich.questions(question), TIMES)
    assert HeldRequests in rich.ask(LIAR, rich.questions(FetchHeld), 1)


def connect(rich: Rich, peer: int, times: int) -> int:
    rich.forget()
    for _ in range(times):
        rich.node.step(PeerConnected(peer))
    return len(rich.got(peer)[Progress])


def test_a_channel_that_comes_and_goes_is_told_at_the_next_resend_interval(rich: Rich) -> None:
    at_once = RATES[PeerConnected].at_once
    assert connect(rich, LIAR, TIMES) == at_once
    assert connect(rich, PEER, 1) == 1
    rich.forget()
    for _ in range(2):
        rich.node.now += rich.cluster.parameters.resend_interval
        rich.node.fire(Timer.RESEND)
    told = [effect for effect in rich.node.effects if isinstance(effect, Send) and isinstance(effect.message, Progress)]
    assert [effect.to for effect in told] == [LIAR], "once, although it came many times"


def test_planted_bug_every_new_channel_is_told_all(rich: Rich, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Repetition, "to_connected", Repetition._repeat)
    assert connect(rich, LIAR, TIMES) == TIMES


def test_a_clock_that_is_set_back_costs_nobody_the_answer(rich: Rich) -> None:
    assert Standing in rich.ask(LIAR, rich.questions(FetchStanding), TIMES)
    rich.node.now -= 3_600_000_000
    assert Standing not in rich.ask(LIAR, rich.questions(FetchStanding), TIMES)
    rich.node.now += rich.cluster.parameters.resend_interval
    assert Standing in rich.ask(LIAR, rich.questions(FetchStanding), TIMES)


def test_decisions_from_the_log_count_as_large_as_they_are(rich: Rich, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before they are read nobody knows; then small ones leave room for more, and large ones do not."""
    settle, size = AnswerRates.settle, [1]
    monkeypatch.setattr(AnswerRates, "settle", lambda rates, peer, count, _: settle(rates, peer, count, size[0]))
    monkeypatch.setattr(Serving, "_got", lambda *_: 0)
    for _ in range(20):
        assert Decision in rich.ask(LIAR, rich.questions(FetchDecisions), 8)
    size[0] = RATES[Decision].at_once
    assert Decision in rich.ask(LIAR, rich.questions(FetchDecisions), 8)
    assert Decision not in rich.ask(LIAR, rich.questions(FetchDecisions), 8)


def test_all_blocks_of_a_rehearsal_may_be_asked_of_one_peer(rich: Rich, monkeypatch: pytest.MonkeyPatch) -> None:
    """While they are read, and more of them than that are not."""
    monkeypatch.setattr(AnswerRates, "settle", lambda *_: None)
    monkeypatch.setattr(Serving, "_got", lambda *_: 0)
    blocks = [FetchDecisions(0, 1, 4, 3 + REHEARSAL_BLOCK)] * (3 * REHEARSAL_BLOCKS)
    assert len(rich.ask(LIAR, iter(blocks), len(blocks))[Decision]) == REHEARSAL_BLOCK * REHEARSAL_BLOCKS
