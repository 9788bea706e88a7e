"""The request pool: what clients and peers may do to it, scenario by scenario."""

from __future__ import annotations

import dataclasses
import struct

import pytest
from kit.pool_scenarios import WIDE, Pool, numbers, r
from kit.pool_twins import BAD, REFUSED, RULES, START, make_request, verdicts

from smartbft._fastpath.pool import (
    BAD_SIGNATURE,
    EXECUTED,
    OVERLOADED,
    REJECTED,
    SESSION_INVALID,
    join_requests,
    join_results,
)

# --- the way of one request


def test_life_of_a_request():
    p = Pool()
    request = r()
    assert p.receive(request) == 1
    assert p.pool.ready() == 0
    assert p.pool.oldest_pending() == -1
    p.verify()
    assert p.pool.ready() == 1
    assert p.pool.oldest_pending() == START
    digests, data = p.form()
    assert (digests, data) == (p.digest(request), join_requests([request]))
    assert p.pool.resolve(digests) == (data, b"", 0)
    assert p.pool.collect(digests) == data
    batch = p.order(request)
    assert p.pool.stats()["pending"] == 0
    assert p.pool.session(bytes([1]) * 32, START) == (1, 1, 0)
    p.execute(batch)
    assert p.answered() == []
    assert p.pool.cached_reply(bytes([1]) * 32, START, 1)[56:] == b"r0"
    p.pool.release(*batch)
    assert p.answered() == [(1, EXECUTED, digests)]
    assert p.pool.session(bytes([1]) * 32, START) == (1, 1, 1)


def test_reply_layout():
    p = Pool()
    batch = p.order(r())
    p.pool.executed(*batch, join_results([b"result"]), 1, 3, 77, 2)
    reply = p.pool.cached_reply(bytes([1]) * 32, START, 1)
    assert reply == struct.pack("<HBBIQQ", RULES.replica, EXECUTED, 2, 3, 1, 77) + batch[0] + b"result"


def test_forming_changes_nothing():
    p = Pool()
    p.accept(r(1, 1), r(2, 1), r(1, 2))
    before = p.pool.stats()
    assert p.form() == p.form()
    assert p.pool.stats() == before


# --- duplicates, and copies with bad signatures


def test_the_same_bytes_count_once():
    p = Pool()
    assert p.receive(r()) == 1
    assert p.receive(r()) == 0
    assert p.receive(r(), source=2) == 0
    p.verify()
    assert p.receive(r()) == 0
    assert p.pool.stats()["admitted"] == 1
    assert p.pool.stats()["duplicates"] == 3


def test_bad_copies_never_block_the_good_one():
    p = Pool()
    p.receive(*(r(verdict=BAD, copy=copy) for copy in range(20)), source=9)
    p.receive(r(), source=1)
    p.receive(*(r(verdict=BAD, copy=copy) for copy in range(20, 40)), source=9)
    p.verify(3)
    assert p.form()[0] == p.digest(r())
    assert p.pool.stats()["pending"] == 1


def test_copies_are_not_verified_once_the_number_has_its_request():
    p = Pool()
    p.accept(r())
    assert p.receive(r(copy=1, verdict=BAD), source=9) == 0
    assert p.pool.take_unverified(10) is None


def test_first_verified_wins_and_a_proposals_body_is_kept_besides():
    p = Pool()
    p.accept(r(copy=1))
    assert p.pool.admit_body(join_requests([r(copy=2)]), p.now) == 1
    p.verify()
    assert p.form()[0] == p.digest(r(copy=1))
    assert p.pool.resolve(p.digest(r(copy=2))) == (join_requests([r(copy=2)]), b"", 0)
    p.order(r(copy=2))
    assert p.pool.stats()["pending"] == 0, "others with the decided number are dropped"


def test_verdicts_for_requests_that_are_gone():
    p = Pool()
    p.receive(r(1, 1), r(2, 1, verdict=BAD), r(3, 1))
    job = p.pool.take_unverified(10)
    p.order(r(1, 1), r(2, 1, copy=1))
    assert p.pool.apply_verdicts(job, verdicts(job.data)) == []
    assert numbers(p.form()[1]) == [(3, 1)]


