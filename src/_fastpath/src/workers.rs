//! A persistent pool of native threads, and the ring through which they report what they finished.
//!
//! Starting a thread costs as much as four signature checks, so the threads stay. They never take the interpreter's
//! lock. Threads do not survive a fork, so a pool belongs to the process that made it: see [`Workers::is_ours`].

use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use crate::event::Event;

/// A piece of work for one thread of the pool.
pub type Job = Box<dyn FnOnce() + Send>;

/// The name of the pool's threads, as `top -H` and profilers show it (at most 15 bytes on Linux).
pub const THREAD_NAME: &str = "smartbft-verify";

/// A pool of threads that take jobs from one queue, first in, first out.
///
/// Dropping the pool closes it: the queued jobs still run, then the threads end.
pub struct Workers {
    shared: Arc<Shared>,
    threads: usize,
    process: u32,
}

struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<Job>,
    closed: bool,
}

/// Locks even if a holder panicked: every critical section in this file leaves its data whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Workers {
    /// Starts `threads` threads at niceness `nice` (0 to 19; higher values yield to the rest of the process).
    ///
    /// # Errors
    /// The system refuses to start a thread.
    pub fn new(threads: usize, nice: i32) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { queue: Mutex::default(), wake: Condvar::new() });
        // Made first, so that an error below closes the queue and the threads already started end.
        let workers = Workers { shared, threads, process: std::process::id() };
        for _ in 0..threads {
            let shared = Arc::clone(&workers.shared);
            thread::Builder::new().name(THREAD_NAME.into()).spawn(move || {
                lower_priority(nice);
                shared.work();
            })?;
        }
        Ok(workers)
    }

    /// Queues a job; one of the threads will run it. A panic in a job ends the job, not the thread.
    pub fn submit(&self, job: Job) {
        lock(&self.shared.queue).jobs.push_back(job);
        self.shared.wake.notify_one();
    }

    /// Lets the threads end once the queue is empty; jobs submitted afterwards may never run.
    pub fn close(&self) {
        lock(&self.shared.queue).closed = true;
        self.shared.wake.notify_all();
    }

    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Whether this process started the threads. In a forked child they do not exist, and the queue's lock may have
    /// been held at the fork: such a pool must not be used, only replaced.
    pub fn is_ours(&self) -> bool {
        self.process == std::process::id()
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        if self.is_ours() {
            self.close();
        }
    }
}

impl Shared {
    fn work(&self) {
        while let Some(job) = self.next() {
            // The panic hook has reported it; what waits for this job notices that it was dropped.
            let _ = catch_unwind(AssertUnwindSafe(job));
        }
    }

    fn next(&self) -> Option<Job> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(job) = queue.jobs.pop_front() {
                return Some(job);
            }
            if queue.closed {
                return None;
            }
            queue = self.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

/// On Linux niceness belongs to a thread; elsewhere to the whole process, which is not ours to slow down.
fn lower_priority(nice: i32) {
    #[cfg(target_os = "linux")]
    // Refused where niceness is already higher than asked for; the thread then runs as it is.
    let _ = rustix::process::setpriority_process(None, nice);
    #[cfg(not(target_os = "linux"))]
    let _ = nice;
}

/// Finished work on its way back: pushed by any thread, drained by the one that waits on the descriptor.
///
/// Whoever submits bounds what is in flight, so the ring needs no bound of its own.
pub struct Completions<T> {
    finished: Mutex<Vec<T>>,
    event: Event,
}

impl<T> Completions<T> {
    /// # Errors
    /// The process or the system is out of file descriptors.
    pub fn new() -> std::io::Result<Self> {
        Ok(Completions { finished: Mutex::new(Vec::new()), event: Event::new()? })
    }

    /// Adds one; the descriptor becomes readable.
    pub fn push(&self, item: T) {
        let mut finished = lock(&self.finished);
        finished.push(item);
        if finished.len() == 1 {
            self.event.signal();
        }
    }

    /// Takes everything finished so far, in order of completion; the descriptor is no longer readable.
    pub fn drain(&self) -> Vec<T> {
        let mut finished = lock(&self.finished);
        self.event.clear();
        std::mem::take(&mut finished)
    }

    /// The descriptor that is readable while there is something to drain.
    pub fn descriptor(&self) -> i32 {
        self.event.descriptor()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn runs_every_job_and_survives_a_panicking_one() {
        let workers = Workers::new(3, 0).unwrap();
        let (sender, receiver) = mpsc::channel();
        workers.submit(Box::new(|| panic!("a job that fails")));
        for number in 0..100u32 {
            let sender = sender.clone();
            workers.submit(Box::new(move || sender.send(number).unwrap()));
        }
        drop(sender);
        let mut numbers: Vec<u32> = receiver.iter().collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    }

    #[test]
    fn dropping_the_pool_finishes_what_is_queued() {
        let workers = Workers::new(1, 10).unwrap();
        let (sender, receiver) = mpsc::channel();
        for number in 0..10u32 {
            let sender = sender.clone();
            workers.submit(Box::new(move || sender.send(number).unwrap()));
        }
        drop((workers, sender));
        assert_eq!(receiver.iter().collect::<Vec<_>>(), (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn completions_come_back_in_order() {
        let completions = Arc::new(Completions::new().unwrap());
        let workers = Workers::new(1, 0).unwrap();
        let (sender, receiver) = mpsc::channel();
        for number in 0..5u32 {
            let (completions, sender) = (Arc::clone(&completions), sender.clone());
            workers.submit(Box::new(move || {
                completions.push(number);
                sender.send(()).unwrap();
            }));
        }
        receiver.iter().take(5).for_each(drop);
        assert_eq!(completions.drain(), [0, 1, 2, 3, 4]);
        assert!(completions.drain().is_empty());
    }
}
