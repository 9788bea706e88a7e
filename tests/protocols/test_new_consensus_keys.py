"""A replica that has lost its votes has a new consensus key ordered and votes again (protocols.md section 3)."""

from __future__ import annotations

import pytest
from kit.cluster import Cluster, Node, secret
from kit.regencies import (
    DOMAINS,
    accept,
    pulse,
    refused,
    second_timeout,
    sent,
    stop_data,
    sync,
    value_of,
    wait,
    without,
)
from kit.requests import NOW, TestClient
from msgspec.structs import replace

from smartbft.core import taking_part
from smartbft.core.catch_up import CatchUp
from smartbft.core.effects import Execute, ReportEvidence
from smartbft.core.inputs import Timer
from smartbft.core.member_keys import MemberKeys
from smartbft.core.records import REGENCY
from smartbft.core.validation import Validator
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import InvalidSignature, UnknownKey
from smartbft.messages import (
    Accept,
    Decision,
    FetchDecisions,
    KeyAnnouncement,
    Message,
    Progress,
    Propose,
    Standing,
    StopData,
    Write,
    stop_data_statement,
)
from smartbft.smr.application import ExecutionContext, execute_decided
from smartbft.types import KeyStatement, Parameters, Value

LOST = 0  # the replica that loses its votes
NEXT_LEADER = 2  # of regency 1; replica 1 leads regency 0


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(parameters=Parameters(batch_delay=0))
    cluster.submit(TestClient().requests(b"first"))
    cluster.run()
    return cluster


def statement(member: int, replaces: bytes, signer: Ed25519Signer, permanent: int | None = None) -> KeyStatement:
    domains = Cluster(1).nodes[0].domains
    content = (member, replaces, signer.public_key)
    possession = signer.sign(domains.possession_payload(0, *content))
    by = Ed25519Signer(secret(member if permanent is None else permanent))
    return KeyStatement(*content, possession, by.sign(domains.key_payload(0, *content)))


def came_back(cluster: Cluster) -> Node:
    """The replica is wiped, catches up, and has a new key in force."""
    node = cluster.wipe(LOST)
    pulse(cluster)
    node.make_key()
    pulse(cluster)
    assert not node.replica.learns
    return node


def test_a_wiped_replica_votes_again(cluster: Cluster) -> None:
    node = cluster.wipe(LOST)
    assert node.replica.learns == taking_part.LOST_VOTES
    pulse(cluster)
    pulse(cluster)
    assert node.replica.decided == 1
    assert "new consensus key" in node.replica.status()["waiting_for"]
    node.make_key()
    assert "being ordered" in node.replica.status()["waiting_for"]
    pulse(cluster)
    assert [other.replica.decided for other in cluster.nodes] == [2] * 4
    assert not node.replica.learns
    assert not node.replica.guard.suspended
    assert node.on_record
    cluster.submit(TestClient(2).requests(b"second"))
    cluster.run(without(3))
    assert node.replica.decided == 3, "its vote is needed, and counts"
    proof = node.replica.last_proof()
    assert proof is not None
    assert [signer for signer, _ in proof.signatures] == [0, 1, 2]
    for other in cluster.nodes[:3]:
        other.validator.check_proof(proof)


def test_an_instance_without_requests_does_not_reach_the_application(cluster: Cluster) -> None:
    came_back(cluster)
    executed = [effect for effect in cluster.nodes[1].effects if isinstance(effect, Execute)]
    assert executed[-1].data == b""
    assert cluster.nodes[1].replica.executed == 2

    class Untouched:
        def execute_batch(self, data: bytes, context: ExecutionContext) -> bytes:
            raise AssertionError

    assert execute_decided(Untouched(), b"", ExecutionContext(2, NOW, bytes(32))) == b""  # type: ignore[arg-type]


def test_no_vote_below_the_first_instance_of_the_key(cluster: Cluster) -> None:
    node = came_back(cluster)
    said = [m for sender, _, m in cluster.delivered if sender == LOST and isinstance(m, (Propose, Write, Accept))]
    assert all(message.instance == 1 for message in said), "those of its first life"
    assert not node.replica.guard.approve_write(2, 0, bytes(32))
    assert node.replica.guard.approve_write(3, 0, bytes(32))


