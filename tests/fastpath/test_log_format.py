"""The bytes of the log against the oracle, and the parser's three verdicts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import log_format as oracle

from smartbft._fastpath.log import HEADER_SIZE, SEGMENT_HEADER_SIZE, LogEncoder, LogParser, read_segment_header
from smartbft.errors import CorruptLog, LocalProtocolError, StorageError

CHAIN = bytes(range(32))
OTHER_CHAIN = bytes(32)

records_strategy = st.lists(
    st.tuples(
        st.integers(1, 65535),
        st.integers(0, 2**64 - 1),
        st.lists(st.binary(max_size=300), max_size=4),
    ),
    max_size=12,
)


def test_sizes_are_those_of_the_format() -> None:
    assert HEADER_SIZE == oracle.HEADER_SIZE == oracle.RECORD_HEADER.size + 16
    assert SEGMENT_HEADER_SIZE == oracle.SEGMENT_HEADER_SIZE


@given(records_strategy, st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1), st.binary(min_size=16, max_size=16))
def test_encoder_agrees_with_the_oracle(
    records: list[tuple[int, int, list[bytes]]], replica: int, number: int, previous: bytes
) -> None:
    encoder = LogEncoder(CHAIN, replica, number, previous)
    expected = oracle.Encoder(oracle.Segment(CHAIN, replica, number, previous=previous))
    assert encoder.segment_header() == expected.segment.encode()
    for kind, instance, parts in records:
        assert encoder.encode(kind, instance, parts) == expected.encode(kind, instance, parts)
        assert (encoder.offset, encoder.previous) == (expected.offset, expected.previous)


@given(records_strategy, st.integers(0, 64))
def test_parser_returns_what_was_encoded(records: list[tuple[int, int, list[bytes]]], zeros: int) -> None:
    encoder = LogEncoder(CHAIN, 3)
    data = encoder.segment_header() + b"".join(encoder.encode(*record) for record in records)
    parser = LogParser(CHAIN, 3)
    assert parser.parse(data + bytes(zeros), last=True) == [
        (kind, instance, b"".join(parts)) for kind, instance, parts in records
    ]
    assert (parser.verdict, parser.offset, parser.previous) == ("complete", len(data), encoder.previous)
    assert parser.offset == encoder.offset
    assert len(parser.offsets) == len(records)


def test_segments_continue_one_another() -> None:
    first = LogEncoder(CHAIN, 1)
    data = first.segment_header() + first.encode(1, 1, [b"a"])
    second = LogEncoder(CHAIN, 1, 1, first.previous)
    more = second.segment_header() + second.encode(2, 2, [b"b"])
    parser = LogParser(CHAIN, 1)
    assert parser.parse(data, last=False) == [(1, 1, b"a")]
    assert parser.parse(more, last=True) == [(2, 2, b"b")]
    assert parser.segment == 1


def test_a_segment_that_does_not_continue_is_refused() -> None:
    first = LogEncoder(CHAIN, 1)
    data = first.segment_header() + first.encode(1, 1, [b"a"])
    for number, previous, words in ((1, bytes(16), "continue"), (2, first.previous, "missing")):
        parser = LogParser(CHAIN, 1)
        parser.parse(data, last=False)
        with pytest.raises(CorruptLog, match=words):
            parser.parse(LogEncoder(CHAIN, 1, number, previous).segment_header(), last=True)
        assert parser.verdict == "corrupt"


def test_nothing_follows_the_last_segment() -> None:
    parser = LogParser(CHAIN, 1)
    encoder = LogEncoder(CHAIN, 1)
    parser.parse(encoder.segment_header(), last=True)
    with pytest.raises(StorageError, match="ends before"):
        parser.parse(encoder.segment_header(), last=True)


@pytest.mark.parametrize(("chain", "replica", "words"), [(OTHER_CHAIN, 1, "chain"), (CHAIN, 2, "replica")])
def test_another_log_is_refused(chain: bytes, replica: int, words: str) -> None:
    with pytest.raises(StorageError, match=f"another {words}"):
        LogParser(CHAIN, 1).parse(LogEncoder(chain, replica).segment_header(), last=True)


def test_another_format_version_is_named() -> None:
    header = bytearray(LogEncoder(CHAIN, 1).segment_header())
    header[8] = 9
    header[-16:] = oracle.checksum(bytes(header[:-16]))
    with pytest.raises(StorageError, match="format version 9"):
        LogParser(CHAIN, 1).parse(header, last=True)


def test_an_empty_or_blank_last_segment_is_complete() -> None:
    for blank in (b"", bytes(100), bytes(4096)):
        parser = LogParser(CHAIN, 1)
        assert parser.parse(blank, last=True) == []
        assert (parser.verdict, parser.offset) == ("complete", 0)


def test_a_blank_segment_in_the_middle_is_corrupt() -> None:
    with pytest.raises(CorruptLog):
        LogParser(CHAIN, 1).parse(bytes(4096), last=False)


def test_segment_header_fields() -> None:
    header = read_segment_header(LogEncoder(CHAIN, 7, 9, b"p" * 16, size=4096, nonce=b"n" * 16).segment_header())
    assert header == {
        "chain_id": CHAIN,
        "replica": 7,
        "segment": 9,
        "size": 4096,
        "previous": b"p" * 16,
        "nonce": b"n" * 16,
    }
    assert read_segment_header(b"") is None
    assert read_segment_header(bytes(512)) is None


def test_a_file_of_another_length_than_it_says_is_corrupt() -> None:
    encoder = LogEncoder(CHAIN, 1, size=4096)
    data = encoder.segment_header() + encoder.encode(1, 1, [b"x"])
    with pytest.raises(CorruptLog, match="its header says 4096"):
        LogParser(CHAIN, 1).parse(data, last=True)


def test_wrong_arguments_are_named() -> None:
    encoder = LogEncoder(CHAIN, 1, size=4096)
    with pytest.raises(LocalProtocolError, match="kind 0"):
        encoder.encode(0, 1, [b""])
    with pytest.raises(LocalProtocolError, match="instance -1"):
        encoder.encode(1, -1, [b""])
    with pytest.raises(TypeError, match="not one buffer"):
        encoder.encode(1, 1, b"bytes")
    with pytest.raises(StorageError, match="does not fit"):
        encoder.encode(1, 1, [bytes(4096)])
    with pytest.raises(LocalProtocolError, match="32 bytes"):
        LogParser(b"short", 1)
    with pytest.raises(LocalProtocolError, match="replica"):
        LogParser(CHAIN, -1)


def test_any_buffer_is_a_part() -> None:
    parts = [bytearray(b"ab"), memoryview(b"xcdx")[1:3], b""]
    encoder = LogEncoder(CHAIN, 1)
    data = encoder.segment_header() + encoder.encode(5, 6, parts)
    assert LogParser(CHAIN, 1).parse(bytearray(data), last=True) == [(5, 6, b"abcd")]


def test_only_intact_records_of_a_segment_that_is_being_written() -> None:
    encoder = LogEncoder(CHAIN, 1, 4, b"c" * 16)
    data = encoder.segment_header() + encoder.encode(1, 1, [b"one"]) + encoder.encode(1, 2, [b"two" * 300])
    parser = LogParser(CHAIN, 1)
    assert parser.parse_intact(data[:-1] + b"\1") == [(1, 1, b"one")]
    assert parser.parse_intact(data) == [(1, 1, b"one"), (1, 2, b"two" * 300)]
    assert parser.parse_intact(bytes(4096)) == []
