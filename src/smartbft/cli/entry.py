"""The root command, and how errors become one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import click

from smartbft.cli.exit_codes import MEANINGS, ExitCode, exit_code, is_expected
from smartbft.cli.lazy import LazyGroup
from smartbft.cli.outlet import settle_streams
from smartbft.cli.output import examples
from smartbft.cli.streams import OutputFailed, check_output, guarded_streams, lead_to_null

COMMANDS = {
    "demo": ("smartbft.cli.demo:demo", "Four replica processes under load, measured and checked."),
    "testnet": ("smartbft.cli.testnet:testnet", "Write keys, genesis and home folders of a test network."),
    "start": ("smartbft.cli.start:start", "Run one replica in the foreground."),
    "status": ("smartbft.cli.status:status", "Ask every replica where it stands."),
    "genesis": ("smartbft.cli.genesis:genesis", "Show a genesis, and check its copies."),
    "coin": ("smartbft.cli.coin:coin", "Mint, spend and list coins."),
    "key": ("smartbft.cli.key:key", "Make and show keys."),
    "log": ("smartbft.cli.log:log", "Look inside a replica's log, running or not."),
    "evidence": ("smartbft.cli.evidence:evidence", "Check and list evidence against replicas that lie."),
    "bench": ("smartbft.cli.bench:bench", "Measure a cluster on this machine."),
    "sim": ("smartbft.cli.sim:sim", "Run the deterministic simulator."),
    "histories": ("smartbft.cli.histories:histories", "Check that what clients see is linearizable."),
    "check-application": (
        "smartbft.cli.check_application:check_application_command",
        "Look for what makes an application not deterministic.",
    ),
    "version": ("smartbft.cli.version:version", "Show versions of the program and its native code."),
}

# What a system may refuse to any program, at any time: no bug, so one line says it all.
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE)
_ENVIRONMENT = (*_FULL, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO)

_CODES = "\n".join(f"  {code.value:<3} {meaning}" for code, meaning in MEANINGS.items())


class _NotOurs(Exception):
    """What a command raised, wrapped: click would take anybody's `BrokenPipeError` for that of its own output, and end
    the program as it does then.
    """

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error


class _Root(LazyGroup):
    def invoke(self, ctx: click.Context) -> object:
        """Run a command. Raises _NotOurs for what click would misunderstand."""
        try:
            result: object = super().invoke(ctx)
            sys.stdout.flush()
        except (OSError, SystemExit) as error:
            raise _NotOurs(error) from error
        return result


@click.group(
    cls=_Root,
    commands_table=COMMANDS,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=f"\b\nExit codes:\n{_CODES}\n\n"
    + examples("smartbft demo --chaos", "smartbft testnet net", "smartbft sim --seeds 5"),
)
@click.version_option(package_name="smartbft", message="%(prog)s %(version)s")
def cli() -> None:
    """Byzantine fault-tolerant state machine replication."""


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code. Errors are one line on stderr."""
    with guarded_streams():
        try:
            return _run(arguments)
        finally:
            settle_streams(lead_to_null)


def _run(arguments: Sequence[str] | None) -> int:
    try:
        result = cli.main(arguments, prog_name="smartbft", standalone_mode=False)
        sys.stdout.flush()
        check_output()
    except OutputFailed as failure:
        return _without_output(failure)
    except click.UsageError as error:
        error.show()
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return ExitCode.INTERRUPTED
    except BaseException as error:
        return _failed(error.error if isinstance(error, _NotOurs) else error)
    return result if isinstance(result, int) else ExitCode.OK


def _without_output(failure: OutputFailed) -> int:
    """Whoever closes the output of a command that only prints has seen enough, as in `smartbft ... | head`."""
    if failure.printing and failure.error.errno == errno.EPIPE:
        return ExitCode.OK
    done = "" if failure.printing else ", and the command may have done what it does: look before you repeat it"
    click.echo(f"error: the output could not be written ({failure}){done}", err=True)
    return ExitCode.OUTPUT


def _failed(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        # None of our code does that below here: an application, or a module that was imported for one.
        click.echo(
            f"error: the application ended the program, with sys.exit({error.code!r}), which it must not: what is "
            "wrong is an error to raise, and a script's end belongs below 'if __name__ == \"__main__\":'",
            err=True,
        )
        return ExitCode.APPLICATION
    if isinstance(error, OSError) and error.errno in _ENVIRONMENT:
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"error: {where}{os.strerror(error.errno)}", err=True)
        return ExitCode.STORAGE
    if not is_expected(error):
        raise error
    click.echo(f"error: {error}", err=True)
    return exit_code(error)
