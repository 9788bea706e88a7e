"""The load generator against a cluster in this process: both client models, standstill, lost replicas, strangers."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import ClassVar

import pytest
from kit.patience import PATIENCE_SECONDS

from smartbft._fastpath.pool import EXECUTED, request_digests
from smartbft.config import Genesis
from smartbft.errors import HandshakeError, Indeterminate, LocalProtocolError, NotEnoughReplies
from smartbft.limits import RESERVED_DESCRIPTORS
from smartbft.measurement.echo import Echo
from smartbft.measurement.requests import UNSIGNED, Job
from smartbft.measurement.signing import sign
from smartbft.runtime import lanes, load
from smartbft.runtime.load import CLOSED_LOOP, LoadGenerator, LoadResult, Traffic
from smartbft.runtime.local import LocalCluster
from smartbft.types import CHANNEL, Parameters

Run = Callable[[Callable[[], object]], None]


async def echo_traffic(genesis: Genesis, keys: int, rounds: int, *, lanes: bool = False) -> list[Traffic]:
    seeds = [number.to_bytes(32, "little") for number in range(1, keys + 1)]
    session = genesis.created
    job = Job(UNSIGNED, genesis.chain_id, session, seeds, seeds, seeds, 1, 1, 16, rounds)
    return await sign(job, lanes=lanes, processes=1)


def cluster(n: int = 4, **options: object) -> LocalCluster:
    return LocalCluster(n, lambda: Echo(8), signature_check="sequential", **options)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that stands still for a while has not stopped."""
    monkeypatch.setattr(load, "STALL_SECONDS", PATIENCE_SECONDS)
    monkeypatch.setattr(load, "DRAIN_SECONDS", PATIENCE_SECONDS)


