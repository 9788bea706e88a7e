"""A new leader has the time that its regency's timer allows, however long requests have waited before."""

from __future__ import annotations

import pytest
from kit.cluster import Cluster, Node
from kit.regencies import second_timeout, wait
from kit.requests import TestClient

from smartbft.core.inputs import Timer
from smartbft.limits import REQUEST_LOOKS_PER_TIMEOUT
from smartbft.messages import FetchStanding, Standing, Stop, Sync
from smartbft.protocols.mod_smart.stopping import Stopping
from smartbft.types import Parameters


@pytest.fixture
def cluster() -> Cluster:
    """Leader 1 has said nothing, regency 1 is installed, and its SYNC is lost."""
    cluster = Cluster(parameters=Parameters(batch_delay=0))
    correct = [cluster.nodes[id] for id in (0, 2, 3)]
    for node in correct:
        node.admit(TestClient().requests(b"a"))
        second_timeout(node)
    cluster.run(lambda envelope: 1 not in envelope[:2] and not isinstance(envelope[2], Sync))
    assert [node.replica.regency for node in correct] == [1, 1, 1]
    return cluster


def looks(node: Node, count: int) -> list[int]:
    """The node looks at its oldest request; returns the regencies that it asks for meanwhile."""
    node.outbox.clear()
    for _ in range(count):
        wait(node, node.ordering.timeout // REQUEST_LOOKS_PER_TIMEOUT)
    return [message.target for _, _, message in node.outbox if isinstance(message, Stop)]


def test_old_requests_do_not_count_against_a_leader_whose_regency_has_not_begun(cluster: Cluster) -> None:
    assert not looks(cluster.nodes[0], 3 * REQUEST_LOOKS_PER_TIMEOUT)


def test_the_timer_of_the_regency_does(cluster: Cluster) -> None:
    node = cluster.nodes[0]
    node.outbox.clear()
    node.fire(Timer.REGENCY)
    assert [message.target for _, _, message in node.outbox if isinstance(message, Stop)] == [2, 2, 2]


def test_a_timer_that_fires_while_the_replica_starts_is_set_again(cluster: Cluster) -> None:
    node = cluster.nodes[0] = Node(0, cluster.view, cluster.parameters, cluster.nodes[0].log)
    token = next(message.token for _, _, message in node.outbox if isinstance(message, FetchStanding))
    node.fire(Timer.REGENCY)
    assert node.timers().count(Timer.REGENCY) == 2
    for peer in (1, 2):
        node.receive(peer, Standing(0, 0, token, None, None, None))
    node.outbox.clear()
    node.fire(Timer.REGENCY)
    assert [message.target for _, _, message in node.outbox if isinstance(message, Stop)] == [2, 2, 2]


def test_planted_bug_a_suspicion_that_goes_on_is_found(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stopping, "suspect", lambda self, why, data: self.stop(self._phase.regency + 1, data, why))
    assert looks(cluster.nodes[0], 3 * REQUEST_LOOKS_PER_TIMEOUT)
