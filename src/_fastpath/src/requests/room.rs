//! Room in the pool: what cannot be proposed, who gives way when the pool is full, and what goes as time passes.
//!
//! A request is *idle* if it is verified and could not be proposed: a gap is before it, too few members hold it, or its
//! session has no place. Idle requests give way first, those of the connection or member that has most of them, and last
//! for a while only: nobody keeps room, or a place, for what can never be ordered.
//!
//! If that is not enough, the request of a light connection pushes out the newest one of the heaviest connection, and else
//! the request of a light client key the newest one of the heaviest key (the *longest queue drop* of buffer sharing). What
//! members pass on has a small share of its own that no client can take: what the others could propose can always be had.

use super::pool::RequestPool;
use super::slab::NONE;
use super::sources::{FROM_MEMBER, NO_SOURCE};
use crate::wire::{status, KEY_BYTES, REQUEST_OVERHEAD_BYTES};

/// Link number of an entry among all idle ones.
pub const IDLE: usize = 4;
/// Link number of an entry among the idle ones of its connection or member.
pub const IDLE_BY_SOURCE: usize = 5;

/// This part of the pool is guaranteed to each member: all of them together have at most half of it.
const MEMBERS_PART: u64 = 128;
/// Sessions that lapse unopened are looked for so often in a lease.
const LOOKS_PER_LEASE: u64 = 64;

/// Who wants room.
pub struct Newcomer<'a> {
    pub owner: u64,
    pub key: &'a [u8; KEY_BYTES],
    pub bytes: usize,
    /// All numbers of its session before it are here.
    pub in_line: bool,
}

/// A request weighs its bytes in the share of its owner, and so much more: what the place of one costs where both limits on
/// the pool are reached at once.
pub fn place_weight(max_bytes: usize, max_requests: usize) -> u64 {
    (max_bytes / max_requests).max(1) as u64
}

/// What each member is guaranteed: room for its oldest request at least, as those are passed on first.
pub fn guaranteed(max_bytes: usize, max_requests: usize, max_operation_bytes: usize) -> u64 {
    let largest = (REQUEST_OVERHEAD_BYTES + max_operation_bytes) as u64 + place_weight(max_bytes, max_requests);
    (2 * max_bytes as u64 / MEMBERS_PART).max(largest)
}

impl RequestPool {
    fn weight(&self, bytes: usize) -> u64 {
        bytes as u64 + self.place_weight
    }

    /// Counts a new request in the shares of its source and its key.
    pub(super) fn charge(&mut self, slot: u32, owner: u64) {
        let entry = &self.entries[slot];
        if entry.reserve {
            return;
        }
        let (weight, session) = (self.weight(entry.bytes.len()), entry.session);
        self.charge_source(slot, owner, weight);
        self.sessions.shares.add(self.sessions.slab[session].account, &mut self.entries, slot, weight);
    }

    fn charge_source(&mut self, slot: u32, owner: u64, weight: u64) {
        let source = self.sources.register(owner);
        let entry = &mut self.entries[slot];
        (entry.account, entry.idle_account) = (source.account, source.idle_account);
        self.sources.shares.add(entry.account, &mut self.entries, slot, weight);
    }

    pub(super) fn discharge(&mut self, slot: u32) {
        let entry = &self.entries[slot];
        if entry.reserve {
            return;
        }
        let (weight, session) = (self.weight(entry.bytes.len()), entry.session);
        let (account, idle_account) = (entry.account, entry.idle_account);
        self.leave_idle(slot);
        self.sources.take(account, idle_account, &mut self.entries, slot, weight);
        self.sessions.shares.remove(self.sessions.slab[session].account, &mut self.entries, slot, weight);
    }

    /// A request that is here comes again from somebody else: it counts in the lighter share, and a member's counts there
    /// as far as that is guaranteed.
    pub(super) fn charge_again(&mut self, slot: u32, owner: u64) {
        if self.entries[slot].reserve || owner == NO_SOURCE {
            return;
        }
        let account = self.sources.register(owner).account;
        let (before, weight) = (self.entries[slot].account, self.weight(self.entries[slot].bytes.len()));
        let shares = &self.sources.shares;
        let moves = account != before
            && if owner < FROM_MEMBER {
                shares.rank_with(account, weight) < shares.rank_with(before, 0)
            } else {
                shares.is_guaranteed(account, weight)
            };
        if !moves {
            return;
        }
        let entry = &self.entries[slot];
        let (idle, idle_account) = (entry.idle_since.is_some(), entry.idle_account);
        if idle {
            self.sources.idle_shares.remove(idle_account, &mut self.entries, slot, weight);
        }
        self.sources.take(before, idle_account, &mut self.entries, slot, weight);
        self.charge_source(slot, owner, weight);
        if idle {
            let idle_account = self.entries[slot].idle_account;
            self.sources.idle_shares.add(idle_account, &mut self.entries, slot, weight);
        }
    }

