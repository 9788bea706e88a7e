//! The bytes of the log: segment headers, record headers, checksums (docs/log-format.md).
//!
//! All integers are little-endian. A checksum is BLAKE3 cut to 16 bytes. The checksum of a record header is keyed with
//! a key derived from the segment's header, which holds a random nonce: nobody who chooses the bytes of a body can
//! place something in it that the scan after a damage would take for a record of this segment.

pub const SEGMENT_HEADER_SIZE: usize = 512;
pub const RECORD_HEADER_SIZE: usize = 72;
pub const CHECKSUM_SIZE: usize = 16;
pub const CHAIN_ID_SIZE: usize = 32;
pub const NONCE_SIZE: usize = 16;
/// Records begin at multiples of this, so that no field is torn across two sectors.
pub const ALIGNMENT: usize = 8;
/// What a disk writes whole or not at all.
pub const SECTOR_SIZE: usize = 512;
pub const FORMAT_VERSION: u32 = 1;
/// The kind of the record that a clean close leaves: it carries no body and says that all before it is synced.
pub const CLOSE_MARK: u16 = 0;

const SEGMENT_MAGIC: &[u8; 8] = b"SBFTSEG\n";
const RECORD_MAGIC: [u8; 4] = *b"SbRc";
const KEY_CONTEXT: &str = "smartbft v1 log segment key";
const NONCE_CONTEXT: &str = "smartbft v1 log segment nonce";
const CHECKED_SEGMENT_HEADER: usize = SEGMENT_HEADER_SIZE - CHECKSUM_SIZE;
const CHECKED_RECORD_HEADER: usize = RECORD_HEADER_SIZE - CHECKSUM_SIZE;

pub type Checksum = [u8; CHECKSUM_SIZE];
/// The checksum before the first record of the first segment.
pub const NO_RECORD: Checksum = [0; CHECKSUM_SIZE];

/// BLAKE3, cut to 16 bytes.
pub fn checksum(bytes: &[u8]) -> Checksum {
    cut(blake3::hash(bytes))
}

/// The checksum that a hash is cut to.
pub fn cut(hash: blake3::Hash) -> Checksum {
    hash.as_bytes()[..CHECKSUM_SIZE].try_into().expect("a hash is longer than a checksum")
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

/// Bytes that a record with this body takes: header, body, padding.
pub fn record_size(body_length: usize) -> usize {
    (RECORD_HEADER_SIZE + body_length).next_multiple_of(ALIGNMENT)
}

/// True when every byte is zero.
pub fn all_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}

/// Whose log this is: a segment of another chain or replica is never read as ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    pub chain_id: [u8; CHAIN_ID_SIZE],
    pub replica: u32,
}

/// The first bytes of a segment, alone in their sector and synced before any record follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    pub identity: Identity,
    pub segment: u64,
    /// Bytes of the file, or 0 where it is not zero-filled ahead and ends with its last record.
    pub size: u64,
    pub nonce: [u8; NONCE_SIZE],
    /// The header checksum of the last record before this segment.
    pub previous: Checksum,
}

/// Why a segment header cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub enum HeaderProblem {
    /// Not a header, or a damaged one.
    Damaged,
    /// Intact, of a format that this version does not read.
    Version(u32),
}

impl SegmentHeader {
    /// A nonce for logs that need none that is secret (the simulator's): the same log, the same bytes.
    pub fn deterministic_nonce(identity: &Identity, segment: u64, previous: &Checksum) -> [u8; NONCE_SIZE] {
        let mut hasher = blake3::Hasher::new_derive_key(NONCE_CONTEXT);
        hasher.update(&identity.chain_id).update(&identity.replica.to_le_bytes());
        hasher.update(&segment.to_le_bytes()).update(previous);
        cut(hasher.finalize())
    }

