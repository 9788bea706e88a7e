"""Sequential checkpoints in the core: whose turn it is, what is refused, when a rehearsal may begin, and its log."""

from __future__ import annotations

from typing import Any

import pytest
from kit.checkpoints import DIGEST, found, order, statement
from kit.cluster import Cluster, Node, make_pool, make_view, secret
from kit.requests import CHAIN, TestClient

from smartbft._fastpath.pool import join_requests
from smartbft.core.checkpoint_schedule import CheckpointSchedule
from smartbft.core.effects import BeginTransfer, ForgetDecisions, Send, TakeSnapshot
from smartbft.core.inputs import MessageReceived, SnapshotTaken, Timer
from smartbft.core.rehearsal_log import RehearsalLog
from smartbft.core.replica import SYNC_LEVEL, Replica
from smartbft.core.sequential_transfer import SequentialTransfer
from smartbft.core.state_transfer import StateTransfer
from smartbft.core.validation import Rehearsed
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Ed25519KeyVerifier, Ed25519Signer
from smartbft.errors import LocalProtocolError, MalformedMessage
from smartbft.limits import (
    FETCHING_RESENDS,
    REHEARSAL_BLOCK,
    REHEARSAL_BLOCK_RESENDS,
    REHEARSAL_BLOCKS,
    REHEARSAL_BYTES_PER_SECOND,
    REHEARSAL_SIZE_SLACK_BYTES,
    SNAPSHOT_CHUNK_BYTES,
    TRANSFER_PATIENCE_RESENDS,
)
from smartbft.messages import (
    Decision,
    FetchChunk,
    FetchDecisions,
    FetchManifest,
    Gone,
    Progress,
    Proof,
    SnapshotManifest,
)
from smartbft.protocols.mod_smart import ModSmart
from smartbft.snapshots import snapshot_digest
from smartbft.types import SEQUENTIAL, Parameters

EVERY_FOUR = Parameters(checkpoint_interval=4, checkpoint_schedule=SEQUENTIAL)


def sent(node: Node, kind: type) -> list[Any]:
    return [effect.message for effect in found(node, Send) if isinstance(effect.message, kind)]


@pytest.fixture
def cluster() -> Cluster:
    return Cluster(parameters=EVERY_FOUR)


# --- whose turn it is ---


