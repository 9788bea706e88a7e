//! The function table of the area `log` (`fp_log_t`).

use std::ffi::c_char;
use std::path::PathBuf;
use std::time::Duration;

use super::{bytes, guard, guard_or, items, Buffer, Slice, INVALID, OK};
use crate::log::durable::{DurableLog, Mode, Settings};
use crate::log::encoder::Encoder;
use crate::log::format::{Identity, SegmentHeader};
use crate::log::parser::{ParsedRecord, Parser};
use crate::log::LogError;

const STORAGE: i32 = -3;
const CORRUPT: i32 = -4;
const LOST: i32 = -5;
const MESSAGE_SIZE: usize = 512;

/// `fp_log_error_t`: what a failed call says; the message is UTF-8 and ends with a zero byte.
#[repr(C)]
pub struct Error {
    offset: u64,
    segment: u64,
    message: [c_char; MESSAGE_SIZE],
}

/// `fp_log_identity_t`
#[repr(C)]
pub struct IdentityArgument {
    chain_id: [u8; 32],
    replica: u32,
}

/// `fp_log_settings_t`
#[repr(C)]
pub struct SettingsArgument {
    folder: Slice,
    fault_plan: Slice,
    identity: IdentityArgument,
    mode: u32,
    segment_bytes: u64,
    sync_floor_seconds: f64,
}

/// `fp_log_header_t`
#[repr(C)]
pub struct Header {
    identity: IdentityArgument,
    segment: u64,
    size: u64,
    previous: [u8; 16],
    nonce: [u8; 16],
}

/// `fp_log_record_t`; the body lies in the parsed bytes or in the handle.
#[repr(C)]
pub struct Record {
    body: *const u8,
    length: usize,
    offset: u64,
    instance: u64,
    kind: u16,
}

/// `fp_log_state_t`: where a parser or an encoder is.
#[repr(C)]
pub struct Position {
    segment: u64,
    offset: u64,
    previous: [u8; 16],
    /// 0 complete, 1 torn tail, 2 corrupt; 0 of an encoder
    verdict: u32,
}

/// `fp_log_statistics_t`
#[repr(C)]
pub struct StatisticsResult {
    bytes: u64,
    records: u64,
    syncs: u64,
    segments: u64,
    sync_seconds: f64,
    sync_p50: f64,
    sync_p99: f64,
    group_records_mean: f64,
}

/// `fp_log_records_t`: parsed records, and the bytes they lie in where these are ours.
pub struct Records {
    _segments: Vec<Vec<u8>>,
    records: Vec<Record>,
}

/// `fp_log_t`. The order of the fields is that of `include/fastpath.h`.
#[repr(C)]
pub struct Table {
    pub version: extern "C" fn() -> u32,
    encoder_new: unsafe extern "C" fn(*const Header, *mut *mut Encoder) -> i32,
    encoder_free: unsafe extern "C" fn(*mut Encoder),
    encoder_header: unsafe extern "C" fn(*const Encoder, *mut Buffer) -> i32,
    encoder_encode: unsafe extern "C" fn(*mut Encoder, u16, u64, *const Slice, usize, *mut Buffer) -> i32,
    encoder_mark_synced: unsafe extern "C" fn(*mut Encoder) -> i32,
    encoder_position: unsafe extern "C" fn(*const Encoder, *mut Position) -> i32,
    parser_new: unsafe extern "C" fn(*const IdentityArgument, *mut *mut Parser) -> i32,
    parser_free: unsafe extern "C" fn(*mut Parser),
    parser_parse: unsafe extern "C" fn(*mut Parser, *const u8, usize, u32, *mut *mut Records, *mut Error) -> i32,
    parser_position: unsafe extern "C" fn(*const Parser, *mut Position) -> i32,
    read_header: unsafe extern "C" fn(*const u8, usize, *mut Header) -> i32,
    records_count: unsafe extern "C" fn(*const Records) -> usize,
    records_get: unsafe extern "C" fn(*const Records, usize, *mut Record) -> i32,
    records_free: unsafe extern "C" fn(*mut Records),
    open: unsafe extern "C" fn(*const SettingsArgument, *mut *mut DurableLog, *mut Error) -> i32,
    recovered: unsafe extern "C" fn(*const DurableLog, *mut *mut Records) -> i32,
    append: unsafe extern "C" fn(*const DurableLog, u16, u64, *const Slice, usize, u32, *mut u64, *mut Error) -> i32,
    completed: unsafe extern "C" fn(*const DurableLog, *mut u64, *mut Error) -> i32,
    wait: unsafe extern "C" fn(*const DurableLog, u64, *mut Error) -> i32,
    forget: unsafe extern "C" fn(*const DurableLog, u64, *mut u64, *mut Error) -> i32,
    fileno: unsafe extern "C" fn(*const DurableLog) -> i32,
    lock_fileno: unsafe extern "C" fn(*const DurableLog) -> i32,
    space_low: unsafe extern "C" fn(*const DurableLog) -> i32,
    pending_bytes: unsafe extern "C" fn(*const DurableLog) -> u64,
    statistics: unsafe extern "C" fn(*const DurableLog, *mut StatisticsResult) -> i32,
    close: unsafe extern "C" fn(*const DurableLog, *mut Error) -> i32,
    free: unsafe extern "C" fn(*mut DurableLog),
}

