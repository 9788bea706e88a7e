//! A data folder: its segment files, and reading them back.

use std::io;
use std::path::Path;

use super::device::{allocate_all, read_full, sync, sync_folder, uninterrupted, write_all, Device, LogFile};
use super::encoder::Encoder;
use super::format::{all_zero, Checksum, Identity, SegmentHeader, NONCE_SIZE, SEGMENT_HEADER_SIZE};
use super::parser::{ParsedRecord, Parser, Verdict};
use super::LogError;

const PREFIX: &str = "segment-";
const SUFFIX: &str = ".log";
const UNFINISHED_SUFFIX: &str = ".tmp";
/// How much is filled with zeros at a time.
const ALLOCATION_STEP: u64 = 1 << 20;

/// A segment's file name.
pub fn segment_name(number: u64) -> String {
    format!("{PREFIX}{number:016x}{SUFFIX}")
}

fn segment_number(name: &str) -> Option<u64> {
    let digits = name.strip_prefix(PREFIX)?.strip_suffix(SUFFIX)?;
    let number = u64::from_str_radix(digits, 16).ok()?;
    (segment_name(number) == name).then_some(number)
}

/// Records of one recovered segment.
#[derive(Debug)]
pub struct RecoveredSegment {
    pub bytes: Vec<u8>,
    pub records: Vec<ParsedRecord>,
}

/// What a folder held.
#[derive(Debug, Default)]
pub struct Recovered {
    pub segments: Vec<RecoveredSegment>,
    /// The file to append to and where; none when no segment has been begun.
    pub current: Option<(LogFile, Encoder)>,
    /// The segment that was zero-filled and not begun.
    pub spare: Option<(u64, LogFile)>,
    pub next_segment: u64,
    pub previous: Checksum,
}

/// A data folder that is ours.
pub struct Folder<'a> {
    device: &'a dyn Device,
    path: &'a Path,
    identity: Identity,
}

/// Makes the folder if need be; every new entry is on disk when this returns.
pub fn create(device: &dyn Device, path: &Path) -> Result<(), LogError> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    create(device, parent)?;
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(LogError::storage("create", path, &error)),
        _ => sync_folder(device, parent).map_err(|error| LogError::storage("sync", parent, &error)),
    }
}

/// How urgently a segment is prepared; asked again and again meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Urgency {
    /// In small steps, each synced, so that the log's own syncs never wait long for the disk behind one of them.
    Ahead,
    /// Somebody waits for it.
    Now,
    /// Nobody wants it any more.
    Never,
}

/// Makes the next segment: written under a temporary name, synced, renamed, the folder synced. Nothing when it is not
/// wanted any more.
pub fn prepare_segment(
    device: &dyn Device,
    folder: &Path,
    number: u64,
    size: u64,
    urgency: &dyn Fn() -> Urgency,
) -> io::Result<Option<LogFile>> {
    let path = folder.join(segment_name(number));
    let unfinished = path.with_extension(&UNFINISHED_SUFFIX[1..]);
    let outcome = fill_and_rename(device, &unfinished, &path, size, urgency);
    if !matches!(outcome, Ok(Some(_))) {
        // What is left is removed when the folder is opened next.
        let _ = device.remove(&unfinished);
    }
    outcome
}

fn fill_and_rename(
    device: &dyn Device,
    unfinished: &Path,
    path: &Path,
    size: u64,
    urgency: &dyn Fn() -> Urgency,
) -> io::Result<Option<LogFile>> {
    let file = uninterrupted(|| device.open(unfinished, true))?;
    let mut offset = 0;
    while offset < size {
        let end = size.min(offset + ALLOCATION_STEP);
        allocate_all(device, &file, offset, end)?;
        match urgency() {
            Urgency::Never => return Ok(None),
            Urgency::Now if end < size => {}
            Urgency::Now | Urgency::Ahead => sync(device, &file)?,
        }
        offset = end;
    }
    uninterrupted(|| device.rename(unfinished, path))?;
    sync_folder(device, path.parent().expect("a segment is in a folder"))?;
    Ok(Some(file))
}

/// Writes the header of a zero-filled segment and syncs it, so that no record is ever on disk without it.
pub fn begin_segment(
    device: &dyn Device,
    file: &LogFile,
    identity: Identity,
    segment: u64,
    size: u64,
    previous: Checksum,
) -> io::Result<Encoder> {
    let mut nonce = [0; NONCE_SIZE];
    getrandom::fill(&mut nonce).map_err(|error| io::Error::other(error.to_string()))?;
    let header = SegmentHeader { identity, segment, size, nonce, previous };
    write_all(device, file, &[&header.encode()], 0)?;
    sync(device, file)?;
    Ok(Encoder::start(header))
}

impl<'a> Folder<'a> {
    pub fn new(device: &'a dyn Device, path: &'a Path, identity: Identity) -> Self {
        Folder { device, path, identity }
    }

