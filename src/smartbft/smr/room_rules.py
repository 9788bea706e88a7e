"""The rules of room in the request pool, in plain Python: part of the oracle, see `pool_rules`.

A request is *idle* if it is verified and could not be proposed: a gap is before it, too few members hold it, or its
session has no place. Idle requests give way first, those of the connection or member that has most of them, and last
for a while only. If that is not enough, the request of a light connection pushes out the newest one of the heaviest
connection, and else the request of a light client key the newest one of the heaviest key (the *longest queue drop* of
buffer sharing). What members pass on has a small share of its own that nobody can take.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smartbft._fastpath import pool as native
from smartbft.limits import REQUEST_OVERHEAD_BYTES
from smartbft.smr.sessions import Account, Pending, Place, PoolRules, Session, Standing

if TYPE_CHECKING:
    from smartbft.smr.pool_reception import Reception

MEMBERS_PART = 128  # this part of the pool is guaranteed to each member
LOOKS_PER_LEASE = 64  # how often sessions that lapse unopened are looked for in a lease
GONE = 63  # the rank of who is gone


@dataclass(frozen=True)
class Newcomer:
    """A request that wants room, and whether all numbers of its session before it are here."""

    owner: int
    key: bytes
    size: int
    in_line: bool


class Shares:
    """Accounts by rank: the bit length of what each uses. Of those with one rank, who has had it longest is first."""

    def __init__(self, rules: PoolRules) -> None:
        self.rules = rules
        self.order: list[Account] = []

    def rank(self, account: Account, more: int = 0) -> int:
        """The rank that an account would have with so much more."""
        if account.gone:
            return GONE
        used = sum(weight(self.rules, len(entry.request)) for entry in account.entries)
        return min(max(0, used + more - account.guaranteed).bit_length(), GONE - 1)

    def add(self, account: Account, entry: Pending) -> None:
        """One request more."""
        account.entries.append(entry)
        self.settle(account)

    def remove(self, account: Account, entry: Pending) -> None:
        """One request less."""
        account.entries.remove(entry)
        self.settle(account)

    def settle(self, account: Account) -> None:
        """Something has changed."""
        rank = self.rank(account) if account.entries else 0
        if rank != account.rank:
            account.rank = rank
            if account in self.order:
                self.order.remove(account)
            self.order.append(account)

    def heaviest(self) -> Account | None:
        """The first account of the highest rank; None if nobody uses more than is guaranteed."""
        first = max(self.order, key=lambda account: account.rank, default=None)
        return first if first is not None and first.rank > 0 else None


def weight(rules: PoolRules, size: int) -> int:
    """What a request weighs: its bytes, and what a place costs where both limits are reached at once."""
    return size + max(1, rules.max_bytes // rules.max_requests)


def guaranteed(rules: PoolRules) -> int:
    """What each member is guaranteed: one request at least."""
    largest = weight(rules, REQUEST_OVERHEAD_BYTES + rules.max_operation_bytes)
    return max(2 * rules.max_bytes // MEMBERS_PART, largest)


class Room:
    """Who has how much of a `PoolOracle`, and who gives way."""

    def __init__(self, pool: Reception) -> None:
        self.pool = pool
        self.rules = pool.rules
        self.by_source, self.by_key, self.idle_by_source = (Shares(self.rules) for _ in range(3))
        self.sources: dict[int, Account] = {}
        self.keys: dict[bytes, Account] = {}
        self.idle: list[Pending] = []
        self.looked_at = 0
        self.evicted = 0

    # --- accounts

    def _source(self, owner: int) -> Account:
        share = guaranteed(self.rules) if owner >= native.FROM_MEMBER else 0
        return self.sources.setdefault(owner, Account(share, idle=Account(0)))

    def _key(self, key: bytes) -> Account:
        return self.keys.setdefault(key, Account(0))

    def charge(self, entry: Pending, owner: int) -> None:
        """A new request counts in the shares of its source and its key; a body that a proposal names does not."""
        if not entry.reserve:
            self._charge_source(entry, owner)
            self.by_key.add(self._key(entry.id[0]), entry)

    def _charge_source(self, entry: Pending, owner: int) -> None:
        entry.account = self._source(owner)
        self.by_source.add(entry.account, entry)

    def discharge(self, entry: Pending) -> None:
        """The request is gone."""
        if entry.account is not None:
            self.leave_idle(entry)
            self.by_source.remove(entry.account, entry)
            self.by_key.remove(self._key(entry.id[0]), entry)

    def charge_again(self, entry: Pending, owner: int) -> None:
        """A request that is here comes again: it counts in the lighter share, and a member's as far as guaranteed."""
        before = entry.account
        if before is None or owner == 0 or before is self._source(owner):
            return
        account, more = self._source(owner), weight(self.rules, len(entry.request))
        if owner < native.FROM_MEMBER:
            moves = self.by_source.rank(account, more) < self.by_source.rank(before)
        else:
            moves = self.by_source.rank(account, more) == 0
        if moves:
            idle = entry.idle_since is not None
            if idle:
                self.idle_by_source.remove(before.of_idle, entry)
            self.by_source.remove(before, entry)
            self._charge_source(entry, owner)
            if idle:
                self.idle_by_source.add(account.of_idle, entry)

    def drop_source(self, source: int) -> None:
        """The connection is gone: what is left of its requests gives way before others."""
        account = self.sources.pop(source, None)
        if account is not None:
            account.gone = True
            self.by_source.settle(account)

    # --- idle requests

    def make_idle(self, entry: Pending) -> None:
        """A verified request that could not be proposed."""
        if entry.account is not None and entry.idle_since is None:
            entry.idle_since = self.pool.now
            self.idle.append(entry)
            self.idle_by_source.add(entry.account.of_idle, entry)

    def leave_idle(self, entry: Pending) -> None:
        """It could be proposed now, or goes."""
        if entry.account is not None and entry.idle_since is not None:
            entry.idle_since = None
            self.idle.remove(entry)
            self.idle_by_source.remove(entry.account.of_idle, entry)

    # --- who gives way

    def make(self, newcomer: Newcomer) -> bool:
        """Whether there is room, after others have given way if need be."""
        while not self.pool._fits(newcomer.size, reserve=False):
            idle = self.idle_by_source.heaviest()
            if idle is not None:
                victim = idle.entries[0]
            else:
                heavier = self._heavier_than(newcomer) if newcomer.in_line else None
                if heavier is None:
                    return False
                victim = heavier
            self._give_way(victim)
        return True

    def _heavier_than(self, newcomer: Newcomer) -> Pending | None:
        more = weight(self.rules, newcomer.size)
        own = self.by_source.rank(self._source(newcomer.owner), more)
        source = self.by_source.heaviest()
        if source is None or own + 1 < source.rank:
            return source.entries[-1] if source is not None else None
        key = self.by_key.heaviest()
        if key is None or self.by_key.rank(self._key(newcomer.key), more) + 1 >= key.rank:
            return None
        victim = key.entries[-1]
        return victim if victim.account is not None and own <= victim.account.rank else None

    def _give_way(self, entry: Pending) -> None:
        self.pool._discard(entry)
        self.pool._remember_holders(entry)
        self.pool._refuse(entry.route, entry.digest, native.OVERLOADED)
        self.evicted += 1

    # --- time

    def pass_time(self, now: int) -> None:
        """As `RequestPool.pass_time`."""
        pool = self.pool
        pool.now = max(pool.agreed_time, now)  # a clock that was set forward may be set back
        while self.idle:
            entry = self.idle[0]
            since = min(pool.now if entry.idle_since is None else entry.idle_since, pool.now)
            entry.idle_since = since
            if since + self.rules.max_idle >= pool.now:
                break
            self._give_way(entry)
        if not 0 <= pool.now - self.looked_at < self.rules.lease // LOOKS_PER_LEASE:
            self.looked_at = pool.now
            for session in self._lapsed_unopened():
                self.end(session, native.SESSION_REFUSED)

    def _lapsed_unopened(self) -> list[Session]:
        """Sessions that can be opened neither by our clock nor by the next batch, whatever clocks show."""
        pool, found = self.pool, []
        for standing in (Standing.WAITING, Standing.UNPLACED):
            for session in sorted(pool.table.standing(standing), key=lambda one: (one.id[1], one.id[0])):
                number = session.id[1]
                next_may = pool.agreed_time > 0 and pool.table.admissible(number, pool.agreed_time + 1)
                if number < pool.now - self.rules.lease and not next_may:
                    found.append(session)
        return found

    def end(self, session: Session, status: int) -> None:
        """A session that is not open loses its place, and what no proposal names of its requests."""
        pool = self.pool
        for entry in session.all_pending():
            if not entry.named:
                pool._detach(entry)
                pool._remember_holders(entry)
                pool._refuse(entry.route, entry.digest, status)
                self.evicted += 1
            elif entry.place is Place.READY:
                pool.ready_list.remove(entry)
                entry.place = Place.VERIFIED
                self.make_idle(entry)
        if session.id in pool.ring:
            pool.ring.remove(session.id)
        session.standing = Standing.UNPLACED
        session.received = session.ordered
        pool._forget_if_empty(session)