def test_it_starts_with_its_log_again(cluster: Cluster) -> None:
    came_back(cluster)
    node = cluster.restart(LOST)
    assert not node.replica.learns
    assert node.replica.signer.public_key == node.signers[-1].public_key
    cluster.submit(TestClient(2).requests(b"second"))
    cluster.run(without(3))
    assert node.replica.decided == 3


def test_without_the_secret_of_its_key_it_learns(cluster: Cluster) -> None:
    came_back(cluster).signers.clear()
    node = cluster.restart(LOST)
    assert node.replica.learns == taking_part.NO_KEY
    assert node.wants_key


def test_a_second_loss_needs_a_second_key(cluster: Cluster) -> None:
    came_back(cluster)
    node = cluster.wipe(LOST)
    pulse(cluster)
    pulse(cluster)
    node.make_key(1)
    rest(cluster)
    assert not node.replica.learns
    assert node.replica.keys.latest(LOST) == node.signers[-1].public_key


def rest(cluster: Cluster) -> None:
    """Time enough that keys which were replaced may be replaced again."""
    pulse(cluster)
    for node in cluster.nodes:
        node.now += cluster.parameters.request_timeout
        node.fire(Timer.KEYS)
    pulse(cluster)


def test_keys_are_not_replaced_without_end(cluster: Cluster) -> None:
    """Found by the simulator (511, 639 and 889 of the twins): two copies replaced each other's keys in every instance,
    and instances followed each other although nobody asked for anything.
    """
    before = cluster.leader.replica.decided
    made = [Ed25519Signer(bytes([number]) * 32) for number in range(1, 5)]
    keys = [cluster.view.members[LOST].consensus_key, *(signer.public_key for signer in made)]
    for replaced, signer in zip(keys, made, strict=False):
        for node in cluster.nodes:
            node.receive(3, KeyAnnouncement(0, 0, statement(LOST, replaced, signer).encode()))
        cluster.run()
    assert cluster.leader.replica.decided == before + 1
    assert not cluster.leader.replica.key_changes.suspects
    for node in cluster.nodes:
        node.receive(3, KeyAnnouncement(0, 0, statement(LOST, keys[1], made[1]).encode()))
    rest(cluster)
    assert cluster.leader.replica.decided == before + 2
    assert cluster.leader.replica.keys.latest(LOST) == keys[2]


def test_a_voter_whose_key_is_replaced_by_another_life_learns(cluster: Cluster) -> None:
    """It may have been restored from a copy: the votes of the key that is in force now are not its own."""
    other = statement(LOST, cluster.view.members[LOST].consensus_key, Ed25519Signer(b"other" * 6 + b"ab"))
    cluster.leader.receive(3, KeyAnnouncement(0, 0, other.encode()))
    cluster.run()
    assert cluster.nodes[LOST].replica.learns == taking_part.REPLACED_KEY
    assert cluster.nodes[LOST].wants_key
    cluster.nodes[LOST].make_key()
    rest(cluster)
    assert not cluster.nodes[LOST].replica.learns


def test_a_sync_whose_own_proof_changes_the_keys_is_not_taken_up(cluster: Cluster) -> None:
    """Found by the simulator (2245, 9274, 13162 and 13308 of the twins): its statements were checked with the keys
    before the decision that it proves, and that decision replaced the key of one of them.
    """
    behind = cluster.nodes[3]
    first = behind.replica.last_proof()
    other = statement(LOST, cluster.view.members[LOST].consensus_key, Ed25519Signer(b"other" * 6 + b"ab"))
    cluster.leader.receive(3, KeyAnnouncement(0, 0, other.encode()))
    cluster.run(lambda envelope: envelope[1] != behind.id or isinstance(envelope[2], (Propose, Write)))
    proof = cluster.leader.replica.last_proof()
    assert (behind.replica.decided, cluster.leader.replica.decided) == (1, 2)
    old = stop_data(LOST, 1, 2, last=first)
    behind.receive(NEXT_LEADER, sync(NEXT_LEADER, [old, *(stop_data(id, 1, 3, last=proof) for id in (1, NEXT_LEADER))]))
    assert behind.replica.regency == 1
    assert behind.replica.decided == 2
    assert not behind.replica.guard.synchronized