# --- verification queue


def test_sources_are_verified_in_turn():
    p = Pool()
    p.receive(*(r(1, 1, verdict=BAD, copy=copy) for copy in range(50)), source=9)
    p.receive(r(2, 1), r(2, 2), source=1)
    p.receive(r(3, 1), source=2)
    assert numbers(p.pool.take_unverified(6).data) == [(1, 1), (2, 1), (3, 1), (1, 1), (2, 2), (1, 1)]


def test_named_requests_go_first():
    p = Pool()
    p.receive(r(1, 1), r(1, 2), r(2, 1))
    wanted = p.digest(r(2, 1)) + p.digest(r(1, 2))
    assert p.pool.resolve(wanted) == (b"", b"", 2)
    p.pool.admit_body(join_requests([r(3, 1)]), p.now)
    assert numbers(p.pool.take_unverified(10).data) == [(2, 1), (1, 2), (3, 1), (1, 1)]


def test_resolving_reports_what_is_missing():
    p = Pool()
    p.accept(r(1, 1))
    p.receive(r(1, 2))
    absent = p.digest(r(1, 3))
    digests = p.digest(r(1, 1)) + absent + p.digest(r(1, 2))
    assert p.pool.resolve(digests) == (b"", absent, 1)
    assert p.pool.collect(digests) == join_requests([r(1, 1)])


def test_a_flood_of_bad_signatures_costs_only_its_source():
    p = Pool(dataclasses.replace(WIDE, max_unverified_per_source=10))
    flood = [r(1, 1, verdict=BAD, copy=copy) for copy in range(200)]
    assert p.receive(*flood, source=9) == 10
    assert p.receive(*(r(key, 1) for key in range(2, 12)), source=1) == 10
    job = p.pool.take_unverified(100)
    assert p.pool.apply_verdicts(job, verdicts(job.data)) == [(9, 10)]
    assert p.pool.stats()["bad_signatures"] == 10
    assert p.pool.ready() == 10
    counted = p.statuses()
    assert counted.count((9, OVERLOADED)) == 190
    assert counted.count((9, BAD_SIGNATURE)) == 10
    assert len(counted) == 200


def test_refusals_do_not_fill_the_memory():
    p = Pool()
    p.pool.set_accepting(False)
    for _ in range(100):
        p.receive(*(r(1, 1, verdict=BAD, copy=copy) for copy in range(200)), source=9)
    ((source, frames),) = p.pool.take_replies()
    assert source == 9
    assert len(frames) < 300 * 1024


def test_the_application_refuses_a_request():
    p = Pool()
    p.accept(r(verdict=REFUSED))
    assert p.statuses() == [(1, REJECTED)]
    assert p.pool.stats()["pending"] == 0
    assert p.pool.stats()["bad_signatures"] == 0


def test_a_mask_must_fit_its_job():
    p = Pool()
    p.receive(r())
    job = p.pool.take_unverified(1)
    with pytest.raises(ValueError, match="mask of 2 bytes"):
        p.pool.apply_verdicts(job, b"\1\1")


def test_unverified_requests_are_ready_in_the_benchmark_mode():
    p = Pool(dataclasses.replace(WIDE, admit_unverified=True))
    p.receive(r(verdict=BAD))
    assert p.pool.take_unverified(1) is None
    assert numbers(p.form()[1]) == [(1, 1)]


# --- limits


@pytest.mark.parametrize(
    ("change", "taken"),
    [
        ({"max_requests": 5}, 5),
        ({"max_bytes": 116 * 4 + 64}, 4),
        ({"max_unverified_per_source": 3}, 3),
        ({"window": 6}, 6),
    ],
)
def test_limits_refuse_what_is_beyond(change, taken):
    p = Pool(dataclasses.replace(WIDE, **change))
    assert p.receive(*(r(1, number) for number in range(1, 11))) == taken
    assert p.statuses() == [(1, OVERLOADED)] * (10 - taken)
    p.verify()
    assert p.pool.ready() == taken


