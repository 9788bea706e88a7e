"""The native pool and its oracle side by side: every operation is done on both and every answer compared."""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from random import Random

from smartbft._fastpath.pool import (
    FROM_MEMBER,
    VALID,
    RequestPool,
    VerifyJob,
    encode_request,
    join_requests,
    join_results,
    request_digests,
    split_requests,
)
from smartbft.smr.pool_rules import PoolOracle
from smartbft.smr.sessions import Pending, PoolRules

START = 10_000
RULES = PoolRules(
    chain_id=bytes(32),
    window=3,
    max_requests=12,
    max_bytes=2200,
    max_operation_bytes=64,
    max_sessions=4,
    max_sessions_per_key=2,
    max_unverified_per_source=4,
    lease=1000,
    skew=100,
    replica=7,
    max_idle=400,
)
GOOD, BAD, REFUSED = 1, 0, 2  # verdicts, and the first byte of the signatures that get them


@dataclass
class Batch:
    digests: bytes
    data: bytes
    timestamp: int
    instance: int = 0


def native_pool(rules: PoolRules) -> RequestPool:
    fields = asdict(rules)
    return RequestPool(fields.pop("chain_id"), **fields)


def make_request(key: int, session: int, sequence: int, *, verdict: int = GOOD, copy: int = 0, size: int = 0) -> bytes:
    """A request whose signature says what the verifier will find; `copy` tells requests with one number apart."""
    signature = bytes([verdict, copy]) + bytes(62)
    return encode_request(bytes([key]) * 32, session, sequence, bytes(size), signature)


def verdicts(data: bytes) -> bytes:
    return bytes(signature[0] for *_, signature in split_requests(data))


# Nobody in particular, three clients, and two members that pass requests on.
SOURCES = (0, 1, 2, 3, FROM_MEMBER, FROM_MEMBER + 2)


