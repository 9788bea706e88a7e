"""Data goes to stdout, prose to stderr. With ``--json`` the data is JSON, else a table or plain lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

Function = TypeVar("Function", bound=Callable[..., Any])

# Where no terminal says how wide it is: tables are as wide as what they hold.
_WIDTH = 200


def json_option(function: Function) -> Function:
    """The ``--json`` flag, as ``as_json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON for scripts.")(function)


def examples(*lines: str) -> str:
    """The epilogue of a help page; each line is run by the tests as far as it needs no cluster."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def print_json(data: Any) -> None:
    """One JSON document on stdout; bytes as hexadecimal."""
    encoded = msgspec.json.encode(_hex(data))
    click.echo(msgspec.json.format(encoded, indent=2).decode())


def print_json_line(data: Any) -> None:
    """One JSON document on one line of stdout; bytes as hexadecimal."""
    click.echo(msgspec.json.encode(_hex(data)).decode())


def clear_screen() -> None:
    """On a terminal: what follows takes the place of what was there."""
    console().clear()


def say(text: str) -> None:
    """Prose for people, on stderr."""
    click.echo(text, err=True)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]], title: str | None = None) -> None:
    """A table on stdout; numbers to the right, also in columns that have no number in some rows.

    Where the terminal has no room for it, lines and spaces give way; if that is not enough, rows become columns.
    """
    straight = [tuple(columns), *(tuple(map(_cell, row)) for row in rows)]
    turned = list(zip(*straight, strict=True))
    numbers = {index for index in range(len(columns)) if _numeric([row[index] for row in rows])}
    out = console()
    shapes = ((straight, numbers, False), (straight, numbers, True), (turned, set[int](), True))
    for lines, right, tight in shapes:
        widths = _widths(lines, out.width - (len(lines[0]) - 1 if tight else 3 * len(lines[0]) + 1))
        if widths is not None:
            _print_titled(_filled(lines, widths, right, tight=tight), title)
            return
    narrowest = min(straight, turned, key=lambda lines: len(lines[0]))
    _print_titled(_filled(narrowest, [None] * len(narrowest[0]), set(), tight=True), title)


def _numeric(cells: Sequence[Any]) -> bool:
    found = [cell for cell in cells if cell != ""]
    return bool(found) and all(isinstance(cell, int | float) for cell in found)


def _widths(lines: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """How wide each column is where `room` characters are left for all: words stay whole; None if that cannot be.

    (`rich` shrinks columns of text until they are gone.)
    """
    columns = list(zip(*lines, strict=True))
    least = [max(len(word) for cell in column for word in (cell.split() or [""])) for column in columns]
    if sum(least) > room:
        return None
    widths = [max(map(len, column)) for column in columns]
    while sum(widths) > room:
        widest = max((index for index in range(len(widths)) if widths[index] > least[index]), key=widths.__getitem__)
        widths[widest] -= 1
    return widths


def _filled(lines: Sequence[Sequence[str]], widths: Sequence[int | None], right: set[int], *, tight: bool) -> Table:
    """A table of the first line's names and the other lines; a tight one has no lines but one and no spare spaces."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0) if tight else Table()
    for index, (name, width) in enumerate(zip(lines[0], widths, strict=True)):
        table.add_column(name, justify="right" if index in right else "left", width=width, overflow="fold")
    for line in lines[1:]:
        table.add_row(*line)
    return table


def print_rows(rows: Sequence[tuple[str, str]], title: str) -> None:
    """Names and values on stdout."""
    from rich.table import Table

    table = Table(show_header=False)
    table.add_column(overflow="fold")
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, value)
    _print_titled(table, title)


def _print_titled(table: Table, title: str | None) -> None:
    out = console()
    if title is not None:
        click.echo(title)  # a title of the table itself would be filled up with spaces
    out.print(table)


def console(*, stderr: bool = False) -> Console:
    """A rich console; wide enough for our tables when the output is not a terminal."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not made.is_terminal:
        made = Console(stderr=stderr, highlight=False, width=_WIDTH)
    return made


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _hex(data: Any) -> Any:
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data).hex()
    if isinstance(data, dict):
        return {str(key): _hex(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_hex(item) for item in data]
    return data
