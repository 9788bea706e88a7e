"""Signed requests ahead of time: many client keys, each with a chain of transactions that depend on each other.

A SPEND of a chain spends the change coin of the one before it. Coin ids follow from key, session, sequence number and
output index alone, so whole chains are signed before anything is sent.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from smartbft._fastpath.frames import REQUEST
from smartbft._fastpath.pool import request_digests
from smartbft.apps import coin
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.limits import REQUEST_OVERHEAD_BYTES, SIGNATURE_BYTES
from smartbft.runtime.load import Traffic

MINT = "mint"
SPEND = "spend"
UNSIGNED = "unsigned"

_HEADER = struct.Struct("<32sQQI")
_FRAME = struct.Struct("<IB")
_LENGTH = struct.Struct("<I")

# One SPEND of the distribution makes so many coins.
FAN_OUT = coin.MAX_ITEMS


class Job(msgspec.Struct, frozen=True):
    """What a signing worker is asked for: `rounds` requests of every key, one round after the other.

    Attributes:
        kind: ``mint``, ``spend`` or ``unsigned``.
        chain_id: of the cluster.
        session: the session of all keys.
        seeds: the keys' seeds.
        coins: the first coin of each key (SPEND).
        payees: to whom each key pays (SPEND).
        value: what the first coin is worth; each round pays 1 (SPEND).
        outputs: 2: a payment and the change; 1: the whole coin goes back to its owner (SPEND).
        operation_bytes: size of each operation, reached with the memo.
        rounds: requests per key.
    """

    kind: str
    chain_id: bytes
    session: int
    seeds: list[bytes]
    coins: list[bytes]
    payees: list[bytes]
    value: int
    outputs: int
    operation_bytes: int
    rounds: int

    @property
    def request_bytes(self) -> int:
        """Size of each request."""
        return REQUEST_OVERHEAD_BYTES + self.operation_bytes


@dataclass
class _Chain:
    """The state of one key's chain while it is signed."""

    signer: Ed25519Signer
    coin: bytes
    value: int
    payee: bytes


def sign_rounds(job: Job) -> Iterator[bytes]:
    """The requests of each round, in the order of the keys: ``len(seeds) * request_bytes`` bytes each."""
    if job.kind == UNSIGNED:
        yield from _unsigned_rounds(job)
        return
    prefix = Domains(job.chain_id).request_prefix
    chains = [
        _Chain(Ed25519Signer(seed), coin, job.value, payee)
        for seed, coin, payee in zip(job.seeds, job.coins, job.payees, strict=True)
    ]
    for sequence in range(1, job.rounds + 1):
        requests = []
        for chain in chains:
            key = chain.signer.public_key
            operation = _mint(job) if job.kind == MINT else _spend(job, chain, sequence)
            unsigned = _HEADER.pack(key, job.session, sequence, len(operation)) + operation
            requests.append(unsigned + chain.signer.sign(prefix + unsigned))
        yield b"".join(requests)


def _mint(job: Job) -> bytes:
    bare = len(coin.mint([job.value]))
    return coin.mint([job.value], bytes(job.operation_bytes - bare))


def _spend(job: Job, chain: _Chain, sequence: int) -> bytes:
    key = chain.signer.public_key
    chain.value -= job.outputs - 1
    payment = [(chain.payee, 1)] if job.outputs == 2 else []
    outputs = [*payment, (key, chain.value)]
    bare = coin.spend([chain.coin], outputs)
    operation = coin.spend([chain.coin], outputs, bytes(job.operation_bytes - len(bare)))
    chain.coin = coin.predict_coin_ids(job.chain_id, key, job.session, sequence, job.outputs)[-1]
    return operation


def _unsigned_rounds(job: Job) -> Iterator[bytes]:
    """Requests for a cluster that admits unverified ones: any operation, no signature."""
    keys = [Ed25519Signer(seed).public_key for seed in job.seeds]
    tail = bytes(job.operation_bytes + SIGNATURE_BYTES)
    for sequence in range(1, job.rounds + 1):
        yield b"".join(_HEADER.pack(key, job.session, sequence, job.operation_bytes) + tail for key in keys)


def traffic(chain_id: bytes, requests: Sequence[bytes], keys: int) -> Traffic:
    """Frames, bounds and digests of single requests, in this order."""
    frames = b"".join(_FRAME.pack(len(request) + 1, REQUEST) + request for request in requests)
    bounds = array("Q", [0])
    total = 0
    for request in requests:
        total += _FRAME.size + len(request)
        bounds.append(total)
    listed = b"".join(_LENGTH.pack(len(request)) + request for request in requests)
    return Traffic(frames, bounds, request_digests(chain_id, listed), keys)


def equal_traffic(chain_id: bytes, requests: bytes, request_bytes: int, keys: int) -> Traffic:
    """As `traffic`, for requests of one size that lie one after the other."""
    pieces = [requests[start : start + request_bytes] for start in range(0, len(requests), request_bytes)]
    frame, listed = _FRAME.pack(request_bytes + 1, REQUEST), _LENGTH.pack(request_bytes)
    frames = frame + frame.join(pieces) if pieces else b""
    digests = request_digests(chain_id, listed + listed.join(pieces)) if pieces else b""
    size = _FRAME.size + request_bytes
    return Traffic(frames, range(0, len(pieces) * size + 1, size), digests, keys)


def split_frames(traffic: Traffic) -> list[bytes]:
    """The requests in the frames of `traffic`."""
    return [traffic.frames[start + _FRAME.size : end] for start, end in pairwise(traffic.bounds)]


@dataclass(frozen=True)
class Distribution:
    """The first transactions of a load: coins are minted and handed out, one to each key.

    Attributes:
        traffic: a MINT and then SPENDs, all by the minter, to be executed before the load.
        coins: the coin of each key.
        supply: the sum of what is minted.
    """

    traffic: Traffic
    coins: list[bytes]
    supply: int


def distribute(
    chain_id: bytes, minter: Ed25519Signer, session: int, owners: Sequence[bytes], value: int
) -> Distribution:
    """Mint, then split: every owner gets one coin of `value`, with about one request per 255 owners."""
    groups = [owners[start : start + FAN_OUT] for start in range(0, len(owners), FAN_OUT)]
    coins: list[bytes] = []
    minted = [value * len(group) for group in groups]
    operations = [coin.mint(minted)]
    sources = coin.predict_coin_ids(chain_id, minter.public_key, session, 1, len(groups))
    for source, group in zip(sources, groups, strict=True):
        operations.append(coin.spend([source], [(owner, value) for owner in group]))
        coins += coin.predict_coin_ids(chain_id, minter.public_key, session, len(operations), len(group))
    requests = [
        sign_request(chain_id, minter, session, sequence, operation)
        for sequence, operation in enumerate(operations, start=1)
    ]
    return Distribution(traffic(chain_id, requests, 1), coins, sum(minted))


def sign_request(chain_id: bytes, signer: Ed25519Signer, session: int, sequence: int, operation: bytes) -> bytes:
    """One signed request."""
    unsigned = _HEADER.pack(signer.public_key, session, sequence, len(operation)) + operation
    return unsigned + signer.sign(Domains(chain_id).request_prefix + unsigned)
