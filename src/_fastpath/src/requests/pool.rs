//! The pool's state, and how a pending request changes place in it.

use std::collections::VecDeque;
use std::sync::Arc;

use super::holds::{Holds, Vouching};
use super::index::Map;
use super::room::{guaranteed, place_weight, IDLE};
use super::sessions::{Session, SessionLimits, SessionTable, Standing, SIBLINGS};
use super::slab::{Link, Linked, List, Slab, NONE, UNLINKED};
use super::sources::{Sources, NO_SOURCE, PLACE};
use crate::wire::{status, Digest, Domains, ReplyHeader, REQUEST_OVERHEAD_BYTES};

/// The caller called in the wrong state or with arguments that do not fit together.
#[derive(Debug, PartialEq, Eq)]
pub struct Misuse(pub String);

#[derive(Clone, Copy)]
pub struct PoolConfig {
    pub replica: u16,
    pub window: u64,
    pub max_requests: usize,
    pub max_bytes: usize,
    pub max_operation_bytes: usize,
    pub max_unverified_per_source: usize,
    pub admit_unverified: bool,
    /// How long a request stays that is verified and could not be proposed, microseconds.
    pub max_idle: u64,
    /// Requests carry no signatures: members vouch for them.
    pub vouching: Option<Vouching>,
    pub sessions: SessionLimits,
}

/// Where a pending request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In its source's verification queue.
    Queued,
    /// In the verification queue of requests that a proposal names.
    Priority,
    AtVerifier,
    /// Checked, but nobody vouches for it yet.
    Unvouched,
    /// Vouched for and announced, but held by fewer than `2f + 1`.
    Announced,
    /// Verified, but it could not be proposed: a gap before it, another one with its number, or no place for its session.
    Verified,
    /// Verified, and could be proposed.
    Ready,
}

pub struct Entry {
    pub digest: Digest,
    pub bytes: Arc<[u8]>,
    pub session: u32,
    pub number: u64,
    /// The connection that answers for it if the signature is bad.
    pub owner: u64,
    /// The connection that its reply goes to.
    pub route: u64,
    pub arrival: u64,
    pub ready_at: u64,
    pub place: Place,
    /// Counted in its owner's share of unverified requests, in this epoch of the owner; 0: not counted.
    pub counted: u64,
    /// Named by a proposal: kept beside another request with its number.
    pub named: bool,
    /// Accounted to the reserve for bodies, not to the pool.
    pub reserve: bool,
    /// The client itself sent it, on a connection that proves its key.
    pub own: bool,
    /// The members that hold it, a bit each.
    pub holders: u64,
    /// Waits to be announced.
    pub unsaid: bool,
    /// Tells which of two came first.
    pub stamp: u64,
    /// The accounts of its connection or member: of all that it has here, and of what could not be proposed.
    pub account: u32,
    pub idle_account: u32,
    /// Since when it could not be proposed, although it is verified.
    pub idle_since: Option<u64>,
    pub links: [Link; LINKS],
}

impl Linked for Entry {
    fn link(&self, which: usize) -> &Link {
        &self.links[which]
    }

    fn link_mut(&mut self, which: usize) -> &mut Link {
        &mut self.links[which]
    }
}

impl Entry {
    pub fn is_verified(&self) -> bool {
        matches!(self.place, Place::Announced | Place::Verified | Place::Ready)
    }

    /// Verified, and held by enough.
    pub fn is_proposable(&self) -> bool {
        matches!(self.place, Place::Verified | Place::Ready)
    }
}

/// Number and bytes of pending requests under one limit.
#[derive(Clone, Copy, Default)]
pub struct Load {
    pub requests: usize,
    pub bytes: usize,
}

impl Load {
    fn add(&mut self, bytes: usize) {
        self.requests += 1;
        self.bytes += bytes;
    }

    fn remove(&mut self, bytes: usize) {
        self.requests -= 1;
        self.bytes -= bytes;
    }

