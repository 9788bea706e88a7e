"""Names: a look-up that hangs costs no other name anything, and no replica that was found before."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from kit.names import Names
from kit.patience import PATIENCE_SECONDS, until

from smartbft.net import names as module
from smartbft.net.connection import ReadBuffer
from smartbft.net.handshake import Identity
from smartbft.net.names import RESOLVER, Place, Resolver
from smartbft.net.transport import Dialer, Target
from tests.net.test_transport import CHAIN, PATIENT, SIGNERS, Owner, Pair, run

MANY = 40  # more than asyncio and uvloop have threads for


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    resolver = Names(monkeypatch)
    yield resolver
    resolver.answer()


def dial(host: str, port: int, owner: Owner | None = None) -> Dialer:
    target = Target(1, host, port, SIGNERS[1].public_key, None)
    identity = Identity(0, SIGNERS[0], 0, 2)
    dialer = Dialer(CHAIN, target, identity, owner or Owner(), ReadBuffer(), connection_limits=PATIENT)
    dialer.start()
    return dialer


def loops() -> list[Callable[[], asyncio.AbstractEventLoop]]:
    found: list[Callable[[], asyncio.AbstractEventLoop]] = [asyncio.new_event_loop]
    try:
        import uvloop
    except ImportError:
        return found
    return [*found, uvloop.new_event_loop]


@pytest.mark.parametrize("new_loop", loops())
def test_names_that_hang_keep_nobody_from_the_others(
    names: Names, new_loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    hanging = [f"hangs-{number}" for number in range(MANY)]
    names.found["good"] = ["127.0.0.1"]
    names.hang(*hanging)

    async def scenario() -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), Pair() as pair:
            dialers = [dial(host, pair.port) for host in hanging]
            try:
                await until(lambda: names.hanging == MANY)
                dialers.append(dial("good", pair.port))
                await pair.accepting.opened_now.get()
            finally:
                names.answer()
                for dialer in dialers:
                    await dialer.close()

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(scenario())


def test_one_name_is_looked_up_once_at_a_time(names: Names) -> None:
    names.found["slow"] = ["127.0.0.1"]
    names.hang("slow")

    async def scenario() -> None:
        waiting = [asyncio.ensure_future(RESOLVER.find("slow", port)) for port in range(1, 20)]
        await until(lambda: names.hanging)
        for one in waiting[:10]:  # attempts to dial that are given up, and made again
            one.cancel()
        waiting += [asyncio.ensure_future(RESOLVER.find("slow", port)) for port in range(20, 30)]
        await asyncio.sleep(0)
        names.answer()
        found = await asyncio.gather(*waiting[10:])
        assert [places[0] for places in found] == [Place(socket.AF_INET, ("127.0.0.1", port)) for port in range(11, 30)]
        assert names.asked == ["slow"]

    run(scenario)


def test_all_loops_and_threads_share_a_look_up(names: Names) -> None:
    names.found["slow"] = ["127.0.0.1"]
    names.hang("slow")
    found: list[Any] = []
    threads = [threading.Thread(target=lambda: found.append(asyncio.run(RESOLVER.find("slow", 7)))) for _ in range(5)]
    for thread in threads:
        thread.start()
    flight = None
    while flight is None or len(flight._waiting) < len(threads):
        flight = RESOLVER._in_flight.get("slow")
    names.answer()
    for thread in threads:
        thread.join()
    assert found == [(Place(socket.AF_INET, ("127.0.0.1", 7)),)] * 5
    assert names.asked == ["slow"]


def test_a_name_that_was_found_is_dialed_where_it_was_while_its_look_up_hangs(names: Names) -> None:
    names.found["moves"] = ["127.0.0.1"]

    async def scenario() -> None:
        async with Pair() as pair:
            dialer = dial("moves", pair.port)
            try:
                first = await pair.accepting.opened_now.get()
                names.hang("moves")
                first.abort()
                await pair.accepting.opened_now.get()
                await until(lambda: names.hanging == 1)
            finally:
                names.answer()
                await dialer.close()

    run(scenario)


def test_a_look_up_that_fails_does_not_lose_what_was_found(names: Names) -> None:
    names.found["moves"] = ["127.0.0.1"]

    async def scenario() -> None:
        async with Pair() as pair:
            dialer = dial("moves", pair.port)
            first = await pair.accepting.opened_now.get()
            del names.found["moves"]
            first.abort()
            await pair.accepting.opened_now.get()
            assert names.asked == ["moves", "moves"]
            await dialer.close()

    run(scenario)


def test_a_slow_look_up_is_known_when_it_ends_though_nobody_waits_any_more(
    names: Names, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOKUP_PATIENCE_SECONDS", 0.001)
    resolver = Resolver()
    names.found["moves"] = ["127.0.0.1"]

    async def scenario() -> None:
        assert [str(place) for place in await resolver.find("moves", 7)] == ["127.0.0.1:7"]
        names.hang("moves")
        names.found["moves"] = ["127.0.0.2"]
        assert [str(place) for place in await resolver.find("moves", 7)] == ["127.0.0.1:7"]
        names.answer()
        await until(lambda: resolver._known["moves"][0].address[0] == "127.0.0.2")
        names.hang("moves")
        assert [str(place) for place in await resolver.find("moves", 7)] == ["127.0.0.2:7"]

    run(scenario)


def test_a_dialer_says_that_a_name_is_not_found_or_not_yet(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    names.hang("hangs")

    async def scenario() -> None:
        impatient = Dialer(
            CHAIN,
            Target(1, "hangs", 7, SIGNERS[1].public_key, None),
            None,
            Owner(),
            ReadBuffer(),
            connection_limits=PATIENT.__class__(handshake_timeout=0.01),
        )
        impatient.start()
        unknown = dial("unknown", 7)
        await until(lambda: impatient.problem and unknown.problem)
        assert impatient.problem == "the look-up of its name, hangs, has not ended yet"
        assert unknown.problem == "Name or service not known"
        await until(lambda: names.asked.count("unknown") > 1)
        assert names.asked.count("hangs") == 1, "looked up again although the first look-up has not ended"
        names.answer()
        await impatient.close()
        await unknown.close()

    run(scenario)


def test_addresses_need_no_look_up(names: Names) -> None:
    async def scenario() -> None:
        assert await RESOLVER.find("127.0.0.1", 7) == (Place(socket.AF_INET, ("127.0.0.1", 7)),)
        assert await RESOLVER.find("::1", 7) == (Place(socket.AF_INET6, ("::1", 7, 0, 0)),)
        index, interface = socket.if_nameindex()[0]
        expected = (Place(socket.AF_INET6, ("fe80::1", 7, 0, index)),)
        assert await RESOLVER.find(f"fe80::1%{interface}", 7) == expected
        assert await RESOLVER.find(f"fe80::1%{index}", 7) == expected
        with pytest.raises(OSError, match="no network interface 'nOne'"):
            await RESOLVER.find("fe80::1%nOne", 7)
        assert names.asked == []

    run(scenario)


def test_families_take_turns_and_each_address_comes_once(names: Names) -> None:
    names.found["many"] = ["2001:db8::1", "2001:db8::2", "2001:db8::1", "192.0.2.1", "2001:db8::3", "192.0.2.2"]

    async def scenario() -> None:
        found = await RESOLVER.find("many", 7)
        assert [place.address[0] for place in found] == [
            "2001:db8::1",
            "192.0.2.1",
            "2001:db8::2",
            "192.0.2.2",
            "2001:db8::3",
        ]

    run(scenario)


def test_a_loop_with_a_resolver_of_its_own_is_asked(names: Names) -> None:
    class OwnResolver(asyncio.SelectorEventLoop):
        async def getaddrinfo(self, host: Any, port: Any, **_: Any) -> Any:
            await asyncio.sleep(0)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.9", port))]

    with asyncio.Runner(loop_factory=OwnResolver) as runner:
        assert runner.run(Resolver().find("name", 7)) == (Place(socket.AF_INET, ("127.0.0.9", 7)),)
    assert names.asked == []


def test_look_ups_and_memory_are_bounded(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LOOKUPS_IN_FLIGHT", 3)
    monkeypatch.setattr(module, "MAX_KNOWN_NAMES", 2)
    resolver = Resolver()
    names.hang("a", "b", "c")

    async def scenario() -> None:
        waiting = [asyncio.ensure_future(resolver.find(host, 7)) for host in "abc"]
        await until(lambda: names.hanging == 3)
        with pytest.raises(OSError, match="3 other names are being looked up"):
            await resolver.find("d", 7)
        names.answer()
        await asyncio.wait(waiting)
        for one in waiting:
            assert isinstance(one.exception(), socket.gaierror)
        for number in range(5):
            names.found[f"n{number}"] = ["127.0.0.1"]
            await resolver.find(f"n{number}", 7)
        assert list(resolver._known) == ["n3", "n4"]

    run(scenario)


def test_a_child_does_not_wait_for_the_threads_of_its_parent() -> None:
    program = """
import asyncio, os, socket, threading
asked, answer = threading.Event(), threading.Event()
def hang(host, *rest, **more):
    asked.set()
    answer.wait()
    raise socket.gaierror(-2, "no such name")
socket.getaddrinfo = hang
from smartbft.net.names import RESOLVER
threading.Thread(target=lambda: asyncio.run(RESOLVER.find("name", 7)), daemon=True).start()
asked.wait()
child = os.fork()
if not child:
    socket.getaddrinfo = lambda *rest, **more: [(socket.AF_INET, 1, 6, "", ("127.0.0.1", 0))]
    os._exit(0 if asyncio.run(RESOLVER.find("name", 7)) else 1)
os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", program], env=environment, timeout=PATIENCE_SECONDS, check=False)
    assert ended.returncode == 0


# --- planted bugs ---


def test_planted_bug_each_attempt_looks_up_anew(names: Names, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Resolver, "_flight", lambda self, host: _started(self, host))
    with pytest.raises(AssertionError):
        test_one_name_is_looked_up_once_at_a_time(names)


def _started(resolver: Resolver, host: str) -> Any:
    flight = module._LookUp(host, lambda found: resolver._remember(host, found))
    flight.start()
    return flight
