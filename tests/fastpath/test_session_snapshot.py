"""Sessions in snapshots: the executed prefix alone decides the bytes, and a pool goes on from them as the old one."""

from __future__ import annotations

import dataclasses
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest
from kit.hold_twins import HoldTwins, random_hold_walk
from kit.pool_lockstep import Lockstep, lockstep_walk
from kit.pool_scenarios import WIDE, Pool, r
from kit.pool_twins import BAD, RULES, START, PoolTwins, native_pool, random_walk

from smartbft._fastpath.pool import EXECUTED, NOT_CONTIGUOUS, SESSION_REFUSED, VALID, SessionCapture, join_requests
from smartbft.errors import LocalProtocolError
from smartbft.smr.pool_rules import PoolOracle
from smartbft.smr.session_snapshot import KeptReply, KeptSession, decode_sessions, encode_sessions
from smartbft.smr.sessions import Standing

KEY = bytes([1]) * 32
EMPTY = struct.pack("<I", 0)
AHEAD = dataclasses.replace(RULES, max_sessions=6)


# --- properties ---


@pytest.mark.parametrize("seed", range(30))
def test_decisions_ahead_and_pending_requests_do_not_show(seed):
    twins = lockstep_walk(seed, 250, Lockstep(AHEAD))
    assert twins.exports > 0


@pytest.mark.parametrize("seed", range(30))
def test_a_pool_goes_on_from_imported_sessions(seed):
    twins = lockstep_walk(seed, 250, Lockstep(AHEAD), imports=4)
    assert twins.native.export_sessions(twins.instance) == twins.other.export_sessions(twins.instance)


def assert_import_of_its_own_changes_nothing(twins: PoolTwins) -> None:
    """A running pool is given its own sessions: what is pending goes, wherever it is, and everything else goes on."""
    while twins.decided:
        twins.execute()
    exported = twins.native.export_sessions(twins.instance)
    twins.same("import_sessions", exported, twins.oracle.agreed_time, 2)
    assert twins.same("export_sessions", twins.instance) == exported
    assert twins.native.stats()["pending"] == 0
    twins.compare()
    twins.compare_replies()


@pytest.mark.parametrize("seed", range(12))
def test_running_pools_go_on_after_an_import(seed):
    twins, channel = PoolTwins(AHEAD), HoldTwins()
    for part in range(4):
        random_walk(seed * 10 + part, 80, twins)
        assert_import_of_its_own_changes_nothing(twins)
        random_hold_walk(seed * 10 + part, 80, channel)
        assert_import_of_its_own_changes_nothing(channel)


def test_walks_reach_what_they_are_for():
    """Decisions run ahead, sessions end before their end is executed: else the walks would prove little."""
    ended, behind, captured = 0, 0, 0

    class Watched(PoolOracle):
        def export_sessions(self, instance):
            nonlocal ended
            ended += any(session.executed for _, session in self.ended.values())
            return super().export_sessions(instance)

    for seed in range(30):
        twins = lockstep_walk(seed, 250, Lockstep(AHEAD, Watched(AHEAD)))
        behind = max(behind, twins.behind_most)
        captured += twins.captured
    assert behind >= 3
    assert ended > 3
    assert captured > 10


# --- stories ---


def test_nothing_executed_gives_the_empty_table():
    p = Pool()
    assert p.pool.export_sessions(0) == EMPTY
    p.order(r(1, 1))
    assert p.pool.export_sessions(0) == EMPTY


def test_sessions_opened_by_later_decisions_are_left_out():
    p, alone = Pool(), Pool()
    first = p.order(r(1, 1))
    p.now += 10
    p.order(r(1, 2), r(2, 1))
    p.execute(first)
    alone.execute(alone.order(r(1, 1)))
    assert p.pool.export_sessions(1) == alone.pool.export_sessions(1)
    assert [kept.id for kept in decode_sessions(p.pool.export_sessions(1), WIDE, START)] == [(KEY, START)]


def test_sessions_that_a_later_decision_ends_are_there_until_it_is_executed():
    p = Pool()
    p.execute(p.order(r(1, 1)))
    before = p.pool.export_sessions(1)
    p.now += WIDE.lease + 1
    later = p.order(r(2, 1, session=p.now))
    assert p.pool.session(KEY, START) is None
    assert p.pool.export_sessions(1) == before
    p.execute(later)
    assert [kept.id[0][0] for kept in decode_sessions(p.pool.export_sessions(2), WIDE, p.now)] == [2]


