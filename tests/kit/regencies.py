"""Regency changes for tests: time that passes, and signed statements of the synchronization phase."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from msgspec.structs import replace

from kit.cluster import Cluster, Envelope, Node, secret
from kit.requests import CHAIN, NOW
from smartbft._fastpath.pool import request_digests, split_requests
from smartbft.core.inputs import Timer
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import RemoteProtocolError
from smartbft.messages import (
    Accept,
    Accepted,
    Message,
    Proof,
    Stop,
    StopData,
    Sync,
    Written,
    stop_data_statement,
    sync_statement,
)
from smartbft.types import Value

DOMAINS = Domains(CHAIN)
_UNSIGNED = bytes(64)
OLD, NEW = 1, 2  # the leaders of regencies 0 and 1, among four


def sent(node: Node, kind: type) -> list:
    """The messages of one kind that wait in a node's outbox, one per receiver."""
    return [message for _, _, message in node.outbox if isinstance(message, kind)]


def sent_to(node: Node, to: int, kind: type) -> list:
    return [message for _, receiver, message in node.outbox if receiver == to and isinstance(message, kind)]


def wait(node: Node, microseconds: int) -> None:
    """Time passes for this node, and it looks at its oldest request."""
    node.now += microseconds
    node.fire(Timer.REQUEST)


def first_timeout(node: Node) -> None:
    wait(node, 0)  # it notices the request
    wait(node, node.ordering.timeout // 2)


def second_timeout(node: Node) -> None:
    """Both timeouts of the oldest request: from now on the node suspects the leader."""
    first_timeout(node)
    wait(node, node.ordering.timeout - node.ordering.timeout // 2)


def without(*ids: int) -> Callable[[Envelope], bool]:
    """A filter for `Cluster.run`: nothing passes from or to these replicas."""
    return lambda envelope: envelope[0] not in ids and envelope[1] not in ids


def accept(signer: int, regency: int, instance: int, digest: bytes) -> Accept:
    payload = DOMAINS.accept_payload(0, regency, instance, digest)
    return Accept(0, regency, instance, digest, Ed25519Signer(secret(signer)).sign(payload))


def proof(regency: int, instance: int, digest: bytes, signers: Sequence[int] = (0, 1, 2)) -> Proof:
    signatures = tuple((signer, accept(signer, regency, instance, digest).signature) for signer in signers)
    return Proof(0, regency, instance, digest, signatures)


def stop_data(
    signer: int,
    regency: int = 1,
    instance: int = 1,
    accepted: tuple[int, bytes] | None = None,
    written: Sequence[tuple[bytes, int]] = (),
    last: Proof | None = None,
) -> StopData:
    entries = tuple(Written(digest, when) for digest, when in sorted(written))
    unsigned = StopData(
        0, regency, signer, instance, Accepted(*accepted) if accepted else None, entries, last, _UNSIGNED
    )
    payload = DOMAINS.stop_data_payload(stop_data_statement(unsigned))
    return replace(unsigned, signature=Ed25519Signer(secret(signer)).sign(payload))


def sync(leader: int, statements: Sequence[StopData], value: bytes = b"", regency: int = 1) -> Sync:
    unsigned = Sync(0, regency, tuple(statements), value, _UNSIGNED)
    payload = DOMAINS.sync_payload(sync_statement(unsigned))
    return replace(unsigned, signature=Ed25519Signer(secret(leader)).sign(payload))


def empty_sync(value: bytes = b"", signers: Sequence[int] = (0, 2, 3)) -> Sync:
    """What begins regency 1 where nobody has voted."""
    return sync(NEW, [stop_data(signer) for signer in signers], value)


def value_of(data: bytes, timestamp: int = NOW) -> bytes:
    """The encoded value that names these requests."""
    return Value(timestamp, request_digests(CHAIN, data)).encode()


def digest_of(data: bytes, timestamp: int = NOW) -> bytes:
    return DOMAINS.value_digest(value_of(data, timestamp))


def refused(node: Node, sender: int, message: Message) -> bool:
    try:
        node.receive(sender, message)
    except RemoteProtocolError:
        return True
    return False


def install(cluster: Cluster, regency: int = 1, ids: Sequence[int] | None = None) -> None:
    """These nodes install a regency (by STOPs of all), and nothing they send arrives."""
    for node in cluster.nodes:
        if ids is None or node.id in ids:
            for sender in cluster.view.ids:
                if sender != node.id:
                    node.receive(sender, Stop(0, regency - 1, regency, b""))
    assert all(node.replica.regency >= regency for node in cluster.nodes if ids is None or node.id in ids)


def everything(envelope: Envelope) -> bool:
    return True


def pulse(cluster: Cluster, passes: Callable[[Envelope], bool] = everything, silent: tuple[int, ...] = ()) -> None:
    """A resend interval passes: everybody repeats itself and asks for what it lacks."""
    for node in cluster.nodes:
        if node.id not in silent:
            node.now += cluster.parameters.resend_interval
            for timer in (Timer.PROGRESS, Timer.RESEND, Timer.CATCH_UP, Timer.VALUE, Timer.FETCH):
                node.fire(timer)
    cluster.run(passes)


def operations(node: Node) -> list[bytes]:
    return [operation for execute in node.executed for _, _, _, operation, _ in split_requests(execute.data)]


def accepted_by_all(cluster: Cluster, data: bytes) -> None:
    """Everybody has accepted the batch in regency 0 and nobody has decided it."""
    cluster.submit(data)
    cluster.run(lambda envelope: not isinstance(envelope[2], Accept))
    cluster.drop_all()
    assert {node.replica.decided for node in cluster.nodes} == {0}


# Statements of replica 0 for regency 1 that prove or promise nothing.
FORGED_STOP_DATA = {
    "decisions without a proof": stop_data(0, instance=2),
    "a proof of another instance": stop_data(0, instance=3, last=proof(0, 1, bytes(32))),
    "a proof of too few": stop_data(0, instance=2, last=proof(0, 1, bytes(32), (0, 1))),
    "a proof with a bad signature": stop_data(
        0,
        instance=2,
        last=replace(proof(0, 1, bytes(32)), regency=1),
    ),
    "accepted in that regency": stop_data(0, accepted=(1, bytes(32))),
    "written in a later regency": stop_data(0, written=[(bytes(32), 2)]),
    "signed by another": replace(stop_data(3), signer=0),
    "signed for another regency": replace(stop_data(0, 2), regency=1),
    "signed for another instance": replace(
        stop_data(0, instance=2, last=proof(0, 1, bytes(32))), instance=1, proof=None
    ),
    "signed with another collect": replace(stop_data(0, written=[(bytes(32), 0)]), write_set=()),
    "of another view": replace(stop_data(0), view=1),
}
