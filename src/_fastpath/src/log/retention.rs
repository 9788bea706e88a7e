//! Which segments are finished, and removing the oldest ones when a checkpoint has made them superfluous.

use std::collections::VecDeque;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::device::{sync_folder, uninterrupted, Device};
use super::folder::segment_name;
use super::LogError;

/// A segment that is written no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    pub number: u64,
    /// The highest instance of its records; none without records.
    pub highest: Option<u64>,
}

/// The finished segments of a log that is open.
pub struct Retention {
    device: Arc<dyn Device>,
    folder: PathBuf,
    /// Oldest first. The writer adds to it and must not wait for a disk: held for moments only.
    finished: Mutex<VecDeque<Finished>>,
    /// Held while segments are removed; why none may be removed any more.
    ended: Mutex<Option<String>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Retention {
    pub fn new(device: Arc<dyn Device>, folder: PathBuf, finished: VecDeque<Finished>) -> Self {
        Retention { device, folder, finished: Mutex::new(finished), ended: Mutex::new(None) }
    }

    pub fn add(&self, finished: Finished) {
        lock(&self.finished).push_back(finished);
    }

    /// The oldest segment, if all its records are of earlier instances.
    fn superfluous(&self, instance: u64) -> Option<u64> {
        let finished = lock(&self.finished);
        finished.front().filter(|oldest| oldest.highest < Some(instance)).map(|oldest| oldest.number)
    }

    /// Removes the oldest segments as long as all their records are of earlier instances; returns how many went.
    ///
    /// The folder is synced after each: removals reach the disk in their order, so that a crash never leaves a gap. A
    /// file that cannot be removed stays for the next time. A folder that cannot be synced ends this for good: nobody
    /// knows which removals the disk has, and one more might leave a gap.
    pub fn forget(&self, instance: u64) -> Result<u64, LogError> {
        let mut ended = lock(&self.ended);
        if let Some(why) = &*ended {
            return Err(LogError::Storage(why.clone()));
        }
        let mut removed = 0;
        while let Some(number) = self.superfluous(instance) {
            let path = self.folder.join(segment_name(number));
            match uninterrupted(|| self.device.remove(&path)) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(LogError::storage("remove", &path, &error));
                }
                _ => lock(&self.finished).pop_front(),
            };
            if let Err(error) = sync_folder(&*self.device, &self.folder) {
                let folder = self.folder.display();
                let why = format!(
                    "cannot sync {folder}: {error}; no more segments are removed until the log is opened again"
                );
                *ended = Some(why.clone());
                return Err(LogError::Storage(why));
            }
            removed += 1;
        }
        Ok(removed)
    }

    /// The log is closed: waits for a removal under way and permits no other.
    pub fn end(&self) {
        lock(&self.ended).get_or_insert("the log is closed".into());
    }
}
