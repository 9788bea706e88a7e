"""Standard streams that are closed, full, or read by nobody; and errors of others that look like ours."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest

from smartbft.cli import entry
from smartbft.cli.entry import run
from smartbft.cli.exit_codes import ExitCode
from smartbft.testnet import Testnet, create_testnet

COMMAND = [sys.executable, "-m", "smartbft"]
TIMEOUT = 500


def closed_pipe() -> int:
    """The end to write to of a pipe that nobody reads any more."""
    reading, writing = os.pipe()
    os.close(reading)
    return writing


def smartbft(*arguments: object, stdout: int | None = subprocess.PIPE, **others: object) -> tuple[int, str]:
    """Exit code and stderr of a command."""
    done = subprocess.run(  # type: ignore[call-overload]
        [*COMMAND, *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT,
        text=True,
        **others,
    )
    return done.returncode, done.stderr


@contextmanager
def output_to(kind: str) -> Iterator[int]:
    descriptor = closed_pipe() if kind == "closed" else os.open("/dev/full", os.O_WRONLY)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


# --- output that cannot be printed ---


@pytest.mark.parametrize("kind", ["closed", "full"])
def test_what_has_an_effect_says_that_its_output_is_missing(tmp_path: Path, kind: str) -> None:
    with output_to(kind) as descriptor:
        code, errors = smartbft("key", "new", tmp_path / "new.key", stdout=descriptor)
        assert code == ExitCode.OUTPUT == 11
        assert errors.startswith("error: the output could not be written (")
        assert errors.count("\n") == 1
        assert (tmp_path / "new.key").exists()
        code, _ = smartbft("testnet", tmp_path / "net", stdout=descriptor)
        assert code == 11
        assert (tmp_path / "net").is_dir()


@pytest.mark.parametrize(
    "arguments", [("sim", "--seed", "1", "--instances", "3"), ("check-application", "counter", "--count", "20")]
)
def test_a_judgement_that_nobody_reads_is_no_success(arguments: tuple[str, ...]) -> None:
    """Its exit code would say that all is well, whatever was found."""
    with output_to("closed") as descriptor:
        assert smartbft(*arguments, stdout=descriptor)[0] == 11


@pytest.mark.parametrize("arguments", [("version",), ("--version",), ("--help",), ("coin", "spend", "--help")])
def test_whoever_closes_what_is_only_printed_has_seen_enough(arguments: tuple[str, ...]) -> None:
    with output_to("closed") as descriptor:
        assert smartbft(*arguments, stdout=descriptor) == (0, "")
    with output_to("full") as descriptor:
        code, errors = smartbft(*arguments, stdout=descriptor)
    assert code == 11
    assert errors == "error: the output could not be written (No space left on device)\n"


@pytest.mark.parametrize("kind", ["closed", "full"])
def test_messages_that_cannot_be_written_change_nothing(tmp_path: Path, kind: str) -> None:
    with output_to(kind) as descriptor:
        for arguments, code in ((("testnet", tmp_path / "net"), 0), (("key", "show", tmp_path / "none"), 3)):
            done = subprocess.run(
                [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=descriptor, timeout=TIMEOUT
            )
            assert done.returncode == code


# --- errors of others ---


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SystemExit(0), ExitCode.APPLICATION),
        (SystemExit("the application gives up"), ExitCode.APPLICATION),
        (SystemExit(), ExitCode.APPLICATION),
    ],
)
def test_nobody_else_ends_a_command_with_success(
    cli: Callable[..., object], monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int
) -> None:
    @click.command()
    def broken() -> None:
        raise error

    monkeypatch.setattr(entry.cli, "get_command", lambda context, name: broken)
    outcome = cli("version")
    assert outcome.code == code  # type: ignore[attr-defined]
    assert "the application ended the program" in outcome.err  # type: ignore[attr-defined]


def test_somebody_elses_broken_pipe_is_an_error_with_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the application's connection to a service beside it, say."""

    @click.command()
    def broken() -> None:
        raise BrokenPipeError(32, "the service is gone")

    monkeypatch.setattr(entry.cli, "get_command", lambda context, name: broken)
    with pytest.raises(BrokenPipeError, match="the service is gone"):
        run(["version"])


APPLICATIONS = """
    import sys
    from smartbft import StateMachine
    from smartbft.smr.application import BatchStateMachine

    class Base(StateMachine):
        def __init__(self): self.value = 0
        def execute(self, operation, context): self.value += 1; return b"ok"
        def snapshot(self): return b"%d" % self.value
        def restore(self, snapshot): self.value = int(snapshot)

    class ExitsWhenMade(Base):
        def __init__(self): sys.exit(0)

    class ExitsInExecute(Base):
        def execute(self, operation, context): sys.exit(0)

    class ExitsInSnapshot(Base):
        def snapshot(self): sys.exit(0)

    class ExitsInRestore(Base):
        def restore(self, snapshot): sys.exit(0)

    class BreaksWhenMade(Base):
        def __init__(self): raise BrokenPipeError(32, "the service is gone")

    class BreaksInExecute(Base):
        def execute(self, operation, context): raise BrokenPipeError(32, "the service is gone")

    class BreaksInSnapshot(Base):
        def snapshot(self): raise BrokenPipeError(32, "the service is gone")

    class BreaksInRestore(Base):
        def restore(self, snapshot): raise BrokenPipeError(32, "the service is gone")

    def operations(random, client, number):
        return b"x"

    def exits(random, client, number):
        sys.exit(0)
"""
NAMES = [
    f"{how}{where}" for how in ("Exits", "Breaks") for where in ("WhenMade", "InExecute", "InSnapshot", "InRestore")
]


