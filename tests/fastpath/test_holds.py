"""Requests without signatures in the pool: vouching, announcing, asking, and what bounds it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from kit.hold_twins import CHANNEL_RULES, HoldTwins, random_hold_walk, unsigned
from kit.pool_twins import START, native_pool

from smartbft._fastpath.frames import REQUEST, FrameReader, frame
from smartbft._fastpath.pool import MALFORMED, OVERLOADED, RequestPool, join_requests, request_digests
from smartbft.errors import LocalProtocolError, MalformedMessage
from smartbft.smr import hold_rules
from smartbft.smr.pool_reception import Reception
from smartbft.smr.sessions import PoolRules

# Four members, f = 1; this is member 1. The others are:
A, B, C = 0, 2, 3


class Held:
    """A native pool in channel mode, whose client 1 has proven its key on connection 1."""

    def __init__(self, **changes: int) -> None:
        wide = {"window": 8, "max_requests": 100, "max_bytes": 1 << 20, "max_unverified_per_source": 50}
        self.rules = replace(CHANNEL_RULES, **(wide | changes))
        self.pool: RequestPool = native_pool(self.rules)
        self.holds = self.pool.holds
        self.now = START
        self.holds.prove(1, bytes([1]) * 32)

    def digest(self, *requests: bytes) -> bytes:
        return request_digests(self.rules.chain_id, join_requests(requests))

    def admit(self, *requests: bytes, source: int = 1) -> int:
        count = self.pool.admit(join_requests(requests), source, self.now)
        self.check()
        return count

    def check(self) -> None:
        while (job := self.pool.take_unverified(100)) is not None:
            self.pool.apply_verdicts(job, job.run())

    def hold(self, member: int, *requests: bytes) -> int:
        changed = self.holds.hold(member, self.digest(*requests), self.now)
        self.check()
        return changed

    def form(self) -> bytes:
        return self.pool.form_batch(100, 1 << 20, max(self.now, self.pool.agreed_time + 1))[0]

    def wanted(self, member: int) -> bytes:
        return self.holds.wanted(member, self.now + 1, self.now, 100)[0]


def r(sequence: int = 1, *, client: int = 1, size: int = 0) -> bytes:
    return unsigned(client, START, sequence, size=size)


# --- what counts


def test_what_the_client_told_is_announced_and_proposed_with_2f_plus_1():
    p = Held()
    p.admit(r())
    assert p.holds.take(10) == p.digest(r())
    assert p.holds.take(10) == b""
    assert p.pool.resolve(p.digest(r())) == (join_requests([r()]), b"", 0), "a voter's own copy is enough"
    assert (p.pool.ready(), p.pool.oldest_pending(), p.form()) == (0, -1, b"")
    assert p.hold(A, r()) == 0
    assert p.hold(A, r()) == 0, "a member counts once"
    assert (p.pool.ready(), p.pool.oldest_pending(), p.form()) == (0, -1, b"")
    assert p.hold(B, r()) == 1
    assert (p.pool.ready(), p.pool.oldest_pending(), p.form()) == (1, START, p.digest(r()))


def test_announcements_before_the_request_count():
    p = Held()
    p.hold(A, r())
    p.hold(B, r())
    p.admit(r())
    assert p.form() == p.digest(r())


def test_what_f_plus_1_hold_is_asked_for_taken_and_announced():
    p = Held()
    p.hold(A, r())
    assert p.wanted(A) == b""
    p.hold(C, r())
    assert p.wanted(A) == p.wanted(C) == p.digest(r())
    assert p.wanted(B) == b"", "B does not hold it"
    assert p.admit(r(), source=0) == 1
    assert p.wanted(A) == b""
    assert p.holds.take(10) == p.digest(r())
    assert p.form() == p.digest(r()), "A, C and this one"


def test_what_nobody_vouches_for_is_not_taken_from_others():
    p = Held()
    p.hold(A, r())
    assert p.admit(r(), source=0) == 0
    assert p.pool.stats()["pending"] == 0


def test_a_body_named_by_a_proposal_waits_for_its_announcements():
    p = Held()
    p.pool.admit_body(join_requests([r()]), p.now)
    p.check()
    assert p.pool.resolve(p.digest(r())) == (b"", b"", 1)
    assert p.holds.take(10) == b""
    assert p.pool.stats()["unverified"] == 0, "nothing waits for the verifier"
    assert p.pool.resolve(p.digest(r()), True) == (join_requests([r()]), b"", 0), "a bound value was vouched for"
    assert p.hold(A, r()) == 0
    assert p.hold(B, r()) == 1
    assert p.pool.resolve(p.digest(r())) == (join_requests([r()]), b"", 0)
    assert p.holds.take(10) == p.digest(r())


def test_a_body_is_vouched_for_by_the_client_itself_too():
    p = Held()
    p.pool.admit_body(join_requests([r()]), p.now)
    p.check()
    assert p.admit(r()) == 0
    assert p.pool.resolve(p.digest(r()))[2] == 0


def test_two_requests_with_one_number_both_stay_if_others_vouch():
    p = Held()
    one, other = r(size=1), r(size=2)
    p.admit(one)
    p.admit(other)
    assert p.pool.stats()["pending"] == 1, "the client's second word is ignored"
    p.hold(A, other)
    p.hold(B, other)
    assert p.admit(other, source=0) == 1
    assert p.form() == p.digest(other), "what 2f + 1 hold goes before what was here first"
    p.hold(A, one)
    p.hold(B, one)
    assert p.form() == p.digest(other), "and is not replaced"
    p.pool.decide(p.digest(other), join_requests([other]), 1, p.now + 1)
    assert p.pool.stats()["pending"] == 0


def test_a_gap_holds_back_what_comes_after_it():
    p = Held()
    for request in (r(2), r(1)):
        p.admit(request)
        p.hold(A, request)
        assert p.pool.ready() == 0
        p.hold(B, r(2))
    p.hold(B, r(1))
    assert p.pool.ready() == 2


# --- asking and saying again


def test_the_client_asking_again_repeats_the_announcement_until_enough_hold_it():
    p = Held()
    p.admit(r())
    p.holds.take(10)
    p.admit(r())
    p.admit(r())
    assert p.holds.take(10) == p.digest(r())
    p.hold(A, r())
    p.hold(B, r())
    p.admit(r())
    assert p.holds.take(10) == b""


def test_pending_requests_are_announced_again_in_turn():
    p = Held()
    requests = [r(number) for number in range(1, 6)]
    p.admit(*requests)
    seen = p.holds.held(p.now + 1, 3) + p.holds.held(p.now + 1, 2)
    assert seen == p.digest(*requests)
    assert p.holds.held(p.now, 5) == b"", "too new"
    for member in (A, B):
        p.hold(member, *requests)
    assert p.holds.held(p.now + 1, 10) == p.digest(*requests), "C may not have heard"
    p.hold(C, *requests)
    assert p.holds.held(p.now + 1, 10) == p.digest(*requests), "C may have forgotten in a crash"


def test_late_announcements_of_decided_requests_are_ignored():
    p = Held()
    p.pool.decide(p.digest(r()), join_requests([r()]), 1, p.now)
    for member in (A, B, C):
        p.hold(member, r())
    assert p.wanted(A) == b""


def test_asking_ends_after_a_while_and_begins_again_with_new_announcements():
    p = Held()
    p.hold(A, r())
    p.hold(B, r())
    p.now += hold_rules.WANTED_FOR + 1
    assert p.wanted(A) == b""
    p.hold(C, r())
    assert p.wanted(C) == p.digest(r())


# --- bounds


def test_announcements_of_one_member_push_out_its_own_only():
    p = Held(max_holds=5)
    p.hold(A, r())
    p.hold(B, *[r(number, client=2) for number in range(1, 50)])
    p.hold(C, r())
    assert p.wanted(A) == p.digest(r())
    p.hold(A, *[r(number, client=3) for number in range(1, 50)])
    assert p.wanted(C) == b"", "A has pushed out its own"


def test_a_client_that_tells_one_replica_only_fills_no_pool():
    p = Held(max_requests=4)
    p.holds.prove(2, bytes([2]) * 32)
    p.admit(*[r(number, client=2) for number in range(1, 5)], source=2)
    p.pool.take_replies()
    assert p.admit(r()) == 1
    assert p.pool.stats()["pending"] == 4
    ((source, frames),) = p.pool.take_replies()
    assert (source, frames[5 + 2]) == (2, OVERLOADED)
    for member in (A, B):
        p.hold(member, r())
    assert p.form() == p.digest(r())


def test_a_session_may_make_room_for_itself():
    """The only request of a session gives way to the next one of the same session."""
    p = Held(max_requests=1)
    assert p.admit(r(1)) == 1
    assert p.admit(r(2)) == 1
    assert p.pool.stats()["pending"] == 1
    for member in (A, B):
        p.hold(member, r(2))
    assert p.pool.ready() == 0, "number 1 is missing"


def test_what_enough_hold_is_never_pushed_out():
    p = Held(max_requests=2)
    requests = [r(1), r(2)]
    p.admit(*requests)
    for member in (A, B):
        p.hold(member, *requests)
    p.holds.prove(2, bytes([2]) * 32)
    assert p.admit(r(client=2), source=2) == 0
    assert p.pool.ready() == 2


# --- who may say what


def test_a_connection_speaks_for_its_key_only():
    p = Held()
    for source in (1, 9):
        with pytest.raises(MalformedMessage, match="not proven"):
            p.admit(r(client=2), source=source)
        with pytest.raises(MalformedMessage, match="not proven"):
            FrameReader({REQUEST: 1000}, p.pool, source).feed(frame(REQUEST, r(client=2)), p.now)
    p.pool.drop_source(1)
    with pytest.raises(MalformedMessage, match="not proven"):
        p.admit(r())
    assert p.pool.stats()["pending"] == 0


def test_a_signature_is_malformed():
    p = Held()
    signed = r()[:-1] + b"\1"
    with pytest.raises(MalformedMessage, match="no signatures"):
        p.admit(signed)
    with pytest.raises(MalformedMessage, match="no signatures"):
        p.pool.admit_body(join_requests([signed]), p.now)
    with pytest.raises(MalformedMessage, match="no signatures"):
        FrameReader({REQUEST: 1000}, p.pool, 1).feed(frame(REQUEST, signed), p.now)
    assert p.pool.check(join_requests([signed]), p.now, 10, 10_000) == MALFORMED


def test_misuse():
    p = Held()
    with pytest.raises(LocalProtocolError, match="member 4 of 4"):
        p.holds.hold(4, bytes(32), p.now)
    with pytest.raises(LocalProtocolError):
        p.holds.hold(0, bytes(33), p.now)
    signing = native_pool(replace(p.rules, members=0, member=0))
    for call in (lambda: signing.holds.hold(0, bytes(32), 0), lambda: signing.holds.wanted(0, 0, 0, 1)):
        with pytest.raises(LocalProtocolError, match="are signed"):
            call()
    assert (signing.holds.take(1), signing.holds.held(1, 1)) == (b"", b"")
    with pytest.raises(ValueError, match="at most 64 members"):
        native_pool(replace(p.rules, members=65))
    with pytest.raises(ValueError, match="member 4 of 4"):
        native_pool(replace(p.rules, member=4))


# --- the rules


@pytest.mark.parametrize("seed", range(40))
def test_native_holds_follow_the_rules(seed: int) -> None:
    assert random_hold_walk(seed, 250).compared > 250


def test_walks_decide_something() -> None:
    assert sum(random_hold_walk(seed, 250).instance for seed in range(20)) > 30


@pytest.mark.parametrize("members", [1, 2, 7])
def test_native_holds_follow_the_rules_in_other_clusters(members: int) -> None:
    class Twins(HoldTwins):
        def compare(self) -> None:
            self.same("ready")
            self.same("oldest_pending")

    member = min(1, members - 1)
    rules = replace(CHANNEL_RULES, members=members, member=member)
    for seed in range(5):
        twins = Twins(rules)
        twins.same_holds = _within(twins, members)  # type: ignore[method-assign]
        assert random_hold_walk(seed, 200, twins).compared > 200


def _within(twins: HoldTwins, members: int):
    same = twins.same_holds

    def same_within(name: str, *arguments: object) -> object:
        if name in ("hold", "wanted", "void"):
            arguments = (int(arguments[0]) % members, *arguments[1:])  # type: ignore[call-overload]
        return same(name, *arguments)

    return same_within


PLANTED = {
    "proposes at f + 1": (PoolRules, "strong", property(lambda rules: rules.weak)),
    "takes what one member vouches for": (PoolRules, "weak", property(lambda rules: 1)),
    "votes without a copy or announcements": (Reception, "_vouched", lambda self, entry: True),
    "forgets the quota": (hold_rules.Announcements, "take", lambda self, digest: set()),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_bugs_in_the_rules_are_found(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute, wrong = PLANTED[name]
    monkeypatch.setattr(owner, attribute, wrong)
    with pytest.raises((AssertionError, LocalProtocolError)):
        _walk_all()


def _walk_all() -> None:
    for seed in range(20):
        random_hold_walk(seed, 250)
