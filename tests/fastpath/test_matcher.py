"""The reply matcher, beside a plain one on random histories; and what a faulty replica may send."""

from __future__ import annotations

import struct
from collections import Counter
from random import Random

import pytest

from smartbft._fastpath.frames import HELLO, MESSAGE, REPLY, STATUS_ANSWER, ReplyMatcher, frame
from smartbft._fastpath.pool import BAD_SIGNATURE, EXECUTED, OVERLOADED, SESSION_REFUSED
from smartbft.errors import FrameError, MalformedMessage

DIGESTS = [bytes([number]) * 32 for number in range(20)]


def reply(replica: int, digest: bytes, result: bytes = b"", *, status: int = EXECUTED, time: int = 9) -> bytes:
    return struct.pack("<HBBIQQ", replica, status, 1, 0, 5, time) + digest + result


class PlainMatcher:
    """The rule: a request is complete when `quorum` replicas last said the same."""

    def __init__(self, quorum: int) -> None:
        self.quorum = quorum
        self.said: dict[bytes, dict[int, bytes]] = {}
        self.completed: list[tuple[bytes, int]] = []

    def feed(self, replica: int, payload: bytes) -> int:
        digest, status = payload[24:56], payload[2]
        votes = self.said.get(digest)
        if votes is None or votes.get(replica, b"")[:1] == b"r":
            return 0
        votes[replica] = b"r" + payload[2:] if status == EXECUTED else b"s" + payload[2:3]
        if Counter(votes.values())[votes[replica]] < self.quorum:
            return 0
        del self.said[digest]
        self.completed.append((digest, status))
        return 1


class OneTooFew(PlainMatcher):
    """Planted bug: one equal reply less is enough."""

    def __init__(self, quorum: int) -> None:
        super().__init__(quorum - 1)


class CountsReplies(PlainMatcher):
    """Planted bug: counts replies, not replicas."""

    def feed(self, replica: int, payload: bytes) -> int:
        votes = self.said.get(payload[24:56])
        return super().feed(replica if votes is None else 1000 + len(votes), payload)


def walk(seed: int, plain: type[PlainMatcher]) -> list[tuple[bytes, int]]:
    """Random replies to both; returns the requests that were completed, with their statuses."""
    random = Random(seed)
    replicas = random.choice([4, 7])
    faulty = (replicas - 1) // 3
    quorum = random.choice([faulty + 1, 2 * faulty + 1])
    matcher, expected = ReplyMatcher(replicas, quorum), plain(quorum)
    for _ in range(600):
        if random.random() < 0.1:
            digest = random.choice(DIGESTS)
            if digest not in expected.said:
                expected.said[digest] = {}
                matcher.expect(digest, DIGESTS.index(digest), 0)
        replica = random.randrange(replicas)
        status = random.choice([EXECUTED] * 6 + [OVERLOADED, SESSION_REFUSED])
        result = random.choice([b"yes"] * 8 + [b"no", b""]) if status == EXECUTED else b""
        payload = reply(replica, random.choice(DIGESTS), result, status=status, time=random.choice([9, 9, 9, 8]))
        assert matcher.feed(replica, frame(REPLY, payload), 0) == expected.feed(replica, payload)
        assert matcher.outstanding() == len(expected.said)
    completed = [(DIGESTS[tag], status) for tag, status, _ in matcher.completed()]
    assert completed == expected.completed
    assert matcher.statuses() == Counter(status for _, status in expected.completed)
    acknowledged = b"".join(digest for digest, status in expected.completed if status == EXECUTED)
    assert matcher.acknowledged() == acknowledged
    return completed


@pytest.mark.parametrize("seed", range(20))
def test_matcher_follows_the_rule(seed):
    assert walk(seed, PlainMatcher)


@pytest.mark.parametrize("mutant", [OneTooFew, CountsReplies])
def test_planted_bug_is_found(mutant):
    def differs(seed):
        try:
            walk(seed, mutant)
        except AssertionError:
            return True
        return False

    assert any(map(differs, range(20))), "no walk told this bug from the rule"


def test_completion_reports_tag_reply_latency_and_code():
    matcher = ReplyMatcher(4, 3)
    matcher.expect(DIGESTS[1] + DIGESTS[2], 70, 1_000)
    for replica in range(3):
        done = matcher.feed(replica, frame(REPLY, reply(replica, DIGESTS[2], b"\x07result")), 1_250 + replica)
    assert done == 1
    assert matcher.completed() == [(71, EXECUTED, reply(0, DIGESTS[2], b"\x07result")[2:])]
    assert matcher.completed() == []
    assert struct.unpack("=I", matcher.latencies()) == (252,)
    assert matcher.latencies() == b""
    assert matcher.results() == {7: 1}
    assert matcher.outstanding() == 1


