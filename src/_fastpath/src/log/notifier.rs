//! The event that tells an event loop that something was completed: an eventfd, or a pipe where there is none.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

#[derive(Debug)]
pub struct Notifier {
    read: OwnedFd,
    #[cfg(not(target_os = "linux"))]
    write: OwnedFd,
}

impl Notifier {
    #[cfg(target_os = "linux")]
    pub fn new() -> io::Result<Self> {
        use rustix::event::{eventfd, EventfdFlags};
        Ok(Notifier { read: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)? })
    }

    #[cfg(not(target_os = "linux"))]
    pub fn new() -> io::Result<Self> {
        let (read, write) = rustix::pipe::pipe()?;
        for end in [&read, &write] {
            rustix::io::fcntl_setfd(end, rustix::io::FdFlags::CLOEXEC)?;
            rustix::fs::fcntl_setfl(end, rustix::fs::OFlags::NONBLOCK)?;
        }
        Ok(Notifier { read, write })
    }

    /// What to poll for reading.
    pub fn fileno(&self) -> RawFd {
        self.read.as_raw_fd()
    }

    /// Makes it readable. That it is full already is as good.
    pub fn signal(&self) {
        #[cfg(target_os = "linux")]
        let _ = rustix::io::write(&self.read, &1u64.to_ne_bytes());
        #[cfg(not(target_os = "linux"))]
        let _ = rustix::io::write(&self.write, &[1]);
    }

    /// Makes it unreadable again.
    pub fn clear(&self) {
        let mut bytes = [0; 64];
        while rustix::io::read(&self.read, &mut bytes[..]).is_ok_and(|count| count == bytes.len()) {}
    }
}
