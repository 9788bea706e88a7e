//! The log as its owner sees it: append, learn what is complete, close.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::device::{Device, SystemDevice};
use super::encoder::{joined, Encoder};
use super::fault::FaultyDevice;
use super::folder::{self, begin_segment, prepare_segment, Folder, Recovered, RecoveredSegment, Urgency};
use super::format::{record_size, Checksum, Identity, CLOSE_MARK, RECORD_HEADER_SIZE, SEGMENT_HEADER_SIZE};
use super::lock::FolderLock;
use super::notifier::Notifier;
use super::prepare::Preparer;
use super::retention::{Finished, Retention};
use super::statistics::Statistics;
use super::writer::Writer;
use super::LogError;

pub const SMALLEST_SEGMENT: u64 = 4096;
pub const LARGEST_SEGMENT: u64 = 1 << 30;

/// Buffers of records from this size on are used again: smaller ones are cheap to allocate.
const SMALLEST_KEPT: usize = 64 << 10;
/// Bytes of buffers kept for that.
const MOST_KEPT: usize = 16 << 20;

/// When a record counts as complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// At once; nothing is written and no folder is touched.
    Memory,
    /// When the operating system has the write.
    Async,
    /// After `fdatasync`.
    Sync,
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub folder: PathBuf,
    pub identity: Identity,
    pub mode: Mode,
    pub segment_bytes: u64,
    pub sync_floor: Duration,
    /// For tests; empty for none (see [`FaultyDevice`]).
    pub fault_plan: String,
}

/// A record on its way to the disk: its bytes with room for the header, which the writer fills in.
#[derive(Debug)]
pub struct Pending {
    pub kind: u16,
    pub instance: u64,
    pub length: u32,
    pub checksum: Checksum,
    pub buffer: Vec<u8>,
}

#[derive(Debug, Default)]
struct State {
    /// Records that wait for one more to be queued with them.
    held: Vec<Pending>,
    queue: Vec<Pending>,
    pending_bytes: u64,
    appended: u64,
    completed: u64,
    failure: Option<String>,
    closing: bool,
}

/// What the owner's threads and the writer share.
pub struct Shared {
    state: Mutex<State>,
    work: Condvar,
    done: Condvar,
    notifier: Notifier,
    statistics: Mutex<Statistics>,
    used: Mutex<Vec<Vec<u8>>>,
}

