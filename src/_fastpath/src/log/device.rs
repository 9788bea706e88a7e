//! The table of system calls that the log goes through, so that tests can make any of them fail.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::path::Path;

/// What `pwritev` takes at once on the systems we run on.
pub const MAX_SLICES: usize = 1024;

/// An open file and its number in a write journal.
#[derive(Debug)]
pub struct LogFile {
    pub file: File,
    pub number: u32,
}

/// The system calls of the log. Calls may write or read less than asked and may be interrupted; the functions below
/// ([`write_all`], [`read_full`], [`allocate_all`], [`sync`]) deal with that.
pub trait Device: Send + Sync {
    /// Opens for reading and writing; `create` makes a new empty file in place of any that is there.
    fn open(&self, path: &Path, create: bool) -> io::Result<LogFile>;
    fn read(&self, file: &LogFile, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    fn write(&self, file: &LogFile, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize>;
    /// Writes zeros, so that later writes change neither the file's size nor its extents.
    fn allocate(&self, file: &LogFile, offset: u64, length: u64) -> io::Result<usize>;
    /// Waits until the file's bytes are on disk.
    fn sync(&self, file: &LogFile) -> io::Result<()>;
    /// Waits until the folder's entries are on disk.
    fn sync_folder(&self, folder: &Path) -> io::Result<()>;
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    fn remove(&self, path: &Path) -> io::Result<()>;
    /// Forgets cached pages, so that a read tells what the disk has.
    fn drop_cache(&self, file: &LogFile);
}

/// The operating system.
#[derive(Debug, Default)]
pub struct SystemDevice;

static ZEROS: [u8; 1 << 18] = [0; 1 << 18];

impl Device for SystemDevice {
    fn open(&self, path: &Path, create: bool) -> io::Result<LogFile> {
        let file = File::options().read(true).write(true).create(create).truncate(create).open(path)?;
        Ok(LogFile { file, number: 0 })
    }

    fn read(&self, file: &LogFile, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        Ok(rustix::io::pread(&file.file, buffer, offset)?)
    }

    fn write(&self, file: &LogFile, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
        write_slices(&file.file, slices, offset)
    }

    fn allocate(&self, file: &LogFile, offset: u64, length: u64) -> io::Result<usize> {
        let count = usize::try_from(length).unwrap_or(usize::MAX).min(ZEROS.len());
        self.write(file, &[IoSlice::new(&ZEROS[..count])], offset)
    }

    fn sync(&self, file: &LogFile) -> io::Result<()> {
        sync_data(&file.file)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        sync_all(&File::open(folder)?)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn drop_cache(&self, file: &LogFile) {
        drop_cached_pages(&file.file);
    }
}

#[cfg(not(target_vendor = "apple"))]
fn write_slices(file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    Ok(rustix::io::pwritev(file, slices, offset)?)
}

#[cfg(target_vendor = "apple")]
fn write_slices(file: &File, slices: &[IoSlice<'_>], offset: u64) -> io::Result<usize> {
    Ok(slices.first().map_or(Ok(0), |slice| rustix::io::pwrite(file, slice, offset))?)
}

#[cfg(not(target_vendor = "apple"))]
fn sync_data(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fdatasync(file)?)
}

/// There `fsync` leaves the data in the drive's cache.
#[cfg(target_vendor = "apple")]
fn sync_data(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fcntl_fullfsync(file)?)
}

#[cfg(not(target_vendor = "apple"))]
fn sync_all(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fsync(file)?)
}

#[cfg(target_vendor = "apple")]
fn sync_all(file: &File) -> io::Result<()> {
    Ok(rustix::fs::fcntl_fullfsync(file)?)
}

/// Advice only: a file system that keeps its pages (one in memory, say) may ignore it.
#[cfg(target_os = "linux")]
fn drop_cached_pages(file: &File) {
    let _ = rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed);
}

#[cfg(not(target_os = "linux"))]
fn drop_cached_pages(_file: &File) {}

/// Repeats a call that a signal interrupted.
pub fn uninterrupted<T>(mut call: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            outcome => return outcome,
        }
    }
}

/// Writes all of `buffers`, one behind the other from `offset` on, continuing after short writes.
pub fn write_all(device: &dyn Device, file: &LogFile, buffers: &[&[u8]], mut offset: u64) -> io::Result<()> {
    for chunk in buffers.chunks(MAX_SLICES) {
        let mut slices: Vec<IoSlice<'_>> = chunk.iter().map(|bytes| IoSlice::new(bytes)).collect();
        let mut rest = &mut slices[..];
        IoSlice::advance_slices(&mut rest, 0); // steps over empty ones
        while !rest.is_empty() {
            let written = uninterrupted(|| device.write(file, rest, offset))?;
            if written == 0 {
                return Err(ErrorKind::WriteZero.into());
            }
            offset += written as u64;
            IoSlice::advance_slices(&mut rest, written);
        }
    }
    Ok(())
}

/// Fills the range with zeros.
pub fn allocate_all(device: &dyn Device, file: &LogFile, mut offset: u64, end: u64) -> io::Result<()> {
    while offset < end {
        let written = uninterrupted(|| device.allocate(file, offset, end - offset))?;
        if written == 0 {
            return Err(ErrorKind::WriteZero.into());
        }
        offset += written as u64;
    }
    Ok(())
}

/// The file's bytes from the start, `length` of them or as many as there are.
pub fn read_full(device: &dyn Device, file: &LogFile, length: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(length).map_err(|_| io::Error::from(ErrorKind::OutOfMemory))?;
    let mut bytes = vec![0; length];
    let mut filled = 0;
    while filled < length {
        let count = uninterrupted(|| device.read(file, &mut bytes[filled..], filled as u64))?;
        if count == 0 {
            break;
        }
        filled += count;
    }
    bytes.truncate(filled);
    Ok(bytes)
}

/// Waits until the file's bytes are on disk. Only an interruption is repeated: after any other failure the kernel may
/// have dropped the pages, and a second sync that succeeds would say nothing about them.
pub fn sync(device: &dyn Device, file: &LogFile) -> io::Result<()> {
    uninterrupted(|| device.sync(file))
}

/// Waits until the folder's entries are on disk.
pub fn sync_folder(device: &dyn Device, folder: &Path) -> io::Result<()> {
    uninterrupted(|| device.sync_folder(folder))
}

/// True when the disk or the owner's share of it is full.
pub fn is_out_of_space(error: &io::Error) -> bool {
    let codes = [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT, rustix::io::Errno::FBIG];
    error.raw_os_error().is_some_and(|code| codes.iter().any(|errno| errno.raw_os_error() == code))
}