    pub fn encode(&self) -> [u8; SEGMENT_HEADER_SIZE] {
        let mut bytes = [0; SEGMENT_HEADER_SIZE];
        bytes[0..8].copy_from_slice(SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.identity.replica.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.segment.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.size.to_le_bytes());
        bytes[32..64].copy_from_slice(&self.identity.chain_id);
        bytes[64..80].copy_from_slice(&self.nonce);
        bytes[80..96].copy_from_slice(&self.previous);
        let check = checksum(&bytes[..CHECKED_SEGMENT_HEADER]);
        bytes[CHECKED_SEGMENT_HEADER..].copy_from_slice(&check);
        bytes
    }

    /// Reads a header; the checksum stays where it is in every version, so that it is checked before the version.
    pub fn decode(bytes: &[u8]) -> Result<Self, HeaderProblem> {
        if bytes.len() < SEGMENT_HEADER_SIZE || &bytes[0..8] != SEGMENT_MAGIC {
            return Err(HeaderProblem::Damaged);
        }
        if checksum(&bytes[..CHECKED_SEGMENT_HEADER]) != bytes[CHECKED_SEGMENT_HEADER..SEGMENT_HEADER_SIZE] {
            return Err(HeaderProblem::Damaged);
        }
        let version = u32::from_le_bytes(array(bytes, 8));
        if version != FORMAT_VERSION {
            return Err(HeaderProblem::Version(version));
        }
        Ok(SegmentHeader {
            identity: Identity { replica: u32::from_le_bytes(array(bytes, 12)), chain_id: array(bytes, 32) },
            segment: u64::from_le_bytes(array(bytes, 16)),
            size: u64::from_le_bytes(array(bytes, 24)),
            nonce: array(bytes, 64),
            previous: array(bytes, 80),
        })
    }

    /// The key of the record headers of this segment.
    pub fn record_key(&self) -> [u8; 32] {
        blake3::derive_key(KEY_CONTEXT, &self.encode()[..CHECKED_SEGMENT_HEADER])
    }
}

/// What stands before a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordHeader {
    pub kind: u16,
    pub length: u32,
    /// Offset in this segment below which everything was synced when this record was written.
    pub synced: u32,
    pub instance: u64,
    /// The checksum of the record header before this one.
    pub previous: Checksum,
    pub body: Checksum,
}

impl RecordHeader {
    /// The bytes and, at their end, their checksum.
    pub fn encode(&self, key: &[u8; 32]) -> [u8; RECORD_HEADER_SIZE] {
        let mut bytes = [0; RECORD_HEADER_SIZE];
        bytes[0..4].copy_from_slice(&RECORD_MAGIC);
        bytes[4..6].copy_from_slice(&self.kind.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.length.to_le_bytes());
        bytes[12..16].copy_from_slice(&self.synced.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.instance.to_le_bytes());
        bytes[24..40].copy_from_slice(&self.previous);
        bytes[40..56].copy_from_slice(&self.body);
        let check = cut(blake3::keyed_hash(key, &bytes[..CHECKED_RECORD_HEADER]));
        bytes[CHECKED_RECORD_HEADER..].copy_from_slice(&check);
        bytes
    }

    /// The header at the start of `bytes` with its checksum, or nothing when its checksum is not right.
    pub fn decode(bytes: &[u8], key: &[u8; 32]) -> Option<(Self, Checksum)> {
        let bytes = bytes.get(..RECORD_HEADER_SIZE)?;
        if bytes[0..4] != RECORD_MAGIC {
            return None;
        }
        let check: Checksum = array(bytes, CHECKED_RECORD_HEADER);
        if cut(blake3::keyed_hash(key, &bytes[..CHECKED_RECORD_HEADER])) != check {
            return None;
        }
        let header = RecordHeader {
            kind: u16::from_le_bytes(array(bytes, 4)),
            length: u32::from_le_bytes(array(bytes, 8)),
            synced: u32::from_le_bytes(array(bytes, 12)),
            instance: u64::from_le_bytes(array(bytes, 16)),
            previous: array(bytes, 24),
            body: array(bytes, 40),
        };
        Some((header, check))
    }

    /// Bytes of the whole record.
    pub fn record_size(&self) -> usize {
        record_size(self.length as usize)
    }
}
