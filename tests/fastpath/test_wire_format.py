"""The test vector of docs/wire-format.md, and the layouts written out in plain Python."""

from __future__ import annotations

import re
import struct
from pathlib import Path

from blake3 import blake3
from nacl.signing import SigningKey

from smartbft import limits
from smartbft._fastpath.pool import encode_request, join_requests, join_results, request_digests

DOCUMENT = Path(__file__).parents[2] / "docs" / "wire-format.md"
CHAIN = bytes(range(32))


def documented(name: str) -> bytes:
    found = re.search(rf"^\| {name} \| `([0-9a-f]+)` \|$", DOCUMENT.read_text(), re.MULTILINE)
    assert found, f"docs/wire-format.md has no test vector '{name}'"
    return bytes.fromhex(found[1])


def test_the_documented_vector():
    prefix = blake3(CHAIN, derive_key_context="smartbft v1 request signature").digest()
    digest_key = blake3(CHAIN, derive_key_context="smartbft v1 request digest").digest()
    assert (prefix, digest_key) == (documented("signature prefix"), documented("digest key"))
    key = SigningKey(bytes(32))
    body = bytes(key.verify_key) + struct.pack("<QQI", 1, 1, 3) + b"abc"
    signature = key.sign(prefix + body).signature
    assert body + signature == documented("request")
    assert encode_request(bytes(key.verify_key), 1, 1, b"abc", signature) == documented("request")
    assert blake3(documented("request"), key=digest_key).digest() == documented("digest")
    assert request_digests(CHAIN, join_requests([documented("request")])) == documented("digest")


def test_lists():
    assert join_results([b"", b"ab"]) == struct.pack("<I", 0) + struct.pack("<I", 2) + b"ab"
    assert join_requests([]) == b""


def test_sizes_are_those_of_the_limits():
    assert len(encode_request(bytes(32), 1, 1, b"", bytes(64))) == limits.REQUEST_OVERHEAD_BYTES
    assert limits.REQUEST_OVERHEAD_BYTES == 116
    assert struct.calcsize("<HBBIQQ32s") == limits.REPLY_HEADER_BYTES
