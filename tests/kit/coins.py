"""A cluster with the coin in this process, and a wallet of the command line over it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from smartbft import AsyncClient, LocalCluster
from smartbft.apps.coin import CoinApplication
from smartbft.cli.sessions import SessionFolder
from smartbft.cli.wallet import Wallet
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.types import Parameters

MINTER, OWNER = Ed25519Signer(bytes(32)), Ed25519Signer(bytes([1]) * 32)
SECONDS = 120.0


def coin_cluster(n: int = 1, parameters: Parameters | None = None) -> LocalCluster:
    """Its minter is `MINTER`."""
    cluster = LocalCluster(
        n, lambda: CoinApplication(cluster.genesis.chain_id, [MINTER.public_key]), parameters=parameters
    )
    return cluster


def session_folder(client: AsyncClient, folder: Path, most: int = 12) -> SessionFolder:
    """Where a test's commands of a client's key keep their sessions."""
    return SessionFolder(client.genesis.chain_id, client.key, most, folder)


@asynccontextmanager
async def wallet_of(cluster: LocalCluster, signer: Ed25519Signer, folder: Path) -> AsyncIterator[Wallet]:
    """What one command has: a client of its own, and sessions that it shares with other commands."""
    async with (
        cluster.client(signer) as client,
        Wallet(client, "client", SECONDS, session_folder(client, folder)) as wallet,
    ):
        yield wallet
