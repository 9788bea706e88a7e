"""The rules of requests without signatures (protocols.md 2.1), in plain Python: part of the oracle, see `pool_rules`.

A member announces what it has from the client itself, and what `f + 1` members announced. `f + 1` announcements vouch
for a request; with `2f + 1` it may be proposed, because then all correct members will hold it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from smartbft.limits import DIGEST_BYTES
from smartbft.smr.sessions import Pending, Place, PoolRules

if TYPE_CHECKING:
    from smartbft.smr.pool_reception import Reception

WANTED_FOR = 10_000_000  # microseconds that a request is asked for


@dataclass
class Record:
    """Who announced a request that is not here, and since when it is asked for."""

    members: set[int] = field(default_factory=set)
    listed: bool = False


class Announcements:
    """What members announced about requests that are not here."""

    def __init__(self, rules: PoolRules) -> None:
        self.rules = rules
        self.records: dict[bytes, Record] = {}
        self.queues: dict[int, list[bytes]] = {}  # by member, oldest first
        self.listed: list[tuple[bytes, Record, int]] = []  # digest, record, since
        self.settled: list[bytes] = []

    def members(self, digest: bytes) -> set[int]:
        """Who announced it."""
        return self.records[digest].members if digest in self.records else set()

    def note(self, member: int, digest: bytes, now: int) -> None:
        """An announcement; the oldest of a member give way when it makes too many."""
        if digest in self.settled:
            return
        self._add(member, digest)
        record = self.records.get(digest)
        if record is not None and len(record.members) >= self.rules.weak and not record.listed:
            record.listed = True
            self.listed.append((digest, record, now))

    def put_back(self, digest: bytes, members: set[int]) -> None:
        """Who held a request that gives way is still known."""
        if digest not in self.settled:
            for member in sorted(members):
                self._add(member, digest)

    def _add(self, member: int, digest: bytes) -> None:
        if member in self.members(digest):
            return
        self.records.setdefault(digest, Record()).members.add(member)
        queue = self.queues.setdefault(member, [])
        queue.append(digest)
        if len(queue) > self.rules.max_holds:
            oldest = queue.pop(0)
            self.records[oldest].members.discard(member)
            if not self.records[oldest].members:
                del self.records[oldest]

    def take(self, digest: bytes) -> set[int]:
        """The request is here, or decided."""
        record = self.records.pop(digest, Record())
        for member in record.members:
            self.queues[member].remove(digest)
        return set(record.members)

    def void(self, member: int) -> None:
        """What a member announced about requests that are not here counts no longer."""
        for digest in self.queues.pop(member, []):
            self.records[digest].members.discard(member)
            if not self.records[digest].members:
                del self.records[digest]

    def settle(self, digest: bytes) -> None:
        """It is decided: late announcements mean nothing."""
        self.take(digest)
        if digest not in self.settled:
            self.settled.append(digest)
        del self.settled[: -self.rules.max_requests]

    def is_wanted(self, digest: bytes, record: Record) -> bool:
        """Whether something that was wanted still is."""
        return self.records.get(digest) is record and len(record.members) >= self.rules.weak

    def forget(self, now: int) -> None:
        """Drop what is not wanted any more, or was asked for long enough, from the front."""
        while self.listed:
            digest, record, since = self.listed[0]
            if self.is_wanted(digest, record) and since + WANTED_FOR >= now:
                return
            self.listed.pop(0)
            record.listed = False


class HoldOracle:
    """As `smartbft._fastpath.pool.Holds`, for a `PoolOracle`."""

    def __init__(self, pool: Reception) -> None:
        self.pool = pool

    def prove(self, source: int, key: bytes) -> None:
        """As `Holds.prove`."""
        self.pool.sources.add(source)
        self.pool.keys[source] = key

    def hold(self, member: int, digests: bytes, now: int) -> int:
        """As `Holds.hold`."""
        changed = 0
        for at in range(0, len(digests), DIGEST_BYTES):
            digest = digests[at : at + DIGEST_BYTES]
            if digest in self.pool.by_digest:
                changed += self._count(self.pool.by_digest[digest], member)
            else:
                self.pool.announcements.note(member, digest, now)
        self.pool.announcements.forget(now)
        return changed

    def _count(self, entry: Pending, member: int) -> bool:
        pool = self.pool
        entry.holders.add(member)
        if entry.place is Place.UNVOUCHED and pool._vouched(entry):
            pool._enter(entry)
        elif entry.place is Place.ANNOUNCED and len(entry.holders) >= pool.rules.strong:
            pool.announced.remove(entry)
            entry.place = Place.VERIFIED
            pool._compete(entry)
        else:
            return False
        return True

    def void(self, member: int) -> None:
        """As `Holds.void`."""
        pool = self.pool
        if member == pool.rules.member:
            return
        pool.announcements.void(member)
        for entry in [one for one in pool.by_digest.values() if member in one.holders]:
            entry.holders.discard(member)
            if entry.proposable and len(entry.holders) < pool.rules.strong:
                self._announce_again(entry)

    def _announce_again(self, entry: Pending) -> None:
        """A request that enough held waits for announcements once more."""
        pool, session = self.pool, self.pool.table.sessions[entry.id]
        if entry.place is Place.READY:
            pool._retreat(session, entry.number)
        entry.place = Place.ANNOUNCED
        pool.announced.append(entry)
        pool.room.make_idle(entry)
        pool._promote(session, entry.number)
        pool._advance(session)

    def take(self, most: int) -> bytes:
        """As `Holds.take`."""
        said, self.pool.unsaid[:most] = self.pool.unsaid[:most], []
        return b"".join(entry.digest for entry in said)

    def held(self, before: int, most: int) -> bytes:
        """As `Holds.held`."""
        pool = self.pool
        ready = [entry.digest for entry in pool.ready_list if entry.ready_at < before]
        again = ready[: most - most // 2]  # what clients tell few replicas does not keep them back
        for entry in list(pool.announced):
            if len(again) >= most:
                break
            pool.announced.remove(entry)
            pool.announced.append(entry)
            if entry.arrival < before:
                again.append(entry.digest)
        again += ready[most - most // 2 :][: most - len(again)]
        return b"".join(again)

    def wanted(self, member: int, before: int, now: int, most: int) -> tuple[bytes, bool]:
        """As `Holds.wanted`."""
        announcements = self.pool.announcements
        announcements.forget(now)
        ask: list[bytes] = []
        for _ in range(len(announcements.listed)):
            if len(ask) >= most:
                break
            digest, record, since = announcements.listed.pop(0)
            if not announcements.is_wanted(digest, record) or since + WANTED_FOR < now:
                record.listed = False
                continue
            announcements.listed.append((digest, record, since))
            if since < before and member in record.members:
                ask.append(digest)
        return b"".join(ask), bool(announcements.listed)

    def requests(self, digests: bytes, max_bytes: int) -> bytes:
        """As `Holds.requests`."""
        data = b""
        for at in range(0, len(digests), DIGEST_BYTES):
            entry = self.pool.by_digest.get(digests[at : at + DIGEST_BYTES])
            if entry is not None and entry.verified and len(data) + 4 + len(entry.request) <= max_bytes:
                data += len(entry.request).to_bytes(4, "little") + entry.request
        return data
