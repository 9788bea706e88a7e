"""Whom a replica misses: who is not connected, and who is and says nothing."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from smartbft.runtime.peers import PeerChannels
from smartbft.runtime.problems import name_problems, problem_lines, with_absent


@pytest.mark.parametrize(
    ("waiting", "missing", "silent", "said"),
    [
        ("", [], [], ""),
        ("", [2], [], ""),
        ("", [], [3], ""),
        ("WRITEs", [2], [], "WRITEs (replica 2: not connected)"),
        ("WRITEs", [], [3], "WRITEs (replica 3: silent)"),
        ("", [2, 3], [], "a connection to 1 of replicas 2 and 3"),
        ("WRITEs", [1, 2, 3], [], "a connection to 2 of replicas 1, 2 and 3"),
        ("", [2], [3], "a sign of life from 1 of replicas 2 and 3 (replica 3: connected, but silent)"),
        ("", [], [2, 3], "a sign of life from 1 of replicas 2 and 3 (replicas 2 and 3: connected, but silent)"),
    ],
)
def test_what_a_replica_of_four_waits_for(waiting: str, missing: list[int], silent: list[int], said: str) -> None:
    assert with_absent(waiting, 1, missing, silent) == said


def test_without_spare_replicas_all_that_are_missing_are_needed() -> None:
    assert with_absent("", 0, [2], []) == "a connection to replica 2"


def test_problems_are_grouped() -> None:
    problems = {0: "refused", 1: "no answer", 2: "refused"}
    assert problem_lines(problems) == ["replicas 0 and 2: refused", "replica 1: no answer"]
    assert name_problems(problems) == "replicas 0 and 2: refused; replica 1: no answer"


def test_a_peer_that_says_nothing_is_silent_until_it_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    def channel(peer: int) -> Any:
        return SimpleNamespace(peer=SimpleNamespace(replica=peer), address="", failed=False, abort=lambda: None)

    async def scenario() -> None:
        now = 100.0
        monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
        peers = PeerChannels(lambda _: None, lambda *_: None, lambda _: None, f=1)
        speaking, frozen = channel(1), channel(2)
        peers.opened(speaking)
        peers.opened(frozen)
        assert peers.silent(3.0) == []
        now = 104.0
        peers.received(speaking, [])
        assert peers.silent(3.0) == [2]
        assert peers.connected() == [1, 2]
        peers.received(frozen, [])
        assert peers.silent(3.0) == []
        now = 110.0
        peers.closed(frozen, None)
        assert peers.silent(3.0) == [1]

    asyncio.run(scenario())
