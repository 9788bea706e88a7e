"""What one replica has written in an instance: the write set of its COLLECT, and the values."""

from __future__ import annotations

from collections.abc import Collection

from smartbft.limits import MAX_WRITE_SET_ENTRIES, MAX_WRITTEN_VALUE_BYTES, MAX_WRITTEN_VALUES
from smartbft.messages import Written


class WrittenValues:
    """Values that a replica sent WRITE for, and those that it was shown because they may bind.

    A write set exists to certify what somebody has accepted. An entry older than the newest value that this replica
    has accepted can certify nothing any more: that value is higher, and more than `f` correct replicas wrote it. So
    accepting forgets. Only regencies in which no WRITE quorum is seen add entries.

    Attributes:
        regencies: the write set: for each digest the newest regency in which WRITE was sent for it.
    """

    __slots__ = ("_bodies", "_bytes", "_values", "regencies")

    def __init__(self) -> None:
        self.regencies: dict[bytes, int] = {}
        self._values: dict[bytes, tuple[bytes, bytes | None]] = {}  # digest -> value and requests, the oldest first
        self._bytes = 0  # of values
        self._bodies = 0  # bytes of their requests

    def note(self, digest: bytes, regency: int) -> None:
        """WRITE was sent for this value."""
        self.regencies[digest] = regency

    def keep(self, digest: bytes, value: bytes, data: bytes | None) -> None:
        """Keep a value and, where they are known, its requests: others may ask for them."""
        self._drop(digest)
        self._values[digest] = value, data
        self._bytes += len(value)
        self._bodies += len(data or b"")

    def learn(self, digest: bytes, value: bytes) -> None:
        """Keep a value whose requests are not known."""
        if digest not in self._values:
            self.keep(digest, value, None)

    def find(self, digest: bytes) -> tuple[bytes, bytes | None]:
        """A value and its requests; (b"", None) if it is not here."""
        return self._values.get(digest, (b"", None))

    def all(self) -> list[tuple[bytes, bytes | None]]:
        """All values, with their requests where they are known."""
        return list(self._values.values())

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._values

    def accepted(self, regency: int, digest: bytes) -> None:
        """A value was accepted: entries of earlier regencies, but its own, have no use any more."""
        for other in [other for other, when in self.regencies.items() if when < regency and other != digest]:
            del self.regencies[other]
            self._drop(other)

    def make_room(self, needed: Collection[bytes]) -> None:
        """Hold to the limits: the oldest go first, but none of those that are `needed`. Requests go long before the
        values that name them: as long as they are not ordered, pools have them.
        """
        spare = [digest for digest in self._values if digest not in needed]
        for digest in spare:
            if self._bodies <= MAX_WRITTEN_VALUE_BYTES:
                break
            value, data = self._values[digest]
            self._values[digest] = value, None
            self._bodies -= len(data or b"")
        for digest in spare:
            if self._bytes <= MAX_WRITTEN_VALUE_BYTES and len(self._values) <= MAX_WRITTEN_VALUES:
                break
            self._drop(digest)
        excess = len(self.regencies) - MAX_WRITTEN_VALUES
        if excess > 0:
            oldest = sorted((when, digest) for digest, when in self.regencies.items() if digest not in needed)
            for _, digest in oldest[:excess]:
                del self.regencies[digest]

    def collect(self, needed: Collection[bytes]) -> tuple[Written, ...]:
        """The write set as a STOPDATA tells it, sorted by digest: what is `needed` comes first, then the newest.

        Args:
            needed: digests that members were seen to accept; one each at most, so that all of them find room.
        """
        entries = sorted(self.regencies.items(), key=lambda entry: (entry[0] not in needed, -entry[1], entry[0]))
        return tuple(Written(digest, regency) for digest, regency in sorted(entries[:MAX_WRITE_SET_ENTRIES]))

    def _drop(self, digest: bytes) -> None:
        value, data = self._values.pop(digest, (b"", None))
        self._bytes -= len(value)
        self._bodies -= len(data or b"")
