"""Damages a log in every way promise D3 names and checks what a parser makes of it.

A parser is a function from the bytes of a segment to records and verdict, so that mutants can be checked too.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from oracles import log_format as oracle

from smartbft._fastpath.log import LogEncoder, LogParser
from smartbft.errors import CorruptLog

CHAIN = bytes(range(32))
REPLICA = 2
SECTOR = 512

Parse = Callable[[bytes], oracle.Parsed]


class AnyEncoder(Protocol):
    def segment_header(self) -> bytes: ...
    def encode(self, kind: int, instance: int, parts: list[bytes], /) -> bytes: ...
    def mark_synced(self) -> None: ...


@dataclass
class BuiltLog:
    """One segment.

    Attributes:
        size: bytes of the file; 0 where it ends with its last record.
        ends: where each record ends.
        synced: where the last group starts: everything before it was synced when it was written.
    """

    data: bytes
    size: int
    records: list[tuple[int, int, bytes]]
    ends: list[int]
    synced: int

    @property
    def end(self) -> int:
        return self.ends[-1]

    def records_within(self, offset: int) -> int:
        """How many records end at or before an offset."""
        return sum(end <= offset for end in self.ends)


def native_encoder(size: int) -> AnyEncoder:
    return LogEncoder(CHAIN, REPLICA, size=size, nonce=b"a secret nonce!!")


def native_parse(data: bytes) -> oracle.Parsed:
    parser = LogParser(CHAIN, REPLICA)
    try:
        records = parser.parse(data, last=True)
    except CorruptLog as error:
        assert parser.verdict == "corrupt"
        return oracle.Parsed([], "corrupt", error.offset)
    return oracle.Parsed(records, parser.verdict, parser.offset)


def build(
    size: int, used: int, *, group: int = 4, body: int = 90, encoder: Callable[[int], AnyEncoder] = native_encoder
) -> BuiltLog:
    """A segment with about `used` bytes of records in groups; no byte of a body is zero."""
    source = random.Random(size + used)
    making = encoder(size)
    data = bytearray(making.segment_header())
    records, ends, synced = [], [], len(data)
    while len(data) < used:
        synced = len(data)
        making.mark_synced()
        for _ in range(group):
            content = bytes(source.randrange(1, 256) for _ in range(source.randrange(body // 2, body * 2)))
            records.append((1 + len(records) % 3, len(records), content))
            data += making.encode(*records[-1][:2], [content])
            ends.append(len(data))
    assert size == 0 or len(data) <= size
    return BuiltLog(bytes(data).ljust(size, b"\0"), size, records, ends, synced)


def assert_nothing_wrong(log: BuiltLog, damaged: bytes, found: oracle.Parsed, what: str) -> None:
    """What holds whatever the damage: no wrong data, and nothing that was synced goes missing unnoticed."""
    assert found.records == log.records[: len(found.records)], f"{what}: wrong data"
    if found.verdict == "complete" and damaged[: log.end] != log.data[: log.end]:
        # Zeros up to the end are what a log looks like that never went further.
        assert not any(damaged[found.offset :]), f"{what}: damage was not seen"
    if found.verdict != "corrupt":
        assert found.offset == ([oracle.SEGMENT_HEADER_SIZE, *log.ends])[len(found.records)] or found.offset == 0, what


def assert_zero_filled_truncations_are_seen(log: BuiltLog, parse: Parse, lengths: range) -> None:
    """A cut at any byte with zeros behind it: what a crash leaves when it stops a write."""
    for length in lengths:
        damaged = log.data[:length].ljust(len(log.data), b"\0")
        found = parse(damaged)
        assert_nothing_wrong(log, damaged, found, f"zeros from {length}")
        if length >= oracle.SEGMENT_HEADER_SIZE and found.verdict != "corrupt":
            assert len(found.records) == log.records_within(length + 7), f"zeros from {length}"
        if length % SECTOR == 0 and length >= SECTOR:
            assert found.verdict != "corrupt", f"zeros from {length}: a torn tail was taken for corruption"


def assert_truncations_are_seen(log: BuiltLog, parse: Parse, lengths: range) -> None:
    """A file that ends earlier: with a size in its header it is corrupt, else it ends there."""
    for length in lengths:
        found = parse(log.data[:length])
        assert_nothing_wrong(log, log.data[:length], found, f"cut at {length}")
        if log.size:
            expected = "complete" if length == 0 else "torn tail" if length < SECTOR else "corrupt"
        else:
            at_end = length in (0, oracle.SEGMENT_HEADER_SIZE, *log.ends)
            expected = "complete" if at_end else "torn tail"
            assert len(found.records) == log.records_within(length), f"cut at {length}"
        assert found.verdict == expected, f"cut at {length}"


def assert_bad_sectors_are_seen(log: BuiltLog, parse: Parse) -> None:
    """Each sector once zeroed and once garbled."""
    source = random.Random(7)
    for start in range(0, len(log.data), SECTOR):
        for what, content in (("zeroed", bytes(SECTOR)), ("garbled", source.randbytes(SECTOR))):
            damaged = log.data[:start] + content + log.data[start + SECTOR :]
            if damaged == log.data:
                continue
            found = parse(damaged)
            assert_nothing_wrong(log, damaged, found, f"sector at {start} {what}")
            assert found.verdict == expected_of_sector(log, start, what), f"sector at {start} {what}"


def expected_of_sector(log: BuiltLog, start: int, what: str) -> str:
    if start < log.synced:
        return "corrupt"  # acknowledged bytes, and later records prove it
    if start >= log.end + oracle.HEADER_SIZE:
        return "torn tail"  # nothing was lost, and what is there is cut
    return "torn tail" if what == "zeroed" else "corrupt"


def assert_bit_flips_are_seen(log: BuiltLog, parse: Parse, bits: range) -> None:
    """One bit is never what a torn write leaves: corrupt, or nothing lost at all."""
    for bit in bits:
        damaged = bytearray(log.data)
        damaged[bit // 8] ^= 1 << bit % 8
        found = parse(bytes(damaged))
        assert_nothing_wrong(log, bytes(damaged), found, f"bit {bit}")
        if bit // 8 < log.end:
            assert found.verdict == "corrupt", f"bit {bit}"
        else:
            assert found.verdict == "corrupt" or len(found.records) == len(log.records), f"bit {bit}"


def torn_writes(log: BuiltLog) -> Iterator[bytes]:
    """What a power loss may leave of the last group: any of its sectors as they were before (all, up to 10 sectors)."""
    first, last = log.synced // SECTOR, (log.end - 1) // SECTOR
    sectors = range(first, last + 1)
    assert len(sectors) <= 10
    for mask in range(1 << len(sectors)):
        data = bytearray(log.data)
        for index, sector in enumerate(sectors):
            if mask >> index & 1:
                start = max(sector * SECTOR, log.synced)
                data[start : (sector + 1) * SECTOR] = bytes((sector + 1) * SECTOR - start)
        yield bytes(data)


def assert_torn_writes_lose_nothing_synced(log: BuiltLog, parse: Parse) -> None:
    """No power loss may lose what was synced or keep a replica from starting."""
    for number, damaged in enumerate(torn_writes(log)):
        found = parse(damaged)
        assert_nothing_wrong(log, damaged, found, f"torn write {number}")
        assert found.verdict != "corrupt", f"torn write {number}: a torn tail was taken for corruption"
        assert len(found.records) >= log.records_within(log.synced), f"torn write {number}: synced records are missing"
