"""The rules of the request pool (protocols.md 2.2), in plain Python: the oracle of the native `RequestPool`.

See `sessions` for the rules of the session table and for how this is meant. A pending request is queued for
verification, at the verifier, or verified. Several may compete for one number until one is verified, so that a copy
with a bad signature never blocks a good one; bodies that proposals name are kept besides, in room of their own. Replies
to the last `window` executed numbers of a session are kept, and sent once they are released.
"""

from __future__ import annotations

from smartbft._fastpath import pool as native
from smartbft._fastpath.frames import REPLY, frame
from smartbft._fastpath.pool import request_digests, split_requests
from smartbft.errors import MalformedMessage
from smartbft.limits import DIGEST_BYTES, REQUEST_OVERHEAD_BYTES, SIGNATURE_BYTES
from smartbft.smr.hold_rules import Announcements
from smartbft.smr.room_rules import Newcomer, Room
from smartbft.smr.sessions import Pending, Place, PoolRules, Session, SessionId, SessionTable, Standing

NO_SOURCE = 0
# Bytes waiting for a source beyond which refusals and repeated replies to it are dropped.
OPTIONAL_REPLY_BYTES = 256 * 1024


def parse(data: bytes, max_operation_bytes: int) -> list[tuple[bytes, SessionId, int]]:
    """`(request, session, number)` of each request of a list. Raises MalformedMessage."""
    parsed: list[tuple[bytes, SessionId, int]] = []
    at = 0
    for key, session, number, operation, _ in split_requests(data):
        if len(operation) > max_operation_bytes:
            raise MalformedMessage(f"an operation of {len(operation)} bytes")
        length = REQUEST_OVERHEAD_BYTES + len(operation)
        parsed.append((data[at + 4 : at + 4 + length], (key, session), number))
        at += 4 + length
    return parsed


def _client(source: int) -> int:
    """The client's connection that a source is, if it is one."""
    return source if source < native.FROM_MEMBER else NO_SOURCE


def chunks(digests: bytes) -> list[bytes]:
    """The digests of a digest list."""
    return [digests[at : at + DIGEST_BYTES] for at in range(0, len(digests), DIGEST_BYTES)]


def result_list(results: bytes) -> list[bytes]:
    """The results of a result list."""
    found = []
    while results:
        end = 4 + int.from_bytes(results[:4], "little")
        found.append(results[4:end])
        results = results[end:]
    return found


