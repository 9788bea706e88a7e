"""Room in the request pool: what could not be proposed gives way, nobody has more than a share, and time passes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kit.hold_twins import CHANNEL_RULES, random_hold_walk, unsigned
from kit.pool_scenarios import WIDE, Pool, numbers, r
from kit.pool_twins import START, native_pool, random_walk

from smartbft import limits
from smartbft._fastpath.pool import FROM_MEMBER, OVERLOADED, SESSION_REFUSED, join_requests, request_digests
from smartbft.smr.room_rules import Room
from smartbft.smr.sessions import Pending, PoolRules
from smartbft.types import Parameters

ROOM = 16
SMALL = replace(WIDE, max_requests=ROOM)
REAL = PoolRules(
    chain_id=bytes(32),
    window=limits.DEFAULT_WINDOW,
    max_requests=limits.MAX_POOL_REQUESTS,
    max_bytes=limits.MAX_POOL_BYTES,
    max_operation_bytes=limits.MAX_OPERATION_BYTES,
    max_sessions=limits.MAX_SESSIONS,
    max_sessions_per_key=limits.MAX_SESSIONS_PER_KEY,
    max_unverified_per_source=limits.MAX_UNVERIFIED_PER_SOURCE,
    lease=limits.SESSION_LEASE_MICROSECONDS,
    skew=limits.CLOCK_SKEW_MICROSECONDS,
    max_idle=limits.MAX_IDLE_REQUEST_TIMEOUTS * Parameters().request_timeout,
)


def behind_gaps(count: int, **rest: int) -> list[bytes]:
    """Requests that nobody can propose, of as many sessions."""
    return [r(1, 2, session=START + number, **rest) for number in range(count)]


# --- what could not be proposed gives way


def test_requests_behind_a_gap_give_way_to_any_other():
    p = Pool(SMALL)
    p.accept(*behind_gaps(ROOM), source=9)
    assert p.pool.stats()["full"] == 1
    assert p.receive(r(2, 1), source=1) == 1
    p.verify()
    assert numbers(p.form()[1]) == [(2, 1)]
    assert p.statuses() == [(9, OVERLOADED)]
    assert (p.pool.stats()["idle"], p.pool.stats()["evicted"]) == (ROOM - 1, 1)


def test_requests_behind_a_gap_take_no_room_from_those_that_could_be_proposed():
    p = Pool(SMALL)
    p.accept(*(r(2, number, session=START + session) for session in (0, 1) for number in range(1, 9)))
    assert p.receive(*behind_gaps(3), source=9) == 0
    assert p.pool.ready() == ROOM


def test_of_those_behind_gaps_the_connection_with_most_gives_way():
    p = Pool(SMALL)
    p.accept(r(2, 2), source=2)
    p.accept(*behind_gaps(ROOM - 1), source=9)
    p.accept(*(r(3, number) for number in range(1, 9)), source=3)
    assert p.pool.session(bytes([2]) * 32, START) is not None, "the oldest, but of a connection that has no more"


def test_a_gap_that_opens_later_makes_what_is_after_it_give_way():
    p = Pool(replace(SMALL, max_requests=8))
    p.order(r(1, 1))
    p.accept(*(r(1, number) for number in range(3, 10)), source=9)
    p.accept(*(r(2, number) for number in range(1, 9)), source=1)
    assert p.pool.ready() == 8


def test_what_could_not_be_proposed_lasts_for_a_while_only():
    p = Pool(replace(WIDE, max_idle=400))
    p.accept(r(1, 2), source=9)
    p.accept(r(2, 1), source=1)
    p.pool.pass_time(START + 400)
    assert p.pool.stats()["pending"] == 2
    p.pool.pass_time(START + 401)
    assert numbers(p.form()[1]) == [(2, 1)]
    assert p.pool.stats()["pending"] == 1
    assert p.statuses() == [(9, OVERLOADED)]
    p.accept(r(1, 2), r(1, 1), source=9)
    assert p.pool.ready() == 3, "and comes back when it is sent again"


def test_a_clock_that_is_set_back_keeps_nothing_for_longer():
    p = Pool(replace(WIDE, max_idle=400))
    p.now = START + 10_000
    p.accept(r(1, 2, session=p.now))
    p.pool.pass_time(START)
    p.pool.pass_time(START + 401)
    assert p.pool.stats()["pending"] == 0


@pytest.mark.parametrize("keys", [2, 65])
@pytest.mark.parametrize("source", [9, FROM_MEMBER + 2])
def test_one_connection_or_member_does_not_fill_a_pool_of_the_real_size(keys, source):
    """Two keys with the largest operations, or many with the smallest ones; from a client, or a liar that helps it."""
    p = Pool(REAL)
    p.now = START + 2 * REAL.lease
    size = REAL.max_operation_bytes if keys == 2 else 0
    for key in range(keys):
        for session in range(16):
            p.accept(*(r(key, n, session=p.now + session, size=size) for n in range(2, 65)), source=source)
    if keys != 2:
        p.accept(*(r(200, n, session=p.now, size=0) for n in range(2, 65)), source=source)
    before = p.pool.stats()
    assert before["idle"] == before["pending"]
    assert before["full"] == 1 or keys == 65
    assert p.receive(r(77, 1, session=p.now, size=REAL.max_operation_bytes), source=1) == 1
    p.verify()
    assert p.pool.ready() == 1
    p.now += REAL.max_idle + 1
    p.pool.pass_time(p.now)
    assert p.pool.stats()["pending"] == 1


def test_many_keys_with_a_request_each_give_way_too():
    p = Pool(SMALL)
    p.accept(*(r(key, 2) for key in range(100, 100 + ROOM)), source=9)
    assert p.receive(*(r(key, 1) for key in range(8)), source=1) == 8
    p.verify()
    assert p.pool.ready() == 8


def test_a_liar_that_names_what_cannot_be_proposed_does_not_keep_it_here():
    p = Pool(replace(SMALL, max_idle=400))
    requests = behind_gaps(ROOM)
    p.accept(*requests, source=9)
    names = b"".join(map(p.digest, requests))
    p.pool.resolve(names)
    assert p.receive(r(2, 1)) == 1
    p.pool.pass_time(START + 401)
    assert p.pool.stats()["pending"] == 1


def test_without_signatures_what_too_few_hold_gives_way_and_lasts_for_a_while_only():
    rules = replace(CHANNEL_RULES, window=8, max_requests=4, max_bytes=1 << 20, max_unverified_per_source=50)
    pool = native_pool(rules)
    for client in (1, 2):
        pool.holds.prove(client, bytes([client]) * 32)

    def admit(*requests: bytes, client: int) -> int:
        count = pool.admit(join_requests(requests), client, START)
        while (job := pool.take_unverified(100)) is not None:
            pool.apply_verdicts(job, job.run())
        return count

    held = [unsigned(2, START, number) for number in range(2, 6)]  # by all, but a gap is before them
    admit(*held, client=2)
    for member in (0, 2, 3):
        pool.holds.hold(member, request_digests(rules.chain_id, join_requests(held)), START)
    assert pool.stats()["idle"] == 4
    mine = unsigned(1, START, 1)
    assert admit(mine, client=1) == 1
    for member in (0, 2):
        pool.holds.hold(member, request_digests(rules.chain_id, join_requests([mine])), START)
    assert pool.ready() == 1
    pool.pass_time(START + rules.max_idle + 1)
    assert pool.stats()["pending"] == 1


# --- places


@pytest.mark.parametrize("change", [{"max_sessions": 2}, {"max_sessions_per_key": 2}])
def test_only_sessions_with_a_request_that_could_be_proposed_hold_places(change):
    p = Pool(replace(WIDE, **change))
    p.accept(*behind_gaps(10), source=9)
    p.accept(r(1, 1, session=START + 50))
    assert numbers(p.form()[1]) == [(1, 1)]
    p.accept(r(1, 1, session=START), source=9)
    assert p.pool.ready() == 3, "it has a place once its gap is filled"
    p.accept(r(1, 1, session=START + 1), source=9)
    assert (9, OVERLOADED) in p.statuses()


def test_a_session_whose_first_request_goes_gives_its_place_back():
    """Its first request gives way to a lighter connection's."""
    p = Pool(replace(SMALL, max_sessions=3, max_requests=64, max_unverified_per_source=100))
    p.accept(*(r(1, number, session=START) for number in range(1, 9)), source=9)
    p.accept(*(r(1, number, session=START + 1) for number in range(1, 9)), source=9)
    p.pool.drop_source(9)
    rest = [r(key, 2) for key in range(100, 148)]
    p.accept(*rest, source=8)
    assert p.pool.stats()["full"] == 1
    p.accept(*(r(2, number) for number in range(1, 9)), source=1)
    assert p.pool.ready() == 24
    assert len([1 for key in (1, 2) for s in (0, 1) if p.pool.session(bytes([key]) * 32, START + s)]) == 3


