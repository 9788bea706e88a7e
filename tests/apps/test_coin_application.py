from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey
from oracles import coin as oracle

from smartbft import limits
from smartbft._fastpath.pool import encode_request, join_requests
from smartbft.apps import coin
from smartbft.apps.coin import CoinApplication
from smartbft.errors import LocalProtocolError, MalformedMessage, Rejected
from smartbft.smr.application import ExecutionContext

CHAIN = bytes(range(32))
ALICE, BOB = bytes(SigningKey(bytes(32)).verify_key), bytes(SigningKey(bytes([1]) * 32).verify_key)
CONTEXT = ExecutionContext(1, 1, bytes(32))
RECEIPTS = {
    "receipt_bytes_mint": coin.PAPER_MINT_RECEIPT_BYTES,
    "receipt_bytes_spend": coin.PAPER_SPEND_RECEIPT_BYTES,
}


def request(key: bytes, sequence: int, operation: bytes) -> bytes:
    return encode_request(key, 3, sequence, operation, bytes(64))


def execute(application: CoinApplication, *requests: bytes) -> list[bytes]:
    return oracle.split(application.execute_batch(join_requests(list(requests)), CONTEXT))


@pytest.fixture
def application() -> CoinApplication:
    return CoinApplication(CHAIN, [ALICE], **RECEIPTS)


def test_operations_are_encoded_as_documented() -> None:
    assert coin.mint([1, 2], b"memo") == oracle.mint([1, 2], b"memo")
    assert coin.spend([ALICE], [(BOB, 5), (ALICE, 6)]) == oracle.spend([ALICE], [(BOB, 5), (ALICE, 6)])
    assert coin.balance(ALICE) == oracle.balance(ALICE)
    assert coin.coins(ALICE, 7) == oracle.coins(ALICE, 7)
    assert coin.coins(ALICE) == oracle.coins(ALICE, 1024)
    assert coin.coins(ALICE, 7, BOB) == oracle.coins(ALICE, 7, BOB)


def test_chains_of_transactions_are_made_ahead(application: CoinApplication) -> None:
    (first,) = coin.predict_coin_ids(CHAIN, ALICE, 3, 1, 1)
    paid, change = coin.predict_coin_ids(CHAIN, ALICE, 3, 2, 2)
    results = execute(
        application,
        request(ALICE, 1, coin.mint([10])),
        request(ALICE, 2, coin.spend([first], [(BOB, 4), (ALICE, 6)])),
        request(ALICE, 3, coin.spend([change], [(BOB, 6)])),
        request(BOB, 1, coin.balance(BOB)),
        request(BOB, 2, coin.coins(BOB)),
        request(BOB, 3, coin.spend([change], [(BOB, 6)])),
    )
    (last,) = coin.predict_coin_ids(CHAIN, ALICE, 3, 3, 1)
    assert coin.decode_created(results[0]).coin_ids == (first,)
    assert coin.decode_created(results[1]).coin_ids == (paid, change)
    assert coin.decode_created(results[2]).coin_ids == (last,)
    assert coin.decode_balance(results[3]) == coin.Balance(10, 2)
    assert coin.decode_coins(results[4]) == tuple(
        sorted([coin.Coin(paid, 4), coin.Coin(last, 6)], key=lambda it: it.id)
    )
    with pytest.raises(Rejected, match="unknown or spent coin") as rejection:
        coin.decode_created(results[5])
    assert rejection.value.code == 3


