//! What the log counts about itself.

use std::time::Duration;

/// How many of the last syncs the percentiles are taken from.
const SAMPLES: usize = 4096;

#[derive(Debug, Default)]
pub struct Statistics {
    pub bytes: u64,
    pub records: u64,
    pub groups: u64,
    pub syncs: u64,
    pub sync_seconds: f64,
    pub segments: u64,
    recent: Vec<f32>,
}

impl Statistics {
    pub fn count_sync(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let at = usize::try_from(self.syncs).unwrap_or(0) % SAMPLES;
        if at < self.recent.len() {
            self.recent[at] = seconds as f32;
        } else {
            self.recent.push(seconds as f32);
        }
        self.syncs += 1;
        self.sync_seconds += seconds;
    }

    pub fn count_group(&mut self, records: u64, bytes: u64) {
        self.groups += 1;
        self.records += records;
        self.bytes += bytes;
    }

    pub fn group_records_mean(&self) -> f64 {
        if self.groups == 0 {
            return 0.0;
        }
        self.records as f64 / self.groups as f64
    }

    /// The duration in seconds that this share of the last syncs stayed within.
    pub fn sync_percentile(&self, share: f64) -> f64 {
        let mut sorted = self.recent.clone();
        sorted.sort_by(f32::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().map_or(0.0, f64::from)
    }
}