def test_a_full_pool_takes_the_bodies_of_a_proposal():
    p = Pool(dataclasses.replace(WIDE, max_requests=3))
    p.accept(r(1, 1), r(1, 2), r(1, 3))
    bodies = [r(2, 1), r(2, 2), r(2, 3)]
    assert p.pool.admit_body(join_requests(bodies), p.now) == 3
    p.verify()
    names = b"".join(map(p.digest, bodies))
    assert p.pool.resolve(names)[0] == join_requests(bodies)
    newer = [r(3, 1), r(3, 2)]
    assert p.pool.admit_body(join_requests(newer), p.now) == 2
    assert p.pool.stats()["pending"] == 6, "the oldest bodies made room"
    assert p.pool.resolve(names)[1] == b"".join(map(p.digest, bodies[:2]))


def test_nothing_new_is_taken_while_not_accepting():
    p = Pool()
    p.accept(r(1, 1))
    p.pool.set_accepting(False)
    assert p.receive(r(1, 2)) == 0
    assert p.statuses() == [(1, OVERLOADED)]
    assert p.pool.admit_body(join_requests([r(1, 2)]), p.now) == 1, "but proposals are still voted for"
    batch = p.order(r(1, 1))
    p.execute(batch)
    p.pool.release(*batch)
    p.answered()
    p.receive(r(1, 1), source=4)
    assert p.statuses() == [(4, EXECUTED)], "and answered requests are answered again"
    p.pool.set_accepting(True)
    assert p.receive(r(1, 3)) == 1


@pytest.mark.parametrize("change", [{"max_sessions": 2}, {"max_sessions_per_key": 2}])
def test_session_limits(change):
    p = Pool(dataclasses.replace(WIDE, **change))
    p.accept(*(r(1, 1, session=START + number) for number in range(4)))
    assert p.pool.ready() == 2
    assert p.statuses() == [(1, OVERLOADED)] * 2
    p.order(r(1, 1, session=START), r(1, 1, session=START + 1))
    assert p.receive(r(1, 1, session=START + 2)) == 0, "none is evicted"
    assert p.receive(r(1, 2, session=START)) == 1
    too_many = join_requests([r(1, 1, session=START + 3)])
    assert p.pool.check(too_many, p.now + 1, 10, 1000) == SESSION_INVALID


def test_forged_sessions_take_no_places():
    p = Pool(dataclasses.replace(WIDE, max_sessions=2))
    p.receive(*(r(1, 1, session=START + number, verdict=BAD) for number in range(50)), source=9)
    p.receive(r(2, 1))
    p.verify()
    assert numbers(p.form()[1]) == [(2, 1)]


# --- windows and gaps


def test_requests_beyond_a_gap_wait():
    p = Pool()
    p.accept(r(1, 2), r(1, 3), r(1, 8), r(1, 9))
    assert p.pool.ready() == 0
    assert p.pool.oldest_pending() == -1
    assert p.statuses() == [(1, OVERLOADED)]
    p.now += 50
    p.accept(r(1, 1))
    assert p.pool.ready() == 3
    assert p.pool.oldest_pending() == START + 50, "the deadline starts when a leader could propose"
    assert numbers(p.form()[1]) == [(1, 1), (1, 2), (1, 3)]
    assert p.pool.session(bytes([1]) * 32, START) == (3, 0, 0)


def test_the_window_moves_with_the_ordered_prefix():
    p = Pool(dataclasses.replace(WIDE, window=2))
    assert p.receive(r(1, 3)) == 0
    p.order(r(1, 1))
    assert p.receive(r(1, 3)) == 1
    assert p.receive(r(1, 4)) == 0


def test_replies_are_kept_for_a_window():
    p = Pool(dataclasses.replace(WIDE, window=2))
    for sequence in (1, 2, 3):
        batch = p.order(r(1, sequence))
        p.execute(batch)
        p.pool.release(*batch)
    p.answered()
    p.receive(r(1, 1), r(1, 2), r(1, 3), source=7)
    assert p.answered() == [(7, EXECUTED, p.digest(r(1, sequence))) for sequence in (2, 3)]


# --- retransmission


