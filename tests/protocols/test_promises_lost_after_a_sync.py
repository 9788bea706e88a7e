"""A SYNC that was taken up before a key change and holds a promise that its signer has lost since: it is void after it.

Four replicas: 0 loses its votes, 1 leads regency 0, 2 leads regency 1, and 3 is honest until the new key of 0 is in
force, and a liar after that. So at each moment one replica is faulty at most.
"""

from __future__ import annotations

import pytest
from kit.cluster import Cluster, Node
from kit.regencies import DOMAINS, accept, operations, pulse, refused, sent, sent_to, stop_data, sync
from kit.requests import TestClient

from smartbft.core.inputs import Timer
from smartbft.core.validation import Validator
from smartbft.messages import (
    Accept,
    Decision,
    FetchSync,
    KeyAnnouncement,
    Message,
    Proof,
    Propose,
    Stop,
    StopData,
    Sync,
    Write,
)
from smartbft.types import Parameters

LOST, FIRST, NEXT, LIAR = range(4)


class World:
    """Instance 2 has given LOST a new key, and everybody has decided it. FIRST and LOST are in regency 0. Before they
    decided, NEXT and LIAR took up the SYNC of regency 1, with the promise that LOST has forgotten.
    """

    def __init__(self) -> None:
        self.cluster = Cluster(parameters=Parameters(batch_delay=0))
        self.cluster.submit(TestClient().requests(b"first"))
        self.cluster.run()
        self.cluster.drop_all()
        self.next, self.liar = self.node(NEXT), self.node(LIAR)
        self.stops, promise = self._promise_that_will_be_lost()
        self._new_key_is_decided_by_the_first_leader()
        self.sync = self._sync_of_regency_1(promise)
        self._everybody_decides()

    def node(self, id: int) -> Node:
        return self.cluster.nodes[id]

    def _promise_that_will_be_lost(self) -> tuple[dict[int, Stop], StopData]:
        for id in (NEXT, LIAR, LOST):
            self.node(id).ordering.suspect(b"")
            self.node(id).fire(Timer.FETCH)  # carries out what was asked for
        stops = {id: sent(self.node(id), Stop)[0] for id in (NEXT, LIAR, LOST)}
        for id in (NEXT, LIAR):
            self.node(LOST).receive(id, stops[id])
        (promise,) = sent_to(self.node(LOST), NEXT, StopData)
        self.cluster.drop_all()
        return stops, promise

    def _new_key_is_decided_by_the_first_leader(self) -> None:
        first, lost = self.node(FIRST), self.cluster.wipe(LOST)
        self.cluster.drop_all()
        for known in first.recovered().decisions:
            lost.receive(FIRST, Decision(0, 0, known.instance, known.value, known.data, known.proof))
        lost.make_key()
        lost.fire(Timer.RESEND)
        announcement = sent_to(lost, FIRST, KeyAnnouncement)[0]
        self.cluster.drop_all()
        first.receive(LOST, announcement)
        votes_reach = (FIRST, NEXT, LIAR)
        self.cluster.run(
            lambda e: (
                e[0] in votes_reach
                and e[1] in votes_reach
                and isinstance(e[2], (Propose, Write, Accept))
                and (not isinstance(e[2], Accept) or e[1] == FIRST)
            )
        )
        self.cluster.drop_all()
        assert [node.replica.decided for node in self.cluster.nodes] == [1, 2, 1, 1]

    def _sync_of_regency_1(self, promise: StopData) -> Sync:
        for node in (self.next, self.liar):
            for id in (LOST, NEXT, LIAR):
                if id != node.id:
                    node.receive(id, self.stops[id])
        (own,) = sent_to(self.liar, NEXT, StopData)
        self.next.receive(LOST, promise)
        self.next.receive(LIAR, own)
        (message, *_) = sent(self.next, Sync)
        assert [each.signer for each in message.stop_data] == [LOST, NEXT, LIAR]
        self.liar.receive(NEXT, message)
        assert self.next.replica.guard.synchronized
        assert self.liar.replica.guard.synchronized
        self.cluster.drop_all()
        return message

    def _everybody_decides(self) -> None:
        known = self.node(FIRST).recovered().decisions[1]
        self.decision = Decision(0, 0, 2, known.value, known.data, known.proof)
        for id in (LOST, NEXT, LIAR):
            self.node(id).receive(FIRST, self.decision)
        assert [node.replica.decided for node in self.cluster.nodes] == [2] * 4
        assert not self.node(LOST).replica.learns

    @property
    def proof(self) -> Proof:
        return self.decision.proof


@pytest.fixture
def world() -> World:
    return World()


def says_nothing_in_regency_1(node: Node, world: World) -> bool:
    """Whatever there is to propose, and whoever shows the SYNC again."""
    node.outbox.clear()
    assert refused(node, NEXT if node.id != NEXT else LIAR, world.sync)
    node.admit(TestClient(9).requests(b"w"))
    node.fire(Timer.RESEND)
    said = [message for _, _, message in node.outbox if message.regency == 1]
    node.outbox.clear()
    votes = [message for message in said if isinstance(message, (Propose, Write, Accept)) and message.instance > 2]
    return not votes and not [message for message in said if isinstance(message, (StopData, Sync, FetchSync))]


def test_the_regency_is_over_where_its_sync_was_taken_up(world: World) -> None:
    assert (world.next.replica.regency, world.next.replica.guard.synchronized) == (1, False)
    assert sent(world.next, Stop)[0].target == 2, "and the next one is asked for at once"
    assert world.next.replica.status()["waiting_for"].startswith("STOP for regency 2")
    assert says_nothing_in_regency_1(world.next, world)


