//! The client's side: collects the replies to many requests from all replicas and finds those with enough equal ones.

use std::collections::{BTreeMap, HashMap};

use crate::frames::{FrameLimits, FrameReader};
use crate::wire::{array_at, status, Digest, WireError, DIGEST_BYTES, KIND_REPLY, REPLY_HEADER_BYTES};

/// Sets of replicas are bit masks.
pub const MAX_REPLICAS: usize = 64;
/// Bytes of a reply before what all correct replicas agree on.
const REPLICA_FIELD_BYTES: usize = 2;
const STATUS_AT: usize = 2;
const AGREED_TIME_AT: usize = 16;
const DIGEST_AT: usize = 24;
/// Frames other than replies that wait to be fetched, per replica.
const MAX_OTHERS: usize = 1024;

/// Equal replies so far: which replicas sent these bytes (without the replica field).
struct Candidate {
    payload: Vec<u8>,
    replicas: u64,
}

struct Slot {
    tag: u64,
    sent: u64,
    candidates: Vec<Candidate>,
    /// Refusals by status and replica. They are no results: what they carry may differ, and a result replaces them.
    refusals: Vec<(u8, usize, Vec<u8>)>,
}

/// A request with enough equal replies.
pub struct Completion {
    pub tag: u64,
    pub status: u8,
    pub payload: Vec<u8>,
}

/// Everything about a matcher's requests; the connections' reassembly is beside it.
struct Tally {
    quorum: usize,
    slots: HashMap<Digest, Slot>,
    keep_replies: bool,
    completed: Vec<Completion>,
    newly_completed: usize,
    others: Vec<(usize, u8, Vec<u8>)>,
    latencies: Vec<u32>,
    statuses: BTreeMap<u8, u64>,
    results: BTreeMap<u8, u64>,
    acknowledged: Vec<u8>,
}

pub struct ReplyMatcher {
    readers: Vec<FrameReader>,
    tally: Tally,
}

impl ReplyMatcher {
    /// `limits`: the frames accepted from replicas.
    pub fn new(replicas: usize, quorum: usize, limits: FrameLimits) -> Self {
        ReplyMatcher {
            readers: (0..replicas).map(|_| FrameReader::new(limits.clone())).collect(),
            tally: Tally {
                quorum,
                slots: HashMap::new(),
                keep_replies: true,
                completed: Vec::new(),
                newly_completed: 0,
                others: Vec::new(),
                latencies: Vec::new(),
                statuses: BTreeMap::new(),
                results: BTreeMap::new(),
                acknowledged: Vec::new(),
            },
        }
    }

    pub fn replicas(&self) -> usize {
        self.readers.len()
    }

    /// Requests just sent get the tags from `first_tag` on; one that is already expected keeps what it has.
    pub fn expect(&mut self, digests: &[u8], first_tag: u64, now: u64) {
        self.tally.slots.reserve(digests.len() / DIGEST_BYTES);
        for (digest, tag) in digests.chunks_exact(DIGEST_BYTES).zip(first_tag..) {
            let fresh = || Slot { tag, sent: now, candidates: Vec::new(), refusals: Vec::new() };
            self.tally.slots.entry(array_at(digest, 0)).or_insert_with(fresh);
        }
    }

    pub fn forget(&mut self, digest: &Digest) {
        self.tally.slots.remove(digest);
    }

    pub fn keep_replies(&mut self, keep: bool) {
        self.tally.keep_replies = keep;
        if !keep {
            self.tally.completed = Vec::new();
        }
    }

    /// A new connection to a replica replaces the old one: what was left of a frame is void.
    pub fn reset(&mut self, replica: usize) {
        self.readers[replica].reset();
    }

    /// Takes bytes from the connection to a replica; returns how many requests they completed.
    pub fn feed(&mut self, replica: usize, data: &[u8], now: u64) -> Result<usize, WireError> {
        let tally = &mut self.tally;
        tally.newly_completed = 0;
        self.readers[replica].feed(data, &mut |kind: u8, payload: &[u8]| match kind {
            KIND_REPLY => tally.reply(replica, payload, now),
            _ => tally.other(replica, kind, payload),
        })?;
        Ok(tally.newly_completed)
    }