def test_a_retransmission_moves_the_reply_to_the_newer_connection():
    p = Pool()
    p.receive(r(1, 1), r(1, 2), r(1, 3), source=1)
    p.receive(r(1, 1), source=2)
    p.verify()
    p.receive(r(1, 2), source=3)
    batch = p.order(r(1, 1), r(1, 2), r(1, 3))
    p.receive(r(1, 3), source=4)
    assert p.answered() == [], "silence: it was not executed"
    p.execute(batch)
    p.receive(r(1, 3), source=5)
    assert p.answered() == [], "silence: it is not durable"
    p.pool.release(*batch)
    assert [source for source, _, _ in p.answered()] == [2, 3, 5]
    p.receive(r(1, 3), source=6)
    assert p.answered() == [(6, EXECUTED, p.digest(r(1, 3)))]


def test_only_the_very_request_is_answered():
    """Another request with its number, perhaps forged, neither gets the reply nor moves it."""
    p = Pool()
    p.receive(r(1, 1), source=1)
    p.verify()
    batch = p.order(r(1, 1))
    p.receive(r(1, 1, copy=1, verdict=BAD), source=9)
    p.execute(batch)
    p.pool.release(*batch)
    assert [source for source, _, _ in p.answered()] == [1]
    p.receive(r(1, 1, copy=1, verdict=BAD), source=9)
    assert p.answered() == []


def test_replies_repeated_on_demand_do_not_fill_the_memory():
    p = Pool()
    batch = p.order(r(1, 1))
    p.pool.executed(*batch, join_results([bytes(1000)]), 1, 0, p.now, 2)
    p.pool.release(*batch)
    p.receive(*[r(1, 1)] * 1000, source=9)
    assert len(p.pool.take_replies()[0][1]) < 300 * 1024


def test_a_request_known_only_from_a_decision_is_answered_when_asked():
    p = Pool()
    batch = p.order(r(1, 1))
    p.execute(batch)
    p.pool.release(*batch)
    assert p.answered() == []
    p.receive(r(1, 1), source=3)
    assert p.statuses() == [(3, EXECUTED)]


def test_a_dropped_connection_gets_nothing():
    p = Pool()
    p.accept(r(1, 1), source=1)
    p.receive(r(1, 2), source=1)
    p.pool.drop_source(1)
    assert p.pool.take_unverified(9) is None
    batch = p.order(r(1, 1))
    p.execute(batch)
    p.pool.release(*batch)
    assert p.answered() == []
    assert p.receive(r(1, 2), source=2) == 1


def test_a_job_of_another_pool_changes_nothing():
    p, other = Pool(), Pool()
    p.receive(r(verdict=BAD))
    other.receive(r(verdict=BAD))
    job = p.pool.take_unverified(1)
    assert other.pool.take_unverified(1).data == job.data
    assert other.pool.apply_verdicts(job, b"\1") == []
    assert other.pool.ready() == 0


def test_a_clock_that_was_set_forward_and_back_does_not_refuse_new_sessions():
    """As when a machine comes up with a wrong clock: else every session is too old until the process ends."""
    pool = Pool()
    day = 1000 * WIDE.lease
    pool.now = START + day
    assert pool.receive(make_request(1, START + day, 1)) == 1
    pool.now = START
    assert pool.receive(make_request(2, START, 1)) == 1
    assert pool.receive(make_request(3, START + day, 1)) == 0, "too far ahead again"


def test_the_clock_is_never_before_the_agreed_time():
    pool = Pool()
    pool.order(make_request(1, START, 1))
    agreed = pool.pool.agreed_time
    pool.now = agreed - WIDE.skew - 1
    assert pool.receive(make_request(2, agreed + WIDE.skew, 1)) == 1


def test_what_the_next_batch_may_open_is_taken_whatever_the_clock_shows():
    pool = Pool()
    pool.order(make_request(1, START, 1))
    pool.now += 3 * WIDE.lease
    assert pool.receive(make_request(2, START, 1)) == 1
    assert pool.receive(make_request(3, START - 2 * WIDE.lease, 1)) == 0
    assert pool.receive(make_request(3, START + WIDE.lease, 1)) == 0, "neither of the agreed time nor of the clock's"
