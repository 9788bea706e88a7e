"""Exit codes: from every error, and from real processes."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

from smartbft import errors
from smartbft.cli import entry
from smartbft.cli.exit_codes import CheckFailed, ExitCode, exit_code, is_expected
from smartbft.cli.output import print_json
from smartbft.testnet import create_testnet


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (click.UsageError("x"), 2),
        (errors.LocalProtocolError("x"), 2),
        (errors.ConfigError("x"), 3),
        (errors.NotEnoughReplies("x"), 4),
        (errors.Overloaded("x"), 4),
        (errors.Indeterminate("x"), 5),
        (errors.ResultTooLarge("x"), 5),
        (errors.Rejected("x", 3), 6),
        (CheckFailed("x"), 7),
        (errors.StateDiverged("x"), 7),
        (errors.StorageError("x"), 8),
        (errors.CorruptLog("x"), 8),
        (errors.DurabilityLost("x"), 8),
        (errors.HandshakeError("x"), 9),
        (errors.ApplicationFailed("x"), 10),
        (KeyboardInterrupt(), 130),
        (click.Abort(), 130),
        (errors.InvariantViolation("x"), 1),
        (RuntimeError("x"), 1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_exit_code_of_every_error(error: BaseException, code: int) -> None:
    assert exit_code(error) == code


def test_every_error_class_has_a_meaning_but_bugs() -> None:
    def children(kind: type[BaseException]) -> set[type[BaseException]]:
        return {kind}.union(*(children(child) for child in kind.__subclasses__()))

    for kind in children(errors.SmartBFTError) - {errors.SmartBFTError}:
        if not kind.__module__.startswith("smartbft.errors"):
            continue
        named = (errors.StateDiverged, errors.ApplicationFailed)
        expected = not issubclass(kind, errors.InvariantViolation) or kind in named
        assert is_expected(kind("x")) is expected
        assert (exit_code(kind("x")) is not ExitCode.INTERNAL) is expected


def test_errors_are_one_line_without_a_traceback(cli, tmp_path: Path) -> None:
    outcome = cli("key", "show", tmp_path / "none.key")
    assert outcome.code == 3
    assert outcome.out == ""
    assert outcome.err.startswith(f"error: {tmp_path}/none.key: ")
    assert outcome.err.count("\n") == 1


def test_a_bug_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise errors.InvariantViolation("broken")

    monkeypatch.setattr(entry.cli, "main", broken)
    with pytest.raises(errors.InvariantViolation):
        entry.run([])


def test_json_output_is_stable(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": b"\x01\xff", "b": [1, (b"x",)]})
    assert capsys.readouterr().out.split() == ["{", '"a":', '"01ff",', '"b":', "[", "1,", "[", '"78"', "]", "]", "}"]


def smartbft(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "smartbft", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("version",), 0, ""),
        (("--version",), 0, ""),
        (("nonsense",), 2, "No such command"),
        (("testnet",), 2, "Missing argument"),
        (("testnet", "x", "--persistence", "fsync"), 2, "'fsync' is not one of"),
        (("testnet", "x", "--sync-floor", "4"), 2, "is not a duration"),
        (("coin", "spend", "abc", "1"), 2, "is not 64 hexadecimal digits"),
        (("coin", "mint", "0"), 2, "0 is not in the range"),
        (("start", "--home", "/nonexistent"), 3, "there is no folder /nonexistent"),
        (("status", "--profile", "/nonexistent"), 3, "does not exist"),
        (("log", "verify", "/nonexistent"), 8, "is not a folder"),
        (("log", "inspect", "/usr/lib"), 8, "holds no log"),
        (("sim", "--seed", "1", "--seeds", "2"), 2, "--seeds does not go with --seed"),
        (("sim", "--seed", "1", "--trace", "/nonexistent/trace"), 2, "the folder /nonexistent does not exist"),
        (("check-application", "nothing"), 2, "there is no application 'nothing': it is one of coin"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_exit_codes_of_processes(arguments: tuple[str, ...], code: int, message: str) -> None:
    done = smartbft(*arguments)
    assert done.returncode == code
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_is_one_line_and_no_bug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/net/genesis.toml")

    monkeypatch.setattr(entry.cli, "main", full)
    assert entry.run([]) == ExitCode.STORAGE
    assert capsys.readouterr().err == "error: /net/genesis.toml: No space left on device\n"


def test_an_interrupt_while_the_command_line_is_imported_leaves_no_traceback() -> None:
    probe = (
        "import sys, smartbft.cli\n"
        "class Interrupt:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'smartbft.cli.entry':\n"
        "            raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupt())\n"
        "smartbft.cli.main(['version'])\n"
    )
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (ExitCode.INTERRUPTED, "interrupted\n")


def test_nobody_listens_is_unreachable(tmp_path: Path) -> None:
    profile = create_testnet(tmp_path / "net", 1).profile.path
    for command in (("status", "--timeout", "100ms"), ("coin", "balance", "--timeout", "100ms")):
        done = smartbft(*command, "--profile", profile)
        assert done.returncode == 4, done.stderr
        assert done.stderr.startswith("error: 0 of 1 replicas")


def test_output_to_a_closed_pipe_is_no_error(tmp_path: Path) -> None:
    shell = f"{sys.executable} -m smartbft --help | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0
    assert done.stderr == ""
