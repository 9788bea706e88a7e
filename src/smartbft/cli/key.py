"""``smartbft key``: make and show keys."""

from __future__ import annotations

from pathlib import Path

import click

from smartbft.cli.lazy import SuggestingGroup
from smartbft.cli.output import examples, json_option, print_json
from smartbft.cli.streams import prints_only


@click.group(cls=SuggestingGroup, epilog=examples("smartbft key new alice.key", "smartbft key show alice.key --json"))
def key() -> None:
    """Make and show Ed25519 key files. A key file holds a secret and is readable by its owner only (mode 0600)."""


@key.command(epilog=examples("smartbft key new alice.key", "smartbft key new keys/bob.key --json"))
@click.argument("file", type=click.Path(path_type=Path))
@json_option
def new(file: Path, as_json: bool) -> None:
    """Make a new key in FILE. The file must not exist; the public key is printed, which is also a coin address."""
    from smartbft.crypto.keys import generate_key

    _show(file, generate_key(file).public_key, as_json)


@key.command(epilog=examples("smartbft key show alice.key", "smartbft key show alice.key --json"))
@click.argument("file", type=click.Path(path_type=Path))
@json_option
@prints_only
def show(file: Path, as_json: bool) -> None:
    """Print the public key of FILE. The secret is never printed."""
    from smartbft.crypto.keys import load_signer

    _show(file, load_signer(file).public_key, as_json)


def _show(file: Path, public_key: bytes, as_json: bool) -> None:
    if as_json:
        print_json({"file": str(file), "public_key": public_key})
    else:
        click.echo(public_key.hex())
