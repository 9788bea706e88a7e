"""Which connections have outstayed their welcome: pure bookkeeping over byte counts, told the time from outside."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from smartbft import limits


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """The limits of a group of connections; the defaults are those of `smartbft.limits`.

    Attributes:
        connections: how many may be open at once.
        strangers: how many may be open at once without having introduced themselves.
        handshakes_at_once, handshakes_per_second: TLS handshakes that may begin, besides those of replicas that knock.
        handshake_timeout: seconds within which a connection must begin its handshake, and then complete it.
        yielding_silence: seconds without a byte after which a connection makes room for a new one, when there is none.
        idle_timeout: seconds without a byte after which a connection is closed.
        frame_timeout: seconds within which a frame that began must be complete.
        write_high_water: bytes waiting to be written at which reading stops.
        write_limit: bytes waiting to be written at which the connection is closed.
        waiting_limit: bytes waiting to be written to all connections together; beyond it those with most are closed.
        look_interval: seconds between two looks for connections that are idle or drip.
        descriptors: connections are accepted while their file descriptors are below this number; the others are left
            to files.
    """

    connections: int = limits.MAX_CLIENT_CONNECTIONS
    strangers: int = limits.MAX_STRANGERS_FOR_CLIENTS
    handshakes_at_once: int = limits.CLIENT_HANDSHAKES_AT_ONCE
    handshakes_per_second: float = limits.CLIENT_HANDSHAKES_PER_SECOND
    handshake_timeout: float = limits.HANDSHAKE_TIMEOUT_SECONDS
    idle_timeout: float = limits.CLIENT_IDLE_TIMEOUT_SECONDS
    yielding_silence: float = limits.CLIENT_YIELDING_SILENCE_SECONDS
    frame_timeout: float = limits.FRAME_TIMEOUT_SECONDS
    write_high_water: int = limits.WRITE_HIGH_WATER_BYTES
    write_limit: int = limits.WRITE_LIMIT_BYTES
    waiting_limit: int = limits.MAX_BYTES_WAITING_FOR_CLIENTS
    look_interval: float = limits.CONNECTION_LOOK_SECONDS
    descriptors: int = sys.maxsize


class ConnectionWatch:
    """Finds a connection that is idle, or that drips one frame byte by byte.

    A frame is still the same one as at an earlier look exactly when everything received in between is still buffered.
    """

    __slots__ = ("_buffered", "_heard", "_limits", "_partial_since", "_received")

    def __init__(self, connection_limits: ConnectionLimits, now: float) -> None:
        self._limits = connection_limits
        self._heard = now
        self._partial_since: float | None = None
        self._received = 0
        self._buffered = 0

    @property
    def heard(self) -> float:
        """When something was received, as of the last look."""
        return self._heard

    def look(self, now: float, received: int, buffered: int) -> str | None:
        """Why the connection must close, or None.

        Args:
            now: seconds on any steady clock.
            received: bytes received since the connection was opened.
            buffered: bytes of an incomplete frame.
        """
        arrived = received - self._received
        same_frame = buffered > 0 and self._partial_since is not None and buffered == self._buffered + arrived
        if not same_frame:
            self._partial_since = now if buffered else None
        if arrived:
            self._heard = now
        self._received = received
        self._buffered = buffered
        if self._partial_since is not None and now - self._partial_since > self._limits.frame_timeout:
            return f"a frame is not complete after {self._limits.frame_timeout:g} seconds ({buffered} bytes of it came)"
        if now - self._heard > self._limits.idle_timeout:
            return f"nothing was received for {self._limits.idle_timeout:g} seconds"
        return None