static TABLE: Table = Table {
    version,
    encoder_new,
    encoder_free: free_boxed::<Encoder>,
    encoder_header,
    encoder_encode,
    encoder_mark_synced,
    encoder_position,
    parser_new,
    parser_free: free_boxed::<Parser>,
    parser_parse,
    parser_position,
    read_header,
    records_count,
    records_get,
    records_free: free_boxed::<Records>,
    open,
    recovered,
    append,
    completed,
    wait,
    forget,
    fileno,
    lock_fileno,
    space_low,
    pending_bytes,
    statistics,
    close,
    free: free_boxed::<DurableLog>,
};

#[no_mangle]
pub extern "C" fn fp_log() -> *const Table {
    &TABLE
}

extern "C" fn version() -> u32 {
    1
}

impl From<&IdentityArgument> for Identity {
    fn from(argument: &IdentityArgument) -> Self {
        Identity { chain_id: argument.chain_id, replica: argument.replica }
    }
}

/// Fills in `error` and returns the status that goes with it.
fn report(error: &mut Error, cause: &LogError) -> i32 {
    let (status, offset, segment) = match cause {
        LogError::Storage(_) => (STORAGE, 0, u64::MAX),
        LogError::Corrupt { offset, segment, .. } => (CORRUPT, *offset, segment.unwrap_or(u64::MAX)),
        LogError::DurabilityLost(_) => (LOST, 0, u64::MAX),
    };
    error.offset = offset;
    error.segment = segment;
    let mut message = cause.message();
    while message.len() >= MESSAGE_SIZE {
        let end = message.char_indices().next_back().map_or(0, |(at, _)| at);
        message = &message[..end];
    }
    error.message = [0; MESSAGE_SIZE];
    for (to, from) in error.message.iter_mut().zip(message.bytes()) {
        *to = from as c_char;
    }
    status
}

/// Status and result of a call that can fail.
///
/// # Safety
/// `out` and `error` are valid for writing.
unsafe fn settle<T>(outcome: Result<T, LogError>, out: *mut T, error: *mut Error) -> i32 {
    match outcome {
        Ok(value) => {
            // SAFETY: the caller's promise.
            unsafe { out.write(value) };
            OK
        }
        // SAFETY: the caller's promise.
        Err(cause) => report(unsafe { &mut *error }, &cause),
    }
}

/// # Safety
/// The slices are valid, and so is what they point to, while the result is used.
unsafe fn parts<'a>(slices: *const Slice, count: usize) -> Vec<&'a [u8]> {
    // SAFETY: the caller's promise.
    unsafe { items(slices, count).iter().map(|slice| slice.as_bytes()).collect() }
}

/// # Safety
/// `object` is null or came from `Box::into_raw` here and is not used again.
unsafe extern "C" fn free_boxed<T>(object: *mut T) {
    guard_or((), || {
        if !object.is_null() {
            // SAFETY: the caller's promise.
            drop(unsafe { Box::from_raw(object) });
        }
    });
}

// --- encoder and parser: every pointer is valid for the call ---------------------------------------------------------

unsafe extern "C" fn encoder_new(header: *const Header, out: *mut *mut Encoder) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let header = unsafe { &*header };
        let identity = Identity::from(&header.identity);
        let nonce = if header.nonce == [0; 16] {
            SegmentHeader::deterministic_nonce(&identity, header.segment, &header.previous)
        } else {
            header.nonce
        };
        let (segment, size, previous) = (header.segment, header.size, header.previous);
        let encoder = Encoder::start(SegmentHeader { identity, segment, size, nonce, previous });
        // SAFETY: the caller's promise.
        unsafe { out.write(Box::into_raw(Box::new(encoder))) };
        OK
    })
}

