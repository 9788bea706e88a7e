//! Reception: which requests the pool takes, and what it answers to those it does not.

use std::sync::Arc;

use super::pool::{new_links, Entry, Place, RequestPool};
use super::room::Newcomer;
use super::sources::{FROM_MEMBER, NO_SOURCE};
use crate::wire::{items, status, Digest, RequestView, SessionId, WireError};

/// The client's connection that requests come from, who answers for them, and when they came (microseconds).
#[derive(Clone, Copy)]
pub struct Arrival {
    source: u64,
    owner: u64,
    now: u64,
}

impl Arrival {
    /// `source`: a client's connection, `NO_SOURCE`, or from `FROM_MEMBER` on the member that passes the requests on.
    pub fn new(source: u64, now: u64) -> Arrival {
        Arrival { source: if source < FROM_MEMBER { source } else { NO_SOURCE }, owner: source, now }
    }

    /// The client's connection, or `NO_SOURCE`.
    pub fn source(&self) -> u64 {
        self.source
    }
}

impl RequestPool {
    /// Admits a request list; nothing, if any of it is malformed. Returns how many were new.
    pub fn admit(&mut self, list: &[u8], source: u64, now: u64) -> Result<usize, WireError> {
        let arrival = Arrival::new(source, now);
        let batch: Result<Vec<_>, _> = items(list).map(|item| self.parse_from(arrival.source, item?)).collect();
        Ok(self.admit_many(&batch?, arrival))
    }

    /// Admits bodies that a proposal names. Returns how many were new.
    pub fn admit_body(&mut self, list: &[u8], now: u64) -> Result<usize, WireError> {
        let batch: Result<Vec<_>, _> = items(list).map(|item| self.parse(item?)).collect();
        let batch = batch?;
        self.pass_time(now);
        let digests = self.digests_of(&batch);
        Ok(batch
            .into_iter()
            .zip(digests)
            .filter(|(request, digest)| self.admit_one_body(*request, *digest, now))
            .count())
    }

    /// Admits requests from a client or a peer. Returns how many were new.
    pub fn admit_many(&mut self, batch: &[RequestView], arrival: Arrival) -> usize {
        self.pass_time(arrival.now);
        let digests = self.digests_of(batch);
        batch.iter().zip(digests).filter(|(request, digest)| self.admit_one(**request, *digest, arrival)).count()
    }

    fn digests_of(&self, batch: &[RequestView]) -> Vec<Digest> {
        let bytes: Vec<&[u8]> = batch.iter().map(|request| request.bytes).collect();
        self.domains.digest_many(&bytes)
    }

    /// One request; true if it was new and was taken.
    fn admit_one(&mut self, request: RequestView, digest: Digest, arrival: Arrival) -> bool {
        let Arrival { source, owner, .. } = arrival;
        if source != NO_SOURCE {
            self.sources.register(source);
        }
        if let Some(&slot) = self.digests.get(&digest) {
            self.counters.duplicates += 1;
            if source != NO_SOURCE {
                self.entries[slot].route = source;
                self.heard_from_client(slot);
            }
            if let Some(&slot) = self.digests.get(&digest) {
                self.charge_again(slot, owner);
            }
            return false;
        }
        let id = request.session();
        let number = request.sequence();
        let known = self.sessions.find(&id);
        if let Some(session) = known.filter(|session| number <= self.sessions.slab[*session].ordered) {
            self.counters.duplicates += 1;
            self.answer_again(session, number, &digest, source);
            return false;
        }
        if source == NO_SOURCE && !self.is_wanted(&digest) {
            // What others pass on counts only by who holds it.
            self.counters.duplicates += 1;
            return false;
        }
        if let Err(status) = self.admissible(&id, known, number, owner, request.bytes.len()) {
            self.refuse(source, &digest, status);
            return false;
        }
        // What had to make room may have been the last of this session.
        let known = self.sessions.find(&id);
        let rival = known.is_some_and(|session| self.verified_candidate(session, number).is_some());
        if rival && (self.config.vouching.is_none() || !self.is_wanted(&digest)) {
            self.counters.duplicates += 1;
            return false;
        }
        self.take(request, digest, arrival, false);
        true
    }

