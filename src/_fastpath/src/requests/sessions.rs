//! The session table: which sessions are open, their cursors, their leases and the replies kept for them.
//!
//! An *open* session is replicated state: it was opened by a decision. A *waiting* one has a request here that could be
//! proposed, and a place kept for it; an *unplaced* one has none. Only what could be proposed holds a place: else a client
//! could fill the places of its key at one replica with sessions that never open, and that replica could not propose what
//! all the others wait for. An *ended* one is kept aside: a decision let it lapse whose execution is still to come, so that
//! it belongs to the executed state.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::index::Map;
use super::shares::{Shares, BY_KEY};
use super::slab::{Link, Linked, List, Slab, UNLINKED};
use super::snapshot::session_bytes;
use crate::wire::{Digest, SessionId, KEY_BYTES};

/// Link number of entries with one (session, number).
pub const SIBLINGS: usize = 1;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Unplaced,
    Waiting,
    Open,
}

/// The pending requests with one sequence number. If any is verified, the first in the list is: the one that this
/// replica would propose.
pub struct Candidates {
    pub number: u64,
    pub list: List<SIBLINGS>,
}

/// Where the reply to an ordered request goes when it may leave.
pub struct Route {
    pub digest: Digest,
    pub source: u64,
}

pub struct Session {
    pub id: SessionId,
    pub standing: Standing,
    /// Every number up to here is ordered, or pending, verified and reachable without a gap.
    pub received: u64,
    pub ordered: u64,
    pub executed: u64,
    /// Replies up to here may leave: they have, and leave again when asked for.
    pub released: u64,
    pub last_activity: u64,
    /// Under which time the lease is listed: the start of the lease, or earlier.
    lease_listed: u64,
    /// Pending numbers above `ordered`, ascending.
    pub numbers: VecDeque<Candidates>,
    /// Of the numbers above `released` up to `ordered`, the last ones.
    pub routes: VecDeque<Route>,
    /// Of the numbers up to `executed`, the last ones: whole reply payloads.
    pub replies: VecDeque<Vec<u8>>,
    pub pending: u32,
    /// The share of its client key in the pool.
    pub account: u32,
    pub in_ring: bool,
    ring_link: Link,
    /// The last capture that this session is in already, or that it is too young for.
    captured: u64,
    /// Scratch of a walk over a batch: its requests so far, if `walk` is the current one.
    pub walk: u64,
    pub taken: u64,
}

impl Linked for Session {
    fn link(&self, _: usize) -> &Link {
        &self.ring_link
    }

    fn link_mut(&mut self, _: usize) -> &mut Link {
        &mut self.ring_link
    }
}

impl Session {
    fn new(id: SessionId, account: u32) -> Self {
        Session {
            id,
            account,
            standing: Standing::Unplaced,
            received: 0,
            ordered: 0,
            executed: 0,
            released: 0,
            last_activity: 0,
            lease_listed: 0,
            numbers: VecDeque::new(),
            routes: VecDeque::new(),
            replies: VecDeque::new(),
            pending: 0,
            in_ring: false,
            ring_link: UNLINKED,
            captured: 0,
            walk: 0,
            taken: 0,
        }
    }

    pub fn is_open(&self) -> bool {
        self.standing == Standing::Open
    }

    /// The lease runs from here.
    fn leased_from(&self) -> u64 {
        self.last_activity.max(self.id.number)
    }

    /// Position of a number among the pending ones: `Ok`, or `Err` with where it would be.
    pub fn position(&self, number: u64) -> Result<usize, usize> {
        let Some(first) = self.numbers.front() else {
            return Err(0);
        };
        // Without gaps, which is the usual case, the position is the distance from the first number.
        let guess = number.wrapping_sub(first.number) as usize;
        match self.numbers.get(guess) {
            Some(candidates) if candidates.number == number => Ok(guess),
            _ => self.numbers.binary_search_by_key(&number, |candidates| candidates.number),
        }
    }

    pub fn candidates(&self, number: u64) -> Option<&Candidates> {
        self.position(number).ok().map(|at| &self.numbers[at])
    }

