"""Decoders of what the disk gives back: segments of the log, bodies of its records, recovery, the naive ledger."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from blake3 import blake3
from oracles import log_format as oracle

from kit.examples import DIGEST
from kit.files import fuzz_folder
from kit.fuzzing import Decoder
from kit.log_damage import CHAIN, REPLICA, native_parse
from kit.mutation import Mutator
from smartbft._fastpath.log import LogEncoder, LogParser, read_segment_header
from smartbft.apps.coin_ledger import LedgerBlock, read_ledger
from smartbft.core import records
from smartbft.core.effects import Record
from smartbft.core.recovery import recover
from smartbft.crypto.domains import Domains
from smartbft.errors import CorruptLog, StorageError
from smartbft.messages import Proof, decode_proof
from smartbft.storage.recovery import parse_segments
from smartbft.types import Value

_DOMAINS = Domains(CHAIN)

# --- segments ---


def _segment(number: int = 0, previous: bytes = b"") -> tuple[bytes, bytes]:
    """A segment with three records, and the chain value for the next one."""
    encoder = LogEncoder(CHAIN, REPLICA, number, previous)
    data = encoder.segment_header()
    for instance in (1, 2, 3):
        encoder.mark_synced()
        data += encoder.encode(records.DECISION, instance, [bytes([instance]) * 50])
    return data, encoder.previous


_FIRST, _chain_value = _segment()
_SECOND, _ = _segment(1, _chain_value)


def _like_the_oracle(data: bytes, rules: oracle.Format | None = None) -> None:
    """The last segment of a log: records, verdict and place agree with the parser in plain Python."""
    found = native_parse(data)
    if len(data) < oracle.SEGMENT_HEADER_SIZE or not any(data) or not _is_of_this_log(data):
        return
    expected = (rules or oracle.Format()).parse_last_segment(data)
    if (found.verdict, found.offset) != (expected.verdict, expected.offset):
        raise AssertionError(f"{found.verdict} at {found.offset}, not {expected.verdict} at {expected.offset}")
    if found.verdict != "corrupt" and found.records != expected.records:
        raise AssertionError("other records")


def _is_of_this_log(data: bytes) -> bool:
    header = read_segment_header(data)
    return header is not None and (header["chain_id"], header["replica"]) == (CHAIN, REPLICA)


class _TornAtAnyLength(oracle.Format):
    """Planted bug: everything that does not fit into the file is a torn tail."""

    def is_torn(self, data: bytes, at: int, segment: Any, header: Any, problem: str) -> bool:
        return problem == "length" or super().is_torn(data, at, segment, header, problem)


def _sealed_segment(mutator: Mutator, data: bytes) -> bytes:
    """A segment whose headers say anything at all under checksums that hold, and now and then one that is damaged."""
    random = mutator.random
    size = random.choice((0, 0, 2048))
    segment = oracle.Segment(CHAIN, REPLICA, size=size, nonce=b"a secret nonce!!")
    made, key, previous = bytearray(segment.encode()), segment.key, segment.previous
    synced = len(made)
    for instance in range(1 + int(random.random() * 4)):
        body = bytes([instance + 1]) * int(random.random() * 90)
        fields = oracle.RECORD_HEADER.pack(
            b"SbRc", 1, 0, len(body), synced, instance, previous, blake3(body).digest()[:16]
        )
        if random.random() < 0.2:
            fields = b"SbRc" + mutator.mutate(fields[4:], most=1)[:52].ljust(52, b"\0")
        previous = blake3(fields, key=key).digest()[:16]
        made += (fields + previous + body).ljust(oracle.padded(oracle.HEADER_SIZE + len(body)), b"\0")
        if random.random() < 0.3:
            synced = len(made)
    whole = bytes(made).ljust(size, b"\0")
    return mutator.mutate(whole, data) if random.random() < 0.5 else whole


def _segments(data: bytes) -> None:
    """A whole log of segments of one size."""
    size = len(_FIRST)
    parse_segments([data[at : at + size] for at in range(0, len(data), size)], CHAIN, REPLICA)


def _unchained(data: bytes) -> None:
    """Planted bug: every segment is read on its own, and its header is not asked for."""
    size = len(_FIRST)
    for at in range(0, len(data), size):
        segment = data[at : at + size]
        LogParser(*_identity(segment)).parse(segment, last=True)


def _identity(segment: bytes) -> tuple[bytes, int]:
    header = read_segment_header(segment)
    return header["chain_id"], header["replica"]  # type: ignore[index]


# --- record bodies ---


def _body(record: Record) -> bytes:
    return b"".join(record.parts)


def _encode_value(parsed: records.ValueRecord) -> bytes:
    flags = records.PROPOSED * parsed.proposed | records.WRITTEN * parsed.written
    return _body(records.value_record(1, parsed.view, parsed.regency, flags, parsed.value, parsed.data))


def _encode_accept(parsed: records.AcceptRecord) -> bytes:
    return _body(records.accept_record(1, parsed.view, parsed.regency, parsed.digest))


def _encode_decision(parsed: records.DecisionRecord) -> bytes:
    return _body(records.decision_record(1, parsed.proof, parsed.value, parsed.data))


def _any_flags(data: bytes) -> records.ValueRecord:
    """Planted bug: unknown flags are ignored."""
    return records.parse_value(data[:16] + bytes([data[16] & 3]) + data[17:] if len(data) > 16 else data)


def _longer_accept(data: bytes) -> records.AcceptRecord:
    """Planted bug: what follows an ACCEPT record is ignored."""
    return records.parse_accept(data[:48])


def _open_decision(data: bytes) -> records.DecisionRecord:
    """Planted bug: a proof that does not decode raises what network bytes would."""
    if len(data) < 8:
        raise CorruptLog("too short")
    proof_length, value_length = struct.unpack_from("<II", data)
    after_proof = 8 + proof_length
    proof, rest = decode_proof(data[8:after_proof]), data[after_proof:]
    return records.DecisionRecord(proof, rest[:value_length], rest[value_length:])


# --- recovery ---

_VALUES = [Value(time, DIGEST).encode() for time in (1, 2)]
_PROOFS = [Proof(0, 0, n + 1, _DOMAINS.value_digest(v), ((0, bytes(64)),)) for n, v in enumerate(_VALUES)]
_WRITTEN = records.PROPOSED | records.WRITTEN
_LOGGED = [
    records.value_record(1, 0, 0, _WRITTEN, _VALUES[0], b"requests"),
    records.accept_record(1, 0, 0, _PROOFS[0].digest),
    records.decision_record(1, _PROOFS[0]),
    records.decision_record(2, _PROOFS[1], _VALUES[1], b"more"),
    records.value_record(3, 0, 0, records.WRITTEN, _VALUES[0], b""),
]


def _raw(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Records from ``u16 kind | u64 instance | u16 length | body``; what does not fit is left out."""
    at = 0
    while at + 12 <= len(data):
        kind, instance, length = struct.unpack_from("<HQH", data, at)
        yield kind, instance, data[at + 12 : at + 12 + length]
        at += 12 + length


