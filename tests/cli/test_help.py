"""Every help page: there is one on every level, it ends with two examples, and the examples are valid command lines."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import click
import pytest

from smartbft.cli.entry import COMMANDS, cli
from smartbft.cli.exit_codes import MEANINGS, ExitCode


def pages(command: click.Command = cli, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    yield path
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            found = command.get_command(context, name)
            assert found is not None
            yield from pages(found, (*path, name))


PAGES = list(pages())


def help_text(run, path: tuple[str, ...]) -> str:
    outcome = run(*path, "--help")
    assert outcome.code == 0
    assert outcome.err == ""
    return outcome.out


def examples(text: str) -> list[str]:
    lines = text.rpartition("Examples:\n")[2].splitlines()
    return [line.strip() for line in lines if line.strip()]


def parse(arguments: list[str]) -> None:
    """Parse a command line down to the last sub-command, without running anything."""
    command: click.Command = cli
    context = None
    while True:
        context = command.make_context(command.name, list(arguments), parent=context)
        if not isinstance(command, click.Group):
            return
        name, found, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None, name
        command = found


@pytest.mark.parametrize("path", PAGES, ids=" ".join)
def test_every_page_ends_with_two_valid_examples(cli, path: tuple[str, ...]) -> None:
    found = examples(help_text(cli, path))
    assert len(found) >= 2
    for example in found:
        words = shlex.split(example.replace("ADDRESS", "00" * 32))
        assert words[0] == "smartbft"
        assert tuple(words[1 : 1 + len(path)]) == path
        parse(words[1:])


@pytest.mark.parametrize("path", [path for path in PAGES if path], ids=" ".join)
def test_no_list_of_commands_breaks_off_in_the_middle_of_a_sentence(cli, path: tuple[str, ...]) -> None:
    listed = help_text(cli, path).partition("Commands:\n")[2].partition("Examples:")[0]
    assert "..." not in listed


def test_an_example_with_a_mistake_is_found() -> None:
    with pytest.raises(click.UsageError):
        parse(["demo", "--secnds", "3"])


def test_the_root_page_lists_every_command_and_exit_code(cli) -> None:
    text = help_text(cli, ())
    for name, (_, help_line) in COMMANDS.items():
        assert name in text
        assert help_line in text
    for code in ExitCode:
        assert f"{code.value:<3} {MEANINGS[code]}" in text


def test_help_does_not_import_what_it_describes() -> None:
    import subprocess
    import sys

    probe = (
        "import sys; from smartbft.cli.entry import run; run(['--help']); "
        "slow = {'asyncio', 'rich', 'uvloop', 'cryptography', 'nacl', 'smartbft.runtime'} & set(sys.modules); "
        "sys.exit(f'imported: {slow}' if slow else 0)"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
