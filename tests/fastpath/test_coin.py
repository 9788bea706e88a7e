"""The native coin against the plain-Python one: every rule, every code, any sequence of transactions."""

from __future__ import annotations

import json
import random
import resource
import threading
from pathlib import Path
from typing import ClassVar

import pytest
from blake3 import blake3
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from nacl.signing import SigningKey
from oracles import coin as oracle
from oracles.coin import Request, balance, coins, mint, request_list, spend, split

from smartbft._fastpath import coin as native
from smartbft.errors import MalformedMessage

CHAIN = bytes(range(32))
ALICE, BOB, CAROL = (blake3(name).digest() for name in (b"alice", b"bob", b"carol"))
VECTORS = Path(__file__).parent.parent / "vectors"
CODES = [
    "OK",
    "MALFORMED",
    "NOT_AUTHORISED",
    "UNKNOWN_COIN",
    "NOT_OWNER",
    "DUPLICATE_INPUT",
    "UNBALANCED",
    "OVERFLOW",
    "ZERO_AMOUNT",
    "BAD_SIGNATURE",
    "BAD_ADDRESS",
    "COIN_EXISTS",
]
MAX = 2**64 - 1


class Pair:
    """A native coin and its oracle, fed the same; any difference fails."""

    def __init__(
        self, minters: list[bytes], oracle_class: type[oracle.Coin] = oracle.Coin, receipts: tuple[int, int] = (0, 0)
    ) -> None:
        self.oracle = oracle_class(CHAIN, minters, receipts)
        self.native = native.CoinState(
            CHAIN, b"".join(minters), receipt_bytes_mint=receipts[0], receipt_bytes_spend=receipts[1]
        )
        self.sequences = dict.fromkeys((ALICE, BOB, CAROL), 0)

    def request(self, key: bytes, operation: bytes) -> Request:
        self.sequences[key] += 1
        return Request(key, 5, self.sequences[key], operation)

    def execute(self, *requests: Request) -> list[bytes]:
        data = request_list(list(requests))
        results = split(self.native.execute_batch(data))
        assert results == self.oracle.execute_batch(list(requests))
        checked = [
            int(not request.operation or self.oracle.check(request.operation) == oracle.OK) for request in requests
        ]
        assert list(self.native.check_batch(data)) == checked
        return results

    def do(self, key: bytes, operation: bytes) -> bytes:
        return self.execute(self.request(key, operation))[0]

    def read(self, ordered: bytes, query: bytes) -> None:
        """A query that was just executed is answered without ordering it as it was then."""
        found = self.native.read(query)
        assert found == self.oracle.read(query)
        assert found == (ordered if ordered[0] == native.OK else None)

    def compare(self) -> None:
        snapshot = self.native.snapshot()
        assert snapshot == self.oracle.snapshot()
        assert self.native.digest() == blake3(snapshot).digest()
        assert self.native.coins() == len(self.oracle.coins)
        assert self.native.supply() == self.native.minted() == self.oracle.minted == self.oracle.supply()

    def mint(self, key: bytes, *values: int) -> list[bytes]:
        return made(self.do(key, mint(list(values))))


def made(result: bytes) -> list[bytes]:
    """The coin ids in the result of a MINT or SPEND."""
    assert result[0] == native.OK
    return [result[2 + 32 * index : 34 + 32 * index] for index in range(result[1])]


@pytest.fixture
def pair() -> Pair:
    return Pair([ALICE])


def test_codes_have_the_published_numbers() -> None:
    assert [getattr(native, name) for name in CODES] == list(range(len(CODES)))
    assert [getattr(oracle, name) for name in CODES] == list(range(len(CODES)))


