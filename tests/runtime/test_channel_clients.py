"""Clusters whose requests carry no signatures, and clients of both kinds through the failure of a leader."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from smartbft import LocalCluster
from smartbft._fastpath.frames import REPLY, REQUEST, FrameReader, frame
from smartbft._fastpath.pool import encode_request
from smartbft.apps import counter
from smartbft.apps.coin import CoinApplication
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import ConfigError
from smartbft.limits import MAX_REPLY_BYTES
from smartbft.net.connection import Connection, ReadBuffer
from smartbft.net.transport import Dialer, Target
from smartbft.runtime.client import AsyncClient
from smartbft.types import CHANNEL, SIGNATURES, Parameters

Run = Callable[[Callable[[], Awaitable[None]]], None]
QUICK = Parameters(request_timeout=400_000, resend_interval=50_000, progress_interval=50_000)
BY_CHANNEL = replace(QUICK, request_authentication=CHANNEL)


async def count(client: AsyncClient, times: int) -> int:
    results = await asyncio.gather(*(client.invoke(counter.add(1)) for _ in range(times)))
    return max(counter.decode_value(result) for result in results)


@pytest.mark.parametrize("persistence", ["memory", "sync"])
@pytest.mark.parametrize("transport", ["plain", "tls"])
def test_clients_that_prove_their_keys_count_exactly_once(
    run: Run, tmp_path: Path, persistence: Any, transport: Any
) -> None:
    async def scenario() -> None:
        async with (
            LocalCluster(
                4, counter.Counter, persistence, transport=transport, folder=tmp_path, parameters=BY_CHANNEL
            ) as cluster,
            cluster.client() as one,
            cluster.client() as other,
        ):
            assert max(await asyncio.gather(count(one, 100), count(other, 100))) == 200
            pool = (await cluster.replicas[0].status())["pool"]
            assert (pool["signature_checks"], pool["bad_signatures"]) == (0, 0)

    run(scenario)


@pytest.mark.parametrize("authentication", [SIGNATURES, CHANNEL])
def test_a_client_notices_the_failure_of_the_leader_only_by_the_time_it_takes(run: Run, authentication: str) -> None:
    """Retransmission to all with growing pauses is all it needs: no call fails, and each is executed once."""

    async def scenario() -> None:
        parameters = replace(QUICK, request_authentication=authentication)
        async with (
            LocalCluster(4, counter.Counter, "async", parameters=parameters) as cluster,
            cluster.client() as client,
        ):
            assert await count(client, 20) == 20
            leader = (await cluster.replicas[0].status())["leader"]
            asked = asyncio.create_task(count(client, 40))
            await asyncio.sleep(0)
            await cluster.stop(leader)
            assert await asked == 60
            assert await count(client, 10) == 70
            survivor = next(id for id in range(4) if id != leader)
            while (await cluster.replicas[survivor].status())["leader"] == leader:  # it may be its turn once more
                await asyncio.sleep(0.01)

    run(scenario)


class Stranger:
    """A client connection whose bytes the test chooses."""

    def __init__(self) -> None:
        self.open: asyncio.Future[Connection] = asyncio.get_running_loop().create_future()

    def opened(self, connection: Connection) -> FrameReader:
        self.open.set_result(connection)
        return FrameReader({REPLY: MAX_REPLY_BYTES})

    def received(self, connection: Connection, frames: list[tuple[int, bytes]]) -> None:
        raise AssertionError("nobody answers")

    def closed(self, connection: Connection, error: Exception | None) -> None:
        pass

    def failed(self, error: BaseException) -> None:
        raise error


@pytest.mark.parametrize("proves", [True, False])
def test_a_connection_may_send_requests_of_its_own_key_only(run: Run, proves: bool) -> None:
    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter, parameters=BY_CHANNEL) as cluster, cluster.client() as client:
            stranger = Stranger()
            member = cluster.genesis.member(0)
            target = Target(0, member.client_address.host, member.client_address.port, member.permanent_key, None)
            prover = Ed25519Signer(b"s" * 32) if proves else None
            dialer = Dialer(cluster.genesis.chain_id, target, None, stranger, ReadBuffer(), client=prover)
            dialer.start()
            connection = await stranger.open
            stolen = encode_request(client.key, client.session, 1, counter.add(5), bytes(64))
            connection.send(frame(REQUEST, stolen))
            await connection.done
            await dialer.close()
            assert await count(client, 1) == 1

    run(scenario)


def test_the_coin_refuses_to_start_without_signatures(run: Run) -> None:
    async def scenario() -> None:
        def coin() -> CoinApplication:
            return CoinApplication(bytes(32), [])

        with pytest.raises(ConfigError, match="needs signed requests"):
            async with LocalCluster(4, coin, parameters=BY_CHANNEL):
                pass

    run(scenario)


def test_there_is_nothing_to_check_one_after_the_other(run: Run) -> None:
    async def scenario() -> None:
        with pytest.raises(ConfigError, match="no signatures to check"):
            async with LocalCluster(4, counter.Counter, signature_check="sequential", parameters=BY_CHANNEL):
                pass

    run(scenario)


def test_a_session_of_long_ago_gives_way_to_a_new_one_before_anything_is_sent_in_it(run: Run) -> None:
    """All replicas would refuse it, and nobody could say whether the request was executed all the same."""

    async def scenario() -> None:
        async with (
            LocalCluster(4, counter.Counter, parameters=BY_CHANNEL) as cluster,
            cluster.client() as other,
            cluster.client() as client,
        ):
            assert await count(other, 1) == 1
            client._session -= 2 * 3600 * 1_000_000
            stale = client.session
            assert await count(client, 1) == 2
            assert client.session > stale + 3600 * 1_000_000
            assert await count(client, 1) == 3

    run(scenario)
