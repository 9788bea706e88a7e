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
    """A table on stdout; numbers to the right, also in columns that have no number in some rows."""
    from rich.table import Table

    table = Table()
    for index, name in enumerate(columns):
        cells = [row[index] for row in rows if row[index] != ""]
        numeric = bool(cells) and all(isinstance(cell, int | float) for cell in cells)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric, overflow="fold")
    for row in rows:
        table.add_row(*map(_cell, row))
    _print_titled(table, title)


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
