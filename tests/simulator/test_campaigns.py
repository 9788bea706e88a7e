"""`ci/campaign.py`: campaigns resume, add up over processes, and keep what failed; its suites can fail."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ci import campaign
from smartbft.testing.mutants import MUTANTS
from smartbft.testing.power_losses import POINTS, lose_power_often

SUITE = "power-loss"


def run(monkeypatch: pytest.MonkeyPatch, totals: Path, line: str) -> int:
    monkeypatch.setattr(sys, "argv", ["campaign.py", *line.split(), "--totals", str(totals)])
    return campaign.main()


def entry(totals: Path) -> dict[str, Any]:
    return json.loads(totals.read_text())[SUITE]


def test_a_campaign_goes_on_where_the_last_one_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    totals = tmp_path / "totals.json"
    assert run(monkeypatch, totals, f"--suite {SUITE} --until {2 * POINTS}") == 0
    first = entry(totals)
    assert (first["count"], first["next"], first["failures"]) == (2 * POINTS, 2, [])
    assert run(monkeypatch, totals, f"--suite {SUITE} --until {3 * POINTS}") == 0
    second = entry(totals)
    assert (second["count"], second["next"], second["figures"]["runs"]) == (3 * POINTS, 3, 3)
    before = totals.read_text()
    assert run(monkeypatch, totals, f"--suite {SUITE} --until {3 * POINTS}") == 0
    assert totals.read_text() == before


@pytest.mark.slow
def test_several_processes_add_up_to_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for processes in (1, 2):
        assert run(monkeypatch, tmp_path / f"{processes}", f"--suite {SUITE} --until 60 --processes {processes}") == 0
    assert entry(tmp_path / "1") == entry(tmp_path / "2")


def test_failures_are_kept_with_what_repeats_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    def piece(suite: str, number: int) -> campaign.Piece:
        return campaign.Piece(1, {"most": number}, "planted" if number == 1 else "", "found", "")

    monkeypatch.setattr(campaign, "run_piece", piece)
    totals = tmp_path / "totals.json"
    assert run(monkeypatch, totals, f"--suite {SUITE} --until 3") == 1
    again = f"python ci/campaign.py --suite {SUITE} --only 1"
    assert f"FAILED planted: found\n  repeat with: {again}" in capsys.readouterr().out
    kept = entry(totals)
    assert kept["failures"] == [
        {"commit": kept["commit"], "promise": "planted", "message": "found", "command": again},
    ]
    assert (kept["count"], kept["figures"]) == (3, {"most": 2})
    assert run(monkeypatch, totals, f"--suite {SUITE} --only 1") == 1
    assert run(monkeypatch, totals, f"--suite {SUITE} --only 0") == 0
    assert run(monkeypatch, totals, "--list") == 0
    assert "power-loss " in capsys.readouterr().out


def test_an_interrupt_keeps_what_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def piece(suite: str, number: int) -> campaign.Piece:
        if number == 4:
            raise KeyboardInterrupt
        return campaign.Piece(1)

    monkeypatch.setattr(campaign, "run_piece", piece)
    assert run(monkeypatch, tmp_path / "totals.json", f"--suite {SUITE}") == 0
    assert entry(tmp_path / "totals.json")["next"] == 4


def test_a_campaign_that_did_nothing_leaves_the_totals_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def piece(suite: str, number: int) -> campaign.Piece:
        raise KeyboardInterrupt

    monkeypatch.setattr(campaign, "run_piece", piece)
    assert run(monkeypatch, tmp_path / "totals.json", f"--suite {SUITE}") == 0
    assert not (tmp_path / "totals.json").exists()


def test_two_campaigns_of_one_suite_do_not_count_twice(tmp_path: Path):
    totals = campaign.Totals(tmp_path / "totals.json")
    news = campaign.News()
    news.add(SUITE, 0, campaign.Piece(20))
    totals.add(SUITE, 0, news)
    with pytest.raises(SystemExit, match="another campaign has run 'power-loss' meanwhile: 1 pieces do not count"):
        totals.add(SUITE, 0, news)


def test_whatever_a_piece_raises_is_a_failure(monkeypatch: pytest.MonkeyPatch):
    def piece(number: int) -> campaign.Piece:
        raise ZeroDivisionError("planted")

    monkeypatch.setitem(campaign.SUITES, SUITE, campaign.SUITES[SUITE].__class__("D2", "", piece))
    assert campaign.run_piece(SUITE, 0).message == "ZeroDivisionError: planted"


@pytest.mark.parametrize("suite", sorted(set(campaign.SUITES) - {"histories", "kill-9", "honest", "honest-7"}))
def test_a_piece_of_each_suite(suite: str):
    piece = campaign.run_piece(suite, 0)
    assert (piece.promise, piece.message) == ("", "")
    assert piece.count >= 1


# --- power losses of the whole cluster --------------------------------------------------------------------------------


def test_power_losses_are_repeatable():
    outcome = lose_power_often(3)
    assert outcome == lose_power_often(3)
    assert outcome.failure is None
    assert outcome.losses > outcome.points > 10


@pytest.mark.parametrize("name", ["vote-before-durable", "votes-forgotten", "reply-before-durable"])
def test_a_planted_bug_is_found_by_power_losses(name: str):
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name == name)
    with mutant.plant():
        found = next(filter(None, (lose_power_often(seed).failure for seed in range(20))), None)
    assert found is not None
    assert found.promise in (*mutant.promises, "durability")
    assert "--suite power-loss --only" in found.command