    pub fn candidates_mut(&mut self, number: u64) -> &mut Candidates {
        match self.position(number) {
            Ok(at) => &mut self.numbers[at],
            Err(at) => {
                self.numbers.insert(at, Candidates { number, list: List::default() });
                &mut self.numbers[at]
            }
        }
    }

    /// Position of an ordered number among the routes.
    fn route_position(&self, number: u64) -> Option<usize> {
        let back = self.ordered.checked_sub(number)? as usize;
        self.routes.len().checked_sub(back + 1)
    }

    pub fn route_mut(&mut self, number: u64) -> Option<&mut Route> {
        let at = self.route_position(number)?;
        self.routes.get_mut(at)
    }

    /// The reply to `number` may leave, and so may all before it; returns its route.
    pub fn release(&mut self, number: u64) -> Option<Route> {
        if number <= self.released {
            return None;
        }
        self.released = number;
        let at = self.route_position(number)?;
        self.routes.drain(..at);
        self.routes.pop_front()
    }

    /// The kept reply (the whole payload) to an executed number.
    pub fn reply(&self, number: u64) -> Option<&[u8]> {
        let back = self.executed.checked_sub(number)? as usize;
        let at = self.replies.len().checked_sub(back + 1)?;
        self.replies.get(at).map(Vec::as_slice)
    }
}

/// Sessions of one client key, at most the limit of each kind.
#[derive(Default)]
struct KeyUse {
    open: Vec<u32>,
    waiting: Vec<u32>,
}

#[derive(Clone, Copy)]
pub struct SessionLimits {
    pub max_sessions: usize,
    pub max_sessions_per_key: usize,
    pub lease: u64,
    pub skew: u64,
}

/// Sessions with their bytes in a snapshot.
pub type Written = Vec<(SessionId, Vec<u8>)>;

pub struct SessionTable {
    pub limits: SessionLimits,
    pub slab: Slab<Session>,
    /// Sessions with ready requests, in the order in which they propose next.
    pub ring: List<0>,
    index: Map<SessionId, u32>,
    keys: Map<[u8; KEY_BYTES], KeyUse>,
    /// The share of each client key in the pool; the sessions of a key are its users.
    pub shares: Shares<BY_KEY>,
    accounts: Map<[u8; KEY_BYTES], u32>,
    /// Open sessions by the start of their lease, which may be out of date on the early side (see `settle`).
    leases: BTreeSet<(u64, u32)>,
    /// Leases listed under earlier times than this are up to date.
    settled: u64,
    /// Sessions of the other two standings by session number and key.
    waiting: BTreeMap<(u64, [u8; KEY_BYTES]), u32>,
    unplaced: BTreeMap<(u64, [u8; KEY_BYTES]), u32>,
    /// Sessions that a decision ended which is not executed yet, by that instance: at most what was open at the executed
    /// prefix and what the decisions after it opened.
    ended: Map<SessionId, Session>,
    ended_by: VecDeque<(u64, SessionId)>,
    captures: u64,
    capturing: Option<Capturing>,
    pub walk: u64,
}

/// A capture of the executed sessions that is being written down: a session that is about to change is written first.
#[derive(Default)]
struct Capturing {
    todo: Vec<SessionId>,
    written: Written,
}

impl SessionTable {
    pub fn new(limits: SessionLimits) -> Self {
        SessionTable {
            limits,
            slab: Slab::default(),
            ring: List::default(),
            index: Map::default(),
            keys: Map::default(),
            shares: Shares::default(),
            accounts: Map::default(),
            leases: BTreeSet::new(),
            settled: 0,
            waiting: BTreeMap::new(),
            unplaced: BTreeMap::new(),
            ended: Map::default(),
            ended_by: VecDeque::new(),
            captures: 0,
            capturing: None,
            walk: 0,
        }
    }

    pub fn open_count(&self) -> usize {
        self.leases.len()
    }

    pub fn find(&self, id: &SessionId) -> Option<u32> {
        self.index.get(id).copied()
    }

