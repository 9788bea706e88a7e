"""A wallet pays whatever coins its key was sent: it lists page by page, spends the largest, and merges the small."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from kit.coins import MINTER, OWNER, SECONDS, coin_cluster, session_folder, wallet_of

from smartbft import LocalCluster
from smartbft.apps import coin
from smartbft.apps.coin import MAX_AMOUNT, MAX_ITEMS, MAX_LISTED, Coin
from smartbft.cli import wallet as wallets
from smartbft.cli.wallet import Wallet, check_enough, merging, select_coins
from smartbft.errors import LocalProtocolError, Rejected

Run = Callable[[Callable[[], Awaitable[None]]], None]
OTHER = bytes(range(32))


def coins(*values: int) -> list[Coin]:
    return [Coin(bytes([number]) * 32, value) for number, value in enumerate(values)]


async def send_dust(cluster: LocalCluster, number: int, *, value: int = 1) -> None:
    """`number` coins of one unit go from the minter to the owner."""
    async with cluster.client(MINTER) as client:
        for first in range(0, number, 200):
            several = min(200, number - first)
            minted = coin.decode_created(await client.invoke(coin.mint([value * several]), SECONDS)).coin_ids
            outputs = [(OWNER.public_key, value)] * several
            coin.decode_created(await client.invoke(coin.spend(minted, outputs), SECONDS))


async def send_one(cluster: LocalCluster, value: int) -> bytes:
    async with cluster.client(MINTER) as client:
        minted = coin.decode_created(await client.invoke(coin.mint([value]), SECONDS)).coin_ids
        operation = coin.spend(minted, [(OWNER.public_key, value)])
        return coin.decode_created(await client.invoke(operation, SECONDS)).coin_ids[0]


async def amount_of(wallet: Wallet, address: bytes) -> int:
    return (await wallet.balance(address)).amount


def test_a_wallet_full_of_dust_can_pay(run: Run, tmp_path: Path) -> None:
    """Three thousand coins of one unit, and one that is worth something: wherever it stands in the list."""

    async def scenario() -> None:
        async with coin_cluster() as cluster:
            await send_dust(cluster, 3000)
            large = await send_one(cluster, 500_000)
            async with wallet_of(cluster, OWNER, tmp_path) as wallet:
                assert await wallet.largest_coins(OWNER.public_key, 1) == ([Coin(large, 500_000)], True)
                paid, change = await wallet.pay(OTHER, 5000)
                assert (paid.value, change.value) == (5000, 495_000)
                assert await amount_of(wallet, OTHER) == 5000
                found, more = await wallet.first_coins(OWNER.public_key, 3500)
                assert len(found) == 3001
                assert not more
                assert [one.id for one in found] == sorted(one.id for one in found)

    run(scenario)


def test_many_small_coins_are_merged_to_pay(run: Run, tmp_path: Path) -> None:
    """As many as fill eight transactions pay what one transaction cannot."""

    async def scenario() -> None:
        async with coin_cluster() as cluster:
            await send_dust(cluster, 3000)
            async with wallet_of(cluster, OWNER, tmp_path) as wallet:
                (paid,) = await wallet.pay(OTHER, 2000)
                assert paid.value == await amount_of(wallet, OTHER) == 2000
                assert await wallet.balance(OWNER.public_key) == coin.Balance(1000, 1000)
                with pytest.raises(Rejected, match="1000 is not enough to pay 1001"):
                    await wallet.pay(OTHER, 1001)
                (paid,) = await wallet.pay(OTHER, 1000)
                assert await amount_of(wallet, OTHER) == 3000

    run(scenario)


@pytest.mark.parametrize(("up_to", "left"), [(MAX_AMOUNT, [800 + 7 + 900]), (1, [7, 800, 900]), (10, [807, 900])])
def test_coins_are_consolidated(run: Run, tmp_path: Path, up_to: int, left: list[int]) -> None:
    async def scenario() -> None:
        async with coin_cluster() as cluster:
            await send_dust(cluster, 800)
            for value in (7, 900):
                await send_one(cluster, value)
            async with wallet_of(cluster, OWNER, tmp_path) as wallet:
                await wallet.consolidate(up_to)
                found, _ = await wallet.first_coins(OWNER.public_key, 10)
                assert sorted(one.value for one in found) == left
                again = await wallet.consolidate(up_to)
                assert again[0] == len(again[1]), "there is nothing left to merge"

    run(scenario)


def test_a_chosen_coin_is_found_without_listing_others(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        async with coin_cluster() as cluster:
            await send_dust(cluster, 2000)
            chosen = [await send_one(cluster, value) for value in (10, 20)]
            monkeypatch.setattr(Wallet, "pages", None)
            async with wallet_of(cluster, OWNER, tmp_path) as wallet:
                paid, change = await wallet.pay(OTHER, 25, chosen)
                assert (paid.value, change.value) == (25, 5)
                with pytest.raises(Rejected, match=f"no such coin: {chosen[0].hex()}"):
                    await wallet.pay(OTHER, 1, [chosen[0], change.id])
                with pytest.raises(Rejected, match="5 is not enough to pay 6"):
                    await wallet.pay(OTHER, 6, [change.id])
                for nobody in (bytes(32), b"\xff" * 32):
                    assert await wallet.find(nobody) is None
            async with wallet_of(cluster, MINTER, tmp_path) as wallet:
                with pytest.raises(Rejected, match="no such coin"):
                    await wallet.pay(OTHER, 1, [change.id])

    run(scenario)


def test_commands_that_choose_the_same_coin_choose_again(run: Run, tmp_path: Path) -> None:
    """All see the same largest coin; one spends it, and the others take what is there then."""

    async def command(cluster: LocalCluster) -> None:
        async with wallet_of(cluster, OWNER, tmp_path) as wallet:
            await wallet.pay(OTHER, 1)

    async def scenario() -> None:
        async with coin_cluster() as cluster:
            await send_one(cluster, 100)
            await asyncio.gather(*(command(cluster) for _ in range(4)))
            async with wallet_of(cluster, OWNER, tmp_path) as wallet:
                assert await amount_of(wallet, OTHER) == 4

    run(scenario)


def test_busy_replicas_order_what_cannot_be_read(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    async def never(client: object, query: bytes, within: float) -> None:
        tried.append(query)

    async def scenario() -> None:
        async with coin_cluster() as cluster:
            await send_dust(cluster, MAX_LISTED + 10)
            monkeypatch.setattr(wallets, "read", never)
            async with wallet_of(cluster, OWNER, tmp_path) as wallet:
                assert await wallet.balance(OWNER.public_key) == coin.Balance(MAX_LISTED + 10, MAX_LISTED + 10)
                found, more = await wallet.first_coins(OWNER.public_key, MAX_LISTED)
                assert (len(found), more, len(tried)) == (MAX_LISTED, True, 1)

    run(scenario)


def test_a_page_that_ends_exactly_is_the_last(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with coin_cluster() as cluster:
            await send_dust(cluster, MAX_LISTED)
            async with wallet_of(cluster, OWNER, tmp_path) as wallet:
                found, more = await wallet.first_coins(OWNER.public_key, MAX_LISTED)
                assert (len(found), more) == (MAX_LISTED, False)
                rest, more = await wallet.first_coins(OWNER.public_key, MAX_LISTED, found[99].id)
                assert (rest, more) == (found[100:], False)

    run(scenario)


def test_what_is_looked_at_has_a_limit(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more coins than a wallet keeps in mind, it keeps the largest."""
    monkeypatch.setattr(wallets, "MAX_WALLET_COINS", 300)

    async def scenario() -> None:
        async with coin_cluster() as cluster:
            await send_dust(cluster, 1400)
            await send_dust(cluster, 300, value=3)
            async with wallet_of(cluster, OWNER, tmp_path) as wallet:
                (paid,) = await wallet.pay(OTHER, 900)
                assert paid.value == 900
                with pytest.raises(Rejected, match="300 is not enough to pay 301"):
                    await wallet.pay(OTHER, 301)
                number, left = await wallet.consolidate(MAX_AMOUNT)
                assert (number, [one.value for one in left]) == (300, [300])

    run(scenario)