def _framed(kind: int, instance: int, body: bytes) -> bytes:
    return struct.pack("<HQH", kind, instance, len(body)) + body


def _recover(data: bytes) -> None:
    state = recover(_raw(data), _DOMAINS)
    if [decided.instance for decided in state.decisions] != list(range(1, len(state.decisions) + 1)):
        raise AssertionError("decisions with a gap")
    for decided in state.decisions:
        if decided.proof.digest != _DOMAINS.value_digest(decided.value) or decided.proof.instance != decided.instance:
            raise AssertionError("a decision that its proof is not for")


def _trusting_recovery(data: bytes) -> None:
    """Planted bug: decisions are taken as they come."""
    numbers = [instance for kind, instance, _ in _raw(data) if kind == records.DECISION]
    if numbers != list(range(1, len(numbers) + 1)):
        raise AssertionError("decisions with a gap")


def _mutated_log(mutator: Mutator, data: bytes) -> bytes:
    """Records that are lost, repeated, renumbered or mutated."""
    random = mutator.random
    framed = []
    for record in _LOGGED:
        draw = random.random()
        if draw < 0.05:
            continue
        body = mutator.mutate(_body(record)) if draw < 0.15 else _body(record)
        kind = int(random.random() * 5) if draw > 0.97 else record.kind
        instance = record.instance + int(random.random() * 3) if draw > 0.94 else record.instance
        framed.append(_framed(kind, instance, body))
        if draw > 0.9:
            framed.append(framed[-1])
    return b"".join(framed)


# --- the naive ledger ---


def _from_file(read: Callable[..., Any]) -> Callable[[bytes], Any]:
    path = fuzz_folder() / "ledger"

    def decode(data: bytes) -> Any:
        path.write_bytes(data)
        return list(read(path))

    return decode


def _without_bounds(path: Path) -> Iterator[LedgerBlock]:
    """Planted bug: lengths are not compared with what is left."""
    content, at = path.read_bytes(), 0
    while at + _BLOCK.size <= len(content):
        instance, timestamp, data_bytes, results_bytes = _BLOCK.unpack_from(content, at)
        middle = at + _BLOCK.size + data_bytes
        at = middle + results_bytes
        yield LedgerBlock(instance, timestamp, content[middle - data_bytes : middle], content[middle:at])


_BLOCK = struct.Struct("<QQII")
_LEDGER = _BLOCK.pack(1, 5, 4, 2) + b"dataok" + _BLOCK.pack(2, 6, 0, 0)


def _join_ledger(blocks: list[Any]) -> bytes:
    return b"".join(
        _BLOCK.pack(block.instance, block.timestamp, len(block.data), len(block.results)) + block.data + block.results
        for block in blocks
    )


DECODERS = [
    Decoder(
        "last segment of a log",
        _like_the_oracle,
        [_FIRST, _FIRST + bytes(64)],
        StorageError,
        lambda data: _like_the_oracle(data, _TornAtAnyLength()),
        fields=[b"SbRc", bytes(72), b"\xff" * 8],
        generate=_sealed_segment,
    ),
    Decoder(
        "segments of a log", _segments, [_FIRST + _SECOND, _FIRST, b""], StorageError, _unchained, fields=[bytes(64)]
    ),
    Decoder(
        "VALUE record",
        records.parse_value,
        [_body(record) for record in (_LOGGED[0], _LOGGED[4])],
        StorageError,
        _any_flags,
        _encode_value,
    ),
    Decoder("ACCEPT record", records.parse_accept, [_body(_LOGGED[1])], StorageError, _longer_accept, _encode_accept),
    Decoder(
        "DECISION record",
        records.parse_decision,
        [_body(record) for record in (_LOGGED[2], _LOGGED[3])],
        StorageError,
        _open_decision,
        _encode_decision,
    ),
    Decoder(
        "recovery",
        _recover,
        [b"".join(_framed(record.kind, record.instance, _body(record)) for record in _LOGGED)],
        StorageError,
        _trusting_recovery,
        generate=_mutated_log,
    ),
    Decoder(
        "naive ledger", _from_file(read_ledger), [_LEDGER, b""], StorageError, _from_file(_without_bounds), _join_ledger
    ),
]