def test_requests_of_a_session_that_has_ended_are_still_executed_into_it():
    p = Pool()
    first = p.order(r(1, 1))
    agreed = p.now
    p.now += WIDE.lease + 1
    second = p.order(r(2, 1, session=p.now))
    p.execute(first)
    (kept,) = decode_sessions(p.pool.export_sessions(1), WIDE, agreed)
    assert (kept.executed, kept.replies[0].result) == (1, b"r0")
    p.pool.release(*first)
    p.execute(second)
    assert [kept.id[0][0] for kept in decode_sessions(p.pool.export_sessions(2), WIDE, p.now)] == [2]


def test_imported_sessions_answer_retransmissions_and_go_on():
    old = Pool()
    for sequence in range(1, 11):
        old.execute(old.order(r(1, sequence)))
    p = Pool(dataclasses.replace(WIDE, replica=3))
    p.pool.import_sessions(old.pool.export_sessions(10), old.pool.agreed_time, 1)
    assert p.pool.session(KEY, START) == (10, 10, 10)
    assert p.pool.agreed_time == old.pool.agreed_time
    assert p.receive(r(1, 10), r(1, 3), r(1, 2), source=5) == 0
    assert p.answered() == [(5, EXECUTED, p.digest(r(1, 10))), (5, EXECUTED, p.digest(r(1, 3)))]
    reply, original = (each.pool.cached_reply(KEY, START, 10) for each in (p, old))
    assert reply[:4] == struct.pack("<HBB", 3, EXECUTED, 1)
    assert reply[4:] == original[4:]
    # Another request with an executed number gets nothing, and none can be ordered.
    assert p.receive(r(1, 10, copy=1, verdict=BAD), source=5) == 0
    assert p.answered() == []
    now = p.pool.agreed_time + 1
    assert p.pool.check(join_requests([r(1, 10)]), now, 10, 1 << 20) == NOT_CONTIGUOUS
    assert p.pool.check(join_requests([r(1, 11)]), now, 10, 1 << 20) == VALID


def test_an_imported_lease_ends_when_it_would_have_ended():
    old = Pool()
    old.execute(old.order(r(1, 1)))
    last = old.now = old.now + WIDE.lease // 2
    old.execute(old.order(r(1, 2)))
    p = Pool()
    p.pool.import_sessions(old.pool.export_sessions(2), last)
    for time, verdict in ((last + WIDE.lease, VALID), (last + WIDE.lease + 1, NOT_CONTIGUOUS)):
        assert p.pool.check(join_requests([r(1, 3)]), time, 10, 1 << 20) == verdict
    p.now = last + WIDE.lease + 1
    p.receive(r(1, 3))
    assert p.statuses() == []  # the lease has not ended by the agreed time yet
    p.order(r(2, 1, session=p.now))
    assert p.receive(r(1, 3), source=4) == 0
    assert (4, SESSION_REFUSED) in p.statuses()


def test_a_running_pool_is_overtaken():
    """State transfer into a replica that has fallen behind: what it had gives way, its connections stay."""
    ahead, behind = Pool(), Pool()
    for sequence in range(1, 5):
        ahead.execute(ahead.order(r(1, sequence)))
    batch = behind.order(r(1, 1))
    behind.accept(r(1, 2), r(2, 1), source=6)
    job_at_verifier = [behind.receive(r(3, 1), source=6), behind.pool.take_unverified(9)][1]
    behind.pool.import_sessions(ahead.pool.export_sessions(4), ahead.pool.agreed_time, 2)
    assert behind.pool.stats()["pending"] == 0
    assert behind.pool.apply_verdicts(job_at_verifier, b"\1") == []
    assert behind.pool.export_sessions(4) == ahead.pool.export_sessions(4)
    behind.pool.release(*batch)
    behind.receive(r(1, 4), source=6)
    assert behind.answered() == [(6, EXECUTED, behind.digest(r(1, 4)))]
    behind.accept(r(1, 5), r(2, 1), source=6)
    behind.instance, behind.now = 4, ahead.pool.agreed_time
    behind.execute(behind.order(r(1, 5), r(2, 1)))
    assert behind.pool.session(KEY, START) == (5, 5, 5)


def test_a_table_as_of_another_instance_is_the_callers_mistake():
    p = Pool()
    p.execute(p.order(r(1, 1)))
    for instance in (0, 2):
        with pytest.raises(LocalProtocolError, match="the last executed one is 1"):
            p.pool.export_sessions(instance)
    p.order(r(1, 2))
    with pytest.raises(LocalProtocolError, match="does not go back"):
        p.pool.import_sessions(EMPTY, p.pool.agreed_time - 1)


