"""What members pass on stays, whatever becomes of the connection that it came from first."""

from __future__ import annotations

import pytest
from kit.pool_scenarios import WIDE, Pool, numbers, r
from kit.pool_twins import START, native_pool

from smartbft._fastpath.pool import FROM_MEMBER, join_requests
from smartbft.smr.pool_rules import PoolOracle


@pytest.mark.parametrize("make", [native_pool, PoolOracle])
def test_a_connection_that_goes_does_not_take_along_what_a_member_passed_on(make) -> None:
    """Else a client alone has a leader replaced: its request waits here for the check behind many others, the members
    pass it on, once, and it hangs up.
    """
    pool = make(WIDE)
    data = join_requests([r(1, 1)])
    pool.admit(data, 9, START)
    pool.admit(data, FROM_MEMBER + 2, START)
    pool.drop_source(9)
    job = pool.take_unverified(10)
    assert job, "it is still to be checked"
    assert pool.apply_verdicts(job, b"\0") == [(FROM_MEMBER + 2, 1)], "who passed it on answers for it"


def test_what_is_passed_on_is_proposed_though_its_connection_is_gone() -> None:
    p = Pool()
    p.receive(r(1, 1), r(1, 2), source=9)
    p.receive(r(1, 1), source=FROM_MEMBER + 2)
    p.pool.drop_source(9)
    p.verify()
    assert (p.pool.ready(), p.pool.stats()["pending"]) == (1, 1)


def test_what_is_passed_on_does_not_wait_behind_what_a_greedy_connection_has_queued() -> None:
    """By the time that was checked, the leader would be replaced."""
    p = Pool()
    p.receive(*(r(2, number, session=START + session) for session in range(9) for number in range(1, 9)), source=9)
    p.receive(r(1, 1), source=9)
    p.receive(r(1, 1), source=FROM_MEMBER + 2)
    job = p.pool.take_unverified(2)
    assert job is not None
    assert (1, 1) in numbers(job.data)


def test_who_brings_a_request_first_and_hangs_up_does_not_take_the_client_s_copy_along() -> None:
    p = Pool()
    p.receive(r(1, 1), source=9)
    p.receive(r(1, 1), source=1)
    p.pool.drop_source(9)
    p.verify()
    assert p.pool.ready() == 1