def test_mint_then_spend_moves_the_money(pair: Pair) -> None:
    first, second = pair.mint(ALICE, 5, 7)
    paid, change = made(pair.do(ALICE, spend([first, second], [(BOB, 8), (ALICE, 4)])))
    assert pair.do(BOB, balance(BOB)) == b"\0" + (8).to_bytes(16, "little") + (1).to_bytes(8, "little")
    assert pair.do(BOB, coins(ALICE, 9)) == b"\0\1\0" + change + (4).to_bytes(8, "little")
    assert paid == native.coin_id(CHAIN, ALICE, 5, 2, 0)
    pair.compare()


def test_coin_ids_can_be_computed_ahead(pair: Pair) -> None:
    for index, name in enumerate(pair.mint(ALICE, 1, 1, 1)):
        assert name == native.coin_id(CHAIN, ALICE, 5, 1, index) == oracle.coin_id(CHAIN, ALICE, 5, 1, index)
    assert native.coin_id(CHAIN, ALICE, MAX, MAX, 2**32 - 1) == oracle.coin_id(CHAIN, ALICE, MAX, MAX, 2**32 - 1)


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        (b"\0", native.MALFORMED),
        (b"\5" + ALICE, native.MALFORMED),
        (mint([]), native.MALFORMED),
        (mint([1])[:-1], native.MALFORMED),
        (mint([1]) + b"\0", native.MALFORMED),
        (mint([1], bytes(513)), native.MALFORMED),
        (mint([1, 0]), native.ZERO_AMOUNT),
        (mint([MAX, 1]), native.OVERFLOW),
        (spend([], [(BOB, 1)]), native.MALFORMED),
        (spend([CHAIN], []), native.MALFORMED),
        (spend([CHAIN], [(BOB, 1)], bytes(513)), native.MALFORMED),
        (spend([CHAIN], [(BOB, 0)]), native.ZERO_AMOUNT),
        (spend([CHAIN], [(bytes(32), 1)]), native.BAD_ADDRESS),
        (spend([CHAIN, ALICE, CHAIN], [(BOB, 1)]), native.DUPLICATE_INPUT),
        (spend([CHAIN], [(BOB, MAX), (BOB, 1)]), native.OVERFLOW),
        (balance(ALICE)[:-1], native.MALFORMED),
        (balance(ALICE) + b"\0", native.MALFORMED),
        (coins(ALICE, 0), native.MALFORMED),
        (coins(ALICE, 1025), native.MALFORMED),
        (coins(ALICE, 1)[:-1], native.MALFORMED),
        (coins(ALICE, 0, CHAIN), native.MALFORMED),
        (coins(ALICE, 1, CHAIN[:-1]), native.MALFORMED),
        (coins(ALICE, 1, CHAIN + b"\0"), native.MALFORMED),
    ],
)
def test_stateless_rejections(pair: Pair, operation: bytes, code: int) -> None:
    assert pair.do(ALICE, operation) == bytes([code])
    pair.compare()


def test_stateful_rejections_change_nothing(pair: Pair) -> None:
    (alices,) = pair.mint(ALICE, 10)
    (bobs,) = made(pair.do(ALICE, spend(pair.mint(ALICE, 3), [(BOB, 3)])))
    before = pair.native.snapshot()
    for key, operation, code in [
        (BOB, mint([1]), native.NOT_AUTHORISED),
        (ALICE, spend([CHAIN], [(BOB, 1)]), native.UNKNOWN_COIN),
        (BOB, spend([alices], [(BOB, 10)]), native.NOT_OWNER),
        (ALICE, spend([alices, bobs], [(BOB, 13)]), native.NOT_OWNER),
        (ALICE, spend([bobs, CHAIN], [(BOB, 13)]), native.NOT_OWNER),
        (ALICE, spend([CHAIN, bobs], [(BOB, 13)]), native.UNKNOWN_COIN),
        (ALICE, spend([alices], [(BOB, 9)]), native.UNBALANCED),
        (ALICE, spend([alices], [(BOB, 9), (ALICE, 2)]), native.UNBALANCED),
    ]:
        assert pair.do(key, operation) == bytes([code])
        assert pair.native.snapshot() == before


