//! Requests without signatures (protocols.md 2.1, channel-authenticated requests): which members hold which request.
//!
//! A member announces what it has from the client itself, and what `f + 1` others announced: so an announcement by
//! `f + 1` means that a correct member heard the client, and one by `2f + 1` that every correct member will hold it.

use std::collections::VecDeque;

use super::index::Map;
use super::ordering::digests;
use super::pool::{Entry, Misuse, Place, RequestPool};
use super::slab::{List, NONE};
use super::sources::{NO_SOURCE, PLACE};
use crate::wire::{push_item, Digest, RequestView, WireError, DIGEST_BYTES, SIGNATURE_BYTES};

/// Members are bits of a machine word.
pub const MOST_MEMBERS: u32 = 64;
/// How long a request that `f + 1` announced is asked for, microseconds: by then it is decided, or announced again.
const WANTED_FOR: u64 = 10_000_000;

/// Who vouches for requests where these carry no signature.
#[derive(Clone, Copy)]
pub struct Vouching {
    /// Position of this replica among the members.
    pub member: u32,
    pub members: u32,
    /// Digests of requests that are not here, of one member.
    pub quota: usize,
}

impl Vouching {
    fn faulty(&self) -> u32 {
        (self.members - 1) / 3
    }

    /// `f + 1`: at least one of them is correct.
    fn weak(&self) -> u32 {
        self.faulty() + 1
    }

    /// `2f + 1`: at least `f + 1` of them are correct, so that all correct members will follow.
    fn strong(&self) -> u32 {
        2 * self.faulty() + 1
    }
}

fn is_vouched(entry: &Entry, vouching: Vouching) -> bool {
    let vouched = entry.holders & bit(vouching.member) != 0;
    entry.own || vouched || entry.holders.count_ones() >= vouching.weak()
}

fn bit(member: u32) -> u64 {
    1 << member
}

/// The announcements of one member about requests that are not here, with the stamps of their records, oldest first; some
/// are out of date.
#[derive(Clone, Default)]
struct Sender {
    queue: VecDeque<(Digest, u64)>,
    live: usize,
}

/// Who announced a request that is not here.
struct Record {
    /// Tells records of one digest apart: a request may come, go and be announced again.
    stamp: u64,
    mask: u64,
    /// Listed among those to be asked for.
    listed: bool,
}

/// What members announced about requests that are not here, and what is to be announced next.
#[derive(Default)]
pub struct Holds {
    senders: Vec<Sender>,
    unknown: Map<Digest, Record>,
    stamps: u64,
    /// Announced by `f + 1`: with the stamps of their records, and since when; some are out of date.
    wanted: VecDeque<(Digest, u64, u64)>,
    /// Decided a while ago: late announcements of them mean nothing.
    settled: VecDeque<Digest>,
    is_settled: Map<Digest, ()>,
    /// Pending requests to announce, by slot and generation.
    unsaid: VecDeque<(u32, u32)>,
}

impl Holds {
    /// Who announced a request that is not here.
    fn mask(&self, digest: &Digest) -> u64 {
        self.unknown.get(digest).map_or(0, |record| record.mask)
    }

    /// Notes an announcement. What `weak` members have announced is asked for.
    fn note(&mut self, member: u32, digest: Digest, vouching: Vouching, now: u64) {
        if self.is_settled.contains_key(&digest) {
            return;
        }
        self.add(member, digest, vouching.quota);
        let Some(record) = self.unknown.get_mut(&digest) else { return };
        if record.mask.count_ones() >= vouching.weak() && !std::mem::replace(&mut record.listed, true) {
            self.wanted.push_back((digest, record.stamp, now));
        }
    }

    /// Keeps who held a request that gives way.
    fn put_back(&mut self, digest: Digest, mask: u64, quota: usize) {
        if !self.is_settled.contains_key(&digest) {
            (0..MOST_MEMBERS)
                .filter(|member| mask & bit(*member) != 0)
                .for_each(|member| self.add(member, digest, quota));
        }
    }

    fn add(&mut self, member: u32, digest: Digest, quota: usize) {
        let stamps = &mut self.stamps;
        let record = self.unknown.entry(digest).or_insert_with(|| {
            *stamps += 1;
            Record { stamp: *stamps, mask: 0, listed: false }
        });
        if record.mask & bit(member) != 0 {
            return;
        }
        record.mask |= bit(member);
        let stamp = record.stamp;
        let at = member as usize;
        if self.senders.len() <= at {
            self.senders.resize(at + 1, Sender::default());
        }
        self.senders[at].queue.push_back((digest, stamp));
        self.senders[at].live += 1;
        self.keep_quota(member, quota);
    }

