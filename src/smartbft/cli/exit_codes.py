"""Exit codes of every command, for scripts. They tell 'outcome unknown' from failure."""

from __future__ import annotations

import enum

import click

from smartbft.errors import (
    ApplicationFailed,
    ClientError,
    ConfigError,
    HandshakeError,
    Indeterminate,
    LocalProtocolError,
    Rejected,
    RemoteProtocolError,
    ResultTooLarge,
    StateDiverged,
    StorageError,
)


class ExitCode(enum.IntEnum):
    """What a command's exit status means."""

    OK = 0
    INTERNAL = 1
    USAGE = 2
    CONFIGURATION = 3
    UNREACHABLE = 4
    OUTCOME_UNKNOWN = 5
    REJECTED = 6
    DIVERGENCE = 7
    STORAGE = 8
    INCOMPATIBLE = 9
    APPLICATION = 10
    OUTPUT = 11
    INTERRUPTED = 130


MEANINGS = {
    ExitCode.OK: "success",
    ExitCode.INTERNAL: "internal error: please report it",
    ExitCode.USAGE: "wrong usage of a command or option",
    ExitCode.CONFIGURATION: "a configuration, genesis or key file is wrong",
    ExitCode.UNREACHABLE: "replicas unreachable, no quorum, or overloaded: nothing was done",
    ExitCode.OUTCOME_UNKNOWN: "outcome unknown: sent, but no quorum answered in time",
    ExitCode.REJECTED: "rejected by the application",
    ExitCode.DIVERGENCE: "a check failed: replicas diverge, or a proof is invalid",
    ExitCode.STORAGE: "storage damaged or unusable",
    ExitCode.INCOMPATIBLE: "incompatible: another chain or protocol version",
    ExitCode.APPLICATION: "the application failed: it raised an error, or returned no result",
    ExitCode.OUTPUT: "the output could not be written; the command may have done what it does",
    ExitCode.INTERRUPTED: "interrupted",
}


class CheckFailed(Exception):
    """A check of a command found replicas that disagree, or a proof that does not hold."""


# The first class that matches decides, so children stand before their parents.
_BY_CLASS: tuple[tuple[type[BaseException], ExitCode], ...] = (
    (click.UsageError, ExitCode.USAGE),
    (LocalProtocolError, ExitCode.USAGE),
    (ConfigError, ExitCode.CONFIGURATION),
    (Indeterminate, ExitCode.OUTCOME_UNKNOWN),
    (Rejected, ExitCode.REJECTED),
    (ResultTooLarge, ExitCode.OUTCOME_UNKNOWN),
    (ClientError, ExitCode.UNREACHABLE),
    (StorageError, ExitCode.STORAGE),
    (CheckFailed, ExitCode.DIVERGENCE),
    (StateDiverged, ExitCode.DIVERGENCE),
    (ApplicationFailed, ExitCode.APPLICATION),
    (HandshakeError, ExitCode.INCOMPATIBLE),
    (RemoteProtocolError, ExitCode.UNREACHABLE),
    (click.Abort, ExitCode.INTERRUPTED),
    (KeyboardInterrupt, ExitCode.INTERRUPTED),
)

# Errors that mean something to the user; anything else is a bug and keeps its traceback.
EXPECTED = (
    ApplicationFailed,
    ClientError,
    ConfigError,
    LocalProtocolError,
    RemoteProtocolError,
    StorageError,
    CheckFailed,
    StateDiverged,
)


def exit_code(error: BaseException) -> ExitCode:
    """The exit code that tells a script about `error`."""
    for kind, code in _BY_CLASS:
        if isinstance(error, kind):
            return code
    return ExitCode.INTERNAL


def is_expected(error: BaseException) -> bool:
    """Whether one line says it all: every error of ours but a violated invariant of the code itself."""
    return isinstance(error, EXPECTED)
