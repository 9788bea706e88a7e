"""Click groups: they suggest what a mistyped command may mean, and import commands when they run."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import click

from smartbft.cli.streams import begins


class SuggestingGroup(click.Group):
    """A group that answers a name it does not know with those that may have been meant."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As of a click group. Raises UsageError: there is no such command."""
        name = args[0]
        unknown = not name.startswith("-") and self.get_command(ctx, name) is None
        if unknown and not ctx.resilient_parsing:
            meant = " or ".join(f"'{line}'" for line in self._similar(ctx, name))
            raise click.UsageError(f"No such command '{name}'.{f' Did you mean {meant}?' if meant else ''}", ctx)
        return super().resolve_command(ctx, args)

    def _similar(self, ctx: click.Context, name: str) -> list[str]:
        """Command lines of a similar name: here, or exactly this name one level below."""
        names = self.list_commands(ctx)
        typed = name.lower().replace("_", "-")
        close = [one for one in names if len(typed) > 1 and one.startswith(typed)]
        close += [one for one in difflib.get_close_matches(typed, names) if one not in close]
        below = [f"{one} {typed}" for one in names if self._has(ctx, one, typed)]
        return [f"{ctx.command_path} {one}" for one in [*close, *below]][:3]

    def _has(self, ctx: click.Context, group: str, name: str) -> bool:
        found = self.get_command(ctx, group)
        return isinstance(found, click.Group) and found.get_command(ctx, name) is not None


class LazyGroup(SuggestingGroup):
    """A group made from a table of ``name: ("module:attribute", "one line of help")``."""

    def __init__(self, *args: Any, commands_table: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._table = dict(commands_table)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names, in the order of the table: that of a first session."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command."""
        entry = self._table.get(cmd_name)
        if entry is None:
            return None
        module, _, attribute = entry[0].partition(":")
        command = getattr(importlib.import_module(module), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{entry[0]} is no command")
        _mark(command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in self._table.items()])


def _mark(command: click.Command) -> None:
    """Have the streams know when a command, or one below it, begins to do what it does."""
    if isinstance(command, click.Group):
        for below in command.commands.values():
            _mark(below)
    elif command.callback is not None:
        command.callback = begins(command.callback)
