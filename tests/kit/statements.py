"""Signed statements of the members of the kit's view, true or not."""

from __future__ import annotations

from msgspec.structs import replace

from kit.cluster import make_view, secret
from kit.requests import CHAIN, NOW
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.messages import Accept, Accepted, Proof, StopData, Sync, Written, stop_data_statement, sync_statement
from smartbft.types import Value

VIEW = make_view()
DOMAINS = Domains(CHAIN)
SIGNERS = [Ed25519Signer(secret(replica)) for replica in range(7)]
UNSIGNED = bytes(64)

VALUES = [Value(NOW + number, bytes([number + 1]) * 32).encode() for number in range(3)]
DIGESTS = [DOMAINS.value_digest(value) for value in VALUES]
V, W, X = DIGESTS


def accept(
    signer: int = 0,
    regency: int = 0,
    instance: int = 1,
    digest: bytes = V,
    *,
    view: int = 0,
    domains: Domains = DOMAINS,
) -> Accept:
    payload = domains.accept_payload(view, regency, instance, digest)
    return Accept(view, regency, instance, digest, SIGNERS[signer].sign(payload))


def proof(
    instance: int = 1, signers: tuple[int, ...] = (0, 1, 2), *, regency: int = 0, digest: bytes = V, view: int = 0
) -> Proof:
    votes = ((signer, accept(signer, regency, instance, digest, view=view).signature) for signer in signers)
    return Proof(view, regency, instance, digest, tuple(votes))


def signed(stop_data: StopData, by: int | None = None, domains: Domains = DOMAINS) -> StopData:
    """With the signature of its signer, or of somebody else."""
    signer = SIGNERS[stop_data.signer if by is None else by]
    return replace(stop_data, signature=signer.sign(domains.stop_data_payload(stop_data_statement(stop_data))))


def stop_data(
    signer: int = 0,
    regency: int = 1,
    instance: int = 1,
    accepted: tuple[int, bytes] | None = None,
    written: tuple[tuple[bytes, int], ...] = (),
    *,
    view: int = 0,
    last: Proof | None = None,
    domains: Domains = DOMAINS,
) -> StopData:
    """A well-formed STOPDATA; the proof of the last decision is made if it needs one."""
    lock = Accepted(*accepted) if accepted is not None else None
    entries = tuple(Written(*entry) for entry in sorted(written))
    last = proof(instance - 1) if last is None and instance > 1 else last
    return signed(StopData(view, regency, signer, instance, lock, entries, last, UNSIGNED), domains=domains)


def signed_sync(sync: Sync, by: int | None = None, domains: Domains = DOMAINS) -> Sync:
    """With the signature of the leader of its regency, or of somebody else."""
    signer = SIGNERS[VIEW.leader(sync.regency) if by is None else by]
    return replace(sync, signature=signer.sign(domains.sync_payload(sync_statement(sync))))


def sync(
    stop_data: tuple[StopData, ...], value: bytes = b"", regency: int = 1, *, view: int = 0, domains: Domains = DOMAINS
) -> Sync:
    return signed_sync(Sync(view, regency, stop_data, value, UNSIGNED), domains=domains)


def unbound(regency: int = 1) -> tuple[StopData, ...]:
    """STOPDATA of three members who have seen nothing."""
    return tuple(stop_data(signer, regency) for signer in range(3))
