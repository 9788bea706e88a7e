"""Making and checking signatures, behind two small interfaces.

The product signs with PyNaCl and verifies with the native ZIP-215 verifier; the simulator may put keyed hashes in
their place.
"""

from __future__ import annotations

from typing import Protocol

from nacl.signing import SigningKey

from smartbft._fastpath.verify import ParsedKey, is_small_order
from smartbft.arguments import bytes_of
from smartbft.errors import LocalProtocolError
from smartbft.limits import KEY_BYTES, MAX_PARSED_KEYS


class Signer(Protocol):
    """Signs statements in the name of one key."""

    @property
    def public_key(self) -> bytes:
        """The 32-byte public key."""

    def sign(self, payload: bytes) -> bytes:
        """The 64-byte signature of `payload`; deterministic."""


class KeyVerifier(Protocol):
    """Checks signatures, mostly of the few keys that members vote with."""

    def verify(self, key: bytes, signature: bytes, payload: bytes) -> bool:
        """Whether `payload` was signed with the secret of this public key."""

    def acceptable(self, key: bytes) -> bool:
        """Whether a member may vote with this public key."""


class Ed25519Signer:
    """Signs with an Ed25519 secret. The public key is always derived from the secret, never given beside it."""

    __slots__ = ("_key", "public_key")

    def __init__(self, secret: bytes) -> None:
        """`secret`: the 32-byte seed.

        Raises:
            LocalProtocolError: it has another length (`ArgumentTypeError`: it is not bytes-like).
        """
        secret = bytes_of(secret, "the seed of a key")
        if len(secret) != KEY_BYTES:
            raise LocalProtocolError(f"the seed of a key has {KEY_BYTES} bytes, not {len(secret)}")
        self._key = SigningKey(secret)
        self.public_key = bytes(self._key.verify_key)

    def sign(self, payload: bytes) -> bytes:
        """The 64-byte signature of `payload`."""
        return self._key.sign(payload).signature


class Ed25519KeyVerifier:
    """Checks Ed25519 signatures; keeps the keys that it has seen decoded, those of the members above all."""

    __slots__ = ("_keys",)

    def __init__(self) -> None:
        self._keys: dict[bytes, ParsedKey] = {}

    def verify(self, key: bytes, signature: bytes, payload: bytes) -> bool:
        """Whether `payload` was signed with this key; what is no key has signed nothing."""
        parsed = self._keys.get(key) or self._parse(key)
        return parsed is not None and parsed.verify(signature, payload)

    def acceptable(self, key: bytes) -> bool:
        """Not of small order: anything verifies under such a key."""
        return not is_small_order(key)

    def _parse(self, key: bytes) -> ParsedKey | None:
        try:
            parsed = ParsedKey(key)
        except ValueError:
            return None
        if len(self._keys) >= MAX_PARSED_KEYS:
            del self._keys[next(iter(self._keys))]
        self._keys[key] = parsed
        return parsed
