"""Connects and binds sockets, where a host has several addresses and not all of them lead anywhere."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
import ssl
from collections.abc import Sequence

from smartbft.errors import ConfigError
from smartbft.limits import (
    ADDRESS_STAGGER_SECONDS,
    FIRST_HANDSHAKE_AT_AN_ADDRESS_SECONDS,
    LOOKUP_AT_START_SECONDS,
    MAX_ADDRESSES_OF_A_NAME,
)
from smartbft.net.names import RESOLVER, Place, Places, shown

logger = logging.getLogger(__name__)

_BACKLOG = 1024
# What OpenSSL says when one side offers nothing that the other one may use.
_NOTHING_IN_COMMON = ("handshake failure", "no suitable", "no shared", "no protocols", "insufficient security")


def plain(error: OSError) -> str:
    """What the system says about a failed operation on a socket, without the number and the loop's words around it."""
    if isinstance(error, ssl.SSLError):
        return _plain_tls(error)
    if error.errno in errno.errorcode:
        return os.strerror(error.errno or 0).lower()
    silence = "no answer in time" if isinstance(error, TimeoutError) else "closed by the other side"
    return error.strerror or str(error) or silence


def _plain_tls(error: ssl.SSLError) -> str:
    words = tls_reason(error)
    if any(sign in words for sign in _NOTHING_IN_COMMON):
        return (
            f"no TLS that both sides allow ({words}): a policy of OpenSSL on one of them may forbid Ed25519 or TLS 1.3"
        )
    return f"it does not speak TLS as it should ({words})"


def tls_reason(error: ssl.SSLError) -> str:
    """OpenSSL's reason for an error, in small letters."""
    reason = getattr(error, "reason", None) or str(error)
    return reason.lower().replace("_", " ")


def server_name(host: str) -> str | None:
    """What a dialer tells TLS about whom it dials: a name without the dot at its end, nothing for an IP address."""
    return None if ":" in host or host.replace(".", "").isdigit() else host.removesuffix(".")


class Trials:
    """Which address of a host to try first: those that led to the wrong place, or nowhere, come last."""

    def __init__(self) -> None:
        self._failures: dict[Place, int] = {}
        self._last_good: Place | None = None

    def order(self, places: Sequence[Place]) -> Places:
        """The addresses to try now, the most promising first."""
        self._failures = {place: self._failures[place] for place in places if place in self._failures}
        known = sorted(places, key=lambda place: (self._failures.get(place, 0), place != self._last_good))
        return tuple(known[:MAX_ADDRESSES_OF_A_NAME])

    def seconds(self, place: Place, places: Sequence[Place], longest: float) -> float:
        """How long the handshake may take at `place`: not long at first, where there are others to try."""
        if len(places) == 1:
            return longest
        return min(longest, FIRST_HANDSHAKE_AT_AN_ADDRESS_SECONDS * 2.0 ** min(self._failures.get(place, 0), 16))

    def is_last_resort(self, place: Place, places: Sequence[Place]) -> bool:
        """Whether all other addresses have failed: what happens at `place` is the last word then."""
        return all(other == place or other in self._failures for other in places)

    def failed(self, *places: Place) -> None:
        """Nobody answered there, or somebody else."""
        for place in places:
            self._failures[place] = self._failures.get(place, 0) + 1

    def succeeded(self, place: Place) -> None:
        """Whom we look for is there."""
        self._failures.pop(place, None)
        self._last_good = place


async def connect(host: str, port: int) -> socket.socket:
    """A socket connected to a host, at the first of its addresses that answers.

    Raises:
        OSError: none of them does, or there is no such name.
    """
    sock, _ = await connect_any((await RESOLVER.find(host, port))[:MAX_ADDRESSES_OF_A_NAME])
    return sock