def test_f_equal_replies_and_lies_do_not_complete():
    matcher = ReplyMatcher(4, 2)
    matcher.expect(DIGESTS[0], 0, 0)
    for lie in (b"a", b"b", b"c"):
        assert matcher.feed(3, frame(REPLY, reply(3, DIGESTS[0], lie)), 0) == 0
    assert matcher.feed(0, frame(REPLY, reply(0, DIGESTS[0], b"c")), 0) == 0, "a replica's first result stands"
    assert matcher.feed(1, frame(REPLY, reply(1, DIGESTS[0], b"c")), 0) == 1


def test_a_lie_about_the_sender_changes_nothing():
    """Who sent a reply is known from the connection, not from its replica field."""
    matcher = ReplyMatcher(4, 2)
    matcher.expect(DIGESTS[0], 0, 0)
    stream = b"".join(frame(REPLY, reply(replica, DIGESTS[0], b"x")) for replica in range(4))
    assert matcher.feed(3, stream, 0) == 0


def test_late_unknown_and_forgotten_replies_are_ignored():
    matcher = ReplyMatcher(1, 1)
    matcher.expect(DIGESTS[0] + DIGESTS[1], 0, 0)
    matcher.forget(DIGESTS[1])
    assert matcher.feed(0, frame(REPLY, reply(0, DIGESTS[0])) * 3 + frame(REPLY, reply(0, DIGESTS[1])), 0) == 1
    assert matcher.outstanding() == 0


def test_of_equal_refusals_the_middle_time_speaks():
    matcher = ReplyMatcher(4, 3)
    matcher.expect(DIGESTS[0], 0, 0)
    for replica, time in enumerate([2**60, 500, 400]):
        refusal = reply(replica, DIGESTS[0], status=SESSION_REFUSED, time=time)
        matcher.feed(replica, frame(REPLY, refusal), 0)
    ((_, status, payload),) = matcher.completed()
    assert status == SESSION_REFUSED
    assert struct.unpack_from("<Q", payload, 14) == (500,)
    assert matcher.acknowledged() == b""


def test_replies_are_not_kept_when_nobody_wants_them():
    matcher = ReplyMatcher(1, 1)
    matcher.keep_replies(False)
    matcher.expect(DIGESTS[0], 0, 0)
    assert matcher.feed(0, frame(REPLY, reply(0, DIGESTS[0], status=BAD_SIGNATURE)), 0) == 1
    assert matcher.completed() == []
    assert matcher.statuses() == {BAD_SIGNATURE: 1}


def test_other_frames_are_kept_in_order_and_bounded():
    matcher = ReplyMatcher(2, 1)
    assert matcher.feed(1, frame(HELLO, b"h") + frame(STATUS_ANSWER, b"s"), 0) == 0
    assert matcher.others() == [(1, HELLO, b"h"), (1, STATUS_ANSWER, b"s")]
    assert matcher.others() == []
    with pytest.raises(FrameError):
        matcher.feed(1, frame(HELLO, b"") * 2000, 0)


def test_replies_in_pieces_and_over_a_new_connection():
    matcher = ReplyMatcher(1, 1)
    matcher.expect(DIGESTS[0] + DIGESTS[1], 0, 0)
    stream = frame(REPLY, reply(0, DIGESTS[0], bytes(500)))
    assert sum(matcher.feed(0, bytes([byte]), 0) for byte in stream) == 1
    matcher.feed(0, frame(REPLY, reply(0, DIGESTS[1]))[:20], 0)
    matcher.reset(0)
    assert matcher.feed(0, frame(REPLY, reply(0, DIGESTS[1])), 0) == 1


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (frame(REPLY, reply(0, DIGESTS[0])[:-1]), MalformedMessage),
        (frame(REPLY, b""), MalformedMessage),
        (frame(MESSAGE, b""), FrameError),
        (frame(REPLY, bytes(128 * 1024 + 1)), FrameError),
        (bytes(4), FrameError),
    ],
)
def test_bad_bytes_raise_only_protocol_errors(wrong, error):
    matcher = ReplyMatcher(2, 1)
    matcher.expect(DIGESTS[0], 0, 0)
    with pytest.raises(error):
        matcher.feed(0, wrong, 0)
    assert matcher.feed(1, frame(REPLY, reply(1, DIGESTS[0])), 0) == 1, "other connections go on"


@pytest.mark.parametrize(("replicas", "quorum"), [(0, 1), (65, 1), (4, 0), (4, 5), (-1, -1)])
def test_impossible_quorums_are_the_callers_mistake(replicas, quorum):
    with pytest.raises(ValueError, match=r"replicas|quorum"):
        ReplyMatcher(replicas, quorum)


def test_misuse_is_reported():
    matcher = ReplyMatcher(2, 1)
    for call in (
        lambda: matcher.feed(2, b"", 0),
        lambda: matcher.feed(-1, b"", 0),
        lambda: matcher.reset(2),
        lambda: matcher.expect(bytes(33), 0, 0),
        lambda: matcher.forget(bytes(31)),
    ):
        with pytest.raises(ValueError, match=r"replica|digest"):
            call()