@pytest.mark.parametrize(("n", "interval"), [(4, 4), (4, 10), (7, 7), (7, 1024), (64, 100)])
def test_every_member_has_instances_of_its_own(n: int, interval: int) -> None:
    parameters = Parameters(checkpoint_interval=interval, checkpoint_schedule=SEQUENTIAL)
    schedule = CheckpointSchedule(parameters, make_view(n))
    for member in range(n):
        due = [instance for instance in range(1, 3 * interval + 1) if schedule.is_due(member, instance)]
        assert due == [at for at in range(1, 3 * interval + 1) if at % interval == member * interval // n]
    for instance in range(1, 2 * interval):
        assert sum(schedule.is_due(member, instance) for member in range(n)) <= 1


def test_together_everybody_has_the_same() -> None:
    schedule = CheckpointSchedule(Parameters(checkpoint_interval=4), make_view())
    assert all(schedule.is_due(member, 8) and not schedule.is_due(member, 9) for member in range(4))
    assert not schedule.is_due(9, 8), "a stranger"


def test_checkpoints_are_taken_in_turn(cluster: Cluster) -> None:
    order(cluster, 4)
    taken = [[effect.instance for effect in found(node, TakeSnapshot)] for node in cluster.nodes]
    assert taken == [[4], [1], [2], [3]]


def test_a_checkpoint_out_of_turn_is_refused(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.receive(1, statement(node, 1, 5))
    with pytest.raises(MalformedMessage, match="for instance 6, which is not replica 1's"):
        node.receive(1, statement(node, 1, 6))


def test_without_a_pool_for_rehearsals_there_are_no_sequential_checkpoints() -> None:
    signer = Ed25519Signer(secret(0))
    with pytest.raises(LocalProtocolError, match="make_pool"):
        Replica(
            0,
            make_view(),
            Domains(CHAIN),
            signer,
            make_pool(EVERY_FOUR),
            EVERY_FOUR,
            permanent=signer,
            verifier=Ed25519KeyVerifier(),
            level=SYNC_LEVEL,
            ordering=ModSmart,
        )


def test_where_nobody_may_be_faulty_the_word_of_one_is_enough() -> None:
    cluster = Cluster(3, parameters=EVERY_FOUR)
    assert type(cluster.nodes[0].replica.transfer) is StateTransfer


# --- the log ---


def test_the_log_is_forgotten_when_a_quorum_has_the_state(cluster: Cluster) -> None:
    node = cluster.nodes[1]
    order(cluster, 5)
    node.step(SnapshotTaken(1, 100, DIGEST))
    order(cluster, 3, first=6)
    node.step(SnapshotTaken(5, 100, DIGEST))
    node.receive(2, statement(node, 2, 2))
    assert found(node, ForgetDecisions) == []
    node.receive(3, statement(node, 3, 3))
    assert [effect.before for effect in found(node, ForgetDecisions)] == [2], "what follows its own oldest stays"


# --- when a rehearsal may begin ---


def behind(cluster: Cluster, gone: tuple[int, ...], ahead: tuple[int, ...]) -> Node:
    """A replica that hears of progress, of snapshots, and of logs that begin later."""
    node = cluster.nodes[0]
    for peer in ahead:
        node.receive(peer, Progress(0, 0, 40))
    for peer in (1, 2, 3):
        node.receive(peer, statement(node, peer, 36 + peer))
    for peer in gone:
        node.receive(peer, Gone(0, 0, 30))
    node.fire(Timer.TRANSFER)
    return node


def test_a_snapshot_is_fetched_from_the_newest_member_that_another_can_confirm(cluster: Cluster) -> None:
    node = behind(cluster, gone=(1, 2), ahead=(1, 2, 3))
    assert {(asked.instance, asked.digest) for asked in sent(node, FetchManifest)} == {(38, DIGEST)}


def test_liars_alone_cannot_make_a_replica_give_up_its_state(cluster: Cluster) -> None:
    """It is level with all correct members, but the only one that claims to be ahead has dropped what comes next."""
    order(cluster, 8)
    node = cluster.nodes[0]
    for peer in (1, 2, 3):
        node.receive(peer, Progress(0, 0, 8))
        node.receive(peer, statement(node, peer, 4 + peer))
    node.receive(3, Progress(0, 0, 40))
    node.receive(3, Gone(0, 0, 30))
    assert node.replica.catch_up.is_cut_off(), "as far as it knows"
    node.fire(Timer.TRANSFER)
    assert sent(node, FetchManifest) == []


def test_rehearsing_on_the_word_of_liars_is_found(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug: a replica rehearses although no correct member says that the next decision is gone."""
    monkeypatch.setattr(SequentialTransfer, "_is_due", lambda _: True)
    with pytest.raises(AssertionError):
        test_liars_alone_cannot_make_a_replica_give_up_its_state(cluster)


def test_a_snapshot_that_is_much_larger_than_others_is_not_fetched(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    for peer in (1, 2, 3):
        node.receive(peer, Progress(0, 0, 40))
    node.receive(2, statement(node, 2, 38, size=REHEARSAL_SIZE_SLACK_BYTES + 201))
    node.receive(1, statement(node, 1, 37))
    node.receive(3, statement(node, 3, 39))
    for peer in (1, 2):
        node.receive(peer, Gone(0, 0, 30))
    node.fire(Timer.TRANSFER)
    assert {asked.instance for asked in sent(node, FetchManifest)} == {37}


def test_what_liars_say_about_times_to_come_is_not_waited_for(cluster: Cluster) -> None:
    """Replica 3 vouches for an instance that nobody else has decided: it confirms nothing."""
    node = cluster.nodes[0]
    for peer, decided in ((1, 40), (2, 40), (3, 10**6)):
        node.receive(peer, Progress(0, 0, decided))
    node.receive(3, statement(node, 3, 4 * 10**5 + 3))
    node.receive(1, statement(node, 1, 37))
    for peer in (1, 2):
        node.receive(peer, Gone(0, 0, 30))
    node.fire(Timer.TRANSFER)
    assert sent(node, FetchManifest) == []
    node.receive(2, statement(node, 2, 38))
    assert {asked.instance for asked in sent(node, FetchManifest)} == {37}


# --- one seeder ---


def arriving(cluster: Cluster, chunks: int = 1) -> tuple[Node, SnapshotManifest]:
    """A replica that has asked replica 2 for its snapshot, and the answer."""
    size = chunks * SNAPSHOT_CHUNK_BYTES
    hashes = b"".join(bytes([index]) * 32 for index in range(chunks))
    digest = snapshot_digest(hashes)
    node = cluster.nodes[0]
    for peer in (1, 2, 3):
        node.receive(peer, Progress(0, 0, 40))
        node.receive(peer, statement(node, peer, 36 + peer, digest, size))
    for peer in (1, 2):
        node.receive(peer, Gone(0, 0, 30))
    node.fire(Timer.TRANSFER)
    return node, SnapshotManifest(0, 0, 38, size, digest, hashes, Proof(0, 0, 38, DIGEST, signatures()))


def signatures() -> tuple[tuple[int, bytes], ...]:
    return tuple((signer, bytes(64)) for signer in (1, 2, 3))


def test_only_the_seeder_says_what_its_snapshot_is(cluster: Cluster) -> None:
    """Else anybody could send it with a bad proof, and have the seeder blamed."""
    node, manifest = arriving(cluster)
    node.receive(3, manifest)
    assert found(node, BeginTransfer) == []
    node.receive(2, manifest)
    assert len(found(node, BeginTransfer)) == 1
    assert {asked.to for asked in found(node, Send) if isinstance(asked.message, FetchChunk)} == {2}


def test_a_seeder_that_says_nothing_is_passed_over(cluster: Cluster) -> None:
    node, _ = arriving(cluster)
    for _ in range(TRANSFER_PATIENCE_RESENDS + 1):
        node.fire(Timer.TRANSFER)
    assert [asked.to for asked in found(node, Send) if isinstance(asked.message, FetchManifest)][-1] == 1


def test_a_seeder_that_sends_hardly_anything_is_passed_over(cluster: Cluster) -> None:
    """One chunk now and then is enough not to be silent, and would keep the others away for ever."""
    node, manifest = arriving(cluster, chunks=100)
    node.receive(2, manifest)
    transfer: Any = node.replica.transfer
    looks = 0
    while transfer._target.signers == (2,):
        node.fire(Timer.TRANSFER)
        transfer._quiet.clear()
        looks += 1
    seconds = looks * EVERY_FOUR.resend_interval / 1_000_000
    assert seconds == pytest.approx(100 * SNAPSHOT_CHUNK_BYTES / REHEARSAL_BYTES_PER_SECOND, rel=0.2)
    assert transfer._target.signers == (1,)


def test_whoever_rehearses_finds_the_decisions_that_follow(cluster: Cluster) -> None:
    """A snapshot, and the log after it, stay as long as decisions are fetched by whoever has fetched it."""
    node = cluster.nodes[1]
    order(cluster, 1)
    node.step(SnapshotTaken(1, 100, DIGEST))
    node.receive(0, FetchManifest(0, 0, 1, DIGEST))
    patience = FETCHING_RESENDS * EVERY_FOUR.resend_interval
    for _ in range(3):
        node.now += patience
        node.receive(0, FetchDecisions(0, 0, 1, 1))
    assert node.replica.checkpoints._fetched(2) == (1,)
    node.now += patience + 1
    node.receive(0, FetchDecisions(0, 0, 1, 1))
    assert node.replica.checkpoints._fetched(2) == ()


# --- decisions for a rehearsal ---


def decision(cluster: Cluster, instance: int) -> Decision:
    known = cluster.nodes[1].replica._delivery.recent.get(instance)
    assert known is not None
    decided = known[0]
    return Decision(0, 0, instance, decided.value, decided.data, decided.proof)


def test_a_decision_for_a_rehearsal_is_good_for_nothing_else(cluster: Cluster) -> None:
    """Its proof is not checked, so it must not be decided, even if it is stepped after the rehearsal is over."""
    late = cluster.nodes[0]
    client = TestClient()
    cluster.submit(join_requests([client.request(b"x", sequence=1)]))
    cluster.run(lambda envelope: envelope[1] != 0)
    true = decision(cluster, 1)
    unproven = Decision(0, 0, 1, true.value, true.data, Proof(0, 0, 1, true.proof.digest, ()))
    late.validator.rehearses = lambda instance: instance == 1
    verified = late.validator.validate(1, unproven)
    assert isinstance(verified, Rehearsed)
    late.validator.rehearses = None
    late.step(MessageReceived(verified))
    assert late.replica.decided == 0
    late.receive(1, true)
    assert late.replica.decided == 1


def rehearsal_log(cluster: Cluster) -> tuple[Node, RehearsalLog]:
    """The log of a rehearsal that begins after instance 9; all peers have decided 1000 instances."""
    node = cluster.nodes[0]
    for peer in (1, 2, 3):
        node.receive(peer, Progress(0, 0, 1000))
    node.effects.clear()
    return node, RehearsalLog(node.replica, 10)


def asked(node: Node) -> list[tuple[int, int, int]]:
    """Who was asked since the last look, and for what."""
    taken = node.replica._taken()
    return [(one.to, one.message.first, one.message.last) for one in taken if isinstance(one.message, FetchDecisions)]


def test_blocks_are_spread_over_peers_and_bounded(cluster: Cluster) -> None:
    node, log = rehearsal_log(cluster)
    log.ask_until(900)
    questions = asked(node)
    assert len(questions) == REHEARSAL_BLOCKS
    assert {peer for peer, _, _ in questions} == {1, 2, 3}
    wanted = [at for _, first, last in questions for at in range(first, last + 1)]
    assert wanted == list(range(10, 10 + REHEARSAL_BLOCK * REHEARSAL_BLOCKS))
    assert not log.wants(9)
    assert log.wants(10)
    assert not log.wants(10 + len(wanted)), "nothing beyond the window is taken"
    log.ask_until(900)
    assert asked(node) == []


def fake(instance: int) -> Decision:
    return Decision(0, 0, instance, b"", b"", Proof(0, 0, instance, DIGEST, ()))


def test_what_does_not_come_is_asked_of_another(cluster: Cluster) -> None:
    node, log = rehearsal_log(cluster)
    log.ask_until(12)
    ((first_asked, _, _),) = asked(node)
    log.put(first_asked, fake(10))
    for _ in range(REHEARSAL_BLOCK_RESENDS):
        log.on_timer()
    ((next_asked, first, last),) = asked(node)
    assert (first, last) == (11, 12)
    assert next_asked != first_asked


def test_nothing_more_is_taken_from_whoever_sent_what_does_not_hold(cluster: Cluster) -> None:
    node, log = rehearsal_log(cluster)
    log.ask_until(12)
    asked(node)
    for instance in (10, 11):
        log.put(1, fake(instance))
    log.refuse()
    assert log.peek() is None
    assert log.wants(11)
    assert all(peer != 1 for peer, _, _ in asked(node))
    log.put(1, fake(10))
    assert log.peek() is None
    log.put(2, fake(10))
    assert log.peek() == (2, fake(10))
    log.take()
    assert log.next == 11
