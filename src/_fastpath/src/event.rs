//! A file descriptor that becomes readable when native threads have something to report.
//!
//! An event loop waits on it beside its sockets, so no thread of this crate ever has to call into Python.

use rustix::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use rustix::io::{read, write, Errno};

/// An event counter: an eventfd on Linux, a pipe elsewhere.
#[derive(Debug)]
pub struct Event {
    reader: OwnedFd,
    #[cfg(not(target_os = "linux"))]
    writer: OwnedFd,
}

impl Event {
    /// # Errors
    /// The process or the system is out of file descriptors.
    #[cfg(target_os = "linux")]
    pub fn new() -> std::io::Result<Self> {
        use rustix::event::{eventfd, EventfdFlags};
        Ok(Event { reader: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    /// # Errors
    /// The process or the system is out of file descriptors.
    #[cfg(not(target_os = "linux"))]
    pub fn new() -> std::io::Result<Self> {
        use rustix::io::{fcntl_setfd, ioctl_fionbio, FdFlags};
        let (reader, writer) = rustix::pipe::pipe()?;
        for end in [&reader, &writer] {
            fcntl_setfd(end, FdFlags::CLOEXEC)?;
            ioctl_fionbio(end, true)?;
        }
        Ok(Event { reader, writer })
    }

    /// The descriptor to wait on; readable after [`Event::signal`] until [`Event::clear`].
    pub fn descriptor(&self) -> RawFd {
        self.reader.as_fd().as_raw_fd()
    }

    /// Makes the descriptor readable. Any thread may call it.
    pub fn signal(&self) {
        // A full counter or pipe means that it is readable already; an interrupted call is repeated.
        while write(self.write_end(), &1u64.to_ne_bytes()) == Err(Errno::INTR) {}
    }

    /// Makes the descriptor not readable, until the next signal.
    pub fn clear(&self) {
        let mut counter = [0u8; 512];
        loop {
            match read(&self.reader, &mut counter) {
                Err(Errno::INTR) => {}
                // A pipe may hold more than one read takes; an eventfd is empty after one.
                Ok(length) if length == counter.len() => {}
                _ => return,
            }
        }
    }

    #[cfg(target_os = "linux")]
    fn write_end(&self) -> &OwnedFd {
        &self.reader
    }

    #[cfg(not(target_os = "linux"))]
    fn write_end(&self) -> &OwnedFd {
        &self.writer
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::event::{poll, PollFd, PollFlags, Timespec};

    fn readable(event: &Event) -> bool {
        let mut descriptors = [PollFd::new(&event.reader, PollFlags::IN)];
        poll(&mut descriptors, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).unwrap() == 1
    }

    #[test]
    fn is_readable_from_signal_to_clear() {
        let event = Event::new().unwrap();
        assert!(!readable(&event));
        event.signal();
        event.signal();
        assert!(readable(&event));
        event.clear();
        assert!(!readable(&event));
        event.clear();
        event.signal();
        assert!(readable(&event));
    }
}
