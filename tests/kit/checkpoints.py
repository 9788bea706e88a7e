"""What tests of checkpoints need beside a cluster."""

from __future__ import annotations

from typing import Any

from kit.cluster import Cluster, Node, secret
from kit.requests import TestClient
from smartbft._fastpath.pool import join_requests
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.messages import Checkpoint

DIGEST = bytes(range(32))


def statement(node: Node, signer: int, instance: int, digest: bytes = DIGEST, size: int = 100) -> Checkpoint:
    """What `signer` says about its snapshot."""
    payload = node.domains.checkpoint_payload(0, instance, size, digest)
    return Checkpoint(0, 0, instance, size, digest, Ed25519Signer(secret(signer)).sign(payload))


def order(cluster: Cluster, count: int, first: int = 1) -> None:
    """`count` instances with a request each."""
    client = TestClient()
    for sequence in range(first, first + count):
        cluster.submit(join_requests([client.request(b"x", sequence=sequence)]))
        cluster.run()


def found(node: Node, kind: type) -> list[Any]:
    """The effects of one kind, in order."""
    return [effect for effect in node.effects if isinstance(effect, kind)]