    pub fn outstanding(&self) -> usize {
        self.tally.slots.len()
    }

    pub fn take_completed(&mut self) -> Vec<Completion> {
        std::mem::take(&mut self.tally.completed)
    }

    pub fn take_others(&mut self) -> Vec<(usize, u8, Vec<u8>)> {
        std::mem::take(&mut self.tally.others)
    }

    pub fn take_latencies(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.tally.latencies)
    }

    pub fn statuses(&self) -> &BTreeMap<u8, u64> {
        &self.tally.statuses
    }

    pub fn results(&self) -> &BTreeMap<u8, u64> {
        &self.tally.results
    }

    pub fn acknowledged(&self) -> &[u8] {
        &self.tally.acknowledged
    }
}

impl Tally {
    fn other(&mut self, replica: usize, kind: u8, payload: &[u8]) -> Result<(), WireError> {
        if self.others.iter().filter(|(from, _, _)| *from == replica).count() >= MAX_OTHERS {
            return Err(WireError::Frame(format!("more than {MAX_OTHERS} frames that nobody asked for")));
        }
        self.others.push((replica, kind, payload.to_vec()));
        Ok(())
    }

    fn reply(&mut self, replica: usize, payload: &[u8], now: u64) -> Result<(), WireError> {
        if payload.len() < REPLY_HEADER_BYTES {
            let length = payload.len();
            return Err(WireError::Malformed(format!("a reply of {length} bytes; the least is {REPLY_HEADER_BYTES}")));
        }
        let digest: Digest = array_at(payload, DIGEST_AT);
        let Some(slot) = self.slots.get_mut(&digest) else {
            return Ok(()); // late, or never asked for
        };
        let status = payload[STATUS_AT];
        let complete = if status == status::EXECUTED {
            slot.count_result(replica, &payload[REPLICA_FIELD_BYTES..], self.quorum)
        } else {
            slot.count_refusal(replica, status, &payload[REPLICA_FIELD_BYTES..], self.quorum)
        };
        if let Some(reply) = complete {
            self.complete(&digest, status, reply, now);
        }
        Ok(())
    }

    fn complete(&mut self, digest: &Digest, status: u8, payload: Vec<u8>, now: u64) {
        let Some(slot) = self.slots.remove(digest) else { return };
        self.newly_completed += 1;
        self.latencies.push(u32::try_from(now.saturating_sub(slot.sent)).unwrap_or(u32::MAX));
        *self.statuses.entry(status).or_default() += 1;
        if status == status::EXECUTED {
            self.acknowledged.extend_from_slice(digest);
            if let Some(code) = payload.get(REPLY_HEADER_BYTES - REPLICA_FIELD_BYTES) {
                *self.results.entry(*code).or_default() += 1;
            }
        }
        if self.keep_replies {
            self.completed.push(Completion { tag: slot.tag, status, payload });
        }
    }
}

impl Slot {
    /// Counts a result once per replica; the payload once enough replicas sent it.
    fn count_result(&mut self, replica: usize, payload: &[u8], quorum: usize) -> Option<Vec<u8>> {
        let bit = 1u64 << replica;
        if self.candidates.iter().any(|candidate| candidate.replicas & bit != 0) {
            return None;
        }
        self.refusals.retain(|(_, from, _)| *from != replica);
        let at = match self.candidates.iter().position(|candidate| candidate.payload == payload) {
            Some(at) => at,
            None => {
                self.candidates.push(Candidate { payload: payload.to_vec(), replicas: 0 });
                self.candidates.len() - 1
            }
        };
        let candidate = &mut self.candidates[at];
        candidate.replicas |= bit;
        (candidate.replicas.count_ones() as usize >= quorum).then(|| std::mem::take(&mut candidate.payload))
    }