    pub fn find_or_insert(&mut self, id: SessionId) -> u32 {
        if let Some(slot) = self.find(&id) {
            return slot;
        }
        let account = self.join_account(id.key);
        let slot = self.slab.insert(Session::new(id, account));
        self.index.insert(id, slot);
        self.unplaced.insert((id.number, id.key), slot);
        slot
    }

    fn join_account(&mut self, key: [u8; KEY_BYTES]) -> u32 {
        match self.accounts.get(&key).copied() {
            Some(account) => {
                self.shares.join(account);
                account
            }
            None => {
                let account = self.shares.open(0);
                self.accounts.insert(key, account);
                account
            }
        }
    }

    /// The share of a client key that has sessions here.
    pub fn account_of(&self, key: &[u8; KEY_BYTES]) -> Option<u32> {
        self.accounts.get(key).copied()
    }

    /// Whether a session that is not open may be opened by a batch with this timestamp.
    pub fn admissible(&self, number: u64, timestamp: u64) -> bool {
        number >= timestamp.saturating_sub(self.limits.lease) && number <= timestamp.saturating_add(self.limits.skew)
    }

    /// Whether an open session's lease is over at this time.
    pub fn lapsed(&self, slot: u32, timestamp: u64) -> bool {
        self.slab[slot].leased_from() < timestamp.saturating_sub(self.limits.lease)
    }

    /// Brings the leases that seem to be over at `timestamp` up to date; afterwards those that still are, really are.
    fn settle(&mut self, timestamp: u64) {
        let bound = timestamp.saturating_sub(self.limits.lease);
        if bound <= self.settled {
            return;
        }
        let seeming: Vec<(u64, u32)> = self.leases.range((self.settled, 0)..(bound, 0)).copied().collect();
        for (since, slot) in seeming {
            let leased_from = self.slab[slot].leased_from();
            if leased_from != since {
                self.leases.remove(&(since, slot));
                self.leases.insert((leased_from, slot));
                self.slab[slot].lease_listed = leased_from;
            }
        }
        self.settled = bound;
    }

    /// A request of an open session was ordered: its lease starts again. Where it is listed is put right by `settle`.
    pub fn touch(&mut self, slot: u32, timestamp: u64) {
        let session = &mut self.slab[slot];
        session.last_activity = timestamp;
        self.settled = self.settled.min(session.lease_listed);
    }

    /// Open sessions whose lease is over at `timestamp`.
    pub fn lapsing(&mut self, timestamp: u64) -> Vec<u32> {
        self.settle(timestamp);
        let bound = timestamp.saturating_sub(self.limits.lease);
        self.leases.range(..(bound, 0)).map(|(_, slot)| *slot).collect()
    }

    /// Sessions that are not open and that no batch later than `timestamp` can open.
    pub fn stale(&self, timestamp: u64) -> Vec<u32> {
        let bound = (timestamp.saturating_sub(self.limits.lease), [0; KEY_BYTES]);
        let stale = [&self.waiting, &self.unplaced].map(|sessions| sessions.range(..bound).map(|(_, slot)| *slot));
        stale.into_iter().flatten().collect()
    }

    /// Sessions that are not open, and that batches with these timestamps can not open.
    pub fn lapsed_unopened(&self, now: u64, next: Option<u64>) -> Vec<u32> {
        let bound = (now.saturating_sub(self.limits.lease), [0; KEY_BYTES]);
        let lapsed = [&self.waiting, &self.unplaced].map(|sessions| sessions.range(..bound));
        let may_open = |number| next.is_some_and(|next| self.admissible(number, next));
        lapsed.into_iter().flatten().filter(|((number, _), _)| !may_open(*number)).map(|(_, slot)| *slot).collect()
    }

    /// How many more sessions may be open at `timestamp`, counted up to `most`.
    pub fn room(&mut self, timestamp: u64, most: usize) -> usize {
        let free = self.limits.max_sessions.saturating_sub(self.leases.len());
        if free >= most {
            return most;
        }
        self.settle(timestamp);
        let bound = timestamp.saturating_sub(self.limits.lease);
        free + self.leases.range(..(bound, 0)).take(most - free).count()
    }

