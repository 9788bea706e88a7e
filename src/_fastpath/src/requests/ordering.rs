//! Proposing, voting and deciding: batches, the sessions' part of the predicate gamma, and what a decision changes.

use std::collections::HashSet;

use super::index::Map;
use super::pool::{Misuse, Place, RequestPool, Siblings};
use super::sessions::{Route, Standing};
use super::slab::{List, NONE};
use super::sources::{NO_SOURCE, PLACE};
use crate::wire::{
    array_at, items, push_item, requests, status, Digest, RequestView, SessionId, DIGEST_BYTES, KEY_BYTES,
};

/// Verdicts of `check`, in the order in which they are tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Verdict {
    Valid = 0,
    Empty = 1,
    TooLarge = 2,
    Malformed = 3,
    Duplicate = 4,
    NotContiguous = 5,
    SessionInvalid = 6,
}

/// The sessions that a batch in the making opens.
#[derive(Default)]
struct Opened {
    room: usize,
    count: usize,
    of_key: Map<[u8; KEY_BYTES], usize>,
}

/// Digests of a proposal, resolved.
#[derive(Default)]
pub struct Resolved {
    pub list: Vec<u8>,
    pub missing: Vec<u8>,
    pub unverified: usize,
}

/// The 32-byte items of a digest list.
pub fn digests(list: &[u8]) -> Result<impl ExactSizeIterator<Item = Digest> + '_, Misuse> {
    if list.len() % DIGEST_BYTES != 0 {
        return Err(Misuse(format!("a digest list of {} bytes; digests have {DIGEST_BYTES}", list.len())));
    }
    Ok(list.chunks_exact(DIGEST_BYTES).map(|digest| array_at(digest, 0)))
}

impl RequestPool {
    /// A fair batch: one request of each session in turn, as long as the next one fits.
    pub fn form_batch(&mut self, max_requests: usize, max_bytes: usize, timestamp: u64) -> (Vec<u8>, Vec<u8>) {
        let chosen = self.choose(max_requests, max_bytes, timestamp);
        let bytes: usize = chosen.iter().map(|slot| 4 + self.entries[*slot].bytes.len()).sum();
        let mut names = Vec::with_capacity(chosen.len() * DIGEST_BYTES);
        let mut list = Vec::with_capacity(bytes);
        for slot in chosen {
            let entry = &self.entries[slot];
            names.extend_from_slice(&entry.digest);
            push_item(&mut list, &entry.bytes);
        }
        (names, list)
    }

    fn choose(&mut self, max_requests: usize, max_bytes: usize, timestamp: u64) -> Vec<u32> {
        let mut chosen = Vec::with_capacity(max_requests.min(self.ready()));
        let mut bytes = 0;
        let mut opened =
            Opened { room: self.sessions.room(timestamp, self.sessions.waiting_count()), ..Opened::default() };
        // The sessions that had a request in the previous round; the first round goes along the ring.
        let mut round: Vec<u32> = Vec::new();
        let mut session = self.sessions.ring.head;
        while session != NONE && chosen.len() < max_requests {
            let next = List::<0>::next(&self.sessions.slab, session);
            if self.may_propose(session, timestamp, &mut opened) {
                if !self.choose_next(session, 1, &mut chosen, &mut bytes, max_bytes) {
                    return chosen;
                }
                round.push(session);
            }
            session = next;
        }
        for depth in 2.. {
            round.retain(|session| self.ready_of(*session) >= depth);
            if round.is_empty() {
                break;
            }
            for session in &round {
                if chosen.len() >= max_requests
                    || !self.choose_next(*session, depth, &mut chosen, &mut bytes, max_bytes)
                {
                    return chosen;
                }
            }
        }
        chosen
    }

    fn ready_of(&self, session: u32) -> u64 {
        let state = &self.sessions.slab[session];
        state.received - state.ordered
    }

    /// Chooses the request at `depth` (from 1) of a session's ready ones, if it fits.
    fn choose_next(
        &self,
        session: u32,
        depth: u64,
        chosen: &mut Vec<u32>,
        bytes: &mut usize,
        max_bytes: usize,
    ) -> bool {
        let number = self.sessions.slab[session].ordered + depth;
        let Some(slot) = self.proposable_candidate(session, number) else {
            return false;
        };
        let size = 4 + self.entries[slot].bytes.len();
        if *bytes + size > max_bytes {
            return false;
        }
        *bytes += size;
        chosen.push(slot);
        true
    }

    /// Whether a batch with this timestamp may contain requests of a session, beside the sessions it opens already.
    fn may_propose(&self, session: u32, timestamp: u64, opened: &mut Opened) -> bool {
        let id = self.sessions.slab[session].id;
        if self.sessions.slab[session].is_open() {
            return !self.sessions.lapsed(session, timestamp);
        }
        let of_key = opened.of_key.entry(id.key).or_insert(0);
        let may = self.sessions.admissible(id.number, timestamp)
            && opened.count < opened.room
            && self.sessions.key_has_room(&id.key, timestamp, *of_key);
        if may {
            opened.count += 1;
            *of_key += 1;
        }
        may
    }

