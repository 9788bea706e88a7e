"""The rates of answers hold up nobody who is honest: whoever is behind or lacks bodies gets them as fast as before, and
asks again for what it did not get.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from kit.cluster import Cluster, Envelope, Node, secret
from kit.questions import batch
from kit.regencies import pulse, without
from kit.requests import CHAIN
from kit.statements import proof

from smartbft.core.answer_rates import AnswerRates
from smartbft.core.effects import Send
from smartbft.core.inputs import Timer
from smartbft.core.recovery import decisions_in
from smartbft.core.state_transfer import StateTransfer
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.limits import BULK_ANSWER_BYTES_AT_ONCE, SNAPSHOT_CHUNK_BYTES, TRANSFER_PATIENCE_RESENDS
from smartbft.messages import (
    Accept,
    Checkpoint,
    Decision,
    FetchChunk,
    FetchRequests,
    FetchValue,
    Gone,
    Hold,
    Propose,
    ProposedValue,
    RequestBodies,
    SnapshotChunk,
    SnapshotManifest,
    Write,
)
from smartbft.snapshots import chunk_hashes, snapshot_digest
from smartbft.types import CHANNEL, Parameters

LATE = 3
MANY = 80  # batches of a quarter of a megabyte


def make_cluster() -> Cluster:
    return Cluster(4, Parameters(batch_delay=0, request_authentication=CHANNEL))


def submit(cluster: Cluster, number: int, to: Iterable[int]) -> None:
    data, _ = batch(number)
    for id in to:
        cluster.nodes[id].admit(data)


def executed(node: Node) -> int:
    """Bytes."""
    return sum(len(one.data) for one in node.executed)


def serve_from_logs(cluster: Cluster) -> int:
    """Carry out what was asked of the logs; returns how many decisions that were."""
    count = 0
    for node in cluster.nodes:
        records = [(one.kind, one.instance, b"".join(one.parts)) for one in node.log]
        for effect in node.served():
            for known in decisions_in(iter(records), node.domains, effect.first, effect.last):
                decision = Decision(0, 0, known.instance, known.value, known.data, known.proof)
                node.outbox.append((node.id, effect.to, decision))
                count += 1
        node.effects.clear()
    return count


def test_whoever_is_far_behind_catches_up() -> None:
    """More than one peer gives at once, in a few resend intervals: as much as a link carries meanwhile."""
    cluster = make_cluster()
    for number in range(MANY):
        submit(cluster, number, range(3))
        cluster.run(without(LATE))
    late = cluster.nodes[LATE]
    assert executed(cluster.nodes[0]) > 2 * BULK_ANSWER_BYTES_AT_ONCE
    for _ in range(4):
        pulse(cluster)
        while serve_from_logs(cluster):
            cluster.run()
    assert executed(late) == executed(cluster.nodes[0])


def bodies_of_the_leader(cluster: Cluster) -> int:
    """One replica is told by no client, and fetches the bodies of each proposal, all from the leader; 13 MB/s."""
    late = cluster.nodes[LATE]
    for number in range(MANY):
        accepts: list[Envelope] = []

        def passes(envelope: Envelope, held: list[Envelope] = accepts) -> bool:
            if isinstance(envelope[2], Accept):
                held.append(envelope)
            return not isinstance(envelope[2], Accept) and not (envelope[1] == LATE and isinstance(envelope[2], Hold))

        submit(cluster, number, range(3))
        cluster.run(passes)
        for node in cluster.nodes:
            node.now += cluster.parameters.fetch_grace
        late.fire(Timer.FETCH)
        cluster.run(passes)
        cluster.nodes[0].outbox.extend(accepts)
        cluster.run(lambda envelope: not (envelope[1] == LATE and isinstance(envelope[2], Hold)))
    answers = [(sender, m) for sender, _, m in cluster.delivered if isinstance(m, RequestBodies)]
    assert {sender for sender, _ in answers} == {cluster.leader.id}
    assert sum(1 for _, to, m in cluster.delivered if isinstance(m, FetchRequests)) == len(answers)
    assert late.replica.decided == cluster.leader.replica.decided >= MANY
    return sum(len(m.data) for _, m in answers)


def test_bodies_are_given_at_full_throughput() -> None:
    assert bodies_of_the_leader(make_cluster()) > 2 * BULK_ANSWER_BYTES_AT_ONCE


def test_planted_bug_too_low_a_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenth of it, and bodies do not come in time."""
    charge = AnswerRates.charge
    monkeypatch.setattr(AnswerRates, "charge", lambda rates, peer, kind, size=0: charge(rates, peer, kind, 10 * size))
    with pytest.raises(AssertionError):
        bodies_of_the_leader(make_cluster())


