"""Mod-SMaRt Algorithm 1, the client's side, line by line (`smartbft.runtime.client`, `smartbft.runtime.requests`).

Where this client differs from the listing: numbers are counted per session; many requests may be in flight; in the
synchronous mode Q equal replies are needed instead of more than f (protocols.md 2.1).
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Awaitable, Callable

import pytest
from kit.patience import until
from kit.played import PlayedReplica, Stage, executed, silent

from smartbft._fastpath.frames import REPLY, ReplyMatcher, frame
from smartbft._fastpath.pool import EXECUTED
from smartbft._fastpath.verify import verify
from smartbft.crypto.domains import Domains
from smartbft.errors import MalformedMessage
from smartbft.runtime.requests import ReplyCollector

Run = Callable[[Callable[[], Awaitable[None]]], None]
DIGEST = bytes(range(32))


def reply(replica: int, result: bytes = b"result", *, digest: bytes = DIGEST, instance: int = 7) -> bytes:
    return struct.pack("<HBBIQQ32s", replica, EXECUTED, 2, 0, instance, 1_000_000, digest) + result


class Collected:
    """The two collectors of replies, asked together: Python's for each client, the native one for many requests."""

    def __init__(self, *, f: int = 1, needed: int = 2) -> None:
        self.python = ReplyCollector(f, needed)
        self.native = ReplyMatcher(4, needed)
        self.expect(DIGEST)

    def expect(self, digest: bytes) -> None:
        self.python.expect(digest)
        self.native.expect(digest, 0, 0)

    def settle(self, digest: bytes) -> None:
        """What the client does once it has the result."""
        self.python.forget(digest)

    def add(self, replica: int, payload: bytes) -> bytes | None:
        """The result that this reply completes, if any; both say the same."""
        settled = self.python.add(replica, payload)
        completed = self.native.feed(replica, frame(REPLY, payload), 0)
        assert completed == (settled is not None)
        if settled is None:
            return None
        self.settle(settled[0])
        assert self.native.completed()[0][2] == payload[2:]
        return settled[1].result


def test_line_1_2_a_new_client_starts_counting(run: Run) -> None:
    """Upon Init do: nextSeq = 0. The first request has number 1, in a session of its own."""

    async def scenario() -> None:
        async with Stage(executed) as stage:
            client = await stage.connected()
            await client.invoke(b"first")
            await until(lambda: stage.replicas[0].requests)
            assert stage.replicas[0].requests == [(client.session, 1, b"first")]

    run(scenario)


def test_line_3_a_new_client_has_no_replies(run: Run) -> None:
    """Replies = {}: what arrives before a request was sent answers nothing, then or later."""
    collected = Collected()
    early = b"\xee" * 32
    assert collected.add(0, reply(0, digest=early)) is None
    collected.expect(early)
    assert collected.add(1, reply(1, digest=early)) is None
    assert collected.add(2, reply(2, digest=early)) == b"result"


def test_line_4_5_each_invocation_takes_the_next_number(run: Run) -> None:
    """nextSeq = nextSeq + 1: contiguous, also for invocations that are in flight together."""

    async def scenario() -> None:
        async with Stage(executed) as stage:
            client = await stage.connected()
            await client.invoke(b"one")
            await asyncio.gather(*(client.invoke(b"%d" % number) for number in range(2, 10)))
            for replica in stage.replicas:
                await until(lambda replica=replica: len(replica.requests) >= 9)
                assert [number for _, number, _ in replica.requests] == list(range(1, 10))

    run(scenario)


def test_line_6_the_signed_request_goes_to_all_replicas(run: Run) -> None:
    """send <REQUEST, nextSeq, op> signed by the client to R: the same bytes to every replica."""

    async def scenario() -> None:
        async with Stage(executed) as stage:
            client = await stage.connected()
            await client.invoke(b"operation")
            await until(lambda: all(replica.payloads for replica in stage.replicas))
            (request,) = {payload for replica in stage.replicas for payload in replica.payloads}
            unsigned, signature = request[:-64], request[-64:]
            assert unsigned == client.key + struct.pack("<QQI", client.session, 1, 9) + b"operation"
            prefix = Domains(stage.genesis.chain_id).request_prefix
            assert verify(client.key, signature, prefix + unsigned)

    run(scenario)