    /// Counts a refusal by its status; of enough equal ones, the one with the middle agreed time speaks for them.
    fn count_refusal(&mut self, replica: usize, status: u8, payload: &[u8], quorum: usize) -> Option<Vec<u8>> {
        let bit = 1u64 << replica;
        if self.candidates.iter().any(|candidate| candidate.replicas & bit != 0) {
            return None;
        }
        self.refusals.retain(|(_, from, _)| *from != replica);
        self.refusals.push((status, replica, payload.to_vec()));
        let mut equal: Vec<&Vec<u8>> =
            self.refusals.iter().filter(|(other, _, _)| *other == status).map(|(_, _, payload)| payload).collect();
        if equal.len() < quorum {
            return None;
        }
        equal.sort_by_key(|payload| crate::wire::u64_at(payload, AGREED_TIME_AT - REPLICA_FIELD_BYTES));
        Some(equal[(equal.len() - 1) / 2].clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{push_frame_header, ReplyHeader};

    const DIGEST: Digest = [7; 32];

    fn reply(replica: u16, status: u8, agreed_time: u64, result: &[u8]) -> Vec<u8> {
        let header = ReplyHeader { replica, status, level: 1, view: 2, instance: 3, agreed_time, digest: DIGEST };
        let mut out = Vec::new();
        push_frame_header(&mut out, KIND_REPLY, REPLY_HEADER_BYTES + result.len());
        out.extend_from_slice(&header.encode());
        out.extend_from_slice(result);
        out
    }

    fn matcher(replicas: usize, quorum: usize) -> ReplyMatcher {
        let mut matcher = ReplyMatcher::new(replicas, quorum, FrameLimits::new([(KIND_REPLY, 1000), (6, 100)]));
        matcher.expect(&DIGEST, 40, 1_000);
        matcher
    }

    #[test]
    fn completes_at_the_quorum_of_equal_replies() {
        let mut matcher = matcher(4, 2);
        assert_eq!(matcher.feed(0, &reply(0, 0, 5, b"no"), 1_100), Ok(0));
        assert_eq!(matcher.feed(1, &reply(1, 0, 5, b"yes"), 1_200), Ok(0));
        assert_eq!(matcher.feed(1, &reply(1, 0, 5, b"yes"), 1_300), Ok(0), "a replica counts once");
        assert_eq!(matcher.feed(1, &reply(1, 0, 5, b"no"), 1_300), Ok(0), "and says one thing");
        assert_eq!(matcher.feed(3, &reply(3, 0, 5, b"yes"), 1_450), Ok(1));
        assert_eq!(matcher.feed(2, &reply(2, 0, 5, b"yes"), 1_500), Ok(0), "late");
        let done = matcher.take_completed();
        assert_eq!((done.len(), done[0].tag, done[0].status), (1, 40, 0));
        assert_eq!(&done[0].payload[54..], b"yes");
        assert_eq!(matcher.take_latencies(), [450]);
        assert_eq!(matcher.outstanding(), 0);
        assert_eq!(matcher.acknowledged(), DIGEST);
        assert_eq!(matcher.results().get(&b'y'), Some(&1));
    }

    #[test]
    fn refusals_agree_by_status_and_give_way_to_results() {
        let mut matcher = matcher(4, 2);
        assert_eq!(matcher.feed(0, &reply(0, status::OVERLOADED, 5, b""), 0), Ok(0));
        assert_eq!(matcher.feed(0, &reply(0, 0, 5, b"r"), 0), Ok(0));
        assert_eq!(matcher.feed(1, &reply(1, status::OVERLOADED, 9, b""), 0), Ok(0));
        assert_eq!(matcher.feed(1, &reply(1, status::SESSION_REFUSED, 9, b""), 0), Ok(0));
        assert_eq!(matcher.feed(2, &reply(2, status::SESSION_REFUSED, 4, b""), 0), Ok(1));
        let done = matcher.take_completed();
        assert_eq!(done[0].status, status::SESSION_REFUSED);
        assert_eq!(crate::wire::u64_at(&done[0].payload, 14), 4);
        assert!(matcher.acknowledged().is_empty());
    }

    #[test]
    fn short_replies_are_malformed_and_others_are_kept() {
        let mut matcher = matcher(1, 1);
        assert_eq!(matcher.feed(0, &[2, 0, 0, 0, 6, 9], 0), Ok(0));
        assert_eq!(matcher.take_others(), [(0, 6, vec![9])]);
        assert!(matches!(matcher.feed(0, &[2, 0, 0, 0, 3, 9], 0), Err(WireError::Malformed(_))));
        matcher.reset(0);
        assert_eq!(matcher.feed(0, &reply(0, 0, 0, b""), 0), Ok(1));
    }
}