def test_a_replayed_mint_is_refused(pair: Pair) -> None:
    request = pair.request(ALICE, mint([5]))
    assert [result[0] for result in pair.execute(request, request)] == [native.OK, native.COIN_EXISTS]
    pair.compare()


def test_inputs_beyond_64_bits_do_not_wrap_around(pair: Pair) -> None:
    both = pair.mint(ALICE, MAX) + pair.mint(ALICE, 2)
    assert pair.do(ALICE, spend(both, [(BOB, 1)])) == bytes([native.UNBALANCED])
    assert pair.do(ALICE, balance(ALICE))[1:17] == (MAX + 2).to_bytes(16, "little")
    pair.compare()


def test_the_largest_transaction(pair: Pair) -> None:
    names = pair.mint(ALICE, *[1] * 255)
    assert len(made(pair.do(ALICE, spend(names, [(BOB, 1)] * 255, bytes(512))))) == 255
    pair.compare()


def test_small_order_addresses_are_those_of_the_published_vectors(pair: Pair) -> None:
    cases = json.loads((VECTORS / "zip215_small_order_196.json").read_text())
    keys = {bytes.fromhex(key) for key, _ in cases}
    assert len(keys) == 14
    (name,) = pair.mint(ALICE, 1)
    for key in sorted(keys):
        assert pair.do(ALICE, spend([name], [(key, 1)])) == bytes([native.BAD_ADDRESS])
        with pytest.raises(ValueError, match="small order"):
            native.CoinState(CHAIN, ALICE + key)


def test_receipts_are_padded_by_kind_and_queries_are_not() -> None:
    pair = Pair([ALICE], receipts=(209, 319))
    result = pair.do(ALICE, mint([4]))
    assert len(result) == 209
    assert len(pair.do(ALICE, spend(made(result), [(BOB, 4)]))) == 319
    assert len(pair.do(BOB, mint([4]))) == 209
    assert len(pair.do(BOB, b"\2")) == 319
    assert len(pair.do(BOB, balance(BOB))) == 25
    assert len(pair.do(ALICE, mint([1] * 20))) == 2 + 20 * 32


def test_an_empty_operation_is_a_no_op(pair: Pair) -> None:
    assert pair.execute(pair.request(ALICE, b""), pair.request(ALICE, mint([1])))[0] == b""
    assert split(pair.native.execute_batch(request_list([Request(ALICE, 5, 3, b"")]), verify_signatures=True)) == [b""]


def test_an_empty_batch(pair: Pair) -> None:
    assert pair.native.execute_batch(b"") == pair.native.check_batch(b"") == b""


@pytest.mark.parametrize(
    "spoil", [lambda data: data[:-1], lambda data: data + b"\0", lambda data: b"\xff\xff\xff\xff" + data]
)
def test_a_malformed_list_executes_nothing(pair: Pair, spoil) -> None:
    data = spoil(request_list([pair.request(ALICE, mint([1])), pair.request(ALICE, mint([2]))]))
    for call in (pair.native.execute_batch, pair.native.check_batch):
        with pytest.raises(MalformedMessage):
            call(data)
    pair.compare()


def test_any_buffer_is_taken(pair: Pair) -> None:
    data = request_list([pair.request(ALICE, mint([1]))])
    assert pair.native.check_batch(bytearray(data)) == pair.native.check_batch(memoryview(data)) == b"\1"
    with pytest.raises(TypeError):
        pair.native.check_batch("text")  # type: ignore[arg-type]