    /// Why a request that was not seen before is refused.
    fn admissible(
        &mut self,
        id: &SessionId,
        known: Option<u32>,
        number: u64,
        owner: u64,
        bytes: usize,
    ) -> Result<(), u8> {
        let open = known.filter(|session| self.sessions.slab[*session].is_open());
        let ordered = open.map_or(0, |session| self.sessions.slab[session].ordered);
        if open.is_none() {
            if !self.sessions.admissible(id.number, self.now) && !self.next_may_open(id.number) {
                return Err(status::SESSION_REFUSED);
            }
            if !self.sessions.has_room(self.now, 0) || !self.sessions.key_has_room(&id.key, self.now, 0) {
                return Err(status::OVERLOADED);
            }
        }
        let within = number - ordered <= self.config.window
            && self.sources.unverified(owner) < self.config.max_unverified_per_source
            && self.accepting
            && {
                let in_line = self.is_in_line(known, number);
                self.make_room(&Newcomer { owner, key: &id.key, bytes, in_line })
            };
        if within {
            Ok(())
        } else {
            Err(status::OVERLOADED)
        }
    }

    /// Whether all numbers of the session before this one are here.
    fn is_in_line(&self, known: Option<u32>, number: u64) -> bool {
        let Some(session) = known else { return number == 1 };
        let state = &self.sessions.slab[session];
        let (Ok(before) | Err(before)) = state.position(number);
        number - state.ordered == before as u64 + 1
    }

    /// Whether the next batch may open a session although its number has lapsed by our clock: a batch may always have
    /// the time after the agreed one. Others, whose clocks are behind, propose it; to refuse it here would make a leader
    /// look slow that never had it.
    fn next_may_open(&self, number: u64) -> bool {
        self.agreed_time > 0 && self.sessions.admissible(number, self.agreed_time.saturating_add(1))
    }

    fn admit_one_body(&mut self, request: RequestView, digest: Digest, now: u64) -> bool {
        if let Some(&slot) = self.digests.get(&digest) {
            self.counters.duplicates += 1;
            self.name(slot);
            return false;
        }
        let ordered = self.sessions.find(&request.session()).map_or(0, |session| self.sessions.slab[session].ordered);
        let number = request.sequence();
        if number <= ordered || number - ordered > self.config.window {
            self.counters.duplicates += 1;
            return false;
        }
        self.make_room_for_body(request.bytes.len());
        self.take(request, digest, Arrival::new(NO_SOURCE, now), true);
        true
    }

    /// Drops the oldest bodies until one more fits: those of an earlier proposal that was not decided.
    fn make_room_for_body(&mut self, bytes: usize) {
        while !self.reserve_load.fits(bytes, &self.config) {
            let Some((slot, generation)) = self.reserve.pop_front() else {
                return;
            };
            if self.entries.holds(slot, generation) {
                self.discard(slot);
            }
        }
        if self.reserve.len() > 2 * self.reserve_load.requests + 64 {
            let entries = &self.entries;
            self.reserve.retain(|(slot, generation)| entries.holds(*slot, *generation));
        }
    }

    fn take(&mut self, request: RequestView, digest: Digest, arrival: Arrival, body: bool) {
        let session = self.sessions.find_or_insert(request.session());
        let holders = self.take_holders(&digest);
        let slot = self.insert(Entry {
            digest,
            bytes: Arc::from(request.bytes),
            session,
            number: request.sequence(),
            owner: arrival.owner,
            route: arrival.source,
            arrival: arrival.now,
            ready_at: 0,
            place: Place::AtVerifier,
            counted: 0,
            named: body,
            reserve: body,
            own: arrival.source != NO_SOURCE,
            holders,
            unsaid: false,
            stamp: 0,
            account: 0,
            idle_account: 0,
            idle_since: None,
            links: new_links(),
        });
        self.counters.admitted += 1;
        if body {
            self.reserve.push_back((slot, self.entries.generation(slot)));
        }
        if self.config.admit_unverified {
            self.accept(slot);
        } else if body {
            self.entries[slot].place = Place::Priority;
            self.priority.push_back(&mut self.entries, slot);
        } else {
            self.entries[slot].place = Place::Queued;
            self.entries[slot].counted = self.sources.enqueue(arrival.owner, &mut self.entries, slot);
        }
    }

    /// A proposal names this request: it is verified before the others, and kept beside another one with its number.
    pub(super) fn name(&mut self, slot: u32) {
        self.entries[slot].named = true;
        if self.entries[slot].place == Place::Queued {
            self.leave_place(slot);
            self.uncount(slot);
            self.entries[slot].place = Place::Priority;
            self.priority.push_back(&mut self.entries, slot);
        }
    }

    /// The connection is gone: its requests that have not gone to the verifier, its replies and its routes with it.
    pub fn drop_source(&mut self, source: u64) {
        let queue = self.sources.drop_source(source);
        let mut queue = queue.slots(&self.entries);
        for slot in queue.drain(..) {
            self.entries[slot].place = Place::AtVerifier;
            self.discard(slot);
        }
    }
}