    /// Finds the requests of a proposal; those that are here but not verified yet are verified next. A value that is
    /// `bound` was vouched for when it was written.
    pub fn resolve(&mut self, list: &[u8], bound: bool) -> Result<Resolved, Misuse> {
        let mut resolved = Resolved::default();
        let mut found = Vec::with_capacity(list.len() / DIGEST_BYTES);
        let mut bytes = 0;
        for digest in digests(list)? {
            match self.digests.get(&digest).copied() {
                None => resolved.missing.extend_from_slice(&digest),
                Some(slot) => {
                    let entry = &self.entries[slot];
                    let counts = entry.is_verified() || bound && entry.place == Place::Unvouched;
                    if !counts {
                        resolved.unverified += 1;
                    }
                    self.name(slot);
                    bytes += 4 + self.entries[slot].bytes.len();
                    found.push(slot);
                }
            }
        }
        if resolved.missing.is_empty() && resolved.unverified == 0 {
            resolved.list.reserve_exact(bytes);
            for slot in found {
                push_item(&mut resolved.list, &self.entries[slot].bytes);
            }
        }
        Ok(resolved)
    }

    /// Request list of those named requests that are here and verified.
    pub fn collect(&self, list: &[u8]) -> Result<Vec<u8>, Misuse> {
        let mut out = Vec::new();
        for digest in digests(list)? {
            if let Some(slot) = self.digests.get(&digest).filter(|slot| self.entries[**slot].is_verified()) {
                push_item(&mut out, &self.entries[*slot].bytes);
            }
        }
        Ok(out)
    }

    /// The sessions' part of the predicate gamma.
    pub fn check(&mut self, list: &[u8], timestamp: u64, max_requests: usize, max_bytes: usize) -> Verdict {
        if list.is_empty() {
            return Verdict::Empty;
        }
        if list.len() > max_bytes {
            return Verdict::TooLarge;
        }
        let mut batch = Vec::new();
        for item in items(list) {
            match item.and_then(|item| self.parse(item)) {
                Err(_) => return Verdict::Malformed,
                Ok(_) if batch.len() == max_requests => return Verdict::TooLarge,
                Ok(request) => batch.push(request),
            }
        }
        self.survey(&batch, timestamp)
    }

    /// Walks over a batch: each session's numbers contiguous from the decided prefix, within the window, and the
    /// sessions that it opens within their limits at its timestamp.
    fn survey(&mut self, batch: &[RequestView], timestamp: u64) -> Verdict {
        self.sessions.walk += 1;
        let mut opened = Vec::new();
        let mut unknown: Map<SessionId, u64> = Map::default();
        for request in batch {
            let id = request.session();
            let (prefix, taken) = match self.sessions.find(&id) {
                Some(session) => self.count_known(session, timestamp, &mut opened),
                None => {
                    let taken = unknown.entry(id).or_insert(0);
                    if *taken == 0 {
                        opened.push(id);
                    }
                    *taken += 1;
                    (0, *taken)
                }
            };
            if taken > self.config.window || request.sequence() != prefix + taken {
                return if has_duplicate(batch) { Verdict::Duplicate } else { Verdict::NotContiguous };
            }
        }
        if self.all_may_open(&opened, timestamp) {
            Verdict::Valid
        } else {
            Verdict::SessionInvalid
        }
    }

    /// Counts one more request of a session in the walk; returns its decided prefix and the count.
    fn count_known(&mut self, session: u32, timestamp: u64, opened: &mut Vec<SessionId>) -> (u64, u64) {
        let continues = self.sessions.slab[session].is_open() && !self.sessions.lapsed(session, timestamp);
        let walk = self.sessions.walk;
        let state = &mut self.sessions.slab[session];
        if state.walk != walk {
            state.walk = walk;
            state.taken = 0;
            if !continues {
                opened.push(state.id);
            }
        }
        state.taken += 1;
        (if continues { state.ordered } else { 0 }, state.taken)
    }

    fn all_may_open(&mut self, opened: &[SessionId], timestamp: u64) -> bool {
        let mut of_key: Map<[u8; KEY_BYTES], usize> = Map::default();
        let each_may = opened.iter().all(|id| {
            let taken = of_key.entry(id.key).or_insert(0);
            *taken += 1;
            self.sessions.admissible(id.number, timestamp) && self.sessions.key_has_room(&id.key, timestamp, *taken - 1)
        });
        each_may && self.sessions.room(timestamp, opened.len()) == opened.len()
    }

