"""Data goes to stdout, prose to stderr. With ``--json`` the data is JSON, else a table or plain lines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

if TYPE_CHECKING:
    from rich.console import Console

Function = TypeVar("Function", bound=Callable[..., Any])


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
    """A table on stdout; numbers to the right."""
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for index, name in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[index], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric)
    for row in rows:
        table.add_row(*map(_cell, row))
    console().print(table)


def print_rows(rows: Sequence[tuple[str, str]], title: str) -> None:
    """Names and values on stdout."""
    from rich.table import Table

    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column(no_wrap=True)
    table.add_column()
    for name, value in rows:
        table.add_row(name, value)
    console().print(table)


def console(*, stderr: bool = False) -> Console:
    """A rich console; wide enough for our tables when the output is not a terminal."""
    from rich.console import Console

    made = Console(stderr=stderr, highlight=False, soft_wrap=False)
    if not made.is_terminal:
        made = Console(stderr=stderr, highlight=False, width=140)
    return made


def _cell(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _hex(data: Any) -> Any:
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data).hex()
    if isinstance(data, dict):
        return {str(key): _hex(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_hex(item) for item in data]
    return data
