//! Random histories against the pool's own bookkeeping. What the pool decides and answers is compared with its oracle from
//! Python; here every list, count and index must be true after every step.

use super::admission::Arrival;
use super::pool::{Place, PoolConfig, RequestPool};
use super::sessions::{SessionLimits, Standing};
use super::slab::{List, NONE};
use super::sources::FROM_MEMBER;
use super::verification::VerifyJob;
use super::{Execution, Verdict};
use crate::wire::tests::request;
use crate::wire::{items, push_item, requests, Domains, RequestView};

const START: u64 = 10_000;
const BATCH_BYTES: usize = 1500;

fn config() -> PoolConfig {
    PoolConfig {
        replica: 1,
        window: 3,
        max_requests: 12,
        max_bytes: 2200,
        max_operation_bytes: 64,
        max_unverified_per_source: 4,
        admit_unverified: false,
        max_idle: 300,
        vouching: None,
        sessions: SessionLimits { max_sessions: 4, max_sessions_per_key: 2, lease: 1000, skew: 100 },
    }
}

/// A small deterministic generator (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % limit
    }

    fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize]
    }

    fn request(&mut self, now: u64) -> Vec<u8> {
        let session = self.pick(&[START, START + 40, now / 250 * 250, now - 1020, now + 90]);
        let (key, sequence) = (self.below(3) as u8, 1 + self.below(6));
        let size = self.pick(&[0usize, 0, 64]);
        request(key, session, sequence, &[7; 64][..size], self.below(4) as u8)
    }
}

/// Everything that the pool keeps twice agrees.
fn check_bookkeeping(pool: &RequestPool) {
    let stats = pool.stats();
    let (mut pending, mut unverified, mut ready, mut in_ring) = (0, 0, 0, 0);
    let mut session_slots = Vec::new();
    let mut idle = 0;
    for slot in 0..10_000 {
        let Some(session) = pool.sessions.slab.get(slot) else { continue };
        session_slots.push(slot);
        assert_eq!(pool.sessions.find(&session.id), Some(slot));
        assert!(session.received >= session.ordered && session.ordered >= session.executed);
        assert!(session.executed >= session.released);
        assert!(session.replies.len() <= 3 && session.routes.len() <= 6);
        assert!(session.is_open() || session.pending > 0, "a session without reason");
        assert_eq!(session.in_ring, session.received > session.ordered);
        in_ring += u32::from(session.in_ring);
        let mut own = 0;
        for candidates in &session.numbers {
            assert!(candidates.number > session.ordered && !candidates.list.is_empty());
            let slots = candidates.list.slots(&pool.entries);
            own += slots.len() as u32;
            for (position, slot) in slots.iter().enumerate() {
                let entry = &pool.entries[*slot];
                assert_eq!(pool.digests.get(&entry.digest), Some(slot));
                unverified += u64::from(!entry.is_verified());
                assert!(!entry.is_verified() || position == 0 || entry.named, "an unnamed loser is kept");
                let reachable = candidates.number <= session.received && position == 0;
                assert_eq!(entry.place == Place::Ready, reachable);
                let could_not = entry.is_verified() && !reachable && !entry.reserve;
                assert_eq!(entry.idle_since.is_some(), could_not);
                idle += u32::from(could_not);
                ready += u32::from(reachable);
            }
        }
        assert!(session.numbers.iter().zip(session.numbers.iter().skip(1)).all(|(a, b)| a.number < b.number));
        assert_eq!(session.pending, own);
        pending += u64::from(own);
        assert!(session.is_open() || session.in_ring == (session.standing == Standing::Waiting), "an idle place");
    }
    assert_eq!(session_slots.len(), pool.sessions.slab.len());
    assert_eq!((stats.pending, stats.unverified), (pending, unverified));
    assert_eq!((pool.ready.len, pool.sessions.ring.len), (ready, in_ring));
    assert_eq!(pool.digests.len() as u64, pending);
    assert_eq!(pool.idle.len, idle);
    let counted = pool.load.requests as u32;
    assert_eq!((pool.sources.shares.entries(), pool.sessions.shares.entries()), (counted, counted));
    assert_eq!(pool.sources.idle_shares.entries(), idle);
    assert_eq!((pool.load.requests + pool.reserve_load.requests) as u64, pending);
    assert!(pool.load.requests <= 12 && pool.load.bytes <= 2200);
    assert!(pool.reserve_load.requests <= 12 && pool.reserve_load.bytes <= 2200);
    assert!(pool.sessions.open_count() <= 4);
    let mut at = pool.ready.head;
    let mut last = 0;
    while at != NONE {
        assert!(pool.entries[at].ready_at >= last, "ready requests are in order of time");
        last = pool.entries[at].ready_at;
        at = List::<0>::next(&pool.entries, at);
    }
}

