//! SMaRtCoin (SMaRtChain paper, section IV-A): unspent coins, their owners, and the execution of whole batches.
//!
//! [`operation`] is what a client may ask, [`state`] the coins, [`execute`] the rules, [`snapshot`] the state as
//! bytes, as of a moment that may be past.

mod chunks;
pub mod execute;
pub mod operation;
pub mod snapshot;
pub mod state;
mod table;

use table::Key;

/// The id of output `index` of the transaction that `key` sends as number `sequence` of `session`: a client can compute it
/// before the transaction is executed, and so sign chains of them ahead.
pub fn coin_id(coin_key: &Key, key: &Key, session: u64, sequence: u64, index: u32) -> Key {
    let mut name = [0u8; 52];
    name[..32].copy_from_slice(key);
    name[32..40].copy_from_slice(&session.to_le_bytes());
    name[40..48].copy_from_slice(&sequence.to_le_bytes());
    name[48..].copy_from_slice(&index.to_le_bytes());
    *blake3::keyed_hash(coin_key, &name).as_bytes()
}

/// The BLAKE3 key of coin ids on a chain.
pub fn coin_key(chain_id: &[u8]) -> Key {
    blake3::derive_key("smartbft v1 coin id", chain_id)
}
