"""Names to socket addresses: look-ups on threads of their own, so that one that hangs costs no other name anything.

The resolvers of asyncio and uvloop share a few threads between all names: one name that hangs, looked up again with
each attempt to dial, soon takes all of them. Here each name has one look-up in flight at most, whatever number of
dialers wait for it, and a name that was found before is dialed where it was then, until its look-up ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import socket
import threading
from collections.abc import Callable
from itertools import zip_longest
from typing import Any, NamedTuple

from smartbft.limits import LOOKUP_PATIENCE_SECONDS, MAX_KNOWN_NAMES, MAX_LOOKUPS_IN_FLIGHT


class Place(NamedTuple):
    """One address at which a socket may connect or listen."""

    family: int
    address: tuple[Any, ...]  # as the socket module has it

    def __str__(self) -> str:
        return shown(self.address[0], self.address[1])

    @property
    def has_zone(self) -> bool:
        """Whether it is an address on one network interface."""
        return self.family == socket.AF_INET6 and bool(self.address[3])

    def at(self, port: int) -> Place:
        """The same with another port."""
        host, _, *rest = self.address
        return Place(self.family, (host, port, *rest))


Places = tuple[Place, ...]


def shown(host: str, port: int) -> str:
    """A host and a port in one text."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


class _LookUp(threading.Thread):
    """The look-up of one name, for all who wait for it, on any loop.

    Args:
        host: the name.
        found: called with the addresses, on this thread.
    """

    def __init__(self, host: str, found: Callable[[Places], None]) -> None:
        super().__init__(name="smartbft-name", daemon=True)  # it may hang, and must not hold up the end of the process
        self.result: Places | OSError | None = None
        self._host = host
        self._found = found
        self._lock = threading.Lock()
        self._waiting: dict[asyncio.Future[None], asyncio.AbstractEventLoop] = {}

    def run(self) -> None:
        """Ask the system, however long that takes."""
        result: Places | OSError
        try:
            result = _places(socket.getaddrinfo(self._host, None, type=socket.SOCK_STREAM))
            self._found(result)
        except OSError as error:
            result = error
        except UnicodeError as error:  # it does not even look like a name
            result = OSError(str(error))
        with self._lock:
            self.result = result
            waiting = list(self._waiting.items())
        for future, loop in waiting:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(_wake, future)

    async def ended(self) -> Places:
        """Wait for its end. Raises OSError: there is no such name, or no answer."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self.result is None:
                self._waiting[future] = loop
            else:
                future.set_result(None)
        try:
            await future
        finally:
            with self._lock:
                self._waiting.pop(future, None)
        if isinstance(self.result, OSError):
            raise type(self.result)(*self.result.args)  # each who waits gets one of his own
        return self.result or ()


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Resolver:
    """Looks up names. One of them serves a process: all its loops and threads."""

    def __init__(self) -> None:
        self.start_anew()

    def start_anew(self) -> None:
        """Forget everything, look-ups in flight included."""
        self._lock = threading.Lock()
        self._in_flight: dict[str, _LookUp] = {}
        self._known: dict[str, Places] = {}

    async def find(self, host: str, port: int) -> Places:
        """The addresses of a host, families in turn. IP addresses need no look-up.

        It takes as long as the system's resolver does, but for names that were found before: after a moment they are
        where they were. The caller limits the time.

        Raises:
            OSError: there is no such name, or no answer.
        """
        literal = _literal(host)
        if literal is not None:
            return (literal.at(port),)
        known = self._known.get(host)
        try:
            async with asyncio.timeout(LOOKUP_PATIENCE_SECONDS if known else None):
                found = await self._look_up(host, port)
        except OSError:  # a TimeoutError is one as well
            if known is None:
                raise
            found = known
        return tuple(place.at(port) for place in found)

    async def _look_up(self, host: str, port: int) -> Places:
        loop = asyncio.get_running_loop()
        if not _resolves_itself(loop):
            return await self._flight(host).ended()
        found = _places(await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        self._remember(host, found)
        return found

    def _flight(self, host: str) -> _LookUp:
        """The look-up of a name that is on its way, or a new one. Raises OSError: too many hang."""
        with self._lock:
            flight = self._in_flight.get(host)
            if flight is not None and flight.result is None:
                return flight
            self._in_flight = {name: other for name, other in self._in_flight.items() if other.result is None}
            if len(self._in_flight) >= MAX_LOOKUPS_IN_FLIGHT:
                raise OSError(f"{len(self._in_flight)} other names are being looked up, and none of them is found")
            flight = _LookUp(host, lambda found: self._remember(host, found))
            try:
                flight.start()
            except RuntimeError as error:  # the system has no more threads
                raise OSError(str(error)) from None
            self._in_flight[host] = flight
            return flight

    def _remember(self, host: str, found: Places) -> None:
        with self._lock:
            self._known.pop(host, None)
            self._known[host] = found
            if len(self._known) > MAX_KNOWN_NAMES:
                del self._known[next(iter(self._known))]


def _literal(host: str) -> Place | None:
    """The address that `host` is, if it is one. Raises OSError: its zone is no interface here."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if isinstance(address, ipaddress.IPv4Address):
        return Place(socket.AF_INET, (host, 0))
    zone = address.scope_id
    if zone is None:
        return Place(socket.AF_INET6, (host, 0, 0, 0))
    try:
        index = int(zone) if zone.isdecimal() else socket.if_nametoindex(zone)
    except OSError:
        raise OSError(f"this machine has no network interface '{zone}'") from None
    return Place(socket.AF_INET6, (host.partition("%")[0], 0, 0, index))


def _resolves_itself(loop: asyncio.AbstractEventLoop) -> bool:
    """Whether the program has given its loop a resolver of its own, one without threads perhaps: then that is asked."""
    if "getaddrinfo" in getattr(loop, "__dict__", {}):
        return True
    owner = next(kind for kind in type(loop).__mro__ if "getaddrinfo" in vars(kind))
    return owner.__module__.partition(".")[0] not in ("asyncio", "uvloop")


def _places(found: list[tuple[Any, ...]]) -> Places:
    """Each address once, families in turn: one family that leads nowhere must not use up all attempts."""
    by_family: dict[int, list[Place]] = {}
    for place in dict.fromkeys(Place(entry[0], entry[4]) for entry in found):
        by_family.setdefault(place.family, []).append(place)
    return tuple(place for turn in zip_longest(*by_family.values()) for place in turn if place is not None)


RESOLVER = Resolver()
if hasattr(os, "register_at_fork"):
    # The threads of a process are not in its child: nobody there may wait for them.
    os.register_at_fork(after_in_child=RESOLVER.start_anew)