def test_the_largest_amounts(run: Run, tmp_path: Path) -> None:
    """Amounts of 64 bits are paid as long as a transaction can say them."""

    async def scenario() -> None:
        async with coin_cluster() as cluster:
            for value in (MAX_AMOUNT, MAX_AMOUNT - 1, 1):
                await send_one(cluster, value)
            async with wallet_of(cluster, OWNER, tmp_path) as wallet:
                _, left = await wallet.consolidate(MAX_AMOUNT)
                assert sorted(one.value for one in left) == [MAX_AMOUNT, MAX_AMOUNT]
                (paid,) = await wallet.pay(OTHER, MAX_AMOUNT)
                assert paid.value == MAX_AMOUNT
                assert await amount_of(wallet, OTHER) == MAX_AMOUNT
                chosen = [one.id for one in (await wallet.first_coins(OWNER.public_key, 5))[0]]
                chosen.append(await send_one(cluster, 5))
                with pytest.raises(LocalProtocolError, match="add up to at most"):
                    await wallet.pay(OTHER, MAX_AMOUNT, chosen)

    run(scenario)


# --- choosing ---


@pytest.mark.parametrize(
    ("amount", "expected"), [(7, [10]), (10, [10]), (12, [10, 5]), (15, [10, 5]), (16, [10, 5, 1]), (99, [10, 5, 1])]
)
def test_the_fewest_coins_are_chosen(amount: int, expected: list[int]) -> None:
    for owned in (coins(10, 5, 1), coins(1, 5, 10)):
        assert [one.value for one in select_coins(owned, amount)] == expected


def test_too_few_coins_are_refused() -> None:
    check_enough(coins(10, 5), 15)
    with pytest.raises(Rejected, match="15 is not enough to pay 16"):
        check_enough(coins(10, 5), 16)


def test_groups_to_merge_keep_to_what_a_transaction_takes() -> None:
    many = [Coin(number.to_bytes(32), 1) for number in range(600)]
    assert [len(group) for group in merging(many)] == [MAX_ITEMS, MAX_ITEMS, 90]
    assert [len(group) for group in merging(coins(MAX_AMOUNT, 1, MAX_AMOUNT - 1))] == [2, 1]
    assert [[one.value for one in group] for group in merging(coins(3, 1, 2))] == [[1, 2, 3]]
    assert merging([]) == []


def test_the_same_chosen_coin_counts_once(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with coin_cluster() as cluster:
            chosen = await send_one(cluster, 10)
            async with cluster.client(OWNER) as client:
                folder = session_folder(client, tmp_path)
                async with Wallet(client, "client", SECONDS, folder) as wallet:
                    with pytest.raises(Rejected, match="10 is not enough to pay 20"):
                        await wallet.pay(OTHER, 20, [chosen, chosen])

    run(scenario)
