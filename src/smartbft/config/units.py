"""Durations and sizes as people write them: a whole number or a decimal fraction, and a unit."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from fractions import Fraction

from smartbft.errors import ArgumentTypeError, LocalProtocolError

#: A time as functions take it: seconds, text with a unit as in ``"2s"``, or a `timedelta`.
Seconds = float | str | timedelta

_DURATIONS = {"us": 1, "ms": 1_000, "s": 1_000_000, "min": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}
_QUANTITY = re.compile(r"([0-9]{1,18}(?:\.[0-9]{1,9})?) ?([A-Za-z]+)")


def parse_duration(text: str) -> int:
    """Microseconds of ``"250ms"``, ``"1.5s"``, ``"10min"``; units are us, ms, s, min, h and d.

    Raises:
        LocalProtocolError: no number with one of the units, or not a whole number of microseconds.
    """
    return _parse(text, _DURATIONS, "a duration", "250ms")


def parse_seconds(value: Seconds, what: str) -> float:
    """A time that a caller gives, in seconds.

    Args:
        value: the argument.
        what: its name in the error.

    Raises:
        LocalProtocolError: negative, not a number, or text that is no duration (`ArgumentTypeError`: of another type).
    """
    if isinstance(value, str):
        try:
            return parse_duration(value) / 1_000_000
        except LocalProtocolError as error:
            raise LocalProtocolError(f"{what}: {error}") from None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ArgumentTypeError(f'{what} is seconds, "2s" or a timedelta, not {type(value).__name__}')
    if math.isnan(value) or value < 0:
        raise LocalProtocolError(f"{what} is {value} seconds: a time from 0 on is needed")
    return float(value)


def parse_size(text: str) -> int:
    """Bytes of ``"64MiB"`` or ``"512B"``; units are B, KiB, MiB and GiB.

    Raises:
        LocalProtocolError: no number with one of the units, or not a whole number of bytes.
    """
    return _parse(text, _SIZES, "a size", "64MiB")


def format_duration(microseconds: int) -> str:
    """The shortest exact form: the largest unit that divides it."""
    return _format(microseconds, _DURATIONS)


def format_size(size_bytes: int) -> str:
    """The shortest exact form: the largest unit that divides it."""
    return _format(size_bytes, _SIZES)


def _parse(text: str, units: dict[str, int], what: str, example: str) -> int:
    found = _QUANTITY.fullmatch(text.strip())
    if found is None or found[2] not in units:
        known = ", ".join(units)
        raise LocalProtocolError(f'"{text}" is not {what}: write a number and one of {known}, e.g. "{example}"')
    amount = Fraction(found[1]) * units[found[2]]
    if amount.denominator != 1:
        raise LocalProtocolError(f'"{text}" is finer than {next(iter(units))}, the smallest unit')
    return int(amount)


def _format(amount: int, units: dict[str, int]) -> str:
    unit = next(iter(units))
    for name, factor in units.items():
        if amount and amount % factor == 0:
            unit = name
    return f"{amount // units[unit]}{unit}"
