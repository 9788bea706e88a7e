//! The connections that requests come from: their shares of unverified requests and the replies that wait for them.

use std::collections::VecDeque;

use super::index::Map;
use super::pool::Entry;
use super::room::IDLE_BY_SOURCE;
use super::shares::{Shares, BY_SOURCE};
use super::slab::{Linked, List, Slab};
use crate::wire::{push_frame_header, FRAME_HEADER_BYTES, KEY_BYTES, KIND_REPLY};

/// Link number of an entry's place: one of the verification queues, or the ready requests.
pub const PLACE: usize = 0;

/// Source number of requests that came from no client's connection.
pub const NO_SOURCE: u64 = 0;

/// From this number on sources are members, by their ids: they answer for what they pass on, like a client's connection
/// for what it sends. They have their own turns at the verifier; replies go to clients alone.
pub const FROM_MEMBER: u64 = 1 << 63;

/// Bytes waiting for a source beyond which refusals and repeated replies to it are dropped (the client asks again).
const OPTIONAL_REPLY_BYTES: usize = 256 * 1024;

#[derive(Default)]
pub struct Source {
    /// Distinguishes connections that used one number one after the other; from 1.
    epoch: u64,
    /// Its share of the pool, and of what cannot be proposed.
    pub account: u32,
    pub idle_account: u32,
    /// The client key that was proven on it.
    pub key: Option<[u8; KEY_BYTES]>,
    pub queue: List<PLACE>,
    /// Its requests that are queued for verification or being verified.
    pub unverified: usize,
    in_turn: bool,
    out: Vec<u8>,
    /// As much as was taken the last time: about as much as will come again.
    expected_out: usize,
}

/// All connections, by number. The order in which they are served is that of the two queues, never that of the map.
#[derive(Default)]
pub struct Sources {
    map: Map<u64, Source>,
    turns: VecDeque<u64>,
    with_replies: VecDeque<u64>,
    epochs: u64,
    /// What a member's account is guaranteed.
    guaranteed: u64,
    pub shares: Shares<BY_SOURCE>,
    pub idle_shares: Shares<IDLE_BY_SOURCE>,
}

impl Sources {
    pub fn new(guaranteed: u64) -> Sources {
        Sources { guaranteed, ..Sources::default() }
    }

    pub fn register(&mut self, source: u64) -> &mut Source {
        let Sources { map, epochs, guaranteed, shares, idle_shares, .. } = self;
        map.entry(source).or_insert_with(|| {
            *epochs += 1;
            Source {
                epoch: *epochs,
                account: shares.open(if source < FROM_MEMBER { 0 } else { *guaranteed }),
                idle_account: idle_shares.open(0),
                ..Source::default()
            }
        })
    }

    /// Takes an entry out of the share of its source; one that is gone ends with its last entry.
    pub fn take(&mut self, account: u32, idle_account: u32, entries: &mut Slab<Entry>, slot: u32, weight: u64) {
        if self.shares.remove(account, entries, slot, weight) {
            self.idle_shares.leave(idle_account);
        }
    }

    pub fn get_mut(&mut self, source: u64) -> Option<&mut Source> {
        self.map.get_mut(&source)
    }

    pub fn key(&self, source: u64) -> Option<&[u8]> {
        self.map.get(&source)?.key.as_ref().map(<[u8; KEY_BYTES]>::as_slice)
    }

    pub fn unverified(&self, source: u64) -> usize {
        self.map.get(&source).map_or(0, |source| source.unverified)
    }

    /// Queues an entry behind the others of its source and counts it; returns the source's epoch.
    pub fn enqueue<T: Linked>(&mut self, source: u64, slab: &mut Slab<T>, slot: u32) -> u64 {
        let state = self.register(source);
        state.queue.push_back(slab, slot);
        state.unverified += 1;
        let epoch = state.epoch;
        if !std::mem::replace(&mut state.in_turn, true) {
            self.turns.push_back(source);
        }
        epoch
    }

    /// A request that was counted in this epoch is no longer unverified, or no longer its source's.
    pub fn uncount(&mut self, source: u64, epoch: u64) {
        if let Some(state) = self.map.get_mut(&source).filter(|state| state.epoch == epoch) {
            state.unverified -= 1;
        }
    }

    /// The next entry in turn, taken off its queue; its source still answers for it.
    pub fn next<T: Linked>(&mut self, slab: &mut Slab<T>) -> Option<u32> {
        while let Some(source) = self.turns.pop_front() {
            let Some(state) = self.map.get_mut(&source) else { continue };
            let slot = state.queue.head;
            if state.queue.is_empty() {
                state.in_turn = false;
                continue;
            }
            state.queue.remove(slab, slot);
            state.in_turn = !state.queue.is_empty();
            if state.in_turn {
                self.turns.push_back(source);
            }
            return Some(slot);
        }
        None
    }

    /// Forgets a connection; returns its queue.
    pub fn drop_source(&mut self, source: u64) -> List<PLACE> {
        let Some(state) = self.map.remove(&source) else {
            return List::default();
        };
        if self.shares.leave(state.account) {
            self.idle_shares.leave(state.idle_account);
        }
        self.turns.retain(|other| *other != source);
        self.with_replies.retain(|other| *other != source);
        state.queue
    }

    /// Appends a reply frame for a connection that still exists; false if there is none.
    pub fn reply(&mut self, source: u64, payload: &[u8]) -> bool {
        self.append(source, payload, usize::MAX)
    }

    /// As `reply`, but dropped when much waits already: nothing a client sends may fill our memory with answers.
    pub fn reply_if_room(&mut self, source: u64, payload: &[u8]) -> bool {
        self.append(source, payload, OPTIONAL_REPLY_BYTES)
    }

    fn append(&mut self, source: u64, payload: &[u8], most: usize) -> bool {
        let Some(state) = self.map.get_mut(&source) else {
            return false;
        };
        if source == NO_SOURCE || state.out.len() + payload.len() > most {
            return false;
        }
        if state.out.is_empty() {
            self.with_replies.push_back(source);
            state.out.reserve_exact(state.expected_out.max(FRAME_HEADER_BYTES + payload.len()));
        }
        push_frame_header(&mut state.out, KIND_REPLY, payload.len());
        state.out.extend_from_slice(payload);
        true
    }

    /// What waits for each connection, in the order in which something began to wait for them.
    pub fn take_replies(&mut self) -> Vec<(u64, Vec<u8>)> {
        let mut taken = Vec::with_capacity(self.with_replies.len());
        while let Some(source) = self.with_replies.pop_front() {
            if let Some(state) = self.map.get_mut(&source) {
                state.expected_out = state.out.len();
                taken.push((source, std::mem::take(&mut state.out)));
            }
        }
        taken
    }
}
