"""``smartbft testnet``: write a test network."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import click

from smartbft.cli.output import examples, json_option, print_json, print_table, say
from smartbft.cli.parameters import DURATION
from smartbft.config import PERSISTENCE_MODES, TRANSPORTS
from smartbft.config.replica import LogLevel, Persistence, Transport


@click.command(
    epilog=examples(
        "smartbft testnet net", "smartbft testnet net -n 7 --application key_value --persistence async --json"
    )
)
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-n", "--replicas", "n", default=4, show_default=True, type=click.IntRange(1, 64), help="How many.")
@click.option(
    "--application",
    default="coin",
    show_default=True,
    help="coin, counter, key_value or package.module:factory of your own.",
)
@click.option("--persistence", type=click.Choice(PERSISTENCE_MODES), default="sync", show_default=True)
@click.option("--transport", type=click.Choice(TRANSPORTS), default="tls", show_default=True)
@click.option("--base-port", type=click.IntRange(0, 65535), default=0, help="First TCP port; 0 chooses free ports.")
@click.option("--chain-name", default="testnet", show_default=True)
@click.option("--sync-floor", type=DURATION, default="0s", help="Added to each sync, e.g. 4ms; for benchmarks.")
@click.option("--log-level", type=click.Choice(get_args(LogLevel)), default="info", show_default=True)
@json_option
def testnet(
    folder: Path,
    n: int,
    application: str,
    persistence: Persistence,
    transport: Transport,
    base_port: int,
    chain_name: str,
    sync_floor: int,
    log_level: LogLevel,
    as_json: bool,
) -> None:
    """Write keys, certificates, the genesis, one home per replica and a client profile into FOLDER.

    All replicas listen on loopback. The folder must be new or empty. The client profile is FOLDER/client.toml.
    """
    from smartbft.testnet import create_testnet

    network = create_testnet(
        folder,
        n,
        application=application,
        persistence=persistence,
        transport=transport,
        base_port=base_port,
        chain_name=chain_name,
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
    say(f"Start each replica: smartbft start --home {network.replicas[0].home}")
    say(f"Then, for example:  smartbft status --profile {network.profile.path}")
