"""What callers pass as bytes: every bytes-like object is taken, and anything else is refused by name."""

from __future__ import annotations

from smartbft.errors import ArgumentTypeError


def bytes_of(value: object, what: str) -> bytes:
    """A copy of a bytes-like argument (`bytes`, `bytearray`, `memoryview`, `array.array`): later changes to it do no
    harm.

    Args:
        value: the argument.
        what: its name in the error, as in "an operation".

    Raises:
        ArgumentTypeError: it is not bytes-like. Text is not: which bytes it means depends on its encoding.
    """
    if type(value) is bytes:
        return value
    if isinstance(value, str):
        raise ArgumentTypeError(f"{what} is bytes, not str: encode the text, e.g. text.encode()")
    try:
        return memoryview(value).tobytes()  # type: ignore[arg-type]
    except TypeError:
        raise ArgumentTypeError(f"{what} is bytes, not {type(value).__name__}: encode it first") from None