class Reception:
    """What happens to a request until it is ordered."""

    def __init__(self, rules: PoolRules) -> None:
        self.rules = rules
        self.table = SessionTable(rules)
        self.by_digest: dict[bytes, Pending] = {}
        self.sources: set[int] = set()
        self.queues: dict[int, list[Pending]] = {}  # sources with queued requests, in turn
        self.priority: list[Pending] = []
        self.ready_list: list[Pending] = []
        self.ring: list[SessionId] = []  # sessions with ready requests, in turn
        self.reserve: list[Pending] = []
        self.outbox: dict[int, bytes] = {}
        self.ended: dict[SessionId, tuple[int, Session]] = {}  # by the decision of an instance not executed yet
        self.decided_instance = self.executed_instance = 0
        self.ready_clock = self.agreed_time = self.now = self.view = self.instance = 0
        self.accepting = True
        self.announced: list[Pending] = []  # vouched for, but fewer than 2f + 1 hold them
        self.unsaid: list[Pending] = []  # to be announced
        self.announcements = Announcements(rules)
        self.keys: dict[int, bytes] = {}  # what clients have proven, by source
        self.room = Room(self)

    # --- the life of a pending request

    def _load(self, *, reserve: bool) -> list[int]:
        return [len(entry.request) for entry in self.by_digest.values() if entry.reserve == reserve]

    def _fits(self, size: int, *, reserve: bool) -> bool:
        load = self._load(reserve=reserve)
        return len(load) < self.rules.max_requests and sum(load) + size <= self.rules.max_bytes

    def _detach(self, entry: Pending) -> None:
        """Take a request out of everything but its session's cursors."""
        for queue in (*self.queues.values(), self.priority, self.ready_list, self.reserve, self.announced, self.unsaid):
            if entry in queue:
                queue.remove(entry)
        self.room.discharge(entry)
        del self.by_digest[entry.digest]
        session = self.table.sessions[entry.id]
        session.pending[entry.number].remove(entry)
        if not session.pending[entry.number]:
            del session.pending[entry.number]

    def _discard(self, entry: Pending) -> None:
        """Remove a request for another reason than a decision."""
        session = self.table.sessions[entry.id]
        if entry.place is Place.READY:
            self._retreat(session, entry.number)
        self._detach(entry)
        self._promote(session, entry.number)
        if entry.verified:
            self._advance(session)
        self._forget_if_empty(session)

    def _retreat(self, session: Session, first: int) -> None:
        """The requests from a number on could not be proposed any more."""
        for number in range(first, session.received + 1):
            candidate = session.pending[number][0]
            candidate.place = Place.VERIFIED
            self.ready_list.remove(candidate)
            self.room.make_idle(candidate)
        session.received = first - 1

    @staticmethod
    def _promote(session: Session, number: int) -> None:
        others = session.pending.get(number, [])
        others.sort(key=lambda other: (not other.proposable, not other.verified))

    def _advance(self, session: Session) -> bool:
        """Move `received` over what has become reachable without a gap.

        False: the session's first request could be proposed, but there is no place for it. Only what could be proposed
        holds a place.
        """
        if session.standing is Standing.UNPLACED:
            if session.proposable(session.ordered + 1) is None:
                return True
            if not self._reserve(session):
                return False
        while (entry := session.proposable(session.received + 1)) is not None:
            self.room.leave_idle(entry)
            # The deadline of a request that waited behind a gap begins when the gap is filled.
            self.ready_clock = entry.ready_at = max(self.ready_clock, entry.arrival)
            entry.place = Place.READY
            self.ready_list.append(entry)
            session.received += 1
        if session.received > session.ordered:
            if session.id not in self.ring:
                self.ring.append(session.id)
        else:
            if session.id in self.ring:
                self.ring.remove(session.id)
            if session.standing is Standing.WAITING:
                session.standing = Standing.UNPLACED
        return True

    def _forget_if_empty(self, session: Session) -> None:
        if session.standing is not Standing.OPEN and not session.pending:
            self._remove_session(session)

    def _remove_session(self, session: Session) -> None:
        if session.id in self.ring:
            self.ring.remove(session.id)
        del self.table.sessions[session.id]

    # --- answers

    def _reply(self, source: int, payload: bytes, most: int | None = None) -> None:
        waiting = self.outbox.get(source, b"")
        if source == NO_SOURCE or source not in self.sources:
            return
        if most is None or len(waiting) + len(payload) <= most:
            self.outbox[source] = waiting + frame(REPLY, payload)

    def _encode_reply(self, status: int, level: int, time: int, digest: bytes, result: bytes) -> bytes:
        header = self.rules.replica.to_bytes(2, "little") + bytes([status, level]) + self.view.to_bytes(4, "little")
        return header + self.instance.to_bytes(8, "little") + time.to_bytes(8, "little") + digest + result

    def _refuse(self, source: int, digest: bytes, status: int, reason: bytes = b"") -> None:
        time = self.now if status == native.SESSION_REFUSED else self.agreed_time
        self._reply(source, self._encode_reply(status, 0, time, digest, reason), OPTIONAL_REPLY_BYTES)

    def take_replies(self) -> list[tuple[int, bytes]]:
        """As `RequestPool.take_replies`."""
        taken, self.outbox = list(self.outbox.items()), {}
        return taken

    # --- reception

    def admit(self, data: bytes, source: int, now: int) -> int:
        """As `RequestPool.admit`."""
        parsed = self._parse(data, _client(source))
        digests = chunks(request_digests(self.rules.chain_id, data))
        self.pass_time(now)
        return sum(self._admit(*item, digest, source, now) for item, digest in zip(parsed, digests, strict=True))

    def _admit(self, request: bytes, id: SessionId, number: int, digest: bytes, owner: int, now: int) -> bool:
        source = _client(owner)
        if source != NO_SOURCE:
            self.sources.add(source)
        if digest in self.by_digest:
            if source != NO_SOURCE:
                self.by_digest[digest].route = source
                self._heard_from_client(self.by_digest[digest])
            if digest in self.by_digest:
                self.room.charge_again(self.by_digest[digest], owner)
            return False
        session = self.table.sessions.get(id)
        if session is not None and number <= session.ordered:
            self._answer_again(session, number, digest, source)
            return False
        if source == NO_SOURCE and not self._wanted(digest):
            return False  # what others pass on counts only by who holds it
        status = self._why_not(session, id, number, owner, len(request))
        if status is not None:
            self._refuse(source, digest, status)
            return False
        rival = session is not None and session.candidate(number) is not None
        if rival and (not self.rules.members or not self._wanted(digest)):
            return False
        self._take(Pending(request, digest, id, number, owner, source, now))
        return True

    def _why_not(self, session: Session | None, id: SessionId, number: int, owner: int, size: int) -> int | None:
        """The status with which a request that was not seen before is refused."""
        if session is None or session.standing is not Standing.OPEN:
            # By our clock, or because the next batch may have the time after the agreed one, whatever clocks show.
            times = (self.now, self.agreed_time + 1) if self.agreed_time else (self.now,)
            if not any(self.table.admissible(id[1], time) for time in times):
                return native.SESSION_REFUSED
            if not self.table.has_room(self.now, 0) or not self.table.key_has_room(id[0], self.now, 0):
                return native.OVERLOADED
        ordered = session.ordered if session is not None else 0
        share = sum(entry.counted and entry.source == owner for entry in self.by_digest.values())
        within = (
            number <= ordered + self.rules.window
            and share < self.rules.max_unverified_per_source
            and self.accepting
            and self.room.make(Newcomer(owner, id[0], size, self._in_line(session, number)))
        )
        return None if within else native.OVERLOADED

    @staticmethod
    def _in_line(session: Session | None, number: int) -> bool:
        """Whether all numbers of the session before this one are here."""
        if session is None:
            return number == 1
        return all(before in session.pending for before in range(session.ordered + 1, number))

    def _answer_again(self, session: Session, number: int, digest: bytes, source: int) -> None:
        if number > session.released:
            route = session.routes.get(number)
            if route is not None and route.digest == digest and source != NO_SOURCE:
                route.source = source
        elif digest == session.replies.get(number, b"")[24 : 24 + DIGEST_BYTES]:
            self._reply(source, session.replies[number], OPTIONAL_REPLY_BYTES)

    def admit_body(self, data: bytes, now: int) -> int:
        """As `RequestPool.admit_body`."""
        parsed = self._parse(data, NO_SOURCE)
        digests = chunks(request_digests(self.rules.chain_id, data))
        self.pass_time(now)
        return sum(self._admit_body(*item, digest, now) for item, digest in zip(parsed, digests, strict=True))

    def _admit_body(self, request: bytes, id: SessionId, number: int, digest: bytes, now: int) -> bool:
        if digest in self.by_digest:
            self._name(self.by_digest[digest])
            return False
        session = self.table.sessions.get(id)
        ordered = session.ordered if session is not None else 0
        if not ordered < number <= ordered + self.rules.window:
            return False
        while self.reserve and not self._fits(len(request), reserve=True):
            self._discard(self.reserve[0])
        self._take(Pending(request, digest, id, number, NO_SOURCE, NO_SOURCE, now, named=True, reserve=True))
        return True

    def _take(self, entry: Pending) -> None:
        session = self.table.sessions.setdefault(entry.id, Session(entry.id))
        session.pending.setdefault(entry.number, []).append(entry)
        self.by_digest[entry.digest] = entry
        self.room.charge(entry, entry.source)
        entry.own = NO_SOURCE < entry.source < native.FROM_MEMBER
        entry.holders = self.announcements.take(entry.digest)
        if entry.reserve:
            self.reserve.append(entry)
        if self.rules.admit_unverified:
            self._accept(entry)
        elif entry.reserve:
            entry.place = Place.PRIORITY
            self.priority.append(entry)
        else:
            entry.counted = True
            self.queues.setdefault(entry.source, []).append(entry)

    def _name(self, entry: Pending) -> None:
        entry.named = True
        if entry.place is Place.QUEUED:
            entry.place = Place.PRIORITY
            entry.counted = False
            self.queues[entry.source].remove(entry)
            self.priority.append(entry)

    def drop_source(self, source: int) -> None:
        """As `RequestPool.drop_source`."""
        self.room.drop_source(source)
        for entry in list(self.queues.get(source, [])):
            self._discard(entry)
        self.queues.pop(source, None)
        for entry in self.by_digest.values():
            entry.counted = entry.counted and entry.source != source
        self.sources.discard(source)
        self.keys.pop(source, None)
        self.outbox.pop(source, None)

    def pass_time(self, now: int) -> None:
        """As `RequestPool.pass_time`."""
        self.room.pass_time(now)

    # --- verification

    def take_unverified(self, most: int) -> list[Pending]:
        """The next requests to verify: named ones, then one of each source in turn."""
        job: list[Pending] = []
        while len(job) < most and (self.priority or self.queues):
            if self.priority:
                entry = self.priority.pop(0)
            else:
                source = next(iter(self.queues))
                queue = self.queues.pop(source)
                if not queue:
                    continue
                entry = queue.pop(0)
                if queue:
                    self.queues[source] = queue
            entry.place = Place.AT_VERIFIER
            job.append(entry)
        return job

    def apply_verdicts(self, job: list[Pending], mask: bytes, reasons: bytes = b"") -> list[tuple[int, int]]:
        """As `RequestPool.apply_verdicts`."""
        bad: dict[int, int] = {}
        texts = iter(result_list(reasons))
        for entry, verdict in zip(job, mask, strict=True):
            reason = next(texts, b"") if verdict > 1 else b""
            if self.by_digest.get(entry.digest) is not entry:
                continue
            if verdict == 1:
                self._accept(entry)
            else:
                self._reject(entry, native.REJECTED if verdict else native.BAD_SIGNATURE, reason)
            if verdict == 0:
                bad[entry.source] = bad.get(entry.source, 0) + 1
        return list(bad.items())

    def _reject(self, entry: Pending, status: int, reason: bytes = b"") -> None:
        self._discard(entry)
        if status == native.OVERLOADED:
            self._remember_holders(entry)
        self._refuse(entry.route, entry.digest, status, reason)

    def _accept(self, entry: Pending) -> None:
        entry.counted = False
        if self._vouched(entry):
            self._enter(entry)
        else:
            entry.place = Place.UNVOUCHED
            self.room.make_idle(entry)

    def _enter(self, entry: Pending) -> None:
        """The request is authentic: it competes for its number, and its session for a place."""
        session = self.table.sessions[entry.id]
        entry.place = Place.VERIFIED
        rivals = session.pending[entry.number]
        beaten = any(other.verified for other in rivals if other is not entry)
        if self.rules.members and (not beaten or entry.named or self._held_by_others(entry)):
            self._announce(entry)
            return
        if beaten:
            if entry.named:
                self.room.make_idle(entry)
            else:
                self._discard(entry)
            self._advance(session)  # there may be a place for it only now
            return
        rivals.remove(entry)
        rivals.insert(0, entry)
        for other in rivals[1:]:
            if not other.named:
                self._detach(other)
        self._take_turn(entry)

    def _take_turn(self, entry: Pending) -> None:
        """A verified request that enough hold is ready if all before it are; and refused if there is no place for its
        session, unless a proposal names it.
        """
        session = self.table.sessions[entry.id]
        placed = self._advance(session)
        if entry.place is not Place.VERIFIED:
            return
        if not placed and not entry.named and session.proposable(session.ordered + 1) is entry:
            self._reject(entry, native.OVERLOADED)
        else:
            self.room.make_idle(entry)

    def _reserve(self, session: Session) -> bool:
        key = session.id[0]
        waiting = sum(1 for _ in self.table.standing(Standing.WAITING))
        may = self.table.has_room(self.now, waiting) and self.table.key_has_room(
            key, self.now, len(self.table.waiting_of_key(key))
        )
        if may:
            session.standing = Standing.WAITING
        return may

    # --- requests without signatures

    def _parse(self, data: bytes, source: int) -> list[tuple[bytes, SessionId, int]]:
        """As `parse`; where requests carry no signatures there are zeros, and the client has proven its key."""
        parsed = parse(data, self.rules.max_operation_bytes)
        if self.rules.members:
            for request, id, _ in parsed:
                if any(request[-SIGNATURE_BYTES:]) or (source != NO_SOURCE and self.keys.get(source) != id[0]):
                    raise MalformedMessage("a signed request, or one of another client")
        return parsed

    def _wanted(self, digest: bytes) -> bool:
        """Whether a request counts that no client sent here."""
        return not self.rules.members or len(self.announcements.members(digest)) >= self.rules.weak

    def _vouched(self, entry: Pending) -> bool:
        vouched = entry.own or self.rules.member in entry.holders or len(entry.holders) >= self.rules.weak
        return vouched or not self.rules.members

    def _remember_holders(self, entry: Pending) -> None:
        """A request gives way. We may have announced it: if a proposal names it, nobody has to vouch for it again."""
        if self.rules.members:
            own = {self.rules.member} if self._vouched(entry) else set()
            self.announcements.put_back(entry.digest, entry.holders | own)

    def _held_by_others(self, entry: Pending) -> bool:
        return len(entry.holders - {self.rules.member}) >= self.rules.weak

    def _heard_from_client(self, entry: Pending) -> None:
        if self.rules.members:
            entry.own = True
            if entry.place is Place.UNVOUCHED:
                self._enter(entry)
            elif entry.place is Place.ANNOUNCED:
                self._say(entry)

    def _announce(self, entry: Pending) -> None:
        """A vouched request waits for the announcements of others, or competes for its number."""
        entry.holders.add(self.rules.member)
        self._say(entry)
        if len(entry.holders) >= self.rules.strong:
            self._compete(entry)
            return
        session = self.table.sessions[entry.id]
        if session.candidate(entry.number) is None:
            self._put_first(session, entry)
        entry.place = Place.ANNOUNCED
        self.announced.append(entry)
        self.room.make_idle(entry)
        self._advance(session)

    def _compete(self, entry: Pending) -> None:
        session = self.table.sessions[entry.id]
        if session.proposable(entry.number) in (None, entry):
            self._put_first(session, entry)
        self._take_turn(entry)

    def _put_first(self, session: Session, entry: Pending) -> None:
        session.pending[entry.number].remove(entry)
        session.pending[entry.number].insert(0, entry)

    def _say(self, entry: Pending) -> None:
        if entry not in self.unsaid:
            self.unsaid.append(entry)