def test_the_marker_goes_when_decision_and_promise_are_on_disk(cluster: Cluster) -> None:
    for node in cluster.nodes:
        node.ordering.suspect(b"")
    cluster.run()
    node = cluster.wipe(LOST)
    for _ in range(3):
        pulse(cluster)
    assert node.replica.regency == 1
    assert node.replica.decided == 1
    node.make_key()
    node.disk_blocked = True
    pulse(cluster)
    assert not node.replica.learns
    assert not node.on_record
    said = [m for s, _, m in cluster.delivered if s == LOST and isinstance(m, (Write, Accept)) and m.instance > 1]
    assert not said
    node.disk_blocked = False
    node.complete_disk()
    assert node.on_record
    kinds = [record.kind for record in node.log if record.instance == 3]
    assert kinds[0] == REGENCY, "the promise stands before any vote"
    assert cluster.restart(LOST).replica.regency == 1


def test_a_leader_that_censors_the_statement_is_replaced(cluster: Cluster) -> None:
    cluster.leader.replica.statements = lambda: ()  # type: ignore[method-assign]
    node = cluster.wipe(LOST)
    pulse(cluster)
    node.make_key()
    cluster.run()
    voters = [other for other in cluster.nodes if other is not node]
    for other in voters:
        second_timeout(other)
    cluster.run()
    pulse(cluster)
    assert [other.replica.regency for other in voters] == [1, 1, 1]
    assert not node.replica.learns


