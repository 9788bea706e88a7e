"""Hosts with several addresses: those that lead nowhere keep nobody from the others, on both sides."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from kit.names import Names
from kit.patience import PATIENCE_SECONDS, reach

from smartbft import LocalCluster
from smartbft.apps import counter
from smartbft.errors import ConfigError
from smartbft.net import dialing
from smartbft.net.connection import ReadBuffer
from smartbft.net.dialing import Trials, connect_any, listen, plain, server_name
from smartbft.net.handshake import Identity
from smartbft.net.names import RESOLVER, Place, Places
from smartbft.net.tls import dialer_context
from smartbft.net.transport import Dialer, Listener, Target
from tests.net.test_names import loops
from tests.net.test_transport import CHAIN, PATIENT, SIGNERS, Owner, Pair, run, tls

assert tls  # a fixture

TLS = list[tuple[ssl.SSLContext, bytes]]
NOT_HERE = "198.51.100.1"  # for documentation: no machine has it
NOWHERE = "127.0.0.3"


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    resolver = Names(monkeypatch)
    yield resolver
    resolver.answer()


@asynccontextmanager
async def black_hole(*hosts: str) -> AsyncIterator[None]:
    """On this loop, connecting to these addresses never ends."""
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect

    async def swallowed(sock: socket.socket, address: Any) -> None:
        if address[0] in hosts:
            await loop.create_future()
        await connect(sock, address)

    loop.sock_connect = swallowed  # type: ignore[method-assign]
    try:
        yield
    finally:
        loop.sock_connect = connect  # type: ignore[method-assign]


@asynccontextmanager
async def dialing_pair(pair: Pair, host: str, tls: tuple[ssl.SSLContext, bytes] | None = None) -> AsyncIterator[Dialer]:
    target = Target(1, host, pair.port, SIGNERS[1].public_key, tls[1] if tls else None)
    context = dialer_context() if tls else None
    identity = Identity(0, SIGNERS[0], 0, 2)
    dialer = Dialer(CHAIN, target, identity, pair.dialing, ReadBuffer(), tls=context, connection_limits=PATIENT)
    dialer.start()
    try:
        yield dialer
    finally:
        await dialer.close()


# --- dialing ---


@pytest.mark.parametrize("new_loop", loops())
@pytest.mark.parametrize("secure", [False, True])
def test_an_address_that_swallows_connections_keeps_nobody_from_the_next(
    names: Names, tls: TLS, secure: bool, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    names.found["dual"] = [NOWHERE, "2001:db8::1", "127.0.0.1"]

    async def scenario() -> None:
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            black_hole(NOWHERE, "2001:db8::1"),
            Pair(tls=tls[0] if secure else None) as pair,
            dialing_pair(pair, "dual", tls[0] if secure else None),
        ):
            await pair.accepting.opened_now.get()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


@pytest.mark.parametrize("secure", [False, True])
def test_an_address_where_nobody_speaks_comes_last_in_the_next_attempt(
    names: Names, tls: TLS, secure: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It accepts every connection and says nothing, as some proxies do."""
    monkeypatch.setattr(dialing, "FIRST_HANDSHAKE_AT_AN_ADDRESS_SECONDS", 0.01)
    names.found["dual"] = [NOWHERE, "127.0.0.1"]

    async def scenario() -> None:
        async with Pair(tls=tls[0] if secure else None) as pair:
            with socket.create_server((NOWHERE, pair.port)):
                async with dialing_pair(pair, "dual", tls[0] if secure else None) as dialer:
                    first = await pair.accepting.opened_now.get()
                    # The next attempt begins where the last one ended well.
                    places = [Place(socket.AF_INET, (address, pair.port)) for address in names.found["dual"]]
                    assert dialer._trials.order(places)[0].address[0] == "127.0.0.1"
                    first.abort()
                    await pair.accepting.opened_now.get()

    run(scenario)


def test_an_address_of_somebody_else_comes_last_in_the_next_attempt(names: Names) -> None:
    names.found["dual"] = [NOWHERE, "127.0.0.1"]

    async def scenario() -> None:
        async with Pair() as pair:
            another = Listener(
                bytes([7]) * 32,
                Identity(1, SIGNERS[1], 0, 2),
                {0: SIGNERS[0].public_key},
                Owner(),
                ReadBuffer(),
                connection_limits=PATIENT,
            )
            await another.start(NOWHERE, pair.port)
            try:
                async with dialing_pair(pair, "dual"):
                    await pair.accepting.opened_now.get()
            finally:
                await another.close()

    run(scenario)


def test_a_client_is_not_refused_for_good_at_the_first_of_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another chain listens at the first address of every replica's name."""

    async def both(host: str, port: int) -> Places:
        return tuple(Place(socket.AF_INET, (address, port)) for address in (NOWHERE, host))

    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster, contextlib.AsyncExitStack() as others:
            for member in cluster.genesis.members:
                another = Listener(bytes([7]) * 32, Identity(0, SIGNERS[0], 0, 2), None, Owner(), ReadBuffer())
                await another.start(NOWHERE, member.client_address.port)
                others.push_async_callback(another.close)
            monkeypatch.setattr(RESOLVER, "find", both, raising=False)
            async with cluster.client() as client:
                await reach(client)

    run(scenario)


