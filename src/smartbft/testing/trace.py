"""The trace of a run: every event feeds one running hash; on request the events are kept as readable lines too."""

from __future__ import annotations

import enum
import struct
from collections.abc import Iterable

from blake3 import blake3

from smartbft.errors import MalformedMessage
from smartbft.messages import Proof, decode

_EVENT = struct.Struct("<QBHQ")  # time, kind, who, detail
_CHUNK_BYTES = 64 * 1024


class Kind(enum.IntEnum):
    """What an event of the trace is."""

    MESSAGE = 1
    REQUESTS = 2
    VERDICTS = 3
    TIMER = 4
    RELEASED = 5
    EXECUTED = 6
    CONNECTED = 8
    CRASHED = 9
    STARTED = 10
    CLIENT = 11
    HEALED = 12
    CUT = 13
    CLOCK = 14
    SNAPSHOT = 15
    INSTALLED = 16
    WIPED = 17
    REHEARSED = 18


class Trace:
    """Hashes events. Runs with equal hashes went through the same events with the same contents at the same times."""

    __slots__ = ("_buffer", "_hasher")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._hasher = blake3()

    def note(self, now: int, kind: Kind, who: int, detail: int, subject: object = None) -> None:
        """Record one event.

        Args:
            now: virtual microseconds.
            kind: what happened.
            who: the replica or client it happened to.
            detail: 64 bits that stand for the content (a checksum of the bytes, a token, an instance).
            subject: what a reader wants to see; not hashed.
        """
        buffer = self._buffer
        buffer += _EVENT.pack(now, kind, who, detail)
        if len(buffer) >= _CHUNK_BYTES:
            self._hasher.update(bytes(buffer))
            buffer.clear()

    def digest(self) -> str:
        """32 hexadecimal digits for all events so far."""
        if self._buffer:
            self._hasher.update(bytes(self._buffer))
            self._buffer.clear()
        return self._hasher.digest(16).hex()

    def lines(self) -> Iterable[str]:
        """The events as text; empty for a trace that only hashes."""
        return ()


class TextTrace(Trace):
    """A trace that also keeps one line per event, for a person who follows a run."""

    __slots__ = ("_lines",)

    def __init__(self) -> None:
        super().__init__()
        self._lines: list[str] = []

    def note(self, now: int, kind: Kind, who: int, detail: int, subject: object = None) -> None:
        """As `Trace.note`, and keep a line."""
        super().note(now, kind, who, detail, subject)
        text = "" if subject is None else f" {_describe(subject)}"
        self._lines.append(f"{now:>12} {kind.name.lower():<10} {who:>5} {detail:016x}{text}")

    def lines(self) -> Iterable[str]:
        """The events so far, one line each."""
        return self._lines


def _describe(subject: object) -> str:
    """A short text: an encoded protocol message by its fields; byte strings show their beginning and length."""
    if not isinstance(subject, bytes):
        return str(subject)
    try:
        message = decode(subject)
    except MalformedMessage:
        return _abbreviate(subject)
    fields = ", ".join(f"{name}={_abbreviate(getattr(message, name))}" for name in message.__struct_fields__)
    return f"{type(message).__name__}({fields})"


def _abbreviate(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex() if len(value) <= 8 else f"{value[:8].hex()}..[{len(value)}]"
    if isinstance(value, Proof):
        return f"Proof(instance={value.instance}, signers={[signer for signer, _ in value.signatures]})"
    return str(value)