    /// Whether one more session may be open at `timestamp`, beside `taken` others that are not open yet.
    pub fn has_room(&mut self, timestamp: u64, taken: usize) -> bool {
        self.room(timestamp, taken + 1) > taken
    }

    /// As `has_room`, for the sessions of one key.
    pub fn key_has_room(&self, key: &[u8; KEY_BYTES], timestamp: u64, taken: usize) -> bool {
        let used = match self.keys.get(key) {
            Some(uses) => uses.open.iter().filter(|slot| !self.lapsed(**slot, timestamp)).count(),
            None => 0,
        };
        used + taken < self.limits.max_sessions_per_key
    }

    /// The open sessions of a key as of the executed prefix: session number, last executed number, and the end of the
    /// lease as of the decided prefix.
    pub fn of_key(&self, key: &[u8; KEY_BYTES]) -> Vec<[u64; 3]> {
        let open = self.keys.get(key).map_or(&[][..], |uses| uses.open.as_slice());
        let lease = self.limits.lease;
        let told =
            |session: &Session| [session.id.number, session.executed, session.leased_from().saturating_add(lease)];
        open.iter().map(|slot| told(&self.slab[*slot])).collect()
    }

    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    pub fn waiting_of_key(&self, key: &[u8; KEY_BYTES]) -> &[u32] {
        self.keys.get(key).map_or(&[], |uses| uses.waiting.as_slice())
    }

    /// Keeps a place for a session whose first request could be proposed; false at a limit.
    pub fn reserve(&mut self, slot: u32, now: u64) -> bool {
        let id = self.slab[slot].id;
        let of_key = self.waiting_of_key(&id.key).len();
        if !self.key_has_room(&id.key, now, of_key) || !self.has_room(now, self.waiting.len()) {
            return false;
        }
        self.unplaced.remove(&(id.number, id.key));
        self.waiting.insert((id.number, id.key), slot);
        self.keys.entry(id.key).or_default().waiting.push(slot);
        self.slab[slot].standing = Standing::Waiting;
        true
    }

    /// A decision opens the session.
    pub fn open(&mut self, slot: u32, timestamp: u64) {
        self.forget_standing(slot);
        let session = &mut self.slab[slot];
        session.standing = Standing::Open;
        session.last_activity = timestamp;
        session.lease_listed = session.leased_from();
        let id = session.id;
        self.leases.insert((session.lease_listed, slot));
        self.keys.entry(id.key).or_default().open.push(slot);
    }

    /// Takes a waiting session's place back; its requests stay.
    pub fn demote(&mut self, slot: u32) {
        if self.slab[slot].standing != Standing::Waiting {
            return;
        }
        self.forget_standing(slot);
        let session = &mut self.slab[slot];
        session.standing = Standing::Unplaced;
        self.unplaced.insert((session.id.number, session.id.key), slot);
    }

    fn forget_standing(&mut self, slot: u32) {
        let session = &self.slab[slot];
        let (id, standing) = (session.id, session.standing);
        match standing {
            Standing::Unplaced => {
                self.unplaced.remove(&(id.number, id.key));
                return;
            }
            Standing::Waiting => {
                self.waiting.remove(&(id.number, id.key));
            }
            Standing::Open => {
                self.leases.remove(&(session.lease_listed, slot));
            }
        }
        if let Some(uses) = self.keys.get_mut(&id.key) {
            uses.open.retain(|open| *open != slot);
            uses.waiting.retain(|waiting| *waiting != slot);
            if uses.open.is_empty() && uses.waiting.is_empty() {
                self.keys.remove(&id.key);
            }
        }
    }

    /// Removes a session without pending requests.
    pub fn remove(&mut self, slot: u32) -> Session {
        self.leave_ring(slot);
        self.forget_standing(slot);
        let session = self.slab.remove(slot);
        self.index.remove(&session.id);
        if self.shares.leave(session.account) {
            self.accounts.remove(&session.id.key);
        }
        session
    }

