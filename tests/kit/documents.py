"""Takes documents apart: code blocks, links, and the command lines of ``smartbft`` wherever they stand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import click

from smartbft.cli.entry import cli

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = tuple(sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]))

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE_NAME = re.compile(r"# ([\w.]+\.py)\n")
_INLINE = re.compile(r"`(smartbft (?!v1 )[^`]+)`")  # "smartbft v1 ..." names a key derivation
_INDENTED = re.compile(r"^(?: {4}|\t)(smartbft .+)$", re.MULTILINE)
_SUBSTITUTION = re.compile(r"\$\(([^()]*)\)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\$\w+|\bADDRESS\b")
_SOME_KEY = "00" * 32


@dataclass(frozen=True)
class Block:
    """A fenced code block.

    Attributes:
        line: of the document, where its first line stands.
        file: the name in a first line ``# name.py``, if there is one.
    """

    language: str
    text: str
    line: int
    file: str | None


def blocks(text: str) -> list[Block]:
    """The fenced blocks of a document, in order."""
    found = []
    for match in _FENCE.finditer(text):
        name = _FILE_NAME.match(match[2])
        found.append(Block(match[1], match[2], text.count("\n", 0, match.start()) + 2, name[1] if name else None))
    return found


def without_blocks(text: str) -> str:
    """The prose of a document."""
    return _FENCE.sub("", text)


def command_lines(text: str) -> Iterator[list[str]]:
    """The words of every ``smartbft`` command of a document: in shell blocks, indented blocks and inline code."""
    prose = without_blocks(text)
    sources = [block.text for block in blocks(text) if block.language in ("sh", "console")]
    for source in [*sources, *_INDENTED.findall(prose), *_INLINE.findall(" ".join(prose.split()))]:
        yield from _commands_in(source)


def _commands_in(source: str) -> Iterator[list[str]]:
    for line in source.splitlines():
        for inner in _SUBSTITUTION.findall(line):
            yield from _commands_in(inner)
        lexer = shlex.shlex(_SUBSTITUTION.sub("$VALUE", line), posix=True, punctuation_chars=True)
        lexer.wordchars += "$%:@,+"
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";&|<>()") or word in ("do", "done", "then", "until", "while"):
                if words[:1] == ["smartbft"]:
                    # `2> file`: the number belongs to the redirection.
                    yield words[1:-1] if ">" in word and words[-1] == "2" else words[1:]
                words = []
            else:
                words.append(word)


def script_lines(text: str) -> list[list[str]]:
    """The words from the script's path on of every ``python benchmarks/...`` of a document."""
    return [found.split() for found in re.findall(r"\bpython (?:-m pytest )?(benchmarks/[^\n#`]+)", text)]


def wrong_commands(text: str) -> list[str]:
    """What is wrong with the command lines of a text: there is no such command, or it does not take these arguments.

    A command that is only named (without arguments, or with ``...``) need not be complete. Nothing is executed.
    """
    problems = [_problem_of(words) for words in command_lines(text)]
    return [problem for problem in problems if problem is not None]


def _problem_of(words: list[str]) -> str | None:
    shown = "smartbft " + " ".join(words)
    words = [_PLACEHOLDER.sub(_SOME_KEY, word) for word in words]
    command: click.Command = cli
    context = click.Context(cli, info_name="smartbft")
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        found = command.get_command(context, words[0])
        if found is None:
            return f"there is no command '{shown}'"
        context = click.Context(found, info_name=words.pop(0), parent=context)
        command = found
    if not words or "..." in words:
        return None
    try:
        command.make_context(context.info_name, words, parent=context.parent)
    except click.exceptions.Exit:
        pass  # --help, --version
    except click.UsageError as error:
        return f"'{shown}': {error.format_message()}"
    return None


def broken_links(document: Path) -> list[str]:
    """Links of a document to files and headings that do not exist."""
    broken = []
    for target in _LINK.findall(without_blocks(document.read_text())):
        path, _, anchor = target.partition("#")
        if ":" in path:
            continue
        file = document.parent / path if path else document
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    return broken


def _anchors(document: Path) -> set[str]:
    headings = _HEADING.findall(without_blocks(document.read_text()))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def table(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its header; code quotes removed.

    Raises:
        AssertionError: there is no such heading, or no table below it.
    """
    start = re.search(rf"^#+ {re.escape(heading)}$", text, re.MULTILINE)
    assert start is not None, f"no heading '{heading}'"
    lines = iter(text[start.end() :].splitlines())
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith("|"):
            rows.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
        elif rows:
            break
        else:
            assert not line.startswith("#"), f"no table below '{heading}'"
    assert len(rows) > 2, f"no table below '{heading}'"
    return rows[2:]
