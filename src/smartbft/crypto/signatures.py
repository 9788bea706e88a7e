"""Making and checking signatures of members, behind two small interfaces.

The product signs with PyNaCl and verifies with the native ZIP-215 verifier; the simulator may put keyed hashes in
their place.
"""

from __future__ import annotations

from typing import Protocol

from nacl.signing import SigningKey

from smartbft._fastpath.verify import ParsedKey
from smartbft.types import View


class Signer(Protocol):
    """Signs statements in the name of one key."""

    @property
    def public_key(self) -> bytes:
        """The 32-byte public key."""

    def sign(self, payload: bytes) -> bytes:
        """The 64-byte signature of `payload`; deterministic."""


class MemberVerifier(Protocol):
    """Checks signatures of the members of one view."""

    def verify(self, member: int, signature: bytes, payload: bytes) -> bool:
        """Whether `member` (an id of the view) signed `payload`."""


class Ed25519Signer:
    """Signs with an Ed25519 secret. The public key is always derived from the secret, never given beside it."""

    __slots__ = ("_key", "public_key")

    def __init__(self, secret: bytes) -> None:
        """`secret`: the 32-byte seed."""
        self._key = SigningKey(secret)
        self.public_key = bytes(self._key.verify_key)

    def sign(self, payload: bytes) -> bytes:
        """The 64-byte signature of `payload`."""
        return self._key.sign(payload).signature


class Ed25519MemberVerifier:
    """Checks members' signatures with their keys decoded once."""

    __slots__ = ("_keys",)

    def __init__(self, view: View) -> None:
        self._keys = {member.id: ParsedKey(member.consensus_key) for member in view.members}

    def verify(self, member: int, signature: bytes, payload: bytes) -> bool:
        """Whether `member` signed `payload` with its consensus key of this view; unknown members never did."""
        key = self._keys.get(member)
        return key is not None and key.verify(signature, payload)
