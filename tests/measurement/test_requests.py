"""Traffic that is signed ahead: sizes, signatures, and chains that the coin accepts."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence

import psutil
import pytest

from smartbft._fastpath.coin import OK
from smartbft._fastpath.pool import request_digests, split_requests
from smartbft._fastpath.verify import verify
from smartbft.apps.coin import CoinApplication
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.limits import REQUEST_OVERHEAD_BYTES
from smartbft.measurement.requests import MINT, SPEND, UNSIGNED, Job, distribute, sign_rounds, split_frames
from smartbft.measurement.signing import sign
from smartbft.runtime.load import Traffic
from smartbft.smr.application import ExecutionContext

CHAIN = bytes(range(32))
SEEDS = [bytes([number]) * 32 for number in range(1, 6)]
KEYS = [Ed25519Signer(seed).public_key for seed in SEEDS]
MINTER = Ed25519Signer(bytes(32))
CONTEXT = ExecutionContext(1, 1, bytes(32))


def job(kind: str, *, outputs: int = 2, rounds: int = 3) -> Job:
    coins = distribute(CHAIN, MINTER, 7, KEYS, rounds + 1).coins
    size = 310 if kind == SPEND else 180
    payees = KEYS[1:] + KEYS[:1]
    return Job(kind, CHAIN, 9, SEEDS, coins, payees, rounds + 1, outputs, size - REQUEST_OVERHEAD_BYTES, rounds)


def request_list(requests: Sequence[bytes]) -> bytes:
    return b"".join(len(request).to_bytes(4, "little") + request for request in requests)


def codes(application: CoinApplication, traffic: Traffic) -> list[int]:
    results = application.execute_batch(request_list(split_frames(traffic)), CONTEXT)
    found = []
    while results:
        length = int.from_bytes(results[:4], "little")
        found.append(results[4])
        results = results[4 + length :]
    return found


@pytest.mark.parametrize("outputs", [1, 2])
def test_chains_of_spends_are_accepted_in_the_order_of_sending(outputs: int) -> None:
    application = CoinApplication(CHAIN, [MINTER.public_key])
    setup = distribute(CHAIN, MINTER, 7, KEYS, 4)
    assert set(codes(application, setup.traffic)) == {OK}
    (load,) = asyncio.run(sign(job(SPEND, outputs=outputs), processes=2))
    assert codes(application, load) == [OK] * 15
    assert application.state.supply() == application.state.minted() == setup.supply == 20
    assert application.state.coins() == 5 + 15 * (outputs - 1)


def test_a_chain_out_of_order_is_not_accepted() -> None:
    application = CoinApplication(CHAIN, [MINTER.public_key])
    codes(application, distribute(CHAIN, MINTER, 7, KEYS, 4).traffic)
    requests = b"".join(reversed(list(sign_rounds(job(SPEND)))))
    pieces = [requests[start : start + 310] for start in range(0, len(requests), 310)]
    results = application.execute_batch(request_list(pieces), CONTEXT)
    assert results.count(b"\x00" * 4) != len(pieces)
    assert application.state.coins() < 5 + 15


def test_more_owners_than_one_spend_can_serve() -> None:
    owners = [Ed25519Signer(number.to_bytes(32, "little")).public_key for number in range(1, 601)]
    application = CoinApplication(CHAIN, [MINTER.public_key])
    setup = distribute(CHAIN, MINTER, 7, owners, 3)
    assert codes(application, setup.traffic) == [OK] * 4
    assert application.state.coins() == len(setup.coins) == len(set(setup.coins)) == 600


@pytest.mark.parametrize(("kind", "size"), [(SPEND, 310), (MINT, 180)])
def test_requests_have_the_size_and_the_signature_that_was_asked_for(kind: str, size: int) -> None:
    (load,) = asyncio.run(sign(job(kind)))
    requests = split_frames(load)
    assert {len(request) for request in requests} == {size}
    assert load.digests == request_digests(CHAIN, request_list(requests))
    prefix = Domains(CHAIN).request_prefix
    parsed = split_requests(request_list(requests))
    for request, (key, session, sequence, _, signature) in zip(requests, parsed, strict=True):
        assert session == 9
        assert verify(key, signature, prefix + request[:-64])
        assert 1 <= sequence <= 3
    assert [key for key, *_ in parsed] == KEYS * 3
    assert [sequence for _, _, sequence, _, _ in parsed] == [1] * 5 + [2] * 5 + [3] * 5


def test_a_worker_that_is_stopped_and_goes_on_loses_nothing() -> None:
    """Again and again, while it writes: most of its writes are cut short."""
    seeds = [number.to_bytes(32, "little") for number in range(1, 65)]
    many = Job(UNSIGNED, CHAIN, 9, seeds, seeds, seeds, 1, 1, 16, 2000)
    before = {child.pid for child in psutil.Process().children()}

    async def stop_and_go_on(signing: asyncio.Task[list[Traffic]]) -> None:
        while not signing.done():
            for child in psutil.Process().children():
                if child.pid not in before:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        child.suspend()
                        await asyncio.sleep(0.002)
                        child.resume()
            await asyncio.sleep(0.002)

    async def scenario() -> Traffic:
        signing = asyncio.create_task(sign(many, processes=1))
        await stop_and_go_on(signing)
        (load,) = await signing
        return load

    assert b"".join(sign_rounds(many)) == b"".join(split_frames(asyncio.run(scenario())))


def test_several_processes_make_the_same_traffic_as_one() -> None:
    assert asyncio.run(sign(job(SPEND), processes=3)) == [Traffic(**vars(asyncio.run(sign(job(SPEND)))[0]))]


def test_lanes_hold_one_key_each() -> None:
    lanes = asyncio.run(sign(job(SPEND), lanes=True, processes=2))
    for key, lane in zip(KEYS, lanes, strict=True):
        parsed = split_requests(request_list(split_frames(lane)))
        assert [(found, sequence) for found, _, sequence, _, _ in parsed] == [(key, 1), (key, 2), (key, 3)]


def test_unsigned_requests() -> None:
    (load,) = asyncio.run(sign(job(UNSIGNED)))
    parsed = split_requests(request_list(split_frames(load)))
    assert {signature for *_, signature in parsed} == {bytes(64)}
    assert [key for key, *_ in parsed] == KEYS * 3
