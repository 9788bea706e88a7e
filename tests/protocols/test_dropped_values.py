"""A value that one replica accepted long ago, and that binds, is still there where it was written.

The bytes of old values are dropped from memory beyond a limit. That somebody accepted one of these is not known while
that replica cannot be heard, so requests go first: pools have them as long as they are not ordered.
"""

from __future__ import annotations

import pytest
from kit.cluster import Cluster
from kit.regencies import install, pulse, stop_data, sync, value_of, without
from kit.requests import NOW, TestClient

from smartbft.core.inputs import Timer
from smartbft.messages import Accept, Propose, Write
from smartbft.protocols import written
from smartbft.types import Parameters

SILENT, FIRST, AWAY, OTHER = range(4)  # the faulty one; AWAY accepts in regency 0 what it has not seen, and is cut off
REGENCIES = 20
DATA = TestClient().requests(b"first")


def decides(cluster: Cluster) -> bool:
    """The network works from now on, and only SILENT stays away."""
    honest = cluster.nodes[1:]
    install(cluster, REGENCIES + 1, [FIRST, AWAY, OTHER])
    for _ in range(30):
        pulse(cluster, without(SILENT), silent=(SILENT,))
        for node in honest:
            node.now += node.ordering.timeout
            node.fire(Timer.REGENCY)
            node.fire(Timer.REQUEST)
        if all(node.replica.decided for node in honest):
            return True
    return False


@pytest.mark.parametrize("limit", [written.MAX_WRITTEN_VALUE_BYTES, 2_000], ids=["room", "no room"])
def test_a_value_that_binds_is_found(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(written, "MAX_WRITTEN_VALUE_BYTES", limit)
    cluster = Cluster(parameters=Parameters(batch_delay=0))
    cluster.submit(DATA)
    cluster.run(
        lambda e: (
            not isinstance(e[2], Accept)
            and (not isinstance(e[2], Write) or e[1] == AWAY)
            and not (isinstance(e[2], Propose) and e[1] == AWAY)
        )
    )
    cluster.drop_all()
    assert [node.ordering.current.accepted is not None for node in cluster.nodes] == [False, False, True, False]
    for id in (FIRST, OTHER):
        node = cluster.nodes[id]
        for regency in range(1, REGENCIES + 1):
            leader = node.view.leader(regency)
            promises = [stop_data(signer, regency) for signer in (SILENT, FIRST, OTHER)]
            node.receive(leader, sync(leader, promises, value_of(DATA, NOW + regency), regency=regency))
            node.outbox.clear()
    assert decides(cluster)
