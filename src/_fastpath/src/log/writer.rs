//! The thread that commits: takes everything queued, writes it with `pwritev`, syncs once, publishes.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::device::{self, write_all, Device, LogFile};
use super::durable::{Mode, Pending, Shared};
use super::encoder::Encoder;
use super::folder::begin_segment;
use super::format::{checksum, CLOSE_MARK, RECORD_HEADER_SIZE};
use super::prepare::Preparer;
use super::retention::{Finished, Retention};
use super::LogError;

/// The end of the log and everything needed to extend it.
pub struct Writer {
    pub device: Arc<dyn Device>,
    pub shared: Arc<Shared>,
    pub preparer: Arc<Preparer>,
    pub retention: Arc<Retention>,
    pub file: LogFile,
    pub encoder: Encoder,
    pub segment_bytes: u64,
    pub mode: Mode,
    pub sync_floor: Duration,
    /// The highest instance of the records in this segment.
    pub highest: Option<u64>,
    /// Bytes were written since the last sync.
    pub unsynced: bool,
}

/// Fails the log when the thread ends by a panic, so that nobody waits for ever.
struct FailOnPanic<'a>(&'a Shared);

impl Drop for FailOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.fail("the log's writer thread panicked: a bug".into());
        }
    }
}

impl Writer {
    /// Commits group after group until the log is closed or a call fails.
    pub fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let _guard = FailOnPanic(&shared);
        let mut wrote = false;
        while let Some(mut group) = shared.take_group() {
            wrote = true;
            let bytes = group.iter().map(|record| record.buffer.len() as u64).sum();
            if let Err(error) = self.commit(&mut group) {
                return shared.fail(error.message().to_owned());
            }
            shared.complete(group, bytes);
        }
        if wrote && !shared.has_failed() {
            if let Err(error) = self.finish() {
                shared.fail(error.message().to_owned());
            }
        }
    }

    fn commit(&mut self, group: &mut [Pending]) -> Result<(), LogError> {
        let mut rest = group;
        while !rest.is_empty() {
            let offset = self.encoder.offset();
            let count = self.seal_what_fits(rest);
            let (now, later) = rest.split_at_mut(count);
            self.write(now, offset)?;
            if !later.is_empty() {
                self.roll()?;
            }
            rest = later;
        }
        if self.mode == Mode::Sync {
            self.sync()?;
        }
        Ok(())
    }

    /// Fills in the headers of the records that go into this segment; returns how many do.
    fn seal_what_fits(&mut self, records: &mut [Pending]) -> usize {
        let mut count = 0;
        for record in records {
            if !self.encoder.fits(record.length as usize) {
                break;
            }
            let header = self.encoder.seal(record.kind, record.instance, record.length, record.checksum);
            record.buffer[..RECORD_HEADER_SIZE].copy_from_slice(&header);
            self.highest = self.highest.max(Some(record.instance));
            count += 1;
        }
        count
    }

    fn write(&mut self, records: &[Pending], offset: u64) -> Result<(), LogError> {
        if records.is_empty() {
            return Ok(());
        }
        let buffers: Vec<&[u8]> = records.iter().map(|record| &record.buffer[..]).collect();
        self.unsynced = true;
        write_all(&*self.device, &self.file, &buffers, offset).map_err(|error| self.lost("write to", &error))
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let started = Instant::now();
        device::sync(&*self.device, &self.file).map_err(|error| self.lost("sync", &error))?;
        if !self.sync_floor.is_zero() {
            std::thread::sleep(self.sync_floor);
        }
        self.shared.statistics().count_sync(started.elapsed());
        self.encoder.mark_synced();
        self.unsynced = false;
        Ok(())
    }

    /// Goes on to the next segment. The one before is synced first, in every mode: a record in a segment proves that
    /// the segments before it are whole.
    fn roll(&mut self) -> Result<(), LogError> {
        if self.unsynced {
            self.sync()?;
        }
        let header = self.encoder.header();
        let (identity, number) = (header.identity, header.segment + 1);
        let file = self.preparer.take(number)?;
        let previous = self.encoder.previous();
        self.encoder = begin_segment(&*self.device, &file, identity, number, self.segment_bytes, previous)
            .map_err(|error| LogError::DurabilityLost(format!("cannot begin segment {number}: {error}")))?;
        self.file = file;
        // Only now: the log always has a segment with a header.
        self.retention.add(Finished { number: number - 1, highest: self.highest.take() });
        self.preparer.request(number + 1);
        self.shared.statistics().segments += 1;
        Ok(())
    }

    /// Syncs what the mode has left unsynced, and says in the log that all of it is: what is damaged later was not torn.
    fn finish(&mut self) -> Result<(), LogError> {
        if self.unsynced {
            self.sync()?;
        }
        if self.encoder.fits(0) {
            let offset = self.encoder.offset();
            let mark = self.encoder.seal(CLOSE_MARK, 0, 0, checksum(b""));
            write_all(&*self.device, &self.file, &[&mark], offset).map_err(|error| self.lost("write to", &error))?;
            self.sync()?;
        }
        Ok(())
    }

    fn lost(&self, action: &str, error: &io::Error) -> LogError {
        LogError::DurabilityLost(format!("cannot {action} segment {}: {error}", self.encoder.header().segment))
    }
}
