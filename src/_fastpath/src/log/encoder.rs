//! The sans-IO encoder: the headers of one record after another, and where each goes.

use super::format::{
    cut, record_size, Checksum, RecordHeader, SegmentHeader, CHECKSUM_SIZE, RECORD_HEADER_SIZE, SEGMENT_HEADER_SIZE,
};

/// A power of two, so that whole subtrees are hashed side by side.
const HASHED_AT_ONCE: usize = 128 << 10;

/// The end of a segment that is being written: its key, the chain so far, the next offset.
#[derive(Clone, Debug)]
pub struct Encoder {
    header: SegmentHeader,
    key: [u8; 32],
    previous: Checksum,
    offset: u64,
    synced: u64,
}

impl Encoder {
    /// At the start of a new segment, right after its header.
    pub fn start(header: SegmentHeader) -> Self {
        let previous = header.previous;
        Encoder::resume(header, SEGMENT_HEADER_SIZE as u64, previous)
    }

    /// Where a recovered segment goes on; everything before `offset` has been synced.
    pub fn resume(header: SegmentHeader, offset: u64, previous: Checksum) -> Self {
        Encoder { key: header.record_key(), header, previous, offset, synced: offset }
    }

    pub fn header(&self) -> &SegmentHeader {
        &self.header
    }

    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The checksum of the last record header: what the next segment begins with.
    pub fn previous(&self) -> Checksum {
        self.previous
    }

    /// Whether a record with this body fits into the rest of the segment (always, where its size is open).
    pub fn fits(&self, body_length: usize) -> bool {
        self.header.size == 0 || self.offset + record_size(body_length) as u64 <= self.header.size
    }

    /// Whether the format can express the record: lengths and offsets of a segment are below 4 GiB.
    pub fn can_hold(&self, body_length: usize) -> bool {
        self.fits(body_length) && u32::try_from(self.offset + record_size(body_length) as u64).is_ok()
    }

    /// Everything encoded so far is on disk; later records say so.
    pub fn mark_synced(&mut self) {
        self.synced = self.offset;
    }

    /// The header of the next record, whose body has this length and checksum.
    pub fn seal(&mut self, kind: u16, instance: u64, length: u32, body: Checksum) -> [u8; RECORD_HEADER_SIZE] {
        let synced = u32::try_from(self.synced).expect("a segment is smaller than 4 GiB");
        let header = RecordHeader { kind, length, synced, instance, previous: self.previous, body };
        let bytes = header.encode(&self.key);
        self.previous.copy_from_slice(&bytes[RECORD_HEADER_SIZE - CHECKSUM_SIZE..]);
        self.offset += header.record_size() as u64;
        bytes
    }

    /// A whole record: header, the parts joined, padding. The caller has seen that the segment [`Encoder::can_hold`] it.
    pub fn encode(&mut self, kind: u16, instance: u64, parts: &[&[u8]]) -> Vec<u8> {
        let (mut record, body) = joined(Vec::new(), parts);
        let length = parts.iter().map(|part| part.len()).sum::<usize>();
        let length = u32::try_from(length).expect("the caller has checked the length");
        record[..RECORD_HEADER_SIZE].copy_from_slice(&self.seal(kind, instance, length, body));
        record
    }
}

/// Room for a header, the parts joined, padding: what one record is written from; and the checksum of its body. `buffer`
/// is one that is not needed any more: its memory is used again where it suffices.
pub fn joined(mut buffer: Vec<u8>, parts: &[&[u8]]) -> (Vec<u8>, Checksum) {
    let length = parts.iter().map(|part| part.len()).sum();
    let size = record_size(length);
    buffer.clear();
    buffer.reserve_exact(size);
    buffer.resize(RECORD_HEADER_SIZE, 0);
    let mut hasher = blake3::Hasher::new();
    // Pieces that stay in the cache between being copied and being hashed.
    for piece in parts.iter().flat_map(|part| part.chunks(HASHED_AT_ONCE)) {
        let start = buffer.len();
        buffer.extend_from_slice(piece);
        hasher.update(&buffer[start..]);
    }
    buffer.resize(size, 0);
    (buffer, cut(hasher.finalize()))
}
