"""Greedy clients against correct replicas: they neither stop the cluster nor get its leaders replaced."""

from __future__ import annotations

import pytest
from kit.cluster import Cluster, Node
from kit.requests import NOW, TestClient

from smartbft._fastpath.pool import join_requests
from smartbft.core.inputs import PeerConnected, Timer
from smartbft.core.vouching import pool_arguments
from smartbft.limits import MAX_IDLE_REQUEST_TIMEOUTS
from smartbft.messages import Forward, Hold
from smartbft.types import CHANNEL, SIGNATURES, Parameters

SESSIONS = 4  # of one key, in the kit's pools
KIT_POOL = 1 << 24  # bytes
BOTH = pytest.mark.parametrize("authentication", [SIGNATURES, CHANNEL])


def greedy(number: int, session: int, authentication: str) -> TestClient:
    """A client of the cluster; where requests carry no signatures its requests have none."""
    return _Unsigned(number, session) if authentication == CHANNEL else TestClient(number, session)


class _Unsigned(TestClient):
    def request(self, operation: bytes, sequence: int | None = None, *, good: bool = True) -> bytes:
        return super().request(operation, sequence, good=good)[:-64] + bytes(64)


def cluster_of(authentication: str) -> Cluster:
    return Cluster(parameters=Parameters(batch_delay=0, request_authentication=authentication))


def behind_gaps(client: TestClient, size: int) -> bytes:
    """A whole window but for its first request."""
    return join_requests([client.request(bytes(size), sequence=number) for number in range(2, 65)])


def fill(cluster: Cluster, authentication: str, size: int) -> None:
    """Requests that nobody can ever propose, at all replicas: as much as a pool holds."""
    keys = KIT_POOL // (size + 116) // (63 * SESSIONS) + 2
    for key in range(1, min(keys, 41) + 1):
        for session in range(SESSIONS):
            data = behind_gaps(greedy(key, NOW + session, authentication), size)
            for node in cluster.nodes:
                node.admit(data)
    cluster.run()


@BOTH
@pytest.mark.parametrize("size", [0, 4096])
def test_requests_behind_gaps_do_not_stop_the_cluster(authentication: str, size: int) -> None:
    cluster = cluster_of(authentication)
    fill(cluster, authentication, size)
    stats = [node.pool.stats() for node in cluster.nodes]
    assert all(one["idle"] == one["pending"] for one in stats)
    for node in cluster.nodes:
        expected = "room in the request pool, which is full" if node.pool.stats()["full"] else ""
        assert expected in node.replica.status()["waiting_for"]
    assert any(one["full"] for one in stats)
    cluster.submit(greedy(999, NOW, authentication).requests(b"honest"))
    cluster.run()
    assert [node.replica.decided for node in cluster.nodes] == [1] * 4


@BOTH
def test_after_some_request_timeouts_nothing_is_left_of_a_client_that_is_gone(authentication: str) -> None:
    cluster = cluster_of(authentication)
    fill(cluster, authentication, 4096)
    for node in cluster.nodes:
        node.now += MAX_IDLE_REQUEST_TIMEOUTS * cluster.parameters.request_timeout + 1
        node.fire(Timer.REQUEST)
    assert [node.pool.stats()["pending"] for node in cluster.nodes] == [0] * 4
    assert [node.replica.regency for node in cluster.nodes] == [0] * 4
    assert [node.replica.status()["waiting_for"] for node in cluster.nodes] == [""] * 4


def test_sessions_that_lapse_unopened_are_refused_though_agreed_time_stands_still() -> None:
    cluster = cluster_of(SIGNATURES)
    cluster.submit(TestClient(1).requests(b"never ordered"))
    cluster.drop_all()
    for node in cluster.nodes:
        node.now += cluster.parameters.session_lease + 1
        node.fire(Timer.REQUEST)
    assert [node.pool.stats()["pending"] for node in cluster.nodes] == [0] * 4


def sessions_behind_gaps(key: int, leader: Node, authentication: str) -> None:
    """They would hold the places of the key at the leader alone."""
    for session in range(SESSIONS):
        leader.admit(join_requests([greedy(key, NOW + session, authentication).request(b"gap", sequence=2)]))


def a_pool_full_of_gaps(key: int, leader: Node, authentication: str) -> None:
    """Of many keys, so that no key has more than the attacker's next request."""
    for other in range(1000 * key, 1000 * key + 66):
        leader.admit(behind_gaps(greedy(other, NOW, authentication), 4096))
    leader.admit(behind_gaps(greedy(1000 * key + 66, NOW, authentication), 0))


