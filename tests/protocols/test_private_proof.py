"""A replica that kept its own ACCEPT to itself alone knows a decision, and shows the proof when it hurts most."""

from __future__ import annotations

import pytest
from kit.cluster import Cluster, Envelope, Node, secret
from kit.requests import CHAIN, NOW, TestClient
from msgspec.structs import replace

from smartbft._fastpath.pool import request_digests
from smartbft.core.inputs import Timer
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.messages import (
    Accept,
    FetchDecisions,
    FetchStanding,
    Proof,
    Propose,
    ProposedValue,
    Standing,
    Stop,
    StopData,
)
from smartbft.messages import stop_data_statement as statement
from smartbft.types import Parameters, Value

LEADER, LIAR = 1, 3


def accept(cluster: Cluster, signer: int, digest: bytes, regency: int = 0) -> tuple[int, bytes]:
    payload = cluster.nodes[0].domains.accept_payload(0, regency, 1, digest)
    return signer, Ed25519Signer(secret(signer)).sign(payload)


class Hidden:
    """Instance 1: everybody has accepted but the liar, who has all ACCEPTs, its own included; the leader dies."""

    def __init__(self, *, without_value: int | None = None) -> None:
        self.cluster = Cluster(parameters=Parameters(batch_delay=0))
        for node in self.cluster.nodes:
            if node.id != without_value:
                node.admit(TestClient().requests(b"a"))

        def passes(envelope: Envelope) -> bool:
            sender, to, message = envelope
            if isinstance(message, Propose) and to == without_value:
                return False
            return not (isinstance(message, Accept) and LIAR in (sender, to)) and not (
                isinstance(message, Accept) and LEADER in (sender, to)
            )

        self.cluster.run(passes)
        self.correct = [self.cluster.nodes[0], self.cluster.nodes[2]]
        assert [node.replica.decided for node in self.correct] == [0, 0]
        known = [record for record in self.cluster.nodes[0].log if record.kind == 2]
        self.digest = b"".join(known[-1].parts)[-32:]
        signatures = tuple(accept(self.cluster, signer, self.digest) for signer in (0, 2, LIAR))
        self.proof = Proof(0, 0, 1, self.digest, signatures)

    def run(self) -> None:
        """Messages between the correct replicas alone."""
        self.cluster.run(lambda envelope: {envelope[0], envelope[1]} <= {0, 2})

    def stop_data(self, regency: int) -> StopData:
        unsigned = StopData(0, regency, LIAR, 2, None, (), self.proof, bytes(64))
        payload = self.cluster.nodes[0].domains.stop_data_payload(statement(unsigned))
        return replace(unsigned, signature=Ed25519Signer(secret(LIAR)).sign(payload))

    def change_regency(self) -> Node:
        """The liar asks for regency 1 like the others, and shows its proof to the new leader."""
        leader = self.cluster.nodes[2]
        for node in self.correct:
            node.ordering.suspect(b"")
        for node in self.correct:
            node.receive(LIAR, Stop(0, 0, 1, b""))
        self.run()
        leader.receive(LIAR, self.stop_data(1))
        self.run()
        return leader


def test_the_new_leader_decides_by_the_proof_alone() -> None:
    hidden = Hidden()
    leader = hidden.change_regency()
    assert leader.replica.decided == 1
    assert leader.replica.status()["waiting_for"] == ""
    assert [node.replica.decided for node in hidden.correct] == [1, 1]
    assert {node.replica.regency for node in hidden.correct} == {1}


def test_a_leader_without_the_value_gets_it_from_those_who_wrote_it() -> None:
    hidden = Hidden(without_value=2)
    leader = hidden.change_regency()
    for _ in range(6):  # it asks one after the other for the requests, the dead leader and the liar too
        for node in hidden.correct:
            node.now += 250_000
            for timer in (Timer.RESEND, Timer.FETCH, Timer.CATCH_UP):
                node.fire(timer)
        hidden.run()
    assert leader.replica.decided == 1
    assert {node.replica.regency for node in hidden.correct} == {1}


def start_anew(hidden: Hidden) -> Node:
    """Replica 0 starts again; the liar shows it the proof."""
    cluster = hidden.cluster
    node = cluster.nodes[0] = Node(0, cluster.view, cluster.parameters, cluster.nodes[0].log)
    hidden.correct[0] = node
    token = next(m.token for _, _, m in node.outbox if isinstance(m, FetchStanding))
    node.receive(LIAR, Standing(0, 0, token, hidden.proof, None, None))
    node.receive(2, Standing(0, 0, token, None, None, None))
    return node


def test_a_start_is_not_held_up_by_a_proof_that_only_one_can_show() -> None:
    node = start_anew(Hidden())
    assert node.replica.decided == 1
    assert node.replica.status()["takes_part"]


def test_nor_is_the_start_of_a_replica_that_lacks_the_value() -> None:
    """Found by the simulator (4759 and 6488 of the attacks on n = 4): it asked nobody for it before it took part."""
    hidden = Hidden(without_value=0)
    node = start_anew(hidden)
    assert node.replica.decided == 0
    for _ in range(6):
        node.now += 250_000
        for timer in (Timer.RESEND, Timer.FETCH):
            node.fire(timer)
        hidden.run()
    assert node.replica.decided == 1
    assert node.replica.status()["takes_part"]


def test_a_leader_is_not_accused_for_what_a_later_regency_decided() -> None:
    """Found by the simulator (12981): the value came before the old leader's proposal, and that was another one."""
    cluster = Cluster(parameters=Parameters(batch_delay=0))
    decided, proposed = (Value(NOW, request_digests(CHAIN, TestClient(n).requests(b"a"))).encode() for n in (1, 2))
    digest = cluster.nodes[0].domains.value_digest(decided)
    proof = Proof(0, 1, 1, digest, tuple(accept(cluster, signer, digest, 1) for signer in (0, 2, LIAR)))
    node = cluster.nodes[0] = Node(0, cluster.view, cluster.parameters, cluster.nodes[0].log)
    token = next(m.token for _, _, m in node.outbox if isinstance(m, FetchStanding))
    for other, known in ((LIAR, proof), (2, None)):
        node.receive(other, Standing(0, 1, token, known, None, None))
    node.receive(2, ProposedValue(0, 1, 1, decided))
    node.receive(LEADER, Propose(0, 0, 1, proposed))
    assert not node.penalties()


def test_without_the_proof_it_would_wait_for_the_liar(monkeypatch: pytest.MonkeyPatch) -> None:
    """The planted bug: proofs that come with STOPDATA are only believed."""
    from smartbft.protocols.mod_smart import ModSmart

    monkeypatch.setattr(ModSmart, "prove", lambda self, proof: None)
    hidden = Hidden()
    leader = hidden.change_regency()
    leader.fire(Timer.CATCH_UP)
    assert leader.replica.decided == 0
    assert {to for _, to, m in leader.outbox if isinstance(m, FetchDecisions)} == {LIAR}