@pytest.fixture
def applications(tmp_path: Path) -> Path:
    (tmp_path / "apps_that_end.py").write_text(textwrap.dedent(APPLICATIONS))
    (tmp_path / "without_guard.py").write_text("import sys\nfrom apps_that_end import Base as App\nsys.exit(0)\n")
    return tmp_path


@pytest.mark.parametrize(
    "name", [f"apps_that_end:{name}" for name in NAMES] + ["without_guard:App"], ids=lambda name: name.split(":")[1]
)
def test_an_application_that_ends_the_program_is_not_deterministic_by_that(applications: Path, name: str) -> None:
    code, errors = smartbft(
        "check-application", name, "--operation", "apps_that_end:operations", "--count", "20", cwd=applications
    )
    assert code not in (0, ExitCode.USAGE, ExitCode.OUTPUT), errors
    assert errors.strip()


def test_an_application_that_ends_nothing_passes(applications: Path) -> None:
    assert smartbft(
        "check-application",
        "apps_that_end:Base",
        "--operation",
        "apps_that_end:operations",
        "--count",
        "20",
        cwd=applications,
    ) == (0, "")


def test_operations_that_end_the_program_are_told(applications: Path) -> None:
    code, errors = smartbft(
        "check-application", "apps_that_end:Base", "--operation", "apps_that_end:exits", cwd=applications
    )
    assert code == 2
    assert "raised SystemExit(0)" in errors


@pytest.mark.parametrize("name", ["apps_that_end:ExitsWhenMade", "apps_that_end:BreaksWhenMade", "without_guard:App"])
def test_a_replica_whose_application_ends_the_program_does_not_start(applications: Path, name: str) -> None:
    network = create_testnet(applications / "net", 1, application=name, transport="plain")
    code, errors = smartbft("start", "--home", network.homes[0], cwd=applications)
    assert code not in (0, ExitCode.OUTPUT), errors
    if name.startswith("without"):
        assert 'if __name__ == "__main__":' in errors


# --- a replica's streams ---


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Testnet:
    return create_testnet(tmp_path_factory.mktemp("streams") / "net", 1, transport="plain", application="coin")


@contextmanager
def replica(network: Testnet, *options: str, **streams: object) -> Iterator[subprocess.Popen[bytes]]:
    """A replica that listens, though nobody may be told; it ends as told by SIGTERM, with exit code 0."""
    process: subprocess.Popen[bytes] = subprocess.Popen(  # type: ignore[call-overload]
        [*COMMAND, "start", "--home", str(network.homes[0]), *options], **streams
    )
    address = network.genesis.members[0].client_address
    try:
        while True:
            assert process.poll() is None, "it ended"
            try:
                socket.create_connection((address.host, address.port)).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        yield process
        process.send_signal(signal.SIGTERM)
        assert process.wait(TIMEOUT) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 2), (0, 1, 2)], ids=str)
def test_descriptors_that_are_missing_are_the_null_device(network: Testnet, closed: tuple[int, ...]) -> None:
    def close() -> None:
        for descriptor in closed:
            os.close(descriptor)

    with replica(
        network, preexec_fn=close, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        for descriptor in range(3):
            assert os.readlink(f"/proc/{process.pid}/fd/{descriptor}") == "/dev/null"


@pytest.mark.parametrize("kind", ["closed", "full"])
@pytest.mark.parametrize("name", ["stdout", "stderr"])
def test_a_replica_runs_whoever_reads_it(network: Testnet, name: str, kind: str) -> None:
    others = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    with output_to(kind) as descriptor, replica(network, **{**others, name: descriptor}):
        pass


@pytest.mark.parametrize("name", ["stdout", "stderr", "both"])
def test_a_replica_does_not_wait_for_a_reader_that_stops(network: Testnet, name: str) -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    try:
        while True:
            os.write(writing, b"x" * 512)
    except BlockingIOError:
        pass
    os.set_blocking(writing, True)
    streams = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    streams.update(dict.fromkeys(("stdout", "stderr") if name == "both" else (name,), writing))
    try:
        with replica(network, "--log-level", "debug", **streams):
            code, errors = smartbft("coin", "mint", "5", "--profile", network.profile.path, "--timeout", "300s")
            assert (code, errors.split(" ")[0]) == (0, "paid"), errors
    finally:
        os.close(reading)
        os.close(writing)


def test_a_payment_that_cannot_be_printed_was_made(network: Testnet) -> None:
    with replica(network, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
        profile = ("--profile", network.profile.path, "--timeout", "300s")
        for number, kind in enumerate(("closed", "full")):
            with output_to(kind) as descriptor:
                assert smartbft("coin", "mint", 7 + number, *profile, stdout=descriptor)[0] == 11
        listed = subprocess.run(
            [*COMMAND, "coin", "coins", "--key", "minter", *map(str, profile)], capture_output=True, timeout=TIMEOUT
        )
        for value in (b"7", b"8"):
            assert value in listed.stdout.split()
        with output_to("closed") as descriptor:
            assert smartbft("coin", "balance", *profile, stdout=descriptor)[0] == 0


def test_a_parent_that_cannot_be_watched_is_refused(network: Testnet) -> None:
    code, errors = smartbft("start", "--home", network.homes[0], "--exit-with-parent")
    assert code == 2
    assert "start it with a pipe there" in errors
