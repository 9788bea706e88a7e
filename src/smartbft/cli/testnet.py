"""``smartbft testnet``: write a test network."""

from __future__ import annotations

import importlib.util
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import click

from smartbft.cli.output import examples, json_option, print_json, print_table, say
from smartbft.cli.parameters import (
    DURATION,
    application_parameters,
    application_parameters_options,
    look_in_working_folder,
    persistence_option,
)
from smartbft.config import TRANSPORTS, Genesis
from smartbft.config.replica import LogLevel, Persistence, Transport
from smartbft.limits import DEFAULT_CHECKPOINT_INTERVAL, MAX_CHECKPOINT_INTERVAL
from smartbft.types import SEQUENTIAL, TOGETHER, Parameters


@click.command(
    epilog=examples(
        "smartbft testnet net",
        "smartbft testnet net --application coin --application-parameter 'receipt_bytes_spend=200'",
        "smartbft testnet net -n 7 --application key_value --persistence async --json",
    )
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-n", "--replicas", "n", default=4, show_default=True, type=click.IntRange(1, 64), help="How many.")
@click.option(
    "--application",
    default="coin",
    show_default=True,
    help="coin, counter, key_value or package.module:Class of your own.",
)
@application_parameters_options
@persistence_option
@click.option("--transport", type=click.Choice(TRANSPORTS), default="tls", show_default=True)
@click.option("--base-port", type=click.IntRange(0, 65535), default=0, help="First TCP port; 0 chooses free ports.")
@click.option("--chain-name", default="testnet", show_default=True)
@click.option(
    "--checkpoint-interval",
    type=click.IntRange(1, MAX_CHECKPOINT_INTERVAL),
    default=DEFAULT_CHECKPOINT_INTERVAL,
    show_default=True,
    help="Decisions between two checkpoints of a replica.",
)
@click.option(
    "--checkpoint-schedule",
    type=click.Choice((TOGETHER, SEQUENTIAL)),
    default=TOGETHER,
    show_default=True,
    help="All replicas after the same decisions, or one after the other.",
)
@click.option("--sync-floor", type=DURATION, default="0s", help="Added to each sync, e.g. 4ms; for benchmarks.")
@click.option("--log-level", type=click.Choice(get_args(LogLevel)), default="info", show_default=True)
@json_option
def testnet(
    folder: Path,
    n: int,
    application: str,
    named: tuple[tuple[str, Any], ...],
    parameters_json: str | None,
    persistence: Persistence,
    transport: Transport,
    base_port: int,
    chain_name: str,
    checkpoint_interval: int,
    checkpoint_schedule: str,
    sync_floor: int,
    log_level: LogLevel,
    as_json: bool,
) -> None:
    """Write keys, certificates, the genesis, one home per replica and a client profile into FOLDER.

    All replicas listen on loopback. The folder must be new or empty. The client profile is FOLDER/client.toml. A home
    is a folder with all that one replica needs: configuration, keys, genesis, data.
    """
    from smartbft.testnet import create_testnet

    given = application_parameters(named, parameters_json)
    look_in_working_folder()
    _check_application(application, given)
    network = create_testnet(
        folder,
        n,
        application=application,
        application_parameters=given,
        persistence=persistence,
        transport=transport,
        base_port=base_port,
        chain_name=chain_name,
        parameters=Parameters(checkpoint_interval=checkpoint_interval, checkpoint_schedule=checkpoint_schedule),
        sync_floor_seconds=sync_floor / 1_000_000,
        log_level=log_level,
    )
    rows = [
        (config.replica, str(config.home), str(member.replica_address), str(member.client_address))
        for config, member in zip(network.replicas, network.genesis.members, strict=True)
    ]
    columns = ("replica", "home", "replica_address", "client_address")
    if as_json:
        print_json(
            {
                "folder": str(network.folder),
                "chain_id": network.genesis.chain_id,
                "profile": str(network.profile.path),
                "replicas": [dict(zip(columns, row, strict=True)) for row in rows],
            }
        )
        return
    print_table(columns, rows, f"chain {network.genesis.chain_id.hex()}")
    say(_tolerance(network.genesis))
    say(f"Start each replica: smartbft start --home {shlex.quote(str(network.replicas[0].home))}")
    say(f"Then, for example:  smartbft status --profile {shlex.quote(str(network.profile.path))}")


def _tolerance(genesis: Genesis) -> str:
    """What `n` is good for."""
    view = genesis.view
    if view.f == 0:
        return f"With n = {view.n} no replica may fail; 4 is the least for one that does whatever it likes."
    return f"Up to {view.f} of the {view.n} replicas may fail; {view.quorum} have to run."


def _check_application(name: str, parameters: Mapping[str, Any]) -> None:
    """Make the application once, so that a wrong name or parameter is known before anything is written.

    One whose module is not here is left to the replicas: only they need it.

    Raises:
        ConfigError: there is no such application, or its parameters are wrong.
    """
    from smartbft.apps import create_application
    from smartbft.crypto.signatures import Ed25519Signer
    from smartbft.smr.application import LocalOptions

    module, colon, _ = name.partition(":")
    if colon and not _is_here(module):
        say(f"note: there is no module '{module}' here; each replica has to find it, e.g. in its working folder")
        return
    given = dict(parameters)
    if name.startswith("coin"):
        # `create_testnet` will make a key and put it here.
        given.setdefault("minters", [Ed25519Signer(bytes(32)).public_key.hex()])
    with tempfile.TemporaryDirectory(prefix="smartbft-") as folder:
        create_application(name, bytes(32), given, LocalOptions(folder=Path(folder)))


def _is_here(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):
        return False
