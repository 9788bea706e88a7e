"""Valid messages for instances and regencies far away fill nothing but a small share of their sender, and what correct
replicas say is still kept (promise H3).
"""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Iterator

import pytest
from kit.cluster import Cluster, Node
from kit.requests import TestClient
from kit.statements import V, W, accept, signed, stop_data, sync
from msgspec.structs import replace

from smartbft.core.effects import ReportEvidence
from smartbft.core.inbox import Inbox
from smartbft.core.inputs import MessageReceived
from smartbft.limits import (
    EARLY_INSTANCES_AHEAD,
    MAX_EARLY_MESSAGES_PER_SENDER,
    WITNESSED_OFFENCES_PER_MEMBER,
)
from smartbft.messages import (
    FetchDecisions,
    FetchRequests,
    FetchSync,
    FetchValue,
    Message,
    Progress,
    ProposedValue,
    Standing,
    Stop,
    Sync,
    Write,
)
from smartbft.protocols.mod_smart.ordering import ModSmart
from smartbft.types import Parameters

LIAR = 3
FAR = 2**61
# Python objects that a replica may hold more of after the flood than before, whatever its length.
ROOM = 1_500


def numbers(draw: random.Random) -> tuple[int, int]:
    """An instance and a regency: near, or anywhere."""
    instance = draw.choice([1, 2, 3, 3 + EARLY_INSTANCES_AHEAD, draw.randrange(FAR)])
    return instance, draw.choice([0, 1, draw.randrange(50), draw.randrange(FAR)])


def unsigned_messages(count: int) -> Iterator[Message]:
    """What costs its sender nothing."""
    draw = random.Random(1)
    for _ in range(count):
        instance, regency = numbers(draw)
        yield draw.choice(
            [
                Write(0, regency, instance, draw.randbytes(32)),
                Write(0, 0, 1, draw.randbytes(32)),
                Stop(0, regency, regency + 1 + draw.randrange(9), b""),
                FetchSync(0, regency),
                FetchValue(0, regency, instance, draw.randbytes(32)),
                ProposedValue(0, regency, instance, bytes(8) + draw.randbytes(32)),
                FetchRequests(0, regency, instance, draw.randbytes(32)),
                FetchDecisions(0, regency, instance, instance + 99),
                Progress(0, regency, instance),
                Standing(0, regency, instance, None, None, None),
            ]
        )


def signed_messages(count: int) -> Iterator[Message]:
    """Votes and promises of the liar, each with a good signature."""
    draw = random.Random(2)
    for number in range(count):
        instance, regency = numbers(draw)
        if number % 3:
            yield accept(LIAR, regency, instance, draw.choice([V, W]))
        else:
            yield signed(replace(stop_data(LIAR), regency=max(1, regency), instance=1))


def make_node() -> tuple[Cluster, Node]:
    """A replica that has decided an instance, so that a previous one is live too."""
    cluster = Cluster(4, Parameters(batch_delay=0))
    cluster.submit(TestClient().requests(b"first"))
    cluster.run()
    return cluster, cluster.nodes[0]


def objects() -> int:
    gc.collect()
    return len(gc.get_objects())


def flood(node: Node, messages: Iterator[Message]) -> None:
    """Verified messages straight into the step function; what it does about them is not kept either."""
    for message in messages:
        verified = node.validator.validate(LIAR, message)
        node.replica.step(MessageReceived(verified), node.now)


def growth(make: Callable[[int], Iterator[Message]], count: int) -> int:
    """How many more objects there are after a flood; a short one before it fills what may be filled."""
    _, node = make_node()
    flood(node, make(500))
    before = objects()
    flood(node, make(count))
    return objects() - before


def sizes(node: Node) -> dict[str, int]:
    """Entries in what a replica keeps of messages; msgspec's objects are invisible to the collector."""
    ordering = node.ordering
    live = [consensus for consensus in (ordering.current, ordering.previous) if consensus is not None]
    synchronization = ordering._synchronization
    suspicions = synchronization._stopping._suspicions
    return {
        "votes": sum(len(consensus._voters) for consensus in live),
        "writes": sum(len(consensus._writes) for consensus in live),
        "accepts": sum(len(consensus._accepts) for consensus in live),
        "values": sum(len(consensus.written.all()) for consensus in live),
        "early": len(ordering._early),
        "promises": len(synchronization._collecting._stop_data),
        "answered": len(synchronization._answered) + len(node.replica._serving._answered),
        "suspicions": len(suspicions._asked) + len(suspicions._reached),
        "standings": len(node.replica._taking_part._standings),
        "decisions": len(node.replica.catch_up._fetched),
    }


def too_much(node: Node) -> list[str]:
    bounds = {"early": MAX_EARLY_MESSAGES_PER_SENDER}
    return [f"{size} {what}" for what, size in sizes(node).items() if size > bounds.get(what, 16)]


