//! Fills the next segment with zeros in the background, so that the writer finds it ready.

use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::device::{is_out_of_space, Device, LogFile};
use super::folder::{prepare_segment, Urgency};
use super::LogError;

/// How long after a failure for want of space the next attempt is made, unless the writer is waiting.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// A waiting writer gives up after this many failures that it saw: the first may have begun before space was freed.
const FAILURES_SEEN: u64 = 2;

#[derive(Default)]
struct State {
    wanted: Option<u64>,
    ready: Option<(u64, LogFile)>,
    /// The writer cannot go on without the segment.
    urgent: bool,
    failures: u64,
    message: String,
    fatal: bool,
}

struct Shared {
    device: Arc<dyn Device>,
    folder: PathBuf,
    size: u64,
    state: Mutex<State>,
    changed: Condvar,
    closing: AtomicBool,
    space_low: AtomicBool,
}

/// The thread and its hand-over place for one prepared segment.
pub struct Preparer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

impl Preparer {
    /// `on_fatal` is called when a segment cannot be prepared for another reason than want of space.
    pub fn start(
        device: Arc<dyn Device>,
        folder: PathBuf,
        size: u64,
        on_fatal: impl Fn(String) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            device,
            folder,
            size,
            state: Mutex::default(),
            changed: Condvar::new(),
            closing: AtomicBool::new(false),
            space_low: AtomicBool::new(false),
        });
        let for_thread = Arc::clone(&shared);
        let thread =
            std::thread::Builder::new().name("smartbft-log-zf".into()).spawn(move || for_thread.run(&on_fatal))?;
        Ok(Preparer { shared, thread: Some(thread) })
    }

    /// Hands over a segment that is prepared already.
    pub fn offer(&self, number: u64, file: LogFile) {
        self.shared.lock().ready = Some((number, file));
    }

    /// Asks for a segment to be prepared.
    pub fn request(&self, number: u64) {
        let mut state = self.shared.lock();
        if state.ready.as_ref().is_none_or(|(ready, _)| *ready != number) {
            state.wanted = Some(number);
            self.shared.changed.notify_all();
        }
    }

    /// Waits for the segment and takes it.
    pub fn take(&self, number: u64) -> Result<LogFile, LogError> {
        self.request(number);
        let mut state = self.shared.lock();
        let give_up_at = state.failures + FAILURES_SEEN;
        state.urgent = true;
        self.shared.changed.notify_all();
        loop {
            if let Some((_, file)) = state.ready.take_if(|(ready, _)| *ready == number) {
                state.urgent = false;
                return Ok(file);
            }
            if state.fatal || state.failures >= give_up_at {
                return Err(LogError::DurabilityLost(state.message.clone()));
            }
            state = self.shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    pub fn is_space_low(&self) -> bool {
        self.shared.space_low.load(Ordering::Relaxed)
    }

    /// Stops the thread; a segment half prepared is dropped.
    pub fn close(&mut self) {
        self.shared.closing.store(true, Ordering::Relaxed);
        // Taking the lock orders this before or after the thread's check, so that it cannot miss the wake-up.
        drop(self.shared.lock());
        self.shared.changed.notify_all();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Preparer {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn run(&self, on_fatal: &dyn Fn(String)) {
        while let Some(number) = self.next_wanted() {
            match prepare_segment(&*self.device, &self.folder, number, self.size, &|| self.urgency()) {
                Ok(Some(file)) => self.hand_over(number, file),
                Ok(None) => return,
                Err(error) => {
                    let message = format!("cannot prepare segment {number}: {error}");
                    if !is_out_of_space(&error) {
                        self.failed(message.clone(), true);
                        return on_fatal(message);
                    }
                    self.space_low.store(true, Ordering::Relaxed);
                    self.failed(message, false);
                }
            }
        }
    }

    fn urgency(&self) -> Urgency {
        match (self.closing.load(Ordering::Relaxed), self.lock().urgent) {
            (true, _) => Urgency::Never,
            (false, true) => Urgency::Now,
            (false, false) => Urgency::Ahead,
        }
    }

    /// Waits for something to do; none when closing.
    fn next_wanted(&self) -> Option<u64> {
        let mut state = self.lock();
        let mut rested = !self.space_low.load(Ordering::Relaxed);
        loop {
            if self.closing.load(Ordering::Relaxed) {
                return None;
            }
            match state.wanted {
                Some(number) if rested || state.urgent => return Some(number),
                Some(_) => {
                    let outcome = self.changed.wait_timeout(state, RETRY_AFTER);
                    let timeout;
                    (state, timeout) = outcome.unwrap_or_else(PoisonError::into_inner);
                    rested = timeout.timed_out();
                }
                None => state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    fn hand_over(&self, number: u64, file: LogFile) {
        let mut state = self.lock();
        self.space_low.store(false, Ordering::Relaxed);
        if state.wanted == Some(number) {
            state.wanted = None;
        }
        state.ready = Some((number, file));
        self.changed.notify_all();
    }

    fn failed(&self, message: String, fatal: bool) {
        let mut state = self.lock();
        state.failures += 1;
        state.message = message;
        state.fatal = fatal;
        self.changed.notify_all();
    }
}
