"""A cluster whose instances take as long as the test says, with a leader that proposes little."""

from __future__ import annotations

from types import SimpleNamespace

from kit.cluster import Cluster, Envelope, Node
from kit.requests import TestClient
from smartbft._fastpath.pool import split_requests
from smartbft.messages import Forward, Propose
from smartbft.testing.byzantine import attacked
from smartbft.testing.byzantine.normal_phase import TinyBatches
from smartbft.types import Parameters

LEADER, FOLLOWER = 1, 0
PARAMETERS = Parameters(batch_delay=0, proposal_timeout=100_000)
HALF = PARAMETERS.proposal_timeout // 2
TICK = HALF // 5  # an instance takes so long


class Run:
    """A cluster in which each instance takes a tick, or as long as it is told to."""

    def __init__(self, parameters: Parameters = PARAMETERS, batch: int = 0) -> None:
        self.cluster = Cluster(parameters=parameters)
        self.leader, self.node = self.cluster.nodes[LEADER], self.cluster.nodes[FOLLOWER]
        self._held: list[Envelope] = []
        if batch:
            self.be_stingy(self.leader, batch)

    def be_stingy(self, leader: Node, batch: int) -> None:
        """A leader that proposes at once, and only so many requests."""
        attack = TinyBatches(SimpleNamespace(draw=SimpleNamespace(choice=min), feels_like_it=lambda: True))
        attack._most = batch
        leader.replica.pool = attacked(leader.pool, [attack])

    def submit(self, count: int, to: list[int] | None = None, first: int = 1) -> None:
        """A request of each of so many clients."""
        for number in range(first, first + count):
            self.cluster.submit(TestClient(number).requests(b"%d" % number), to)
        self.settle()

    def _passes(self, envelope: Envelope) -> bool:
        if isinstance(envelope[2], Propose):
            self._held.append(envelope)
            return False
        return True

    def settle(self) -> None:
        """Everything but proposals arrives."""
        self.cluster.run(self._passes)

    def instances(self, count: int, duration: int = TICK) -> None:
        """The proposals that wait arrive after so long, one after the other; each is decided at once."""
        for _ in range(count):
            self.wait(duration)
            held, self._held = self._held, []
            for envelope in held:
                self.cluster.nodes[envelope[1]].receive(envelope[0], envelope[2])
            self.settle()

    def wait(self, duration: int) -> None:
        for node in self.cluster.nodes:
            node.now += duration

    def reminders(self, node: Node) -> list[Forward]:
        found = [m for sender, to, m in self.cluster.delivered if isinstance(m, Forward) and sender == node.id]
        assert all(to == LEADER for _, to, m in self.cluster.delivered if isinstance(m, Forward))
        return found

    def lost(self, node: Node) -> int:
        return node.ordering._watch.delays._waited


def operations(message: Forward) -> list[int]:
    return [int(operation) for _, _, _, operation, _ in split_requests(message.data)]
