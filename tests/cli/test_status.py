"""What ``smartbft status`` says beside its table: what replicas wait for, and why others do not answer."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest

from smartbft.cli import patience
from smartbft.cli.status import Answers, _diverged, _look, _not_well, _state, _unheard, explanations
from smartbft.config import ClientProfile
from smartbft.errors import HandshakeError, NotEnoughReplies
from smartbft.testnet import create_testnet


def test_who_waits_for_what_and_why_others_do_not_answer() -> None:
    votes, nothing = "an ACCEPT from replica 3", ""
    facts: dict[int, Any] = {replica: {"waiting_for": what} for replica, what in enumerate((votes, nothing, votes))}
    answers = Answers(facts, {3: "connection refused", 4: "no answer yet", 5: "connection refused"})
    assert explanations(answers) == [
        "replicas 0 and 2 wait for an ACCEPT from replica 3",
        "replicas 3 and 5: connection refused",
        "replica 4: no answer yet",
    ]
    assert explanations(Answers({0: {"waiting_for": "room"}}, {})) == ["replica 0 waits for room"]


def diverged(digests: dict[str, list[int]], certain: bool = True) -> dict[str, Any]:
    """What a replica that is well says of itself, but for its state."""
    waiting = "agreement on a checkpoint" if certain else ""
    divergence = {"instance": 4, "certain": certain, "digests": digests}
    return {"waiting_for": waiting, "takes_part": True, "learns": "", "divergence": divergence}


SPLIT = {"aa" * 32: [0], "bb" * 32: [1, 3], "cc" * 32: [2]}
LIAR = {"aa" * 32: [0, 1, 2], "bb" * 32: [3]}


@pytest.fixture
def profile(tmp_path: Path) -> ClientProfile:
    return create_testnet(tmp_path / "net", 4).profile


@pytest.mark.parametrize(
    ("saying", "told"),
    [
        ((0, 1, 2, 3), r"^replicas 0, 1, 2 and 3 say that correct replicas .* after instance 4: the application"),
        ((2,), r"^replica 2 says .* \(no more than f say so: they may be wrong\): .* run 'smartbft check-app"),
    ],
)
def test_replicas_that_cannot_agree_are_told_loudly(profile: ClientProfile, saying: tuple[int, ...], told: str) -> None:
    well = {"waiting_for": "", "takes_part": True, "learns": "", "divergence": None}
    facts: dict[int, Any] = {replica: diverged(SPLIT) if replica in saying else well for replica in range(4)}
    assert re.search(told, _diverged(profile, Answers(facts, {})))
    assert [_state(facts[replica]) == "diverged" for replica in range(4)] == [id in saying for id in range(4)]


@pytest.mark.parametrize(
    "nonsense",
    [5, [], {}, {"certain": True}, {"instance": "4", "certain": True, "digests": {}}, {"instance": 4, "certain": 1}],
)
def test_a_liar_that_says_nonsense_breaks_nothing(profile: ClientProfile, nonsense: Any) -> None:
    facts: dict[int, Any] = {0: diverged(SPLIT) | {"divergence": nonsense}}
    assert _diverged(profile, Answers(facts, {})) == ""
    assert _state(facts[0]) == "up"
    assert len(explanations(Answers(facts, {}))) == 1


def test_whoever_may_lie_is_named_and_no_check_fails(profile: ClientProfile) -> None:
    facts: dict[int, Any] = {replica: diverged(LIAR, certain=False) for replica in range(3)}
    answers = Answers(facts, {})
    assert _diverged(profile, answers) == ""
    (line,) = explanations(answers)
    assert line.startswith("different states after instance 4 (replicas 0, 1 and 2: aaaaaaaaaaaaaaaa, replica 3: bb")
    assert {_state(one) for one in facts.values()} == {"up"}


class Client:
    """Connected to replicas 0 and 1; 0 answers. Who should be asked for a connection refuses, or does not."""

    connected = (0, 1)
    problems = {2: "connection refused"}

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    async def status(self, replica: int, **_: object) -> dict[str, Any]:
        if replica:
            raise NotEnoughReplies("silent")
        return {"decided": 1}

    async def connect(self, _timeout: float) -> None:
        if self.error is not None:
            raise self.error


@pytest.mark.parametrize("error", [None, NotEnoughReplies("too few"), HandshakeError("another chain")])
def test_every_replica_has_an_answer_or_a_problem(error: Exception | None) -> None:
    answers = asyncio.run(_look(Client(error), 2.0))  # type: ignore[arg-type]
    assert answers.facts == {0: {"decided": 1}}
    assert answers.problems == {
        1: "connected, but no answer within 2 seconds: frozen, or overloaded",
        2: "connection refused",
    }
    assert answers.refusal is (error if isinstance(error, HandshakeError) else None)


@pytest.mark.parametrize(
    ("connected", "problems", "expected"),
    [
        ((0, 1), {}, "no answer yet from replicas 0 and 1"),
        ((0,), {1: "connection refused"}, "no answer yet from replica 0; replica 1: connection refused"),
        ((), {0: "no answer yet"}, "replica 0: no answer yet"),
        ((), {}, "for connections to the replicas"),
    ],
)
def test_there_is_always_something_that_is_waited_for(connected, problems: dict[int, str], expected: str) -> None:
    client = Client(None)
    client.connected, client.problems = connected, problems  # type: ignore[misc]
    assert _unheard(client) == expected  # type: ignore[arg-type]


def test_a_replica_that_was_connected_only_just_now_is_no_empty_reason(tmp_path: Path) -> None:
    profile = create_testnet(tmp_path / "net", 1).profile
    assert "()" not in _not_well(profile, Answers({}, {}))


def test_nobody_listens(cli, tmp_path: Path) -> None:
    profile = create_testnet(tmp_path / "net", 4).profile.path
    shown = cli("status", "--profile", profile, "--timeout", "3s")
    assert shown.code == 4
    assert "replicas 0, 1, 2 and 3: connection refused" in shown.out
    assert not any(line.endswith(" ") for line in shown.out.splitlines())
    found = cli("status", "--profile", profile, "--timeout", "3s", "--json")
    assert {(row["state"], row["problem"]) for row in found.json()["replicas"]} == {
        ("unreachable", "connection refused")
    }


def test_whoever_waits_long_is_told_what_for_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 0)
    texts = ["", "replica 1", "replica 1", "replica 2", "replica 2"]

    async def scenario() -> None:
        remaining = list(texts)
        async with patience.patience(lambda: remaining.pop(0) if remaining else ""):
            while remaining:
                await asyncio.sleep(0)

    asyncio.run(scenario())
    assert capsys.readouterr().err.splitlines() == ["replica 1", "replica 2"]


def test_whoever_waits_shortly_is_told_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_SECONDS", 3600.0)

    async def scenario() -> None:
        async with patience.patience(lambda: "something"):
            await asyncio.sleep(0)

    asyncio.run(scenario())
    assert capsys.readouterr().err == ""