def test_a_leader_that_was_not_told_is_told_by_the_others(cluster: Cluster) -> None:
    new = statement(3, cluster.view.members[3].consensus_key, Ed25519Signer(b"k" * 32))
    cluster.nodes[2].receive(3, KeyAnnouncement(0, 0, new.encode()))
    other = cluster.nodes[2]
    wait(other, 0)
    wait(other, other.ordering.timeout // 2)
    assert sent(other, KeyAnnouncement)
    cluster.run()
    assert {node.replica.decided for node in cluster.nodes} == {2}
    assert not other.replica.suspects()


def proposal(*statements: KeyStatement) -> Propose:
    return Propose(0, 0, 2, Value(NOW + 1, b"", statements).encode())


def test_a_proposal_whose_statement_replaces_no_key_in_force_is_refused(cluster: Cluster) -> None:
    follower = cluster.nodes[3]
    follower.receive(1, proposal(statement(1, bytes(32), Ed25519Signer(b"k" * 32))))
    assert not sent(follower, Write)
    assert [penalty.peer for penalty in follower.penalties()] == [1]


def test_a_statement_is_ordered_once(cluster: Cluster) -> None:
    genesis = cluster.view.members[LOST].consensus_key
    new = statement(LOST, genesis, Ed25519Signer(b"k" * 32))
    for node in cluster.nodes:
        node.receive(3, KeyAnnouncement(0, 0, new.encode()))
    cluster.run()
    assert cluster.nodes[1].replica.decided == 2
    for node in cluster.nodes:
        node.receive(3, KeyAnnouncement(0, 0, new.encode()))
        assert not node.replica.statements()
    follower = cluster.nodes[3]
    follower.receive(1, Propose(0, 0, 3, Value(NOW + 9, b"", (new,)).encode()))
    assert follower.penalties()


def test_forged_statements_do_not_pass(cluster: Cluster) -> None:
    genesis, new = cluster.view.members[1].consensus_key, Ed25519Signer(b"k" * 32)
    good = statement(1, genesis, new)
    forged = {
        "by another": statement(1, genesis, new, permanent=2),
        "of nobody": statement(7, genesis, new, permanent=1),
        "for a key of somebody else": KeyStatement(
            1, genesis, good.key, Ed25519Signer(b"x" * 32).sign(b"mine"), good.signature
        ),
        "of small order": KeyStatement(1, genesis, bytes(32), good.possession, good.signature),
    }
    follower = cluster.nodes[3]
    assert not refused(follower, 2, KeyAnnouncement(0, 0, good.encode()))
    for what, bad in forged.items():
        assert refused(follower, 2, KeyAnnouncement(0, 0, bad.encode())), what
        assert refused(follower, 1, proposal(bad)), what


def test_two_replicas_get_their_keys_in_one_instance(cluster: Cluster) -> None:
    new = [statement(id, cluster.view.members[id].consensus_key, Ed25519Signer(bytes([id]) * 32)) for id in (0, 3)]
    leader = cluster.leader
    cluster.submit(TestClient(5).requests(b"occupies the instance"))
    for one in new:
        leader.receive(2, KeyAnnouncement(0, 0, one.encode()))
    cluster.run()
    assert leader.replica.decided == 3
    assert [leader.replica.keys.entry_at(id, 4).first for id in (0, 3)] == [4, 4]  # type: ignore[union-attr]


def test_an_accept_with_a_key_that_is_not_in_force_costs_its_sender_the_channel(cluster: Cluster) -> None:
    came_back(cluster)
    other = cluster.nodes[3]
    assert not refused(other, LOST, accept(LOST, 0, 2, bytes(32))), "the old key counts in instance 2"
    with pytest.raises(InvalidSignature) as caught:
        other.receive(LOST, accept(LOST, 0, 3, bytes(32)))
    assert not isinstance(caught.value, UnknownKey)
    with pytest.raises(UnknownKey):
        other.receive(LOST, accept(LOST, 0, 4, bytes(32)))


# A promise that was forgotten: STOPDATA that the replica signed before the loss, still in the hands of a new leader.


def decided_in_regency_0(cluster: Cluster) -> tuple[bytes, bytes]:
    """Replica 0 has come back, and instance 3 is decided at replica 3 in regency 0, by its vote and those of 1 and 3;
    replica 1 is a liar from now on. Returns that value's digest, and another value.
    """
    came_back(cluster)
    cluster.submit(TestClient(2).requests(b"second"), to=[0, 1, 3])
    cluster.run(lambda e: NEXT_LEADER not in e[:2] and not (e[1] == LOST and isinstance(e[2], Accept)))
    assert cluster.nodes[3].replica.decided == 3
    assert cluster.nodes[LOST].replica.decided == 2
    data = TestClient(3).requests(b"another")
    cluster.submit(data, to=[0])
    return cluster.nodes[3].executed[-1].seed, value_of(data, NOW + 1_000_000)


def old_promise_counts(cluster: Cluster, instance: int) -> bool:
    """Whether replica 0 takes up a SYNC of regency 1 with its own STOPDATA of before the loss, and then decides another
    value in instance 3 than replica 3 did. `instance`: the one that the STOPDATA of the others are for.
    """
    _, value = decided_in_regency_0(cluster)
    node = cluster.nodes[LOST]
    decided = cluster.nodes[1].recovered().decisions
    proof = decided[instance - 2].proof if instance > 1 else None
    forgotten = stop_data(LOST, 1, 1)
    others = [stop_data(id, 1, instance, last=proof) for id in (1, NEXT_LEADER)]
    wanted = value if instance == 3 else b""
    message: Message = sync(NEXT_LEADER, [forgotten, *others], wanted)
    try:
        node.receive(NEXT_LEADER, message)
    except UnknownKey:
        return False
    if not node.replica.guard.synchronized or node.replica.regency != 1:
        return False
    if not wanted:
        node.receive(NEXT_LEADER, Propose(0, 1, 3, value))
    digest = node.domains.value_digest(value)
    for id in (1, NEXT_LEADER):
        node.receive(id, Write(0, 1, 3, digest))
        node.receive(id, accept(id, 1, 3, digest))
    return node.replica.decided == 3 and node.executed[-1].data != cluster.nodes[3].executed[-1].data


@pytest.mark.parametrize("instance", [1, 2, 3])
def test_a_forgotten_promise_does_not_count(cluster: Cluster, instance: int) -> None:
    assert not old_promise_counts(cluster, instance)


def test_planted_bug_promises_with_the_first_keys(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The keys of the genesis for ever: the lost promise counts, and two values are decided in one instance."""
    genesis = {member.id: member.consensus_key for member in cluster.view.members}
    check = Validator._check_promise

    def with_first_keys(self: Validator, signer: int, *rest: object) -> None:
        latest = MemberKeys.latest
        monkeypatch.setattr(MemberKeys, "latest", lambda keys, member: genesis.get(member))
        try:
            check(self, signer, *rest)  # type: ignore[arg-type]
        finally:
            monkeypatch.setattr(MemberKeys, "latest", latest)

    monkeypatch.setattr(Validator, "_check_promise", with_first_keys)
    assert old_promise_counts(cluster, 3)


@pytest.mark.parametrize("instance", [1, 2, 3])
def test_planted_bug_promises_with_the_keys_of_their_own_instance(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, instance: int
) -> None:
    """Nor is it enough to take the keys in force where the promise was made."""

    def with_keys_of_the_time(
        self: Validator, signer: int, instance: int, signature: bytes, payload: bytes, who: str
    ) -> None:
        key = self._keys.key_at(signer, instance) or b""
        if not self._verifier.verify(key, signature, payload):
            raise InvalidSignature(who)

    monkeypatch.setattr(Validator, "_check_promise", with_keys_of_the_time)
    assert old_promise_counts(cluster, instance)


def test_statements_of_its_earlier_life_are_no_evidence(cluster: Cluster) -> None:
    """It may vote in regency 0, though it promised regency 1 before it lost its votes: with another key."""
    watching = cluster.nodes[3]
    watching.replica._witness.saw(LOST, stop_data(LOST, 1, 2, last=watching.replica.last_proof()), 1)  # type: ignore[attr-defined]
    came_back(cluster)
    cluster.submit(TestClient(2).requests(b"second"))
    cluster.run()
    assert watching.replica.decided == 3
    assert not [
        effect for node in cluster.nodes for effect in node.effects if type(effect).__name__ == "ReportEvidence"
    ]


def test_a_promise_with_the_new_key_that_conceals_a_decision_of_the_old_one_is_no_evidence(cluster: Cluster) -> None:
    """It is a lie; but the file would have to show two keys, and a member may lose what it said with the first."""
    node = came_back(cluster)
    assert node.replica.last_proof() is not None
    unsigned = stop_data(LOST, 1, 1)
    payload = node.domains.stop_data_payload(stop_data_statement(unsigned))
    lie = replace(unsigned, signature=node.signers[-1].sign(payload))
    for other in cluster.nodes[1:]:
        other.receive(LOST, lie)
        assert not [effect for effect in other.effects if isinstance(effect, ReportEvidence)]


def test_a_learner_writes_no_promise_again_that_it_has_not_made(cluster: Cluster) -> None:
    """Found by the simulator (keys, seed 34): the SYNC of a regency that it followed came after its old promise, and
    with that log it could not start any more.
    """
    for node in cluster.nodes:
        node.ordering.suspect(b"")
    pulse(cluster)
    node = cluster.nodes[LOST]
    other = statement(LOST, cluster.view.members[LOST].consensus_key, Ed25519Signer(b"other" * 6 + b"ab"))
    cluster.leader.receive(3, KeyAnnouncement(0, 1, other.encode()))
    cluster.run()
    assert node.replica.learns == taking_part.REPLACED_KEY
    pulse(cluster)  # its promise of regency 1 is void, so the others have asked for the next one
    assert (node.replica.regency, node.replica.guard.synchronized) == (2, True)
    node.log.extend(node.ordering.standing_records())
    state = node.recovered()
    assert state.stop_data is not None
    assert state.stop_data.regency == 1


def test_who_passes_on_a_sync_is_not_blamed_for_a_key_to_come(cluster: Cluster) -> None:
    """Found by the simulator (keys, seven replicas, seed 204): a liar's STOPDATA claims that nothing is decided, and
    is signed with its new key, of which a replica that is behind knows nothing.
    """
    came_back(cluster)
    unsigned = stop_data(LOST, 1, 1)
    signer = cluster.nodes[LOST].signers[-1]
    lie = replace(unsigned, signature=signer.sign(DOMAINS.stop_data_payload(stop_data_statement(unsigned))))
    proof = cluster.nodes[1].replica.last_proof()
    message = sync(NEXT_LEADER, [lie, *(stop_data(id, 1, 3, last=proof) for id in (1, NEXT_LEADER))])
    assert not refused(cluster.nodes[3], NEXT_LEADER, message)
    behind = cluster.wipe(3)
    with pytest.raises(UnknownKey):
        behind.receive(NEXT_LEADER, message)


def test_after_a_regency_change_with_the_new_key(cluster: Cluster) -> None:
    came_back(cluster)
    for node in cluster.nodes:
        node.ordering.suspect(b"")
    pulse(cluster)
    assert {node.replica.regency for node in cluster.nodes} == {1}
    promises = [m for s, _, m in cluster.delivered if s == LOST and isinstance(m, StopData)]
    assert promises
    assert promises[-1].instance == 3
    cluster.submit(TestClient(2).requests(b"second"))
    cluster.run(without(1))
    assert [cluster.nodes[id].replica.decided for id in (0, 2, 3)] == [3, 3, 3]


def test_a_standing_with_a_vote_of_another_key_accuses_nobody(cluster: Cluster) -> None:
    came_back(cluster)
    node = cluster.nodes[LOST] = Node(LOST, cluster.view, cluster.parameters, cluster.nodes[LOST].log)
    node.signers = []
    proof = cluster.nodes[1].replica.last_proof()
    node.receive(1, Standing(0, 0, 1, proof, None, accept(LOST, 0, 2, bytes(32))))
    assert not node.penalties()


def test_a_key_change_voids_what_was_checked_with_the_old_key(cluster: Cluster) -> None:
    """An ACCEPT that came early, with a key that is not in force any more when its instance begins, is forgotten."""
    late = cluster.nodes[3]
    came_early = accept(LOST, 0, 3, bytes(32))
    late.receive(LOST, came_early)
    assert len(late.ordering._early) == 1
    came_back(cluster)
    assert late.replica.decided == 2
    assert not late.ordering._early
    assert Timer.RESEND in late.timers()


def questions(node: Node) -> list[tuple[int, int]]:
    asked = [message for _, _, message in node.outbox if isinstance(message, FetchDecisions)]
    node.outbox.clear()
    return [(question.first, question.last) for question in asked]


def catches_up_over_a_key_change(cluster: Cluster) -> Node:
    """It is asked for decisions 2 to 4, of which 2 changes a key and comes last."""
    records = list(cluster.nodes[3].log)
    came_back(cluster)
    client = TestClient(2)
    for operation in (b"second", b"third"):
        cluster.submit(client.requests(operation))
        cluster.run(without(LOST))
    assert cluster.nodes[1].replica.decided == 4
    cluster.drop_all()
    late = cluster.nodes[3] = Node(3, cluster.view, cluster.parameters, records)
    late.receive(1, Progress(0, 0, 4))
    late.fire(Timer.CATCH_UP)
    assert questions(late) == [(2, 4)]
    for known in reversed(cluster.nodes[1].recovered().decisions[1:]):
        late.receive(1, Decision(0, 0, known.instance, known.value, known.data, known.proof))
    assert late.replica.decided == 2
    return late


def test_what_a_key_change_voids_is_asked_for_again_at_once(cluster: Cluster) -> None:
    assert questions(catches_up_over_a_key_change(cluster)) == [(3, 4)]


def test_planted_bug_a_key_change_costs_whoever_catches_up_a_wait(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CatchUp, "on_keys_changed", lambda catch_up: catch_up._fetched.clear())
    assert questions(catches_up_over_a_key_change(cluster)) == []