def test_sizes_of_the_paper(application: CoinApplication) -> None:
    overhead = limits.FRAME_HEADER_BYTES + limits.REPLY_HEADER_BYTES
    minted = request(ALICE, 1, coin.paper_mint(9))
    (name,) = coin.predict_coin_ids(CHAIN, ALICE, 3, 1, 1)
    one = request(ALICE, 2, coin.paper_spend(name, [(BOB, 9)]))
    (name,) = coin.predict_coin_ids(CHAIN, ALICE, 3, 2, 1)
    two = request(BOB, 1, coin.paper_spend(name, [(BOB, 5), (ALICE, 4)]))
    assert [len(minted), len(one), len(two)] == [180, 310, 310]
    results = execute(application, minted, one, two)
    assert [overhead + len(result) for result in results] == [270, 380, 380]
    for result in results:
        coin.decode_created(result)
    with pytest.raises(LocalProtocolError, match="one or two"):
        coin.paper_spend(name, [(BOB, 1)] * 4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: coin.mint([]), "1 to 255 values, not 0"),
        (lambda: coin.mint([1] * 256), "1 to 255 values, not 256"),
        (lambda: coin.mint([0]), "from 1 to"),
        (lambda: coin.mint([2**64]), "from 1 to"),
        (lambda: coin.mint([2**64 - 1, 1]), "add up"),
        (lambda: coin.mint([1], bytes(513)), "at most 512 bytes"),
        (lambda: coin.spend([], [(BOB, 1)]), "1 to 255 inputs"),
        (lambda: coin.spend([ALICE], []), "1 to 255 outputs"),
        (lambda: coin.spend([ALICE, ALICE], [(BOB, 1)]), "twice"),
        (lambda: coin.spend([b"short"], [(BOB, 1)]), "a coin id has 32 bytes, not 5"),
        (lambda: coin.spend([ALICE], [(b"short", 1)]), "an address has 32 bytes, not 5"),
        (lambda: coin.balance(b""), "an address has 32 bytes"),
        (lambda: coin.coins(ALICE, 0), "1 to 1024 coins, not 0"),
        (lambda: coin.coins(ALICE, 1025), "1 to 1024 coins, not 1025"),
        (lambda: coin.coins(ALICE, 7, b"short"), "a coin id has 32 bytes, not 5"),
    ],
)
def test_arguments_out_of_bounds(make, message: str) -> None:
    with pytest.raises(LocalProtocolError, match=message):
        make()


def test_every_code_has_a_name() -> None:
    assert sorted(coin.CODE_NAMES) == list(range(12))


READABLE = [b"\1" + ALICE, bytes(24), b"\1\0" + bytes(40)]  # where the code is 0


@pytest.mark.parametrize("decode", [coin.decode_created, coin.decode_balance, coin.decode_coins])
@given(
    result=st.binary(max_size=90)
    | st.binary(max_size=90).map(lambda body: b"\0" + body)
    | st.builds(lambda code, body: bytes([code]) + body, st.integers(0, 12), st.sampled_from(READABLE))
)
def test_hostile_results_raise_only_their_own_errors(decode, result: bytes) -> None:
    try:
        decode(result)
    except (Rejected, MalformedMessage):
        return
    assert result[0] == 0, "only what was executed has a result to read"


def test_results_have_one_reading() -> None:
    for decode, result in [
        (coin.decode_created, b""),
        (coin.decode_created, b"\0"),
        (coin.decode_created, b"\0\0"),
        (coin.decode_created, b"\0\1" + ALICE[:-1]),
        (coin.decode_created, b"\0\1" + ALICE + b"\0\1"),
        (coin.decode_created, b"\3\0\1"),
        (coin.decode_created, b"\x0c"),
        (coin.decode_balance, b"\0" + bytes(25)),
        (coin.decode_balance, b"\3\0"),
        (coin.decode_coins, b"\0\1"),
        (coin.decode_coins, b"\0\1\0" + bytes(39)),
    ]:
        with pytest.raises(MalformedMessage):
            decode(result)
    assert coin.decode_created(b"\0\1" + ALICE + bytes(9)).coin_ids == (ALICE,)


def test_checks_snapshots_and_digests_go_through(application: CoinApplication) -> None:
    batch = join_requests([request(ALICE, 1, coin.mint([4])), request(BOB, 1, b"junk"), request(BOB, 2, b"")])
    assert application.check_batch(batch) == b"\1\0\1"
    application.execute_batch(batch, CONTEXT)
    other = CoinApplication(CHAIN, [ALICE])
    other.restore(application.snapshot())
    assert other.digest() == application.digest()
    assert other.state.supply() == 4


def test_sequential_signature_checks() -> None:
    application = CoinApplication(CHAIN, [ALICE], verify_signatures=True)
    (result,) = execute(application, request(ALICE, 1, coin.mint([1])))
    with pytest.raises(Rejected, match="bad signature"):
        coin.decode_created(result)