def test_sessions_that_lapse_unopened_go_by_the_local_clock():
    """No decision comes, so agreed time stands still; they could be proposed a moment ago."""
    p = Pool(replace(WIDE, max_sessions_per_key=2))
    p.accept(r(1, 1, session=START - 990), r(1, 1, session=START - 980), source=9)
    p.now += 100
    assert p.receive(r(1, 1, session=p.now)) == 1
    p.verify()
    assert p.form()[0] == p.digest(r(1, 1, session=p.now))
    assert p.statuses() == [(9, SESSION_REFUSED)] * 2


def test_sessions_that_the_next_batch_may_open_stay_whatever_the_clock_shows():
    p = Pool()
    p.order(r(1, 1))
    p.accept(r(2, 1))
    p.pool.pass_time(START + 10 * WIDE.lease)
    assert p.pool.ready() == 1


# --- shares


def test_a_connection_that_has_little_gets_in_where_another_has_filled_the_pool():
    p = Pool(SMALL)
    p.accept(*(r(key, n) for key in (3, 4) for n in range(1, 9)), source=9)
    assert p.pool.ready() == ROOM
    assert p.receive(r(2, 1), r(2, 2), source=1) == 2
    p.verify()
    assert numbers(p.form()[1])[:3] == [(3, 1), (4, 1), (2, 1)]
    assert p.statuses() == [(9, OVERLOADED)] * 2, "its newest ones"
    p.accept(*(r(key, 1) for key in range(100, 120)), source=9)
    assert {(2, 1), (2, 2)} <= set(numbers(p.pool.overdue(START + 1, 9999))), "new keys get it no more"


