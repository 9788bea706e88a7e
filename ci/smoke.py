"""Runs against an installed wheel: every native module imports, and the numbers it gives are right."""

from __future__ import annotations

from blake3 import blake3
from nacl.signing import SigningKey

from smartbft._fastpath import coin, frames, hashing, log, pool, verify  # noqa: F401

messages = [bytes([i]) * i for i in range(200)]
if hashing.hash_many(messages) != b"".join(blake3(m).digest() for m in messages):
    raise SystemExit("smoke: batch hashing disagrees with the blake3 package")

keys = [SigningKey(bytes([i + 1]) * 32) for i in range(64)]
publics = [bytes(key.verify_key) for key in keys]
signatures = [key.sign(message).signature for key, message in zip(keys, messages, strict=False)]
signatures[7] = bytes(64)
mask = verify.verify_many(publics, signatures, messages[:64])
if [i for i, valid in enumerate(mask) if not valid] != [7]:
    raise SystemExit("smoke: batch verification did not find the one bad signature")
print("smoke: native modules work")
