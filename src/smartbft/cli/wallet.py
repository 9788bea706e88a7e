"""A wallet over a client: reads without ordering where that is possible, lists page by page, pays and merges coins."""

from __future__ import annotations

import heapq
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack
from types import TracebackType

from smartbft._fastpath.coin import UNKNOWN_COIN
from smartbft.apps import coin as coins
from smartbft.apps.coin import MAX_AMOUNT, MAX_ITEMS, Balance, Coin
from smartbft.cli.sessions import CommandSession, SessionFolder, command_session
from smartbft.errors import Rejected
from smartbft.limits import MAX_WALLET_COINS
from smartbft.runtime.client import AsyncClient
from smartbft.runtime.reading import read

# Of the timeout, for a read that is not ordered: what is left is for ordering it.
_PART_FOR_READING = 4
_MOST_SECONDS_FOR_READING = 1.0
# How often coins are chosen anew because another command of the same key was quicker to spend one.
_ATTEMPTS = 8


class Wallet:
    """The coins of one key. Use it with ``async with``: what is ordered takes a session, what is read takes none.

    Args:
        client: connected.
        key_name: what the profile calls the key.
        seconds: for each operation.
        folder: where sessions are kept between commands; None for the usual place.
    """

    def __init__(self, client: AsyncClient, key_name: str, seconds: float, folder: SessionFolder | None = None) -> None:
        self._folder = folder
        self._client = client
        self._key_name = key_name
        self._seconds = seconds
        self._stack = AsyncExitStack()
        self._session: CommandSession | None = None
        self._reads = True

    async def __aenter__(self) -> Wallet:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def level(self) -> int:
        """Of the persistence of what was ordered: 0 memory, or nothing was ordered; 1 asynchronous, 2 synchronous."""
        return self._session.level if self._session is not None else 0

    @property
    def address(self) -> bytes:
        """The key's own address."""
        return self._client.key

    # --- reading ---

    async def balance(self, address: bytes) -> Balance:
        """What an address has."""
        return coins.decode_balance(await self._read(coins.balance(address)))

    async def pages(self, address: bytes, after: bytes = b"") -> AsyncIterator[tuple[Coin, ...]]:
        """The coins of an address in the order of their ids, page by page; those after `after`, if it is given."""
        while True:
            page = coins.decode_coins(await self._read(coins.coins(address, after=after)))
            if page:
                yield page
            if len(page) < coins.MAX_LISTED:
                return
            after = page[-1].id

    async def first_coins(self, address: bytes, most: int, after: bytes = b"") -> tuple[list[Coin], bool]:
        """The first `most` coins in the order of their ids, and whether there are more."""
        found: list[Coin] = []
        async for page in self.pages(address, after):
            found += page
            if len(found) > most:
                break
        return found[:most], len(found) > most

    async def largest_coins(self, address: bytes, most: int) -> tuple[list[Coin], bool]:
        """The `most` largest coins, and whether there are more."""
        found: list[Coin] = []
        number = 0
        async for page in self.pages(address):
            number += len(page)
            found = largest([*found, *page], most)
        return found, number > most

    async def find(self, id: bytes) -> Coin | None:
        """The coin with this id, if it belongs to the key; nothing else is listed for it."""
        number = int.from_bytes(id)
        before = (number - 1).to_bytes(len(id)) if number else b""
        page = coins.decode_coins(await self._read(coins.coins(self.address, 1, before)))
        return next((coin for coin in page if coin.id == id), None)

    async def _read(self, query: bytes) -> bytes:
        if self._reads:
            within = min(self._seconds / _PART_FOR_READING, _MOST_SECONDS_FOR_READING)
            result = await read(self._client, query, within)
            if result is not None:
                return result
            self._reads = False  # the replicas are busy: the next page would fare no better
        return await self._order(query)

    # --- ordering ---

    async def mint(self, values: Sequence[int]) -> list[Coin]:
        """Make coins of these values for the key, which must be a minter's."""
        return await self._transact(coins.mint(values), values)

    async def pay(self, address: bytes, amount: int, chosen: Sequence[bytes] = ()) -> list[Coin]:
        """Pay `amount` to `address` with the chosen coins, or with the largest that are needed.

        Where more coins are needed than a transaction takes, some are merged first.

        Returns:
            The coin that was paid, and the change if there is any.

        Raises:
            Rejected: a chosen coin is not there, or there is not enough; nothing was sent.
        """
        for _ in range(_ATTEMPTS - 1):
            try:
                return await self._pay_once(address, amount, chosen)
            except Rejected as rejection:
                if chosen or rejection.code != UNKNOWN_COIN:
                    raise
        return await self._pay_once(address, amount, chosen)

    async def _pay_once(self, address: bytes, amount: int, chosen: Sequence[bytes]) -> list[Coin]:
        inputs = await (self._chosen(chosen) if chosen else self._largest(amount))
        check_enough(inputs, amount)
        while len(inputs) > MAX_ITEMS:
            inputs = [*inputs[:-MAX_ITEMS], await self.merge(inputs[-MAX_ITEMS:])]
        return await self._spend(inputs, address, amount)

    async def merge(self, inputs: Sequence[Coin]) -> Coin:
        """Make one coin of several of the key, at most 255."""
        total = sum(coin.value for coin in inputs)
        (merged,) = await self._transact(coins.spend([coin.id for coin in inputs], [(self.address, total)]), [total])
        return merged

    async def consolidate(self, most_value: int) -> tuple[int, list[Coin]]:
        """Merge the coins of the key that are worth `most_value` or less into as few as possible.

        Returns:
            How many there were, and those that there are instead.
        """
        owned = (coin async for page in self.pages(self.address) for coin in page)
        small = [coin async for coin in _first(owned, most_value)]
        number = len(small)
        groups = merging(small)
        while any(len(group) > 1 for group in groups):
            small = [await self.merge(group) if len(group) > 1 else group[0] for group in groups]
            groups = merging(small)
        return number, small

    async def _spend(self, inputs: Sequence[Coin], address: bytes, amount: int) -> list[Coin]:
        change = sum(coin.value for coin in inputs) - amount
        outputs = [(address, amount)] + ([(self.address, change)] if change else [])
        operation = coins.spend([coin.id for coin in inputs], outputs)
        return await self._transact(operation, [value for _, value in outputs])

    async def _transact(self, operation: bytes, values: Sequence[int]) -> list[Coin]:
        created = coins.decode_created(await self._order(operation)).coin_ids
        return [Coin(id, value) for id, value in zip(created, values, strict=True)]

    async def _chosen(self, chosen: Sequence[bytes]) -> list[Coin]:
        found = {id: await self.find(id) for id in chosen}
        missing = [id.hex() for id, coin in found.items() if coin is None]
        if missing:
            raise Rejected(f"the key '{self._key_name}' has no such coin: {', '.join(missing)}")
        return [coin for coin in found.values() if coin is not None]

    async def _largest(self, amount: int) -> list[Coin]:
        """The largest coins that make up the amount, or all that were looked at; no more pages than that takes."""
        found: list[Coin] = []
        few: list[Coin] = []
        async for page in self.pages(self.address):
            few = largest([*few, *page], MAX_ITEMS)
            if sum(coin.value for coin in few) >= amount:
                return select_coins(few, amount)
            found += page
            if len(found) > 2 * MAX_WALLET_COINS:
                found = largest(found, MAX_WALLET_COINS)
        return select_coins(largest(found, MAX_WALLET_COINS), amount)

    async def _order(self, operation: bytes) -> bytes:
        if self._session is None:
            opening = command_session(self._client, self._key_name, self._seconds, self._folder)
            self._session = await self._stack.enter_async_context(opening)
        return await self._session.invoke(operation, self._seconds)