def test_unverified_requests_give_way_to_a_lighter_connection():
    p = Pool(SMALL)
    p.receive(*(r(key, 1) for key in range(100, 100 + ROOM)), source=9)
    job = p.pool.take_unverified(4)
    assert p.receive(r(2, 1), source=1) == 1
    p.pool.apply_verdicts(job, b"\1" * 4)
    p.verify()
    assert p.pool.ready() == ROOM


def test_a_key_that_comes_over_many_connections_has_the_share_of_one():
    p = Pool(SMALL)
    for source in range(2, 2 + ROOM):
        p.accept(r(3, 1, session=START + source), source=source)
    assert p.receive(r(2, 1), source=1) == 1
    assert p.receive(r(3, 1, session=START + 50), source=99) == 0


def test_an_attacker_with_new_keys_does_not_push_out_a_lighter_connection_with_one():
    p = Pool(SMALL)
    p.accept(*(r(3, number) for number in range(1, 5)), source=1)
    p.accept(*(r(key, 1) for key in range(100, 112)), source=9)
    assert p.receive(r(200, 1), source=9) == 0
    assert numbers(p.pool.overdue(START + 1, 9999))[:4] == [(3, 1), (3, 2), (3, 3), (3, 4)]


def test_what_members_pass_on_gets_in_and_stays_whoever_fills_the_pool():
    """Else a client that floods the leader alone would make it lack what all others could propose."""
    p = Pool(SMALL)
    for source in range(2, 2 + ROOM):
        p.accept(r(100 + source, 1), source=source)
    assert p.receive(r(2, 1), source=1) == 0, "all have as little"
    assert p.receive(r(2, 1), source=FROM_MEMBER + 1) == 1
    p.verify()
    for source in range(50, 80):
        p.receive(r(source, 1), r(source, 2), source=source)
    p.verify()
    assert (2, 1) in numbers(p.pool.overdue(START + 1, 9999))


