"""The bodies of the log's records: what a replica must remember (docs/log-format.md, "Record bodies").

Kinds: VALUE (a proposal with its requests, and the vote it carries), ACCEPT, DECISION, REGENCY (an installed regency
with the STOPDATA that promises it), SYNC (how a regency began). Votes and decisions share one
log, so that the order "decision i before any vote for i + 1" costs no sync of its own (protocols.md section 3).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TypeVar

from smartbft.core.effects import Record
from smartbft.errors import CorruptLog, MalformedMessage
from smartbft.limits import (
    DIGEST_BYTES,
    KEY_STATEMENT_BYTES,
    MAX_PROOF_BYTES,
    MAX_STOP_DATA_BYTES,
    VALUE_HEADER_BYTES,
)
from smartbft.messages import Proof, StopData, Sync, decode, decode_proof, encode, encode_proof
from smartbft.types import Parameters, Value

_M = TypeVar("_M", StopData, Sync)

VALUE = 1
ACCEPT = 2
DECISION = 3
REGENCY = 4
SYNC = 5

PROPOSED = 1  # flags of a VALUE record: this replica sent PROPOSE,
WRITTEN = 2  # and / or WRITE for it

_VALUE = struct.Struct("<QQBI")  # view, regency, flags, value length
_ACCEPT = struct.Struct("<QQ32s")  # view, regency, value digest
_DECISION = struct.Struct("<II")  # proof length, value length (0: the VALUE record of this digest has it)


@dataclass(frozen=True, slots=True)
class ValueRecord:
    """A proposal as it was when its vote left."""

    view: int
    regency: int
    proposed: bool
    written: bool
    value: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class AcceptRecord:
    """The `(ts, val)` of VP-Consensus when an ACCEPT left."""

    view: int
    regency: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class DecisionRecord:
    """A decision; `value` and `data` are empty when an earlier VALUE record of the instance holds them."""

    proof: Proof
    value: bytes
    data: bytes


def largest_body_bytes(parameters: Parameters, n: int) -> int:
    """The most bytes that the body of a record can have on a chain with these parameters and `n` replicas.

    It is a DECISION with proof, value and requests, or a SYNC; a segment of the log must be able to hold it.
    """
    statements = KEY_STATEMENT_BYTES * n + 1
    value = VALUE_HEADER_BYTES + DIGEST_BYTES * parameters.max_batch_requests + statements
    decision = _VALUE.size + MAX_PROOF_BYTES + value + parameters.max_batch_bytes
    return max(decision, n * MAX_STOP_DATA_BYTES + value + 256)


def value_record(instance: int, view: int, regency: int, flags: int, value: bytes, data: bytes) -> Record:
    """VALUE: the value and its requests, with the vote that leaves once this is durable."""
    return Record(VALUE, instance, (_VALUE.pack(view, regency, flags, len(value)), value, data))


def accept_record(instance: int, view: int, regency: int, digest: bytes) -> Record:
    """ACCEPT: the value digest accepted and the regency it was accepted in."""
    return Record(ACCEPT, instance, (_ACCEPT.pack(view, regency, digest),))


def decision_record(instance: int, proof: Proof, value: bytes = b"", data: bytes = b"") -> Record:
    """DECISION: the proof, with value and requests unless the log has them already."""
    encoded = encode_proof(proof)
    return Record(DECISION, instance, (_DECISION.pack(len(encoded), len(value)), encoded, value, data))


def regency_record(instance: int, stop_data: StopData) -> Record:
    """REGENCY: the regency installed, and the STOPDATA that leaves once this is durable."""
    return Record(REGENCY, instance, (encode(stop_data),))


def sync_record(instance: int, sync: Sync) -> Record:
    """SYNC: how the installed regency began."""
    return Record(SYNC, instance, (encode(sync),))


def parse_value(body: bytes) -> ValueRecord:
    """Raises CorruptLog: the body is not a VALUE record's."""
    if len(body) < _VALUE.size:
        raise CorruptLog(f"a VALUE record of {len(body)} bytes is too short")
    view, regency, flags, length = _VALUE.unpack_from(body)
    split = _VALUE.size + length
    value = body[_VALUE.size : split]
    if len(value) != length or flags & ~(PROPOSED | WRITTEN):
        raise CorruptLog("a VALUE record has a wrong value length or unknown flags")
    _parse_value_bytes(value)
    return ValueRecord(view, regency, bool(flags & PROPOSED), bool(flags & WRITTEN), value, body[split:])


def parse_accept(body: bytes) -> AcceptRecord:
    """Raises CorruptLog: the body is not an ACCEPT record's."""
    if len(body) != _ACCEPT.size:
        raise CorruptLog(f"an ACCEPT record of {len(body)} bytes should have {_ACCEPT.size}")
    return AcceptRecord(*_ACCEPT.unpack(body))


def parse_decision(body: bytes) -> DecisionRecord:
    """Raises CorruptLog: the body is not a DECISION record's."""
    if len(body) < _DECISION.size:
        raise CorruptLog(f"a DECISION record of {len(body)} bytes is too short")
    proof_length, value_length = _DECISION.unpack_from(body)
    after_proof = _DECISION.size + proof_length
    value = body[after_proof : after_proof + value_length]
    if len(body) < after_proof or len(value) != value_length:
        raise CorruptLog("a DECISION record is shorter than its lengths say")
    try:
        proof = decode_proof(body[_DECISION.size : after_proof])
    except MalformedMessage as error:
        raise CorruptLog(f"a DECISION record holds no proof: {error}") from None
    if value:
        _parse_value_bytes(value)
    return DecisionRecord(proof, value, body[after_proof + value_length :])


def parse_regency(body: bytes) -> StopData:
    """Raises CorruptLog: the body is not a REGENCY record's."""
    return _parse_message(body, StopData)


def parse_sync(body: bytes) -> Sync:
    """Raises CorruptLog: the body is not a SYNC record's."""
    return _parse_message(body, Sync)


def _parse_message(body: bytes, kind: type[_M]) -> _M:
    try:
        message = decode(body)
    except MalformedMessage as error:
        raise CorruptLog(f"a record holds no {kind.__name__}: {error}") from None
    if not isinstance(message, kind):
        raise CorruptLog(f"a record holds a {type(message).__name__} in place of a {kind.__name__}")
    return message


def _parse_value_bytes(value: bytes) -> Value:
    try:
        return Value.decode(value)
    except MalformedMessage as error:
        raise CorruptLog(f"a record holds no proposed value: {error}") from None
