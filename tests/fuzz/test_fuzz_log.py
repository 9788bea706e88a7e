"""Mutated segments: the parser raises nothing but storage errors, and hands out nothing that was not written there."""

from __future__ import annotations

import pytest
from kit.mutation import BOUNDARIES, Mutator, executions
from oracles import log_format as oracle

from smartbft._fastpath.log import LogEncoder, LogParser, read_segment_header
from smartbft.errors import CorruptLog, StorageError

CHAIN = bytes(range(32))
Records = list[tuple[int, int, bytes]]


def some_segment(mutator: Mutator) -> tuple[bytes, Records]:
    """A segment of a few records in groups, zero-filled behind them or not."""
    random = mutator.random
    size = random.choice([0, 2048])
    encoder = LogEncoder(CHAIN, 1, random.randrange(2), size=size, nonce=random.randbytes(16))
    data, records = encoder.segment_header(), []
    for instance in range(random.randrange(5)):
        record = (1 + instance % 3, instance, random.randbytes(random.choice([0, 1, 60, 200])))
        data += encoder.encode(*record[:2], [record[2]])
        records.append(record)
        if random.random() < 0.5:
            encoder.mark_synced()
    return data.ljust(size, b"\0"), records


def outcome(data: bytes, last: bool) -> Records | None:
    """What the parser hands out, None when it refuses; verdict and position must fit."""
    parser = LogParser(CHAIN, 1)
    try:
        records = parser.parse(data, last)
    except StorageError as error:
        if not isinstance(error, CorruptLog) or (parser.verdict == "corrupt" and 0 <= error.offset <= len(data)):
            return None
        raise
    assert parser.verdict in ("complete", "torn tail")
    assert last or parser.verdict == "complete"
    assert 0 <= parser.offset <= max(len(data), oracle.SEGMENT_HEADER_SIZE)
    assert len(parser.offsets) == len(records)
    return records


class Segments:
    """Any change anywhere."""

    def __init__(self, seed: int) -> None:
        self.mutator = Mutator(seed, fields=[bytes(512), b"SbRc", b"SBFTSEG\n", bytes(8)])
        self.last, self.last_records = some_segment(self.mutator)

    def one(self) -> None:
        data, records = some_segment(self.mutator)
        mutated = self.mutator.mutate(data, self.last)
        read_segment_header(mutated)
        last = self.mutator.random.random() < 0.7
        found = outcome(mutated, last)
        if found is not None:
            assert found in (records[: len(found)], self.last_records[: len(found)])
        self.assert_intact(mutated, found)
        self.last, self.last_records = data, records

    @staticmethod
    def assert_intact(data: bytes, found: Records | None) -> None:
        try:
            intact = LogParser(CHAIN, 1).parse_intact(data)
        except StorageError:
            assert found is None
        else:
            assert found is None or intact == found


class SealedHeaders:
    """Headers with any values whose checksum is right: nobody can make them, and still nothing breaks."""

    def __init__(self, seed: int) -> None:
        self.mutator = Mutator(seed)
        self.rules = oracle.Format()

    def one(self) -> None:
        data, records = some_segment(self.mutator)
        segment = oracle.decode_segment_header(data)
        assert segment is not None
        random = self.mutator.random
        parser = LogParser(CHAIN, 1)
        parser.parse(data, last=True)
        if not parser.offsets:
            return
        chosen = random.randrange(len(parser.offsets))
        at = parser.offsets[chosen]
        fields = bytearray(data[at : at + 56])
        start, width = random.choice([(4, 2), (6, 2), (8, 4), (12, 4), (16, 8)])
        number = random.choice(BOUNDARIES) % 2 ** (8 * width)
        fields[start : start + width] = number.to_bytes(width, "little")
        sealed = bytes(fields) + self.rules.header_checksum(bytes(fields), segment.key)
        mutated = data[:at] + sealed + data[at + 72 :]
        found = outcome(mutated, last=True)
        if found is not None and mutated != data:
            assert found[:chosen] == records[:chosen]
            assert all(body == records[index][2] for index, (_, _, body) in enumerate(found[:chosen]))


def assert_survives(fuzz: Segments | SealedHeaders, count: int) -> None:
    for _ in range(count):
        fuzz.one()


@pytest.mark.parametrize("fuzzer", [Segments, SealedHeaders])
def test_mutated_segments(fuzzer: type[Segments] | type[SealedHeaders]) -> None:
    assert_survives(fuzzer(7), executions())


class TrustsTheBody(oracle.Format):
    """A planted bug: a parser that does not compare the body with its checksum."""

    def problem_of(self, data: bytes, at: int, header: oracle.Header | None, previous: bytes) -> str | None:
        problem = super().problem_of(data, at, header, previous)
        return None if problem == "body" else problem


@pytest.mark.parametrize(("rules", "sound"), [(oracle.Format(), True), (TrustsTheBody(), False)])
def test_a_planted_bug_is_found(rules: oracle.Format, sound: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def planted(data: bytes, last: bool) -> Records | None:
        found = rules.parse_last_segment(data)
        return None if found.verdict == "corrupt" else found.records

    monkeypatch.setitem(globals(), "outcome", planted)
    # What is intact at the start of a segment is not the oracle's business.
    monkeypatch.setattr(Segments, "assert_intact", lambda *_: None)
    if sound:
        assert_survives(Segments(7), 1000)
    else:
        with pytest.raises(AssertionError):
            assert_survives(Segments(7), 1000)