def test_unsigned_messages_for_other_times_have_no_place_to_pile_up() -> None:
    _, node = make_node()
    flood(node, unsigned_messages(40_000))
    assert too_much(node) == []


def test_memory_does_not_grow_with_the_length_of_the_flood() -> None:
    assert growth(unsigned_messages, 40_000) < ROOM


def test_signed_votes_and_promises_have_no_place_to_pile_up_either() -> None:
    _, node = make_node()
    flood(node, signed_messages(3_000))
    assert too_much(node) == []
    node.effects.clear()
    for message in signed_messages(300):
        node.receive(LIAR, message)
    reports = [effect for effect in node.effects if isinstance(effect, ReportEvidence)]
    assert len(reports) <= WITNESSED_OFFENCES_PER_MEMBER


@pytest.mark.campaign
def test_a_million_messages() -> None:
    cluster, node = make_node()
    flood(node, unsigned_messages(1_000_000))
    assert too_much(node) == []
    cluster.submit(TestClient(2).requests(b"after the flood"))
    cluster.run()
    assert node.replica.executed == 2


def test_what_correct_replicas_said_is_kept_and_the_cluster_goes_on() -> None:
    """Votes of correct replicas come early at a replica that the liar floods; they still decide the instance."""
    cluster, node = make_node()
    cluster.submit(TestClient(2).requests(b"second"))
    held = []
    cluster.run(lambda envelope: envelope[1] != node.id or bool(held.append(envelope)))
    assert cluster.nodes[1].replica.decided == 2
    third = TestClient(3).requests(b"third")
    cluster.submit(third)
    cluster.run(lambda envelope: envelope[1] != node.id or bool(held.append(envelope)))
    early = [envelope for envelope in held if getattr(envelope[2], "instance", 0) == 3]
    now = [envelope for envelope in held if getattr(envelope[2], "instance", 0) == 2]
    for sender, _, message in early:
        if sender != LIAR:
            node.receive(sender, message)
    flood(node, unsigned_messages(2_000))
    for sender, _, message in now:
        if sender != LIAR:
            node.receive(sender, message)
    assert node.replica.decided == 3


def test_early_material_of_regency_changes_is_bounded_and_a_change_still_works() -> None:
    cluster, node = make_node()
    leader = cluster.nodes[2]
    flood(leader, signed_messages(2_000))
    flood(leader, unsigned_messages(2_000))
    assert too_much(leader) == []
    last = leader.replica.last_proof()
    for signer in (0, 1):
        for peer in (leader, node):
            if peer.id != signer:
                peer.receive(signer, Stop(0, 0, 1, b""))
    leader.receive(LIAR, Stop(0, 0, 1, b""))
    for signer in (0, 1):
        leader.receive(signer, stop_data(signer, 1, 2, last=last))
    sent = [message for _, _, message in leader.outbox if isinstance(message, Sync)]
    assert sent
    node.receive(2, sent[0])
    assert (node.replica.regency, node.replica.guard.synchronized) == (1, True)


def test_syncs_of_many_regencies_are_not_collected() -> None:
    _, node = make_node()
    for regency in range(2, 400, 4):
        promises = tuple(signed(replace(stop_data(signer), regency=regency)) for signer in range(3))
        node.receive(2, sync(promises, regency=regency))
    assert too_much(node) == []


# --- planted bugs ---


def _deliver_any(self: ModSmart, sender: int, message: Message) -> None:
    """Votes of the previous instance are taken in every regency: each is a new entry."""
    if self.previous is not None and message.instance == self.previous.instance:  # type: ignore[union-attr]
        self._deliver(self.previous, sender, message)  # type: ignore[arg-type]


def test_planted_bug_votes_of_every_regency_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    _, node = make_node()
    monkeypatch.setattr(ModSmart, "_on_consensus", _deliver_any)
    flood(node, (Write(0, regency, 1, V) for regency in range(1_000)))
    assert too_much(node)


def test_planted_bug_a_global_quota(monkeypatch: pytest.MonkeyPatch) -> None:
    """One buffer for all: the liar pushes out what correct replicas said, and the instance is not decided."""

    def put(self: Inbox[Message], sender: int, instance: int, message: Message) -> None:
        self._messages[sender].append((instance, message))
        while len(self) > MAX_EARLY_MESSAGES_PER_SENDER:
            del next(share for share in self._messages.values() if share)[0]

    monkeypatch.setattr(Inbox, "put", put)
    with pytest.raises(AssertionError):
        test_what_correct_replicas_said_is_kept_and_the_cluster_goes_on()


def test_planted_bug_an_inbox_without_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inbox, "put", lambda self, sender, at, message: self._messages[sender].append((at, message)))
    with pytest.raises(AssertionError):
        test_unsigned_messages_for_other_times_have_no_place_to_pile_up()
