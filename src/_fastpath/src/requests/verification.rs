//! Requests on their way to the signature check, and its verdicts.

use std::sync::Arc;

use super::pool::{Place, RequestPool};
use crate::wire::{items, push_item, status, RequestView};

/// Verdicts of a mask.
pub const BAD: u8 = 0;
pub const ACCEPTED: u8 = 1;
pub const REFUSED: u8 = 2;

/// One request at the verifier: its bytes are shared, its slot may meanwhile be used by another request.
#[derive(Clone)]
pub struct VerifyItem {
    slot: u32,
    pub bytes: Arc<[u8]>,
}

impl VerifyItem {
    pub fn request(&self) -> RequestView<'_> {
        RequestView { bytes: &self.bytes }
    }
}

/// Requests to verify, with the prefix of their signed messages.
pub struct VerifyJob {
    pub prefix: [u8; 32],
    /// Else the requests carry no signatures, and pass.
    pub signed: bool,
    pub items: Vec<VerifyItem>,
}

impl VerifyJob {
    /// The requests as a request list.
    pub fn list(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.items.iter().map(|item| 4 + item.bytes.len()).sum());
        for item in &self.items {
            push_item(&mut out, &item.bytes);
        }
        out
    }

    /// The signed message of an item.
    pub fn message(&self, item: &VerifyItem) -> Vec<u8> {
        [self.prefix.as_slice(), item.request().signed()].concat()
    }
}

impl RequestPool {
    /// The next requests to verify: those that proposals name, then one of each source in turn.
    pub fn take_unverified(&mut self, most: usize) -> Option<VerifyJob> {
        let mut items = Vec::with_capacity(most.min(self.unverified));
        while items.len() < most {
            let slot = if self.priority.is_empty() {
                match self.sources.next(&mut self.entries) {
                    Some(slot) => slot,
                    None => break,
                }
            } else {
                let slot = self.priority.head;
                self.priority.remove(&mut self.entries, slot);
                slot
            };
            let entry = &mut self.entries[slot];
            entry.place = Place::AtVerifier;
            items.push(VerifyItem { slot, bytes: Arc::clone(&entry.bytes) });
        }
        let signed = self.config.vouching.is_none();
        self.counters.signature_checks += if signed { items.len() as u64 } else { 0 };
        (!items.is_empty()).then_some(VerifyJob { prefix: self.domains.signature_prefix, signed, items })
    }

    /// Applies a mask to a job's requests as far as they are still here. Returns how many bad signatures came from which
    /// source, in the order in which the sources first occur. `reasons` are items, one for each request that the check
    /// refuses, for their clients; where they end, clients get none.
    pub fn apply_verdicts(&mut self, job: &VerifyJob, mask: &[u8], reasons: &[u8]) -> Vec<(u64, u64)> {
        let mut bad: Vec<(u64, u64)> = Vec::new();
        let mut reasons = items(reasons);
        for (item, verdict) in job.items.iter().zip(mask) {
            let refused = !matches!(*verdict, ACCEPTED | BAD);
            let reason = if refused { reasons.next().and_then(Result::ok).unwrap_or_default() } else { &[] };
            // The very same bytes: neither another request in the slot nor one of another pool will do.
            if !self.entries.get(item.slot).is_some_and(|entry| Arc::ptr_eq(&entry.bytes, &item.bytes)) {
                continue;
            }
            match *verdict {
                ACCEPTED => self.accept(item.slot),
                BAD => {
                    let owner = self.entries[item.slot].owner;
                    self.reject(item.slot, status::BAD_SIGNATURE, &[]);
                    self.counters.bad_signatures += 1;
                    match bad.iter_mut().find(|(source, _)| *source == owner) {
                        Some((_, count)) => *count += 1,
                        None => bad.push((owner, 1)),
                    }
                }
                _ => self.reject(item.slot, status::REJECTED, reason),
            }
        }
        bad
    }

    fn reject(&mut self, slot: u32, status: u8, reason: &[u8]) {
        let entry = self.discard(slot);
        if status == status::OVERLOADED {
            self.remember_holders(&entry);
        }
        self.counters.refused += 1;
        self.tell_refused(entry.route, &entry.digest, status, reason);
    }

    /// The request is authentic: it competes for its number, and its session for a place.
    pub(super) fn accept(&mut self, slot: u32) {
        self.uncount(slot);
        self.unverified -= 1;
        if self.is_vouched(slot) {
            self.enter(slot);
        } else {
            self.entries[slot].place = Place::Unvouched;
            self.unvouched += 1;
            self.make_idle(slot);
        }
    }

    /// An authentic request enters the competition for its number.
    pub(super) fn enter(&mut self, slot: u32) {
        let entry = &mut self.entries[slot];
        entry.place = Place::Verified;
        let (session, number, named) = (entry.session, entry.number, entry.named);
        let rival = self.verified_candidate(session, number).is_some_and(|winner| winner != slot);
        if let Some(vouching) = self.config.vouching.filter(|_| !rival || named || self.is_held_by_others(slot)) {
            self.announce(vouching, slot);
            return;
        }
        if rival {
            if named {
                self.make_idle(slot);
            } else {
                self.counters.duplicates += 1;
                self.discard(slot);
            }
            // There may be a place for the session only now.
            self.advance(session);
            return;
        }
        self.put_first(slot);
        self.drop_losers(session, number);
        self.take_turn(slot);
    }

    /// A verified request that enough hold: it is ready if all before it are; and refused if there is no place for its
    /// session, unless a proposal names it.
    pub(super) fn take_turn(&mut self, slot: u32) {
        let (session, number) = (self.entries[slot].session, self.entries[slot].number);
        let placed = self.advance(session);
        let entry = &self.entries[slot];
        if entry.place != Place::Verified {
            return;
        }
        let first = self.sessions.slab[session].ordered + 1 == number;
        if !placed && first && !entry.named && self.proposable_candidate(session, number) == Some(slot) {
            self.reject(slot, status::OVERLOADED, &[]);
        } else {
            self.make_idle(slot);
        }
    }

    /// The number has its request: unnamed others are of no use any more.
    fn drop_losers(&mut self, session: u32, number: u64) {
        let Some(candidates) = self.sessions.slab[session].candidates(number) else {
            return;
        };
        if candidates.list.len == 1 {
            return;
        }
        for slot in candidates.list.slots(&self.entries) {
            if !self.entries[slot].named && !self.entries[slot].is_verified() {
                self.detach(slot);
            }
        }
    }
}