unsafe extern "C" fn encoder_header(encoder: *const Encoder, out: *mut Buffer) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe { out.write((*encoder).header().encode().to_vec().into()) };
        OK
    })
}

unsafe extern "C" fn encoder_encode(
    encoder: *mut Encoder,
    kind: u16,
    instance: u64,
    slices: *const Slice,
    count: usize,
    out: *mut Buffer,
) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let (encoder, parts) = unsafe { (&mut *encoder, parts(slices, count)) };
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if kind == 0 || !encoder.can_hold(length) {
            return INVALID;
        }
        // SAFETY: the caller's promise.
        unsafe { out.write(encoder.encode(kind, instance, &parts).into()) };
        OK
    })
}

unsafe extern "C" fn encoder_mark_synced(encoder: *mut Encoder) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe { (*encoder).mark_synced() };
        OK
    })
}

unsafe extern "C" fn encoder_position(encoder: *const Encoder, out: *mut Position) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let encoder = unsafe { &*encoder };
        let (segment, offset) = (encoder.header().segment, encoder.offset());
        // SAFETY: the caller's promise.
        unsafe { out.write(Position { segment, offset, previous: encoder.previous(), verdict: 0 }) };
        OK
    })
}

unsafe extern "C" fn parser_new(identity: *const IdentityArgument, out: *mut *mut Parser) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        unsafe { out.write(Box::into_raw(Box::new(Parser::new(Identity::from(&*identity))))) };
        OK
    })
}

/// `how`: 0 a segment with others behind it, 1 the last one, 2 only what is intact of one that is being written.
unsafe extern "C" fn parser_parse(
    parser: *mut Parser,
    data: *const u8,
    length: usize,
    how: u32,
    out: *mut *mut Records,
    error: *mut Error,
) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let (parser, segment) = unsafe { (&mut *parser, bytes(data, length)) };
        let outcome = match how {
            0 | 1 => parser.parse(segment, how == 1),
            2 => parser.parse_intact(segment),
            _ => return INVALID,
        };
        let outcome = outcome.map(|records| {
            let records = records.iter().map(|record| exported(record, segment)).collect();
            Box::into_raw(Box::new(Records { _segments: Vec::new(), records }))
        });
        // SAFETY: the caller's promise.
        unsafe { settle(outcome, out, error) }
    })
}

unsafe extern "C" fn parser_position(parser: *const Parser, out: *mut Position) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let parser = unsafe { &*parser };
        let position = Position {
            segment: parser.header.as_ref().map_or(parser.next_segment(), |header| header.segment),
            offset: parser.offset as u64,
            previous: parser.previous(),
            verdict: parser.verdict as u32,
        };
        // SAFETY: the caller's promise.
        unsafe { out.write(position) };
        OK
    })
}

unsafe extern "C" fn read_header(data: *const u8, length: usize, out: *mut Header) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let Ok(header) = SegmentHeader::decode(unsafe { bytes(data, length) }) else { return INVALID };
        let identity = IdentityArgument { chain_id: header.identity.chain_id, replica: header.identity.replica };
        let SegmentHeader { segment, size, previous, nonce, .. } = header;
        // SAFETY: the caller's promise.
        unsafe { out.write(Header { identity, segment, size, previous, nonce }) };
        OK
    })
}

fn exported(record: &ParsedRecord, segment: &[u8]) -> Record {
    Record {
        body: record.body(segment).as_ptr(),
        length: record.length,
        offset: record.offset as u64,
        instance: record.instance,
        kind: record.kind,
    }
}

unsafe extern "C" fn records_count(records: *const Records) -> usize {
    // SAFETY: the caller's promise.
    guard_or(0, || unsafe { (*records).records.len() })
}

unsafe extern "C" fn records_get(records: *const Records, index: usize, out: *mut Record) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let records = unsafe { &*records };
        let Some(record) = records.records.get(index) else { return INVALID };
        // SAFETY: the caller's promise.
        unsafe { out.write(Record { ..*record }) };
        OK
    })
}

// --- the log: every pointer is valid for the call, and the log until it is freed --------------------------------------

