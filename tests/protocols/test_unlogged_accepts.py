"""Our own ACCEPT inside a decision's proof leaves no earlier than by itself: when it is on our disk.

A replica counts its own ACCEPT as soon as it has made it, so it may decide before the disk has it, and the proof of
that decision holds the signature. Nobody is shown it before the decision is durable: neither who starts (STANDING) nor
who catches up from the log, whose reader reads what is written and not synced yet.

Replica 0 lies; nobody else is faulty: 1 crashes once and keeps all that its log had released.
"""

from __future__ import annotations

import pytest
from kit.cluster import Cluster, Node
from kit.regencies import accept, pulse, sent, sent_to, stop_data, without
from kit.requests import TestClient

from smartbft.core.effects import ReportEvidence
from smartbft.core.evidence import make_evidence, verify
from smartbft.core.inputs import Timer
from smartbft.messages import Accept, Decision, FetchDecisions, FetchStanding, Proof, Propose, Standing, Stop, Write
from smartbft.types import Parameters

LIAR, CRASHES, DECIDES, OTHER = range(4)  # CRASHES leads regency 0, OTHER regency 2
DATA = TestClient().requests(b"v")


class World:
    """CRASHES and DECIDES have accepted a value in regency 0, and CRASHES has decided it with the liar's help. Neither
    its ACCEPT nor its decision is on its disk. Then it crashes.
    """

    def __init__(self) -> None:
        self.cluster = Cluster(parameters=Parameters(batch_delay=0))
        self.crashes, self.decides, self.other = (self.cluster.nodes[id] for id in (CRASHES, DECIDES, OTHER))
        self.cluster.submit(DATA, to=[CRASHES, DECIDES])
        (proposal,) = sent_to(self.crashes, DECIDES, Propose)
        self.value, self.digest = proposal.value, self.crashes.domains.value_digest(proposal.value)
        self.decides.receive(CRASHES, proposal)
        self.crashes.disk_blocked = True  # what was said up to now, PROPOSE and WRITE, is on it
        for node, peer in ((self.crashes, DECIDES), (self.decides, CRASHES)):
            node.receive(LIAR, Write(0, 0, 1, self.digest))
            node.receive(peer, Write(0, 0, 1, self.digest))
        assert not sent(self.crashes, Accept), "it waits for the disk"
        (vote,) = sent_to(self.decides, CRASHES, Accept)
        self.crashes.receive(DECIDES, vote)
        self.crashes.receive(LIAR, accept(LIAR, 0, 1, self.digest))
        assert (self.crashes.replica.decided, self.decides.replica.decided) == (1, 0)
        self.cluster.drop_all()
        self.crashes.receive(LIAR, FetchStanding(0, 0, 1))
        (answer,) = sent_to(self.crashes, LIAR, Standing)
        self.proof: Proof | None = answer.proof
        self.cluster.drop_all()

    @property
    def leaked(self) -> Accept | None:
        """The ACCEPT of CRASHES, as the liar has it."""
        signatures = dict(self.proof.signatures) if self.proof is not None else {}
        return Accept(0, 0, 1, self.digest, signatures[CRASHES]) if signatures else None

    def restart(self, shown: Accept | None = None) -> Node:
        """CRASHES starts again; OTHER, which knows of nothing, and the liar answer it."""
        node = self.cluster.nodes[CRASHES] = Node(CRASHES, self.cluster.view, self.cluster.parameters, self.crashes.log)
        assert node.replica.decided == 0
        (question, *_) = sent(node, FetchStanding)
        node.receive(LIAR, Standing(0, 0, question.token, None, None, shown))
        node.receive(OTHER, Standing(0, 0, question.token, None, None, None))
        return node

    def regency_2(self, node: Node) -> None:
        """CRASHES, OTHER and the liar change to regency 2; DECIDES is cut off. The liar says that it has accepted
        nothing.
        """
        for each in (node, self.other):
            for sender in (LIAR, CRASHES, OTHER):
                if sender != each.id:
                    each.receive(sender, Stop(0, 0, 2, b""))
        self.other.receive(LIAR, stop_data(LIAR, 2))


@pytest.fixture
def world() -> World:
    return World()


def test_what_a_crash_can_take_back_is_not_shown(world: World) -> None:
    assert world.proof is None


def test_two_correct_replicas_do_not_decide_differently(world: World) -> None:
    if world.proof is not None:  # shown to DECIDES alone, which is cut off from the others then
        world.decides.receive(LIAR, Decision(0, 0, 1, world.value, DATA, world.proof))
        assert world.decides.replica.decided == 1
        assert world.decides.replies, "a client is told"
    node = world.restart()
    assert not node.replica.guard.suspended
    for each in (node, world.other):
        each.admit(TestClient(2).requests(b"u"))
    world.regency_2(node)
    world.cluster.run(without(LIAR, DECIDES))
    digest = world.other.ordering.current.digest
    for each in (node, world.other):
        each.receive(LIAR, Write(0, 2, 1, digest))
    world.cluster.run(without(LIAR, DECIDES))
    for each in (node, world.other):
        each.receive(LIAR, accept(LIAR, 2, 1, digest))
    decided = {each.executed[0].seed for each in (node, world.other, world.decides) if each.executed}
    assert len(decided) == 1


def test_a_liar_cannot_make_a_replica_with_an_intact_log_a_learner(world: World) -> None:
    """It counts towards `f` then, beside the liar: with the liar silent nobody gives it a new key, and all stops."""
    node = world.restart(world.leaked)
    assert node.replica.learns == ""
    world.cluster.submit(TestClient(2).requests(b"goes on"))
    for _ in range(20):
        pulse(world.cluster, without(LIAR), silent=(LIAR,))
        for each in world.cluster.nodes[1:]:
            each.now += each.ordering.timeout
            each.fire(Timer.REQUEST)
            each.fire(Timer.REGENCY)
    assert all(each.replica.decided > 0 for each in world.cluster.nodes[1:])


def test_no_evidence_convicts_a_correct_replica(world: World) -> None:
    node = world.restart()
    leaked = world.leaked
    world.regency_2(node)
    promise = node.ordering._synchronization._own[1]  # type: ignore[index]
    if leaked is not None:
        found = verify(make_evidence(node.domains.chain_id, CRASHES, leaked, promise), node.view, node.domains)
        assert not found.holds, found
    for message in (promise, leaked):
        if message is not None:
            world.other.receive(CRASHES, message)
    assert not [effect for effect in world.other.effects if isinstance(effect, ReportEvidence)]


def test_a_decision_that_is_written_and_not_synced_is_not_served() -> None:
    """The log's reader sees what the operating system has."""
    cluster = Cluster(parameters=Parameters(batch_delay=0))
    slow = cluster.nodes[CRASHES]
    client = TestClient()
    slow.disk_blocked = True
    others = [node for node in cluster.nodes if node is not slow]
    for node in others:
        for sender in cluster.view.ids:
            if sender != node.id:
                node.receive(sender, Stop(0, 0, 1, b""))
    slow.receive(LIAR, Stop(0, 0, 1, b""))
    slow.receive(OTHER, Stop(0, 0, 1, b""))
    for number in range(4):
        cluster.submit(client.requests(b"%d" % number))
        cluster.run()
        if slow.replica.decided < number + 1:
            pulse(cluster)
    assert slow.replica.decided >= 3
    assert not slow.log, "nothing of it is durable"
    slow.receive(LIAR, FetchDecisions(0, 1, 1, 4))
    assert not slow.served()
