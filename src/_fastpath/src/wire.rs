//! Fixed binary layouts of the data plane (docs/wire-format.md): requests, request lists, results, replies, frames.
//!
//! Everything here parses hostile bytes: a length is compared with its limit and with what is left before it is used,
//! and every layout has exactly one encoding.

use std::borrow::Cow;

use crate::hashing::hash_many;

/// What is wrong with bytes from the network.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WireError {
    /// A frame of an unknown kind, or with a length of zero or over its limit.
    Frame(String),
    /// A payload that does not decode, is not canonical, or has a field out of its bounds.
    Malformed(String),
}

pub const DIGEST_BYTES: usize = 32;
pub const KEY_BYTES: usize = 32;
pub const SIGNATURE_BYTES: usize = 64;
/// Client key, session, sequence number, operation length.
pub const REQUEST_HEADER_BYTES: usize = KEY_BYTES + 8 + 8 + 4;
pub const REQUEST_OVERHEAD_BYTES: usize = REQUEST_HEADER_BYTES + SIGNATURE_BYTES;
/// Replica, status, level, view, instance, agreed time, request digest.
pub const REPLY_HEADER_BYTES: usize = 2 + 1 + 1 + 4 + 8 + 8 + DIGEST_BYTES;
/// The longest result that is kept and sent: a code, and 64 KiB.
pub const MAX_RESULT_BYTES: usize = 1 + 64 * 1024;
/// What stands for a longer one begins with these bytes; its length follows.
const TOO_LARGE: [u8; 2] = [255, 1];
/// Length and kind.
pub const FRAME_HEADER_BYTES: usize = 5;

pub const KIND_REQUEST: u8 = 2;
pub const KIND_REPLY: u8 = 3;

pub type Digest = [u8; DIGEST_BYTES];

/// Reply statuses.
pub mod status {
    pub const EXECUTED: u8 = 0;
    pub const OVERLOADED: u8 = 1;
    pub const SESSION_REFUSED: u8 = 2;
    pub const REJECTED: u8 = 3;
    pub const BAD_SIGNATURE: u8 = 4;
}

/// The first `N` bytes at `at`; the callers have checked the length.
pub fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

pub fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, at))
}

pub fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// A client's session: its key and the number it chose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SessionId {
    pub key: [u8; KEY_BYTES],
    pub number: u64,
}

/// A well-formed request, borrowed from the bytes it came in.
#[derive(Clone, Copy, Debug)]
pub struct RequestView<'a> {
    pub bytes: &'a [u8],
}

impl<'a> RequestView<'a> {
    /// Checks the layout of one request; `max_operation` in bytes.
    pub fn parse(bytes: &'a [u8], max_operation: usize) -> Result<Self, WireError> {
        if bytes.len() < REQUEST_OVERHEAD_BYTES {
            return Err(WireError::Malformed(format!(
                "a request of {} bytes; the least is {REQUEST_OVERHEAD_BYTES}",
                bytes.len()
            )));
        }
        let operation = u32_at(bytes, REQUEST_HEADER_BYTES - 4) as usize;
        if operation > max_operation {
            return Err(WireError::Malformed(format!(
                "an operation of {operation} bytes; the limit is {max_operation}"
            )));
        }
        if bytes.len() - REQUEST_OVERHEAD_BYTES != operation {
            return Err(WireError::Malformed(format!(
                "a request of {} bytes that declares an operation of {operation}",
                bytes.len()
            )));
        }
        let request = RequestView { bytes };
        if request.sequence() == 0 {
            return Err(WireError::Malformed("sequence number 0; they start at 1".into()));
        }
        Ok(request)
    }

