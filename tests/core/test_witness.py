"""Contradictions are found whatever way the statements come, with bounded memory, and never between honest ones."""

from __future__ import annotations

import itertools
import random

import pytest
from kit.cluster import Cluster, Node
from kit.requests import CHAIN, NOW, TestClient
from kit.statements import DIGESTS, DOMAINS, VALUES, VIEW, V, W, accept, proof, stop_data, sync, unbound

from smartbft.core.effects import ReportEvidence
from smartbft.core.evidence import Offence, Statement, contradiction, make_evidence, verify
from smartbft.core.inputs import Timer
from smartbft.core.witness import Witness
from smartbft.limits import (
    WITNESSED_ACCEPTS_PER_MEMBER,
    WITNESSED_DECISIONS,
    WITNESSED_OFFENCES_PER_MEMBER,
    WITNESSED_STOP_DATA_PER_MEMBER,
    WITNESSED_SYNCS,
)
from smartbft.messages import Accept, Decision, Message, StopData, Sync
from smartbft.types import Parameters

Reports = list[tuple[int, Statement, Statement]]


def watch(*seen: tuple[int, Message], decided: int = 0) -> Reports:
    """What a witness reports that sees these messages of these senders."""
    reports: Reports = []
    witness = Witness(VIEW, lambda *report: reports.append(report))
    for number in range(1, decided + 1):
        witness.decided(proof(number))
    for sender, message in seen:
        witness.saw(sender, message, decided)
    return reports


def offences(reports: Reports) -> list[tuple[int, Offence]]:
    for accused, first, second in reports:
        assert verify(make_evidence(CHAIN, accused, first, second), VIEW, DOMAINS).holds
    return [(accused, offence) for accused, first, second in reports if (offence := contradiction(first, second))]


def decision(**changes: object) -> Decision:
    return Decision(0, 0, 1, VALUES[1], b"", proof(digest=W, **changes))  # type: ignore[arg-type]


