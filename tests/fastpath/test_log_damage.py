"""Promise D3: a torn tail is never mistaken for data, nor data for a torn tail."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kit import log_damage as damage
from oracles import log_format as oracle

SMALL = damage.build(4096, 3000)
OPEN_ENDED = damage.build(0, 3000)
WIDE_GROUP = damage.build(16384, 6000, group=10, body=300)


def test_every_zero_filled_truncation() -> None:
    damage.assert_zero_filled_truncations_are_seen(SMALL, damage.native_parse, range(len(SMALL.data)))


def test_every_truncation() -> None:
    for log in (SMALL, OPEN_ENDED):
        damage.assert_truncations_are_seen(log, damage.native_parse, range(len(log.data)))


def test_every_sector_zeroed_and_garbled() -> None:
    for log in (SMALL, WIDE_GROUP):
        damage.assert_bad_sectors_are_seen(log, damage.native_parse)


def test_every_bit_flip() -> None:
    damage.assert_bit_flips_are_seen(SMALL, damage.native_parse, range(len(SMALL.data) * 8))


def test_every_torn_write_of_the_last_group() -> None:
    for log in (SMALL, WIDE_GROUP, damage.build(16384, 5000, group=1, body=2000)):
        damage.assert_torn_writes_lose_nothing_synced(log, damage.native_parse)


@pytest.mark.campaign
def test_every_truncation_of_64_kib_and_every_bit_of_8_kib() -> None:
    large = damage.build(65536, 60000)
    for log in (large, damage.build(0, 65536)):
        damage.assert_truncations_are_seen(log, damage.native_parse, range(len(log.data)))
        damage.assert_bad_sectors_are_seen(log, damage.native_parse)
    damage.assert_zero_filled_truncations_are_seen(large, damage.native_parse, range(len(large.data)))
    medium = damage.build(8192, 7000)
    damage.assert_bit_flips_are_seen(medium, damage.native_parse, range(len(medium.data) * 8))


@given(st.data())
def test_the_parser_agrees_with_the_oracle(data: st.DataObject) -> None:
    log = data.draw(st.sampled_from([SMALL, OPEN_ENDED, WIDE_GROUP]))
    damaged = bytearray(log.data)
    places = st.integers(0, len(damaged) - 1)
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(places)
        length = data.draw(st.sampled_from([1, 8, 72, 512, 2000]))
        length = min(length, len(damaged) - start)
        content = data.draw(st.sampled_from(["zeros", "noise", "copy"]))
        if content == "zeros":
            damaged[start : start + length] = bytes(length)
        elif content == "noise":
            damaged[start : start + length] = random.Random(start).randbytes(length)
        else:
            source = min(data.draw(places), len(damaged) - length)
            damaged[start : start + length] = log.data[source : source + length]
    if not any(damaged):
        return
    expected = oracle.Format().parse_last_segment(bytes(damaged))
    found = damage.native_parse(bytes(damaged))
    assert (found.verdict, found.offset) == (expected.verdict, expected.offset)
    if found.verdict != "corrupt":
        assert found.records == expected.records


def test_bytes_of_a_client_are_never_taken_for_a_record() -> None:
    """A body that is a whole log of the same chain, replica and segment does not make a torn tail look corrupt."""
    planted = damage.build(0, 2000)
    encoder = oracle.Encoder(oracle.Segment(damage.CHAIN, damage.REPLICA, size=8192, nonce=b"another nonce..."))
    first = encoder.encode(1, 1, [b"first"])
    body = b"\1" * (-(encoder.offset + oracle.HEADER_SIZE) % 8) + planted.data + b"\1" * 3000
    data = encoder.segment_header() + first + encoder.encode(1, 2, [body])
    torn = data[: len(data) // 512 * 512].ljust(8192, b"\0")
    assert damage.native_parse(torn) == oracle.Parsed([(1, 1, b"first")], "torn tail", 512 + len(first))


# --- planted bugs: the checks above must find each of them ------------------------------------------------------------


class LengthOutsideTheChecksum(oracle.Format):
    def header_checksum(self, fields: bytes, key: bytes) -> bytes:
        return super().header_checksum(fields[:8] + bytes(4) + fields[12:], key)


class EveryDamageIsATornTail(oracle.Format):
    def is_torn(self, *_: object) -> bool:
        return True


class NoDamageIsATornTail(oracle.Format):
    def is_torn(self, *_: object) -> bool:
        return False


class IgnoresWhatWasSynced(oracle.Format):
    def was_synced(self, *_: object) -> bool:
        return False


class IgnoresTheBodyChecksum(oracle.Format):
    def problem_of(self, data: bytes, at: int, header: oracle.Header | None, previous: bytes) -> str | None:
        problem = super().problem_of(data, at, header, previous)
        return None if problem == "body" else problem


def small_log_of(rules: oracle.Format, size: int = 4096) -> damage.BuiltLog:
    def encoder(size: int) -> damage.AnyEncoder:
        return oracle.Encoder(oracle.Segment(damage.CHAIN, damage.REPLICA, size=size, nonce=b"n" * 16), rules)

    return damage.build(size, 3000, encoder=encoder)


def assert_all_damage_is_seen(rules: oracle.Format) -> None:
    log, open_ended = small_log_of(rules), small_log_of(rules, 0)
    damage.assert_truncations_are_seen(open_ended, rules.parse_last_segment, range(512, len(open_ended.data), 7))
    damage.assert_bad_sectors_are_seen(log, rules.parse_last_segment)
    damage.assert_torn_writes_lose_nothing_synced(log, rules.parse_last_segment)
    damage.assert_bit_flips_are_seen(log, rules.parse_last_segment, range(512 * 8, 1200 * 8, 3))
    damage.assert_bit_flips_are_seen(log, rules.parse_last_segment, range(log.ends[-2] * 8, log.end * 8, 3))


def test_the_oracle_passes_the_checks() -> None:
    assert_all_damage_is_seen(oracle.Format())


@pytest.mark.parametrize(
    "mutant",
    [
        LengthOutsideTheChecksum,
        EveryDamageIsATornTail,
        NoDamageIsATornTail,
        IgnoresWhatWasSynced,
        IgnoresTheBodyChecksum,
    ],
)
def test_planted_bugs_are_found(mutant: Callable[[], oracle.Format]) -> None:
    with pytest.raises(AssertionError):
        assert_all_damage_is_seen(mutant())
