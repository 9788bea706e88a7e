"""``smartbft coin``: a wallet for SMaRtCoin."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from smartbft.cli.output import examples, json_option, print_json, print_table
from smartbft.cli.parameters import HEX_KEY, profile_option, timeout_option
from smartbft.cli.patience import patience
from smartbft.cli.run import run
from smartbft.config import ClientProfile
from smartbft.errors import Rejected
from smartbft.runtime.problems import name_problems

if TYPE_CHECKING:
    from smartbft.apps.coin import Coin
    from smartbft.runtime.client import AsyncClient

Result = TypeVar("Result")

_AMOUNT = click.IntRange(1, 2**64 - 1)

key_option = click.option(
    "--key", "key_name", default="client", show_default=True, help="A key that the profile names."
)


@click.group(
    epilog=examples("smartbft coin mint 100 --profile net/client.toml", "smartbft coin balance --key minter --json")
)
def coin() -> None:
    """Mint, spend and list coins. A coin belongs to an address, which is an Ed25519 public key.

    A transaction that the coin rejects gives exit code 6; one whose outcome is not known, because no quorum answered in
    time, gives 5: look at the balance before you repeat it.
    """


@coin.command(epilog=examples("smartbft coin mint 100 --profile net/client.toml", "smartbft coin mint 5 5 10 --json"))
@click.argument("values", type=_AMOUNT, nargs=-1, required=True)
@click.option("--key", "key_name", default="minter", show_default=True, help="A key that the profile names.")
@profile_option
@timeout_option("30s")
@json_option
def mint(values: tuple[int, ...], key_name: str, profile: Path, timeout: int, as_json: bool) -> None:
    """Make new coins, one for each of VALUES. They belong to the minter; only authorised minters may."""
    from smartbft.apps import coin as coins

    async def invoke(client: AsyncClient) -> tuple[bytes, ...]:
        return coins.decode_created(await client.invoke(coins.mint(values), timeout / 1_000_000)).coin_ids

    created = _with_client(profile, key_name, timeout, invoke)
    _print_coins([coins.Coin(id, value) for id, value in zip(created, values, strict=True)], as_json)


@coin.command(
    epilog=examples(
        "smartbft coin spend ADDRESS 30 --key minter --profile net/client.toml", "smartbft coin spend ADDRESS 30 --json"
    )
)
@click.argument("address", type=HEX_KEY)
@click.argument("amount", type=_AMOUNT)
@click.option("--coin", "chosen", type=HEX_KEY, multiple=True, help="Spend this coin (again for more); else enough.")
@key_option
@profile_option
@timeout_option("30s")
@json_option
def spend(
    address: bytes,
    amount: int,
    chosen: tuple[bytes, ...],
    key_name: str,
    profile: Path,
    timeout: int,
    as_json: bool,
) -> None:
    """Pay AMOUNT to ADDRESS. What the spent coins are worth beyond it comes back as a new coin."""
    from smartbft.apps import coin as coins

    async def invoke(client: AsyncClient) -> list[Coin]:
        seconds = timeout / 1_000_000
        owned = coins.decode_coins(await client.invoke(coins.coins(client.key), seconds))
        inputs = select_coins(owned, amount, chosen)
        change = sum(coin.value for coin in inputs) - amount
        outputs = [(address, amount)] + ([(client.key, change)] if change else [])
        operation = coins.spend([coin.id for coin in inputs], outputs)
        created = coins.decode_created(await client.invoke(operation, seconds)).coin_ids
        return [coins.Coin(id, value) for id, (_, value) in zip(created, outputs, strict=True)]

    _print_coins(_with_client(profile, key_name, timeout, invoke), as_json, ("paid", "change"))


@coin.command(
    epilog=examples("smartbft coin balance --profile net/client.toml", "smartbft coin balance ADDRESS --json")
)
@click.argument("address", type=HEX_KEY, required=False)
@key_option
@profile_option
@timeout_option("30s")
@json_option
def balance(address: bytes | None, key_name: str, profile: Path, timeout: int, as_json: bool) -> None:
    """Show what ADDRESS has (or the key's own address)."""
    from smartbft.apps import coin as coins

    async def invoke(client: AsyncClient) -> tuple[bytes, coins.Balance]:
        asked = address or client.key
        return asked, coins.decode_balance(await client.invoke(coins.balance(asked), timeout / 1_000_000))

    asked, found = _with_client(profile, key_name, timeout, invoke)
    if as_json:
        print_json({"address": asked, "amount": found.amount, "coins": found.coins})
    else:
        click.echo(f"{found.amount} in {found.coins} {'coin' if found.coins == 1 else 'coins'}")


@coin.command(
    "coins",
    epilog=examples("smartbft coin coins --profile net/client.toml", "smartbft coin coins ADDRESS --most 5 --json"),
)
@click.argument("address", type=HEX_KEY, required=False)
@click.option("--most", type=click.IntRange(1, 1024), default=100, show_default=True, help="List at most so many.")
@key_option
@profile_option
@timeout_option("30s")
@json_option
def list_coins(address: bytes | None, most: int, key_name: str, profile: Path, timeout: int, as_json: bool) -> None:
    """List the coins of ADDRESS or of the key. They come in the order of their ids."""
    from smartbft.apps import coin as coins

    async def invoke(client: AsyncClient) -> tuple[Coin, ...]:
        operation = coins.coins(address or client.key, most)
        return coins.decode_coins(await client.invoke(operation, timeout / 1_000_000))

    _print_coins(_with_client(profile, key_name, timeout, invoke), as_json)


def select_coins(owned: Sequence[Coin], amount: int, chosen: Sequence[bytes]) -> list[Coin]:
    """The coins to spend: the chosen ones, or the largest until they suffice.

    Raises:
        Rejected: a chosen coin is not there, or there is not enough; nothing was sent.
    """
    if chosen:
        found = {coin.id: coin for coin in owned}
        missing = [id.hex() for id in chosen if id not in found]
        if missing:
            raise Rejected(f"this key has no such coin (among its first {len(owned)}): {', '.join(missing)}")
        selected = [found[id] for id in dict.fromkeys(chosen)]
    else:
        selected = []
        for coin in sorted(owned, key=lambda coin: (-coin.value, coin.id)):
            if sum(coin.value for coin in selected) >= amount:
                break
            selected.append(coin)
    total = sum(coin.value for coin in selected)
    if total < amount:
        raise Rejected(f"{total} is not enough to pay {amount}: see 'smartbft coin coins'")
    return selected


def _with_client(
    profile_path: Path, key_name: str, timeout: int, invoke: Callable[[AsyncClient], Awaitable[Result]]
) -> Result:
    from smartbft.runtime.client import AsyncClient

    async def main() -> Result:
        client = AsyncClient.from_profile(ClientProfile.load(profile_path), key_name)
        try:
            async with patience(lambda: _waiting_for(client)):
                await client.connect(timeout / 1_000_000)
                return await invoke(client)
        finally:
            await client.aclose()

    return run(main())


def _waiting_for(client: AsyncClient) -> str:
    connected, members = client.connected, len(client.genesis.members)
    if len(connected) < client.needed:
        problems = name_problems(client.problems)
        return f"still waiting: {len(connected)} of {members} replicas connected, {client.needed} needed ({problems})"
    return f"still waiting for {client.needed} equal replies: 'smartbft status' tells what keeps the replicas"


def _print_coins(coins: Sequence[Coin], as_json: bool, purposes: Sequence[str] = ()) -> None:
    """Coins on stdout; in the table also what each is for, if that is known."""
    if as_json:
        print_json([{"coin": coin.id, "value": coin.value} for coin in coins])
    elif purposes:
        print_table(
            ("coin", "value", "what"),
            [(coin.id.hex(), coin.value, purpose) for coin, purpose in zip(coins, purposes, strict=False)],
        )
    else:
        print_table(("coin", "value"), [(coin.id.hex(), coin.value) for coin in coins])
