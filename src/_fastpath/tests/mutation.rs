//! Mutated bytes into every parser of this crate: none may panic, and what one accepts has one encoding.
//!
//! The same as `tests/fuzz` does through Python, without Python's cost: `SMARTBFT_FUZZ_EXECUTIONS` inputs for each
//! parser, always the same ones.

use fastpath::coin::execute::{check_batch, Machine, Parameters};
use fastpath::coin::operation::Operation;
use fastpath::frames::{FrameLimits, FrameReader};
use fastpath::log::encoder::Encoder;
use fastpath::log::format::{Identity, RecordHeader, SegmentHeader, RECORD_HEADER_SIZE, SEGMENT_HEADER_SIZE};
use fastpath::log::parser::Parser;
use fastpath::matcher::ReplyMatcher;
use fastpath::requests::{PoolConfig, RequestPool, SessionLimits};
use fastpath::wire::{self, ReplyHeader, RequestView, WireError};

const CHAIN: [u8; 32] = [3; 32];
const IDENTITY: Identity = Identity { chain_id: CHAIN, replica: 1 };
const MAX_OPERATION: usize = 100;

fn executions() -> usize {
    let chosen = std::env::var("SMARTBFT_FUZZ_EXECUTIONS").ok().and_then(|text| text.parse().ok());
    chosen.unwrap_or(20_000)
}

/// Random numbers (splitmix64): the same seed, the same inputs.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }
}

const BOUNDARIES: [u64; 12] =
    [0, 1, 2, 127, 255, 512, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, i64::MAX as u64, 1 << 63, u64::MAX];

/// One to three changes: bits, bytes, numbers at their limits, cuts, repeats, pieces of the same input.
fn mutate(random: &mut Random, seed: &[u8]) -> Vec<u8> {
    let mut data = seed.to_vec();
    for _ in 0..1 + random.below(3) {
        let at = random.below(data.len() + 1);
        let size = [1, 2, 8, 32, 72][random.below(5)].min(data.len() - at);
        match random.below(7) {
            0 if at < data.len() => data[at] ^= 1 << random.below(8),
            1 if at < data.len() => data[at] = BOUNDARIES[random.below(5)] as u8,
            2 => {
                let width = [2, 4, 8][random.below(3)];
                let number = BOUNDARIES[random.below(BOUNDARIES.len())].to_le_bytes();
                if at + width <= data.len() {
                    data[at..at + width].copy_from_slice(&number[..width]);
                }
            }
            3 => data.truncate(at),
            4 => drop(data.drain(at..at + size)),
            5 => {
                let piece = data[at..at + size].to_vec();
                data.splice(at..at, piece);
            }
            _ => data.insert(at, random.next() as u8),
        }
    }
    data
}

/// Tries a parser with mutations of valid inputs; it returns whether it accepted, and panics where it breaks a promise.
fn fuzz(seeds: &[Vec<u8>], mut parse: impl FnMut(&[u8]) -> bool) {
    let mut random = Random(1);
    let mut accepted = 0;
    for seed in seeds {
        assert!(parse(seed), "a valid input is refused");
    }
    for _ in 0..executions() {
        let seed = &seeds[random.below(seeds.len())];
        accepted += usize::from(parse(&mutate(&mut random, seed)));
    }
    assert!(accepted > 0, "the mutations do not reach what lies behind the first check");
}

fn request(sequence: u64, operation: &[u8]) -> Vec<u8> {
    let mut out = vec![7; 32];
    out.extend_from_slice(&5u64.to_le_bytes());
    out.extend_from_slice(&sequence.to_le_bytes());
    wire::push_item(&mut out, operation);
    out.extend_from_slice(&[9; 64]);
    out
}

fn list(items: &[Vec<u8>]) -> Vec<u8> {
    let mut out = Vec::new();
    items.iter().for_each(|item| wire::push_item(&mut out, item));
    out
}

fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    wire::push_frame_header(&mut out, kind, payload.len());
    out.extend_from_slice(payload);
    out
}

#[test]
fn requests_have_one_encoding() {
    fuzz(&[request(1, b""), request(2, b"operation")], |data| match RequestView::parse(data, MAX_OPERATION) {
        Ok(view) => {
            assert_eq!(data, [view.signed(), view.signature()].concat());
            assert_eq!(data, request_of(&view));
            true
        }
        Err(WireError::Malformed(_)) => false,
        Err(error) => panic!("a request is no frame: {error:?}"),
    });
}

fn request_of(view: &RequestView) -> Vec<u8> {
    let mut out = view.key().to_vec();
    out.extend_from_slice(&view.session_number().to_le_bytes());
    out.extend_from_slice(&view.sequence().to_le_bytes());
    wire::push_item(&mut out, view.operation());
    out.extend_from_slice(view.signature());
    out
}

