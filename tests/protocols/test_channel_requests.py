"""Requests without signatures (protocols.md 2.1): who hears what, who announces it, what is proposed and voted for."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kit.cluster import Cluster, Envelope, Node
from kit.requests import CHAIN, NOW, TestClient

from smartbft._fastpath.pool import encode_request, join_requests, request_digests, split_requests
from smartbft.core.inputs import PeerConnected, Timer
from smartbft.core.vouching import Vouching
from smartbft.errors import MalformedMessage, RemoteProtocolError
from smartbft.limits import MAX_FETCH_HELD_DIGESTS
from smartbft.messages import FetchHeld, Forward, HeldRequests, Hold, Propose, RequestBodies, Stop, Write
from smartbft.protocols.vp_consensus import VPConsensus
from smartbft.types import CHANNEL, Parameters, Value

PARAMETERS = Parameters(request_authentication=CHANNEL, batch_delay=0)


class Client(TestClient):
    """A client that proves its key per connection instead of signing."""

    __test__ = False

    def request(self, operation: bytes, sequence: int | None = None, *, good: bool = True) -> bytes:
        if sequence is None:
            self.sequence += 1
            sequence = self.sequence
        return encode_request(self.public_key, self.session, sequence, operation, bytes(64))


def make_cluster(n: int = 4) -> Cluster:
    return Cluster(n, PARAMETERS)


def operations(node: Node) -> list[bytes]:
    return [operation for one in node.executed for _, _, _, operation, _ in split_requests(one.data)]


def only(*kinds: type) -> Callable[[Envelope], bool]:
    return lambda envelope: isinstance(envelope[2], kinds)


def sent(node: Node, kind: type) -> list[Envelope]:
    return [envelope for envelope in node.outbox if isinstance(envelope[2], kind)]


def pass_time(cluster: Cluster, times: int = 12) -> None:
    for _ in range(times):
        for node in cluster.nodes:
            node.now += PARAMETERS.request_timeout // 4
            for timer in (Timer.REQUEST, Timer.RESEND, Timer.VOUCH):
                node.fire(timer)
        cluster.run()


# --- the way of a request


def test_what_all_were_told_is_ordered() -> None:
    cluster = make_cluster()
    cluster.submit(Client().requests(b"a", b"b"))
    cluster.run()
    assert [operations(node) for node in cluster.nodes] == [[b"a", b"b"]] * 4


def test_announcements_are_batched() -> None:
    cluster = make_cluster()
    data = Client().requests(*[b"%d" % number for number in range(40)])
    cluster.submit(data)
    for node in cluster.nodes:
        ((_, _, message), *others) = sent(node, Hold)
        assert len(others) == 2, "one message to each other replica"
        assert message == Hold(0, 0, request_digests(CHAIN, data))


def test_the_leader_proposes_at_2f_plus_1_announcements() -> None:
    cluster = make_cluster()
    cluster.submit(Client().requests(b"a"))
    leader, (one, other, _) = cluster.leader, cluster.followers
    (hold,) = {message for _, _, message in sent(one, Hold)}
    leader.receive(one.id, hold)
    leader.receive(one.id, hold)
    assert not sent(leader, Propose)
    assert leader.pool.oldest_pending() == -1, "no deadline runs"
    leader.receive(other.id, hold)
    assert sent(leader, Propose)
    assert leader.pool.oldest_pending() == NOW


def test_whoever_lacks_what_f_plus_1_hold_fetches_and_announces_it() -> None:
    cluster = make_cluster()
    lacking = cluster.followers[2]
    told = [node.id for node in cluster.nodes if node is not lacking]
    data = Client().requests(b"a", b"b")
    cluster.submit(data, told)
    cluster.run(only(Hold))
    assert not sent(lacking, FetchHeld), "the client's own copy is usually on its way"
    assert Timer.VOUCH in lacking.timers()
    lacking.now += PARAMETERS.fetch_grace
    lacking.fire(Timer.VOUCH)
    ((_, _, question),) = sent(lacking, FetchHeld)
    assert question == FetchHeld(0, 0, request_digests(CHAIN, data))
    cluster.run(only(Hold, FetchHeld, HeldRequests))
    announced = (lacking.id, cluster.leader.id, Hold(0, 0, request_digests(CHAIN, data)))
    assert announced in cluster.delivered
    assert lacking.pool.resolve(request_digests(CHAIN, data))[0] == data


def test_two_of_four_told_are_enough() -> None:
    cluster = make_cluster()
    cluster.submit(Client().requests(b"a"), [0, 3])
    cluster.run()
    pass_time(cluster, 2)
    assert [operations(node) for node in cluster.nodes] == [[b"a"]] * 4
    assert {node.replica.regency for node in cluster.nodes} == {0}


@pytest.mark.parametrize("told", range(4))
def test_one_of_four_told_is_nothing_and_no_deadline_runs(told: int) -> None:
    cluster = make_cluster()
    cluster.submit(Client(2).requests(b"alone"), [told])
    cluster.run()
    cluster.submit(Client(1).requests(b"a"))
    cluster.run()
    pass_time(cluster)
    assert [operations(node) for node in cluster.nodes] == [[b"a"]] * 4
    assert {node.replica.regency for node in cluster.nodes} == {0}
    assert not any(isinstance(message, (Forward, Stop)) for _, _, message in cluster.delivered)


def test_two_requests_with_one_number_hold_up_nobody() -> None:
    cluster = make_cluster()
    client = Client(2)
    one, other = join_requests([client.request(b"one", 1)]), join_requests([client.request(b"other", 1)])
    cluster.submit(one, [0, 1])
    cluster.submit(other, [2, 3])
    cluster.submit(Client(1).requests(b"a"))
    cluster.run()
    pass_time(cluster)
    done = [operations(node) for node in cluster.nodes]
    assert done == [done[0]] * 4
    assert sorted(done[0]) in ([b"a", b"one"], [b"a", b"other"])
    assert {node.replica.regency for node in cluster.nodes} == {0}


def test_lost_announcements_are_repeated() -> None:
    cluster = make_cluster()
    cluster.submit(Client().requests(b"a"))
    cluster.drop_all()
    for node in cluster.nodes:
        node.now += PARAMETERS.resend_interval + 1
        node.fire(Timer.RESEND)
    cluster.run()
    assert [operations(node) for node in cluster.nodes] == [[b"a"]] * 4


def test_a_peer_that_connects_hears_what_is_pending() -> None:
    cluster = make_cluster()
    node = cluster.followers[0]
    data = Client().requests(b"a")
    node.admit(data)
    node.outbox.clear()
    node.step(PeerConnected(cluster.leader.id))
    ((_, to, message),) = sent(node, Hold)
    assert (to, message.digests) == (cluster.leader.id, request_digests(CHAIN, data))


def test_replicas_that_have_forgotten_hear_again_what_all_hold() -> None:
    """Two of four restart, the leader among them, before it has proposed: they must hear again what others hold."""
    cluster = make_cluster()
    data = Client().requests(b"a")
    cluster.submit(data)
    leader = cluster.leader.id
    cluster.run(lambda envelope: isinstance(envelope[2], Hold) and envelope[1] != leader)
    cluster.drop_all()
    forgetful = [leader, cluster.followers[2].id]
    for id in forgetful:
        cluster.restart(id)
    cluster.run()
    cluster.submit(data, forgetful)
    for node in cluster.nodes:
        node.now += PARAMETERS.resend_interval + 1
        node.fire(Timer.RESEND)
    cluster.run()
    assert [operations(node) for node in cluster.nodes] == [[b"a"]] * 4


# --- what does not count


def propose_unheard(cluster: Cluster, data: bytes) -> Node:
    """The leader invents a request, and gives its bytes to whoever asks."""
    digests = request_digests(CHAIN, data)
    follower = cluster.followers[0]
    follower.receive(cluster.leader.id, Propose(0, 0, 1, Value(NOW, digests).encode()))
    follower.fire(Timer.FETCH)
    follower.receive(cluster.leader.id, RequestBodies(0, 0, 1, data))
    return follower


def test_a_proposal_that_nobody_vouches_for_gets_no_vote() -> None:
    cluster = make_cluster()
    data = Client().requests(b"invented")
    follower = propose_unheard(cluster, data)
    follower.receive(cluster.leader.id, Hold(0, 0, request_digests(CHAIN, data)))
    assert not sent(follower, Write), "one announcement, the leader's own"
    follower.receive(cluster.followers[1].id, Hold(0, 0, request_digests(CHAIN, data)))
    assert sent(follower, Write), "f + 1 announcements: a correct replica has heard the client"


def test_a_proposal_is_voted_for_when_the_client_itself_is_heard() -> None:
    cluster = make_cluster()
    data = Client().requests(b"late")
    follower = propose_unheard(cluster, data)
    assert not sent(follower, Write)
    follower.admit(data)
    follower.verify()
    assert sent(follower, Write)


@pytest.mark.parametrize("kind", [Forward, HeldRequests])
def test_requests_passed_on_count_only_by_announcements(kind: type) -> None:
    cluster = make_cluster()
    data = Client().requests(b"passed on")
    node = cluster.followers[0]
    node.receive(cluster.followers[1].id, kind(0, 0, data))
    assert node.pool.stats()["pending"] == 0
    for peer in (cluster.followers[1], cluster.followers[2]):
        node.receive(peer.id, Hold(0, 0, request_digests(CHAIN, data)))
    node.receive(cluster.followers[1].id, kind(0, 0, data))
    assert node.pool.resolve(request_digests(CHAIN, data))[0] == data


def test_signed_requests_are_malformed() -> None:
    cluster = make_cluster()
    with pytest.raises(MalformedMessage, match="no signatures"):
        cluster.leader.admit(TestClient().requests(b"a"))
    node = cluster.followers[0]
    node.receive(cluster.leader.id, Forward(0, 0, TestClient().requests(b"a")))
    assert node.penalties()


def test_where_requests_are_signed_there_are_no_announcements() -> None:
    cluster = Cluster()
    cluster.submit(TestClient().requests(b"a"))
    cluster.run()
    assert not any(isinstance(message, Hold) for _, _, message in cluster.delivered)
    for message in (Hold(0, 0, bytes(32)), FetchHeld(0, 0, bytes(32)), HeldRequests(0, 0, b"")):
        with pytest.raises(RemoteProtocolError, match="are signed"):
            cluster.leader.receive(0, message)


@pytest.mark.parametrize("kind", [Hold, FetchHeld])
def test_partial_digests_are_malformed(kind: type) -> None:
    with pytest.raises(MalformedMessage, match="partial digest"):
        make_cluster().leader.receive(0, kind(0, 0, bytes(33)))


def test_questions_are_bounded() -> None:
    cluster = make_cluster()
    node = cluster.followers[0]
    client = Client()
    digests = request_digests(CHAIN, client.requests(*[b""] * (MAX_FETCH_HELD_DIGESTS + 10)))
    for peer in (cluster.followers[1], cluster.followers[2]):
        node.receive(peer.id, Hold(0, 0, digests))
    node.now += PARAMETERS.fetch_grace
    node.fire(Timer.VOUCH)
    ((_, _, question),) = sent(node, FetchHeld)
    assert question.digests == digests[: 32 * MAX_FETCH_HELD_DIGESTS]


# --- failures


def test_a_dead_leader_is_replaced_and_the_request_ordered_once() -> None:
    cluster = make_cluster()
    dead = cluster.leader.id
    data = Client().requests(b"a")
    cluster.submit(data, [node.id for node in cluster.followers])
    for _ in range(8):
        for node in cluster.nodes:
            node.now += PARAMETERS.request_timeout // 2
            node.fire(Timer.REQUEST)
        cluster.run(lambda envelope: dead not in envelope[:2])
    survivors = [node for node in cluster.nodes if node.id != dead]
    assert [operations(node) for node in survivors] == [[b"a"]] * 3
    assert {node.replica.regency for node in survivors} == {1}


def test_a_value_that_binds_needs_no_vouching_again() -> None:
    """All pools are lost in a crash; the value that a quorum wrote is decided all the same, without its client."""
    cluster = make_cluster()
    cluster.submit(Client().requests(b"a"))
    cluster.run(only(Hold, Propose, Write))
    assert not any(node.replica.decided for node in cluster.nodes)
    for node in list(cluster.nodes):
        cluster.restart(node.id)
    cluster.run()
    assert [operations(node) for node in cluster.nodes] == [[b"a"]] * 4


# --- planted bugs


def test_planted_bug_one_announcement_counting_for_all_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The leader proposes what f others hold."""
    on_message = Vouching.on_message

    def count_for_all(vouching: Vouching, sender: int, message: Hold) -> None:
        for id in (0, 2, 3):
            on_message(vouching, id, message)

    monkeypatch.setattr(Vouching, "on_message", count_for_all)
    with pytest.raises(AssertionError):
        test_the_leader_proposes_at_2f_plus_1_announcements()


def test_planted_bug_a_vote_without_copy_or_announcements_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(VPConsensus, "_has_quorum", lambda consensus: True)
    with pytest.raises(AssertionError):
        test_a_proposal_that_nobody_vouches_for_gets_no_vote()
