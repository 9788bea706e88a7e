//! The sans-IO parser: the bytes of one segment after another in, records and a verdict out.
//!
//! How a torn tail is told from corruption (docs/log-format.md, "Verdicts"): damage is a torn tail only in the last
//! segment, only if no record there was written after the damaged place had been synced, and only if some sector of
//! the damaged record holds none of it.

use super::format::{
    all_zero, checksum, Checksum, HeaderProblem, Identity, RecordHeader, SegmentHeader, ALIGNMENT, CLOSE_MARK,
    RECORD_HEADER_SIZE, SECTOR_SIZE, SEGMENT_HEADER_SIZE,
};
use super::LogError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    Complete,
    TornTail,
    Corrupt,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Complete => "complete",
            Verdict::TornTail => "torn tail",
            Verdict::Corrupt => "corrupt",
        }
    }
}

/// A record of the segment just parsed; the body is a range of its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParsedRecord {
    pub kind: u16,
    pub instance: u64,
    pub offset: usize,
    pub length: usize,
}

impl ParsedRecord {
    pub fn body<'a>(&self, segment: &'a [u8]) -> &'a [u8] {
        &segment[self.offset + RECORD_HEADER_SIZE..][..self.length]
    }
}

/// Reads the segments of one log in order.
#[derive(Debug)]
pub struct Parser {
    identity: Identity,
    /// Number and first chain value of the segment expected next; open before the first.
    expected: Option<(u64, Checksum)>,
    finished: bool,
    pub verdict: Verdict,
    /// Where the next record of the last segment goes: everything before is intact.
    pub offset: usize,
    /// The header of the last segment parsed; none where it has not been begun.
    pub header: Option<SegmentHeader>,
}

/// What stands at an offset.
enum Found {
    Record(RecordHeader, Checksum),
    End,
    Damage(Damage),
}

/// Damage at an offset, and the bytes of which a write that was cut off would have left some sector unwritten.
struct Damage {
    reason: String,
    torn_range: TornRange,
}

enum TornRange {
    /// No unfinished write looks like this.
    None,
    /// The range goes beyond the end of the bytes.
    BeyondEnd,
    Bytes(usize),
}

impl Parser {
    pub fn new(identity: Identity) -> Self {
        Parser { identity, expected: None, finished: false, verdict: Verdict::Complete, offset: 0, header: None }
    }

    /// The header checksum of the last intact record.
    pub fn previous(&self) -> Checksum {
        self.expected.map_or(super::format::NO_RECORD, |(_, previous)| previous)
    }

    /// The number of the segment that comes next.
    pub fn next_segment(&self) -> u64 {
        self.expected.map_or(0, |(number, _)| number)
    }

    /// The records of the next segment; `last` when no further one with a header follows.
    pub fn parse(&mut self, bytes: &[u8], last: bool) -> Result<Vec<ParsedRecord>, LogError> {
        if self.finished {
            return Err(LogError::Storage("the log ends before this segment".into()));
        }
        let Some(header) = self.begin(bytes, last)? else { return Ok(Vec::new()) };
        let key = header.record_key();
        let (records, damage) = self.read_records(bytes, &key);
        let Some(damage) = damage else {
            self.verdict = Verdict::Complete;
            self.finished = last;
            return Ok(records);
        };
        let why_not_torn =
            if last { why_not_torn(bytes, self.offset, &key, &header, damage) } else { Some(damage.reason) };
        match why_not_torn {
            None => {
                self.verdict = Verdict::TornTail;
                self.finished = true;
                Ok(records)
            }
            Some(reason) => Err(self.corrupt(self.offset, reason)),
        }
    }

    /// The intact records at the start of a segment that may be being written; says nothing about what follows them.
    pub fn parse_intact(&mut self, bytes: &[u8]) -> Result<Vec<ParsedRecord>, LogError> {
        self.finished = false;
        self.expected = None;
        let Some(header) = self.begin(bytes, true)? else { return Ok(Vec::new()) };
        Ok(self.read_records(bytes, &header.record_key()).0)
    }

    fn read_records(&mut self, bytes: &[u8], key: &[u8; 32]) -> (Vec<ParsedRecord>, Option<Damage>) {
        let mut records = Vec::new();
        loop {
            match inspect(bytes, self.offset, key, &self.previous()) {
                Found::Record(record, check) => {
                    let length = record.length as usize;
                    if record.kind != CLOSE_MARK {
                        let (kind, instance) = (record.kind, record.instance);
                        records.push(ParsedRecord { kind, instance, offset: self.offset, length });
                    }
                    self.offset += record.record_size();
                    self.expected = self.expected.map(|(number, _)| (number, check));
                }
                Found::End => return (records, None),
                Found::Damage(damage) => return (records, Some(damage)),
            }
        }
    }

