"""The applications where they belong: on four replicas, asked by clients over sockets."""

from __future__ import annotations

import asyncio

import pytest

from smartbft.apps import coin, counter, key_value
from smartbft.apps.coin import CoinApplication
from smartbft.apps.counter import Counter
from smartbft.apps.key_value import KeyValueStore
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import Rejected
from smartbft.runtime.local import LocalCluster

ALICE, BOB = Ed25519Signer(bytes(32)), Ed25519Signer(bytes([1]) * 32)


def test_coins_move_between_clients() -> None:
    async def main() -> None:
        cluster = LocalCluster(4, lambda: CoinApplication(cluster.genesis.chain_id, [ALICE.public_key]))
        async with cluster, cluster.client(ALICE) as alice, cluster.client(BOB) as bob:
            minted = coin.decode_created(await alice.invoke(coin.mint([5] * 20))).coin_ids
            spends = [alice.invoke(coin.spend([name], [(BOB.public_key, 3), (ALICE.public_key, 2)])) for name in minted]
            paid = [coin.decode_created(result).coin_ids[0] for result in await asyncio.gather(*spends)]
            assert coin.decode_balance(await bob.invoke(coin.balance(BOB.public_key))) == coin.Balance(60, 20)
            listed = coin.decode_coins(await bob.invoke(coin.coins(BOB.public_key)))
            assert listed == tuple(coin.Coin(name, 3) for name in sorted(paid))
            with pytest.raises(Rejected, match="not the owner"):
                coin.decode_created(await alice.invoke(coin.spend([paid[0]], [(ALICE.public_key, 3)])))

    asyncio.run(main())


def test_what_the_stateless_check_refuses_is_never_ordered() -> None:
    async def main() -> None:
        cluster = LocalCluster(4, lambda: CoinApplication(cluster.genesis.chain_id, [ALICE.public_key]))
        async with cluster, cluster.client(ALICE) as alice:
            with pytest.raises(Rejected):
                await alice.invoke(b"no operation of the coin")
            coin.decode_created(await alice.invoke(coin.mint([1])))

    asyncio.run(main())


def test_plain_python_applications() -> None:
    async def main() -> None:
        async with LocalCluster(4, Counter) as cluster, cluster.client() as client:
            results = await asyncio.gather(*(client.invoke(counter.add(2)) for _ in range(50)))
            assert sorted(counter.decode_value(result) for result in results) == list(range(2, 102, 2))
        async with LocalCluster(4, lambda: KeyValueStore(max_bytes=10)) as cluster, cluster.client() as client:
            assert key_value.decode_value(await client.invoke(key_value.put(b"key", b"value"))) is None
            assert key_value.decode_value(await client.invoke(key_value.get(b"key"))) == b"value"
            with pytest.raises(Rejected) as rejection:
                key_value.decode_value(await client.invoke(key_value.put(b"other", b"value")))
            assert rejection.value.code == key_value.FULL

    asyncio.run(main())