def largest(owned: Iterable[Coin], most: int) -> list[Coin]:
    """The `most` largest coins, largest first, those of one value by their ids."""
    return heapq.nsmallest(most, owned, key=lambda coin: (-coin.value, coin.id))


def select_coins(owned: Sequence[Coin], amount: int) -> list[Coin]:
    """The fewest coins that are worth `amount`: the largest ones; all, if they are not."""
    selected: list[Coin] = []
    total = 0
    for coin in largest(owned, len(owned)):
        if total >= amount:
            break
        selected.append(coin)
        total += coin.value
    return selected


def check_enough(inputs: Sequence[Coin], amount: int) -> None:
    """Raises Rejected: the coins are worth less than `amount`."""
    total = sum(coin.value for coin in inputs)
    if total < amount:
        raise Rejected(f"{total} is not enough to pay {amount}: see 'smartbft coin coins'")


def merging(owned: Sequence[Coin]) -> list[list[Coin]]:
    """The coins in groups, each of which one transaction can merge; the smallest first."""
    groups: list[list[Coin]] = []
    total = 0
    for coin in sorted(owned, key=lambda coin: (coin.value, coin.id)):
        if not groups or len(groups[-1]) == MAX_ITEMS or total + coin.value > MAX_AMOUNT:
            groups.append([])
            total = 0
        groups[-1].append(coin)
        total += coin.value
    return groups


async def _first(owned: AsyncIterator[Coin], most_value: int) -> AsyncIterator[Coin]:
    """The coins of at most this value, and no more of them than a wallet looks at."""
    number = 0
    async for coin in owned:
        if coin.value <= most_value:
            yield coin
            number += 1
        if number == MAX_WALLET_COINS:
            return