def full_pool(sessions: int = 200) -> Pool:
    p = Pool(dataclasses.replace(WIDE, max_sessions=1000))
    for key in range(sessions):
        p.execute(p.order(r(key, 1), r(key, 2)))
    return p


def test_a_capture_is_of_its_moment_while_the_pool_goes_on():
    p = full_pool()
    expected, capture = p.pool.export_sessions(200), p.pool.capture_sessions(200)
    p.execute(p.order(*(r(key, 3) for key in range(0, 200, 3))))
    later = p.order(r(250, 1))
    assert capture.export() == expected
    p.execute(later)
    with pytest.raises(LocalProtocolError, match="exported"):
        capture.export()


def test_a_captured_session_may_end_before_it_is_written_down():
    p = full_pool()
    expected, capture = p.pool.export_sessions(200), p.pool.capture_sessions(200)
    p.now += WIDE.lease + 1
    p.execute(p.order(r(250, 1, session=p.now)))
    assert len(decode_sessions(p.pool.export_sessions(201), p.rules, p.now)) == 1
    assert capture.export() == expected


def test_the_last_capture_counts_and_an_import_ends_it():
    p = full_pool()
    first, second = p.pool.capture_sessions(200), p.pool.capture_sessions(200)
    with pytest.raises(LocalProtocolError, match="later capture"):
        first.export()
    table = p.pool.export_sessions(200)
    p.pool.import_sessions(table, p.pool.agreed_time)
    with pytest.raises(LocalProtocolError, match="import"):
        second.export()
    with pytest.raises(TypeError, match="capture_sessions"):
        SessionCapture()


def test_captures_are_written_down_by_other_threads():
    p = full_pool()
    with ThreadPoolExecutor(1) as worker:
        for sequence in range(3, 9):
            expected = p.pool.export_sessions(p.instance)
            future = worker.submit(p.pool.capture_sessions(p.instance).export)
            for key in range(199, 100, -1):
                p.execute(p.order(r(key, sequence)))
            assert future.result() == expected


# --- what is refused ---

REPLY = KeptReply(0, 7, START, bytes(32), b"result")
SESSION = KeptSession((KEY, START), 1, (REPLY,))


def later(reply: KeptReply, **changes: int) -> KeptReply:
    return dataclasses.replace(reply, **{"instance": 8, "agreed_time": START + 1, "view": 0, **changes})


def with_replies(*replies: KeptReply) -> KeptSession:
    return KeptSession((KEY, START), len(replies), replies)


REFUSED_TABLES = {
    "no executed request": [KeptSession((KEY, START), 0, ())],
    "a reply too few": [KeptSession((KEY, START), 2, (REPLY,))],
    "a reply too many": [KeptSession((KEY, START), 1, (REPLY, later(REPLY)))],
    "more than a window": [with_replies(*[REPLY] * (RULES.window + 1))],
    "one instance at two times": [with_replies(REPLY, dataclasses.replace(REPLY, agreed_time=START + 1))],
    "one instance in two views": [with_replies(REPLY, dataclasses.replace(REPLY, view=1))],
    "two instances at one time": [with_replies(REPLY, later(REPLY, agreed_time=START))],
    "a later reply of an earlier instance": [with_replies(REPLY, later(REPLY, instance=6))],
    "a later reply of an earlier view": [with_replies(dataclasses.replace(REPLY, view=1), later(REPLY))],
    "a reply from the future": [with_replies(dataclasses.replace(REPLY, agreed_time=START + 1001))],
    "a number from the future": [dataclasses.replace(SESSION, id=(KEY, START + RULES.skew + 1))],
    "a session that is over": [KeptSession((KEY, START - 1), 1, (dataclasses.replace(REPLY, agreed_time=START - 1),))],
    "a session twice": [SESSION, SESSION],
    "too many of one key": [dataclasses.replace(SESSION, id=(KEY, START + more)) for more in range(3)],
    "too many": [dataclasses.replace(SESSION, id=(bytes([key]) * 32, START)) for key in range(5)],
}


@pytest.mark.parametrize("name", REFUSED_TABLES)
def test_what_no_pool_could_have_exported_is_refused(name):
    # At the last moment of the lease of a session from START.
    assert_refused(encode_sessions(REFUSED_TABLES[name]), START + RULES.lease)


