"""``smartbft start``: one replica in the foreground."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import logging
import os
import signal
import stat
import sys
from pathlib import Path
from typing import get_args

import click

from smartbft.cli.logs import LOG_FORMATS, configure_logging
from smartbft.cli.outlet import detach_streams
from smartbft.cli.output import examples
from smartbft.cli.parameters import look_in_working_folder
from smartbft.cli.run import beside, new_event_loop
from smartbft.config import Genesis, ReplicaConfig
from smartbft.config.replica import LogLevel
from smartbft.errors import ApplicationFailed, ConfigError
from smartbft.net.descriptors import raise_limit
from smartbft.smr.application import BatchStateMachine

logger = logging.getLogger(__name__)

# Container objects more than before at which Python looks for cycles (its default is 700).
_COLLECT_AFTER_OBJECTS = 20_000
# How often memory goes back to the system: rarely enough to cost nothing, often enough that peaks do not add up.
_TRIM_SECONDS = 5.0


@click.command(
    epilog=examples("smartbft start --home net/replica-0", "smartbft start --home net/replica-1 --log-format json")
)
@click.option("--home", type=click.Path(path_type=Path), required=True, help="The replica's home folder.")
@click.option("--log-level", type=click.Choice(get_args(LogLevel)), help="Instead of the one in config.toml.")
@click.option("--log-format", type=click.Choice(LOG_FORMATS), default="text", show_default=True)
@click.option("--exit-with-parent", is_flag=True, help="Stop when the standard input is closed.")
def start(home: Path, log_level: LogLevel | None, log_format: str, exit_with_parent: bool) -> None:
    """Run the replica in the folder HOME until SIGTERM or SIGINT; both flush the log and exit with code 0.

    Prints one line that starts with 'ready' to stdout once the replica listens and has re-executed its log. Its own
    messages go to stderr.
    """
    if exit_with_parent:
        _check_parent()
    detach_streams()
    config = ReplicaConfig.load(home)
    genesis = Genesis.load(config.genesis_path)
    configure_logging(log_level or config.log_level, log_format, replica=config.replica)
    application = make_application(config, genesis)
    raise_limit()
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(_serve(config, genesis, application, exit_with_parent))


def make_application(config: ReplicaConfig, genesis: Genesis) -> BatchStateMachine:
    """The application that the genesis names. Raises ConfigError, ApplicationFailed."""
    from smartbft.apps import create_application
    from smartbft.smr.application import LocalOptions

    look_in_working_folder()
    local = LocalOptions(
        folder=config.run_folder,
        synchronous=config.application_sync,
        sync_floor_seconds=config.sync_floor_seconds,
        verify_signatures=config.signature_check == "sequential",
    )
    try:
        return create_application(genesis.application, genesis.chain_id, genesis.application_parameters, local)
    except (ConfigError, ApplicationFailed) as error:
        if error.__cause__ is not None:  # the last line names the error, and this the line of code
            logger.critical("the application cannot be made", exc_info=error)
        raise


async def _serve(
    config: ReplicaConfig, genesis: Genesis, application: BatchStateMachine, exit_with_parent: bool
) -> None:
    """Run the replica until it fails or a signal says stop; also while it still starts."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if exit_with_parent:
        _watch_parent(loop, stop)
    running = asyncio.ensure_future(_run_replica(config, genesis, application))
    stopping = asyncio.ensure_future(stop.wait())
    await asyncio.wait((running, stopping), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not running.done():
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        return
    await running


async def _run_replica(config: ReplicaConfig, genesis: Genesis, application: BatchStateMachine) -> None:
    from smartbft.runtime.node import Replica

    async with Replica(config, application, genesis=genesis) as replica, beside(_give_memory_back()):
        await replica.ready()
        _calm_garbage_collector()
        member = genesis.member(config.replica)
        chain = genesis.chain_id.hex()[:16]
        click.echo(
            f"ready replica={member.id} chain={chain} clients={member.client_address} "
            f"replicas={member.replica_address} persistence={config.persistence} pid={os.getpid()}"
        )
        sys.stdout.flush()
        await replica.wait()


async def _give_memory_back() -> None:
    """Return what the C library holds for nobody to the system, now and then.

    While a disk stalls, batches queue for it; afterwards glibc would keep their memory for ever. (Buffers of their own
    for large blocks would go back at once, at the price of a page fault for each page of each batch: 5 % of all time.)
    Other C libraries do not know the call.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while trim is not None:
        await asyncio.sleep(_TRIM_SECONDS)
        await asyncio.to_thread(trim, 0)


def _calm_garbage_collector() -> None:
    """Take what exists by now out of the collector's sight, and look at the rest less often.

    With Python's defaults a tenth of the loop's time goes into tracing modules that never become garbage. Messages and
    effects hold no cycles, so reference counts free them.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER_OBJECTS, 20, 20)


def _check_parent() -> None:
    """Raises UsageError: nobody holds the other end of the standard input, so nothing is heard when he is gone."""
    kind = os.fstat(0).st_mode
    if not (stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind) or os.isatty(0)):
        raise click.UsageError(
            "--exit-with-parent watches the standard input, which is closed, or a file: start it with a pipe there"
        )


def _watch_parent(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    """Set `stop` when whoever holds the other end of our standard input is gone."""
    descriptor = 0

    def look() -> None:
        with contextlib.suppress(OSError):
            if os.read(descriptor, 4096):
                return
        loop.remove_reader(descriptor)
        stop.set()

    loop.add_reader(descriptor, look)