    pub fn fits(&self, bytes: usize, config: &PoolConfig) -> bool {
        self.requests < config.max_requests && self.bytes + bytes <= config.max_bytes
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Verified, but could not be proposed.
    pub idle: u64,
    /// Gave way to others, or were here for too long without being proposable.
    pub evicted: u64,
    /// Whether the largest request has no room before others give way.
    pub full: bool,
    pub pending: u64,
    pub verified: u64,
    pub unverified: u64,
    pub bytes: u64,
    pub sessions: u64,
    pub admitted: u64,
    pub duplicates: u64,
    pub bad_signatures: u64,
    pub refused: u64,
    pub signature_checks: u64,
}

pub struct RequestPool {
    pub(super) config: PoolConfig,
    pub(super) domains: Domains,
    pub(super) entries: Slab<Entry>,
    pub(super) digests: Map<Digest, u32>,
    pub(super) sessions: SessionTable,
    pub(super) sources: Sources,
    pub(super) priority: List<PLACE>,
    /// Ready requests in the order in which they became ready; `ready_at` never falls along it.
    pub(super) ready: List<PLACE>,
    pub(super) ready_clock: u64,
    /// Vouched requests that fewer than `2f + 1` hold.
    pub(super) announced: List<PLACE>,
    pub(super) holds: Holds,
    /// Verified requests that could not be proposed, in the order in which they came to that.
    pub(super) idle: List<IDLE>,
    /// When sessions that lapsed unopened were looked for.
    pub(super) looked_at: u64,
    /// What a request weighs beside its bytes.
    pub(super) place_weight: u64,
    pub(super) stamps: u64,
    pub(super) load: Load,
    /// Bodies named by proposals have room of their own, so that a full pool cannot keep a proposal out.
    pub(super) reserve_load: Load,
    pub(super) reserve: VecDeque<(u32, u32)>,
    pub(super) unverified: usize,
    pub(super) unvouched: usize,
    pub(super) agreed_time: u64,
    /// The latest time seen, local or agreed.
    pub(super) now: u64,
    pub(super) accepting: bool,
    /// The last instances decided and executed since the pool was made or sessions were imported; 0: none.
    pub(super) decided_instance: u64,
    pub(super) executed_instance: u64,
    /// View and instance that refusals name.
    pub(super) last_view: u32,
    pub(super) last_instance: u64,
    pub(super) counters: Stats,
}

impl RequestPool {
    pub fn new(chain_id: &[u8], config: PoolConfig) -> Self {
        RequestPool {
            config,
            domains: Domains::new(chain_id),
            entries: Slab::default(),
            digests: Map::default(),
            sessions: SessionTable::new(config.sessions),
            sources: Sources::new(guaranteed(config.max_bytes, config.max_requests, config.max_operation_bytes)),
            priority: List::default(),
            ready: List::default(),
            ready_clock: 0,
            announced: List::default(),
            holds: Holds::default(),
            idle: List::default(),
            looked_at: 0,
            place_weight: place_weight(config.max_bytes, config.max_requests),
            stamps: 0,
            load: Load::default(),
            reserve_load: Load::default(),
            reserve: VecDeque::new(),
            unverified: 0,
            unvouched: 0,
            agreed_time: 0,
            now: 0,
            accepting: true,
            decided_instance: 0,
            executed_instance: 0,
            last_view: 0,
            last_instance: 0,
            counters: Stats::default(),
        }
    }

    pub fn config(&self) -> &PoolConfig {
        &self.config
    }

    pub fn domains(&self) -> &Domains {
        &self.domains
    }

    pub fn agreed_time(&self) -> u64 {
        self.agreed_time
    }

    pub fn set_accepting(&mut self, accepting: bool) {
        self.accepting = accepting;
    }

    pub fn ready(&self) -> usize {
        self.ready.len as usize
    }

    pub fn stats(&self) -> Stats {
        let pending = self.entries.len();
        Stats {
            pending: pending as u64,
            verified: (pending - self.unverified - self.unvouched) as u64,
            unverified: self.unverified as u64,
            bytes: (self.load.bytes + self.reserve_load.bytes) as u64,
            sessions: self.sessions.open_count() as u64,
            idle: u64::from(self.idle.len),
            full: !self.load.fits(REQUEST_OVERHEAD_BYTES + self.config.max_operation_bytes, &self.config),
            ..self.counters
        }
    }

    pub(super) fn insert(&mut self, mut entry: Entry) -> u32 {
        let (session, number, digest, bytes) = (entry.session, entry.number, entry.digest, entry.bytes.len());
        self.stamps += 1;
        entry.stamp = self.stamps;
        let owner = entry.owner;
        let load = if entry.reserve { &mut self.reserve_load } else { &mut self.load };
        load.add(bytes);
        self.unverified += 1;
        let slot = self.entries.insert(entry);
        self.digests.insert(digest, slot);
        self.charge(slot, owner);
        let session = &mut self.sessions.slab[session];
        session.pending += 1;
        session.candidates_mut(number).list.push_back(&mut self.entries, slot);
        slot
    }