class PoolTwins:
    """The two pools, a clock, and what was decided and executed so far."""

    def __init__(self, rules: PoolRules = RULES, oracle: PoolOracle | None = None) -> None:
        self.rules = rules
        self.native = native_pool(rules)
        self.oracle = oracle or PoolOracle(rules)
        self.now = START
        self.jobs: list[tuple[VerifyJob, list[Pending]]] = []
        self.decided: deque[Batch] = deque()
        self.executed: deque[Batch] = deque()
        self.instance = 0  # decided
        self.seen: dict[tuple[bytes, int], int] = {}
        self.digests: list[bytes] = []
        self.compared = 0  # answers

    def same(self, name: str, *arguments: object) -> object:
        """Call a method of both; the answers must be equal."""
        found = getattr(self.native, name)(*arguments)
        expected = getattr(self.oracle, name)(*arguments)
        assert found == expected, f"{name}: the native pool says {found!r}, the rules say {expected!r}"
        self.compared += 1
        return found

    def note(self, data: bytes) -> None:
        for key, session, sequence, _, _ in split_requests(data):
            self.seen[key, session] = max(sequence, self.seen.get((key, session), 0))
        digests = request_digests(self.rules.chain_id, data)
        self.digests += [digests[at : at + 32] for at in range(0, len(digests), 32)]
        del self.digests[:-40]

    def admit(self, requests: list[bytes], source: int) -> None:
        data = join_requests(requests)
        self.note(data)
        self.same("admit", data, source, self.now)

    def admit_body(self, requests: list[bytes]) -> None:
        data = join_requests(requests)
        self.note(data)
        self.same("admit_body", data, self.now)

    def take_unverified(self, most: int) -> None:
        job = self.native.take_unverified(most)
        expected = self.oracle.take_unverified(most)
        found = b"" if job is None else job.data
        assert found == join_requests([entry.request for entry in expected])
        if job is not None:
            self.jobs.append((job, expected))

    def apply_verdicts(self, which: int) -> None:
        if self.jobs:
            job, expected = self.jobs.pop(which % len(self.jobs))
            mask = verdicts(job.data)
            # Half of the refused requests get a reason.
            reasons = join_results([b"why %d" % number for number in range(mask.count(2) // 2)])
            assert self.native.apply_verdicts(job, mask, reasons) == self.oracle.apply_verdicts(expected, mask, reasons)

    def propose(self, max_requests: int, max_bytes: int, *, decide: bool) -> None:
        """Form a batch as the leader; perhaps it is decided."""
        timestamp = max(self.now, self.oracle.agreed_time + 1)
        digests, data = self.same("form_batch", max_requests, max_bytes, timestamp)  # type: ignore[misc]
        if not digests:
            return
        assert self.same("resolve", digests) == (data, b"", 0)
        assert self.same("check", data, timestamp, max_requests, max_bytes) == VALID, "a leader proposes valid batches"
        if decide:
            self.decide(Batch(digests, data, timestamp))

    def propose_elsewhere(self, requests: list[bytes], timestamp: int) -> None:
        """Another leader's batch: judged by both, decided if it is valid."""
        data = join_requests(requests)
        self.note(data)
        digests = request_digests(self.rules.chain_id, data)
        self.same("resolve", digests)
        verdict = self.same("check", data, timestamp, 6, 1500)
        if verdict == VALID and timestamp > self.oracle.agreed_time:
            self.decide(Batch(digests, data, timestamp))

    def decide(self, batch: Batch) -> None:
        self.instance += 1
        batch.instance = self.instance
        self.same("decide", batch.digests, batch.data, batch.instance, batch.timestamp)
        self.decided.append(batch)

    def execute(self) -> None:
        if self.decided:
            batch = self.decided.popleft()
            results = [f"{batch.instance}.{number}".encode() for number in range(len(batch.digests) // 32)]
            arguments = (join_results(results), batch.instance, 3, batch.timestamp, 2)
            self.same("executed", batch.digests, batch.data, *arguments)
            self.executed.append(batch)
            self.same("export_sessions", batch.instance)

    def release(self) -> None:
        if self.executed:
            batch = self.executed.popleft()
            self.same("release", batch.digests, batch.data)

    def compare(self) -> None:
        """Everything that can be seen is equal."""
        self.same("ready")
        self.same("oldest_pending")
        self.same("overdue", self.now - 20, 700)
        assert self.native.agreed_time == self.oracle.agreed_time
        for (key, session), highest in self.seen.items():
            self.same("session", key, session)
            for sequence in range(1, highest + 1):
                self.same("cached_reply", key, session, sequence)
        for key in {key for key, _ in self.seen}:
            self.same("sessions_of", key)
        stats = self.native.stats()
        entries = self.oracle.by_digest.values()
        assert stats["pending"] == len(entries)
        assert stats["verified"] == sum(entry.verified for entry in entries)
        assert stats["idle"] == len(self.oracle.room.idle)
        assert stats["evicted"] == self.oracle.room.evicted
        assert stats["bytes"] == sum(len(entry.request) for entry in entries)
        assert stats["pending"] == stats["verified"] + stats["unverified"]

    def compare_replies(self) -> None:
        # Which of several requests refused at once is answered first is nobody's business.
        found = {source: sorted(split_frames(frames)) for source, frames in self.native.take_replies()}
        assert found == {source: sorted(split_frames(frames)) for source, frames in self.oracle.take_replies()}


def split_frames(frames: bytes) -> list[bytes]:
    found = []
    while frames:
        end = 4 + int.from_bytes(frames[:4], "little")
        found.append(frames[:end])
        frames = frames[end:]
    return found


def random_request(random: Random, twins: PoolTwins) -> bytes:
    """Mostly a sensible request, near what its session expects; sometimes not."""
    key = random.randrange(3)
    fresh = [twins.now // 250 * 250, START, START + 40, twins.now - 1020, twins.now + 90, twins.now + 120]
    session = random.choice(fresh)
    if random.random() < 0.7:
        session = random.choice([session, *(number for _, number in twins.seen)])
    ordered = (twins.oracle.session(bytes([key]) * 32, session) or (0, 0, 0))[1]
    sequence = max(1, ordered + random.choice([1, 1, 1, 2, 2, 3, 4, 0, -1]))
    verdict = random.choice([GOOD] * 6 + [BAD, BAD, REFUSED])
    return make_request(
        key, session, sequence, verdict=verdict, copy=random.choice([0, 0, 0, 1, 2]), size=random.choice([0, 0, 10, 64])
    )


def random_batch(random: Random, twins: PoolTwins) -> list[bytes]:
    """A batch of another leader: contiguous for one or two sessions, if nothing is wrong with it."""
    requests = []
    for _ in range(random.choice([1, 1, 2])):
        first = random_request(random, twins)
        key, session, sequence, _, _ = split_requests(join_requests([first]))[0]
        cursors = twins.oracle.session(key, session)
        start = sequence if random.random() < 0.2 else (cursors[1] + 1 if cursors else 1)
        count = random.choice([1, 1, 2, 3, 4])
        requests += [make_request(key[0], session, start + step, copy=random.choice([0, 1])) for step in range(count)]
    if random.random() < 0.05:
        requests.append(requests[0])
    return requests


def random_step(random: Random, twins: PoolTwins) -> None:
    """One random operation on both, then a comparison."""
    choice = random.randrange(100)
    if choice < 26:
        requests = [random_request(random, twins) for _ in range(random.randrange(1, 5))]
        twins.admit(requests, random.choice(SOURCES))
    elif choice < 32:
        twins.admit_body([random_request(random, twins) for _ in range(random.randrange(1, 3))])
    elif choice < 46:
        twins.take_unverified(random.randrange(1, 6))
    elif choice < 60:
        twins.apply_verdicts(random.randrange(8))
    elif choice < 70:
        twins.propose(random.randrange(1, 8), random.choice([200, 500, 2000]), decide=random.random() < 0.7)
    elif choice < 74:
        timestamp = twins.oracle.agreed_time + random.choice([0, 1, 30, 400, 900])
        twins.propose_elsewhere(random_batch(random, twins), max(timestamp, twins.now - random.choice([0, 50])))
    elif choice < 82:
        twins.execute()
    elif choice < 89:
        twins.release()
    elif choice < 91:
        twins.same("drop_source", random.choice(SOURCES))
    elif choice < 93:
        known = twins.digests or [bytes(32)]
        digests = b"".join(random.choice(known) for _ in range(random.randrange(1, 5)))
        twins.same(random.choice(["resolve", "collect"]), digests)
    else:
        # Now and then the clock is set, forward or back.
        jumps = [0, 1, 10, 10, 50, 300, 1100, -300, -1100]
        twins.now = max(START, twins.now + random.choice(jumps if random.random() < 0.3 else [0, 1, 10]))
        twins.same("pass_time", twins.now)
    twins.compare()
    if random.random() < 0.3:
        twins.compare_replies()


def random_walk(seed: int, steps: int, twins: PoolTwins | None = None) -> PoolTwins:
    random = Random(seed)
    twins = twins or PoolTwins()
    for _ in range(steps):
        random_step(random, twins)
    twins.compare_replies()
    return twins
