"""What a run with faults shows: the progress line, and the table of what each fault cost."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from smartbft.cli import progress as lines
from smartbft.measurement.faults import FROZEN, KILLED, WIPED, FaultFigures, Observer
from smartbft.measurement.report import fault_table
from smartbft.measurement.scenario import Scenario

KILL = FaultFigures(KILLED, 1, 0, 1, 2.3, 3.6, 2.7, 6394.0, 7008.0)


def test_a_fault_is_a_column() -> None:
    faults = [KILL, replace(KILL, name=FROZEN, regency_before=1), replace(KILL, name=WIPED, transferred=96)]
    columns, rows = fault_table(SimpleNamespace(faults=faults))  # type: ignore[arg-type]
    assert columns == ("fault", KILLED, FROZEN, WIPED)
    found = {name: cells for name, *cells in rows}
    assert all(len(cells) == len(faults) for cells in found.values())
    assert found["time without progress"][0] == "2.30 s"
    assert found["regency"][:2] == ["0, then 1", "1"]
    assert found["came back with"][1:] == ["its own state", "snapshot of instance 96"]


def observer(*executed: int | None) -> Observer:
    """One that has looked: replicas that have executed so much of 100 instances, None for one that did not answer."""
    made = Observer(None, range(len(executed)), print)  # type: ignore[arg-type]
    made.saw(
        {
            replica: {"regency": 2, "leader": 3, "decided": 100, "executed": instances}
            for replica, instances in enumerate(executed)
            if instances is not None
        }
    )
    return made


def test_the_line_says_who_leads_who_is_missing_and_who_is_behind() -> None:
    made = observer(100, None, 40, None)
    made._decided_before = 90
    made.conditions[1] = "frozen"
    assert made.describe() == "regency 2, leader 3, replica 1 frozen, replica 2 behind by 60, replica 3 does not answer"


def test_at_the_first_look_nobody_is_behind() -> None:
    assert observer(100, 100).describe() == "regency 2, leader 3"
    assert observer().describe() == "no replica answers"


def test_a_look_at_which_nobody_answered_in_time_changes_no_leader() -> None:
    made = observer(100, 100)
    made.saw({})
    assert (made.regency, made.leader) == (2, 3)
    made.saw({1: {"regency": 1, "leader": 2, "decided": 100, "executed": 100}})
    assert (made.regency, made.leader) == (2, 3)
    made.saw({2: {"regency": 3, "leader": 0, "decided": 100, "executed": 100}})
    assert (made.regency, made.leader) == (3, 0)


@pytest.mark.parametrize("open_end", [False, True])
def test_the_progress_line_fits_a_terminal_and_keeps_its_columns(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, open_end: bool
) -> None:
    monkeypatch.setattr(lines, "_LINE_SECONDS", 0.0)
    with lines.Progress(Scenario(seconds=20.0, warm_up=1.0), open_end=open_end) as progress:
        progress.report("load", 0.0, 0)
        progress.note("regency 1, leader 2, replica 0 frozen" if open_end else "")
        progress.report("load", 12.5, 156_409)
    said = capsys.readouterr().err.splitlines()
    assert said[1].startswith("load 12.5 s" if open_end else "load 12.5 of 21.0 s")
    assert len({line.index("transactions") for line in said}) == 1
    assert max(map(len, said)) <= 90


@pytest.mark.parametrize(("quiet", "count"), [(False, 2), (True, 0)])
def test_a_campaign_in_a_pipe_says_how_far_it_is(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, quiet: bool, count: int
) -> None:
    monkeypatch.setattr(lines, "_SEEDS_LINE_SECONDS", 0.0)
    with lines.seeds_progress(10, quiet=quiet) as show:
        show(1, 2.0)
        show(5, 2.5)
    said: list[Any] = capsys.readouterr().err.splitlines()
    assert len(said) == count
    assert quiet or said[1] == "5 of 10 seeds, 2.5 per second"