#[test]
fn request_lists_have_one_encoding() {
    let seeds = [list(&[request(1, b"a"), request(2, b""), request(3, &[1; 50])]), Vec::new()];
    fuzz(&seeds, |data| {
        let parsed: Result<Vec<_>, _> = wire::requests(data, MAX_OPERATION).collect();
        parsed.is_ok_and(|requests| {
            let again: Vec<Vec<u8>> = requests.iter().map(|view| view.bytes.to_vec()).collect();
            assert_eq!(data, list(&again));
            true
        })
    });
}

#[test]
fn reply_headers_have_one_encoding() {
    let header = ReplyHeader { replica: 1, status: 0, level: 2, view: 0, instance: 9, agreed_time: 7, digest: CHAIN };
    let seed = [header.encode().as_slice(), b"result"].concat();
    fuzz(&[seed], |data| {
        ReplyHeader::parse(data).is_ok_and(|parsed| {
            assert_eq!(parsed.encode(), data[..wire::REPLY_HEADER_BYTES]);
            true
        })
    });
}

/// The frames in `pieces`, in order; `None` where the stream breaks the protocol.
fn frames_of(pieces: &[&[u8]]) -> Option<Vec<(u8, Vec<u8>)>> {
    let mut reader = FrameReader::new(FrameLimits::new([(1, 10), (2, 200)]));
    let mut seen = Vec::new();
    for piece in pieces {
        let mut sink = |kind: u8, payload: &[u8]| {
            seen.push((kind, payload.to_vec()));
            Ok(())
        };
        reader.feed(piece, &mut sink).ok()?;
        assert!(reader.buffered() <= 4 + 201, "a reader keeps more than one frame");
    }
    Some(seen)
}

#[test]
fn frames_do_not_depend_on_how_they_are_cut() {
    let seeds = [[frame(1, b"0123456789"), frame(2, &[5; 200]), frame(1, b"")].concat(), frame(2, b"x")];
    fuzz(&seeds, |data| {
        let whole = frames_of(&[data]);
        let (start, end) = data.split_at(data.len() / 2);
        assert_eq!(frames_of(&[start, end]), whole);
        let bytes: Vec<&[u8]> = data.chunks(1).collect();
        assert_eq!(frames_of(&bytes), whole);
        whole.is_some()
    });
}

#[test]
fn one_replica_completes_nothing() {
    let header = ReplyHeader { replica: 3, status: 0, level: 2, view: 0, instance: 9, agreed_time: 7, digest: CHAIN };
    let reply = frame(wire::KIND_REPLY, &[header.encode().as_slice(), b"result"].concat());
    fuzz(&[reply.clone(), reply.repeat(3)], |data| {
        let mut matcher = ReplyMatcher::new(4, 2, FrameLimits::new([(wire::KIND_REPLY, 1000), (6, 100)]));
        matcher.expect(&CHAIN, 0, 0);
        let outcome = matcher.feed(3, data, 0);
        assert_eq!(matcher.outstanding(), 1);
        outcome.is_ok_and(|completed| completed == 0)
    });
}

#[test]
fn operations_are_parsed_as_a_whole() {
    let mint = [&[1, 2][..], &5u64.to_le_bytes(), &6u64.to_le_bytes(), &[0, 0]].concat();
    let spend = [&[2, 1][..], &[8; 32], &[1], &[7; 32], &5u64.to_le_bytes(), &[2, 0, 1, 1]].concat();
    let coins = [&[4][..], &[7; 32], &[3, 0]].concat();
    let mut scratch = Vec::new();
    fuzz(&[mint, spend, [&[3][..], &[7; 32]].concat(), coins], |data| {
        Operation::parse(data).is_ok_and(|operation| {
            let _verdict = operation.check(&mut scratch);
            true
        })
    });
}

fn machine() -> Machine {
    Machine::new(Parameters { chain_id: CHAIN, minters: vec![[7; 32]], receipt_bytes_mint: 0, receipt_bytes_spend: 0 })
}

#[test]
fn batches_give_one_result_each_or_none_at_all() {
    let mint = [&[1, 2][..], &5u64.to_le_bytes(), &6u64.to_le_bytes(), &[0, 0]].concat();
    let query = [&[3][..], &[7; 32]].concat();
    let mut machine = machine();
    fuzz(&[list(&[request(1, &mint), request(2, &query)]), Vec::new()], |data| {
        let checked = check_batch(data).ok();
        let results = machine.execute_batch(data, None).ok();
        assert_eq!(checked.is_some(), results.is_some());
        let counted = results.map(|results| wire::items(&results).filter(Result::is_ok).count());
        assert_eq!(counted, checked.map(|verdicts| verdicts.len()));
        counted.is_some()
    });
}

