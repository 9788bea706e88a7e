"""Signature schemes of simulations: real Ed25519, and keyed hashes that cost a hundredth of it.

A keyed hash is no signature: who can check one can make one. In a simulation that is no harm, because the replicas,
honest or not, reach it only through these interfaces. Keys and signatures have the sizes of Ed25519's, so every layout
is the same.
"""

from __future__ import annotations

from typing import Protocol

from blake3 import blake3

from smartbft._fastpath.pool import VerifyJob
from smartbft.crypto.signatures import Ed25519KeyVerifier, Ed25519Signer, KeyVerifier, Signer
from smartbft.limits import SIGNATURE_BYTES

_PUBLIC_KEY_CONTEXT = "smartbft v1 simulated public key"


class SignatureScheme(Protocol):
    """Makes signers and verifiers that belong together."""

    def signer(self, secret: bytes) -> Signer:
        """A signer from a 32-byte secret; the same secret gives the same key."""

    def key_verifier(self) -> KeyVerifier:
        """Checks single signatures, those of members above all."""

    def verify_requests(self, job: VerifyJob) -> bytearray:
        """The mask of a job from the pool: one byte per request, 1 where the signature is valid."""


class Ed25519Scheme:
    """The product's signatures and verifiers."""

    def signer(self, secret: bytes) -> Signer:
        """An Ed25519 signer."""
        return Ed25519Signer(secret)

    def key_verifier(self) -> KeyVerifier:
        """The product's verifier."""
        return Ed25519KeyVerifier()

    def verify_requests(self, job: VerifyJob) -> bytearray:
        """Native batch verification, on this thread."""
        return bytearray(job.run())


class KeyedHashSigner:
    """Signs with BLAKE3 in keyed mode, extended to 64 bytes."""

    __slots__ = ("_secret", "public_key")

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self.public_key = blake3(secret, derive_key_context=_PUBLIC_KEY_CONTEXT).digest()

    def sign(self, payload: bytes) -> bytes:
        """64 bytes, deterministic."""
        return blake3(payload, key=self._secret).digest(SIGNATURE_BYTES)


class KeyedHashScheme:
    """Keeps the secrets of all the signers it made, so that it can check what they signed."""

    __slots__ = ("_secrets",)

    def __init__(self) -> None:
        self._secrets: dict[bytes, bytes] = {}

    def signer(self, secret: bytes) -> Signer:
        """A keyed-hash signer that this scheme will verify."""
        signer = KeyedHashSigner(secret)
        self._secrets[signer.public_key] = secret
        return signer

    def key_verifier(self) -> KeyVerifier:
        """A verifier for all keys that this scheme makes; others never verify."""
        return _KeyedHashVerifier(self._secrets)

    def verify_requests(self, job: VerifyJob) -> bytearray:
        """Check each signature of a job; unknown keys never verify."""
        secrets = self._secrets
        mask = bytearray()
        for key, signature, payload in job.items():
            secret = secrets.get(key)
            mask.append(secret is not None and blake3(payload, key=secret).digest(SIGNATURE_BYTES) == signature)
        return mask


class _KeyedHashVerifier:
    __slots__ = ("_secrets",)

    def __init__(self, secrets: dict[bytes, bytes]) -> None:
        self._secrets = secrets

    def acceptable(self, key: bytes) -> bool:
        return key in self._secrets

    def verify(self, key: bytes, signature: bytes, payload: bytes) -> bool:
        secret = self._secrets.get(key)
        return secret is not None and blake3(payload, key=secret).digest(SIGNATURE_BYTES) == signature
