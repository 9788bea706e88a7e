"""A replica that asks all the time holds nobody up and is given little; with one rule less, the simulator sees it."""

from __future__ import annotations

import pytest
from kit.examples import PROOF

from smartbft.core.answer_rates import AnswerRates
from smartbft.messages import (
    Checkpoint,
    Decision,
    FetchStanding,
    HeldRequests,
    ProposedValue,
    SnapshotChunk,
    SnapshotManifest,
    Standing,
)
from smartbft.testing import SimulationOptions, run_campaign
from smartbft.testing.answers import AnswersChecker

INTERVAL = 250_000


def options(authentication: str = "auto") -> SimulationOptions:
    return SimulationOptions(byzantine="ask-all-the-time", instances=40, authentication=authentication)


@pytest.mark.parametrize("authentication", ["signatures", "channel"])
def test_whoever_asks_all_the_time_holds_nobody_up(authentication: str) -> None:
    assert run_campaign(options(authentication), 6, keep_going=True).failures == []


@pytest.mark.parametrize("answer", [Standing, Checkpoint, ProposedValue, HeldRequests, SnapshotManifest, SnapshotChunk])
def test_planted_bug_one_answer_without_a_rate(answer: type, monkeypatch: pytest.MonkeyPatch) -> None:
    may = AnswerRates.may
    monkeypatch.setattr(AnswerRates, "may", lambda rates, peer, kind: kind is answer or may(rates, peer, kind))
    (found,) = run_campaign(options("channel"), 24).failures
    assert found.promise == "bounded answers"
    assert f" {answer.__name__} " in found.message


def test_the_checker() -> None:
    """Each replica, each peer and each kind for itself; from another interval, and another life, on anew."""
    checker, standing = AnswersChecker(INTERVAL), Standing(0, 0, 1, None, None, None)
    for replica, to in ((0, 1), (0, 2), (1, 2)):
        assert [checker.sent(replica, to, standing, 5) for _ in range(24)] == [""] * 24
    assert "replica 0 has sent replica 2 Standing 25 times" in checker.sent(0, 2, standing, INTERVAL + 4)
    assert checker.sent(0, 2, standing, INTERVAL + 5) == ""
    assert "25 times" in checker.sent(0, 1, standing, 6)
    checker.restarted(0)
    assert checker.sent(0, 1, standing, 7) == ""
    assert checker.sent(1, 2, standing, 7) != ""
    assert not any(checker.sent(0, 1, FetchStanding(0, 0, 1), 8) for _ in range(1_000)), "a question"


def test_the_checker_counts_the_decision_of_each_instance() -> None:
    checker = AnswersChecker(INTERVAL)
    for instance in range(1, 500):
        assert checker.sent(0, 1, Decision(0, 0, instance, bytes(8), b"", PROOF), 0) == ""
    again = [checker.sent(0, 1, Decision(0, 0, 7, bytes(8), b"", PROOF), 0) for _ in range(6)]
    assert again[:5] == [""] * 5
    assert "the decision of instance 7" in again[5]
