"""The native pool and its oracle side by side where requests carry no signatures: members announce what they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random

from kit.pool_twins import RULES, START, PoolTwins, split_frames
from smartbft._fastpath.pool import FROM_MEMBER, encode_request, join_requests, request_digests, split_requests
from smartbft.smr.pool_rules import PoolOracle
from smartbft.smr.sessions import Place, PoolRules

# The clients' keys are their connections' numbers: source 1 has proven the key of ones, and so on.
CHANNEL_RULES = replace(RULES, members=4, member=1, max_holds=5, max_requests=16)
REFUSED_SIZE = 10  # operations of this size are refused by the application


def unsigned(client: int, session: int, sequence: int, *, size: int = 0) -> bytes:
    """A request without a signature; requests with one number differ by their size."""
    return encode_request(bytes([client]) * 32, session, sequence, bytes(size), bytes(64))


class HoldTwins(PoolTwins):
    """As `PoolTwins`, with announcements."""

    def __init__(self, rules: PoolRules = CHANNEL_RULES, oracle: PoolOracle | None = None) -> None:
        super().__init__(rules, oracle)
        self.elsewhere: list[bytes] = []  # requests that others hold
        self.vouched: set[bytes] = set()
        for source in (1, 2, 3):
            self.prove(source)

    def prove(self, source: int) -> None:
        self.native.holds.prove(source, bytes([source]) * 32)
        self.oracle.holds.prove(source, bytes([source]) * 32)

    def same_holds(self, name: str, *arguments: object) -> object:
        found = getattr(self.native.holds, name)(*arguments)
        expected = getattr(self.oracle.holds, name)(*arguments)
        assert found == expected, f"{name}: the native pool says {found!r}, the rules say {expected!r}"
        return found

    def apply_verdicts(self, which: int) -> None:
        if self.jobs:
            job, expected = self.jobs.pop(which % len(self.jobs))
            assert job.run() == b"\1" * job.count
            mask = bytes(2 if len(operation) == REFUSED_SIZE else 1 for *_, operation, _ in split_requests(job.data))
            assert self.native.apply_verdicts(job, mask) == self.oracle.apply_verdicts(expected, mask)

    def compare(self) -> None:
        self.same("ready")
        self.same("oldest_pending")
        self.same("overdue", self.now - 20, 700)
        for key, session in self.seen:
            self.same("session", key, session)
        stats = self.native.stats()
        entries = self.oracle.by_digest.values()
        assert stats["pending"] == len(entries)
        assert stats["verified"] == sum(entry.verified for entry in entries)
        waiting = (Place.QUEUED, Place.PRIORITY, Place.AT_VERIFIER)
        assert stats["unverified"] == sum(entry.place in waiting for entry in entries)
        assert stats["signature_checks"] == 0
        # This stays true when the channel to a member is new, or the request gives way and comes again.
        self.vouched |= {entry.digest for entry in entries if entry.own or len(entry.holders - {1}) >= 2}
        for entry in entries:
            if entry.proposable:
                assert len(entry.holders) >= 3, "nothing is proposed that fewer than 2f + 1 hold"
            if entry.verified:
                assert entry.digest in self.vouched, "nothing is voted for that nobody vouches for"
        assert stats["idle"] == len(self.oracle.room.idle)
        assert stats["evicted"] == self.oracle.room.evicted

    def compare_replies(self) -> None:
        found = {source: sorted(split_frames(frames)) for source, frames in self.native.take_replies()}
        assert found == {source: sorted(split_frames(frames)) for source, frames in self.oracle.take_replies()}


def random_unsigned(random: Random, twins: HoldTwins, client: int = 0) -> bytes:
    client = client or random.randrange(1, 4)
    session = random.choice([START, START + 40, twins.now // 250 * 250])
    ordered = (twins.oracle.session(bytes([client]) * 32, session) or (0, 0, 0))[1]
    sequence = max(1, ordered + random.choice([1, 1, 1, 2, 3, 4, 0]))
    return unsigned(client, session, sequence, size=random.choice([0, 0, 0, 1, 2, REFUSED_SIZE, 64]))


def random_digests(random: Random, twins: HoldTwins) -> bytes:
    """Mostly of requests that were seen somewhere, also of such as are not here."""
    chosen = [random.choice(twins.digests) for _ in range(random.randrange(1, 6)) if twins.digests]
    if random.random() < 0.4:
        elsewhere = random_unsigned(random, twins)
        twins.elsewhere.append(elsewhere)
        chosen.append(request_digests(twins.rules.chain_id, join_requests([elsewhere])))
    return b"".join(chosen) or bytes(32)


def _from_client(random: Random, twins: HoldTwins) -> None:
    source = random.randrange(1, 4)
    twins.admit([random_unsigned(random, twins, source) for _ in range(random.randrange(1, 4))], source)


def _passed_on(random: Random, twins: HoldTwins) -> None:
    known = [entry.request for entry in twins.oracle.by_digest.values()] + twins.elsewhere[-8:]
    if known:
        twins.admit([random.choice(known) for _ in range(2)], random.choice((0, FROM_MEMBER, FROM_MEMBER + 2)))


def _body(random: Random, twins: HoldTwins) -> None:
    twins.admit_body([random.choice(twins.elsewhere[-4:] or [random_unsigned(random, twins)])])


def _reconnect(random: Random, twins: HoldTwins) -> None:
    source = random.randrange(1, 4)
    twins.same("drop_source", source)
    twins.prove(source)


def _hold(random: Random, twins: HoldTwins) -> None:
    twins.same_holds("hold", random.choice([0, 2, 3]), random_digests(random, twins), twins.now)


def _void(random: Random, twins: HoldTwins) -> None:
    twins.same_holds("void", random.choice([0, 1, 2, 3]))


def _ask(random: Random, twins: HoldTwins) -> None:
    twins.same_holds("held", twins.now - random.choice([0, 10, 40]), random.randrange(1, 6))
    twins.same_holds("wanted", random.choice([0, 2, 3]), twins.now - random.choice([0, 20]), twins.now, 3)
    twins.same_holds("requests", random_digests(random, twins), random.choice([100, 500]))


def _propose(random: Random, twins: HoldTwins) -> None:
    twins.propose(random.randrange(1, 6), random.choice([300, 2000]), decide=random.random() < 0.7)


def _wait(random: Random, twins: HoldTwins) -> None:
    rare = random.random() < 0.2
    twins.now += random.choice([0, 1, 10, 10, 50, 300, 1100, 11_000_000] if rare else [0, 1, 10])


def _execute(random: Random, twins: HoldTwins) -> None:
    twins.execute()
    twins.release()


_STEPS: dict[Callable[[Random, HoldTwins], None], int] = {
    _from_client: 22,
    _passed_on: 6,
    _body: 5,
    lambda random, twins: twins.take_unverified(random.randrange(1, 6)): 10,
    lambda random, twins: twins.apply_verdicts(random.randrange(8)): 10,
    _hold: 19,
    lambda random, twins: twins.same_holds("take", random.randrange(1, 6)) and None: 6,
    _ask: 8,
    _void: 2,
    _propose: 4,
    _reconnect: 2,
    lambda random, twins: twins.same("resolve", random_digests(random, twins), random.random() < 0.5) and None: 2,
    _execute: 2,
    _wait: 4,
}


def random_hold_step(random: Random, twins: HoldTwins) -> None:
    """One random operation on both, then a comparison."""
    (step,) = random.choices(list(_STEPS), list(_STEPS.values()))
    step(random, twins)
    twins.compare()
    if random.random() < 0.3:
        twins.compare_replies()


def random_hold_walk(seed: int, steps: int, twins: HoldTwins | None = None) -> HoldTwins:
    random = Random(seed)
    twins = twins or HoldTwins()
    for _ in range(steps):
        random_hold_step(random, twins)
    twins.compare_replies()
    return twins