WAYS: dict[str, tuple[tuple[tuple[int, Message], ...], int, list[tuple[int, Offence]]]] = {
    "two ACCEPTs": (((3, accept(3)), (3, accept(3, digest=W))), 0, [(3, Offence.TWO_ACCEPTS)]),
    "an ACCEPT against our own decision": (((2, accept(2, digest=W)),), 1, [(2, Offence.TWO_ACCEPTS)]),
    "a decision against ACCEPTs": (
        ((3, accept(3)), (2, accept(2)), (1, decision(signers=(1, 2, 3)))),
        0,
        [(2, Offence.TWO_ACCEPTS), (3, Offence.TWO_ACCEPTS)],
    ),
    "a decision against our own decision: f + 1 are named": (
        ((1, decision(signers=(1, 2, 3))),),
        1,
        [(1, Offence.TWO_ACCEPTS), (2, Offence.TWO_ACCEPTS)],
    ),
    "two STOPDATA to the leader": (
        ((3, stop_data(3)), (3, stop_data(3, accepted=(0, V)))),
        0,
        [(3, Offence.TWO_STOP_DATA)],
    ),
    "another STOPDATA in the SYNC": (
        ((2, stop_data(2, accepted=(0, V))), (2, sync(unbound()))),
        0,
        [(2, Offence.TWO_STOP_DATA)],
    ),
    "two SYNCs, passed on by others": (
        ((0, sync(unbound())), (1, sync(unbound(), VALUES[0]))),
        0,
        [(2, Offence.TWO_SYNCS)],
    ),
    "a lock left out, at the new leader": (((3, accept(3)), (3, stop_data(3))), 0, [(3, Offence.FORGOTTEN_LOCK)]),
    "a lock left out, the ACCEPT comes later": (
        ((3, stop_data(3)), (3, accept(3))),
        0,
        [(3, Offence.FORGOTTEN_LOCK)],
    ),
    "a lock left out, at a receiver of the SYNC": (
        ((1, accept(1)), (2, sync(unbound()))),
        0,
        [(1, Offence.FORGOTTEN_LOCK)],
    ),
    "decided here, and the SYNC goes another way: f + 1 are named": (
        ((2, sync(unbound(), VALUES[1])),),
        1,
        [(0, Offence.FORGOTTEN_LOCK), (1, Offence.FORGOTTEN_LOCK), (2, Offence.FORGOTTEN_LOCK)],
    ),
    "decided here, and one who decided it says it is not so far": (
        ((1, stop_data(1, instance=2)),),
        3,
        [(1, Offence.FORGOTTEN_LOCK), (1, Offence.FORGOTTEN_DECISION)],
    ),
    "a proof in a STOPDATA against our own decision": (
        ((3, stop_data(3, instance=2, last=proof(1, (0, 1, 3), digest=W))),),
        1,
        [(0, Offence.TWO_ACCEPTS), (1, Offence.TWO_ACCEPTS)],
    ),
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_a_contradiction_can_come(way: str) -> None:
    seen, decided, expected = WAYS[way]
    assert sorted(offences(watch(*seen, decided=decided)), key=str) == sorted(expected, key=str)


def test_repetition_is_reported_once_and_one_member_a_few_times_at_most() -> None:
    twice = [(3, accept(3)), (3, accept(3, digest=W))] * 5
    assert len(watch(*twice)) == 1
    many = [(3, accept(3, regency, 1, digest)) for regency in range(20) for digest in (V, W)]
    assert len(watch(*many)) == WITNESSED_OFFENCES_PER_MEMBER
    assert len(watch(*many, (1, accept(1)), (1, accept(1, digest=W)))) == WITNESSED_OFFENCES_PER_MEMBER + 1


def test_statements_under_different_keys_do_not_contradict_each_other() -> None:
    """A promise under the new key about an instance of the old one: a lie, but no file of evidence can show it."""
    conceals_a_decision = stop_data(3, instance=1)
    seen = (3, accept(3, instance=2)), (3, conceals_a_decision)
    assert offences(watch(*seen)) == [(3, Offence.FORGOTTEN_DECISION)]
    reports: Reports = []
    keys = {Accept: b"old", StopData: b"new"}
    witness = Witness(VIEW, lambda *report: reports.append(report), lambda _, statement: keys[type(statement)])
    for sender, message in (*seen, (3, stop_data(3, accepted=(0, V), instance=1))):
        witness.saw(sender, message, 0)
    assert offences(reports) == [(3, Offence.TWO_STOP_DATA)]
    forgotten = Witness(VIEW, lambda *report: reports.append(report), lambda *_: None)
    for sender, message in seen:
        forgotten.saw(sender, message, 0)
    assert len(reports) == 1, "nobody can say any more under which key it was signed"


def flood(witness: Witness) -> None:
    """Everything that member 3 can sign, and more of it than anybody remembers."""
    for number in range(200):
        witness.saw(3, accept(3, number, 1 + number % 8, DIGESTS[number % 3]), 0)
        witness.saw(3, stop_data(3, number + 1), 0)
        witness.saw(3, sync((stop_data(3, 4 * number + 2),), regency=4 * number + 2), 0)


def remembered(witness: Witness) -> int:
    return (
        sum(len(share) for share in (*witness._accepts.values(), *witness._stop_data.values()))
        + len(witness._syncs)
        + len(witness._proofs)
    )


def test_memory_is_bounded_and_a_flood_pushes_out_only_its_senders_statements() -> None:
    reports: Reports = []
    witness = Witness(VIEW, lambda *report: reports.append(report))
    witness.saw(1, accept(1), 0)
    flood(witness)
    bound = WITNESSED_ACCEPTS_PER_MEMBER + WITNESSED_STOP_DATA_PER_MEMBER + WITNESSED_SYNCS + WITNESSED_DECISIONS
    assert remembered(witness) <= bound + 1
    for number in range(1, 2 * WITNESSED_DECISIONS):
        witness.decided(proof(number))
    assert len(witness._proofs) == WITNESSED_DECISIONS
    reports.clear()
    witness.saw(1, accept(1, digest=W), 0)
    assert offences(reports) == [(1, Offence.TWO_ACCEPTS)]


def test_votes_for_the_far_future_and_past_are_not_kept() -> None:
    reports: Reports = []
    witness = Witness(VIEW, lambda *report: reports.append(report))
    for instance in (1, 200 - WITNESSED_DECISIONS, 10**9, 2**62):
        witness.saw(3, accept(3, 0, instance), 200)
    assert remembered(witness) == 0


def test_planted_bug_one_memory_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without shares of their own, a flood of one member hides the contradiction of another."""
    reports: Reports = []
    witness = Witness(VIEW, lambda *report: reports.append(report))
    shared: dict[tuple[int, int], Accept] = {}
    witness._accepts = {member: shared for member in VIEW.ids}  # noqa: C420 - shared on purpose
    witness.saw(1, accept(1), 0)
    flood(witness)
    reports.clear()
    witness.saw(1, accept(1, digest=W), 0)
    assert not reports


# --- honest clusters: whatever is lost, late or restarted, nobody can be accused ---


class Recorder(Cluster):
    """A cluster whose nodes restart, and all that its members have signed."""

    def __init__(self) -> None:
        super().__init__(parameters=Parameters(batch_delay=0))
        self.signed: dict[int, dict[Statement, None]] = {id: {} for id in self.view.ids}
        self.reports: list[ReportEvidence] = []
        self.clock = NOW
        self.draw = random.Random()

    def note(self, sender: int, message: Message) -> None:
        if isinstance(message, (Accept, StopData)):
            self.signed[sender][message] = None
        elif isinstance(message, Sync):
            self.signed[self.view.leader(message.regency)][message] = None
            for promise in message.stop_data:
                self.signed[promise.signer][promise] = None

    def gather(self, node: Node) -> None:
        self.reports += [effect for effect in node.effects if isinstance(effect, ReportEvidence)]
        node.effects = [effect for effect in node.effects if not isinstance(effect, ReportEvidence)]

    def event(self, client: TestClient) -> None:
        draw, node = self.draw, self.draw.choice(self.nodes)
        choice = draw.random()
        if choice < 0.04:
            self.submit(client.requests(b"operation"))
        elif choice < 0.06:
            self.gather(node)
            self.restart(node.id).now = self.clock
        elif choice < 0.12:
            self.clock += draw.choice([10_000, 300_000, 1_000_000])
            for each in self.nodes:
                each.now = self.clock
                for timer in (Timer.REQUEST, Timer.RESEND):
                    each.fire(timer)
        elif choice < 0.14:
            node.fire(draw.choice([Timer.REGENCY, Timer.VALUE, Timer.CATCH_UP, Timer.FETCH]))
        elif node.outbox:
            sender, to, message = node.outbox.pop(draw.randrange(min(4, len(node.outbox))))
            self.note(sender, message)
            if draw.random() < 0.9:
                self.nodes[to].receive(sender, message)


def live(seed: int, events: int = 1500) -> Recorder:
    cluster = Recorder()
    cluster.draw = random.Random(seed)
    client = TestClient()
    for _ in range(events):
        cluster.event(client)
    for node in cluster.nodes:
        cluster.gather(node)
    return cluster


def accused(cluster: Recorder) -> int:
    """Members that anybody who heard everything could accuse, and those that a replica did accuse."""
    pairs = sum(
        any(contradiction(one, other) for one, other in itertools.combinations(signed, 2))
        for signed in cluster.signed.values()
    )
    return pairs + len(cluster.reports)


def test_honest_histories_with_restarts_and_regency_changes_accuse_nobody() -> None:
    regencies = decided = 0
    for seed in range(40):
        cluster = live(seed)
        assert accused(cluster) == 0, seed
        regencies += max(node.replica.regency for node in cluster.nodes)
        decided += max(node.replica.decided for node in cluster.nodes)
    assert regencies >= 40
    assert decided >= 40


def test_planted_bug_a_replica_that_forgets_its_lock_is_accused(monkeypatch: pytest.MonkeyPatch) -> None:
    """ACCEPT records get lost: what a restarted replica signs contradicts what it said before."""
    recovered = Node.recovered

    def forgetful(self):  # type: ignore[no-untyped-def]
        state = recovered(self)
        state.votes.accepts.clear()
        return state

    monkeypatch.setattr(Node, "recovered", forgetful)
    assert sum(accused(live(seed)) for seed in range(24)) > 0
