"""Protocol messages: strict, canonical, bounded; bytes raise nothing but RemoteProtocolError."""

from __future__ import annotations

import os
import random

import msgspec
import pytest

from smartbft.errors import MalformedMessage, RemoteProtocolError
from smartbft.messages import (
    Accept,
    Decision,
    FetchDecisions,
    FetchRequests,
    Forward,
    Progress,
    Proof,
    Propose,
    RequestBodies,
    Write,
    decode,
    decode_proof,
    encode,
    encode_proof,
)

DIGEST = bytes(range(32))
PROOF = Proof(0, 1, 2, DIGEST, ((0, bytes(64)), (3, bytes([7]) * 64)))
EXAMPLES = [
    Propose(0, 1, 2, bytes(8) + DIGEST),
    Write(0, 1, 2, DIGEST),
    Accept(0, 1, 2, DIGEST, bytes(64)),
    Decision(0, 1, 2, bytes(8) + DIGEST, b"data", PROOF),
    FetchRequests(0, 1, 2, DIGEST),
    RequestBodies(0, 1, 2, b"data"),
    Forward(0, 1, b"data"),
    FetchDecisions(0, 1, 2, 3),
    Progress(0, 1, 2),
]


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_round_trip(message: object) -> None:
    assert decode(encode(message)) == message  # type: ignore[arg-type]
    assert decode_proof(encode_proof(PROOF)) == PROOF


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc0",
        encode(EXAMPLES[1])[:-1],
        encode(EXAMPLES[1]) + b"\x00",
        msgspec.msgpack.encode([99, 0, 0, 1, DIGEST]),
        msgspec.msgpack.encode([2, 0, 1, 2, DIGEST, 5]),
        msgspec.msgpack.encode([2, 0, 1, 2]),
        msgspec.msgpack.encode([2, 0, 1, -2, DIGEST]),
        msgspec.msgpack.encode([2, 0, 1, 2**63, DIGEST]),
        msgspec.msgpack.encode([2, 0, 1, 2, DIGEST + b"x"]),
        msgspec.msgpack.encode([2, 0, 1, 2, DIGEST.decode("latin-1")]),
        b"\x95\x02\x00\x01\xcc\x02\xc4\x20" + DIGEST,  # the integer 2 in two bytes: not canonical
        b"\xdd\xff\xff\xff\xff" + bytes(64),
        b"\x91" * 5000,
    ],
)
def test_anything_else_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        decode(data)


def survives(decoder: object, executions: int, seed: int) -> list[bytes]:
    """Mutate good encodings; returns inputs that raised something else than RemoteProtocolError, or were not
    canonical.
    """
    random_source = random.Random(seed)
    seeds = [encode(message) for message in EXAMPLES]
    failures = []
    for _ in range(executions):
        data = bytearray(random_source.choice(seeds))
        for _ in range(random_source.randint(1, 4)):
            mutate(data, random_source)
        try:
            message = decoder(bytes(data))  # type: ignore[operator]
        except RemoteProtocolError:
            continue
        except Exception:
            failures.append(bytes(data))
            continue
        if encode(message) != bytes(data):
            failures.append(bytes(data))
    return failures


def mutate(data: bytearray, random_source: random.Random) -> None:
    """One structure-aware change: flip, overwrite with a MessagePack marker, truncate, repeat or splice."""
    position = random_source.randrange(len(data) + 1)
    choice = random_source.randrange(6)
    if choice == 0 and data:
        data[position % len(data)] ^= 1 << random_source.randrange(8)
    elif choice == 1 and data:
        data[position % len(data)] = random_source.choice(b"\x00\x7f\x80\x90\xc0\xc4\xc5\xc6\xcc\xcf\xd3\xdc\xdd\xff")
    elif choice == 2:
        del data[position:]
    elif choice == 3:
        data[position:position] = data[position : position + random_source.randint(1, 16)]
    elif choice == 4:
        data[position:position] = random_source.randbytes(random_source.randint(1, 8))
    else:
        del data[position : position + random_source.randint(1, 8)]


def test_mutated_bytes_raise_only_remote_protocol_errors() -> None:
    executions = int(os.environ.get("SMARTBFT_FUZZ_EXECUTIONS", "5000"))
    assert not survives(decode, executions, seed=1)


def test_planted_bug_a_decoder_that_is_not_canonical_is_seen() -> None:
    lenient = msgspec.msgpack.Decoder(type(EXAMPLES[0]) | Write | Accept | FetchRequests | RequestBodies)
    assert survives(lenient.decode, 3000, seed=2)
