"""The native pool and its rules in plain Python agree on everything that can be seen, on random histories."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from kit.pool_twins import (
    BAD,
    GOOD,
    REFUSED,
    RULES,
    START,
    PoolTwins,
    make_request,
    random_walk,
)

from smartbft._fastpath import pool as native
from smartbft.smr.pool_rules import PoolOracle
from smartbft.smr.sessions import Pending, PoolRules, Session, SessionTable, Standing


@pytest.mark.parametrize("seed", range(40))
def test_native_pool_follows_the_rules(seed):
    assert random_walk(seed, 250).compared > 250


@pytest.mark.parametrize("seed", range(4))
def test_native_pool_follows_the_rules_when_requests_need_no_check(seed):
    rules = dataclasses.replace(RULES, admit_unverified=True)
    assert random_walk(seed, 250, PoolTwins(rules)).compared > 250


def test_walks_reach_what_they_are_for():
    """Sessions lapse, places are lost, every verdict is given: else the walks would prove little."""
    reached = {"lapsed": 0, "evicted": 0, "verdicts": set()}

    class Watched(PoolOracle):
        def _remove_session(self, session):
            reached["lapsed"] += session.standing is Standing.OPEN
            super()._remove_session(session)

        def _evict(self, session):
            reached["evicted"] += 1
            super()._evict(session)

        def check(self, *arguments):
            verdict = super().check(*arguments)
            reached["verdicts"].add(verdict)
            return verdict

    decided = sum(random_walk(seed, 250, PoolTwins(oracle=Watched(RULES))).instance for seed in range(20))
    assert decided > 100
    assert reached["lapsed"] > 5
    assert reached["evicted"] > 0
    assert {native.VALID, native.DUPLICATE, native.NOT_CONTIGUOUS, native.SESSION_INVALID} <= reached["verdicts"]


class Machine(RuleBasedStateMachine):
    """The same, driven by Hypothesis, which shrinks what it finds."""

    requests = st.lists(
        st.builds(
            make_request,
            st.integers(0, 2),
            st.sampled_from([START - 1000, START - 990, START, START + 1, START + 100, START + 101]),
            st.integers(1, 8),
            verdict=st.sampled_from([GOOD, GOOD, GOOD, BAD, REFUSED]),
            copy=st.integers(0, 1),
            size=st.sampled_from([0, 64]),
        ),
        min_size=1,
        max_size=6,
    )

    def __init__(self):
        super().__init__()
        self.twins = PoolTwins()

    @rule(requests=requests, source=st.integers(0, 2))
    def admit(self, requests, source):
        self.twins.admit(requests, source)

    @rule(requests=requests)
    def admit_body(self, requests):
        self.twins.admit_body(requests)

    @rule(most=st.integers(1, 8), which=st.integers(0, 3))
    def verify(self, most, which):
        self.twins.take_unverified(most)
        self.twins.apply_verdicts(which)

    @rule(most=st.integers(1, 8))
    def take(self, most):
        self.twins.take_unverified(most)

    @rule(max_requests=st.integers(1, 6), decide=st.booleans())
    def propose(self, max_requests, decide):
        self.twins.propose(max_requests, 1000, decide=decide)

    @rule(requests=requests, ahead=st.sampled_from([0, 1, 500, 1100]))
    def propose_elsewhere(self, requests, ahead):
        self.twins.propose_elsewhere(requests, self.twins.oracle.agreed_time + ahead)

    @rule()
    def execute(self):
        self.twins.execute()

    @rule()
    def release(self):
        self.twins.release()

    @rule(source=st.integers(0, 2))
    def drop_source(self, source):
        self.twins.same("drop_source", source)

    @rule(accepting=st.booleans())
    def set_accepting(self, accepting):
        self.twins.native.set_accepting(accepting)
        self.twins.oracle.accepting = accepting

    @rule(by=st.sampled_from([1, 100, 1000]))
    def wait(self, by):
        self.twins.now += by

    @invariant()
    def everything_visible_is_equal(self):
        self.twins.compare()
        self.twins.compare_replies()


Machine.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestMachine = Machine.TestCase


# --- planted bugs: each is a plausible mistake in a rule, and a walk must tell it from the native pool


class WindowOneTooWide(PoolOracle):
    def __init__(self, rules: PoolRules) -> None:
        super().__init__(dataclasses.replace(rules, window=rules.window + 1))


class BadCopyBlocksGoodOne(PoolOracle):
    """First come, first served, before the signature is checked."""

    def _take(self, entry: Pending) -> None:
        session = self.table.sessions.get(entry.id)
        if entry.reserve or session is None or entry.number not in session.pending:
            super()._take(entry)


class ReplyToTheFirstConnectionOnly(PoolOracle):
    """A retransmission does not change where the reply goes."""

    def _admit(self, request, id, number, digest, source, now):
        route = self.by_digest[digest].route if digest in self.by_digest else None
        new = super()._admit(request, id, number, digest, source, now)
        if route is not None:
            self.by_digest[digest].route = route
        return new


class ReplyBeforeRelease(PoolOracle):
    def _answer_again(self, session: Session, number: int, digest: bytes, source: int) -> None:
        if number in session.replies and session.replies[number][24:56] == digest:
            self._reply(source, session.replies[number])
        else:
            super()._answer_again(session, number, digest, source)


class LapseWithoutLookingAtTheNumber(SessionTable):
    """A session that was opened early (its number within the skew) would be replayable."""

    def lapsed(self, session: Session, timestamp: int) -> bool:
        return session.last_activity < timestamp - self.rules.lease


class Greedy(PoolOracle):
    """All of one session's requests first: not fair."""

    def _in_turn(self, timestamp: int) -> list[Pending]:
        return sorted(super()._in_turn(timestamp), key=lambda entry: self.ring.index(entry.id))


class ForgetfulLimits(PoolOracle):
    """Others' sessions do not count when places are kept."""

    def _keep_session_limits(self, keys: dict[bytes, None]) -> None:
        pass


def with_table(table: type[SessionTable]) -> type[PoolOracle]:
    class WithTable(PoolOracle):
        def __init__(self, rules: PoolRules) -> None:
            super().__init__(rules)
            self.table = table(rules)

    return WithTable


@pytest.mark.parametrize(
    "mutant",
    [
        WindowOneTooWide,
        BadCopyBlocksGoodOne,
        ReplyToTheFirstConnectionOnly,
        ReplyBeforeRelease,
        with_table(LapseWithoutLookingAtTheNumber),
        Greedy,
        ForgetfulLimits,
    ],
)
def test_planted_bug_is_found(mutant):
    def differs(seed):
        try:
            random_walk(seed, 250, PoolTwins(oracle=mutant(RULES)))
        except (AssertionError, KeyError, ValueError):
            return True
        return False

    assert any(map(differs, range(60))), "no walk told this bug from the rules"
