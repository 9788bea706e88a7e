"""Tables lose nothing, however narrow the terminal is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from smartbft.cli import output
from smartbft.cli.status import _COLUMNS, _milliseconds, _row

ROWS = [
    (0, "up", 12, 1, 123456, 123456, 0, 65536, 0, "12.31 ms"),
    (1, "unreachable", *[""] * 8),
    (2, "learns", 0, 1, 3, 3, 123453, 0, 0, "0.21 ms"),
    (3, "starting", 0, 1, 3, 3, 0, 0, 0, ""),
]
WORDS = ("replica", "evidence", "unreachable", "starting", "123,456", "123,453", "65,536", "12.31 ms")


@pytest.fixture
def at_width(monkeypatch: pytest.MonkeyPatch) -> dict[int, Console]:
    """Consoles by width; `output.console` gives the last that was asked for."""

    class Consoles(dict[int, Console]):
        def __missing__(self, width: int) -> Console:
            made = self[width] = Console(file=io.StringIO(), width=width, highlight=False)
            monkeypatch.setattr(output, "console", lambda: made)
            return made

    return Consoles()


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [200, 108, 107, 100, 92, 87, 80, 60, 50])
def test_the_status_is_readable_on_every_terminal(at_width: dict[int, Console], width: int) -> None:
    console = at_width[width]
    output.print_table(_COLUMNS, ROWS)
    assert [word for word in WORDS if word not in printed(console)] == []
    assert max(map(len, printed(console).splitlines())) <= width


FACTS = {
    "takes_part": True,
    "regency": 12,
    "leader": 3,
    "decided": 123_456,
    "executed": 123_456,
    "pool": {"pending": 65_536},
    "evidence": 8,
    "log": {"syncs": 5, "sync_recent_seconds": 0.01231},
}


def test_each_replica_has_one_line_of_80_columns_also_beside_one_that_is_unreachable(
    at_width: dict[int, Console],
) -> None:
    console = at_width[80]
    output.print_table(_COLUMNS, [_row(0, FACTS, 123_456, False), _row(1, None, 123_456, False)])
    lines = printed(console).splitlines()
    first = next(line for line in lines if "123,456" in line)
    assert all(word in first for word in ("up", "12", "65,536", "12.3"))
    assert lines.index(next(line for line in lines if "unreachable" in line)) == lines.index(first) + 1


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0.00"), (0.00021, "0.21"), (0.00999, "9.99"), (0.01231, "12.3"), (0.2, "200"), (3.5, "3500"), (61, "61000")],
)
def test_times_of_syncs_are_short(seconds: float, shown: str) -> None:
    assert _milliseconds(seconds) == shown


@pytest.mark.parametrize("width", [45, 36])
def test_where_words_do_not_fit_they_fold(at_width: dict[int, Console], width: int) -> None:
    console = at_width[width]
    output.print_table(_COLUMNS, ROWS)
    found = printed(console).replace("\n", " ")
    assert all(part in found for part in ("unrea", "start", "12.31", "evid"))


def test_many_rows_stay_rows(at_width: dict[int, Console]) -> None:
    console = at_width[40]
    output.print_table(("number", "a long name of a column", "text"), [(n, n * 10**9, "z" * 30) for n in range(30)])
    lines = printed(console).splitlines()
    assert "29" in lines[-2] + lines[-1]
    assert printed(console).replace("\n", "").count("z") == 30 * 30


def test_planted_bug_a_table_that_only_shrinks_loses_its_words(at_width: dict[int, Console]) -> None:
    console = at_width[70]
    lines = [_COLUMNS, *(tuple(map(output._cell, row)) for row in ROWS)]
    console.print(output._filled(lines, [None] * len(_COLUMNS), set(), tight=False))
    assert "unreachable" not in printed(console)
