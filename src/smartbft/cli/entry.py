"""The root command, and how errors become one line and an exit code."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

import click

from smartbft.cli.exit_codes import MEANINGS, ExitCode, exit_code, is_expected
from smartbft.cli.lazy import LazyGroup
from smartbft.cli.output import examples

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


@click.group(
    cls=LazyGroup,
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
    try:
        result = cli.main(arguments, prog_name="smartbft", standalone_mode=False)
        sys.stdout.flush()
    except click.UsageError as error:
        error.show()
        return ExitCode.USAGE
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return ExitCode.INTERRUPTED
    except (BrokenPipeError, SystemExit):
        # Whoever read our output is gone, as in `smartbft ... | head` (click itself exits then, in no other case); keep
        # the interpreter's exit quiet about it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno() if sys.__stdout__ else 1)
        return ExitCode.OK
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _ENVIRONMENT:
            where = f"{error.filename}: " if error.filename else ""
            click.echo(f"error: {where}{os.strerror(error.errno)}", err=True)
            return ExitCode.STORAGE
        if not is_expected(error):
            raise
        click.echo(f"error: {error}", err=True)
        return exit_code(error)
    return result if isinstance(result, int) else ExitCode.OK