def test_line_7_a_reply_counts_for_the_replica_whose_connection_it_came_by() -> None:
    """Upon reception of <REPLY, seq, rep> from r in R: nobody speaks for somebody else."""
    collector = ReplyCollector(1, 2)
    collector.expect(DIGEST)
    assert collector.add(0, reply(0)) is None
    with pytest.raises(MalformedMessage, match="in the name of replica 1 from replica 0"):
        collector.add(0, reply(1))
    matcher = ReplyMatcher(4, 2)
    matcher.expect(DIGEST, 0, 0)
    assert matcher.feed(0, frame(REPLY, reply(0)), 0) == 0
    assert matcher.feed(0, frame(REPLY, reply(1)), 0) == 0
    assert matcher.outstanding() == 1


def test_line_8_replies_are_a_set() -> None:
    """Replies = Replies + {<r, seq, rep>}: one replica counts once, whatever it says how often."""
    collected = Collected()
    for result in (b"result", b"result", b"other", b"result"):
        assert collected.add(0, reply(0, result)) is None
    assert collected.add(1, reply(1)) == b"result"


def test_line_9_more_than_f_equal_replies_are_needed() -> None:
    """if there are seq, rep with more than f equal replies: f liars alone make no result."""
    collected = Collected()
    assert collected.add(3, reply(3, b"lie")) is None
    assert collected.add(0, reply(0)) is None
    assert collected.add(1, reply(1)) == b"result"


def test_line_9_replies_to_different_numbers_are_not_equal() -> None:
    """The same rep for another seq is another reply: replies name their request by its digest."""
    collected = Collected()
    other = bytes(32)
    collected.expect(other)
    assert collected.add(0, reply(0)) is None
    assert collected.add(1, reply(1, digest=other)) is None
    assert collected.add(2, reply(2)) == b"result"


def test_line_9_in_the_synchronous_mode_a_quorum_is_needed() -> None:
    """Q equal replies: with f + 1 a result might be on one correct replica's disk alone."""
    collected = Collected(needed=3)
    assert collected.add(0, reply(0)) is None
    assert collected.add(1, reply(1)) is None
    assert collected.add(2, reply(2)) == b"result"


def test_line_10_settled_replies_are_forgotten() -> None:
    """Replies = Replies - {<*, seq, rep>}: late ones are ignored, and nothing of a request stays behind."""
    collected = Collected()
    collected.add(0, reply(0))
    assert collected.add(1, reply(1)) == b"result"
    for late in (2, 3):
        assert collected.add(late, reply(late)) is None
    assert collected.native.outstanding() == 0
    assert not collected.python._votes


def test_line_11_the_result_is_returned_to_its_caller(run: Run) -> None:
    """return rep: each invocation gets the result of its own operation, in whatever order the replies come."""
    held: dict[int, list[int]] = {}

    def backwards(replica: PlayedReplica, sequence: int, operation: bytes) -> list[tuple[int, bytes]]:
        # A retransmission is answered; those of higher numbers first.
        attempts = held.setdefault(replica.id, [])
        attempts.append(sequence)
        return executed(replica, sequence, operation) if attempts.count(sequence) > 3 - sequence else []

    async def scenario() -> None:
        async with Stage(backwards, retransmit=0.05) as stage:
            client = await stage.connected()
            results = await asyncio.gather(*(client.invoke(b"%d" % number) for number in range(1, 4)))
            assert results == [b"done 1", b"done 2", b"done 3"]

    run(scenario)


class CountsReplies(ReplyCollector):
    """Planted bug: a reply counts by its body, whoever sent it (line 8 without a set)."""

    def add(self, replica: int, payload: bytes) -> object:  # type: ignore[override]
        self.seen = [*getattr(self, "seen", []), payload[2:]]
        votes = self._votes.get(payload[24:56])
        if votes is None or self.seen.count(payload[2:]) < self._needed:
            return None
        return payload[24:56], self._outcome(EXECUTED, payload, votes)


def test_planted_bug_a_replica_that_counts_twice_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "ReplyCollector", CountsReplies)
    with pytest.raises(AssertionError):
        test_line_8_replies_are_a_set()


def test_a_client_that_gets_no_replies_returns_nothing(run: Run) -> None:
    """Lines 7 to 11 are never reached: the invocation neither returns nor fails by itself."""

    async def scenario() -> None:
        async with Stage(silent, retransmit=0.05) as stage:
            client = await stage.connected()
            asked = asyncio.create_task(client.invoke(b"x"))
            while stage.replicas[0].attempts(1) < 3:
                await asyncio.sleep(0)
            assert not asked.done()
            asked.cancel()
            await asyncio.gather(asked, return_exceptions=True)

    run(scenario)
