"""Documents cannot go stale unnoticed: their programs run, their commands exist, their links lead somewhere."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

import click
import pytest
from kit.documents import DOCUMENTS, ROOT, blocks, broken_links, command_lines, script_lines, wrong_commands

from smartbft.cli.entry import COMMANDS, cli
from smartbft.testnet import create_testnet

README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial.md"
BY_NAME = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document.name)

# Waits until four replicas answer; the tutorial's reader has eyes for that.
WAIT = """
for attempt in $(seq 300); do
    up=$(smartbft status --profile net/client.toml --json | grep -c '"decided"') || true
    [ "$up" = 4 ] && break
    sleep 0.2
done
[ "$up" = 4 ]
"""


def environment() -> dict[str, str]:
    """With this interpreter's `python` and `smartbft` first on the path."""
    return {**os.environ, "PATH": f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}"}


def run_python(folder: Path, program: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], cwd=folder, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def save_files(document: Path, folder: Path) -> None:
    for block in blocks(document.read_text()):
        if block.language == "python" and block.file:
            (folder / block.file).write_text(block.text)


# --- commands and links ---


@BY_NAME
def test_every_command_line_exists(document: Path) -> None:
    assert wrong_commands(document.read_text()) == []


@BY_NAME
def test_every_script_exists_and_has_its_options(document: Path) -> None:
    for words in script_lines(document.read_text()):
        assert (ROOT / words[0]).is_file(), words[0]
        options = {word for word in words[1:] if word.startswith("-")}
        if options:
            assert options <= options_of(words[0]), words


@functools.cache
def options_of(script: str) -> set[str]:
    """The options that a script's own help names."""
    done = subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=300
    )
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", done.stdout))


def all_commands() -> list[click.Command]:
    context = click.Context(cli)
    found: list[click.Command] = [cli]
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        found.append(command)
        if isinstance(command, click.Group):
            found += command.commands.values()
    return found


def test_every_example_in_help_exists() -> None:
    for command in all_commands():
        examples = [line for line in (command.epilog or "").splitlines() if line.startswith("  smartbft ")]
        assert examples, f"the help of '{command.name}' has no example"
        for line in examples:
            text = f"    {line.strip()}\n"
            assert len(list(command_lines(text))) == 1, line
            assert wrong_commands(text) == []


@BY_NAME
def test_every_link_leads_somewhere(document: Path) -> None:
    assert broken_links(document) == []


# --- programs ---


def test_the_counter_of_the_readme_counts(tmp_path: Path) -> None:
    save_files(README, tmp_path)
    assert run_python(tmp_path, "import my_counter, asyncio; asyncio.run(my_counter.main())") == "b'3' b'6'\n"


def test_the_service_of_the_readme_serves(tmp_path: Path) -> None:
    save_files(README, tmp_path)
    create_testnet(tmp_path / "net", application="counter")
    command = [sys.executable, "-u", "service.py", "net/replica-2"]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as service:
        try:
            assert service.stdout is not None
            assert service.stdout.readline() == "serving 2\n"
        finally:
            service.send_signal(signal.SIGINT)
        service.communicate(timeout=300)


def program_of(document: Path) -> str:
    return "\n".join(block.text for block in blocks(document.read_text()) if block.language == "python")


@pytest.mark.parametrize(
    "document", [d for d in DOCUMENTS if d not in (README, TUTORIAL) and program_of(d)], ids=lambda d: d.name
)
def test_the_programs_of_the_other_documents_run(document: Path, tmp_path: Path) -> None:
    program = program_of(document)
    printed = run_python(tmp_path, program).splitlines()
    assert len(printed) >= program.count("print(") > 0


def tutorial_script(text: str) -> str:
    """The tutorial as one shell script: files are written where they stand, shell blocks run as they are."""
    parts = ["set -euo pipefail"]
    for block in blocks(text):
        if block.language == "python":
            assert block.file, f"line {block.line}: the first line must say the file's name"
            parts.append(f"cat > {block.file} <<'END-OF-BLOCK'\n{block.text}END-OF-BLOCK")
        elif block.language == "sh":
            parts.append(block.text)
            if "smartbft start" in block.text:
                parts.append(WAIT)
    return "\n".join(parts)


def run_script(script: str, folder: Path) -> tuple[int, str]:
    """Run a script in a process group of its own, and leave none of its processes behind."""
    with subprocess.Popen(
        ["bash", "-c", script],
        cwd=folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            output, _ = process.communicate(timeout=3000)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    return process.returncode, output


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_tutorial_works_from_top_to_bottom(tmp_path: Path) -> None:
    code, output = run_script(tutorial_script(TUTORIAL.read_text()), tmp_path)
    assert code == 0, output
    expected = ["4 passed", "9 more copies agree", "two copies have different snapshots"]
    expected += ["a restored copy goes on differently", "lock_operations.py:22: ", "locks:Locks: 301 operations"]
    expected += ["lie-clients: ", "any: "]
    expected += ["10 seeds passed", "found: ", "the printer belongs to", "refused with code 2", "500 locks"]
    expected += ["error: the request was not ordered: the application's check refuses it", "first come, first served"]
    assert [text for text in expected if text not in output] == [], output
    assert "Traceback" not in output, output


def test_every_file_of_the_tutorial_is_used() -> None:
    found = blocks(TUTORIAL.read_text())
    rest = "\n".join(block.text for block in found)
    for block in found:
        if block.file:
            stem = block.file.removesuffix(".py")
            assert f"python {block.file}" in rest or f" {block.file}" in rest or f"from {stem} import" in rest


# --- these tests can fail ---


@pytest.mark.parametrize(
    "line",
    [
        "smartbft dmeo",
        "smartbft demo --second 3",
        "smartbft testnet net -n four",
        "smartbft coin spend ADDRESS 30 --kye minter",
        "smartbft status --profile $(smartbft key sohw x) --digest",
        "for i in 0 1; do smartbft start --hom net/replica-$i & done",
    ],
)
def test_wrong_command_lines_are_found(line: str) -> None:
    assert len(wrong_commands(f"```sh\n{line}\n```\n")) == 1


def test_right_command_lines_are_not_refused() -> None:
    line = "A=$(smartbft key show alice.key); smartbft coin spend $A 30 --key minter 2> errors && smartbft demo --help"
    text = f"```sh\n{line}\n```\n and `smartbft sim --seeds 5` and `smartbft coin`\n"
    assert len(list(command_lines(text))) == 5
    assert wrong_commands(text) == []


def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("# A heading: so\n[a](other.md) [b](#a-heading-so) [c](#no) [d](https://example.org/x)\n")
    assert broken_links(document) == ["other.md", "#no"]


def test_a_tutorial_that_breaks_is_found(tmp_path: Path) -> None:
    text = "```python\n# wrong.py\nraise SystemExit(3)\n```\n\n```sh\npython wrong.py\necho went on\n```\n"
    code, output = run_script(tutorial_script(text), tmp_path)
    assert code == 3
    assert "went on" not in output


def test_a_script_line_is_found_with_its_options() -> None:
    text = "```sh\npython benchmarks/memory.py --frist 3  # no such option\n```\nand `python -m pytest benchmarks/x.py`"
    assert script_lines(text) == [["benchmarks/memory.py", "--frist", "3"], ["benchmarks/x.py"]]
    assert "--frist" not in options_of("benchmarks/memory.py")
    assert "--first" in options_of("benchmarks/memory.py")
