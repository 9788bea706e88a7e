//! The request pool and session table (protocols.md 2.1 and 2.2): bounded and deterministic. Nothing here reads a clock,
//! walks a hash map or depends on a random seed. `smartbft.smr.sessions` is the oracle of these rules.

mod admission;
mod holds;
mod index;
mod ordering;
mod pool;
mod reader;
mod replies;
mod room;
mod sessions;
mod shares;
mod slab;
mod snapshot;
mod sources;
mod verification;
mod verifier;

#[cfg(test)]
mod tests;

pub use admission::Arrival;
pub use holds::{Vouching, MOST_MEMBERS};
pub use ordering::{Resolved, Verdict};
pub use pool::{Misuse, PoolConfig, RequestPool, Stats};
pub use replies::Execution;
pub use sessions::SessionLimits;
pub use snapshot::{join_sessions, ImportError};
pub use verification::{VerifyItem, VerifyJob, ACCEPTED, BAD, REFUSED};
pub use verifier::{Finished, Verifier};
