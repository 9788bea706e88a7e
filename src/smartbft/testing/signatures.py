"""Signature schemes of simulations: real Ed25519, and keyed hashes that cost a hundredth of it.

A keyed hash is no signature: who can check one can make one. In a simulation that is no harm, because the replicas,
honest or not, reach it only through these interfaces. Keys and signatures have the sizes of Ed25519's, so every layout
is the same.
"""

from __future__ import annotations

from typing import Protocol

from blake3 import blake3

from smartbft._fastpath.pool import VerifyJob
from smartbft.crypto.signatures import Ed25519MemberVerifier, Ed25519Signer, MemberVerifier, Signer
from smartbft.limits import SIGNATURE_BYTES
from smartbft.types import View

_PUBLIC_KEY_CONTEXT = "smartbft v1 simulated public key"


class SignatureScheme(Protocol):
    """Makes signers and verifiers that belong together."""

    def signer(self, secret: bytes) -> Signer:
        """A signer from a 32-byte secret; the same secret gives the same key."""

    def member_verifier(self, view: View) -> MemberVerifier:
        """Checks signatures of the members of `view`."""

    def verify_requests(self, job: VerifyJob) -> bytearray:
        """The mask of a job from the pool: one byte per request, 1 where the signature is valid."""


class Ed25519Scheme:
    """The product's signatures and verifiers."""

    def signer(self, secret: bytes) -> Signer:
        """An Ed25519 signer."""
        return Ed25519Signer(secret)

    def member_verifier(self, view: View) -> MemberVerifier:
        """The product's verifier."""
        return Ed25519MemberVerifier(view)

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

    def member_verifier(self, view: View) -> MemberVerifier:
        """A verifier for the members of `view`; members whose keys this scheme did not make never verify."""
        secrets = {member.id: self._secrets.get(member.consensus_key) for member in view.members}
        return _KeyedHashMemberVerifier(secrets)

    def verify_requests(self, job: VerifyJob) -> bytearray:
        """Check each signature of a job; unknown keys never verify."""
        secrets = self._secrets
        mask = bytearray()
        for key, signature, payload in job.items():
            secret = secrets.get(key)
            mask.append(secret is not None and blake3(payload, key=secret).digest(SIGNATURE_BYTES) == signature)
        return mask


class _KeyedHashMemberVerifier:
    __slots__ = ("_secrets",)

    def __init__(self, secrets: dict[int, bytes | None]) -> None:
        self._secrets = secrets

    def verify(self, member: int, signature: bytes, payload: bytes) -> bool:
        secret = self._secrets.get(member)
        return secret is not None and blake3(payload, key=secret).digest(SIGNATURE_BYTES) == signature