def test_what_a_member_passes_on_stays_though_a_heavy_connection_brought_it_first():
    p = Pool(SMALL)
    flood = [*(r(3, n) for n in range(1, 9)), *(r(key, 1) for key in range(4, 12))]
    p.accept(*flood, source=9)
    p.receive(flood[-1], source=FROM_MEMBER + 2)
    p.accept(*(r(2, number) for number in range(1, 5)), source=1)
    assert p.pool.collect(p.digest(flood[-1])) != b""
    assert p.pool.collect(p.digest(flood[-2])) == b""


def test_a_retransmission_counts_where_it_is_lighter():
    """A request that an attacker brought first is its client's as soon as that sends it."""
    p = Pool(SMALL)
    mine = r(2, 1)
    p.accept(r(3, 1), *(r(4, n) for n in range(1, 9)), *(r(5, n) for n in range(1, 7)), mine, source=9)
    p.receive(mine, source=1)
    p.accept(r(6, 1), r(6, 2), source=2)
    assert p.pool.collect(p.digest(mine)) != b""


def test_requests_of_connections_that_are_gone_give_way_before_others():
    p = Pool(SMALL)
    p.accept(*(r(key, 1) for key in range(100, 103)), source=9)
    p.accept(*(r(key, 1) for key in range(3, 16)), source=1)
    p.pool.drop_source(9)
    assert p.receive(*(r(key, 1) for key in range(20, 23)), source=1) == 3
    assert p.receive(r(23, 1), source=1) == 0


# --- the walks of the twins reach all this


def test_walks_reach_every_way_to_give_way(monkeypatch: pytest.MonkeyPatch):
    reached = {"heavier": 0, "again": 0, "idle": 0, "lapsed": 0}

    def heavier_than(room: Room, newcomer: object, original=Room._heavier_than) -> Pending | None:
        victim = original(room, newcomer)
        reached["heavier"] += victim is not None
        return victim

    def charge_again(room: Room, entry: Pending, owner: int, original=Room.charge_again) -> None:
        before = entry.account
        original(room, entry, owner)
        reached["again"] += before is not entry.account

    def give_way(room: Room, entry: Pending, original=Room._give_way) -> None:
        reached["idle"] += entry.idle_since is not None
        original(room, entry)

    def lapsed(room: Room, original=Room._lapsed_unopened) -> list[object]:
        found = original(room)
        reached["lapsed"] += len(found)
        return found

    changes = {"_heavier_than": heavier_than, "charge_again": charge_again, "_give_way": give_way}
    for name, watched in {**changes, "_lapsed_unopened": lapsed}.items():
        monkeypatch.setattr(Room, name, watched)
    for seed in range(30):
        random_walk(seed, 250)
        random_hold_walk(seed, 250)
    assert min(reached.values()) >= 5, reached


def _never_idle(room: Room, entry: Pending) -> None:
    """Requests behind a gap stay for good."""


def _oldest_first(room: Room, newcomer: object, original=Room._heavier_than) -> Pending | None:
    """The oldest request of the heaviest gives way."""
    victim = original(room, newcomer)
    return victim.account.entries[0] if victim is not None and victim.account is not None else None


PLANTED = {
    "make_idle": _never_idle,
    "_heavier_than": _oldest_first,
    "charge_again": lambda room, entry, owner: None,
    "_lapsed_unopened": lambda room: [],
    "drop_source": lambda room, source: None,
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_bugs_in_the_rules_of_room_are_found(name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Room, name, PLANTED[name])
    with pytest.raises(AssertionError):
        _walk_all()


def _walk_all() -> None:
    for seed in range(100):
        random_walk(seed, 250)
        random_hold_walk(seed, 250)
