//! The state as bytes, in one form only: same state, same bytes, on every replica and machine.
//!
//! Little-endian: ``magic 8 | chain id 32 | minted u128 | coins u64 | coins * (id 32, owner 32, value u64)``,
//! the coins in the order of their ids. The parameters are the genesis's and so are named by the chain id.

use super::execute::Machine;
use super::operation::is_small_order;
use super::state::{CapturedState, State};
use super::table::{Key, NONE};

const MAGIC: &[u8; 8] = b"SBCOIN\x00\x01";
const HEADER_BYTES: usize = 64;
const COIN_BYTES: usize = 72;

/// The coin as it was at a moment: it can be written down while the machine goes on.
pub struct Capture {
    chain_id: Key,
    state: CapturedState,
}

impl Capture {
    /// Hand the snapshot to `sink`, piece by piece.
    fn write(&self, mut sink: impl FnMut(&[u8])) {
        sink(MAGIC);
        sink(&self.chain_id);
        sink(&self.state.minted.to_le_bytes());
        sink(&(self.state.coins() as u64).to_le_bytes());
        let mut record = [0u8; COIN_BYTES];
        for (id, address, value) in self.state.sorted() {
            record[..32].copy_from_slice(id);
            record[32..64].copy_from_slice(address);
            record[64..].copy_from_slice(&value.to_le_bytes());
            sink(&record);
        }
    }

    pub fn snapshot_bytes(&self) -> usize {
        HEADER_BYTES + COIN_BYTES * self.state.coins()
    }

    /// Fill a place of `snapshot_bytes` with the snapshot.
    pub fn fill(&self, place: &mut [u8]) {
        let mut at = 0;
        self.write(|piece| {
            place[at..at + piece.len()].copy_from_slice(piece);
            at += piece.len();
        });
    }

    pub fn snapshot(&self) -> Vec<u8> {
        let mut bytes = vec![0; self.snapshot_bytes()];
        self.fill(&mut bytes);
        bytes
    }

    /// BLAKE3-256 of the snapshot, without building it.
    pub fn digest(&self) -> Key {
        let mut hasher = blake3::Hasher::new();
        self.write(|piece| {
            hasher.update(piece);
        });
        *hasher.finalize().as_bytes()
    }
}

impl Machine {
    /// The state as of now. What the machine does next copies the chunks of coins that it replaces, while this lives.
    pub fn capture(&self) -> Capture {
        Capture { chain_id: self.parameters.chain_id, state: self.state.capture() }
    }

    pub fn snapshot(&self) -> Vec<u8> {
        self.capture().snapshot()
    }

    pub fn digest(&self) -> Key {
        self.capture().digest()
    }

    /// Replace the state by that of a snapshot; on any error, which says what is wrong, the state stays as it was.
    pub fn restore(&mut self, snapshot: &[u8]) -> Result<(), &'static str> {
        self.state = self.read_snapshot(snapshot)?;
        Ok(())
    }

    fn read_snapshot(&self, snapshot: &[u8]) -> Result<State, &'static str> {
        let rest = snapshot.strip_prefix(MAGIC).ok_or("it does not begin like a coin snapshot of this format")?;
        let (chain_id, rest) = rest.split_first_chunk::<32>().ok_or("it is cut short")?;
        if *chain_id != self.parameters.chain_id {
            return Err("it belongs to another chain");
        }
        let (minted, rest) = rest.split_first_chunk::<16>().ok_or("it is cut short")?;
        let (count, coins) = rest.split_first_chunk::<8>().ok_or("it is cut short")?;
        if coins.len() % COIN_BYTES != 0 || (coins.len() / COIN_BYTES) as u64 != u64::from_le_bytes(*count) {
            return Err("its length and its number of coins differ");
        }
        if coins.len() / COIN_BYTES >= NONE as usize {
            return Err("it holds more coins than fit");
        }
        let mut state = State::with_capacity(coins.len() / COIN_BYTES);
        read_coins(&mut state, coins)?;
        state.minted = u128::from_le_bytes(*minted);
        match state.minted == state.supply() {
            true => Ok(state),
            false => Err("its coins do not add up to what was minted"),
        }
    }
}

fn read_coins(state: &mut State, coins: &[u8]) -> Result<(), &'static str> {
    let mut previous: Option<Key> = None;
    for record in coins.chunks_exact(COIN_BYTES) {
        let id: Key = record[..32].try_into().expect("32 bytes");
        let owner: Key = record[32..64].try_into().expect("32 bytes");
        let value = u64::from_le_bytes(record[64..].try_into().expect("8 bytes"));
        if previous.is_some_and(|previous| previous >= id) {
            return Err("its coins are not in the order of their ids");
        }
        if value == 0 || is_small_order(&owner) {
            return Err("it holds a coin that no transaction can make");
        }
        state.add(&id, &owner, value);
        previous = Some(id);
    }
    Ok(())
}