    /// Checks the segment's header; none when the segment has not been begun.
    fn begin(&mut self, bytes: &[u8], last: bool) -> Result<Option<SegmentHeader>, LogError> {
        self.offset = 0;
        self.header = None;
        let started = bytes.len() >= SEGMENT_HEADER_SIZE;
        if last && (!started || all_zero(bytes)) {
            self.finished = true;
            self.verdict = if all_zero(bytes) { Verdict::Complete } else { Verdict::TornTail };
            return Ok(None);
        }
        let header = match SegmentHeader::decode(bytes) {
            Ok(header) => header,
            Err(HeaderProblem::Damaged) => return Err(self.corrupt(0, "the segment header is damaged".into())),
            Err(HeaderProblem::Version(version)) => {
                self.verdict = Verdict::Corrupt;
                return Err(LogError::Storage(format!(
                    "the log has format version {version}, this release reads version {}",
                    super::format::FORMAT_VERSION
                )));
            }
        };
        self.check_header(&header, bytes.len())?;
        self.offset = SEGMENT_HEADER_SIZE;
        self.expected = Some((header.segment + 1, header.previous));
        self.header = Some(header.clone());
        Ok(Some(header))
    }

    fn check_header(&mut self, header: &SegmentHeader, length: usize) -> Result<(), LogError> {
        if header.identity != self.identity {
            self.verdict = Verdict::Corrupt;
            let whose = if header.identity.chain_id == self.identity.chain_id { "replica" } else { "chain" };
            return Err(LogError::Storage(format!(
                "the log belongs to another {whose} (replica {} of chain {}): use that replica's key and genesis, or \
                 another data folder",
                header.identity.replica,
                hexadecimal(&header.identity.chain_id)
            )));
        }
        if header.size != 0 && header.size != length as u64 {
            let reason = format!("the segment has {length} bytes, its header says {}", header.size);
            return Err(self.corrupt(0, reason));
        }
        match self.expected {
            Some((number, _)) if number != header.segment => {
                let reason = format!("segment {number} is missing: found segment {}", header.segment);
                Err(self.corrupt(0, reason))
            }
            Some((_, previous)) if previous != header.previous => {
                Err(self.corrupt(0, "the segment does not continue the one before it".into()))
            }
            _ => Ok(()),
        }
    }

    fn corrupt(&mut self, offset: usize, reason: String) -> LogError {
        self.verdict = Verdict::Corrupt;
        self.finished = true;
        LogError::Corrupt { message: reason, offset: offset as u64, segment: None }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn damage(reason: impl Into<String>, torn_range: TornRange) -> Found {
    Found::Damage(Damage { reason: reason.into(), torn_range })
}

/// Reads what stands at `offset`.
fn inspect(bytes: &[u8], offset: usize, key: &[u8; 32], previous: &Checksum) -> Found {
    let rest = &bytes[offset..];
    let Some((header, check)) = RecordHeader::decode(rest, key) else {
        if all_zero(rest) {
            return Found::End;
        }
        let range =
            if rest.len() < RECORD_HEADER_SIZE { TornRange::BeyondEnd } else { TornRange::Bytes(RECORD_HEADER_SIZE) };
        return damage("a record header is damaged", range);
    };
    if header.previous != *previous {
        return damage("a record does not continue the one before it", TornRange::None);
    }
    if header.record_size() > rest.len() {
        let reason = format!("a record of {} bytes does not fit into the segment", header.length);
        return damage(reason, TornRange::BeyondEnd);
    }
    let (body, padding) = rest[RECORD_HEADER_SIZE..header.record_size()].split_at(header.length as usize);
    if checksum(body) != header.body {
        return damage("a record body is damaged", TornRange::Bytes(RECORD_HEADER_SIZE + body.len()));
    }
    if !all_zero(padding) {
        return damage("the padding of a record is damaged", TornRange::None);
    }
    Found::Record(header, check)
}

/// None when the damage at `offset` of the last segment is a torn tail, else why it is not.
fn why_not_torn(
    bytes: &[u8],
    offset: usize,
    key: &[u8; 32],
    segment: &SegmentHeader,
    damage: Damage,
) -> Option<String> {
    let reason = damage.reason;
    if let Some(later) = written_after_sync(bytes, offset, key) {
        return Some(format!("{reason}, and the record at offset {later} was written after this one had been synced"));
    }
    let torn = match damage.torn_range {
        TornRange::None => false,
        TornRange::BeyondEnd => segment.size == 0,
        TornRange::Bytes(length) => has_unwritten_sector(bytes, offset, offset + length),
    };
    if torn {
        return None;
    }
    Some(format!("{reason}, and no write that was cut off leaves it so"))
}

/// The first record behind `offset` that was written when `offset` had already been synced.
fn written_after_sync(bytes: &[u8], offset: usize, key: &[u8; 32]) -> Option<usize> {
    let first = offset.next_multiple_of(ALIGNMENT);
    (first..bytes.len())
        .step_by(ALIGNMENT)
        .find(|&at| RecordHeader::decode(&bytes[at..], key).is_some_and(|(header, _)| header.synced as usize > offset))
}

/// Whether some sector's share of the range is still as it was zero-filled.
fn has_unwritten_sector(bytes: &[u8], start: usize, end: usize) -> bool {
    let mut at = start;
    while at < end {
        let next = end.min((at / SECTOR_SIZE + 1) * SECTOR_SIZE);
        if all_zero(&bytes[at..next]) {
            return true;
        }
        at = next;
    }
    false
}