# --- what is not answered is asked again


def unanswered(peer: int, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer's budget of one kind of answer is used up, everywhere."""
    may = AnswerRates.may
    monkeypatch.setattr(
        AnswerRates, "may", lambda rates, to, answer: may(rates, to, answer) and (to, answer) != (peer, kind)
    )


def test_a_proposal_that_f_plus_1_write_is_asked_for_until_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = make_cluster()
    late = cluster.nodes[LATE]

    def passes(envelope: Envelope) -> bool:
        """The leader keeps its proposal from one replica, and nobody accepts meanwhile."""
        return not (envelope[1] == LATE and isinstance(envelope[2], Propose)) and not isinstance(envelope[2], Accept)

    with monkeypatch.context() as limited:
        unanswered(LATE, ProposedValue, limited)
        submit(cluster, 0, range(4))
        cluster.run(passes)
        for _ in range(2):
            late.now += cluster.parameters.proposal_timeout // 2
            late.fire(Timer.PROPOSAL)
            cluster.run(passes)
    assert sum(1 for _, _, m in cluster.delivered if isinstance(m, FetchValue)) == 2 * 3
    assert late.ordering.current.proposal is None
    late.now += cluster.parameters.proposal_timeout // 2
    late.fire(Timer.PROPOSAL)
    cluster.run(passes)
    assert any(sender == LATE and isinstance(m, Write) for sender, _, m in cluster.delivered)


CHUNKS = [bytes([number]) * SNAPSHOT_CHUNK_BYTES for number in range(5)]
HASHES = chunk_hashes(CHAIN, b"".join(CHUNKS))
DIGEST, SIZE, INSTANCE = snapshot_digest(HASHES), 5 * SNAPSHOT_CHUNK_BYTES, 4


def asked_for(node: Node) -> list[tuple[int, int]]:
    """Chunks that were asked for since the last look, and of whom."""
    sent = [(one.to, one.message) for one in node.effects if isinstance(one, Send)]
    node.effects.clear()
    return [(message.index, to) for to, message in sent if isinstance(message, FetchChunk)]


def check_lost_question(node: Node) -> None:
    """A seeder that sends chunk after chunk has dropped the question for one: it is asked for again."""
    for peer in (1, 2):
        payload = node.domains.checkpoint_payload(0, INSTANCE, SIZE, DIGEST)
        node.receive(peer, Checkpoint(0, 0, INSTANCE, SIZE, DIGEST, Ed25519Signer(secret(peer)).sign(payload)))
        node.receive(peer, Gone(0, 0, INSTANCE + 1))
    transfer = node.replica.transfer
    transfer._sources = 1
    (seeder,) = transfer._lists_asked
    node.effects.clear()
    node.receive(seeder, SnapshotManifest(0, 0, INSTANCE, SIZE, DIGEST, HASHES, proof(INSTANCE)))
    first = asked_for(node)
    assert {index for index, _ in first} == {0, 1, 2, 3}
    source = first[0][1]
    for tick in range(2 * TRANSFER_PATIENCE_RESENDS):
        node.fire(Timer.TRANSFER)
        if tick % 6 == 5 and tick // 6 < 2:
            node.receive(
                source, SnapshotChunk(0, 0, INSTANCE, DIGEST, 1 + tick // 6, CHUNKS[1 + tick // 6])
            )  # it is slow, and never silent for too long
    again = [index for index, _ in asked_for(node)]
    assert 0 in again, "what it dropped"


def test_a_chunk_whose_question_was_dropped_is_asked_for_again() -> None:
    check_lost_question(make_cluster().nodes[0])


def test_planted_bug_only_a_silent_seeder_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(StateTransfer, "_forget_lost", lambda *_: None)
    with pytest.raises(AssertionError, match="what it dropped"):
        check_lost_question(make_cluster().nodes[0])