    pub fn key(&self) -> &'a [u8] {
        &self.bytes[..KEY_BYTES]
    }

    pub fn session_number(&self) -> u64 {
        u64_at(self.bytes, KEY_BYTES)
    }

    pub fn session(&self) -> SessionId {
        SessionId { key: array_at(self.bytes, 0), number: self.session_number() }
    }

    pub fn sequence(&self) -> u64 {
        u64_at(self.bytes, KEY_BYTES + 8)
    }

    pub fn operation(&self) -> &'a [u8] {
        &self.bytes[REQUEST_HEADER_BYTES..self.bytes.len() - SIGNATURE_BYTES]
    }

    pub fn signature(&self) -> &'a [u8] {
        &self.bytes[self.bytes.len() - SIGNATURE_BYTES..]
    }

    /// The part that the signature covers (after the signing domain).
    pub fn signed(&self) -> &'a [u8] {
        &self.bytes[..self.bytes.len() - SIGNATURE_BYTES]
    }
}

/// Appends one item of a request list or of a result list: its length and its bytes.
pub fn push_item(list: &mut Vec<u8>, item: &[u8]) {
    list.extend_from_slice(&(item.len() as u32).to_le_bytes());
    list.extend_from_slice(item);
}

/// The items of a length-prefixed list (`u32 length | item` repeated), in order; ends after the first error.
pub struct Items<'a> {
    rest: &'a [u8],
}

pub fn items(list: &[u8]) -> Items<'_> {
    Items { rest: list }
}

impl<'a> Iterator for Items<'a> {
    type Item = Result<&'a [u8], WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let declared = if self.rest.len() < 4 { None } else { Some(u32_at(self.rest, 0) as usize) };
        let body = self.rest.get(4..).unwrap_or_default();
        match declared {
            Some(length) if length <= body.len() => {
                let (item, rest) = body.split_at(length);
                self.rest = rest;
                Some(Ok(item))
            }
            _ => {
                let left = self.rest.len();
                self.rest = &[];
                Some(Err(WireError::Malformed(format!("a list that breaks off: {left} bytes left hold no whole item"))))
            }
        }
    }
}

/// The requests of a request list, in order.
pub fn requests(list: &[u8], max_operation: usize) -> impl Iterator<Item = Result<RequestView<'_>, WireError>> {
    items(list).map(move |item| RequestView::parse(item?, max_operation))
}

/// The digests and signed messages of one chain.
#[derive(Clone)]
pub struct Domains {
    digest_key: [u8; 32],
    /// What precedes the request in its signed message.
    pub signature_prefix: [u8; 32],
}

impl Domains {
    pub fn new(chain_id: &[u8]) -> Self {
        Domains {
            digest_key: blake3::derive_key("smartbft v1 request digest", chain_id),
            signature_prefix: blake3::derive_key("smartbft v1 request signature", chain_id),
        }
    }

    /// Digest of a whole request, signature included.
    pub fn digest(&self, request: &[u8]) -> Digest {
        *blake3::keyed_hash(&self.digest_key, request).as_bytes()
    }

    /// Digests of whole requests, side by side.
    pub fn digest_many(&self, requests: &[&[u8]]) -> Vec<Digest> {
        match requests {
            [request] => vec![self.digest(request)],
            _ => {
                let mut digests = vec![[0; DIGEST_BYTES]; requests.len()];
                hash_many(Some(&self.digest_key), requests, &mut digests);
                digests
            }
        }
    }
}

/// A result as it is kept and sent: itself, or that it is too long (`smartbft.smr.application.fitting`).
pub fn fitting(result: &[u8]) -> Cow<'_, [u8]> {
    if result.len() <= MAX_RESULT_BYTES {
        return Cow::Borrowed(result);
    }
    let length = u32::try_from(result.len()).unwrap_or(u32::MAX);
    Cow::Owned([&TOO_LARGE[..], &length.to_le_bytes()].concat())
}

/// The fields of a reply before its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplyHeader {
    pub replica: u16,
    pub status: u8,
    pub level: u8,
    pub view: u32,
    pub instance: u64,
    pub agreed_time: u64,
    pub digest: Digest,
}

