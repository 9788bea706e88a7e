"""The session table of a snapshot, in the native pool and in plain Python."""

from __future__ import annotations

import struct

from kit.fuzzing import Decoder
from kit.mutation import Mutator
from kit.pool_twins import RULES, START, native_pool
from smartbft.smr.pool_rules import PoolOracle
from smartbft.smr.session_snapshot import KeptReply, KeptSession, decode_sessions, encode_sessions

_AGREED_TIME = START + RULES.lease
_REPLY = KeptReply(0, 7, START, bytes(range(32)), b"result")
_LATER = KeptReply(1, 9, START + 5, bytes(32), b"")
_TABLE = [
    KeptSession((bytes([1]) * 32, START), 1, (_REPLY,)),
    KeptSession((bytes([1]) * 32, START + 9), 2**40, (_REPLY, _REPLY, _LATER)),
    KeptSession((bytes([2]) * 32, START), 2, (_REPLY, _LATER)),
]
_TABLES = [encode_sessions(_TABLE), encode_sessions(_TABLE[:1]), encode_sessions([])]
_FIELDS = [struct.pack("<Q", value) for value in (0, START, START - 1, START + 1, _AGREED_TIME + 1, 2**63)]
_FIELDS += [struct.pack("<I", value) for value in (0, 1, 2, 3, 4, 5, 2**31, 2**32 - 1)]


def _import(data: bytes) -> bytes:
    """Into the native pool; the rules must give the same verdict, and a refused table must change nothing."""
    pool, oracle = native_pool(RULES), PoolOracle(RULES)
    try:
        oracle.import_sessions(data, _AGREED_TIME)
        fine = True
    except ValueError:
        fine = False
    try:
        pool.import_sessions(data, _AGREED_TIME)
    except ValueError:
        if fine or pool.export_sessions(0) != _TABLES[2] or pool.agreed_time:
            raise AssertionError("a fine table was refused, or a refused one changed the pool") from None
        raise
    if not fine:
        raise AssertionError("a table was taken that the rules refuse")
    return pool.export_sessions(0)


def _in_any_order(data: bytes) -> bytes:
    """Planted bug: sessions are taken in any order."""
    head = struct.calcsize("<32sQQI")
    if len(data) >= 4 + 2 * (head + 62) and data[:4] == struct.pack("<I", 2):
        one, other = data[4 : 4 + head + 62], data[4 + head + 62 :]
        data = data[:4] + b"".join(sorted([one, other]))
    return _import(data)


def _sealed(mutator: Mutator, data: bytes) -> bytes:
    """Tables whose layout holds and whose fields are strange, and now and then mutated bytes."""
    random = mutator.random
    if random.random() < 0.5:
        return mutator.mutate(mutator.pick(_TABLES), data)
    sessions = [mutator.pick(_TABLE) for _ in range(1 + int(random.random() * 3))]
    return _unsorted([_changed(mutator, session) for session in sessions])


def _changed(mutator: Mutator, session: KeptSession) -> KeptSession:
    random = mutator.random
    number = mutator.pick([session.id[1], START - 1, START, START + 100, START + 200, START + 5])
    reply = KeptReply(
        mutator.pick([0, 1]), mutator.pick([6, 7, 9]), mutator.pick([START - 1, START, START + 5]), bytes(32), b"x" * 6
    )
    replies = (reply,) if random.random() < 0.5 else session.replies
    executed = mutator.pick([session.executed, len(replies), 0])
    return KeptSession((mutator.pick([session.id[0], bytes(32)]), number), executed, replies)


def _unsorted(sessions: list[KeptSession]) -> bytes:
    return struct.pack("<I", len(sessions)) + b"".join(encode_sessions([session])[4:] for session in sessions)


DECODERS = [
    Decoder(
        "session table",
        _import,
        _TABLES,
        ValueError,
        _in_any_order,
        lambda exported: exported,
        _FIELDS,
        generate=_sealed,
        guide=lambda data: decode_sessions(data, RULES, _AGREED_TIME),
    )
]
