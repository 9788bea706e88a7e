//! The lock of a data folder, and who holds it.

use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::path::Path;

use rustix::fs::{flock, FlockOperation};

use super::LogError;

const LOCK_FILE: &str = "lock";

/// A data folder that is this process's.
///
/// The lock belongs to the open file, which a forked child shares. So dropping this gives it back, whoever else has the
/// file open; a child must close its copy without doing that.
#[derive(Debug)]
pub struct FolderLock {
    file: File,
    owner: u32,
}

impl FolderLock {
    /// Takes the folder's lock.
    pub fn take(folder: &Path) -> Result<Self, LogError> {
        let path = folder.join(LOCK_FILE);
        let failed = |error: &io::Error| LogError::storage("lock", &path, error);
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| failed(&error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(LogError::Storage(format!(
                    "the data folder {} is in use by {}: stop it, or use another folder",
                    folder.display(),
                    holder(&mut file)
                )));
            }
            Err(errno) => return Err(failed(&errno.into())),
        }
        // Only for the message above, so a failure to write it does not matter.
        let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(FolderLock { file, owner: std::process::id() })
    }

    pub fn file(&self) -> &File {
        &self.file
    }
}

impl Drop for FolderLock {
    fn drop(&mut self) {
        if self.owner == std::process::id() {
            let _ = flock(&self.file, FlockOperation::Unlock);
        }
    }
}

/// Who holds the lock, in words. The number in the file may be that of a process that is gone, so it is believed only
/// of a process that has the file open.
fn holder(file: &mut File) -> String {
    let mut noted = String::new();
    let _ = file.read_to_string(&mut noted);
    let noted = noted.trim().parse::<u32>().ok();
    let holders = processes_with(file, noted);
    match noted.filter(|number| holders.contains(number)).or(holders.first().copied()) {
        Some(number) if number == std::process::id() => format!("process {number} (this one)"),
        Some(number) => format!("process {number}"),
        None => "another process, of another user or in another container".into(),
    }
}

/// The processes that have the file open; of those that cannot be seen from here none.
#[cfg(target_os = "linux")]
fn processes_with(file: &File, _noted: Option<u32>) -> Vec<u32> {
    let Ok(wanted) = file.metadata() else { return Vec::new() };
    let Ok(processes) = std::fs::read_dir("/proc") else { return Vec::new() };
    let numbers = processes.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    // This process has it open once already, to ask.
    let needed = |number: u32| if number == std::process::id() { 2 } else { 1 };
    numbers.filter(|number| times_open(*number, &wanted) >= needed(*number)).collect()
}

/// How often a process has the file open.
#[cfg(target_os = "linux")]
fn times_open(process: u32, wanted: &std::fs::Metadata) -> usize {
    use std::os::unix::fs::MetadataExt;

    let Ok(descriptors) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return 0 };
    let same = |path: &Path| {
        // Only files with the right name are asked about: a question about one on a dead network disk may take for ever.
        let target = std::fs::read_link(path).unwrap_or_default();
        target.file_name().is_some_and(|name| name == LOCK_FILE)
            && std::fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (wanted.dev(), wanted.ino()))
    };
    descriptors.flatten().filter(|entry| same(&entry.path())).count()
}

/// Where nobody can be asked who has a file open: the process that took the lock, if it is there.
#[cfg(not(target_os = "linux"))]
fn processes_with(_file: &File, noted: Option<u32>) -> Vec<u32> {
    let is_there = |number: u32| {
        let process = i32::try_from(number).ok().and_then(rustix::process::Pid::from_raw);
        process.is_some_and(|process| {
            rustix::process::test_kill_process(process).map_or_else(|error| error == rustix::io::Errno::PERM, |()| true)
        })
    };
    noted.filter(|number| is_there(*number)).into_iter().collect()
}