    /// The batch was decided: cursors advance, sessions open and lapse, other requests with its numbers are dropped.
    /// An empty batch only moves the agreed time.
    pub fn decide(&mut self, names: &[u8], list: &[u8], instance: u64, timestamp: u64) -> Result<(), Misuse> {
        let names = digests(names)?;
        let batch = self.batch(list, names.len())?;
        if instance <= self.decided_instance {
            let decided = self.decided_instance;
            return Err(Misuse(format!("a decision of instance {instance}, after that of instance {decided}")));
        }
        if timestamp <= self.agreed_time {
            let agreed = self.agreed_time;
            return Err(Misuse(format!("a decision with timestamp {timestamp}, not after the agreed time {agreed}")));
        }
        match self.survey(&batch, timestamp) {
            Verdict::Valid => {}
            verdict => {
                return Err(Misuse(format!("a decided batch that does not follow the decided prefix: {verdict:?}")))
            }
        }
        self.decided_instance = instance;
        self.agreed_time = timestamp;
        self.now = self.now.max(timestamp);
        self.end_leases(instance, timestamp);
        let mut touched = Vec::new();
        for (request, digest) in batch.iter().zip(names) {
            let session = self.order(request, digest, timestamp);
            if self.sessions.slab[session].walk != u64::MAX {
                self.sessions.slab[session].walk = u64::MAX;
                touched.push(session);
            }
        }
        for session in touched {
            self.sessions.slab[session].walk = 0;
            // Behind those whose requests were not in this batch.
            self.sessions.leave_ring(session);
            self.advance(session);
        }
        self.keep_session_limits(&batch);
        Ok(())
    }

    /// The requests of a batch that the caller knows to be well-formed.
    pub(super) fn batch<'a>(&self, list: &'a [u8], count: usize) -> Result<Vec<RequestView<'a>>, Misuse> {
        let parsed: Result<Vec<_>, _> = requests(list, self.config.max_operation_bytes).collect();
        let batch = parsed.map_err(|error| Misuse(format!("a malformed batch: {error:?}")))?;
        if batch.len() != count {
            return Err(Misuse(format!("{count} digests for a batch of {} requests", batch.len())));
        }
        Ok(batch)
    }

    fn end_leases(&mut self, instance: u64, timestamp: u64) {
        for session in self.sessions.lapsing(timestamp) {
            let ended = self.drop_session(session, status::SESSION_REFUSED);
            self.sessions.keep_ended(instance, ended);
        }
        for session in self.sessions.stale(timestamp) {
            self.drop_session(session, status::SESSION_REFUSED);
        }
    }

    /// Orders one request of a decided batch; returns its session.
    fn order(&mut self, request: &RequestView, digest: Digest, timestamp: u64) -> u32 {
        let session = self.sessions.find_or_insert(request.session());
        if self.sessions.slab[session].standing != Standing::Open {
            self.sessions.open(session, timestamp);
        }
        let number = request.sequence();
        self.settle_holds(digest);
        let mut source = NO_SOURCE;
        if let Some(candidates) = self.sessions.slab[session].candidates(number) {
            let mut slot = candidates.list.head;
            while slot != NONE {
                let next = Siblings::next(&self.entries, slot);
                let entry = self.detach(slot);
                if entry.digest == digest {
                    source = entry.route;
                }
                slot = next;
            }
        }
        let most_routes = 2 * self.config.window as usize;
        let state = &mut self.sessions.slab[session];
        if state.routes.len() >= most_routes {
            state.routes.pop_front();
        }
        state.routes.push_back(Route { digest, source });
        state.ordered = number;
        state.received = state.received.max(number);
        self.sessions.touch(session, timestamp);
        session
    }

    /// Sessions that others proposed may have taken the places of waiting ones.
    fn keep_session_limits(&mut self, batch: &[RequestView]) {
        while self.sessions.waiting_count() > 0 && !self.sessions.has_room(self.now, self.sessions.waiting_count() - 1)
        {
            if let Some(session) = self.sessions.last_waiting() {
                self.evict_session(session, status::OVERLOADED);
            }
        }
        if self.sessions.waiting_count() == 0 {
            return;
        }
        for request in batch {
            let key = request.session().key;
            loop {
                let waiting = self.sessions.waiting_of_key(&key);
                let last = waiting.iter().copied().max_by_key(|session| self.sessions.slab[*session].id.number);
                match last {
                    Some(last) if !self.sessions.key_has_room(&key, self.now, waiting.len() - 1) => {
                        self.evict_session(last, status::OVERLOADED)
                    }
                    _ => break,
                }
            }
        }
    }

    // --- timers ---

    /// When the oldest ready request arrived (or became ready, if a gap before it was filled later).
    pub fn oldest_pending(&self) -> Option<u64> {
        match self.ready.head {
            NONE => None,
            slot => Some(self.entries[slot].ready_at),
        }
    }

    /// The ready requests from before a time, oldest first: a request's predecessors are always before it.
    pub fn overdue(&self, before: u64, max_bytes: usize) -> Vec<u8> {
        let mut out = Vec::new();
        let mut slot = self.ready.head;
        while slot != NONE && self.entries[slot].ready_at < before {
            let entry = &self.entries[slot];
            if out.len() + 4 + entry.bytes.len() > max_bytes {
                break;
            }
            push_item(&mut out, &entry.bytes);
            slot = List::<PLACE>::next(&self.entries, slot);
        }
        out
    }
}

fn has_duplicate(batch: &[RequestView]) -> bool {
    let mut seen = HashSet::with_capacity(batch.len());
    batch.iter().any(|request| !seen.insert((request.session(), request.sequence())))
}
