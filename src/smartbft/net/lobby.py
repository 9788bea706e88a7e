"""Where accepted connections wait until they have introduced themselves: what a flood of them may cost is bounded.

Nothing is made for a connection before its first bytes are here, and then handshakes begin at a bounded rate, one
address after the other, the newest connection first: the others of its address may have been given up by now. When too
many wait, the oldest of the address that has most of them goes. A replica that knocks (`smartbft.net.knock`) does not
wait for its turn.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import logging
import socket
from collections.abc import Awaitable, Callable

from smartbft._fastpath.frames import HELLO
from smartbft.forks import keep_from_children
from smartbft.limits import (
    ACCEPTED_AT_ONCE,
    ACCEPTED_PER_SECOND,
    ACCEPTED_PER_TURN,
    FRAME_HEADER_BYTES,
    LOBBY_REPORT_SECONDS,
    LOOP_TICK_SECONDS,
    MAX_HELLO_BYTES,
    PLAIN_HANDSHAKES_PER_TLS_HANDSHAKE,
    PROBATION_NEWCOMERS_WAITING,
)
from smartbft.net.knock import KNOCK_BYTES, KNOCK_HEADER, Door
from smartbft.net.penalties import Probation
from smartbft.net.watch import ConnectionLimits
from smartbft.token_bucket import TokenBucket

logger = logging.getLogger(__name__)

_OUT_OF_DESCRIPTORS = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
_TLS_HANDSHAKE = 22  # the type of a TLS record that opens a connection


class Guest:
    """A connection that has not introduced itself.

    Attributes:
        host: its address.
        group: what counts as one address.
        sock: until its handshake begins.
        wants: how many of its first bytes must be here before they are looked at.
        handshake: once it has begun.
        turn_away: closes it when the handshake has got as far as that; told why.
        release: to call once the connection is somebody else's, or closed (`keep_from_children`).
    """

    __slots__ = ("group", "handshake", "host", "release", "sock", "timer", "turn_away", "wants")

    def __init__(self, host: str, sock: socket.socket) -> None:
        self.host = host
        self.group = address_group(host)
        self.sock: socket.socket | None = sock
        self.release = keep_from_children(sock.fileno())
        self.wants = FRAME_HEADER_BYTES
        self.timer: asyncio.TimerHandle | None = None
        self.handshake: asyncio.Task[None] | None = None
        self.turn_away: Callable[[str], None] | None = None


class Lobby:
    """The connections of one listener that have not introduced themselves.

    Args:
        connection_limits: how many, how long, and how many handshakes.
        tls: whether handshakes begin with TLS.
        door: knows the knocks of replicas; None on the port for clients.
        probation: addresses that are let in more slowly; None: there are none.
        begin: hands a socket over to asyncio and returns when its connection is made (with TLS: after that handshake);
            raises OSError.

    Attributes:
        guests: those who are here, oldest first.
        turned_away: how many since they were told of last, by reason.
    """

    def __init__(
        self,
        connection_limits: ConnectionLimits,
        *,
        tls: bool,
        door: Door | None,
        probation: Probation | None,
        begin: Callable[[Guest, socket.socket], Awaitable[None]],
    ) -> None:
        self.guests: dict[Guest, None] = {}
        self._limits = connection_limits
        self._tls = tls
        self._door = door
        self._probation = probation
        self._begin = begin
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[socket.socket, Callable[[], object]] = {}  # and what to call before each is closed
        self._groups: dict[str, dict[Guest, None]] = {}
        self._ready: dict[str, list[Guest]] = {}  # who has spoken, by address; addresses in turn
        self._held: dict[str, dict[Guest, None]] = {}  # who has spoken and is of an address on probation, oldest first
        self._releasing: set[str] = set()  # addresses of which somebody comes in a little later
        self._accepts = TokenBucket(ACCEPTED_AT_ONCE, ACCEPTED_PER_SECOND)
        times = 1 if tls else PLAIN_HANDSHAKES_PER_TLS_HANDSHAKE
        at_once, per_second = connection_limits.handshakes_at_once, connection_limits.handshakes_per_second
        self._handshakes = TokenBucket(times * at_once, times * per_second)
        self._timers: set[asyncio.TimerHandle] = set()
        self._serves_later = False
        self.turned_away: dict[str, int] = {}

    # --- life ---

    def open(self, sock: socket.socket) -> None:
        """Accept what comes to a listening socket, which is closed with the lobby."""
        sock.setblocking(False)
        self._sockets[sock] = keep_from_children(sock.fileno())
        self._loop.add_reader(sock.fileno(), self._accept, sock)

    def close(self) -> None:
        """Accept nothing more, and send everybody home."""
        for sock, release in self._sockets.items():
            self._loop.remove_reader(sock.fileno())
            release()
            sock.close()
        self._sockets.clear()
        for timer in self._timers:
            timer.cancel()
        for guest in list(self.guests):
            self._remove(guest)

    # --- for connections ---

    def left(self, guest: Guest) -> None:
        """It has introduced itself, or is closed."""
        if guest not in self.guests:
            return
        del self.guests[guest]
        guest.release()
        group = self._groups[guest.group]
        del group[guest]
        if not group:
            del self._groups[guest.group]
        self._unhold(guest)
        waiting = self._ready.get(guest.group, [])
        if guest in waiting:
            waiting.remove(guest)
            if not waiting:
                del self._ready[guest.group]
        if guest.timer is not None:
            guest.timer.cancel()

    # --- who comes ---

    def _accept(self, listening: socket.socket) -> None:
        """A few connections; the others wait in the queue of the operating system."""
        for _ in range(ACCEPTED_PER_TURN):
            pause = self._accepts.wait(self._loop.time())
            if pause:
                self._rest(listening, pause)
                return
            try:
                sock, address = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _OUT_OF_DESCRIPTORS:
                    raise
                self._without_descriptors(listening)
                return
            self._accepts.take(self._loop.time())
            if sock.fileno() >= self._limits.descriptors:
                sock.close()
                self._without_descriptors(listening)
                return
            self._receive(sock, str(address[0]))

    def _without_descriptors(self, listening: socket.socket) -> None:
        """Those that there are belong to files. Whoever waits longest makes room for the next one."""
        self._make_room("this process has no file descriptors left for connections")
        self._rest(listening, 1 / ACCEPTED_PER_SECOND)

    def _rest(self, listening: socket.socket, seconds: float) -> None:
        self._loop.remove_reader(listening.fileno())
        self._later(seconds, lambda: self._loop.add_reader(listening.fileno(), self._accept, listening))

    def _later(self, seconds: float, callback: Callable[[], object]) -> None:
        def run() -> None:
            self._timers.discard(timer)
            callback()

        timer = self._loop.call_later(max(seconds, LOOP_TICK_SECONDS), run)
        self._timers.add(timer)

    def _receive(self, sock: socket.socket, host: str) -> None:
        sock.setblocking(False)
        guest = Guest(host, sock)
        self.guests[guest] = None
        self._groups.setdefault(guest.group, {})[guest] = None
        guest.timer = self._loop.call_later(self._limits.handshake_timeout, self._expire, guest)
        self._listen(guest, sock, FRAME_HEADER_BYTES)
        if len(self.guests) > self._limits.strangers:
            self._make_room("too many connections have not introduced themselves")

    def _make_room(self, why: str) -> None:
        """The oldest of the address that has most of them goes."""
        if self._groups:
            busiest = max(self._groups.values(), key=len)
            self._turn_away(next(iter(busiest)), why)

    def _listen(self, guest: Guest, sock: socket.socket, wants: int) -> None:
        """Look at the first bytes when there are so many, and not before."""
        guest.wants = wants
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, wants)
        self._loop.add_reader(sock.fileno(), self._spoke, guest, sock)

    def _spoke(self, guest: Guest, sock: socket.socket) -> None:
        try:
            said = sock.recv(guest.wants, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            said = b""
        if len(said) < guest.wants:
            self._remove(guest)  # it is closed
        elif guest.wants == KNOCK_BYTES:
            self._on_knock(guest, sock, sock.recv(KNOCK_BYTES))
        elif self._door is not None and said == KNOCK_HEADER:
            self._listen(guest, sock, KNOCK_BYTES)
        elif not self._is_handshake(said):
            self._turn_away(guest, "what it said is no handshake")
        else:
            self._loop.remove_reader(sock.fileno())
            if self._probation is not None and self._probation.includes(guest.group, self._loop.time()):
                self._hold(guest, self._probation)
            else:
                self._enqueue(guest)

    def _on_knock(self, guest: Guest, sock: socket.socket, data: bytes) -> None:
        if self._door is not None and self._door.opens(data, self._loop.time()):
            self._let_in(guest, sock)
        else:
            self._listen(guest, sock, FRAME_HEADER_BYTES)

    def _is_handshake(self, said: bytes) -> bool:
        """Whether a handshake may begin with these bytes: a frame's length and kind, or a TLS record's type."""
        if self._tls:
            return said[0] == _TLS_HANDSHAKE
        return said[4] == HELLO and 2 <= int.from_bytes(said[:4], "little") <= MAX_HELLO_BYTES + 1

    # --- addresses on probation ---

    def _hold(self, guest: Guest, probation: Probation) -> None:
        """It waits behind the others of its address: whoever broke the protocol and comes back overtakes nobody."""
        held = self._held.setdefault(guest.group, {})
        if len(held) >= PROBATION_NEWCOMERS_WAITING:
            self._turn_away(guest, "its address broke the protocol lately, and many others of it wait")
            return
        held[guest] = None
        if guest.group not in self._releasing:
            self._release(guest.group, probation)

    def _release(self, group: str, probation: Probation) -> None:
        """Let in whoever waits longest as soon as somebody of this address may come in."""
        self._releasing.discard(group)
        while held := self._held.get(group):
            pause = probation.wait(group, self._loop.time())
            if pause:
                self._releasing.add(group)
                self._later(pause, lambda: self._release(group, probation))
                return
            probation.enter(group, self._loop.time())
            guest = next(iter(held))
            self._unhold(guest)
            self._enqueue(guest)

    def _unhold(self, guest: Guest) -> None:
        held = self._held.get(guest.group, {})
        held.pop(guest, None)
        if not held:
            self._held.pop(guest.group, None)

    # --- handshakes ---

    def _enqueue(self, guest: Guest) -> None:
        self._ready.setdefault(guest.group, []).append(guest)
        self._serve()

    def _serve(self) -> None:
        """Begin as many handshakes as may begin now."""
        while self._ready and not self._serves_later:
            pause = self._handshakes.wait(self._loop.time())
            if pause:
                self._serves_later = True
                self._later(pause, self._serve_again)
                return
            self._handshakes.take(self._loop.time())
            group, waiting = next(iter(self._ready.items()))
            guest = waiting.pop()
            del self._ready[group]
            if waiting:
                self._ready[group] = waiting  # behind the other addresses
            if guest.sock is not None:
                self._let_in(guest, guest.sock)

    def _serve_again(self) -> None:
        self._serves_later = False
        self._serve()

    def _let_in(self, guest: Guest, sock: socket.socket) -> None:
        self._loop.remove_reader(sock.fileno())
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)
        if guest.timer is not None:
            guest.timer.cancel()  # the handshake has its own
        guest.handshake = self._loop.create_task(self._shake_hands(guest, sock))

    async def _shake_hands(self, guest: Guest, sock: socket.socket) -> None:
        guest.sock = None  # asyncio's from now on
        try:
            await self._begin(guest, sock)
        except OSError:
            self._note(guest.host, "the TLS handshake failed")
            self.left(guest)

    # --- who goes ---

    def _expire(self, guest: Guest) -> None:
        self._turn_away(guest, f"it did not begin a handshake within {self._limits.handshake_timeout:g} seconds")

    def _turn_away(self, guest: Guest, why: str) -> None:
        self._note(guest.host, why)
        self._remove(guest, why)

    def _remove(self, guest: Guest, why: str = "the listener is closed") -> None:
        self.left(guest)
        if guest.turn_away is not None:
            guest.turn_away(why)
        elif guest.handshake is not None:
            guest.handshake.cancel()
        if guest.sock is not None:
            self._loop.remove_reader(guest.sock.fileno())
            guest.sock.close()
            guest.sock = None

    def _note(self, host: str, why: str) -> None:
        """A line for the first of its kind, and one for all that follow: a flood must not fill the messages as well."""
        if not self.turned_away:
            self._later(LOBBY_REPORT_SECONDS, self._report)
        if why not in self.turned_away:
            logger.info("a connection from %s was turned away: %s", host, why)
        self.turned_away[why] = self.turned_away.get(why, 0) + 1

    def _report(self) -> None:
        for why, count in self.turned_away.items():
            if count > 1:
                logger.info("%d connections were turned away within %g seconds: %s", count, LOBBY_REPORT_SECONDS, why)
        self.turned_away.clear()


def address_group(host: str) -> str:
    """What counts as one address: of IPv6 the network, since everybody has as many addresses in it as he likes."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv4Address):
        return host
    return str(address.ipv4_mapped or ipaddress.ip_network((address, 64), strict=False))
