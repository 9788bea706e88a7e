"""How many file descriptors connections may take: the system limits them for the whole process, files included."""

from __future__ import annotations

import contextlib
import resource
import sys
from dataclasses import replace

from smartbft import limits
from smartbft.net.watch import ConnectionLimits

# What a replica with all the connections that it may have needs.
_WANTED = (
    limits.MAX_CLIENT_CONNECTIONS
    + limits.MAX_STRANGERS_FOR_CLIENTS
    + limits.MAX_STRANGERS_FOR_REPLICAS
    + limits.MAX_MEMBERS
    + 2 * limits.RESERVED_DESCRIPTORS
)
# Of the connections that there are descriptors for, one in so many may be one that has not introduced itself.
_STRANGERS_SHARE = 5


def raise_limit(wanted: int = _WANTED) -> None:
    """Have the system give this process so many file descriptors, as far as it allows that.

    Args:
        wanted: by default as many as a replica may need.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    if soft not in (resource.RLIM_INFINITY, wanted) and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # then it goes on with fewer
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def available() -> int:
    """How many file descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def for_replicas(wanted: ConnectionLimits, descriptors: int) -> ConnectionLimits:
    """The limits of the port for replicas, where the process may have so many file descriptors."""
    return replace(wanted, descriptors=max(descriptors - limits.RESERVED_DESCRIPTORS, descriptors // 2))


def for_clients(wanted: ConnectionLimits, descriptors: int) -> ConnectionLimits:
    """The limits of the port for clients, which leave room for files and for the connections between replicas."""
    others = limits.RESERVED_DESCRIPTORS + limits.MAX_STRANGERS_FOR_REPLICAS + limits.MAX_MEMBERS
    ours = max(descriptors - others, descriptors // 4)
    room = max(ours - limits.RESERVED_DESCRIPTORS, ours // 2)
    strangers = min(wanted.strangers, max(1, room // _STRANGERS_SHARE))
    return replace(
        wanted, descriptors=ours, strangers=strangers, connections=min(wanted.connections, max(1, room - strangers))
    )
