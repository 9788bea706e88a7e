"""Tables lose nothing, however narrow the terminal is."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from smartbft.cli import output
from smartbft.cli.status import _COLUMNS

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
