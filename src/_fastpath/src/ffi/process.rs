//! Values that belong to one process: a forked child, which inherits memory but no threads, makes its own.

use std::sync::atomic::{AtomicPtr, Ordering};

/// A value made on first use in each process, without a lock (one could be held at a fork, for ever in the child).
///
/// Values live until the process ends, replaced ones too: there are few, and somebody may still be using them.
pub struct PerProcess<T> {
    current: AtomicPtr<Owned<T>>,
}

struct Owned<T> {
    process: u32,
    value: T,
}

impl<T: Send + Sync + 'static> PerProcess<T> {
    // Made for statics, which `Default` could not initialise.
    #[allow(clippy::new_without_default)]
    pub const fn new() -> Self {
        PerProcess { current: AtomicPtr::new(std::ptr::null_mut()) }
    }

    /// This process's value; `make` is called if there is none yet.
    pub fn get<E>(&self, make: impl FnOnce() -> Result<T, E>) -> Result<&'static T, E> {
        let inherited = self.current.load(Ordering::Acquire);
        if let Some(value) = Self::ours(inherited) {
            return Ok(value);
        }
        let made = Box::into_raw(Box::new(Owned { process: std::process::id(), value: make()? }));
        match self.current.compare_exchange(inherited, made, Ordering::AcqRel, Ordering::Acquire) {
            // SAFETY: `made` was just leaked; nothing frees it from now on.
            Ok(_) => Ok(unsafe { &(*made).value }),
            Err(winner) => {
                // SAFETY: `made` was never published, so this is its only owner.
                drop(unsafe { Box::from_raw(made) });
                // Another thread of this process was first; no fork can have happened in between.
                Ok(Self::ours(winner).expect("the value of this process"))
            }
        }
    }

    /// Makes the next `get` call its `make` again; returns the value that was current, if it is this process's.
    pub fn reset(&self) -> Option<&'static T> {
        Self::ours(self.current.swap(std::ptr::null_mut(), Ordering::AcqRel))
    }

    fn ours(pointer: *mut Owned<T>) -> Option<&'static T> {
        // SAFETY: a published pointer is null or points to a leaked value that nothing frees.
        let owned = unsafe { pointer.as_ref() }?;
        (owned.process == std::process::id()).then_some(&owned.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_made_once_and_again_after_a_reset() {
        static CELL: PerProcess<u32> = PerProcess::new();
        assert_eq!(CELL.get(|| Ok::<_, ()>(1)), Ok(&1));
        assert_eq!(CELL.get(|| Ok::<_, ()>(2)), Ok(&1));
        assert_eq!(CELL.reset(), Some(&1));
        assert_eq!(CELL.reset(), None);
        assert_eq!(CELL.get(|| Err(3)), Err(3));
        assert_eq!(CELL.get(|| Ok::<_, ()>(4)), Ok(&4));
    }
}