    /// A verified request that could not be proposed now.
    pub(super) fn make_idle(&mut self, slot: u32) {
        let entry = &self.entries[slot];
        if entry.reserve || entry.idle_since.is_some() {
            return;
        }
        let (account, weight) = (entry.idle_account, self.weight(entry.bytes.len()));
        self.entries[slot].idle_since = Some(self.now);
        self.idle.push_back(&mut self.entries, slot);
        self.sources.idle_shares.add(account, &mut self.entries, slot, weight);
    }

    /// The request could be proposed now, or goes.
    pub(super) fn leave_idle(&mut self, slot: u32) {
        if self.entries[slot].idle_since.take().is_none() {
            return;
        }
        let (account, weight) = (self.entries[slot].idle_account, self.weight(self.entries[slot].bytes.len()));
        self.idle.remove(&mut self.entries, slot);
        self.sources.idle_shares.remove(account, &mut self.entries, slot, weight);
    }

    /// Whether there is room, after others have given way if need be.
    pub(super) fn make_room(&mut self, newcomer: &Newcomer) -> bool {
        while !self.load.fits(newcomer.bytes, &self.config) {
            let slot = match self.sources.idle_shares.heaviest() {
                Some((_, requests)) => requests.head,
                None if newcomer.in_line => match self.heavier_than(newcomer) {
                    Some(slot) => slot,
                    None => return false,
                },
                None => return false,
            };
            self.give_way(slot, status::OVERLOADED);
        }
        true
    }

    /// The newest request of a connection, or else a key, that has far more here than the newcomer's.
    fn heavier_than(&mut self, newcomer: &Newcomer) -> Option<u32> {
        let weight = self.weight(newcomer.bytes);
        let account = self.sources.register(newcomer.owner).account;
        let own = self.sources.shares.rank_with(account, weight);
        let (rank, requests) = self.sources.shares.heaviest()?;
        if own + 1 < rank {
            return Some(requests.tail);
        }
        let (rank, requests) = self.sessions.shares.heaviest()?;
        let of_key = match self.sessions.account_of(newcomer.key) {
            Some(account) => self.sessions.shares.rank_with(account, weight),
            None => (u64::BITS - weight.leading_zeros()) as usize,
        };
        let charged = self.entries[requests.tail].account;
        (of_key + 1 < rank && own <= self.sources.shares.rank_with(charged, 0)).then_some(requests.tail)
    }

    fn give_way(&mut self, slot: u32, status: u8) {
        let entry = self.discard(slot);
        self.remember_holders(&entry);
        self.counters.evicted += 1;
        self.tell_refused(entry.route, &entry.digest, status, &[]);
    }

    /// The clock shows this now: what has been idle for long goes, and so do sessions that can no longer be opened.
    pub fn pass_time(&mut self, now: u64) {
        // One that was set forward may be set back, but it is never before the agreed time.
        self.now = now.max(self.agreed_time);
        while self.idle.head != NONE {
            let slot = self.idle.head;
            let since = self.entries[slot].idle_since.map_or(self.now, |since| since.min(self.now));
            self.entries[slot].idle_since = Some(since);
            if since.saturating_add(self.config.max_idle) >= self.now {
                break;
            }
            self.give_way(slot, status::OVERLOADED);
        }
        self.end_unopened();
    }

    fn end_unopened(&mut self) {
        let pause = self.config.sessions.lease / LOOKS_PER_LEASE;
        if self.now >= self.looked_at && self.now - self.looked_at < pause {
            return;
        }
        self.looked_at = self.now;
        let next = (self.agreed_time > 0).then(|| self.agreed_time.saturating_add(1));
        for session in self.sessions.lapsed_unopened(self.now, next) {
            self.evict_session(session, status::SESSION_REFUSED);
        }
    }
}
