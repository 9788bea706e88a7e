"""How long a new key rests is the same everywhere, however patient a replica is with leaders.

Else a replica with the usual timeout would suspect a leader whose timeout has grown, for a key of which that leader
thinks that it rests. Replica 0 lies; 1 leads regency 0.
"""

from __future__ import annotations

from kit.cluster import Cluster, Node, secret
from kit.regencies import sent
from kit.requests import TestClient

from smartbft.core.inputs import Timer
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.limits import MAX_KEY_REST_DOUBLINGS, REQUEST_LOOKS_PER_TIMEOUT
from smartbft.messages import KeyAnnouncement, Stop
from smartbft.types import KeyStatement, Parameters

LIAR, LEADER, RESTARTED, OTHER = range(4)


def announcement(node: Node, replaces: bytes, number: int) -> tuple[KeyAnnouncement, bytes]:
    signer = Ed25519Signer(bytes([number]) * 32)
    content = (LIAR, replaces, signer.public_key)
    possession = signer.sign(node.domains.possession_payload(0, *content))
    signature = Ed25519Signer(secret(LIAR)).sign(node.domains.key_payload(0, *content))
    return KeyAnnouncement(0, 0, KeyStatement(*content, possession, signature).encode()), signer.public_key


def test_a_leader_is_not_suspected_for_a_key_that_rests() -> None:
    cluster = Cluster(parameters=Parameters(batch_delay=0))
    for id in (LEADER, OTHER):  # they have lived through the failures of a night
        for _ in range(5):
            cluster.nodes[id].ordering._synchronization._patience.installed()
    leader, restarted = cluster.nodes[LEADER], cluster.nodes[RESTARTED]
    assert (leader.ordering.timeout, restarted.ordering.timeout) == (60_000_000, 2_000_000)
    first, key = announcement(leader, cluster.view.members[LIAR].consensus_key, 1)
    second, _ = announcement(leader, key, 2)
    for message in (first, second):
        for id in (LEADER, RESTARTED, OTHER):
            cluster.nodes[id].receive(LIAR, message)
        cluster.run()
    assert leader.replica.decided == 1, "the second one rests"
    client = TestClient()
    for number in range(3 * REQUEST_LOOKS_PER_TIMEOUT):  # 6 s, in which the leader orders all that clients ask for
        for node in cluster.nodes:
            node.now += restarted.ordering.timeout // REQUEST_LOOKS_PER_TIMEOUT
        restarted.fire(Timer.REQUEST)
        if number % 8 == 0:
            cluster.submit(client.requests(b"in time"))
        assert not sent(restarted, Stop), f"after {number / 4} s"
        cluster.run()


def test_each_key_that_is_replaced_rests_twice_as_long_and_a_restart_changes_nothing() -> None:
    cluster = Cluster(parameters=Parameters(batch_delay=0))
    timeout = cluster.parameters.request_timeout
    node, key = cluster.nodes[LEADER], cluster.view.members[LIAR].consensus_key
    for number in range(1, 12):
        message, key = announcement(node, key, number)
        for id in (LEADER, RESTARTED, OTHER):
            cluster.nodes[id].receive(LIAR, message)
        cluster.run()
        rest = min(number - 2, MAX_KEY_REST_DOUBLINGS)
        if number > 1:
            assert not node.replica.statements(), f"key {number} waits"
            if number == 7:
                node = cluster.restart(LEADER)
                node.receive(LIAR, message)
            for passed, decided in ((timeout << rest) - 1, number - 1), (1, number):
                for other in cluster.nodes:
                    other.now += passed
                    other.fire(Timer.KEYS)
                cluster.run()
                assert node.replica.decided == decided, (number, passed)