def test_there_is_no_second_sync_in_it(world: World) -> None:
    """Not even with promises that are kept: nobody needs to ask which of the two a vote rests on."""
    world.cluster.drop_all()
    for signer in (FIRST, LIAR):
        world.next.receive(signer, stop_data(signer, 1, 3, last=world.proof))
    assert not sent(world.next, Sync)
    second = sync(NEXT, [stop_data(id, 1, 3, last=world.proof) for id in (FIRST, NEXT, LIAR)])
    world.liar.receive(NEXT, second)
    assert not world.liar.replica.guard.synchronized
    world.node(FIRST).receive(NEXT, second)
    assert world.node(FIRST).replica.guard.synchronized, "who knew no SYNC of the regency may take this one up"


@pytest.mark.parametrize("forgets", [False, True], ids=["whole log", "after a checkpoint"])
def test_a_restart_does_not_bring_it_back(world: World, forgets: bool) -> None:
    if forgets:  # the records before a checkpoint go; what stands beyond it was written again
        world.next.log.extend(world.next.ordering.standing_records())
    node = world.cluster.restart(NEXT)
    assert (node.replica.regency, node.replica.guard.synchronized) == (1, False)
    assert not node.replica.guard.suspended
    assert sent(node, Stop)[0].target == 2
    assert says_nothing_in_regency_1(node, world)


def test_the_next_regency_begins_without_waiting_and_decides(world: World) -> None:
    """No timeout passes: everybody who was in the regency asks for the next one as soon as the key has changed."""
    world.cluster.run(lambda envelope: envelope[2] != world.sync)
    pulse(world.cluster)
    assert {node.replica.regency for node in world.cluster.nodes} == {2}
    assert all(node.replica.guard.synchronized for node in world.cluster.nodes)
    data = TestClient(5).requests(b"goes on")
    world.cluster.submit(data)
    world.cluster.run()
    assert [operations(node)[-1] for node in world.cluster.nodes] == [b"goes on"] * 4
    status = world.next.replica.status()
    assert "a consensus key was replaced" in status["last_regency_change"]["reason"]


def test_a_sync_without_a_lost_promise_stays_in_force() -> None:
    """In regency 1 of those who did not lose anything nothing changes: no regency change for each new key."""
    cluster = Cluster(parameters=Parameters(batch_delay=0))
    cluster.wipe(LOST)
    pulse(cluster)
    for id in (FIRST, NEXT, LIAR):
        cluster.nodes[id].ordering.suspect(b"")
    pulse(cluster)
    pulse(cluster)
    cluster.nodes[LOST].make_key()
    pulse(cluster)
    assert not cluster.nodes[LOST].replica.learns
    assert {node.replica.regency for node in cluster.nodes} == {1}
    assert all(node.replica.guard.synchronized for node in cluster.nodes)


def fork(world: World) -> tuple[bytes, bytes] | None:
    """The attack: FIRST decides one value in instance 3, NEXT another one. None: it does not work."""
    first, lost, cluster = world.node(FIRST), world.node(LOST), world.cluster
    cluster.drop_all()
    for id in (LOST, NEXT):
        world.node(id).admit(TestClient(3).requests(b"w"))
    proposed = sent(world.next, Propose)
    if not proposed:
        return None
    w = DOMAINS.value_digest(proposed[0].value)
    cluster.drop_all()
    # The liar votes in regency 0, against its promise, and so does LOST, which has forgotten its own.
    for node in (first, lost):
        node.admit(TestClient(2).requests(b"v"))
    (v_proposal, *_) = sent(first, Propose)
    v = DOMAINS.value_digest(v_proposal.value)
    lost.receive(FIRST, v_proposal)
    for node, other in ((first, lost), (lost, first)):
        node.receive(other.id, Write(0, 0, 3, v))
        node.receive(LIAR, Write(0, 0, 3, v))
    first.receive(LOST, sent(lost, Accept)[0])
    first.receive(LIAR, accept(LIAR, 0, 3, v))
    assert first.replica.decided == 3
    cluster.drop_all()
    # Regency 2, which the liar leads: it claims to have accepted w in regency 1, and one honest WRITE certifies that.
    for node in (lost, world.next):
        for id in (LOST, NEXT, LIAR):
            if id != node.id:
                node.receive(id, Stop(0, 1, 2, b""))
    promises = [sent_to(node, LIAR, StopData)[-1] for node in (lost, world.next)]
    claim = stop_data(LIAR, 2, 3, accepted=(1, w), written=[(w, 1)], last=world.proof)
    cluster.drop_all()
    for node, other in ((lost, world.next), (world.next, lost)):
        node.receive(LIAR, sync(LIAR, [*promises, claim], proposed[0].value, regency=2))
        _says(node, LIAR, Write(0, 2, 3, w), accept(LIAR, 2, 3, w))
        _hears(node, other, Write)
        _hears(other, node, Write)
        _hears(node, other, Accept)
        _hears(other, node, Accept)
    assert world.next.replica.decided == 3
    return operations(first)[-1], operations(world.next)[-1]


def _says(node: Node, sender: int, *messages: Message) -> None:
    for message in messages:
        node.receive(sender, message)


def _hears(node: Node, other: Node, kind: type[Message]) -> None:
    _says(node, other.id, *sent_to(other, node.id, kind))


def test_no_fork_across_a_key_change(world: World) -> None:
    assert fork(world) is None


def test_planted_bug_the_sync_stays_in_force_after_a_key_change(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule as it was: two correct replicas decide differently."""
    monkeypatch.setattr(Validator, "in_force", lambda validator, sync: True)
    assert fork(World()) == (b"v", b"w")