def test_signatures_checked_in_order_inside_the_execution() -> None:
    signer = SigningKey(bytes(32))
    key = bytes(signer.verify_key)
    domain = blake3(CHAIN, derive_key_context="smartbft v1 request signature").digest()

    def signed(sequence: int, operation: bytes) -> Request:
        unsigned = Request(key, 1, sequence, operation)
        return Request(key, 1, sequence, operation, signer.sign(domain + unsigned.unsigned()).signature)

    good = [signed(1, mint([1])), signed(2, mint([2])), signed(3, balance(key)), signed(4, b"\x63")]
    bad = [Request(key, 1, 5, mint([3]), good[1].signature), Request(key, 1, 6, b"\x63")]
    state = native.CoinState(CHAIN, key)
    results = split(state.execute_batch(request_list(good + bad), verify_signatures=True))
    codes = [native.OK, native.OK, native.OK, native.MALFORMED, native.BAD_SIGNATURE, native.BAD_SIGNATURE]
    assert [result[0] for result in results] == codes
    assert state.supply() == 3


def test_construction_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        native.CoinState(bytes(31), b"")
    with pytest.raises(ValueError, match="32 bytes each"):
        native.CoinState(CHAIN, bytes(33))
    with pytest.raises(ValueError, match="32 bytes, not 3"):
        native.coin_id(CHAIN, b"abc", 1, 1, 0)


# --- snapshots


def shuffled_states(count: int) -> list[native.CoinState]:
    """States that hold the same coins, made in different orders, with other coins come and gone."""
    keys = [blake3(bytes([number])).digest() for number in range(40)]
    requests = [Request(key, 9, 1, mint([number + 1, 7])) for number, key in enumerate(keys)]
    states = []
    for seed in range(count):
        state = native.CoinState(CHAIN, b"".join(keys))
        random.Random(seed).shuffle(requests)
        state.execute_batch(request_list(requests))
        states.append(state)
    return states


def test_snapshots_are_canonical_whatever_the_order_of_insertion() -> None:
    first, *others = shuffled_states(4)
    for state in others:
        assert state.snapshot() == first.snapshot()
        assert state.digest() == first.digest()


def test_a_restored_state_goes_on_like_the_original(pair: Pair) -> None:
    names = pair.mint(ALICE, *range(1, 100))
    restored = native.CoinState(CHAIN, ALICE)
    restored.restore(pair.native.snapshot())
    assert restored.snapshot() == pair.native.snapshot()
    requests = [pair.request(ALICE, spend([name], [(BOB, 1 + index)])) for index, name in enumerate(names[:50])]
    requests += [pair.request(BOB, coins(ALICE, 1024)), pair.request(BOB, coins(BOB, 1024))]
    assert split(restored.execute_batch(request_list(requests))) == pair.execute(*requests)
    assert restored.snapshot() == pair.native.snapshot()


def test_restore_refuses_everything_that_is_not_canonical(pair: Pair) -> None:
    pair.mint(ALICE, 3, 4)
    good = pair.native.snapshot()
    first, second = good[64:136], good[136:]
    other_chain = good[:8] + ALICE + good[40:]
    zero = first[:64] + bytes(8)
    small_order = first[:32] + bytes(32) + first[64:]
    more_minted = good[:40] + (8).to_bytes(16, "little") + good[56:]
    cases = {
        "begin": b"X" + good[1:],
        "cut short": good[:60],
        "another chain": other_chain,
        "number of coins": good + bytes(72),
        "number": good[:-1],
        "differ": good[:56] + (3).to_bytes(8, "little") + good[64:],
        "differ ": good[:56] + MAX.to_bytes(8, "little") + good[64:],
        "order": good[:64] + second + first,
        "order ": good[:64] + first + first,
        "no transaction": good[:64] + zero + second,
        "no transaction ": good[:64] + small_order + second,
        "add up": more_minted,
    }
    target = native.CoinState(CHAIN, ALICE)
    target.execute_batch(request_list([Request(ALICE, 77, 1, mint([11]))]))
    before = target.snapshot()
    for reason, spoilt in cases.items():
        with pytest.raises(ValueError, match=reason.strip()):
            target.restore(spoilt)
        assert target.snapshot() == before
    target.restore(good)
    assert target.snapshot() == good


