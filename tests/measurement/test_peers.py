"""The played peers: the real core decides with them, and only because they keep to the protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from kit.cluster import Node, make_view, secret
from kit.requests import CHAIN, NOW, TestClient

from smartbft._fastpath.pool import request_digests
from smartbft.core.inputs import Timer
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Ed25519Signer, Signer
from smartbft.errors import InvalidSignature, LocalProtocolError
from smartbft.measurement.cluster import Measurement
from smartbft.measurement.one_replica import FOLLOWER, LEADER, OneReplicaRun
from smartbft.measurement.peers import Script, Source
from smartbft.measurement.processes import workspace
from smartbft.measurement.requests import traffic
from smartbft.measurement.scenario import Scenario
from smartbft.messages import Accept, FetchRequests, Progress, Write
from smartbft.quorum import quorum
from smartbft.types import Parameters

LEADING, FOLLOWING = 1, 2
PATIENT = Parameters(request_timeout=60_000_000)  # the played peers take no part in regency changes


def script(real: int, kind: type[Script] = Script) -> Script:
    return kind(
        make_view(), Domains(CHAIN), {peer: Ed25519Signer(secret(peer)) for peer in range(4) if peer != real}, real
    )


def talk(node: Node, peers: Script) -> None:
    """Hand what the node says to the peers and their answers to the node, until nobody has anything to say."""
    while node.outbox:
        sent, node.outbox = node.outbox, []
        for message in {id(message): message for _, _, message in sent}.values():
            for peer, answer in peers.answers(message):
                node.receive(peer, answer)


def real_replica(id: int) -> Node:
    return Node(id, make_view(), Parameters(batch_delay=0))  # a proposal leaves at once: no timer fires here


def batch(count: int = 3) -> bytes:
    client = TestClient()
    return client.requests(*(b"operation %d" % number for number in range(count)))


def test_a_leader_decides_with_the_peers() -> None:
    node, peers = real_replica(LEADING), script(LEADING)
    assert not peers.leads
    node.admit(batch())
    talk(node, peers)
    assert node.replica.decided == node.replica.executed == peers.decided == 1
    assert node.executed[0].data == batch()
    assert not node.penalties()
    node.admit(TestClient(2).requests(b"one more"))
    talk(node, peers)
    assert node.replica.decided == peers.decided == 2


def test_a_follower_decides_what_the_played_leader_proposes() -> None:
    node, peers = real_replica(FOLLOWING), script(FOLLOWING)
    assert peers.leads
    node.admit(batch())
    talk(node, peers)
    assert node.replica.decided == 0
    for sender, proposal in peers.propose(request_digests(CHAIN, batch()), NOW):
        assert sender == make_view().leader(0)
        node.receive(sender, proposal)
    talk(node, peers)
    assert node.replica.decided == node.replica.executed == peers.decided == 1
    assert not node.penalties()


def test_the_proof_convinces_others() -> None:
    node, peers = real_replica(LEADING), script(LEADING)
    node.admit(batch())
    talk(node, peers)
    proof = node.recovered().decisions[0].proof
    node.validator.check_proof(proof)
    assert len(proof.signatures) >= quorum(4)


class BadSignatures(Script):
    """A planted bug: signatures of something else."""

    def accept(self, signer: Signer, vote: Accept) -> Accept:
        good = super().accept(signer, vote)
        return Accept(good.view, good.regency, good.instance, good.digest, signer.sign(b"something else"))


def test_bad_signatures_decide_nothing() -> None:
    node, peers = real_replica(LEADING), script(LEADING, BadSignatures)
    node.admit(batch())
    with pytest.raises(InvalidSignature):
        talk(node, peers)
    assert node.replica.decided == 0


def test_no_vote_comes_before_that_of_the_real_replica_is_durable() -> None:
    node, peers = real_replica(LEADING), script(LEADING)
    node.disk_blocked = True
    node.admit(batch())
    talk(node, peers)
    assert peers.decided == node.replica.decided == 0
    node.disk_blocked = False
    node.complete_disk()
    talk(node, peers)
    assert peers.decided == node.replica.decided == 1


def test_repeated_votes_are_answered_again_and_old_ones_are_not() -> None:
    peers = script(LEADING)
    digest = bytes(32)
    write, accept = Write(0, 0, 1, digest), Accept(0, 0, 1, digest, bytes(64))
    assert peers.answers(write) == peers.answers(write) == [(peer, write) for peer in (0, 2, 3)]
    assert peers.answers(accept) == peers.answers(accept)
    assert peers.answers(write) == []
    peers.answers(Accept(0, 0, 2, digest, bytes(64)))
    assert peers.answers(accept) == []
    assert peers.answers(FetchRequests(0, 0, 3, digest)) == []


def test_peers_claim_no_more_progress_than_the_real_replica() -> None:
    node, peers = real_replica(LEADING), script(LEADING)
    node.admit(batch())
    talk(node, peers)
    node.fire(Timer.PROGRESS)
    [said] = {message for _, _, message in node.outbox if isinstance(message, Progress)}
    assert [message for _, message in peers.answers(said)] == [said] * 3
    talk(node, peers)


def sends(counts: list[int]) -> Callable[[], int]:
    return iter(counts).__next__


def test_a_source_gives_what_was_sent_once_and_in_order() -> None:
    client = TestClient()
    load = traffic(CHAIN, [client.request(bytes(100)) for _ in range(10)], 1)
    source = Source(load, sends([0, 3, 3, 10, 10, 10]))
    taken = [source.take(4, 10_000) for _ in range(6)]
    assert [len(digests) // 32 for digests in taken] == [0, 3, 0, 4, 3, 0]
    assert b"".join(taken) == load.digests


def test_a_source_keeps_to_the_size_of_a_batch() -> None:
    client = TestClient()
    load = traffic(CHAIN, [client.request(bytes(1000)) for _ in range(10)], 1)
    source = Source(load, lambda: 10)
    taken = []
    while digests := source.take(100, 3000):
        taken.append(len(digests) // 32)
    assert sum(taken) == 10
    assert max(taken) == 2
    assert Source(load, lambda: 10).take(100, 1) == load.digests[:32]  # one request always fits a batch


def short(**changes: object) -> Scenario:
    settings: dict[str, object] = {"clients": 8, "window": 64, "seconds": 60.0, "warm_up": 0.0, "probe_seconds": 0.01}
    settings["parameters"] = PATIENT
    return Scenario(**{**settings, "transactions": 400, **changes})  # type: ignore[arg-type]


def test_what_cannot_be_played_is_refused() -> None:
    with workspace() as work:
        with pytest.raises(LocalProtocolError, match="plain TCP"):
            OneReplicaRun(short(transport="tls"), work)
        with pytest.raises(LocalProtocolError, match="unknown role"):
            OneReplicaRun(short(), work, role="king")


@pytest.mark.e2e
@pytest.mark.parametrize("role", [LEADER, FOLLOWER])
def test_a_replica_process_with_played_peers(role: str) -> None:
    async def scenario() -> Measurement:
        with workspace() as work:
            return await OneReplicaRun(short(), work, role=role).measure()

    measurement = asyncio.run(scenario())
    assert measurement.passed, measurement.checks
    assert measurement.load.total == 400
    assert list(measurement.replicas) == [1 if role == LEADER else 2]