def test_many_addresses_that_lead_nowhere_are_left_behind(names: Names) -> None:
    names.found["many"] = [f"127.0.1.{number}" for number in range(1, 20)] + ["127.0.0.1"]

    async def scenario() -> None:
        async with Pair() as pair, dialing_pair(pair, "many"):
            await pair.accepting.opened_now.get()

    run(scenario)


def test_of_two_that_answer_one_is_taken_and_the_other_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        made: list[socket.socket] = []
        ready = asyncio.Event()

        async def connect(place: Place) -> socket.socket:
            await ready.wait()
            made.append(socket.socket())
            return made[-1]

        monkeypatch.setattr(dialing, "_connect", connect)
        monkeypatch.setattr(dialing, "ADDRESS_STAGGER_SECONDS", 0.0)
        places = [Place(socket.AF_INET, (f"127.0.0.{number}", 7)) for number in (1, 2, 3)]
        connecting = asyncio.ensure_future(connect_any(places))
        while len(asyncio.all_tasks()) < 2 + len(places):
            await asyncio.sleep(0)
        ready.set()
        sock, place = await connecting
        assert place in places
        assert [one.fileno() != -1 for one in made].count(True) == 1
        sock.close()

    run(scenario)


def test_an_attempt_that_is_given_up_leaves_nothing_behind() -> None:
    async def scenario() -> None:
        async with black_hole(NOWHERE, "127.0.0.4"):
            places = [Place(socket.AF_INET, (host, 7)) for host in (NOWHERE, "127.0.0.4")]
            connecting = asyncio.ensure_future(connect_any(places))
            while len(asyncio.all_tasks()) < 4:
                await asyncio.sleep(0.01)
            connecting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await connecting
            assert len(asyncio.all_tasks()) == 1

    run(scenario)


def test_each_address_says_why_it_was_not_reached() -> None:
    async def scenario() -> None:
        with socket.socket() as taken:
            taken.bind((NOWHERE, 0))  # and nobody listens
            port = taken.getsockname()[1]
            here = [Place(socket.AF_INET, (host, port)) for host in (NOWHERE, "127.0.0.4")]
            with pytest.raises(ConnectionRefusedError) as alike:
                await connect_any(here)
            assert plain(alike.value) == "connection refused"
            loop = asyncio.get_running_loop()
            connect = loop.sock_connect

            async def unreachable(sock: socket.socket, address: Any) -> None:
                if address[0] == NOWHERE:
                    raise OSError(errno.ENETUNREACH, "Network is unreachable")
                await connect(sock, address)

            loop.sock_connect = unreachable  # type: ignore[method-assign]
            with pytest.raises(OSError, match=r"127\.0\.0\.4") as differently:
                await connect_any(here)
            assert plain(differently.value) == (
                f"{NOWHERE}:{port}: network is unreachable; 127.0.0.4:{port}: connection refused"
            )

    run(scenario)


def link_local() -> str | None:
    """A link-local address of this machine with its zone."""
    try:
        lines = [line.split() for line in Path("/proc/net/if_inet6").read_text().splitlines()]
    except OSError:
        return None
    found = [(digits, name) for digits, _, _, scope, _, name in lines if scope == "20"]
    if not found:
        return None
    digits, name = found[0]
    return ":".join(digits[i : i + 4] for i in range(0, 32, 4)) + f"%{name}"


@pytest.mark.skipif(link_local() is None, reason="no link-local address on this machine")
@pytest.mark.parametrize("new_loop", loops())
def test_a_zone_is_kept_from_the_genesis_to_the_socket(new_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    host = str(link_local())

    async def scenario() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS):
            (listening,) = await listen(host, 0)
            with listening, await dialing.connect(host, listening.getsockname()[1]) as sock:
                assert sock.getpeername()[3] == socket.if_nametoindex(host.partition("%")[2])
            with pytest.raises(ConnectionRefusedError):
                await dialing.connect(host, 1)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


