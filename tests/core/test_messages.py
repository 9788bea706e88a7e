"""Protocol messages: strict, canonical, bounded (mutated ones: tests/fuzz)."""

from __future__ import annotations

import msgspec
import pytest
from kit.examples import DIGEST, PROOF
from kit.examples import MESSAGES as EXAMPLES

from smartbft.errors import MalformedMessage
from smartbft.messages import decode, decode_proof, encode, encode_proof


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