    /// The oldest announcements of a member go first: it makes them again while they matter.
    fn keep_quota(&mut self, member: u32, quota: usize) {
        let sender = &mut self.senders[member as usize];
        let unknown = &mut self.unknown;
        let is_live = |unknown: &Map<Digest, Record>, digest: &Digest, stamp: u64| {
            unknown.get(digest).is_some_and(|record| record.stamp == stamp && record.mask & bit(member) != 0)
        };
        while sender.live > quota {
            let Some((oldest, stamp)) = sender.queue.pop_front() else { break };
            if !is_live(unknown, &oldest, stamp) {
                continue;
            }
            sender.live -= 1;
            if let Some(record) = unknown.get_mut(&oldest) {
                record.mask &= !bit(member);
                if record.mask == 0 {
                    unknown.remove(&oldest);
                }
            }
        }
        if sender.queue.len() > 2 * sender.live + 64 {
            sender.queue.retain(|(digest, stamp)| is_live(unknown, digest, *stamp));
        }
    }

    /// The request is here, or decided: its announcements are counted elsewhere from now on.
    fn take(&mut self, digest: &Digest) -> u64 {
        let Some(record) = self.unknown.remove(digest) else { return 0 };
        for (member, sender) in self.senders.iter_mut().enumerate() {
            sender.live -= (record.mask >> member & 1) as usize;
        }
        record.mask
    }

    /// Whether what was wanted still is: not here, and announced by enough.
    fn is_wanted(&self, digest: &Digest, stamp: u64, weak: u32) -> bool {
        self.unknown.get(digest).is_some_and(|record| record.stamp == stamp && record.mask.count_ones() >= weak)
    }

    /// Drops what is not wanted any more, or has been asked for long enough.
    fn forget_wanted(&mut self, weak: u32, now: u64) {
        while let Some((digest, stamp, since)) = self.wanted.front().copied() {
            if self.is_wanted(&digest, stamp, weak) && since + WANTED_FOR >= now {
                break;
            }
            self.wanted.pop_front();
            self.unlist(&digest, stamp);
        }
        if self.wanted.len() > 2 * self.unknown.len() + 64 {
            let mut kept = std::mem::take(&mut self.wanted);
            kept.retain(|(digest, stamp, _)| self.unknown.get(digest).is_some_and(|record| record.stamp == *stamp));
            self.wanted = kept;
        }
    }

    fn unlist(&mut self, digest: &Digest, stamp: u64) {
        if let Some(record) = self.unknown.get_mut(digest).filter(|record| record.stamp == stamp) {
            record.listed = false;
        }
    }

    /// What a member announced about requests that are not here counts no longer.
    fn void(&mut self, member: u32) {
        let Some(sender) = self.senders.get_mut(member as usize) else { return };
        for (digest, stamp) in std::mem::take(sender).queue {
            let Some(record) = self.unknown.get_mut(&digest).filter(|record| record.stamp == stamp) else { continue };
            record.mask &= !bit(member);
            if record.mask == 0 {
                self.unknown.remove(&digest);
            }
        }
    }

    fn settle(&mut self, digest: Digest, most: usize) {
        self.take(&digest);
        if self.is_settled.insert(digest, ()).is_none() {
            self.settled.push_back(digest);
        }
        if self.settled.len() > most {
            if let Some(oldest) = self.settled.pop_front() {
                self.is_settled.remove(&oldest);
            }
        }
    }
}

