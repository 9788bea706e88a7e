"""``smartbft coin``: a wallet for SMaRtCoin."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from smartbft.cli.lazy import SuggestingGroup
from smartbft.cli.output import examples, json_option, print_json, print_table, say
from smartbft.cli.parameters import HEX_KEY, profile_option, timeout_option
from smartbft.cli.patience import patience
from smartbft.cli.run import run
from smartbft.cli.streams import prints_only
from smartbft.config import ClientProfile
from smartbft.errors import ConfigError
from smartbft.limits import MAX_WALLET_COINS
from smartbft.runtime.application_names import BUILT_IN
from smartbft.runtime.problems import name_problems

if TYPE_CHECKING:
    from smartbft.apps.coin import Balance, Coin
    from smartbft.cli.wallet import Wallet
    from smartbft.runtime.client import AsyncClient

Result = TypeVar("Result")

_AMOUNT = click.IntRange(1, 2**64 - 1)

key_option = click.option(
    "--key", "key_name", default="client", show_default=True, help="A key that the profile names."
)


@click.group(
    cls=SuggestingGroup,
    epilog=examples("smartbft coin mint 100 --profile net/client.toml", "smartbft coin balance --key minter --json"),
)
def coin() -> None:
    """Mint, spend and list coins. A coin belongs to an address, which is an Ed25519 public key.

    The profile names two keys: 'mint' uses 'minter' and pays to it, the other commands use 'client', unless --key says
    otherwise.

    A transaction that the coin rejects gives exit code 6; one whose outcome is not known, because no quorum answered in
    time, gives 5: look at the balance before you repeat it. On a chain of another application nothing is sent: 3.

    Commands of one key share sessions, which are kept below $XDG_STATE_HOME/smartbft (~/.local/state/smartbft).
    """


@coin.command(epilog=examples("smartbft coin mint 100 --profile net/client.toml", "smartbft coin mint 5 5 10 --json"))
@click.argument("values", type=_AMOUNT, nargs=-1, required=True)
@click.option("--key", "key_name", default="minter", show_default=True, help="A key that the profile names.")
@profile_option
@timeout_option("30s")
@json_option
def mint(values: tuple[int, ...], key_name: str, profile: Path, timeout: int, as_json: bool) -> None:
    """Make new coins, one for each of VALUES. They belong to the minter; only authorised minters may.

    The minter is the key 'minter' unless --key names another: see them with 'smartbft coin balance --key minter'.
    """

    async def invoke(wallet: Wallet) -> tuple[bytes, list[Coin]]:
        return wallet.address, await wallet.mint(values)

    address, made = _with_wallet(profile, key_name, timeout, invoke)
    _print_coins(made, as_json)
    say(f"paid to the key '{key_name}', address {address.hex()}")


@coin.command(
    epilog=examples(
        "smartbft coin spend ADDRESS 30 --key minter --profile net/client.toml", "smartbft coin spend ADDRESS 30 --json"
    )
)
@click.argument("address", type=HEX_KEY)
@click.argument("amount", type=_AMOUNT)
@click.option(
    "--coin", "chosen", type=HEX_KEY, multiple=True, help="Spend this coin (again for more); else the largest."
)
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
    """Pay AMOUNT to ADDRESS. What the spent coins are worth beyond it comes back as a new coin.

    Where a payment takes more than 255 coins, some of them are merged first, in transactions of their own.
    """

    async def invoke(wallet: Wallet) -> list[Coin]:
        return await wallet.pay(address, amount, chosen)

    _print_coins(_with_wallet(profile, key_name, timeout, invoke), as_json, ("paid", "change"))


@coin.command(
    epilog=examples("smartbft coin balance --profile net/client.toml", "smartbft coin balance ADDRESS --json")
)
@click.argument("address", type=HEX_KEY, required=False)
@key_option
@profile_option
@timeout_option("30s")
@json_option
@prints_only
def balance(address: bytes | None, key_name: str, profile: Path, timeout: int, as_json: bool) -> None:
    """Show what ADDRESS has (or the key's own address)."""

    async def invoke(wallet: Wallet) -> tuple[bytes, Balance]:
        asked = address or wallet.address
        return asked, await wallet.balance(asked)

    asked, found = _with_wallet(profile, key_name, timeout, invoke)
    if as_json:
        print_json({"address": asked, "amount": found.amount, "coins": found.coins})
        return
    click.echo(f"{found.amount} in {found.coins} {'coin' if found.coins == 1 else 'coins'}")
    if address is None:
        say(f"this is the key '{key_name}', address {asked.hex()}{_others(profile, key_name)}")


def _others(profile: Path, key_name: str) -> str:
    """Which other keys of the profile have balances of their own."""
    others = [f"--key {name}" for name in sorted(ClientProfile.load(profile).keys) if name != key_name]
    return f"; other keys of the profile: {', '.join(others)}" if others else ""


@coin.command(
    "coins",
    epilog=examples(
        "smartbft coin coins --profile net/client.toml",
        "smartbft coin coins ADDRESS --most 5 --json",
        "smartbft coin coins --largest --most 10",
    ),
)
@click.argument("address", type=HEX_KEY, required=False)
@click.option(
    "--most", type=click.IntRange(1, MAX_WALLET_COINS), default=100, show_default=True, help="List at most so many."
)
@click.option("--after", type=HEX_KEY, help="List only coins whose ids come after this one: the next page.")
@click.option("--largest", is_flag=True, help="List the largest coins, largest first.")
@key_option
@profile_option
@timeout_option("30s")
@json_option
@prints_only
def list_coins(
    address: bytes | None,
    most: int,
    after: bytes | None,
    largest: bool,
    key_name: str,
    profile: Path,
    timeout: int,
    as_json: bool,
) -> None:
    """List the coins of ADDRESS or of the key. They come in the order of their ids."""
    if largest and after is not None:
        raise click.UsageError("--largest looks at all coins: it does not go with --after")

    async def invoke(wallet: Wallet) -> tuple[list[Coin], bool]:
        asked = address or wallet.address
        return await (wallet.largest_coins(asked, most) if largest else wallet.first_coins(asked, most, after or b""))

    found, more = _with_wallet(profile, key_name, timeout, invoke)
    _print_coins(found, as_json)
    if more:
        how = "--most shows more" if largest else f"--most shows more, --after {found[-1].id.hex()} the next ones"
        say(f"these are {len(found):,} coins, and there are others: {how}")


@coin.command(
    epilog=examples(
        "smartbft coin consolidate --profile net/client.toml", "smartbft coin consolidate --up-to 10 --key minter"
    )
)
@click.option("--up-to", type=_AMOUNT, show_default="all", help="Merge only coins that are worth so much or less.")
@key_option
@profile_option
@timeout_option("30s")
@json_option
def consolidate(up_to: int | None, key_name: str, profile: Path, timeout: int, as_json: bool) -> None:
    """Merge small coins.

    The coins of the key become one, or as few as a value of 64 bits allows. One transaction merges up to 255 coins; as
    many as it takes are sent, one after the other. To be interrupted does no harm: what was merged stays so.
    """

    async def invoke(wallet: Wallet) -> tuple[int, list[Coin]]:
        return await wallet.consolidate(up_to or 2**64 - 1)

    number, left = _with_wallet(profile, key_name, timeout, invoke)
    _print_coins(left, as_json)
    say(f"{number:,} coins looked at, {len(left):,} left of them")


def _with_wallet(
    profile_path: Path, key_name: str, timeout: int, invoke: Callable[[Wallet], Awaitable[Result]]
) -> Result:
    from smartbft.cli.wallet import Wallet
    from smartbft.runtime.client import AsyncClient

    loaded = ClientProfile.load(profile_path)
    _check_chain(loaded)

    async def main() -> Result:
        client = AsyncClient.from_profile(loaded, key_name)
        seconds = timeout / 1_000_000
        try:
            async with patience(lambda: _waiting_for(client)):
                await client.connect(seconds)
                async with Wallet(client, key_name, seconds) as wallet:
                    result = await invoke(wallet)
                    # A result needs f + 1 equal replies, and the level is in them: so many replicas say the same.
                    if weaker := loaded.weaker_than([wallet.level] * client.needed):
                        say(f"warning: {weaker}")
                    return result
        finally:
            await client.aclose()

    return run(main())


def _check_chain(profile: ClientProfile) -> None:
    """Refuse a chain of another application before anything is sent: what it would make of a coin's bytes is its own
    business, and it may well carry them out.
    """
    application = profile.genesis.application
    if BUILT_IN.get(application, application) not in (BUILT_IN["coin"], BUILT_IN["coin_ledger"]):
        raise ConfigError(
            f'the application of this chain is "{application}", and not "coin": nothing was sent. Choose a profile of '
            "a chain with coins (--profile), or use the client of that application",
            file=str(profile.path),
            field="genesis",
        )


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
