"""The standard streams of a command: always there, and a failed write of its output is told from every other error."""

from __future__ import annotations

import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TextIO, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])


class OutputFailed(Exception):
    """The standard output did not take what a command printed.

    No `OSError`, so that nobody takes it for an error of what they were doing, nor theirs for ours.

    Attributes:
        error: what the system says.
        printing: whether all that the command does is print.
    """

    def __init__(self, error: OSError, printing: bool) -> None:
        super().__init__(os.strerror(error.errno) if error.errno else str(error))
        self.error = error
        self.printing = printing


class _State:
    """Of the command under way.

    Attributes:
        printing: whether it does nothing but print; so does everything before a command begins (its help).
        failure: why its output is missing.
    """

    printing = True
    failure: OutputFailed | None = None


_state = _State()


def prints_only(function: Function) -> Function:
    """Mark a command that changes nothing and judges nothing: whoever closes its output has seen enough."""
    function.prints_only = True  # type: ignore[attr-defined]
    return function


def begins(function: Callable[..., Any]) -> Callable[..., Any]:
    """The callback of a command, which from its beginning on does more than print unless it is marked."""
    if hasattr(function, "begins"):
        return function

    @wraps(function)
    def begin(*arguments: Any, **options: Any) -> Any:
        _state.printing = getattr(function, "prints_only", False)
        return function(*arguments, **options)

    begin.begins = True  # type: ignore[attr-defined]
    return begin


class _Guarded:
    """A text stream whose failed write is handed over. From then on it takes everything, and nobody sees it."""

    def __init__(self, inner: TextIO, failed: Callable[[OSError], None]) -> None:
        self._inner = inner
        self._failed = failed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._inner)

    def write(self, text: str) -> int:
        """As the stream inside."""
        if text != "":  # with which libraries ask what kind of stream this is: nothing is lost if that fails
            self._try(lambda: self._inner.write(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        """As the stream inside."""
        self.write("".join(lines))

    def flush(self) -> None:
        """As the stream inside."""
        self._try(self._inner.flush)

    def _try(self, operation: Callable[[], object]) -> None:
        try:
            operation()
        except OSError as error:
            # What is left in the buffer would fail once more when the interpreter ends.
            with contextlib.suppress(OSError, io.UnsupportedOperation):
                lead_to_null(self._inner.fileno())
            self._failed(error)


def _output_failed(error: OSError) -> None:
    _state.failure = OutputFailed(error, _state.printing)
    raise _state.failure from None


def _message_failed(_: OSError) -> None:
    """What cannot be told to anybody stops nobody: the exit code says how it ended."""


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """As long as the context lasts, a failed write to stdout raises `OutputFailed`, and one to stderr is nothing."""
    before = sys.stdout, sys.stderr
    _state.printing, _state.failure = True, None
    sys.stdout = cast(TextIO, _Guarded(sys.stdout, _output_failed))
    sys.stderr = cast(TextIO, _Guarded(sys.stderr, _message_failed))
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before


def check_output() -> None:
    """Raise OutputFailed, if it was raised before: somebody may have caught it and gone on."""
    if _state.failure is not None:
        raise _state.failure


def open_missing() -> None:
    """Open those of the descriptors 0, 1 and 2 that are closed on the null device.

    Else the next file or socket gets the number, and what is meant for a terminal goes there. To be called before
    anything is opened.
    """
    for descriptor, mode in ((0, "r"), (1, "w"), (2, "w")):
        try:
            os.fstat(descriptor)
        except OSError:
            with contextlib.suppress(OSError):  # where there is no such device, it stays closed
                lead_to_null(descriptor)
        name = ("stdin", "stdout", "stderr")[descriptor]
        if getattr(sys, name) is None:
            stream = os.fdopen(descriptor, mode, closefd=False)
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def lead_to_null(descriptor: int) -> None:
    """What is written to the descriptor from now on vanishes. Raises OSError: there is no null device."""
    null = os.open(os.devnull, os.O_RDWR)
    if null != descriptor:
        os.dup2(null, descriptor)
        os.close(null)
    os.set_inheritable(descriptor, True)
