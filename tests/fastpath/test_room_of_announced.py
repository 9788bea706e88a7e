"""Room for requests that wait for HOLDs: a greedy connection does not push out what a light one just sent."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kit.hold_twins import CHANNEL_RULES, unsigned
from kit.pool_twins import START, native_pool

from smartbft._fastpath.pool import join_requests, request_digests
from smartbft.smr.pool_rules import PoolOracle

CHANNEL = replace(
    CHANNEL_RULES,
    window=64,
    max_requests=64,
    max_bytes=1 << 20,
    max_unverified_per_source=100,
    max_holds=100,
    max_sessions=50,
    max_sessions_per_key=8,
)
BOTH = pytest.mark.parametrize("make", [native_pool, PoolOracle])


class Channel:
    """A pool of the channel mode, with members that announce."""

    def __init__(self, make) -> None:
        self.pool = make(CHANNEL)
        for client in range(1, 10):
            self.pool.holds.prove(client, bytes([client]) * 32)

    def admit(self, *requests: bytes, client: int) -> int:
        count = self.pool.admit(join_requests(requests), client, START)
        while job := self.pool.take_unverified(100):
            self.pool.apply_verdicts(job, b"\1" * len(requests))
        return count

    def hold(self, *requests: bytes, members: tuple[int, ...] = (0, 2, 3)) -> None:
        for member in members:
            self.pool.holds.hold(member, request_digests(CHANNEL.chain_id, join_requests(requests)), START)


@BOTH
def test_a_full_connection_does_not_push_out_what_a_light_one_just_announced(make) -> None:
    """All that the greedy one has could be proposed; the light one's request waits for the others' HOLDs."""
    c = Channel(make)
    mine = unsigned(1, START, 1)
    flood = [unsigned(9, START, number) for number in range(1, 65)]
    c.admit(*flood, client=9)
    c.hold(*flood)
    assert c.pool.ready() == 64
    assert c.admit(mine, client=1) == 1
    for number in range(1, 33):
        c.admit(unsigned(9, START + 1, number), client=9)
    c.hold(mine, members=(0, 2))
    assert c.pool.session(bytes([1]) * 32, START) == (1, 0, 0), "it is here, and ready"