    /// Takes a verified-on-arrival, checked or named entry out of whichever queue it is in.
    pub(super) fn leave_place(&mut self, slot: u32) {
        let entry = &self.entries[slot];
        let (place, owner) = (entry.place, entry.owner);
        match place {
            Place::Queued => {
                if let Some(source) = self.sources.get_mut(owner) {
                    source.queue.remove(&mut self.entries, slot);
                }
            }
            Place::Priority => self.priority.remove(&mut self.entries, slot),
            Place::Ready => self.ready.remove(&mut self.entries, slot),
            Place::Announced => self.announced.remove(&mut self.entries, slot),
            Place::AtVerifier | Place::Unvouched | Place::Verified => {}
        }
    }

    /// Its source no longer answers for it.
    pub(super) fn uncount(&mut self, slot: u32) {
        let entry = &mut self.entries[slot];
        let epoch = std::mem::take(&mut entry.counted);
        if epoch != 0 {
            self.sources.uncount(entry.owner, epoch);
        }
    }

    /// Removes an entry; the session's cursors are the caller's business.
    pub(super) fn detach(&mut self, slot: u32) -> Entry {
        self.leave_place(slot);
        self.uncount(slot);
        self.discharge(slot);
        let entry = &self.entries[slot];
        let (session, number) = (entry.session, entry.number);
        let session = &mut self.sessions.slab[session];
        session.pending -= 1;
        if let Ok(at) = session.position(number) {
            session.numbers[at].list.remove(&mut self.entries, slot);
            if session.numbers[at].list.is_empty() {
                session.numbers.remove(at);
            }
        }
        let entry = self.entries.remove(slot);
        self.digests.remove(&entry.digest);
        let load = if entry.reserve { &mut self.reserve_load } else { &mut self.load };
        load.remove(entry.bytes.len());
        match entry.place {
            Place::Unvouched => self.unvouched -= 1,
            _ if !entry.is_verified() => self.unverified -= 1,
            _ => {}
        }
        entry
    }

    /// Removes an entry for another reason than a decision, with what follows for its session.
    pub(super) fn discard(&mut self, slot: u32) -> Entry {
        let (session, number) = (self.entries[slot].session, self.entries[slot].number);
        if self.entries[slot].place == Place::Ready {
            self.retreat(session, number);
        }
        let entry = self.detach(slot);
        // Only then: whoever sends many bad copies of one number must not make us look through them for each.
        if entry.is_verified() {
            self.promote_candidate(session, number);
            self.advance(session);
        }
        self.settle_session(session);
        entry
    }

    /// The verified candidates from `number` on are no longer ready.
    pub(super) fn retreat(&mut self, session: u32, number: u64) {
        let received = self.sessions.slab[session].received;
        for number in number..=received {
            if let Some(slot) = self.proposable_candidate(session, number) {
                self.ready.remove(&mut self.entries, slot);
                self.entries[slot].place = Place::Verified;
                self.make_idle(slot);
            }
        }
        self.sessions.slab[session].received = number - 1;
    }

    /// Puts a verified candidate first if there is one.
    pub(super) fn promote_candidate(&mut self, session: u32, number: u64) {
        let Some(candidates) = self.sessions.slab[session].candidates(number) else {
            return;
        };
        let slots = candidates.list.slots(&self.entries);
        let best = slots.iter().find(|slot| self.entries[**slot].is_proposable());
        if let Some(slot) = best.or_else(|| slots.iter().find(|slot| self.entries[**slot].is_verified())) {
            self.put_first(*slot);
        }
    }

    pub(super) fn put_first(&mut self, slot: u32) {
        let (session, number) = (self.entries[slot].session, self.entries[slot].number);
        let list = &mut self.sessions.slab[session].candidates_mut(number).list;
        list.remove(&mut self.entries, slot);
        list.push_front(&mut self.entries, slot);
    }

    /// The request that this replica would propose for a number.
    pub(super) fn proposable_candidate(&self, session: u32, number: u64) -> Option<u32> {
        self.verified_candidate(session, number).filter(|slot| self.entries[*slot].is_proposable())
    }

    /// A verified request with a number; if any can be proposed, one of these.
    pub(super) fn verified_candidate(&self, session: u32, number: u64) -> Option<u32> {
        let slot = self.sessions.slab[session].candidates(number)?.list.head;
        (slot != NONE && self.entries[slot].is_verified()).then_some(slot)
    }

