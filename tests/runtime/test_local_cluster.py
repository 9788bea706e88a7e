"""Whole clusters in one process: clients, restarts, catching up, on every kind of log and transport."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from kit.patience import until

from smartbft import LocalCluster, NotEnoughReplies, Rejected
from smartbft.apps import counter, key_value
from smartbft.apps.coin import CoinApplication, decode_balance, decode_created, mint, spend
from smartbft.apps.coin import balance as balance_of
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import ConfigError, LocalProtocolError
from smartbft.runtime.client import AsyncClient
from smartbft.smr.application import open_result
from smartbft.types import Parameters

Run = Callable[[Callable[[], Awaitable[None]]], None]
QUICK = Parameters(request_timeout=400_000, resend_interval=50_000, progress_interval=50_000)


async def agreeing_states(cluster: LocalCluster, at_least: int, replicas: tuple[int, ...] = (0, 1, 2, 3)) -> str:
    """Wait until `replicas` have executed `at_least` instances and are at one instance; returns their digest."""
    while True:
        states = [await cluster.replicas[replica].status(digest=True) for replica in replicas]
        if len({state["digest_instance"] for state in states}) == 1 and states[0]["digest_instance"] >= at_least:
            assert len({state["digest"] for state in states}) == 1
            return str(states[0]["digest"])
        await asyncio.sleep(0.01)


async def count(client: AsyncClient, times: int) -> int:
    """Invoke `add` concurrently; returns the highest value seen."""
    results = await asyncio.gather(*(client.invoke(counter.add(1)) for _ in range(times)))
    values = [counter.decode_value(result) for result in results]
    assert len(set(values)) == times
    return max(values)


@pytest.mark.parametrize("persistence", ["memory", "async", "sync"])
@pytest.mark.parametrize("transport", ["plain", "tls"])
def test_concurrent_clients_count_exactly_once(run: Run, tmp_path: Path, persistence: Any, transport: Any) -> None:
    async def scenario() -> None:
        async with (
            LocalCluster(4, counter.Counter, persistence, transport=transport, folder=tmp_path) as cluster,
            cluster.client() as one,
            cluster.client() as other,
        ):
            tops = await asyncio.gather(count(one, 150), count(other, 150))
            assert max(tops) == 300
            assert counter.decode_value(await one.invoke(counter.read())) == 300
            status = await cluster.replicas[0].status()
            assert status["persistence"] == persistence
            assert status["pool"]["bad_signatures"] == 0
            await agreeing_states(cluster, status["decided"])

    run(scenario)


@pytest.mark.parametrize("n", [1, 4, 7])
def test_clusters_of_other_sizes(run: Run, n: int) -> None:
    async def scenario() -> None:
        async with LocalCluster(n, key_value.KeyValueStore) as cluster, cluster.client() as client:
            await client.invoke(key_value.put(b"city", b"Lisboa"))
            assert key_value.decode_value(await client.invoke(key_value.get(b"city"))) == b"Lisboa"

    run(scenario)


def test_the_coin_in_native_code(run: Run) -> None:
    minter = Ed25519Signer(bytes([7]) * 32)
    payee = Ed25519Signer(bytes([8]) * 32).public_key

    async def scenario() -> None:
        chain: list[bytes] = []

        def application() -> CoinApplication:
            return CoinApplication(chain[0], [minter.public_key])

        cluster = LocalCluster(4, application)
        chain.append(cluster.genesis.chain_id)
        async with cluster, cluster.client(minter) as client:
            coins = decode_created(await client.invoke(mint([100]))).coin_ids
            await client.invoke(spend([coins[0]], [(payee, 30), (minter.public_key, 70)]))
            assert decode_balance(await client.invoke(balance_of(payee))).amount == 30
            while (facts := (await cluster.replicas[2].status(digest=True))["application"])["minted"] == 0:
                await asyncio.sleep(0.01)  # two others have answered
            assert facts["supply"] == facts["minted"] == 100

    run(scenario)


def test_a_rejected_operation_leaves_no_gap(run: Run) -> None:
    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            with pytest.raises(Rejected, match="check refuses it"):
                await client.invoke(b"no operation of a counter")
            assert counter.decode_value(await client.invoke(counter.add(5))) == 5
            with pytest.raises(LocalProtocolError, match="at most"):
                await client.invoke(bytes(100_000))
            assert counter.decode_value(await client.invoke(counter.add(5))) == 10

    run(scenario)


def test_the_empty_operation_does_nothing(run: Run) -> None:
    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            assert open_result(await client.invoke(b"")) == b""

    run(scenario)


def test_more_invocations_than_the_window_wait_for_their_turn(run: Run) -> None:
    async def scenario() -> None:
        parameters = Parameters(window=4)
        async with LocalCluster(4, counter.Counter, parameters=parameters) as cluster, cluster.client() as client:
            assert await count(client, 100) == 100

    run(scenario)


# --- replicas that stop ---


def test_one_follower_down_and_back(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = LocalCluster(4, counter.Counter, "sync", folder=tmp_path, parameters=QUICK)
        async with cluster, cluster.client(retransmit=0.1) as client:
            assert await count(client, 20) == 20
            await cluster.stop(3)
            for _ in range(30):  # instances that replica 3 misses
                await client.invoke(counter.add(1))
            await cluster.start(3)
            await cluster.replicas[3].ready()
            assert await count(client, 20) == 70
            decided = (await cluster.replicas[0].status())["decided"]
            await agreeing_states(cluster, decided)

    run(scenario)


def test_a_late_replica_is_served_from_segments_that_were_closed(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        parameters = replace(QUICK, max_batch_bytes=128 * 1024)
        cluster = LocalCluster(
            4, key_value.KeyValueStore, "async", folder=tmp_path, parameters=parameters, segment_bytes=256 * 1024
        )
        async with cluster, cluster.client(retransmit=0.1) as client:
            await cluster.stop(2)
            for number in range(40):
                await client.invoke(key_value.put(b"key %d" % number, bytes(20_000)))
            assert (await cluster.replicas[0].status())["log"]["segments"] > 2
            await cluster.start(2)
            await agreeing_states(cluster, (await cluster.replicas[0].status())["decided"])

    run(scenario)


@pytest.mark.parametrize("persistence", ["async", "sync"])
def test_all_replicas_restart_and_remember(run: Run, tmp_path: Path, persistence: Any) -> None:
    async def scenario() -> None:
        cluster = LocalCluster(4, counter.Counter, persistence, folder=tmp_path, parameters=QUICK)
        async with cluster:
            async with cluster.client() as client:
                assert await count(client, 50) == 50
                before = await agreeing_states(cluster, 1)
            for replica in range(4):
                await cluster.stop(replica)
            for replica in range(4):
                await cluster.start(replica)
            for replica in range(4):
                await cluster.replicas[replica].ready()
            assert await agreeing_states(cluster, 1) == before
            async with cluster.client() as client:
                assert await count(client, 10) == 60

    run(scenario)


def test_a_client_outlives_the_restart_of_all_replicas(run: Run, tmp_path: Path) -> None:
    """The same session goes on: what was acknowledged is there, nothing is executed twice."""

    async def scenario() -> None:
        cluster = LocalCluster(4, counter.Counter, "sync", folder=tmp_path, parameters=QUICK)
        async with cluster, cluster.client(retransmit=0.1) as client:
            assert await count(client, 30) == 30
            for replica in range(4):
                await cluster.stop(replica)
            pending = asyncio.create_task(client.invoke(counter.add(1), timeout=30))
            for replica in range(4):
                await cluster.start(replica)
            assert counter.decode_value(await pending) == 31
            assert await count(client, 10) == 41

    run(scenario)


def test_with_two_replicas_down_nothing_is_answered_and_then_it_is(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = LocalCluster(4, counter.Counter, "sync", folder=tmp_path, parameters=QUICK)
        async with cluster, cluster.client(retransmit=0.1) as client:
            await client.invoke(counter.add(1))
            await cluster.stop(2)
            await cluster.stop(3)
            await until(lambda: client.connected == [0, 1])
            with pytest.raises(NotEnoughReplies, match="2 of 4 replicas"):
                await client.invoke(counter.add(1), timeout=0.2)
            await cluster.start(3)
            assert counter.decode_value(await client.invoke(counter.add(1))) == 2

    run(scenario)


def test_a_segment_that_cannot_hold_the_largest_batch_is_refused(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        cluster = LocalCluster(1, counter.Counter, "sync", folder=tmp_path, segment_bytes=64 * 1024)
        with pytest.raises(ConfigError, match=r"segment_size.*choose at least \d+KiB"):
            async with cluster:
                raise AssertionError("it started")

    run(scenario)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((0, counter.Counter), "n is 0: a cluster has 1 to 64 replicas"),
        (("4", counter.Counter), "n is '4'"),
        ((4, counter.Counter()), "'Counter' makes no applications: .* give the class"),
        ((4, counter.Counter, "disk"), "persistence is 'disk': it is one of memory, async, sync"),
    ],
)
def test_wrong_arguments_are_told(arguments: Any, told: str) -> None:
    with pytest.raises(LocalProtocolError, match=told):
        LocalCluster(*arguments)


def test_what_makes_no_application_is_told(run: Run) -> None:
    async def scenario() -> None:
        with pytest.raises(LocalProtocolError, match="'dict' is no application: derive it from StateMachine"):
            async with LocalCluster(4, dict):
                pass
        with pytest.raises(LocalProtocolError, match=r"Counter is a class: the application is an object, Counter\("):
            async with LocalCluster(4, lambda: counter.Counter):  # type: ignore[arg-type, return-value]
                pass

    run(scenario)


def test_calls_in_the_wrong_state_are_told(run: Run) -> None:
    async def scenario() -> None:
        cluster = LocalCluster(4, counter.Counter)
        with pytest.raises(LocalProtocolError, match="replica 0 is not running"):
            await cluster.stop(0)
        async with cluster:
            with pytest.raises(LocalProtocolError, match="replica 0 is running"):
                await cluster.start(0)
            for call in (cluster.start, cluster.stop):
                with pytest.raises(LocalProtocolError, match="replica 9"):
                    await call(9)
        with pytest.raises(LocalProtocolError, match="the cluster is closed: make a new one"):
            await cluster.start(0)

    run(scenario)
