"""The request pool: sessions in time, batches, the predicate, decisions and timers, scenario by scenario."""

from __future__ import annotations

import dataclasses
import struct
import threading

import pytest
from kit.pool_scenarios import WIDE, Pool, numbers, r
from kit.pool_twins import RULES, START, native_pool, verdicts

from smartbft._fastpath.pool import (
    DUPLICATE,
    EMPTY,
    MALFORMED,
    NOT_CONTIGUOUS,
    SESSION_INVALID,
    SESSION_REFUSED,
    TOO_LARGE,
    VALID,
    VerifyJob,
    join_requests,
    join_results,
)
from smartbft.errors import LocalProtocolError

# --- sessions in time


@pytest.mark.parametrize(
    ("session", "admitted"),
    [
        (START - 1001, False),
        (START - 1000, True),
        (START + 100, True),
        (START + 101, False),
        (0, False),
        (2**64 - 1, False),
    ],
)
def test_sessions_open_only_near_the_present(session, admitted):
    p = Pool()
    data = join_requests([r(1, 1, session=session)])
    assert p.receive(r(1, 1, session=session)) == admitted
    assert p.statuses() == ([] if admitted else [(1, SESSION_REFUSED)])
    assert p.pool.check(data, START, 9, 999) == (VALID if admitted else SESSION_INVALID)


def test_a_session_refusal_tells_the_time():
    p = Pool()
    p.receive(r(1, 1, session=1))
    ((_, frames),) = p.pool.take_replies()
    assert struct.unpack_from("<Q", frames, 5 + 16) == (START,)


def test_replay_is_impossible_after_a_session_lapsed():
    p = Pool()
    old = r(1, 1)
    batch = p.order(old)
    p.execute(batch)
    p.pool.release(*batch)
    p.now += 1000
    p.order(r(2, 1, session=p.now))
    assert p.pool.session(bytes([1]) * 32, START) is not None, "the lease is not over yet"
    p.now += 1
    p.order(r(2, 2, session=p.now - 1))
    assert p.pool.session(bytes([1]) * 32, START) is None
    assert p.receive(old, source=5) == 0
    assert p.statuses() == [(5, SESSION_REFUSED)]
    assert p.pool.check(join_requests([old]), p.now + 1, 9, 999) == SESSION_INVALID


def test_activity_keeps_a_session():
    p = Pool()
    for sequence in range(1, 6):
        p.order(r(1, sequence))
        p.now += 900
    assert p.pool.session(bytes([1]) * 32, START) == (5, 5, 0)


def test_a_session_with_a_number_ahead_outlives_its_idle_time():
    p = Pool()
    p.order(r(1, 1, session=START + 100))
    p.now += 1050
    p.order(r(2, 1, session=p.now))
    assert p.pool.session(bytes([1]) * 32, START + 100) is not None


def test_pending_requests_of_a_lapsed_session_are_refused():
    p = Pool()
    p.accept(r(1, 1), r(1, 3), source=4)
    p.order(r(1, 1))
    p.accept(r(3, 1), source=6)  # never decided
    p.now += 1001
    p.order(r(2, 1, session=p.now))
    assert sorted(p.statuses()) == [(4, SESSION_REFUSED), (6, SESSION_REFUSED)]
    assert p.pool.stats()["pending"] == 0


def test_results_that_come_after_the_lease_are_dropped():
    p = Pool()
    batch = p.order(r(1, 1))
    p.now += 1001
    p.order(r(2, 1, session=p.now))
    p.execute(batch)
    p.pool.release(*batch)
    assert p.pool.cached_reply(bytes([1]) * 32, START, 1) is None


# --- fairness


def test_batches_are_fair():
    p = Pool()
    p.accept(*(r(1, number) for number in range(1, 9)))
    p.accept(r(2, 1), r(2, 2), r(3, 1))
    assert numbers(p.form(6)[1]) == [(1, 1), (2, 1), (3, 1), (1, 2), (2, 2), (1, 3)]