def named_by_a_liar(key: int, leader: Node, authentication: str) -> None:
    """As above, and a member passes them on and names them."""
    data = behind_gaps(greedy(1000 * key, NOW, authentication), 4096)
    leader.admit(data)
    leader.replica.adopt(2 if leader.id != 2 else 3, data)
    leader.verify()
    sessions_behind_gaps(key, leader, authentication)


ATTACKS = (sessions_behind_gaps, a_pool_full_of_gaps, named_by_a_liar)


@BOTH
@pytest.mark.parametrize("attack", ATTACKS)
def test_a_client_alone_has_no_leader_replaced(authentication: str, attack) -> None:
    """One replica sees what the others do not: what these could propose must be possible for it too."""
    cluster = cluster_of(authentication)
    honest = greedy(999, NOW, authentication)
    for tick in range(160):
        for node in cluster.nodes:
            node.now += 50_000
        if tick % 40 == 0:
            leader, key = cluster.leader, tick // 40 + 1
            attack(key, leader, authentication)
            mine = greedy(key, NOW + 10, authentication).requests(b"attacker")
            cluster.submit(mine, to=[node.id for node in cluster.nodes if node is not leader])
        cluster.submit(honest.requests(b"h%d" % tick))
        cluster.run()
        for node in cluster.nodes:
            node.fire(Timer.FETCH)
            if authentication == CHANNEL:
                node.fire(Timer.VOUCH)
            if tick % 5 == 0:
                node.fire(Timer.REQUEST)
                node.fire(Timer.RESEND)
        cluster.run()
    assert [node.replica.regency for node in cluster.nodes] == [0] * 4
    assert all(node.replica.decided >= 160 for node in cluster.nodes)
    assert [node.pool.ready() for node in cluster.nodes] == [0] * 4


def test_pools_get_the_request_timeout_in_both_modes() -> None:
    for authentication in (SIGNATURES, CHANNEL):
        parameters = Parameters(request_authentication=authentication, request_timeout=300_000)
        arguments = pool_arguments(parameters, cluster_of(SIGNATURES).view, 0)
        assert arguments["max_idle"] == MAX_IDLE_REQUEST_TIMEOUTS * 300_000


# --- HOLDs of a member whose channel is new


def test_what_a_restarted_member_announced_before_counts_no_longer() -> None:
    """It has forgotten it: nobody may expect a leader to propose on its word."""
    cluster = cluster_of(CHANNEL)
    a, b = cluster.nodes[:2]
    data = greedy(1, NOW, CHANNEL).requests(b"told two")
    for node in (a, b):
        node.admit(data)
    holds = [(s, to, m) for node in (a, b) for s, to, m in node.outbox if isinstance(m, Hold)]
    cluster.drop_all()
    for sender, to, message in holds:
        if to in (0, 1):
            cluster.nodes[to].receive(sender, message)
    a.receive(2, Hold(0, 0, holds[0][2].digests))
    assert a.pool.ready() == 1
    cluster.restart(2)
    a.step(PeerConnected(2))
    assert a.pool.ready() == 0
    assert a.pool.oldest_pending() == -1
    assert any(isinstance(m, Hold) and to == 2 for _, to, m in a.outbox), "it is told what is held here"
    a.receive(2, Hold(0, 0, holds[0][2].digests))
    assert a.pool.ready() == 1


def test_announcements_of_what_is_not_here_are_void_too() -> None:
    cluster = cluster_of(CHANNEL)
    a, b = cluster.nodes[:2]
    data = greedy(1, NOW, CHANNEL).requests(b"told others")
    b.admit(data)
    digests = next(m.digests for _, _, m in b.outbox if isinstance(m, Hold))
    cluster.drop_all()
    for member in (1, 2):
        a.receive(member, Hold(0, 0, digests))
    assert a.pool.holds.wanted(1, a.now + 1, a.now, 10)[0] == digests
    a.step(PeerConnected(2))
    assert a.pool.holds.wanted(1, a.now + 1, a.now, 10)[0] == b""


def test_forwarding_is_not_needed_for_what_the_leader_had_room_for() -> None:
    """The flood costs no messages: what could be proposed is there before the others pass it on."""
    cluster = cluster_of(SIGNATURES)
    a_pool_full_of_gaps(1, cluster.leader, SIGNATURES)
    cluster.submit(TestClient(999).requests(b"honest"))
    cluster.run()
    assert [node.replica.decided for node in cluster.nodes] == [1] * 4
    assert not any(isinstance(message, Forward) for _, _, message in cluster.delivered)
