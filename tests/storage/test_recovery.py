"""From the bytes of segments to records: the same for files and for a simulated disk."""

from __future__ import annotations

import pytest

from smartbft._fastpath.log import LogEncoder
from smartbft.errors import CorruptLog, StorageError
from smartbft.storage import parse_segments
from smartbft.storage.recovery import segment_name, segment_number

CHAIN = bytes(range(32))
Records = list[tuple[int, int, bytes]]


def make_segments(count: int) -> tuple[list[bytes], Records]:
    segments: list[bytes] = []
    records: Records = []
    previous = b""
    for number in range(count):
        encoder = LogEncoder(CHAIN, 1, number, previous)
        data = encoder.segment_header()
        for index in range(3):
            record = (1 + index, number * 10 + index, b"body %d" % number)
            data += encoder.encode(*record[:2], [record[2]])
            encoder.mark_synced()
            records.append(record)
        segments.append(data)
        previous = encoder.previous
    return segments, records


def test_records_of_all_segments() -> None:
    segments, records = make_segments(3)
    found = parse_segments(segments, CHAIN, 1)
    assert found.records == records
    assert (found.verdict, found.offset, found.segment) == ("complete", len(segments[-1]), 2)


def test_the_log_goes_on_where_it_ended() -> None:
    segments, records = make_segments(2)
    found = parse_segments(segments, CHAIN, 1)
    encoder = LogEncoder(CHAIN, 1, found.segment + 1, found.previous)
    more = encoder.segment_header() + encoder.encode(5, 99, [b"more"])
    assert parse_segments([*segments, more], CHAIN, 1).records == [*records, (5, 99, b"more")]


def test_an_empty_log() -> None:
    for segments in ([], [bytes(4096)]):
        assert parse_segments(segments, CHAIN, 1) == ([], "complete", 0, -1, bytes(16))


def test_the_prepared_segment_at_the_end_is_left_out() -> None:
    segments, records = make_segments(2)
    found = parse_segments([*segments, bytes(4096)], CHAIN, 1)
    assert (found.records, found.segment) == (records, 1)


@pytest.mark.parametrize(("kept", "blanks"), [(2, 2), (2, 3), (1, 2), (0, 2)])
def test_more_zeros_than_one_prepared_segment_are_damage(kept: int, blanks: int) -> None:
    segments, _ = make_segments(2)
    with pytest.raises(CorruptLog, match=f"{blanks} segments at the end hold nothing but zeros") as caught:
        parse_segments([*segments[:kept], *[bytes(4096)] * blanks], CHAIN, 1)
    assert (caught.value.segment, caught.value.offset) == (segment_name(kept), 0)


def test_the_numbers_of_blank_segments_follow_the_first_header() -> None:
    segments, _ = make_segments(3)
    with pytest.raises(CorruptLog) as caught:
        parse_segments([segments[2], bytes(4096), bytes(4096)], CHAIN, 1)
    assert caught.value.segment == segment_name(3)


def test_a_torn_tail_is_told_and_where_to_cut() -> None:
    segments, records = make_segments(2)
    torn = [segments[0], segments[1][:-20]]
    found = parse_segments([*torn, bytes(64)], CHAIN, 1)
    assert (found.records, found.verdict) == (records[:-1], "torn tail")
    cut = [torn[0], torn[1][: found.offset]]
    assert parse_segments(cut, CHAIN, 1) == found._replace(verdict="complete")


def test_the_same_damage_before_the_end_is_corrupt() -> None:
    segments, _ = make_segments(2)
    with pytest.raises(CorruptLog) as caught:
        parse_segments([segments[0][:-20], segments[1]], CHAIN, 1)
    assert caught.value.segment == segment_name(0)
    assert caught.value.offset > 512


def test_a_missing_segment_is_corrupt() -> None:
    segments, _ = make_segments(3)
    with pytest.raises(CorruptLog, match="segment 1 is missing"):
        parse_segments([segments[0], segments[2]], CHAIN, 1)


def test_another_replicas_log_is_refused() -> None:
    segments, _ = make_segments(1)
    with pytest.raises(StorageError, match="another replica"):
        parse_segments(segments, CHAIN, 2)


def test_segment_names() -> None:
    assert segment_number(segment_name(0xABC)) == 0xABC
    for name in ("segment-0.log", "segment-000000000000000g.log", "lock", "segment-0000000000000000.tmp", ""):
        assert segment_number(name) is None
