"""An instance that goes through very many regencies: what is remembered of them is bounded, and it is decided."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from kit.cluster import Cluster, Node
from kit.regencies import install, pulse, sent, stop_data, sync, value_of, without
from kit.requests import NOW, TestClient

from smartbft.core.inputs import Timer
from smartbft.limits import MAX_WRITE_SET_ENTRIES
from smartbft.messages import Accept, Stop, Write, Written
from smartbft.protocols import written
from smartbft.protocols.written import WrittenValues
from smartbft.types import Parameters

SILENT, FIRST, AWAY, OTHER = 0, 1, 2, 3  # the faulty one; AWAY accepts in regency 0 and then hears nothing for long
REGENCIES = 3 * MAX_WRITE_SET_ENTRIES


@pytest.fixture
def cluster() -> Cluster:
    """AWAY alone has accepted the value of regency 0: it alone has heard the WRITEs of the others."""
    cluster = Cluster(parameters=Parameters(batch_delay=0))
    data = TestClient().requests(b"first")
    cluster.submit(data)
    cluster.run(lambda e: not isinstance(e[2], Accept) and (not isinstance(e[2], Write) or e[1] == AWAY))
    cluster.drop_all()
    assert [node.ordering.current.accepted is not None for node in cluster.nodes] == [False, False, True, False]
    return cluster


def goes_through_regencies(node: Node, count: int) -> Iterator[int]:
    """Regencies begin in which nothing binds, as AWAY is not heard; the node writes another value in each."""
    for regency in range(1, count + 1):
        leader = node.view.leader(regency)
        value = value_of(TestClient().requests(b"first"), NOW + regency)
        statements = [stop_data(id, regency) for id in (SILENT, FIRST, OTHER)]
        node.receive(leader, sync(leader, statements, value, regency=regency))
        assert sent(node, Write)[-1].regency == regency
        node.outbox.clear()
        yield regency


def test_a_value_that_one_accepted_long_ago_still_decides_the_instance(cluster: Cluster) -> None:
    """Nobody but those who wrote it then can certify it, and without it no set of STOPDATA is sound."""
    for id in (FIRST, OTHER):
        for _ in goes_through_regencies(cluster.nodes[id], REGENCIES):
            pass
    assert decides(cluster)
    assert {node.executed[0].data for node in cluster.nodes[1:]} == {TestClient().requests(b"first")}


def decides(cluster: Cluster) -> bool:
    """The next regency begins, the network works from then on, and SILENT stays away. Whether the others decide."""
    honest = cluster.nodes[1:]
    install(cluster, REGENCIES + 1, [FIRST, AWAY, OTHER])
    for _ in range(6):
        pulse(cluster, without(SILENT), silent=(SILENT,))
        for node in honest:
            node.now += node.ordering.timeout
            node.fire(Timer.REGENCY)
            node.fire(Timer.REQUEST)
        if all(node.replica.decided for node in honest):
            return True
    return False


def test_planted_bug_the_newest_entries_alone_stall_it(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule as it was."""
    collect = WrittenValues.collect
    monkeypatch.setattr(WrittenValues, "collect", lambda values, needed: collect(values, ()))
    for id in (FIRST, OTHER):
        for _ in goes_through_regencies(cluster.nodes[id], REGENCIES):
            pass
    assert not decides(cluster)


def test_a_collect_names_what_others_accepted_before_what_is_newer(cluster: Cluster) -> None:
    node = cluster.nodes[OTHER]
    accepted = cluster.nodes[AWAY].ordering.current.accepted
    assert accepted is not None
    (vote,) = [m for m in cluster.nodes[AWAY].ordering.current.sent_messages() if isinstance(m, Accept)]
    node.receive(AWAY, vote)
    for _ in goes_through_regencies(node, REGENCIES):
        pass
    _, write_set = node.ordering.current.collect()
    assert len(write_set) == MAX_WRITE_SET_ENTRIES
    assert Written(accepted[1], 0) in write_set
    assert sum(entry.regency > REGENCIES - MAX_WRITE_SET_ENTRIES for entry in write_set) == MAX_WRITE_SET_ENTRIES - 1


def test_accepting_forgets_what_is_older(cluster: Cluster) -> None:
    node = cluster.nodes[OTHER]
    for regency in goes_through_regencies(node, 5):
        last = regency
    current = node.ordering.current
    digest = current.digest
    for id in (SILENT, FIRST):
        node.receive(id, Write(0, last, 1, digest))
    assert current.accepted == (last, digest)
    assert current.written.regencies == {digest: last}
    assert len(current.written.all()) == 1
    again = cluster.restart(OTHER)
    assert again.ordering.current.collect() == current.collect()


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes, but for what somebody accepted."""
    monkeypatch.setattr(written, "MAX_WRITTEN_VALUES", 10)
    values = WrittenValues()
    for number in range(100):
        digest = bytes([number]) * 32
        values.note(digest, number)
        values.keep(digest, b"v", b"d")
        values.make_room({bytes(32): 0, digest: 0})
    assert list(values.regencies.values()) == [0, *range(91, 100)]
    assert [bytes([number]) * 32 in values for number in (0, 1, 90, 91, 99)] == [True, False, False, True, True]
    assert values.all() == [(b"v", b"d")] * 10


def test_requests_go_before_the_values_that_name_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pools have requests until they are ordered; nobody else has the value."""
    monkeypatch.setattr(written, "MAX_WRITTEN_VALUE_BYTES", 20)
    values = WrittenValues()
    for number in range(5):
        values.keep(bytes([number]) * 32, b"v", b"ten bytes.")
    values.make_room({bytes(32): 0})
    assert [data is not None for _, data in values.all()] == [True, False, False, False, True]
    for number in range(5, 10):
        values.learn(bytes([number]) * 32, b"four")
    values.make_room({bytes(32): 0})
    assert sum(len(value) for value, _ in values.all()) <= 20
    assert values.find(bytes(32)) == (b"v", b"ten bytes.")


def test_regencies_leave_nothing_else_behind(cluster: Cluster) -> None:
    """Promises of regencies that are over, and what was sent in them."""
    node = cluster.nodes[OTHER]
    sizes = []
    for regency in goes_through_regencies(node, 40):
        if regency in (20, 40):
            consensus, guard = node.ordering.current, node.replica.guard
            sizes.append((len(consensus.sent_messages()), len(guard._written), len(guard._proposed)))
    assert sizes[0] == sizes[1]


def test_a_replica_repeats_what_it_accepted_whatever_has_come_since(cluster: Cluster) -> None:
    """Its ACCEPT is what makes the others name the value."""
    node = cluster.nodes[AWAY]
    for id in (SILENT, FIRST, OTHER):
        node.receive(id, Stop(0, 0, 1, b""))
    assert node.replica.regency == 1
    assert [type(m) for m in node.ordering.current.sent_messages() if m.regency == 0] == [Accept]
    again = cluster.restart(AWAY)
    assert [m for m in again.ordering.current.sent_messages() if isinstance(m, Accept)]
