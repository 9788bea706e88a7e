"""The log's format in plain Python, written from docs/log-format.md: encoding, parsing, verdicts. Slow and obvious."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from blake3 import blake3

SEGMENT_HEADER = struct.Struct("<8sIIQQ32s16s16s")
RECORD_HEADER = struct.Struct("<4sHHIIQ16s16s")
SEGMENT_HEADER_SIZE = 512
HEADER_SIZE = 72
SECTOR = 512
CLOSE_MARK = 0


def checksum(data: bytes) -> bytes:
    return blake3(data).digest()[:16]


def padded(length: int) -> int:
    return -(-length // 8) * 8


@dataclass
class Segment:
    """The fields of a segment header."""

    chain_id: bytes
    replica: int
    number: int = 0
    size: int = 0
    previous: bytes = bytes(16)
    nonce: bytes = b""

    def __post_init__(self) -> None:
        if not self.nonce:
            material = self.chain_id + struct.pack("<IQ", self.replica, self.number) + self.previous
            self.nonce = blake3(material, derive_key_context="smartbft v1 log segment nonce").digest()[:16]

    def encode(self) -> bytes:
        fields = SEGMENT_HEADER.pack(
            b"SBFTSEG\n", 1, self.replica, self.number, self.size, self.chain_id, self.nonce, self.previous
        )
        checked = fields.ljust(SEGMENT_HEADER_SIZE - 16, b"\0")
        return checked + checksum(checked)

    @property
    def key(self) -> bytes:
        return blake3(self.encode()[:-16], derive_key_context="smartbft v1 log segment key").digest()


def decode_segment_header(data: bytes) -> Segment | None:
    header = data[:SEGMENT_HEADER_SIZE]
    if len(header) < SEGMENT_HEADER_SIZE or header[-16:] != checksum(header[:-16]):
        return None
    magic, version, replica, number, size, chain_id, nonce, previous = SEGMENT_HEADER.unpack_from(header)
    assert (magic, version) == (b"SBFTSEG\n", 1)
    return Segment(chain_id, replica, number, size, previous, nonce)


def has_lost_segments(numbers: Sequence[int], blank: Sequence[bool]) -> bool:
    """Whether a log with these segments, some of them nothing but zeros, has lost what it held ("Files")."""
    begun = [number for number, zeros in zip(numbers, blank, strict=True) if not zeros]
    after = [number for number in numbers if not begun or number > begun[-1]]
    if any(zeros and number not in after for number, zeros in zip(numbers, blank, strict=True)):
        return True
    return len(after) > 1 or (not begun and after[:1] > [0])


@dataclass
class Header:
    kind: int
    length: int
    synced: int
    instance: int
    previous: bytes
    body: bytes
    check: bytes


@dataclass
class Parsed:
    records: list[tuple[int, int, bytes]]
    verdict: str
    offset: int


class Format:
    """The rules. A mutant overrides one of them."""

    def header_checksum(self, fields: bytes, key: bytes) -> bytes:
        return blake3(fields, key=key).digest()[:16]

    def decode_header(self, data: bytes, at: int, key: bytes) -> Header | None:
        raw = data[at : at + HEADER_SIZE]
        if len(raw) < HEADER_SIZE or raw[:4] != b"SbRc" or self.header_checksum(raw[:56], key) != raw[56:]:
            return None
        _, kind, _, length, synced, instance, previous, body = RECORD_HEADER.unpack_from(raw)
        return Header(kind, length, synced, instance, previous, body, raw[56:])

    def parse_last_segment(self, data: bytes) -> Parsed:
        """Records and verdict of the last segment of a log."""
        segment = decode_segment_header(data)
        if segment is None or (segment.size and segment.size != len(data)):
            return Parsed([], "corrupt", 0)
        at, previous, key, records = SEGMENT_HEADER_SIZE, segment.previous, segment.key, []
        while any(data[at:]):
            header = self.decode_header(data, at, key)
            problem = self.problem_of(data, at, header, previous)
            if problem is not None:
                torn = self.is_torn(data, at, segment, header, problem)
                return Parsed(records, "torn tail" if torn else "corrupt", at)
            assert header is not None
            body = data[at + HEADER_SIZE : at + HEADER_SIZE + header.length]
            if header.kind != CLOSE_MARK:
                records.append((header.kind, header.instance, body))
            previous = header.check
            at += padded(HEADER_SIZE + header.length)
        return Parsed(records, "complete", at)

    def problem_of(self, data: bytes, at: int, header: Header | None, previous: bytes) -> str | None:
        if header is None:
            return "header"
        if header.previous != previous:
            return "chain"
        end = at + padded(HEADER_SIZE + header.length)
        if end > len(data):
            return "length"
        if checksum(data[at + HEADER_SIZE : at + HEADER_SIZE + header.length]) != header.body:
            return "body"
        return "padding" if any(data[at + HEADER_SIZE + header.length : end]) else None

    def is_torn(self, data: bytes, at: int, segment: Segment, header: Header | None, problem: str) -> bool:
        if self.was_synced(data, at, segment.key) or problem in ("chain", "padding"):
            return False
        if problem == "length" or (problem == "header" and len(data) - at < HEADER_SIZE):
            return segment.size == 0
        end = at + HEADER_SIZE + (header.length if header else 0)
        edges = [at, *range((at // SECTOR + 1) * SECTOR, end, SECTOR), end]
        return any(not any(data[start:stop]) for start, stop in pairwise(edges))

    def was_synced(self, data: bytes, at: int, key: bytes) -> bool:
        """Whether some later record was written after everything up to `at` and beyond had been synced."""
        found = (self.decode_header(data, later, key) for later in range(padded(at), len(data), 8))
        return any(header is not None and header.synced > at for header in found)


class Encoder:
    """One segment in the making."""

    def __init__(self, segment: Segment, rules: Format | None = None) -> None:
        self.segment = segment
        self.rules = rules or Format()
        self.key = segment.key
        self.previous = segment.previous
        self.offset = SEGMENT_HEADER_SIZE
        self.synced = SEGMENT_HEADER_SIZE

    def segment_header(self) -> bytes:
        return self.segment.encode()

    def mark_synced(self) -> None:
        self.synced = self.offset

    def encode(self, kind: int, instance: int, parts: Sequence[bytes]) -> bytes:
        body = b"".join(parts)
        fields = RECORD_HEADER.pack(b"SbRc", kind, 0, len(body), self.synced, instance, self.previous, checksum(body))
        self.previous = self.rules.header_checksum(fields, self.key)
        record = (fields + self.previous + body).ljust(padded(HEADER_SIZE + len(body)), b"\0")
        self.offset += len(record)
        return record
