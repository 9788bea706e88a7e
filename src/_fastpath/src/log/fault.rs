//! A device for tests: fails chosen calls, and can keep a journal from which a test rebuilds what a power loss at any
//! moment might leave on the disk.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::Mutex;

use rustix::io::Errno;

use super::device::{Device, LogFile, SystemDevice};
use super::LogError;

const CALLS: [&str; 7] = ["open", "write", "sync", "rename", "read", "allocate", "remove"];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Error(Errno),
    /// Half of what was asked.
    Short,
    /// Success is reported and nothing is synced.
    Lie,
}

#[derive(Debug)]
struct PlannedFault {
    call: usize,
    count: u64,
    /// Every later call as well.
    onwards: bool,
    fault: Fault,
}

impl PlannedFault {
    fn hits(&self, call: usize, count: u64) -> bool {
        self.call == call && (self.count == count || self.onwards && self.count < count)
    }
}

/// Carries out a fault plan on top of the operating system.
#[derive(Debug)]
pub struct FaultyDevice {
    system: SystemDevice,
    plan: Vec<PlannedFault>,
    calls: [AtomicU64; CALLS.len()],
    journal: Option<Mutex<File>>,
    files: AtomicU32,
}

impl FaultyDevice {
    /// A plan of lines `call k fault`, or `call+ k fault` for the k-th call and all that follow it; the line
    /// `journal 0 path` keeps a write journal in that file.
    pub fn new(plan: &str) -> Result<Self, LogError> {
        let mut faults = Vec::new();
        let mut journal = None;
        for line in plan.lines() {
            let (call, count, fault) = split(line)?;
            if call == "journal" {
                let file =
                    File::create(fault).map_err(|error| LogError::storage("create", Path::new(fault), &error))?;
                journal = Some(Mutex::new(file));
            } else {
                faults.push(planned(call, count, fault)?);
            }
        }
        Ok(FaultyDevice {
            system: SystemDevice,
            plan: faults,
            calls: Default::default(),
            journal,
            files: AtomicU32::new(1),
        })
    }

    /// Counts a call; the fault planned for it, an error at once.
    fn count(&self, call: &str) -> io::Result<Option<Fault>> {
        let index = CALLS.iter().position(|name| *name == call).expect("a call of the table");
        let count = self.calls[index].fetch_add(1, Ordering::SeqCst) + 1;
        let Some(planned) = self.plan.iter().find(|fault| fault.hits(index, count)) else {
            return Ok(None);
        };
        self.note(b'F', 0, count, &[call.as_bytes()])?;
        match planned.fault {
            Fault::Error(errno) => Err(errno.into()),
            fault => Ok(Some(fault)),
        }
    }

    /// Notes a finished call, or a fault: letter, file number, offset, length of what follows.
    fn note(&self, letter: u8, file: u32, offset: u64, data: &[&[u8]]) -> io::Result<()> {
        let Some(journal) = &self.journal else { return Ok(()) };
        let length: usize = data.iter().map(|part| part.len()).sum();
        let mut entry = vec![letter];
        entry.extend_from_slice(&file.to_le_bytes());
        entry.extend_from_slice(&offset.to_le_bytes());
        entry.extend_from_slice(&(length as u64).to_le_bytes());
        for part in data {
            entry.extend_from_slice(part);
        }
        let mut journal = journal.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        journal.write_all(&entry)
    }
}

fn split(line: &str) -> Result<(&str, u64, &str), LogError> {
    let mut words = line.splitn(3, ' ');
    let parts = (words.next(), words.next().and_then(|count| count.parse().ok()), words.next());
    match parts {
        (Some(call), Some(count), Some(fault)) => Ok((call, count, fault)),
        _ => Err(LogError::Storage(format!("fault plan: '{line}' is not 'call k fault'"))),
    }
}

fn planned(call: &str, count: u64, name: &str) -> Result<PlannedFault, LogError> {
    let unknown = |what: &str| LogError::Storage(format!("fault plan: unknown {what} in '{call} {count} {name}'"));
    let (name_of_call, onwards) = call.strip_suffix('+').map_or((call, false), |name| (name, true));
    let index = CALLS.iter().position(|known| *known == name_of_call).ok_or_else(|| unknown("call"))?;
    let fault = match name {
        "EIO" => Fault::Error(Errno::IO),
        "ENOSPC" => Fault::Error(Errno::NOSPC),
        "EINTR" => Fault::Error(Errno::INTR),
        "short" if ["write", "read", "allocate"].contains(&call) => Fault::Short,
        "lie" if call == "sync" => Fault::Lie,
        _ => return Err(unknown("fault")),
    };
    Ok(PlannedFault { call: index, count, onwards, fault })
}

fn name_of(path: &Path) -> &[u8] {
    path.file_name().map_or(b"", |name| name.as_encoded_bytes())
}

/// The first half of the slices' bytes, one byte at least.
fn half<'a>(slices: &'a [IoSlice<'_>]) -> Vec<IoSlice<'a>> {
    let total: usize = slices.iter().map(|slice| slice.len()).sum();
    let mut left = (total / 2).max(1);
    let mut kept = Vec::new();
    for slice in slices {
        let count = slice.len().min(left);
        kept.push(IoSlice::new(&slice[..count]));
        left -= count;
        if left == 0 {
            break;
        }
    }
    kept
}

impl Device for FaultyDevice {
    fn open(&self, path: &Path, create: bool) -> io::Result<LogFile> {
        self.count("open")?;
        let number = self.files.fetch_add(1, Ordering::SeqCst);
        let file = LogFile { number, ..self.system.open(path, create)? };
        self.note(if create { b'C' } else { b'O' }, number, 0, &[name_of(path)])?;
        Ok(file)
    }

    fn read(&self, file: &LogFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let length = match self.count("read")? {
            Some(_) => buffer.len().div_ceil(2),
            None => buffer.len(),
        };
        self.system.read(file, &mut buffer[..length], offset)
    }

    fn write(&self, file: &LogFile, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        let shortened = match self.count("write")? {
            Some(_) => half(slices),
            None => slices.iter().map(|slice| IoSlice::new(slice)).collect(),
        };
        let written = self.system.write(file, &shortened, offset)?;
        let mut bytes: Vec<u8> = shortened.iter().flat_map(|slice| slice.iter().copied()).collect();
        bytes.truncate(written);
        self.note(b'W', file.number, offset, &[&bytes])?;
        Ok(written)
    }

    fn allocate(&self, file: &LogFile, offset: u64, length: u64) -> io::Result<usize> {
        let length = match self.count("allocate")? {
            Some(_) => length.div_ceil(2),
            None => length,
        };
        let written = self.system.allocate(file, offset, length)?;
        self.note(b'Z', file.number, offset, &[&(written as u64).to_le_bytes()])?;
        Ok(written)
    }

    fn sync(&self, file: &LogFile) -> io::Result<()> {
        if self.count("sync")? == Some(Fault::Lie) {
            return Ok(());
        }
        self.system.sync(file)?;
        self.note(b'S', file.number, 0, &[])
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        if self.count("sync")? == Some(Fault::Lie) {
            return Ok(());
        }
        self.system.sync_folder(folder)?;
        self.note(b'D', 0, 0, &[])
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.count("rename")?;
        self.system.rename(from, to)?;
        self.note(b'R', 0, 0, &[name_of(from), b"\0", name_of(to)])
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.count("remove")?;
        self.system.remove(path)?;
        self.note(b'X', 0, 0, &[name_of(path)])
    }

    fn drop_cache(&self, file: &LogFile) {
        self.system.drop_cache(file);
    }
}