# --- any sequence of transactions


class Parity(RuleBasedStateMachine):
    """Random transactions, valid and not, on both coins."""

    oracle_class: ClassVar[type[oracle.Coin]] = oracle.Coin
    keys = st.sampled_from([ALICE, BOB, CAROL])

    @initialize(receipts=st.sampled_from([(0, 0), (209, 319)]))
    def start(self, receipts: tuple[int, int]) -> None:
        self.pair = Pair([ALICE, BOB], self.oracle_class, receipts)

    def choose(self, data: st.DataObject, owner: bytes | None = None) -> bytes:
        names = [name for name, (held_by, _) in sorted(self.pair.oracle.coins.items()) if owner in (None, held_by)]
        return data.draw(st.sampled_from(names or [CHAIN]))

    @rule(key=keys, values=st.lists(st.sampled_from([0, 1, 5, 1000, MAX - 1, MAX]), max_size=4))
    def mint(self, key: bytes, values: list[int]) -> None:
        self.pair.do(key, mint(values))

    @rule(
        key=keys,
        data=st.data(),
        parts=st.lists(st.integers(1, 9), min_size=1, max_size=3),
        off=st.sampled_from([0, 0, 0, 1]),
    )
    def spend_one(self, key: bytes, data: st.DataObject, parts: list[int], off: int) -> None:
        name = self.choose(data, key)
        left = self.pair.oracle.coins.get(name, (key, 1))[1] - off
        outputs = []
        for part in parts:
            if part < left:
                outputs.append((data.draw(self.keys), part))
                left -= part
        self.pair.do(key, spend([name], [*outputs, (data.draw(self.keys), left)]))

    @rule(key=keys, data=st.data(), count=st.integers(1, 4))
    def spend_any(self, key: bytes, data: st.DataObject, count: int) -> None:
        names = [self.choose(data) for _ in range(count)]
        total = sum(self.pair.oracle.coins.get(name, (key, 1))[1] for name in names)
        self.pair.do(key, spend(names, [(data.draw(self.keys), min(total, MAX))]))

    @rule(key=keys, address=keys, most=st.integers(0, 3), data=st.data())
    def query(self, key: bytes, address: bytes, most: int, data: st.DataObject) -> None:
        after = data.draw(st.sampled_from([self.choose(data, address), bytes(32), b"\xff" * 32, b""]))
        for operation in (balance(address), coins(address, most), coins(address, most, after)):
            self.pair.read(self.pair.do(key, operation), operation)

    @rule(key=keys, operation=st.binary(max_size=40))
    def junk(self, key: bytes, operation: bytes) -> None:
        self.pair.do(key, operation)
        assert self.pair.native.read(operation) == self.pair.oracle.read(operation)

    @rule()
    def restart(self) -> None:
        snapshot = self.pair.native.snapshot()
        self.pair.native.restore(snapshot)

    @invariant()
    def same_state_and_money_conserved(self) -> None:
        if hasattr(self, "pair"):
            self.pair.compare()


PARITY = settings(max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
TestParity = Parity.TestCase
TestParity.settings = PARITY


class UnbalancedCoin(oracle.Coin):
    """A planted bug: money can be made by spending."""

    def _check_balance(self, available: int, wanted: int) -> None:
        pass


def test_the_planted_bug_is_found() -> None:
    class Mutant(Parity):
        oracle_class = UnbalancedCoin

    reproducible = settings(PARITY, derandomize=True, database=None, phases=[Phase.generate])
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Mutant, settings=reproducible)


class ListsFromTheIdItself(oracle.Coin):
    """A planted bug: a page begins with the last coin of the one before."""

    def _answer(self, kind: int, address: bytes, most: int, after: bytes) -> bytes:
        before = (int.from_bytes(after) - 1).to_bytes(32) if any(after) else after
        return super()._answer(kind, address, most, before)