struct History {
    random: Random,
    pool: RequestPool,
    domains: Domains,
    now: u64,
    jobs: Vec<VerifyJob>,
    instance: u64,
    decided: Vec<(u64, u64, Vec<u8>, Vec<u8>)>,
}

impl History {
    fn new(seed: u64) -> Self {
        History {
            random: Random(seed * 2 + 1),
            pool: RequestPool::new(&[0; 32], config()),
            domains: Domains::new(&[0; 32]),
            now: START,
            jobs: Vec::new(),
            instance: 0,
            decided: Vec::new(),
        }
    }

    fn step(&mut self) {
        match self.random.below(14) {
            0..=2 => self.receive(),
            3 => {
                let body = self.random.request(self.now);
                let mut list = Vec::new();
                push_item(&mut list, &body);
                self.pool.admit_body(&list, self.now).unwrap();
            }
            4 | 5 => self.jobs.extend(self.pool.take_unverified(3)),
            6 | 7 => self.judge(),
            8 => self.decide_elsewhere(),
            9 => self.propose(),
            12 => self.import_own_sessions(),
            13 => self.pool.pass_time(self.now),
            10 => self.now += self.random.pick(&[1, 1, 10, 10, 100, 600]),
            _ => self.pool.drop_source(self.random.pick(&[1, 2])),
        }
        self.pool.take_replies();
        check_bookkeeping(&self.pool);
    }

    fn receive(&mut self) {
        let bytes: Vec<Vec<u8>> = (0..3).map(|_| self.random.request(self.now)).collect();
        let batch: Vec<RequestView> = bytes.iter().map(|bytes| RequestView::parse(bytes, 64).unwrap()).collect();
        let arrival = Arrival::new(self.random.pick(&[0, 1, 2, FROM_MEMBER, FROM_MEMBER + 2]), self.now);
        self.pool.admit_many(&batch, arrival);
    }

    /// A signature of threes is bad, one of twos is of a request that the application refuses.
    fn judge(&mut self) {
        if self.jobs.is_empty() {
            return;
        }
        let which = self.random.below(self.jobs.len() as u64) as usize;
        let job = self.jobs.swap_remove(which);
        let verdict = |first: u8| [1, 1, 2, 0][first as usize];
        let mask: Vec<u8> = job.items.iter().map(|item| verdict(item.request().signature()[0])).collect();
        self.pool.apply_verdicts(&job, &mask, &[]);
    }

    fn propose(&mut self) {
        let timestamp = self.now.max(self.pool.agreed_time() + 1);
        let (names, list) = self.pool.form_batch(5, BATCH_BYTES, timestamp);
        if !names.is_empty() {
            assert_eq!(self.pool.check(&list, timestamp, 5, BATCH_BYTES), Verdict::Valid);
            assert_eq!(self.pool.resolve(&names, false).unwrap().list, list);
            self.decide(names, list, timestamp);
        }
        self.execute();
    }

    /// As a replica that is overtaken: everything pending goes, wherever it is.
    fn import_own_sessions(&mut self) {
        self.execute();
        let exported = self.pool.export_sessions(self.instance).unwrap();
        self.pool.import_sessions(&exported, self.pool.agreed_time(), 0).unwrap();
        assert_eq!((self.pool.stats().pending, self.pool.ready()), (0, 0));
        assert_eq!(self.pool.export_sessions(self.instance).unwrap(), exported);
    }

    fn decide_elsewhere(&mut self) {
        let mut list = Vec::new();
        push_item(&mut list, &self.random.request(self.now));
        let timestamp = self.now.max(self.pool.agreed_time() + 1);
        if self.pool.check(&list, timestamp, 5, BATCH_BYTES) == Verdict::Valid {
            let names = requests(&list, 64).map(|one| self.domains.digest(one.unwrap().bytes)).collect::<Vec<_>>();
            self.decide(names.concat(), list, timestamp);
        }
    }

    fn decide(&mut self, names: Vec<u8>, list: Vec<u8>, timestamp: u64) {
        self.instance += 1;
        self.pool.decide(&names, &list, self.instance, timestamp).unwrap();
        self.decided.push((self.instance, timestamp, names, list));
    }

    fn execute(&mut self) {
        for (instance, timestamp, names, list) in std::mem::take(&mut self.decided) {
            let mut results = Vec::new();
            items(&list).for_each(|_| push_item(&mut results, b"result"));
            let execution = Execution { instance, view: 0, timestamp, level: 0 };
            self.pool.executed(&names, &list, &results, execution).unwrap();
            self.pool.release(&names, &list).unwrap();
        }
    }
}

#[test]
fn bookkeeping_is_true_after_every_step() {
    for seed in 0..60 {
        let mut history = History::new(seed);
        for _ in 0..300 {
            history.step();
        }
    }
}