    /// Keeps an open session that the decision of `instance` has removed until that instance is executed.
    pub fn keep_ended(&mut self, instance: u64, session: Session) {
        self.ended_by.push_back((instance, session.id));
        self.ended.insert(session.id, session);
    }

    /// Instances up to this one were executed: the sessions that they ended are gone for good.
    pub fn forget_ended(&mut self, instance: u64) {
        while self.ended_by.front().is_some_and(|(by, _)| *by <= instance) {
            if let Some((_, id)) = self.ended_by.pop_front() {
                self.write_captured(&id);
                self.ended.remove(&id);
            }
        }
    }

    /// Begins a capture of the executed sessions, in place of an unfinished one; returns its number.
    pub fn begin_capture(&mut self) -> u64 {
        let todo = self.executed_sessions().map(|session| session.id).collect();
        self.captures += 1;
        self.capturing = Some(Capturing { todo, written: Vec::new() });
        self.captures
    }

    /// Writes up to `most` more sessions of a capture down. Nothing: it has been given up; else what was written, once
    /// all is.
    pub fn continue_capture(&mut self, capture: u64, most: usize) -> Option<Option<Written>> {
        for _ in 0..most {
            let capturing = self.capturing.as_mut().filter(|_| capture == self.captures)?;
            let Some(id) = capturing.todo.pop() else {
                return self.capturing.take().map(|done| Some(done.written));
            };
            self.write_captured(&id);
        }
        Some(None)
    }

    pub fn give_up_capture(&mut self) {
        self.capturing = None;
    }

    /// Writes a session down for the capture under way, unless that was done: it may change now.
    fn write_captured(&mut self, id: &SessionId) {
        let Some(mut capturing) = self.capturing.take() else { return };
        let captures = self.captures;
        if let Some(session) = self.find_ordered(id).filter(|session| session.captured < captures) {
            session.captured = captures;
            if session.executed > 0 {
                capturing.written.push((session.id, session_bytes(session)));
            }
        }
        self.capturing = Some(capturing);
    }

    /// The session that an ordered request belongs to, also if it has ended since; to be changed.
    pub fn ordered_session(&mut self, id: &SessionId) -> Option<&mut Session> {
        if self.capturing.is_some() {
            self.write_captured(id);
        }
        self.find_ordered(id)
    }

    fn find_ordered(&mut self, id: &SessionId) -> Option<&mut Session> {
        match self.index.get(id).copied().filter(|slot| self.slab[*slot].is_open()) {
            Some(slot) => Some(&mut self.slab[slot]),
            None => self.ended.get_mut(id),
        }
    }

    /// The sessions that the executed instances leave open: those of whose requests one was executed, for a decision
    /// that opens a session orders its first request.
    pub fn executed_sessions(&self) -> impl Iterator<Item = &Session> {
        let open = self.leases.iter().map(|(_, slot)| &self.slab[*slot]);
        let ended = self.ended_by.iter().filter_map(|(_, id)| self.ended.get(id));
        open.chain(ended).filter(|session| session.executed > 0)
    }

    /// Every session in the table.
    pub fn slots(&self) -> Vec<u32> {
        let open = self.leases.iter().map(|(_, slot)| *slot);
        open.chain(self.waiting.values().copied()).chain(self.unplaced.values().copied()).collect()
    }

    /// The waiting session that loses its place first: the one with the highest number.
    pub fn last_waiting(&self) -> Option<u32> {
        self.waiting.last_key_value().map(|(_, slot)| *slot)
    }

    pub fn enter_ring(&mut self, slot: u32) {
        if !self.slab[slot].in_ring {
            self.slab[slot].in_ring = true;
            self.ring.push_back(&mut self.slab, slot);
        }
    }

    pub fn leave_ring(&mut self, slot: u32) {
        if self.slab[slot].in_ring {
            self.slab[slot].in_ring = false;
            self.ring.remove(&mut self.slab, slot);
        }
    }
}