impl ReplyHeader {
    pub fn encode(&self) -> [u8; REPLY_HEADER_BYTES] {
        let mut out = [0; REPLY_HEADER_BYTES];
        out[0..2].copy_from_slice(&self.replica.to_le_bytes());
        out[2] = self.status;
        out[3] = self.level;
        out[4..8].copy_from_slice(&self.view.to_le_bytes());
        out[8..16].copy_from_slice(&self.instance.to_le_bytes());
        out[16..24].copy_from_slice(&self.agreed_time.to_le_bytes());
        out[24..56].copy_from_slice(&self.digest);
        out
    }

    pub fn parse(payload: &[u8]) -> Result<Self, WireError> {
        if payload.len() < REPLY_HEADER_BYTES {
            return Err(WireError::Malformed(format!(
                "a reply of {} bytes; the least is {REPLY_HEADER_BYTES}",
                payload.len()
            )));
        }
        Ok(ReplyHeader {
            replica: u16::from_le_bytes(array_at(payload, 0)),
            status: payload[2],
            level: payload[3],
            view: u32_at(payload, 4),
            instance: u64_at(payload, 8),
            agreed_time: u64_at(payload, 16),
            digest: array_at(payload, 24),
        })
    }
}

/// Appends the header of a frame whose payload has `payload` bytes.
pub fn push_frame_header(out: &mut Vec<u8>, kind: u8, payload: usize) {
    out.extend_from_slice(&(payload as u32 + 1).to_le_bytes());
    out.push(kind);
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A request with the given fields and an arbitrary signature.
    pub fn request(key: u8, session: u64, sequence: u64, operation: &[u8], signature: u8) -> Vec<u8> {
        let mut out = vec![key; KEY_BYTES];
        out.extend_from_slice(&session.to_le_bytes());
        out.extend_from_slice(&sequence.to_le_bytes());
        push_item(&mut out, operation);
        out.extend_from_slice(&[signature; SIGNATURE_BYTES]);
        out
    }

    #[test]
    fn request_round_trip() {
        let bytes = request(7, 1 << 40, 3, b"operation", 9);
        let view = RequestView::parse(&bytes, 64).unwrap();
        assert_eq!(view.session(), SessionId { key: [7; 32], number: 1 << 40 });
        assert_eq!(view.sequence(), 3);
        assert_eq!(view.operation(), b"operation");
        assert_eq!(view.signature(), &[9; 64]);
        assert_eq!(view.signed().len() + 64, bytes.len());
    }

    #[test]
    fn malformed_requests_are_refused() {
        let good = request(7, 1, 1, b"operation", 9);
        for cut in 0..good.len() {
            assert!(RequestView::parse(&good[..cut], 64).is_err(), "cut at {cut}");
        }
        let mut longer = good.clone();
        longer.push(0);
        assert!(RequestView::parse(&longer, 64).is_err());
        assert!(RequestView::parse(&good, 8).is_err());
        assert!(RequestView::parse(&request(7, 1, 0, b"", 9), 8).is_err());
        let mut huge = good;
        huge[48..52].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(RequestView::parse(&huge, usize::MAX).is_err());
    }

    #[test]
    fn lists_end_at_the_first_error() {
        let mut list = Vec::new();
        push_item(&mut list, b"one");
        push_item(&mut list, b"");
        let whole = list.len();
        list.extend_from_slice(&[5, 0, 0, 0, 1]);
        let seen: Vec<_> = items(&list).collect();
        assert_eq!(seen.len(), 3);
        assert!(seen[0].as_ref().is_ok_and(|item| *item == b"one") && seen[1].is_ok() && seen[2].is_err());
        assert!(items(&list[..whole]).all(|item| item.is_ok()));
        assert!(items(&[1, 0, 0]).next().unwrap().is_err());
    }

    #[test]
    fn reply_header_round_trip() {
        let header = ReplyHeader {
            replica: 513,
            status: status::REJECTED,
            level: 2,
            view: 70_000,
            instance: 1 << 33,
            agreed_time: u64::MAX,
            digest: [3; 32],
        };
        assert_eq!(ReplyHeader::parse(&header.encode()).unwrap(), header);
        assert!(ReplyHeader::parse(&header.encode()[..55]).is_err());
    }
}