def generator(made: LocalCluster, traffic: Sequence[Traffic], **options: object) -> LoadGenerator:
    values = {"window": 8, "needed": 2, "tls": made.transport == "tls", **options}
    return LoadGenerator(made.genesis, traffic, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("transport", ["plain", "tls"])
def test_all_traffic_is_executed_and_acknowledged(run: Run, patient: None, transport: str) -> None:
    async def scenario() -> None:
        async with cluster(transport=transport) as made:
            (traffic,) = await echo_traffic(made.genesis, 16, 10)
            async with generator(made, [traffic], window=32) as sender:
                result = await sender.run_all()
            assert_complete(result, traffic.digests)
            assert result.clients == 16
            assert result.connections == 1
            assert result.window == 32

    run(scenario)


def test_closed_loop_clients_have_one_request_outstanding(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    outstanding: list[int] = []
    received = lanes.Lane.received

    def watched(lane: lanes.Lane, replica: int, data: memoryview) -> None:
        outstanding.append(lane.outstanding)
        received(lane, replica, data)

    monkeypatch.setattr(lanes.Lane, "received", watched)

    async def scenario() -> None:
        async with cluster() as made:
            traffic = await echo_traffic(made.genesis, 5, 8, lanes=True)
            async with generator(made, traffic, window=1, model=CLOSED_LOOP) as sender:
                result = await sender.run(0.5)
            assert result.connections == 5
            assert result.total >= 5
            assert result.statuses == {EXECUTED: result.total}

    run(scenario)
    assert max(outstanding) == 1


def test_a_file_descriptor_for_each_connection_is_asked_for(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(load, "raise_limit", asked.append)

    async def scenario() -> None:
        async with cluster() as made:
            traffic = await echo_traffic(made.genesis, 16, 1, lanes=True)
            async with generator(made, traffic, model=CLOSED_LOOP):
                assert asked == [len(traffic) * 4 + 2 * RESERVED_DESCRIPTORS]

    run(scenario)


def test_the_warm_up_is_cut_and_the_rest_is_measured(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that transactions move, so that some fall into each part on any machine."""
    marks: list[int] = []

    async def scenario() -> None:
        async with cluster(1) as made:
            (traffic,) = await echo_traffic(made.genesis, 16, 4000)
            seen: list[int] = []
            async with generator(made, [traffic], needed=1) as sender:
                clock = SimpleNamespace(monotonic=lambda: sender.completed / 10_000, process_time=time.process_time)
                monkeypatch.setattr(load, "time", clock)
                result = await sender.run(
                    0.3,
                    0.2,
                    progress=lambda seconds, completed: seen.append(completed),
                    at_boundary=lambda: marks.append(sender.completed),
                )
            assert len(marks) == 2
            assert 0 < marks[0] < marks[1] <= result.total
            assert result.completed == marks[1] - marks[0]
            assert len(result.latencies) == result.completed
            assert list(result.latencies) == sorted(result.latencies)
            assert result.latency(0.0) <= result.latency(0.5) <= result.latency(1.0)
            assert seen == sorted(seen)

    run(scenario)


def test_an_interval_in_which_nothing_was_completed_goes_on(run: Run, patient: None) -> None:
    async def scenario() -> None:
        async with cluster() as made:
            (traffic,) = await echo_traffic(made.genesis, 16, 40)
            async with generator(made, [traffic]) as sender:
                result = await sender.run(0.0)
            assert 0 < result.completed <= result.total

    run(scenario)


def test_one_silent_replica_does_not_matter_and_too_many_are_reported(run: Run) -> None:
    async def scenario() -> None:
        async with cluster() as made:
            (traffic,) = await echo_traffic(made.genesis, 16, 20)
            await made.stop(3)
            async with generator(made, [traffic]) as sender:
                assert_complete(await sender.run_all(), traffic.digests)
            await made.stop(2)
            await made.stop(0)
            with pytest.raises(NotEnoughReplies, match="only 1 of 4 replicas"):
                async with generator(made, [traffic], needed=2):
                    pytest.fail("connected to replicas that are stopped")

    run(scenario)


def test_a_standstill_is_an_unknown_outcome(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "STALL_SECONDS", 0.5)

    async def scenario() -> None:
        async with cluster() as made:
            (traffic,) = await echo_traffic(made.genesis, 16, 5)
            for replica in (1, 2):  # the first leader among them: nothing can be ordered
                await made.stop(replica)
            with pytest.raises(Indeterminate, match="no quorum answers"):
                async with generator(made, [traffic]) as sender:
                    await sender.run_all()

    run(scenario)


def test_connections_lost_during_the_load_end_it(run: Run) -> None:
    async def scenario() -> None:
        async with cluster() as made:
            (traffic,) = await echo_traffic(made.genesis, 64, 4000)

            async def stop_three() -> None:
                for replica in (0, 1, 2):
                    await made.stop(replica)

            stopping: list[asyncio.Task[None]] = []
            with pytest.raises(NotEnoughReplies, match="is lost"):
                async with generator(made, [traffic], window=64) as sender:
                    await sender.run(30.0, at_boundary=lambda: stopping.append(asyncio.ensure_future(stop_three())))
            await asyncio.gather(*stopping)

    run(scenario)


def test_a_persistent_load_outlives_a_restart(run: Run, patient: None) -> None:
    """The replica that comes back is needed for every answer once another one is gone."""

    async def scenario() -> None:
        async with cluster(persistence="async") as made:  # what forgot everything would only learn
            (traffic,) = await echo_traffic(made.genesis, 64, 4000)
            done = asyncio.get_running_loop().create_future()

            async def restart(sender: LoadGenerator) -> None:
                await made.stop(3)
                await completions(sender)
                await made.start(3)
                await completions(sender)
                await made.stop(0)
                await completions(sender)
                done.set_result(None)

            async with generator(made, [traffic], window=64, needed=3, persistent=True) as sender:
                restarting = asyncio.ensure_future(restart(sender))
                result = await sender.run(0.0, until=done)
                await restarting
            assert result.total > 0
            assert result.statuses == {EXECUTED: result.total}
            assert sender.outstanding == 0

    run(scenario)


async def completions(sender: LoadGenerator) -> None:
    """Returns when more was completed."""
    before = sender.completed
    while sender.completed < before + 200:
        await asyncio.sleep(0.01)


def test_what_is_late_is_sent_again_and_only_that() -> None:
    written: list[bytes] = []

    class Transport:
        def write(self, data: memoryview) -> None:
            written.append(bytes(data))

    class Matcher:
        done = b""

        def acknowledged(self) -> bytes:
            return self.done

        def reset(self, replica: int) -> None:
            written.append(b"reset %d" % replica)

    class Owner:
        n, needed = 4, 3

    digests = b"".join(bytes([number]) * 32 for number in range(6))
    lane = lanes.Lane(Owner(), Traffic(b"aabbccddeeff", range(0, 13, 2), digests, 1), 6)  # type: ignore[arg-type]
    lane.matcher = Matcher()  # type: ignore[assignment]
    link = SimpleNamespace(transport=Transport())
    lane.links.append(link)  # type: ignore[arg-type]
    lane.sent = 5
    lane.repeat()
    assert written == []  # nothing is late yet
    lane.matcher.done = digests[32:64]  # type: ignore[attr-defined]
    lane.completed, lane.sent = 1, 6
    lane.repeat()
    assert written == [b"aa", b"ccddee"]
    written.clear()
    lane.joined(2, link)  # type: ignore[arg-type]
    assert written == [b"reset 2", b"aa", b"ccddeeff"]
    written.clear()
    lane.links.pop()
    for _ in range(7):  # a standstill: less and less often
        lane.repeat()
    assert written == 2 * [b"aa", b"ccddeeff"]


def test_a_pace_is_kept_and_nothing_is_saved_up() -> None:
    pace = lanes.Pace(1000.0, reserve_seconds=10.0)
    pace.begin(5.0)
    assert pace.take(7) == 0
    pace.earn(5.0078125, left=100_000)
    assert (pace.take(5), pace.take(5)) == (5, 2)
    pace.earn(65.0, left=100_000)  # a minute in which nobody sent
    assert pace.take(10_000) == 50


def test_a_pace_never_uses_up_what_is_left() -> None:
    pace = lanes.Pace(1000.0, reserve_seconds=10.0)
    pace.begin(0.0)
    left = 20_000
    seen = []
    for tick in range(1, 10_001):
        pace.earn(tick / 100, left)
        left -= pace.take(left)
        seen.append(left)
    assert seen[999] == pytest.approx(10_000, abs=20)  # the pace asked for, until the reserve is reached
    assert seen[1999] == pytest.approx(10_000 / math.e, rel=0.02)
    assert seen[-1] > 0


def test_a_paced_lane_asks_again_for_what_it_may_not_send_yet() -> None:
    class Owner:
        n, needed = 4, 3
        allowed = 2
        asked: ClassVar[list[int]] = []

        def grant(self, lane: lanes.Lane, wanted: int) -> int:
            self.asked.append(wanted)
            return min(wanted, self.allowed)

    digests = b"".join(bytes([number]) * 32 for number in range(6))
    lane = lanes.Lane(Owner(), Traffic(b"aabbccddeeff", range(0, 13, 2), digests, 1), 4)  # type: ignore[arg-type]
    lane.start()
    lane.refill()
    lane.refill()
    assert (lane.sent, Owner.asked) == (4, [4, 2])


def test_pauses() -> None:
    pauses = lanes.Pauses()
    for now in (1_000_000, 1_001_000, 3_000_000, 3_002_000, 3_500_000):
        pauses.moved(now)
    assert pauses.longest(1.0, 3.4) == pytest.approx(1.999)
    assert pauses.longest(3.1, 3.5) == pytest.approx(0.498)
    assert pauses.longest(3.1, 4.5) == pytest.approx(1.0)  # still at a standstill
    assert pauses.longest(0.0, 0.5) == 0


def test_replicas_of_another_chain_are_refused(run: Run) -> None:
    async def scenario() -> None:
        async with cluster() as made:
            (traffic,) = await echo_traffic(made.genesis, 1, 1)
            keys = [member.consensus_key for member in made.genesis.members]
            swapped = tuple(
                replace(member, permanent_key=key, consensus_key=member.permanent_key)
                for member, key in zip(made.genesis.members, keys, strict=True)
            )
            impostors = replace(made.genesis, members=swapped)
            sender = LoadGenerator(impostors, [traffic], window=1, needed=2, tls=False)
            with pytest.raises((HandshakeError, NotEnoughReplies)):
                async with sender:
                    pytest.fail("connected to somebody else's replicas")

    run(scenario)


def assert_complete(result: LoadResult, digests: bytes) -> None:
    count = len(digests) // 32
    assert result.total == count
    assert result.statuses == {EXECUTED: count}
    assert {result.acknowledged[i : i + 32] for i in range(0, len(digests), 32)} == {
        digests[i : i + 32] for i in range(0, len(digests), 32)
    }


def test_traffic_counts_its_digests() -> None:
    traffic = Traffic(b"", [0], b"", 0)
    assert traffic.count == 0
    assert request_digests(bytes(32), b"") == traffic.digests


def test_a_load_needs_a_chain_whose_requests_are_signed(run: Run) -> None:
    async def scenario() -> None:
        parameters = Parameters(request_authentication=CHANNEL)
        async with LocalCluster(4, lambda: Echo(8), parameters=parameters) as made:
            traffic = await echo_traffic(made.genesis, 1, 1)
            with pytest.raises(LocalProtocolError, match="requests are signed"):
                generator(made, traffic)

    run(scenario)