def test_addresses_that_failed_come_last_and_are_given_longer_each_time() -> None:
    one, two, three = places = [Place(socket.AF_INET, (f"127.0.0.{number}", 7)) for number in (1, 2, 3)]
    trials = Trials()
    assert trials.order(places) == (one, two, three)
    trials.failed(one)
    trials.failed(one)
    trials.failed(two)
    assert trials.order(places) == (three, two, one)
    assert [trials.seconds(place, places, 5.0) for place in (three, two, one)] == [1.0, 2.0, 4.0]
    trials.failed(one)
    assert trials.seconds(one, places, 5.0) == 5.0
    assert trials.seconds(one, [one], 5.0) == 5.0, "there is no other to try"
    assert trials.is_last_resort(three, places)
    assert not trials.is_last_resort(two, places)
    assert trials.is_last_resort(one, [one])
    trials.succeeded(two)
    assert trials.order(places) == (two, three, one)
    assert trials.order([one]) == (one,)
    assert not {two, three} & trials._failures.keys(), "what the name has no more is forgotten"


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("replica.example", "replica.example"),
        ("replica.example.", "replica.example"),
        ("orderer_1", "orderer_1"),
        ("127.0.0.1", None),
        ("::1", None),
        ("fe80::1%eth0", None),
    ],
)
def test_tls_is_told_names_and_no_addresses(host: str, name: str | None) -> None:
    assert server_name(host) == name


@pytest.mark.parametrize("new_loop", loops())
@pytest.mark.parametrize("host", ["orderer_1", "replica.example."])
def test_names_that_validators_refuse_work_with_tls(
    names: Names, tls: TLS, host: str, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    names.found[host] = ["127.0.0.1"]

    async def scenario() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), Pair(tls=tls[0]) as pair, dialing_pair(pair, host, tls[0]):
            await pair.accepting.opened_now.get()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


# --- listening ---


def listener() -> Listener:
    return Listener(CHAIN, Identity(1, SIGNERS[1], 0, 2), {}, Owner(), ReadBuffer())


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.mark.parametrize("order", [[NOT_HERE, "127.0.0.1"], ["127.0.0.1", "2001:db8::1"], ["127.0.0.1", "127.0.0.1"]])
def test_one_address_that_is_not_here_does_not_stop_the_start(
    names: Names, order: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    names.found["host"] = order

    async def scenario() -> None:
        port = free_port()
        listening = listener()
        await listening.start("host", port)
        with socket.create_connection(("127.0.0.1", port)):
            pass
        await listening.close()

    with caplog.at_level(logging.WARNING):
        run(scenario)
    absent = [address for address in order if address != "127.0.0.1"]
    assert [address in caplog.text for address in absent] == [True] * len(absent)
    assert len([record for record in caplog.records if record.name == dialing.__name__]) == len(absent)


def test_a_machine_without_ipv6_listens_at_localhost(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    names.found["localhost"] = ["::1", "127.0.0.1"]
    make = socket.socket

    def without_ipv6(family: int = socket.AF_INET, *rest: Any, **more: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return make(family, *rest, **more)

    async def scenario() -> None:
        port = free_port()
        monkeypatch.setattr(dialing.socket, "socket", without_ipv6)
        listening = listener()
        await listening.start("localhost", port)
        monkeypatch.undo()
        with socket.create_connection(("127.0.0.1", port)) as connected:
            assert connected.getpeername() == ("127.0.0.1", port)
        await listening.close()

    run(scenario)


def test_no_address_at_all_is_a_configuration_error(names: Names) -> None:
    names.found["host"] = [NOT_HERE, "203.0.113.1"]
    names.found["mixed"] = [NOT_HERE, "127.0.0.1"]

    async def scenario() -> None:
        with pytest.raises(ConfigError, match=r"host:7: cannot assign requested address \(no address of this machine"):
            await listener().start("host", 7)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            with pytest.raises(ConfigError, match=r"198.51.100.1:.*; 127.0.0.1:.* already in use.*another replica"):
                await listener().start("mixed", port)
        with pytest.raises(ConfigError, match="cannot listen on unknown:7: Name or service not known"):
            await listener().start("unknown", 7)

    run(scenario)


def test_a_start_does_not_wait_for_its_own_name_without_end(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    names.hang("hangs")
    monkeypatch.setattr(dialing, "LOOKUP_AT_START_SECONDS", 0.01)

    async def scenario() -> None:
        with pytest.raises(ConfigError, match=r"cannot listen on hangs:7: the name was not found within 0.01 seconds"):
            await listener().start("hangs", 7)
        names.answer()

    run(scenario)


# --- planted bugs ---


def assert_notices(test: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails, or waits in vain for what takes a moment."""
    patiently = asyncio.timeout
    monkeypatch.setattr(asyncio, "timeout", lambda seconds: patiently(min(seconds or 3.0, 3.0)))
    with pytest.raises((AssertionError, TimeoutError)):
        test()


def test_planted_bug_addresses_are_tried_one_after_the_other(
    names: Names, tls: TLS, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialing, "ADDRESS_STAGGER_SECONDS", 3600.0)
    test = test_an_address_that_swallows_connections_keeps_nobody_from_the_next
    assert_notices(lambda: test(names, tls, False, asyncio.new_event_loop), monkeypatch)


def test_planted_bug_addresses_are_always_tried_in_their_order(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Trials, "order", lambda self, places: tuple(places))
    assert_notices(lambda: test_an_address_of_somebody_else_comes_last_in_the_next_attempt(names), monkeypatch)