def test_the_limits_themselves_are_fine():
    tables = [
        [SESSION],
        [with_replies(REPLY, REPLY, later(REPLY, view=1))],
        [dataclasses.replace(SESSION, id=(KEY, START + RULES.skew))],
        [dataclasses.replace(SESSION, id=(KEY, START + more)) for more in range(2)],
        [dataclasses.replace(SESSION, id=(bytes([key]) * 32, START)) for key in range(4)],
    ]
    for table in tables:
        pool = native_pool(RULES)
        pool.import_sessions(encode_sessions(table), START + RULES.lease)
        assert pool.export_sessions(0) == encode_sessions(table)


def test_bytes_out_of_order_cut_or_left_over_are_refused():
    one, other = (dataclasses.replace(SESSION, id=(KEY, START + more)) for more in range(2))
    table = encode_sessions([one, other])
    half = (len(table) - 4) // 2
    assert_refused(table[:4] + table[4 + half :] + table[4 : 4 + half], START + 5)
    assert_refused(table + b"\0", START + 5)
    for cut in range(len(table)):
        assert_refused(table[:cut], START + 5)
    assert_refused(struct.pack("<I", 2**32 - 1), START)


def assert_refused(data: bytes, agreed_time: int) -> None:
    p = Pool(RULES)
    p.execute(p.order(r(2, 1)))
    before = p.pool.export_sessions(1)
    with pytest.raises(ValueError, match=r"\w"):
        p.pool.import_sessions(data, agreed_time)
    with pytest.raises(ValueError, match=r"\w"):
        decode_sessions(data, RULES, agreed_time)
    assert p.pool.export_sessions(1) == before
    assert p.pool.session(bytes([2]) * 32, START) == (1, 1, 1)


# --- planted bugs: each is a plausible mistake, and the walks must find it ---


class LateCapture(PoolOracle):
    """A capture is written down as the sessions are by then."""

    def capture_sessions(self, instance):
        capture = super().capture_sessions(instance)
        pool = self

        class Late(type(capture)):
            def export(self):
                super().export()
                return pool.export_sessions(pool.executed_instance)

        self.capture = Late(self, b"")
        return self.capture


class LaterSessionsToo(PoolOracle):
    """Sessions that later decisions opened are exported."""

    def _executed_sessions(self):
        kept = super()._executed_sessions()
        later = [s for s in self.table.standing(Standing.OPEN) if not s.executed]
        return [*kept, *(KeptSession(session.id, 0, ()) for session in later)]


class EndedAtDecision(PoolOracle):
    """Sessions that a decision ends are gone at once."""

    def _executed_sessions(self):
        return [kept for kept in super()._executed_sessions() if kept.id not in self.ended]


class OrderedCursor(PoolOracle):
    def _executed_sessions(self):
        ordered = {session.id: session.ordered for session in self.table.sessions.values()}
        kept = super()._executed_sessions()
        return [dataclasses.replace(one, executed=ordered.get(one.id, one.executed)) for one in kept]


class EndedForEver(PoolOracle):
    """What ended is never forgotten."""

    def executed(self, *arguments):
        ended = self.ended
        super().executed(*arguments)
        self.ended = ended


class ReplicaShows(PoolOracle):
    """Replies are exported as they leave this replica."""

    def _executed_sessions(self):
        mine = bytes([self.rules.replica])
        return [
            dataclasses.replace(one, replies=tuple(dataclasses.replace(r, result=mine + r.result) for r in one.replies))
            for one in super()._executed_sessions()
        ]


def importing(**changes: int) -> type[PoolOracle]:
    """An oracle that gets these fields of imported sessions wrong."""

    class Importing(PoolOracle):
        def import_sessions(self, data, agreed_time, level=0):
            super().import_sessions(data, agreed_time, level)
            for session in self.table.sessions.values():
                for name, value in changes.items():
                    setattr(session, name, value)

    return Importing


@pytest.mark.parametrize(
    "mutant",
    [
        *(LateCapture, LaterSessionsToo, EndedAtDecision, OrderedCursor, EndedForEver, ReplicaShows),
        *(importing(released=0), importing(last_activity=0), importing(ordered=0), importing(replies={})),
    ],
)
def test_planted_bug_is_found(mutant):
    def differs(seed):
        try:
            lockstep_walk(seed, 250, Lockstep(AHEAD, mutant(AHEAD)), imports=4)
        except (AssertionError, KeyError, ValueError, LocalProtocolError):
            return True
        return False

    assert any(map(differs, range(60))), "no walk told this bug from the rules"
