"""Liars hide their ACCEPTs, or vote for something else towards everybody, and show a proof to whom it delays most.

A valid proof decides wherever it is shown: else those whom the liars sent another ACCEPT could not finish what it says.
"""

from __future__ import annotations

import pytest
from kit.cluster import Cluster, Envelope, Node
from kit.regencies import accept, digest_of, proof, pulse, stop_data, value_of
from kit.requests import TestClient

from smartbft.core.inputs import Timer
from smartbft.messages import Accept, FetchStanding, Message, Proof, Propose, Standing, Write
from smartbft.protocols.vp_consensus import VPConsensus
from smartbft.types import Parameters

FIRST_LEADER = 1
ROUNDS = 12  # of regency changes that a healed cluster gets; it needs one
SIZES = [4, 5, 7, 8]


class HiddenAccepts:
    """Instance 1 is decided by the ACCEPTs of the liars and of just as many others as a proof needs; no correct replica
    knows, but some have accepted the value. From then on the network works.

    Attributes:
        proof: shown by the liars, to whom they like.
    """

    def __init__(self, n: int, equivocates: bool) -> None:
        self.cluster = Cluster(n, Parameters(batch_delay=0))
        view = self.cluster.view
        self.liars = tuple((FIRST_LEADER + number) % n for number in range(view.f))
        self.honest = [node for node in self.cluster.nodes if node.id not in self.liars]
        self.data = TestClient().requests(b"first")
        self.digest = digest_of(self.data)
        accepting = self.honest[: view.quorum - view.f]
        self.late = self.honest[-1]
        self.cluster.submit(self.data)
        self.cluster.drop_all()
        for node in accepting:
            node.receive(FIRST_LEADER, Propose(0, 0, 1, value_of(self.data)))
            for liar in self.liars:
                node.receive(liar, Write(0, 0, 1, self.digest))
        told = {node.id for node in accepting}
        self.cluster.run(lambda envelope: {*envelope[:2]} <= told)
        assert all(node.ordering.current.accepted == (0, self.digest) for node in accepting)
        self.cluster.drop_all()
        if equivocates:
            for node in self.honest:
                self.contradict(node)
        self.proof: Proof = proof(0, 1, self.digest, sorted((*told, *self.liars)))

    def contradict(self, node: Node) -> None:
        for liar in self.liars:
            node.receive(liar, accept(liar, 0, 1, bytes(32)))

    def is_honest(self, envelope: Envelope) -> bool:
        return not {*self.liars} & {*envelope[:2]}

    def regencies_change(self) -> None:
        """Everybody suspects each leader in turn, and the liars show each new one the proof, early."""
        view = self.cluster.view
        for node in self.honest:
            now = max(1, node.replica.regency)
            regency = next(number for number in range(now, now + 2 * view.n) if view.leader(number) == node.id)
            for liar in self.liars:
                node.receive(liar, stop_data(liar, regency, 2, last=self.proof))
        for node in self.honest:
            for _ in range(10):
                node.now += node.ordering.timeout // 8
                node.fire(Timer.REQUEST)
            node.fire(Timer.REGENCY)
        for _ in range(4):
            pulse(self.cluster, self.is_honest, silent=self.liars)


def rounds_until_decided(world: HiddenAccepts) -> int:
    for number in range(ROUNDS):
        world.regencies_change()
        if all(node.replica.decided >= 1 for node in world.honest):
            return number + 1
    return ROUNDS + 1


@pytest.mark.parametrize("equivocates", [False, True], ids=["silent", "contradicting"])
@pytest.mark.parametrize("n", SIZES)
def test_a_proof_that_liars_show_to_new_leaders_stops_nobody(n: int, equivocates: bool) -> None:
    world = HiddenAccepts(n, equivocates)
    assert rounds_until_decided(world) <= world.cluster.view.f + 1
    assert {node.executed[0].data for node in world.honest} == {world.data}


def start_again(world: HiddenAccepts, contradicts: bool) -> Node:
    """The replica that has nothing of the instance restarts, and the liars answer it first."""
    cluster, id = world.cluster, world.late.id
    late = cluster.nodes[id] = Node(id, cluster.view, cluster.parameters, world.late.log)
    world.honest[-1] = late
    late.admit(world.data)
    (asked, *_) = [message for _, _, message in late.outbox if isinstance(message, FetchStanding)]
    if contradicts:
        world.contradict(late)
    for liar in world.liars:
        late.receive(liar, Standing(0, 0, asked.token, world.proof, None, None))
    for _ in range(6):
        pulse(cluster, world.is_honest, silent=world.liars)
    return late


@pytest.mark.parametrize("contradicts", [False, True], ids=["silent", "contradicting"])
@pytest.mark.parametrize("n", SIZES)
def test_a_proof_that_liars_show_keeps_nobody_from_taking_part(n: int, contradicts: bool) -> None:
    late = start_again(HiddenAccepts(n, contradicts), contradicts)
    assert late.replica.status()["takes_part"]


def test_the_proof_that_is_kept_holds_what_was_shown() -> None:
    """It convinces others although one of its signers has voted for something else here."""
    world = HiddenAccepts(4, equivocates=True)
    node = world.honest[0]
    node.ordering.prove(world.proof)
    assert node.replica.decided == 1
    kept = node.replica.last_proof()
    assert kept == world.proof
    world.late.validator.check_proof(kept)


def weigh_as_votes(consensus: VPConsensus, proof: Proof) -> None:
    """The rule as it was: of each signer only the first ACCEPT counts, also where a proof is shown."""
    if proof.instance != consensus.instance or consensus.decided:
        return
    for signer, signature in proof.signatures:
        message: Message = Accept(proof.view, proof.regency, proof.instance, proof.digest, signature)
        consensus.on_accept(signer, message)


@pytest.mark.parametrize("n", SIZES)
def test_planted_bug_a_proof_weighed_as_votes_stops_the_cluster(n: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VPConsensus, "prove", weigh_as_votes)
    assert rounds_until_decided(HiddenAccepts(n, equivocates=True)) > ROUNDS
    assert not start_again(HiddenAccepts(n, equivocates=True), contradicts=True).replica.status()["takes_part"]