impl Shared {
    fn new() -> Result<Arc<Self>, LogError> {
        let notifier =
            Notifier::new().map_err(|error| LogError::Storage(format!("cannot make an event descriptor: {error}")))?;
        Ok(Arc::new(Shared {
            state: Mutex::default(),
            work: Condvar::new(),
            done: Condvar::new(),
            notifier,
            statistics: Mutex::default(),
            used: Mutex::default(),
        }))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn statistics(&self) -> MutexGuard<'_, Statistics> {
        self.statistics.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn has_failed(&self) -> bool {
        self.lock().failure.is_some()
    }

    /// Everything queued, once there is something; none when the log is closed and all is written.
    pub fn take_group(&self) -> Option<Vec<Pending>> {
        let mut state = self.lock();
        loop {
            if state.failure.is_some() {
                return None;
            }
            if !state.queue.is_empty() {
                return Some(std::mem::take(&mut state.queue));
            }
            if state.closing {
                return None;
            }
            state = self.work.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A buffer to build a record of this size in: a used one where there is one, whose pages are mapped already.
    fn used_buffer(&self, size: usize) -> Vec<u8> {
        if size < SMALLEST_KEPT {
            return Vec::new();
        }
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        match used.iter().rposition(|buffer| buffer.capacity() >= size) {
            Some(index) => used.swap_remove(index),
            None => Vec::new(),
        }
    }

    /// Keeps the large buffers of a group that has been written, up to a bound.
    fn keep_buffers(&self, group: Vec<Pending>) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let mut kept: usize = used.iter().map(Vec::capacity).sum();
        for Pending { buffer, .. } in group {
            if buffer.capacity() >= SMALLEST_KEPT && kept + buffer.capacity() <= MOST_KEPT {
                kept += buffer.capacity();
                used.push(buffer);
            }
        }
    }

    /// Publishes that a group has reached the level of the mode.
    pub fn complete(&self, group: Vec<Pending>, bytes: u64) {
        self.statistics().count_group(group.len() as u64, bytes);
        let mut state = self.lock();
        state.completed += group.len() as u64;
        state.pending_bytes -= bytes;
        drop(state);
        self.done.notify_all();
        self.notifier.signal();
        self.keep_buffers(group);
    }

    /// Ends the log for good: nothing completes any more.
    pub fn fail(&self, message: String) {
        let mut state = self.lock();
        state.failure.get_or_insert(message);
        state.held = Vec::new();
        state.queue = Vec::new();
        drop(state);
        self.work.notify_all();
        self.done.notify_all();
        self.notifier.signal();
    }
}

impl State {
    fn release_held(&mut self) {
        self.queue.append(&mut self.held);
    }

    fn check(&self) -> Result<(), LogError> {
        match &self.failure {
            Some(message) => Err(LogError::DurabilityLost(message.clone())),
            None => Ok(()),
        }
    }
}

/// The files and threads of a log that writes; gone once it is closed.
struct Running {
    preparer: Arc<Preparer>,
    writer: JoinHandle<()>,
    lock: FolderLock,
}

/// An open log.
pub struct DurableLog {
    mode: Mode,
    owner: u32,
    largest_body: u64,
    shared: Arc<Shared>,
    running: Mutex<Option<Running>>,
    /// None in memory mode.
    retention: Option<Arc<Retention>>,
    recovered: Mutex<Vec<RecoveredSegment>>,
}

impl DurableLog {
    /// Opens or creates the log and reads it back.
    pub fn open(settings: &Settings) -> Result<Self, LogError> {
        if !(SMALLEST_SEGMENT..=LARGEST_SEGMENT).contains(&settings.segment_bytes) || settings.segment_bytes % 8 != 0 {
            return Err(LogError::Storage(format!(
                "a segment of {} bytes: give a multiple of 8 from {SMALLEST_SEGMENT} to {LARGEST_SEGMENT}",
                settings.segment_bytes
            )));
        }
        let room = settings.segment_bytes - (SEGMENT_HEADER_SIZE + RECORD_HEADER_SIZE) as u64;
        let mut log = DurableLog {
            mode: settings.mode,
            owner: std::process::id(),
            largest_body: room,
            shared: Shared::new()?,
            running: Mutex::new(None),
            retention: None,
            recovered: Mutex::default(),
        };
        if settings.mode != Mode::Memory {
            log.start(settings)?;
        }
        Ok(log)
    }

    fn start(&mut self, settings: &Settings) -> Result<(), LogError> {
        let device: Arc<dyn Device> = if settings.fault_plan.is_empty() {
            Arc::new(SystemDevice)
        } else {
            Arc::new(FaultyDevice::new(&settings.fault_plan)?)
        };
        folder::create(&*device, &settings.folder)?;
        let lock = FolderLock::take(&settings.folder)?;
        let mut recovered =
            Folder::new(&*device, &settings.folder, settings.identity).recover(settings.segment_bytes)?;
        let mut finished = finished_segments(&recovered);
        self.recovered = Mutex::new(std::mem::take(&mut recovered.segments));
        let highest = finished.pop_back().and_then(|current| current.highest);
        let (file, encoder) = match recovered.current.take() {
            Some(current) => current,
            None => first_segment(&*device, settings, &mut recovered)?,
        };
        self.shared.statistics().segments = encoder.header().segment + 1;
        let preparer = Arc::new(self.start_preparer(&device, settings, recovered, encoder.header().segment + 1)?);
        let retention = Arc::new(Retention::new(Arc::clone(&device), settings.folder.clone(), finished));
        self.retention = Some(Arc::clone(&retention));
        let writer = Writer {
            device,
            shared: Arc::clone(&self.shared),
            preparer: Arc::clone(&preparer),
            retention,
            file,
            encoder,
            highest,
            segment_bytes: settings.segment_bytes,
            mode: settings.mode,
            sync_floor: settings.sync_floor,
            unsynced: false,
        };
        let writer = spawn("smartbft-log", move || writer.run())?;
        self.running = Mutex::new(Some(Running { preparer, writer, lock }));
        Ok(())
    }

    fn start_preparer(
        &self,
        device: &Arc<dyn Device>,
        settings: &Settings,
        mut recovered: Recovered,
        next: u64,
    ) -> Result<Preparer, LogError> {
        let shared = Arc::clone(&self.shared);
        let on_fatal = move |message| shared.fail(message);
        let preparer = Preparer::start(Arc::clone(device), settings.folder.clone(), settings.segment_bytes, on_fatal)
            .map_err(|error| LogError::Storage(format!("cannot start a thread: {error}")))?;
        if let Some((number, file)) = recovered.spare.take_if(|(number, _)| *number == next) {
            preparer.offer(number, file);
        }
        preparer.request(next);
        Ok(preparer)
    }

    /// The records found at opening, once.
    pub fn take_recovered(&self) -> Vec<RecoveredSegment> {
        std::mem::take(&mut *self.recovered.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Queues a record and returns its sequence number. With `more`, the writer gets it together with the next one, so
    /// that one sync covers both.
    pub fn append(&self, kind: u16, instance: u64, parts: &[&[u8]], more: bool) -> Result<u64, LogError> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        if kind == CLOSE_MARK {
            return Err(LogError::Storage("record kind 0 is the log's own: use 1 to 65535".into()));
        }
        if length as u64 > self.largest_body {
            return Err(LogError::Storage(format!(
                "a record of {length} bytes does not fit into a segment: at most {} do",
                self.largest_body
            )));
        }
        if self.mode == Mode::Memory {
            return self.append_to_memory(record_size(length) as u64);
        }
        let (buffer, checksum) = joined(self.shared.used_buffer(record_size(length)), parts);
        self.queue(Pending { kind, instance, length: length as u32, checksum, buffer }, more)
    }

    fn queue(&self, record: Pending, more: bool) -> Result<u64, LogError> {
        let mut state = self.open_state()?;
        state.pending_bytes += record.buffer.len() as u64;
        state.appended += 1;
        let sequence = state.appended;
        state.held.push(record);
        if !more {
            state.release_held();
            drop(state);
            self.shared.work.notify_one();
        }
        Ok(sequence)
    }

    fn append_to_memory(&self, bytes: u64) -> Result<u64, LogError> {
        let mut state = self.open_state()?;
        state.appended += 1;
        state.completed = state.appended;
        let sequence = state.appended;
        drop(state);
        self.shared.statistics().count_group(1, bytes);
        self.shared.notifier.signal();
        Ok(sequence)
    }

    fn open_state(&self) -> Result<MutexGuard<'_, State>, LogError> {
        self.check_process()?;
        let state = self.shared.lock();
        state.check()?;
        if state.closing {
            return Err(LogError::Storage("the log is closed".into()));
        }
        Ok(state)
    }

    /// The highest sequence number that is complete; clears the event.
    pub fn completed(&self) -> Result<u64, LogError> {
        self.check_process()?;
        // Cleared first: what completes after this makes it readable again.
        self.shared.notifier.clear();
        let state = self.shared.lock();
        state.check()?;
        Ok(state.completed)
    }

    /// Blocks until the record is complete.
    pub fn wait(&self, sequence: u64) -> Result<(), LogError> {
        self.check_process()?;
        let mut state = self.shared.lock();
        if sequence > state.appended {
            return Err(LogError::Storage(format!("record {sequence} has not been appended")));
        }
        while state.completed < sequence {
            state.check()?;
            state = self.shared.done.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        Ok(())
    }

    /// Removes the oldest finished segments as long as all their records are of instances before this one; returns how
    /// many went. The log goes on after an error.
    pub fn forget(&self, instance: u64) -> Result<u64, LogError> {
        self.check_process()?;
        self.retention.as_ref().map_or(Ok(0), |retention| retention.forget(instance))
    }

    /// A forked child has the log's memory, locks that nobody will open, and none of its threads.
    fn check_process(&self) -> Result<(), LogError> {
        if std::process::id() != self.owner {
            return Err(LogError::Storage("a forked process leaves the log to its parent".into()));
        }
        Ok(())
    }

    pub fn fileno(&self) -> RawFd {
        self.shared.notifier.fileno()
    }

    /// The descriptor of the folder's lock, if it is held.
    pub fn lock_fileno(&self) -> Option<RawFd> {
        self.running().as_ref().map(|running| running.lock.file().as_raw_fd())
    }

    pub fn is_space_low(&self) -> bool {
        self.running().as_ref().is_some_and(|running| running.preparer.is_space_low())
    }

    pub fn pending_bytes(&self) -> u64 {
        self.shared.lock().pending_bytes
    }

    pub fn statistics(&self) -> MutexGuard<'_, Statistics> {
        self.shared.statistics()
    }

    /// Writes and syncs everything queued, stops the threads, releases the lock. Again and again, if you like; the
    /// error is that of a log that could not do so.
    pub fn close(&self) -> Result<(), LogError> {
        if self.check_process().is_err() {
            std::mem::forget(self.running().take());
            return Ok(());
        }
        let mut state = self.shared.lock();
        state.closing = true;
        state.release_held();
        drop(state);
        self.shared.work.notify_all();
        let running = self.running().take();
        if let Some(Running { preparer, writer, lock }) = running {
            let _ = writer.join();
            if let Some(retention) = &self.retention {
                retention.end();
            }
            drop(preparer);
            drop(lock);
        }
        self.shared.lock().check()
    }

    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for DurableLog {
    fn drop(&mut self) {
        let _ = self.close();
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, LogError> {
    std::thread::Builder::new()
        .name(name.into())
        .spawn(body)
        .map_err(|error| LogError::Storage(format!("cannot start a thread: {error}")))
}

/// The segments that hold something, with the highest instance in each; the last one is still to be written.
fn finished_segments(recovered: &Recovered) -> VecDeque<Finished> {
    let first = recovered.next_segment - recovered.segments.len() as u64;
    let highest = |segment: &RecoveredSegment| segment.records.iter().map(|record| record.instance).max();
    let numbered = (first..).zip(&recovered.segments);
    numbered.map(|(number, segment)| Finished { number, highest: highest(segment) }).collect()
}

/// Begins the log's first segment, in the spare file or in a new one.
fn first_segment(
    device: &dyn Device,
    settings: &Settings,
    recovered: &mut Recovered,
) -> Result<(super::device::LogFile, Encoder), LogError> {
    let number = recovered.next_segment;
    let size = settings.segment_bytes;
    let path: &Path = &settings.folder;
    let failed = |error: std::io::Error| LogError::storage("create the log in", path, &error);
    let file = match recovered.spare.take_if(|(spare, _)| *spare == number) {
        Some((_, file)) => file,
        None => {
            let file = prepare_segment(device, path, number, size, &|| Urgency::Now).map_err(failed)?;
            file.expect("it was wanted")
        }
    };
    let encoder = begin_segment(device, &file, settings.identity, number, size, recovered.previous).map_err(failed)?;
    Ok((file, encoder))
}