    /// Reads everything back. A torn tail is cut, and what is handed over is on disk when this returns.
    pub fn recover(&self, segment_bytes: u64) -> Result<Recovered, LogError> {
        let numbers = self.list()?;
        let mut recovered = Recovered::default();
        let used = self.set_unused_aside(&numbers, segment_bytes, &mut recovered)?;
        let mut parser = Parser::new(self.identity);
        for (index, &number) in used.iter().enumerate() {
            let file = self.open_segment(number)?;
            let mut bytes = self.read_from_disk(number, &file)?;
            let last = index + 1 == used.len();
            let records = parser.parse(&bytes, last).map_err(|error| in_segment(error, number))?;
            if parser.verdict == Verdict::TornTail {
                self.cut(number, &file, &bytes, parser.offset)?;
            }
            bytes.truncate(parser.offset);
            bytes.shrink_to_fit();
            recovered.segments.push(RecoveredSegment { bytes, records });
            if last {
                let header = parser.header.clone().expect("a segment that is not all zero has a header");
                let encoder = Encoder::resume(header, parser.offset as u64, parser.previous());
                recovered.current = Some((file, encoder));
            }
        }
        recovered.previous = parser.previous();
        recovered.next_segment = match used.last() {
            Some(number) => number + 1,
            None => numbers.first().copied().unwrap_or(0),
        };
        Ok(recovered)
    }

    /// The numbers of the segment files, which must have no gap. Unfinished files are removed.
    fn list(&self) -> Result<Vec<u64>, LogError> {
        let failed = |error: io::Error| LogError::storage("read", self.path, &error);
        let mut numbers = Vec::new();
        for entry in std::fs::read_dir(self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let Some(name) = name.to_str() else { continue };
            if let Some(number) = segment_number(name) {
                numbers.push(number);
            } else if name.starts_with(PREFIX) && name.ends_with(UNFINISHED_SUFFIX) {
                self.remove(&self.path.join(name))?;
            }
        }
        numbers.sort_unstable();
        for pair in numbers.windows(2) {
            if pair[1] != pair[0] + 1 {
                let missing = pair[0] + 1;
                let message = format!("segment file {} is missing", segment_name(missing));
                return Err(LogError::Corrupt { message, offset: 0, segment: Some(missing) });
            }
        }
        Ok(numbers)
    }

    /// The numbers of the segments that have been begun. The prepared one at the end, if there is one, becomes the spare.
    fn set_unused_aside(
        &self,
        numbers: &[u64],
        segment_bytes: u64,
        recovered: &mut Recovered,
    ) -> Result<Vec<u64>, LogError> {
        let mut used = numbers.to_vec();
        let mut unused: Vec<(u64, LogFile, u64)> = Vec::new();
        while let Some(&number) = used.last() {
            let file = self.open_segment(number)?;
            let bytes = self.read_from_disk(number, &file)?;
            if bytes.len() < SEGMENT_HEADER_SIZE {
                let message = format!("the segment file was cut to {} bytes", bytes.len());
                return Err(LogError::Corrupt { message, offset: bytes.len() as u64, segment: Some(number) });
            }
            if !all_zero(&bytes) {
                break;
            }
            used.pop();
            unused.push((number, file, bytes.len() as u64));
        }
        check_unused(&used, &unused.iter().rev().map(|(number, ..)| *number).collect::<Vec<_>>())?;
        if let Some((number, file, size)) = unused.pop() {
            if size == segment_bytes {
                recovered.spare = Some((number, file));
            } else {
                self.remove(&self.path.join(segment_name(number)))?;
            }
        }
        Ok(used)
    }

    fn open_segment(&self, number: u64) -> Result<LogFile, LogError> {
        let path = self.path.join(segment_name(number));
        uninterrupted(|| self.device.open(&path, false)).map_err(|error| LogError::storage("open", &path, &error))
    }

    /// The bytes as the disk has them: pages that a failed sync left in memory are written or forgotten first.
    fn read_from_disk(&self, number: u64, file: &LogFile) -> Result<Vec<u8>, LogError> {
        let read = || {
            sync(self.device, file)?;
            self.device.drop_cache(file);
            let length = file.file.metadata()?.len();
            read_full(self.device, file, length)
        };
        read().map_err(|error| LogError::storage("read", &self.path.join(segment_name(number)), &error))
    }

    /// Puts zeros where a write was cut off, and syncs them before anything is appended there.
    fn cut(&self, number: u64, file: &LogFile, bytes: &[u8], offset: usize) -> Result<(), LogError> {
        let end = bytes.iter().rposition(|byte| *byte != 0).map_or(offset, |last| last + 1).max(offset);
        allocate_all(self.device, file, offset as u64, end as u64)
            .and_then(|()| sync(self.device, file))
            .map_err(|error| LogError::storage("cut the torn tail of", &self.path.join(segment_name(number)), &error))
    }

    fn remove(&self, path: &Path) -> Result<(), LogError> {
        self.device.remove(path).map_err(|error| LogError::storage("remove", path, &error))
    }
}

/// Refuses zeros that nobody wrote: only one segment is prepared ahead, and the first ones are dropped only while a later
/// one has been begun.
fn check_unused(used: &[u64], unused: &[u64]) -> Result<(), LogError> {
    let message = match (used, unused) {
        (_, [_, _, ..]) => format!(
            "{} segments at the end hold nothing but zeros, and no more than one is prepared ahead: records are missing",
            unused.len()
        ),
        ([], [first]) if *first > 0 => {
            "the only segment holds nothing but zeros, and the ones before it were dropped: records are missing".into()
        }
        _ => return Ok(()),
    };
    Err(LogError::Corrupt { message, offset: 0, segment: Some(unused[0]) })
}

/// Adds the segment's number to an error that has none yet.
fn in_segment(error: LogError, number: u64) -> LogError {
    match error {
        LogError::Corrupt { message, offset, segment: None } => {
            LogError::Corrupt { message, offset, segment: Some(number) }
        }
        other => other,
    }
}