def test_the_planted_bug_of_pages_is_found() -> None:
    pair = Pair([ALICE], ListsFromTheIdItself)
    first, second = sorted(pair.mint(ALICE, 1, 1))
    pair.do(BOB, coins(ALICE, 9))
    for name in (first, second):
        with pytest.raises(AssertionError):
            pair.do(BOB, coins(ALICE, 9, name))


def test_only_queries_are_read(pair: Pair) -> None:
    pair.mint(ALICE, 5)
    before = pair.native.snapshot()
    for operation in (mint([1]), spend([CHAIN], [(BOB, 1)]), b"", b"\3", balance(ALICE) + b"\0", coins(ALICE, 0)):
        assert pair.native.read(operation) is None
    assert pair.native.read(balance(ALICE)) == pair.do(BOB, balance(ALICE))
    assert pair.native.snapshot() == before


# --- size and threads


@pytest.mark.parametrize("page", [1, 7, 1024])
def test_pages_together_are_the_whole_list(pair: Pair, page: int) -> None:
    """Also where an owner has so many coins that they are kept in several lists."""
    names = sorted(name for _ in range(14) for name in pair.mint(ALICE, *[1] * 255))
    most = len(names) if page > 1 else 40
    found: list[bytes] = []
    while len(found) < most:
        operation = coins(ALICE, page, found[-1] if found else b"")
        listed = pair.native.read(operation)
        assert listed is not None
        count = int.from_bytes(listed[1:3], "little")
        assert 0 < count <= page
        found += [listed[3 + 40 * index : 35 + 40 * index] for index in range(count)]
    assert found == names[:most]
    rest = coins(ALICE, page, names[-1])
    assert pair.native.read(rest) == pair.do(BOB, rest) == b"\0\0\0"


def test_an_owner_of_many_coins_is_listed_in_order(pair: Pair) -> None:
    names = [name for _ in range(20) for name in pair.mint(ALICE, *[3] * 255)]
    listed = pair.do(BOB, coins(ALICE, 1024))
    assert [listed[3 + 40 * index : 35 + 40 * index] for index in range(1024)] == sorted(names)[:1024]
    for name in names[::2]:
        pair.native.execute_batch(request_list([pair.request(ALICE, spend([name], [(BOB, 3)]))]))
    for most in (1, 100, 1024):
        listed = split(pair.native.execute_batch(request_list([pair.request(BOB, coins(ALICE, most))])))[0]
        assert [listed[3 + 40 * i : 35 + 40 * i] for i in range(most)] == sorted(names[1::2])[:most]


def test_memory_does_not_grow_with_spent_coins() -> None:
    state = native.CoinState(CHAIN, ALICE)
    state.execute_batch(request_list([Request(ALICE, 1, 1, mint([1] * 200))]))
    live = [native.coin_id(CHAIN, ALICE, 1, 1, index) for index in range(200)]
    sequence = 1
    peaks = []
    for _ in range(250):
        requests = []
        for index, name in enumerate(live):
            sequence += 1
            requests.append(Request(ALICE, 1, sequence, spend([name], [(ALICE, 1)])))
            live[index] = native.coin_id(CHAIN, ALICE, 1, sequence, 0)
        assert split(state.execute_batch(request_list(requests)))[-1][0] == native.OK
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    assert state.coins() == 200
    # 50 000 more coins would take at least 3 MB.
    assert peaks[-1] - peaks[50] < 2048


def test_queries_from_another_thread_wait_for_the_batch(pair: Pair) -> None:
    batches = [request_list([Request(ALICE, session, 1, mint([1] * 200))]) for session in range(1, 200)]
    worker = threading.Thread(target=lambda: [pair.native.execute_batch(batch) for batch in batches])
    worker.start()
    while worker.is_alive():
        assert pair.native.coins() % 200 == 0
        assert len(pair.native.digest()) == 32
    worker.join()
    assert pair.native.supply() == 199 * 200
