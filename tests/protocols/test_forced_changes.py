"""A liar that has its key replaced again and again gains little by the regency changes that this forces.

Its promise is in every SYNC, as it is quick, so each new key ends a regency. That is no leader's failure: nobody gets
more patient by it, and a SYNC that is void when it comes costs no timeout. Replica 0 lies; 1 leads regency 0.
"""

from __future__ import annotations

from kit.cluster import Cluster, Envelope, Node, secret
from kit.regencies import DOMAINS, pulse, sent, stop_data, without
from kit.requests import TestClient
from msgspec.structs import replace

from smartbft.core.inputs import Timer
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.messages import Accept, KeyAnnouncement, Stop, StopData, Sync, Write, stop_data_statement
from smartbft.types import KeyStatement, Parameters

LIAR = 0


class World:
    """Four replicas in regency 1, whose SYNC holds a promise of the liar."""

    def __init__(self) -> None:
        self.cluster = Cluster(parameters=Parameters(batch_delay=0))
        self.honest = self.cluster.nodes[1:]
        self.key = Ed25519Signer(secret(LIAR))  # in force
        self.keys = 0
        self.silent_leaders = 0  # regencies of the liar, which rightly cost a timeout
        for node in self.honest:
            node.ordering.suspect(b"")
        self.next_regency_with_the_liar()

    def node(self, id: int) -> Node:
        return self.cluster.nodes[id]

    def promise(self, regency: int) -> StopData:
        """It claims that it has decided nothing, which needs no proof."""
        unsigned = stop_data(LIAR, regency)
        return replace(unsigned, signature=self.key.sign(DOMAINS.stop_data_payload(stop_data_statement(unsigned))))

    def next_regency_with_the_liar(self) -> None:
        """Everybody asks for it already."""
        regency = self.honest[0].replica.regency + 1
        leader = self.node(self.cluster.view.leader(regency))
        if leader.id != LIAR:
            leader.receive(LIAR, self.promise(regency))
        for _ in range(2):
            pulse(self.cluster, without(LIAR), silent=(LIAR,))
        if leader.id == LIAR:  # it makes no SYNC
            self.silent_leaders += 1
            for node in self.honest:
                node.fire(Timer.REGENCY)
            self.next_regency_with_the_liar()
        assert all(node.replica.guard.synchronized for node in self.honest)

    def announce(self) -> Ed25519Signer:
        """The liar has another key, and tells everybody."""
        self.keys += 1
        signer = Ed25519Signer(self.keys.to_bytes(32, "little"))
        domains = self.honest[0].domains
        content = (LIAR, self.key.public_key, signer.public_key)
        possession = signer.sign(domains.possession_payload(0, *content))
        signature = Ed25519Signer(secret(LIAR)).sign(domains.key_payload(0, *content))
        for node in self.honest:
            node.receive(LIAR, KeyAnnouncement(0, 1, KeyStatement(*content, possession, signature).encode()))
        return signer

    def time_passes(self) -> None:
        """So much that a key may be replaced again."""
        for node in self.honest:
            node.now += self.cluster.parameters.request_timeout
            node.fire(Timer.KEYS)


def test_forced_changes_do_not_make_everybody_patient() -> None:
    """Nobody was slow: whoever crashes after this must be missed as soon as ever."""
    world = World()
    usual = world.honest[0].ordering.timeout
    for _ in range(6):
        world.cluster.submit(TestClient(10 + world.keys).requests(b"in time"))
        new = world.announce()
        while world.honest[0].replica.keys.latest(LIAR) != new.public_key:
            world.cluster.run(lambda e: LIAR not in e[:2] and not isinstance(e[2], Stop))
            world.time_passes()
        world.key = new
        world.next_regency_with_the_liar()
    assert max(node.ordering.timeout for node in world.honest) <= usual << world.silent_leaders


def test_a_sync_that_is_void_when_it_comes_costs_no_timeout() -> None:
    """1 decides the key first, as it alone has the liar's ACCEPT; 3 makes the SYNC of regency 2 before it decides."""
    world = World()
    first, other, leader = world.honest
    assert world.cluster.view.leader(2) == leader.id
    world.announce()

    def votes(envelope: Envelope) -> bool:
        """ACCEPTs reach only the first."""
        return LIAR not in envelope[:2] and (
            not isinstance(envelope[2], (Accept, Stop)) or (isinstance(envelope[2], Accept) and envelope[1] == first.id)
        )

    world.cluster.run(votes)
    assert [node.replica.decided for node in world.honest] == [1, 0, 0]
    late = {node.id: node.ordering.current.sent_messages() for node in world.honest}
    late[first.id] = first.ordering.previous.sent_messages() if first.ordering.previous else []
    world.cluster.drop_all()
    leader.receive(LIAR, world.promise(2))
    for node in (other, leader):
        node.receive(first.id, Stop(0, 1, 2, b""))
        node.receive(LIAR, Stop(0, 1, 2, b""))
    (promise, *_) = [m for _, to, m in other.outbox if isinstance(m, StopData) and to == leader.id]
    leader.receive(other.id, promise)
    (message, *_) = sent(leader, Sync)
    assert [each.signer for each in message.stop_data] == [LIAR, other.id, leader.id]
    for node in (other, leader):  # the ACCEPTs arrive
        for sender, messages in late.items():
            for vote in messages:
                if sender != node.id and isinstance(vote, (Write, Accept)):
                    node.receive(sender, vote)
    assert [node.replica.decided for node in world.honest] == [1, 1, 1]
    for _ in range(4):  # a second; nobody's timer fires
        pulse(world.cluster, lambda e: LIAR not in e[:2] and e[2] != message, silent=(LIAR,))
    assert min(node.replica.regency for node in world.honest) > 2
