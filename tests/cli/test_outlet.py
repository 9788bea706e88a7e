"""Outlets: whoever writes never waits, what finds no room is dropped and counted, and what was queued comes out."""

from __future__ import annotations

import contextlib
import fcntl
import io
import logging
import os
import sys
from collections.abc import Iterator

import pytest

from smartbft.cli import outlet as module
from smartbft.cli.logs import configure_logging
from smartbft.cli.outlet import Outlet, detach_streams, settle_streams
from smartbft.cli.streams import lead_to_null

LIMIT = 20_000
PIPE = 4096


class Pipe:
    """A small pipe."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, PIPE)  # type: ignore[attr-defined]

    def read(self, size: int) -> bytes:
        """So many bytes, however long they take."""
        data = b""
        while len(data) < size:
            data += os.read(self.reading, size - len(data))
        return data

    def close(self) -> None:
        for end in (self.reading, self.writing):
            with contextlib.suppress(OSError):
                os.close(end)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def test_what_is_queued_comes_out_in_order(pipe: Pipe) -> None:
    outlet = Outlet(pipe.writing, "stderr", LIMIT)
    pieces = [b"%03d" % number for number in range(900)]
    for piece in pieces:
        outlet.write(piece)
    assert pipe.read(2700) == b"".join(pieces)
    assert outlet.drain(500)
    assert outlet.dropped == 0


def test_without_a_reader_nobody_waits_and_what_finds_no_room_is_counted(
    pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    outlet = Outlet(pipe.writing, "stderr", LIMIT)
    for _ in range(50):
        outlet.write(b"x" * 1000)  # would wait for ever after four of them
    # Those in the pipe do not count any more, and those beyond the limit are gone.
    assert 50 - (LIMIT + PIPE) // 1000 <= outlet.dropped <= 50 - LIMIT // 1000
    assert not outlet.drain(0)
    dropped = outlet.dropped
    with caplog.at_level(logging.WARNING):
        pipe.read(1000 * (50 - dropped))
        assert outlet.drain(500)
    assert outlet.dropped == 0
    assert [record.getMessage() for record in caplog.records] == [
        f"{dropped} pieces of output to stderr were dropped: nobody took them"
    ]
    outlet.write(b"again")
    assert pipe.read(5) == b"again"


def test_a_reader_that_is_gone_is_told_once_and_stops_nobody(pipe: Pipe, caplog: pytest.LogCaptureFixture) -> None:
    os.close(pipe.reading)
    outlet = Outlet(pipe.writing, "stdout", LIMIT)
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            outlet.write(b"x")
            assert outlet.drain(500)
    assert outlet.dropped == 3
    assert [record.getMessage() for record in caplog.records] == ["stdout takes nothing: [Errno 32] Broken pipe"]


def test_a_descriptor_that_does_not_block_is_waited_for(pipe: Pipe) -> None:
    """Who shares the other end of a pipe or terminal may have made it so."""
    os.set_blocking(pipe.writing, False)
    outlet = Outlet(pipe.writing, "stderr", LIMIT)
    outlet.write(b"x" * 10_000)
    assert pipe.read(10_000) == b"x" * 10_000
    assert outlet.drain(500)
    assert outlet.dropped == 0


@contextlib.contextmanager
def detached_streams(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Pipe, Pipe]]:
    """Standard streams that lead to pipes, detached. (No fixture: before each test pytest puts its own there.)"""
    pipes = Pipe(), Pipe()
    handlers, level = logging.getLogger().handlers[:], logging.getLogger().level
    with monkeypatch.context() as patched:
        for name, made in zip(("stdout", "stderr"), pipes, strict=True):
            raw = io.FileIO(made.writing, "w", closefd=False)
            patched.setattr(sys, name, io.TextIOWrapper(raw, write_through=True))
        detach_streams()
        try:
            yield pipes
        finally:
            settle_streams(lead_to_null)
            logging.getLogger().handlers[:] = handlers
            logging.getLogger().setLevel(level)
    for made in pipes:
        made.close()


def test_prints_and_messages_of_a_replica_do_not_wait_for_their_readers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither ours nor the application's, whoever of them is not read; the process ends all the same."""
    monkeypatch.setattr(module, "STREAM_DRAIN_SECONDS", 0.0)
    with detached_streams(monkeypatch):
        configure_logging("info")
        for number in range(2_000):
            logging.getLogger("test").info("a message, number %d", number)
            print("a line of the application", number)
            sys.stdout.buffer.write(b"bytes\n")
            print("an error of the application", file=sys.stderr, flush=True)


def test_messages_arrive(monkeypatch: pytest.MonkeyPatch) -> None:
    with detached_streams(monkeypatch) as (_, errors):
        configure_logging("info")
        logging.getLogger("test").info("hello")
        line = b""
        while not line.endswith(b"\n"):
            line += errors.read(1)
    assert b"message=hello" in line
