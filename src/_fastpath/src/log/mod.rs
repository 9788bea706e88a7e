//! The durable log: segmented, zero-filled ahead, checksummed, chained, group-committed on its own thread.
//!
//! `format`, `encoder` and `parser` are sans-IO; `device` is the table of system calls that everything else goes
//! through, `fault` the one that fails on demand. `lock` makes a data folder one process's, `folder` reads it back,
//! `prepare` fills the next segment with zeros, `writer` is the thread that commits, `retention` removes what a checkpoint
//! has made superfluous, `durable` is the face.

pub mod device;
pub mod durable;
pub mod encoder;
pub mod fault;
pub mod folder;
pub mod format;
pub mod lock;
pub mod notifier;
pub mod parser;
pub mod prepare;
pub mod retention;
pub mod statistics;
pub mod writer;

#[cfg(test)]
mod tests;

/// Why the log cannot go on. The variants are the Python exceptions of the same meaning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LogError {
    /// The folder or an argument cannot be used; nothing is damaged.
    Storage(String),
    /// Damage other than a torn tail.
    Corrupt { message: String, offset: u64, segment: Option<u64> },
    /// A write or a sync failed; the log is dead for good.
    DurabilityLost(String),
}

impl LogError {
    pub fn message(&self) -> &str {
        match self {
            LogError::Storage(message) | LogError::Corrupt { message, .. } | LogError::DurabilityLost(message) => {
                message
            }
        }
    }

    /// Turns a failed system call on `path` into an error of the folder.
    pub fn storage(action: &str, path: &std::path::Path, error: &std::io::Error) -> Self {
        LogError::Storage(format!("cannot {action} {}: {error}", path.display()))
    }
}
