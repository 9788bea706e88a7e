"""Forked children of a test: one that does something and says how it went, and one that only lives."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Callable, Iterator

from kit.patience import PATIENCE_SECONDS


def in_child(do: Callable[[], object]) -> str:
    """What `do` returned in a forked child, or the name of what it raised, and its message."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        said = "nothing"
        try:
            signal.alarm(int(PATIENCE_SECONDS))  # a child that hangs ends by itself
            said = str(do())
        except BaseException as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            os.write(writing, said.encode())
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read().decode()
    os.waitpid(child, 0)
    return said


@contextlib.contextmanager
def living_child() -> Iterator[int]:
    """A forked child that does nothing, and lives as long as the context; its process number."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.close(writing)
            os.read(reading, 1)  # until the parent closes the other end
        finally:
            os._exit(0)
    os.close(reading)
    try:
        yield child
    finally:
        os.close(writing)
        os.waitpid(child, 0)
