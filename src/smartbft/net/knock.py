"""How a replica is known before its handshake: the first bytes on a connection that it dials are signed.

Checking a knock costs a twentieth of a TLS handshake. So in a flood of connections, which look all alike from outside
and may even come from the same address, replicas are let in before everybody else. A knock proves nothing beyond
that: the handshake follows as always, and whoever does not knock, or is not believed, takes his turn with the others.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

from smartbft._fastpath.hashing import derive_key
from smartbft._fastpath.verify import verify
from smartbft.crypto.signatures import Signer
from smartbft.limits import (
    FRAME_HEADER_BYTES,
    KNOCKS_AT_ONCE,
    KNOCKS_PER_SECOND,
    MEMBER_KNOCKS_AT_ONCE,
    MEMBER_KNOCKS_PER_SECOND,
)
from smartbft.token_bucket import TokenBucket

KNOCK = 7  # the kind of the frame
_FRAME = struct.Struct("<IBHQ64s")  # length, kind, the replica that knocks, time in microseconds, signature
_STATEMENT = struct.Struct("<HHQ")  # who knocks, at whose door, when

KNOCK_BYTES = _FRAME.size
KNOCK_HEADER = _FRAME.pack(KNOCK_BYTES - 4, KNOCK, 0, 0, b"")[:FRAME_HEADER_BYTES]


def _statement(chain_id: bytes, replica: int, door: int, time: int) -> bytes:
    return derive_key("smartbft v1 knock", chain_id) + _STATEMENT.pack(replica, door, time)


def knock(chain_id: bytes, signer: Signer, replica: int, door: int, time: int) -> bytes:
    """The first frame that replica `replica` sends when it dials replica `door`.

    Args:
        signer: signs with its permanent key.
        time: microseconds; later than in any knock before.
    """
    signature = signer.sign(_statement(chain_id, replica, door, time))
    return _FRAME.pack(KNOCK_BYTES - 4, KNOCK, replica, time, signature)


class Door:
    """Who knocks at one replica's door.

    A knock counts once: a later one of the same replica names a later time. (After a restart older ones, which somebody
    has overheard, may be repeated once each; all they get is a handshake that fails.)

    Args:
        chain_id: hash of the genesis.
        replica: whose door it is.
        keys: permanent keys of the replicas that may dial it.
    """

    def __init__(self, chain_id: bytes, replica: int, keys: Mapping[int, bytes]) -> None:
        self._chain_id = chain_id
        self._replica = replica
        self._keys = keys
        self._times = dict.fromkeys(keys, -1)
        self._checks = TokenBucket(KNOCKS_AT_ONCE, KNOCKS_PER_SECOND)
        self._turns = {member: TokenBucket(MEMBER_KNOCKS_AT_ONCE, MEMBER_KNOCKS_PER_SECOND) for member in keys}

    def opens(self, data: bytes, now: float) -> bool:
        """Whether these `KNOCK_BYTES` are the knock of a replica whose turn it is; `now`: seconds on a steady clock."""
        length, kind, replica, time, signature = _FRAME.unpack(data)
        if (length, kind) != (KNOCK_BYTES - 4, KNOCK) or time <= self._times.get(replica, time):
            return False
        if not self._checks.take(now):
            return False
        if not verify(self._keys[replica], signature, _statement(self._chain_id, replica, self._replica, time)):
            return False
        self._times[replica] = time
        return self._turns[replica].take(now)