#[test]
fn snapshots_have_one_encoding() {
    let mint = [&[1, 3][..], &5u64.to_le_bytes(), &6u64.to_le_bytes(), &7u64.to_le_bytes(), &[0, 0]].concat();
    let mut machine = machine();
    assert!(machine.execute_batch(&list(&[request(1, &mint)]), None).is_ok());
    let good = machine.snapshot();
    let mut current = good.clone();
    fuzz(&[good], |data| {
        let restored = machine.restore(data).is_ok();
        if restored {
            current = data.to_vec();
        }
        assert_eq!(machine.snapshot(), current);
        restored
    });
}

fn pool() -> RequestPool {
    let sessions = SessionLimits { max_sessions: 3, max_sessions_per_key: 2, lease: 1_000, skew: 100 };
    RequestPool::new(
        &CHAIN,
        PoolConfig {
            replica: 1,
            window: 2,
            max_requests: 10,
            max_bytes: 10_000,
            max_operation_bytes: MAX_OPERATION,
            max_unverified_per_source: 10,
            admit_unverified: false,
            max_idle: 1_000,
            vouching: None,
            sessions,
        },
    )
}

/// A session with one executed request and its reply.
fn session(key: u8, number: u64) -> Vec<u8> {
    let mut out = vec![key; 32];
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&1u64.to_le_bytes());
    out.extend_from_slice(&1u32.to_le_bytes());
    out.extend_from_slice(&0u32.to_le_bytes());
    out.extend_from_slice(&7u64.to_le_bytes());
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&CHAIN);
    wire::push_item(&mut out, b"result");
    out
}

#[test]
fn session_tables_have_one_encoding() {
    let two = [&2u32.to_le_bytes()[..], &session(1, 5_000), &session(2, 5_010)].concat();
    let one = [&1u32.to_le_bytes()[..], &session(1, 5_000)].concat();
    fuzz(&[two, one, 0u32.to_le_bytes().to_vec()], |data| {
        let mut pool = pool();
        let imported = pool.import_sessions(data, 5_500, 2).is_ok();
        let exported = pool.export_sessions(0).expect("nothing was executed since");
        assert_eq!(exported, if imported { data } else { &[0; 4][..] });
        imported
    });
}

fn segment(size: u64) -> (SegmentHeader, Vec<u8>) {
    let header = SegmentHeader { identity: IDENTITY, segment: 0, size, nonce: [1; 16], previous: [0; 16] };
    let mut encoder = Encoder::start(header.clone());
    let mut data = header.encode().to_vec();
    for instance in 1..5 {
        data.extend(encoder.encode(1, instance, &[&[instance as u8; 70]]));
        encoder.mark_synced();
    }
    data.resize(data.len().max(size as usize), 0);
    (header, data)
}

/// What the parser finds lies inside the segment, whatever its verdict.
fn read_segment(data: &[u8]) -> bool {
    let mut parser = Parser::new(IDENTITY);
    let parsed = parser.parse(data, true);
    assert!(parser.offset <= data.len().max(SEGMENT_HEADER_SIZE));
    let mut intact = Parser::new(IDENTITY);
    let known = intact.parse_intact(data);
    parsed.is_ok_and(|records| {
        for record in &records {
            assert_eq!(record.body(data).len(), record.length);
        }
        assert_eq!(known.as_ref(), Ok(&records));
        true
    })
}

#[test]
fn segments_are_read_within_their_bounds() {
    fuzz(&[segment(0).1, segment(2048).1], read_segment);
}

#[test]
fn sealed_headers_may_say_anything() {
    let (header, data) = segment(0);
    let key = header.record_key();
    let mut random = Random(2);
    for _ in 0..executions() {
        let (mut record, check) = RecordHeader::decode(&data[SEGMENT_HEADER_SIZE..], &key).expect("a record");
        let number = BOUNDARIES[random.below(BOUNDARIES.len())];
        match random.below(5) {
            0 => record.length = number as u32,
            1 => record.synced = number as u32,
            2 => record.instance = number,
            3 => record.kind = number as u16,
            _ => record.previous = check,
        }
        let mut changed = data.clone();
        changed[SEGMENT_HEADER_SIZE..][..RECORD_HEADER_SIZE].copy_from_slice(&record.encode(&key));
        read_segment(&changed);
    }
}

/// The planted bug: a parser that believes a length.
#[test]
#[should_panic(expected = "out of range")]
fn a_parser_that_believes_a_length_is_found() {
    fuzz(&[list(&[request(1, b"a")])], |data| {
        let length = if data.len() < 4 { return false } else { wire::u32_at(data, 0) as usize };
        !data[4..4 + length].is_empty()
    });
}
