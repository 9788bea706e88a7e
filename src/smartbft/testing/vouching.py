"""Requests without signatures: nobody proposes or votes for what too few have from its client.

Counted again from outside, from what reached a replica: the frames of clients, and the HOLDs of peers.
"""

from __future__ import annotations

import struct

from smartbft._fastpath.frames import REQUEST
from smartbft._fastpath.pool import join_requests, request_digests
from smartbft.crypto.domains import Domains
from smartbft.limits import DIGEST_BYTES, FRAME_HEADER_BYTES
from smartbft.messages import Hold, Message, Propose, Write
from smartbft.types import Value

_FRAME = struct.Struct("<IB")


def _split(digests: bytes) -> list[bytes]:
    return [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]


class VouchingChecker:
    """10: a PROPOSE needs `2f + 1` holders known to the leader, a WRITE the client's own copy or `f + 1` HOLDs.

    Values that a SYNC carries, or that are in the log, were vouched for before.
    """

    __slots__ = ("_domains", "_faulty", "_holds", "_logged", "_proposed", "_spoke", "_told")

    def __init__(self, n: int, domains: Domains) -> None:
        self._faulty = (n - 1) // 3
        self._domains = domains
        self._told: dict[int, set[bytes]] = {}  # replica -> digests that clients themselves told it
        self._holds: dict[int, dict[bytes, set[int]]] = {}  # replica -> digest -> who told it to hold it
        self._logged: dict[int, frozenset[bytes]] = {}  # replica -> digests of values in its log at its start
        self._proposed: dict[tuple[int, bytes], bytes] = {}  # regency and value digest -> digests
        self._spoke: set[tuple[type, int, int, bytes]] = set()

    def restarted(self, replica: int, logged: list[bytes]) -> None:
        """The replica has forgotten everything but the values in its log: they may be said again."""
        self._logged[replica] = frozenset(self._domains.value_digest(value) for value in logged)
        self._told.pop(replica, None)
        self._holds.pop(replica, None)

    def told(self, replica: int, source: int, frames: bytes) -> None:
        """A client's frames reached a replica."""
        at = 0
        while at + FRAME_HEADER_BYTES <= len(frames):
            length, kind = _FRAME.unpack_from(frames, at)
            request = frames[at + FRAME_HEADER_BYTES : at + FRAME_HEADER_BYTES - 1 + length]
            at += FRAME_HEADER_BYTES - 1 + length
            if kind != REQUEST or at > len(frames):
                return
            digest = request_digests(self._domains.chain_id, join_requests([request]))
            self._told.setdefault(replica, set()).add(digest)

    def received(self, replica: int, sender: int, message: Hold) -> None:
        """A HOLD reached a replica."""
        known = self._holds.setdefault(replica, {})
        for digest in _split(message.digests):
            known.setdefault(digest, set()).add(sender)

    def sent(self, replica: int, message: Message) -> str:
        """A replica speaks to its peers; returns what is wrong with it, in words."""
        if type(message) is Propose:
            digest = self._domains.value_digest(message.value)
            self._proposed.setdefault((message.regency, digest), Value.decode(message.value).digests)
        elif type(message) is Write:
            digest = message.digest
        else:
            return ""
        named = self._proposed.get((message.regency, digest))
        spoken = (type(message), replica, message.regency, digest)
        if named is None or spoken in self._spoke or digest in self._logged.get(replica, ()):
            return ""
        self._spoke.add(spoken)
        return self._judge(replica, message, named)

    def _judge(self, replica: int, message: Propose | Write, named: bytes) -> str:
        for digest in _split(named):
            holders = len(self._holds.get(replica, {}).get(digest, ()))
            vouched = digest in self._told.get(replica, ()) or holders > self._faulty
            if not vouched:
                return f"replica {replica} votes for a request that only {holders} others hold"
            if type(message) is Propose and holders + 1 <= 2 * self._faulty:
                return f"replica {replica} proposes a request that {holders} others hold"
        return ""