unsafe extern "C" fn open(settings: *const SettingsArgument, out: *mut *mut DurableLog, error: *mut Error) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let (settings, folder, plan) =
            unsafe { (&*settings, (*settings).folder.as_bytes(), (*settings).fault_plan.as_bytes()) };
        let (Ok(plan), Some(mode)) = (std::str::from_utf8(plan), mode(settings.mode)) else { return INVALID };
        let Ok(sync_floor) = Duration::try_from_secs_f64(settings.sync_floor_seconds) else { return INVALID };
        let settings = Settings {
            folder: path(folder),
            identity: Identity::from(&settings.identity),
            mode,
            segment_bytes: settings.segment_bytes,
            sync_floor,
            fault_plan: plan.to_owned(),
        };
        let outcome = DurableLog::open(&settings).map(|log| Box::into_raw(Box::new(log)));
        // SAFETY: the caller's promise.
        unsafe { settle(outcome, out, error) }
    })
}

fn mode(number: u32) -> Option<Mode> {
    [Mode::Memory, Mode::Async, Mode::Sync].get(number as usize).copied()
}

fn path(bytes: &[u8]) -> PathBuf {
    use std::os::unix::ffi::OsStrExt;
    PathBuf::from(std::ffi::OsStr::from_bytes(bytes))
}

unsafe extern "C" fn recovered(log: *const DurableLog, out: *mut *mut Records) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let segments = unsafe { (*log).take_recovered() };
        let records = segments
            .iter()
            .flat_map(|segment| segment.records.iter().map(|record| exported(record, &segment.bytes)))
            .collect();
        // Moving the vectors leaves their heap memory, which the records point into, where it is.
        let _segments = segments.into_iter().map(|segment| segment.bytes).collect();
        // SAFETY: the caller's promise.
        unsafe { out.write(Box::into_raw(Box::new(Records { _segments, records }))) };
        OK
    })
}

unsafe extern "C" fn append(
    log: *const DurableLog,
    kind: u16,
    instance: u64,
    slices: *const Slice,
    count: usize,
    more: u32,
    out: *mut u64,
    error: *mut Error,
) -> i32 {
    // SAFETY: the caller's promise.
    guard(|| unsafe { settle((*log).append(kind, instance, &parts(slices, count), more != 0), out, error) })
}

unsafe extern "C" fn completed(log: *const DurableLog, out: *mut u64, error: *mut Error) -> i32 {
    // SAFETY: the caller's promise.
    guard(|| unsafe { settle((*log).completed(), out, error) })
}

unsafe extern "C" fn wait(log: *const DurableLog, sequence: u64, error: *mut Error) -> i32 {
    // SAFETY: the caller's promise.
    guard(|| unsafe { settle((*log).wait(sequence), &mut (), error) })
}

unsafe extern "C" fn forget(log: *const DurableLog, instance: u64, out: *mut u64, error: *mut Error) -> i32 {
    // SAFETY: the caller's promise.
    guard(|| unsafe { settle((*log).forget(instance), out, error) })
}

unsafe extern "C" fn fileno(log: *const DurableLog) -> i32 {
    // SAFETY: the caller's promise.
    guard_or(-1, || unsafe { (*log).fileno() })
}

/// -1: no lock is held.
unsafe extern "C" fn lock_fileno(log: *const DurableLog) -> i32 {
    // SAFETY: the caller's promise.
    guard_or(-1, || unsafe { (*log).lock_fileno().unwrap_or(-1) })
}

unsafe extern "C" fn space_low(log: *const DurableLog) -> i32 {
    // SAFETY: the caller's promise.
    guard_or(1, || i32::from(unsafe { (*log).is_space_low() }))
}

unsafe extern "C" fn pending_bytes(log: *const DurableLog) -> u64 {
    // SAFETY: the caller's promise.
    guard_or(u64::MAX, || unsafe { (*log).pending_bytes() })
}

unsafe extern "C" fn statistics(log: *const DurableLog, out: *mut StatisticsResult) -> i32 {
    guard(|| {
        // SAFETY: the caller's promise.
        let statistics = unsafe { (*log).statistics() };
        let result = StatisticsResult {
            bytes: statistics.bytes,
            records: statistics.records,
            syncs: statistics.syncs,
            segments: statistics.segments,
            sync_seconds: statistics.sync_seconds,
            sync_p50: statistics.sync_percentile(0.50),
            sync_p99: statistics.sync_percentile(0.99),
            group_records_mean: statistics.group_records_mean(),
        };
        // SAFETY: the caller's promise.
        unsafe { out.write(result) };
        OK
    })
}

unsafe extern "C" fn close(log: *const DurableLog, error: *mut Error) -> i32 {
    // SAFETY: the caller's promise.
    guard(|| unsafe { settle((*log).close(), &mut (), error) })
}