impl RequestPool {
    /// Parses a request. Where requests carry no signature, there are zeros in its place.
    pub(super) fn parse<'a>(&self, bytes: &'a [u8]) -> Result<RequestView<'a>, WireError> {
        let request = RequestView::parse(bytes, self.config.max_operation_bytes)?;
        if self.config.vouching.is_some() && request.signature() != [0; SIGNATURE_BYTES] {
            return Err(WireError::Malformed("a signed request, where requests carry no signatures".into()));
        }
        Ok(request)
    }

    /// As `parse`, for what a connection sent: there it is in the name of the key that the client has proven.
    pub(super) fn parse_from<'a>(&self, source: u64, bytes: &'a [u8]) -> Result<RequestView<'a>, WireError> {
        let request = self.parse(bytes)?;
        if self.config.vouching.is_none() || source == NO_SOURCE {
            return Ok(request);
        }
        if self.sources.key(source) != Some(request.key()) {
            return Err(WireError::Malformed("a request of a key that its connection has not proven".into()));
        }
        Ok(request)
    }

    /// The client at the other end of a connection has proven this key.
    pub fn prove(&mut self, source: u64, key: [u8; 32]) {
        self.sources.register(source).key = Some(key);
    }

    fn vouching(&self) -> Result<Vouching, Misuse> {
        self.config.vouching.ok_or_else(|| Misuse("the requests of this chain are signed: nobody holds them".into()))
    }

    /// Whether `f + 1` announced this request, which is not here.
    pub(super) fn is_wanted(&self, digest: &Digest) -> bool {
        self.config.vouching.is_none_or(|vouching| self.holds.mask(digest).count_ones() >= vouching.weak())
    }

    /// Who announced a request that comes in now.
    pub(super) fn take_holders(&mut self, digest: &Digest) -> u64 {
        self.config.vouching.map_or(0, |_| self.holds.take(digest))
    }

    /// A request was decided.
    pub(super) fn settle_holds(&mut self, digest: Digest) {
        if self.config.vouching.is_some() {
            self.holds.settle(digest, self.config.max_requests);
        }
    }

    /// Whether nobody has to vouch for an entry (any more): it is the client's own copy, or `f + 1` hold it, or that was so
    /// before it gave way to others.
    pub(super) fn is_vouched(&self, slot: u32) -> bool {
        self.config.vouching.is_none_or(|vouching| is_vouched(&self.entries[slot], vouching))
    }

    /// An entry gives way to others. We may have announced it, and others count on that: if a proposal names it, its bytes
    /// are fetched, and nobody has to vouch for it again.
    pub(super) fn remember_holders(&mut self, entry: &Entry) {
        let Some(vouching) = self.config.vouching else { return };
        let own = if is_vouched(entry, vouching) { bit(vouching.member) } else { 0 };
        self.holds.put_back(entry.digest, entry.holders | own, vouching.quota);
    }

    /// Whether others would take it even without the client: then it stays beside another one with its number.
    pub(super) fn is_held_by_others(&self, slot: u32) -> bool {
        self.config.vouching.is_some_and(|vouching| {
            (self.entries[slot].holders & !bit(vouching.member)).count_ones() >= vouching.weak()
        })
    }

    fn is_strong(&self, slot: u32) -> bool {
        self.config.vouching.is_none_or(|vouching| self.entries[slot].holders.count_ones() >= vouching.strong())
    }

    /// The client's own copy of something that is here already.
    pub(super) fn heard_from_client(&mut self, slot: u32) {
        if self.config.vouching.is_none() {
            return;
        }
        self.entries[slot].own = true;
        match self.entries[slot].place {
            Place::Unvouched => self.vouch(slot),
            // It asks again: an announcement may have been lost.
            Place::Announced => self.say(slot),
            _ => {}
        }
    }

    /// An entry that waited for it is vouched for now.
    fn vouch(&mut self, slot: u32) {
        self.unvouched -= 1;
        self.enter(slot);
    }

    /// A vouched entry: it is announced, and waits for the announcements of others, or competes for its number.
    pub(super) fn announce(&mut self, vouching: Vouching, slot: u32) {
        self.entries[slot].holders |= bit(vouching.member);
        self.say(slot);
        if self.is_strong(slot) {
            self.compete(slot);
            return;
        }
        let (session, number) = (self.entries[slot].session, self.entries[slot].number);
        if self.verified_candidate(session, number).is_none() {
            self.put_first(slot);
        }
        self.entries[slot].place = Place::Announced;
        self.announced.push_back(&mut self.entries, slot);
        self.make_idle(slot);
        self.advance(session);
    }

    fn compete(&mut self, slot: u32) {
        let (session, number) = (self.entries[slot].session, self.entries[slot].number);
        if self.proposable_candidate(session, number).is_none_or(|winner| winner == slot) {
            self.put_first(slot);
        }
        self.take_turn(slot);
    }

    fn say(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.entries[slot].unsaid, true) {
            self.holds.unsaid.push_back((slot, self.entries.generation(slot)));
        }
    }

    /// A member announces what it holds. Returns how many requests that are here changed their standing by that.
    pub fn hold(&mut self, member: u32, list: &[u8], now: u64) -> Result<usize, Misuse> {
        let vouching = self.vouching()?;
        if member >= vouching.members {
            return Err(Misuse(format!("member {member} of {}", vouching.members)));
        }
        let mut changed = 0;
        for digest in digests(list)? {
            if let Some(&slot) = self.digests.get(&digest) {
                changed += usize::from(self.count(slot, member));
            } else {
                self.holds.note(member, digest, vouching, now);
            }
        }
        self.holds.forget_wanted(vouching.weak(), now);
        Ok(changed)
    }

    fn count(&mut self, slot: u32, member: u32) -> bool {
        self.entries[slot].holders |= bit(member);
        match self.entries[slot].place {
            Place::Unvouched if self.is_vouched(slot) => self.vouch(slot),
            Place::Announced if self.is_strong(slot) => {
                self.announced.remove(&mut self.entries, slot);
                self.entries[slot].place = Place::Verified;
                self.compete(slot);
            }
            _ => return false,
        }
        true
    }

    /// The channel to a member is new: it may have restarted, and not hold what it announced before. It says again what it
    /// holds, and until then nothing is proposed, or expected of a leader, on its word. That somebody vouched for what is
    /// here stays true.
    pub fn void_holds(&mut self, member: u32) -> Result<(), Misuse> {
        let vouching = self.vouching()?;
        if member >= vouching.members {
            return Err(Misuse(format!("member {member} of {}", vouching.members)));
        }
        if member == vouching.member {
            return Ok(());
        }
        self.holds.void(member);
        let held = self.entries.slots().filter(|slot| self.entries[*slot].holders & bit(member) != 0);
        let mut held: Vec<u32> = held.collect();
        held.sort_unstable_by_key(|slot| self.entries[*slot].stamp);
        for slot in held {
            self.entries[slot].holders &= !bit(member);
            if self.entries[slot].is_proposable() && !self.is_strong(slot) {
                self.announce_again(slot);
            }
        }
        Ok(())
    }

    /// A request that enough held waits for announcements once more.
    fn announce_again(&mut self, slot: u32) {
        let (session, number) = (self.entries[slot].session, self.entries[slot].number);
        if self.entries[slot].place == Place::Ready {
            self.retreat(session, number);
        }
        self.entries[slot].place = Place::Announced;
        self.announced.push_back(&mut self.entries, slot);
        self.make_idle(slot);
        self.promote_candidate(session, number);
        self.advance(session);
    }

    /// Digests to announce now, at most so many.
    pub fn take_holds(&mut self, most: usize) -> Vec<u8> {
        let mut out = Vec::new();
        while out.len() < most * DIGEST_BYTES {
            let Some((slot, generation)) = self.holds.unsaid.pop_front() else { break };
            if self.entries.holds(slot, generation) {
                self.entries[slot].unsaid = false;
                out.extend_from_slice(&self.entries[slot].digest);
            }
        }
        out
    }

    /// Digests of vouched requests from before a time that are still pending, to announce once more: ready ones, oldest
    /// first, also if all have announced them, as a member that restarted has forgotten; then those that too few hold, in
    /// turn. Half of the room is for the ready ones: what clients tell few replicas does not keep them back.
    pub fn held(&mut self, before: u64, most: usize) -> Vec<u8> {
        let mut out = Vec::new();
        if self.config.vouching.is_none() {
            return out;
        }
        let next = self.add_ready(&mut out, self.ready.head, before, most - most / 2);
        for _ in 0..self.announced.len {
            let slot = self.announced.head;
            if out.len() >= most * DIGEST_BYTES {
                break;
            }
            self.announced.remove(&mut self.entries, slot);
            self.announced.push_back(&mut self.entries, slot);
            if self.entries[slot].arrival < before {
                out.extend_from_slice(&self.entries[slot].digest);
            }
        }
        self.add_ready(&mut out, next, before, most);
        out
    }

    /// Adds ready requests from `slot` on, until there are so many digests; returns the next one.
    fn add_ready(&self, out: &mut Vec<u8>, mut slot: u32, before: u64, most: usize) -> u32 {
        while slot != NONE && out.len() < most * DIGEST_BYTES && self.entries[slot].ready_at < before {
            out.extend_from_slice(&self.entries[slot].digest);
            slot = List::<PLACE>::next(&self.entries, slot);
        }
        slot
    }

    /// Digests of requests that are not here and that a member holds, wanted since before a time; and whether anything is
    /// wanted at all. What was looked at is looked at last the next time: nothing that cannot be had is in the way.
    pub fn wanted(&mut self, member: u32, before: u64, now: u64, most: usize) -> Result<(Vec<u8>, bool), Misuse> {
        let weak = self.vouching()?.weak();
        let holds = &mut self.holds;
        holds.forget_wanted(weak, now);
        let mut out = Vec::new();
        for _ in 0..holds.wanted.len() {
            if out.len() >= most * DIGEST_BYTES {
                break;
            }
            let Some((digest, stamp, since)) = holds.wanted.pop_front() else { break };
            if !holds.is_wanted(&digest, stamp, weak) || since + WANTED_FOR < now {
                holds.unlist(&digest, stamp);
                continue;
            }
            holds.wanted.push_back((digest, stamp, since));
            if since < before && holds.mask(&digest) & bit(member) != 0 {
                out.extend_from_slice(&digest);
            }
        }
        Ok((out, !holds.wanted.is_empty()))
    }

    /// Request list of those named requests that are here and vouched for, as far as they fit.
    pub fn held_requests(&self, list: &[u8], max_bytes: usize) -> Result<Vec<u8>, Misuse> {
        let mut out = Vec::new();
        for digest in digests(list)? {
            let Some(&slot) = self.digests.get(&digest) else { continue };
            let bytes = &self.entries[slot].bytes;
            if self.entries[slot].is_verified() && out.len() + 4 + bytes.len() <= max_bytes {
                push_item(&mut out, bytes);
            }
        }
        Ok(out)
    }
}