    /// Moves the received cursor over what has become reachable without a gap. False: the session's first request could be
    /// proposed, but there is no place for it.
    pub(super) fn advance(&mut self, session: u32) -> bool {
        if self.sessions.slab[session].standing == Standing::Unplaced {
            let first = self.sessions.slab[session].ordered + 1;
            if self.proposable_candidate(session, first).is_none() {
                return true;
            }
            if !self.sessions.reserve(session, self.now) {
                return false;
            }
        }
        loop {
            let number = self.sessions.slab[session].received + 1;
            let Some(slot) = self.proposable_candidate(session, number) else {
                break;
            };
            self.leave_idle(slot);
            self.ready_clock = self.ready_clock.max(self.entries[slot].arrival);
            let entry = &mut self.entries[slot];
            entry.ready_at = self.ready_clock;
            entry.place = Place::Ready;
            self.ready.push_back(&mut self.entries, slot);
            self.sessions.slab[session].received = number;
        }
        let state = &self.sessions.slab[session];
        if state.received > state.ordered {
            self.sessions.enter_ring(session);
        } else {
            self.sessions.leave_ring(session);
            self.sessions.demote(session);
        }
        true
    }

    /// A session that is neither open nor has requests is forgotten.
    pub(super) fn settle_session(&mut self, session: u32) {
        let state = &self.sessions.slab[session];
        if !state.is_open() && state.pending == 0 {
            self.sessions.remove(session);
        }
    }

    /// Refuses a request: a reply with this status to `source`, if there is one and it takes its answers.
    pub(super) fn refuse(&mut self, source: u64, digest: &Digest, status: u8) {
        self.counters.refused += 1;
        self.tell_refused(source, digest, status, &[]);
    }

    /// The reply of a refusal, with a reason in the place of a result.
    pub(super) fn tell_refused(&mut self, source: u64, digest: &Digest, status: u8, reason: &[u8]) {
        if source == NO_SOURCE {
            return;
        }
        let agreed_time = if status == status::SESSION_REFUSED { self.now } else { self.agreed_time };
        let header = ReplyHeader {
            replica: self.config.replica,
            status,
            level: 0,
            view: self.last_view,
            instance: self.last_instance,
            agreed_time,
            digest: *digest,
        };
        self.sources.reply_if_room(source, &[&header.encode(), reason].concat());
    }

    /// Drops a session that can no longer be proposed for, refusing its pending requests.
    pub(super) fn drop_session(&mut self, session: u32, status: u8) -> Session {
        for slot in self.pending_slots(session) {
            let entry = self.detach(slot);
            self.refuse(entry.route, &entry.digest, status);
        }
        self.sessions.remove(session)
    }

    /// Drops every session and every pending request, without a word to anybody.
    pub(super) fn clear(&mut self) {
        self.sessions.give_up_capture();
        for session in self.sessions.slots() {
            for slot in self.pending_slots(session) {
                self.detach(slot);
            }
            self.sessions.remove(session);
        }
        self.sessions.forget_ended(u64::MAX);
    }

    /// Takes the place of a session that is not open back: requests that no proposal names are refused.
    pub(super) fn evict_session(&mut self, session: u32, status: u8) {
        for slot in self.pending_slots(session) {
            if !self.entries[slot].named {
                let entry = self.detach(slot);
                self.remember_holders(&entry);
                self.counters.evicted += 1;
                self.tell_refused(entry.route, &entry.digest, status, &[]);
            } else if self.entries[slot].place == Place::Ready {
                self.ready.remove(&mut self.entries, slot);
                self.entries[slot].place = Place::Verified;
                self.make_idle(slot);
            }
        }
        self.sessions.leave_ring(session);
        self.sessions.demote(session);
        let state = &mut self.sessions.slab[session];
        state.received = state.ordered;
        self.settle_session(session);
    }

    fn pending_slots(&self, session: u32) -> Vec<u32> {
        let numbers = &self.sessions.slab[session].numbers;
        numbers.iter().flat_map(|candidates| candidates.list.slots(&self.entries)).collect()
    }
}

/// Lists that an entry can be in: see `PLACE`, `SIBLINGS`, `BY_SOURCE`, `BY_KEY`, `IDLE` and `IDLE_BY_SOURCE`.
const LINKS: usize = 6;

pub(super) fn new_links() -> [Link; LINKS] {
    [UNLINKED; LINKS]
}

/// Number of the sibling link, for lists of entries with one (session, number).
pub(super) type Siblings = List<SIBLINGS>;