def test_who_was_served_waits_behind_who_was_not():
    p = Pool()
    p.accept(*(r(key, number) for key in (1, 2, 3) for number in (1, 2)))
    served = []
    for _ in range(3):
        digests, data = p.form(2)
        p.decide(digests, data, p.pool.agreed_time + 1 if p.pool.agreed_time else p.now)
        served.append(numbers(data))
    assert served == [[(1, 1), (2, 1)], [(3, 1), (1, 2)], [(2, 2), (3, 2)]]


def test_a_large_request_is_not_starved():
    p = Pool()
    p.accept(*(r(1, number) for number in range(1, 5)))
    p.accept(r(2, 1, size=64))
    small, large = 4 + 116, 4 + 116 + 64
    order = []
    while p.pool.ready():
        digests, data = p.form(9, max_bytes=large)
        p.decide(digests, data, max(p.now, p.pool.agreed_time + 1))
        order.append(numbers(data))
    assert order[:2] == [[(1, 1)], [(2, 1)]]
    assert len(order) == 5
    assert small < large < 2 * small


@pytest.mark.parametrize("max_requests", [1, 2, 5, 100])
def test_batch_limits(max_requests):
    p = Pool()
    p.accept(*(r(key, number) for key in range(5) for number in (1, 2)))
    digests, data = p.form(max_requests, max_bytes=720)
    assert len(digests) == 32 * min(max_requests, 720 // 120)
    assert p.pool.check(data, p.now, max_requests, 720) == VALID


def test_sessions_that_cannot_open_yet_are_skipped():
    p = Pool()
    p.accept(r(1, 1, session=START + 100), r(2, 1))
    assert numbers(p.pool.form_batch(9, 999, START - 1)[1]) == [(2, 1)]


# --- the predicate


@pytest.mark.parametrize(
    ("verdict", "data"),
    [
        (EMPTY, b""),
        (TOO_LARGE, join_requests([r(key, 1) for key in range(4)])),
        (TOO_LARGE, join_requests([r(1, 1, size=64), r(2, 1, size=64), r(3, 1, size=64)])),
        (MALFORMED, b"\1"),
        (MALFORMED, join_requests([r(1, 1)])[:-1]),
        (MALFORMED, join_requests([r(1, 1, size=65)])),
        (DUPLICATE, join_requests([r(1, 1), r(1, 1)])),
        (DUPLICATE, join_requests([r(1, 1), r(1, 1, copy=1)])),
        (DUPLICATE, join_requests([r(1, 9), r(1, 9)])),
        (NOT_CONTIGUOUS, join_requests([r(1, 2)])),
        (NOT_CONTIGUOUS, join_requests([r(1, 1), r(1, 3)])),
        (NOT_CONTIGUOUS, join_requests([r(1, 2), r(1, 1)])),
        (NOT_CONTIGUOUS, join_requests([r(5, 1)])),
        (SESSION_INVALID, join_requests([r(1, 1, session=1)])),
        (VALID, join_requests([r(1, 1), r(2, 1), r(1, 2)])),
        (VALID, join_requests([r(5, 2)])),
    ],
)
def test_check(verdict, data):
    p = Pool()
    p.order(r(5, 1))
    before = p.pool.stats()
    assert p.pool.check(data, p.now + 1, 3, 480) == verdict
    assert p.pool.stats() == before


def test_a_window_of_one_session_fits_a_batch_and_no_more():
    p = Pool()
    assert p.pool.check(join_requests([r(1, n) for n in range(1, 9)]), START, 99, 9999) == VALID
    assert p.pool.check(join_requests([r(1, n) for n in range(1, 10)]), START, 99, 9999) == NOT_CONTIGUOUS


def test_the_verdict_does_not_depend_on_what_was_received():
    p = Pool()
    p.accept(r(1, 1), r(1, 2), r(3, 1, session=START + 7))
    fresh = Pool()
    for data in (join_requests([r(1, 1)]), join_requests([r(1, 2)]), join_requests([r(3, 1, session=START + 7)])):
        assert p.pool.check(data, START, 9, 999) == fresh.pool.check(data, START, 9, 999)


# --- the caller's mistakes


def test_decisions_must_follow_the_prefix():
    p = Pool()
    batch = p.order(r(1, 1))
    for digests, data, timestamp in (
        (*batch, p.now + 1),
        (p.digest(r(1, 3)), join_requests([r(1, 3)]), p.now + 1),
        (p.digest(r(1, 2)), join_requests([r(1, 2)]), p.now),
        (b"", join_requests([r(1, 2)]), p.now + 1),
        (p.digest(r(1, 2)), b"", p.now + 1),
        (p.digest(r(1, 2))[:-1], join_requests([r(1, 2)]), p.now + 1),
        (p.digest(r(1, 2)), join_requests([r(1, 2)])[:-1], p.now + 1),
    ):
        before = p.pool.stats()
        with pytest.raises(LocalProtocolError):
            p.decide(digests, data, timestamp)
        assert p.pool.stats() == before
    assert p.pool.agreed_time == p.now


def test_execution_and_release_must_come_in_order():
    p = Pool()
    first, second = p.order(r(1, 1)), p.order(r(1, 2))
    with pytest.raises(LocalProtocolError, match="out of order"):
        p.execute(second)
    with pytest.raises(LocalProtocolError, match="before it was executed"):
        p.pool.release(*first)
    p.execute(first)
    with pytest.raises(LocalProtocolError, match="executed before"):
        p.execute(first)
    with pytest.raises(LocalProtocolError, match="2 results"):
        p.pool.executed(*second, join_results([b"", b""]), 2, 0, 1, 0)
    p.pool.release(*first)
    p.pool.release(*first)
    assert p.pool.session(bytes([1]) * 32, START) == (2, 2, 1)


@pytest.mark.parametrize(
    "change", [{"window": 0}, {"max_requests": 0}, {"max_bytes": 179}, {"replica": 65536}, {"lease": -1}]
)
def test_impossible_parameters(change):
    with pytest.raises(ValueError, match=r"must|from"):
        native_pool(dataclasses.replace(RULES, **change))


def test_jobs_cannot_be_made_up():
    with pytest.raises(TypeError):
        _ = VerifyJob.__new__(VerifyJob).count
    with pytest.raises(TypeError):
        VerifyJob()


# --- timers


def test_overdue_requests_come_with_their_predecessors():
    p = Pool()
    p.accept(r(1, 2))
    p.now += 10
    p.accept(r(1, 1), r(2, 1))
    p.now += 10
    p.accept(r(1, 3))
    assert numbers(p.pool.overdue(START + 10, 9999)) == []
    assert numbers(p.pool.overdue(START + 11, 9999)) == [(1, 1), (1, 2), (2, 1)]
    assert numbers(p.pool.overdue(START + 99, 240)) == [(1, 1), (1, 2)]
    p.order(r(1, 1), r(1, 2))
    assert numbers(p.pool.overdue(START + 99, 9999)) == [(2, 1), (1, 3)]
    assert p.pool.oldest_pending() == START + 10


def test_conflicting_requests_start_no_endless_timer():
    """A client that sends different requests with one number to different replicas: the decided one ends the matter."""
    p = Pool()
    p.accept(r(1, 1, copy=1))
    p.order(r(1, 1, copy=2))
    assert p.pool.oldest_pending() == -1


# --- threads


def test_threads_of_python_cannot_corrupt_a_pool():
    """Calls release the GIL: two threads that use one pool at once come out with a whole one."""
    p = Pool(dataclasses.replace(WIDE, max_requests=5000, max_unverified_per_source=5000, max_bytes=1 << 24))

    def load(key):
        for sequence in range(1, 9):
            for session in range(40):
                p.pool.admit(join_requests([r(key, sequence, session=START + session)]), key, START)
                job = p.pool.take_unverified(3)
                if job is not None:
                    p.pool.apply_verdicts(job, verdicts(job.data))

    threads = [threading.Thread(target=load, args=(key,)) for key in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    p.verify()
    assert p.pool.ready() == p.pool.stats()["pending"] == 640
