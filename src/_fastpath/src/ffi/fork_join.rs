//! Fork-join over a persistent pool, with work that borrows from the caller's stack.

use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::workers::Workers;

/// Runs `body` on the calling thread and on up to `helpers` threads of the pool at once; returns when all have
/// returned. `body` shares out the work by itself, and whoever calls it finds what is left.
///
/// A helper that has not begun when the caller is through never begins, so a busy pool delays nobody.
///
/// # Panics
/// If `body` panics on any thread.
pub fn fork_join(workers: &Workers, helpers: usize, body: &(dyn Fn() + Sync)) {
    let gate = Arc::new(Gate::default());
    // SAFETY: only the lifetime changes. A helper calls `body` only between `enter` and `leave`; this function does not
    // return or unwind before the gate is closed and everybody inside has left, so `body` outlives every call.
    let shared: &'static (dyn Fn() + Sync) = unsafe { std::mem::transmute(body) };
    for _ in 0..helpers {
        let gate = Arc::clone(&gate);
        workers.submit(Box::new(move || {
            if gate.enter() {
                let outcome = catch_unwind(AssertUnwindSafe(shared));
                gate.leave(outcome.is_err());
            }
        }));
    }
    let outcome = catch_unwind(AssertUnwindSafe(body));
    let helper_panicked = gate.close();
    if let Err(panic) = outcome {
        resume_unwind(panic);
    }
    assert!(!helper_panicked, "a thread of the pool panicked");
}

/// Counts the helpers at work, and keeps late ones out.
#[derive(Default)]
struct Gate {
    state: Mutex<State>,
    left: Condvar,
}

#[derive(Default)]
struct State {
    closed: bool,
    inside: usize,
    panicked: bool,
}

impl Gate {
    fn enter(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.inside += usize::from(!state.closed);
        !state.closed
    }

    fn leave(&self, panicked: bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.inside -= 1;
        state.panicked |= panicked;
        self.left.notify_one();
    }

    /// Lets nobody in any more and waits for those inside; returns whether one of them panicked.
    fn close(&self) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.closed = true;
        while state.inside > 0 {
            state = self.left.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.panicked
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn shares_the_work_out() {
        let workers = Workers::new(2, 0).unwrap();
        for _ in 0..200 {
            let (next, sum) = (AtomicUsize::new(0), AtomicUsize::new(0));
            fork_join(&workers, 2, &|| loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= 100 {
                    return;
                }
                sum.fetch_add(number, Ordering::Relaxed);
            });
            assert_eq!(sum.into_inner(), 4950);
        }
    }

    #[test]
    fn does_not_wait_for_a_busy_pool() {
        let workers = Workers::new(1, 0).unwrap();
        let busy = Arc::new(Mutex::new(()));
        let held = busy.lock().unwrap();
        let blocker = Arc::clone(&busy);
        workers.submit(Box::new(move || drop(blocker.lock().unwrap())));
        let calls = AtomicUsize::new(0);
        fork_join(&workers, 1, &|| {
            calls.fetch_add(1, Ordering::Relaxed);
        });
        assert_eq!(calls.into_inner(), 1);
        drop(held);
    }

    #[test]
    fn passes_a_helper_s_panic_on() {
        let workers = Workers::new(1, 0).unwrap();
        let caller = std::thread::current().id();
        let started = (Mutex::new(false), Condvar::new());
        let outcome = catch_unwind(AssertUnwindSafe(|| {
            fork_join(&workers, 1, &|| {
                if std::thread::current().id() != caller {
                    *started.0.lock().unwrap() = true;
                    started.1.notify_one();
                    panic!("in the helper");
                }
                drop(started.1.wait_while(started.0.lock().unwrap(), |started| !*started).unwrap());
            });
        }));
        assert!(outcome.is_err());
    }
}