async def connect_any(places: Sequence[Place]) -> tuple[socket.socket, Place]:
    """A socket connected to the first of several addresses that answers, and which one that is.

    They are tried in their order, the next one as soon as one has failed or has not answered for a moment (RFC 8305):
    one that swallows what is sent to it keeps nobody from the others.

    Raises:
        OSError: none of them can be reached.
    """
    left = list(places)
    attempts: dict[asyncio.Task[socket.socket], Place] = {}
    failures: dict[Place, OSError] = {}
    try:
        while left or attempts:
            if left:
                place = left.pop(0)
                attempts[asyncio.ensure_future(_connect(place))] = place
            patience = ADDRESS_STAGGER_SECONDS if left else None
            done, _ = await asyncio.wait(attempts, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                error = attempt.exception()
                if error is None:
                    return attempt.result(), attempts.pop(attempt)
                if not isinstance(error, OSError):
                    raise error
                failures[attempts.pop(attempt)] = error
    finally:
        await _give_up(list(attempts))
    raise _together(failures)


async def _connect(place: Place) -> socket.socket:
    sock = socket.socket(place.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if place.has_zone:
            await _connect_in_zone(sock, place)
        else:
            await asyncio.get_running_loop().sock_connect(sock, place.address)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_in_zone(sock: socket.socket, place: Place) -> None:
    """As the loop's `sock_connect`, which on uvloop forgets the zone. Raises OSError."""
    code = sock.connect_ex(place.address)
    if code == errno.EINPROGRESS:
        loop = asyncio.get_running_loop()
        decided = asyncio.Event()
        loop.add_writer(sock.fileno(), decided.set)
        try:
            await decided.wait()
        finally:
            loop.remove_writer(sock.fileno())
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if code:
        raise OSError(code, os.strerror(code))


async def _give_up(attempts: list[asyncio.Task[socket.socket]]) -> None:
    """End the other attempts; those that have succeeded meanwhile are not needed."""
    for attempt in attempts:
        attempt.cancel()
    for ended in await asyncio.gather(*attempts, return_exceptions=True):
        if isinstance(ended, socket.socket):
            ended.close()


def _together(failures: dict[Place, OSError]) -> OSError:
    """One error for all addresses."""
    said = {place: plain(error) for place, error in failures.items()}
    if len(set(said.values())) == 1:
        return next(iter(failures.values()))
    return OSError("; ".join(f"{place}: {words}" for place, words in said.items()) or "it has no address")


async def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets that listen at all addresses of a host that this machine has.

    One address that cannot be listened at is no reason to listen at none: a hosts file often names ``::1`` on machines
    without IPv6, and a name may have addresses that are another machine's as well. That is told in the log.

    Raises:
        ConfigError: the name is not found, or none of its addresses can be listened at.
    """
    try:
        async with asyncio.timeout(LOOKUP_AT_START_SECONDS):
            places = await RESOLVER.find(host, port)
    except TimeoutError:
        raise ConfigError(
            f"cannot listen on {shown(host, port)}: the name was not found within {LOOKUP_AT_START_SECONDS:g} seconds"
        ) from None
    except OSError as error:
        raise ConfigError(f"cannot listen on {shown(host, port)}: {plain(error)}") from None
    sockets: list[socket.socket] = []
    failures: dict[Place, OSError] = {}
    for place in places:
        try:
            sockets.append(_listen(place))
        except OSError as error:
            failures[place] = error
    if not sockets:
        raise _cannot_listen(host, port, failures)
    for place, failure in failures.items():
        logger.warning("nobody is heard at %s, one of the addresses of %s: %s", place, host, plain(failure))
    return sockets


def listen_on(sock: socket.socket, host: str, port: int) -> socket.socket:
    """Listen with a socket that is bound already, to an address of `host`. Raises ConfigError: it cannot."""
    try:
        sock.listen(_BACKLOG)
    except OSError as error:
        raise _cannot_listen(host, port, {Place(sock.family, (host, port)): error}) from None
    return sock


def _cannot_listen(host: str, port: int, failures: dict[Place, OSError]) -> ConfigError:
    codes = {error.errno for error in failures.values()}
    hint = " (is another replica running?)" if errno.EADDRINUSE in codes else ""
    if codes == {errno.EADDRNOTAVAIL}:
        hint = " (no address of this machine: is this the home folder of a replica on another one?)"
    return ConfigError(f"cannot listen on {shown(host, port)}: {plain(_together(failures))}{hint}")


def _listen(place: Place) -> socket.socket:
    sock = socket.socket(place.family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if place.family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place.address)
        sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock
