//! Reassembly of frames: `u32 length | u8 kind | payload`, the length counting kind and payload.

use crate::wire::{u32_at, WireError, FRAME_HEADER_BYTES};

/// The largest payload of each kind of frame that a connection accepts.
#[derive(Clone)]
pub struct FrameLimits {
    largest: usize,
    by_kind: Box<[Option<u32>; 256]>,
}

impl FrameLimits {
    /// From `(kind, largest payload in bytes)`; a payload can never be larger than the length field can say.
    pub fn new(limits: impl IntoIterator<Item = (u8, u32)>) -> Self {
        let mut by_kind = Box::new([None; 256]);
        for (kind, limit) in limits {
            by_kind[kind as usize] = Some(limit.min(u32::MAX - 1));
        }
        let largest = by_kind.iter().flatten().max().copied().unwrap_or(0) as usize;
        FrameLimits { largest, by_kind }
    }

    /// Length of the frame after its length field, or `None` when the header is still incomplete.
    fn check_header(&self, bytes: &[u8]) -> Result<Option<usize>, WireError> {
        if bytes.len() < 4 {
            return Ok(None);
        }
        let length = u32_at(bytes, 0) as usize;
        if length == 0 {
            return Err(WireError::Frame("a frame of length 0".into()));
        }
        if length - 1 > self.largest {
            let largest = self.largest;
            return Err(WireError::Frame(format!(
                "a frame with {} bytes of payload; the limit is {largest}",
                length - 1
            )));
        }
        let Some(&kind) = bytes.get(4) else {
            return Ok(None);
        };
        match self.by_kind[kind as usize] {
            None => Err(WireError::Frame(format!("a frame of the unknown kind {kind}"))),
            Some(limit) if length - 1 > limit as usize => Err(WireError::Frame(format!(
                "a frame of kind {kind} with {} bytes of payload; the limit is {limit}",
                length - 1
            ))),
            Some(_) => Ok(Some(length)),
        }
    }
}

/// Takes frames (kind and payload) out of a reader.
pub trait FrameSink<'a> {
    /// A frame that lies whole in the received bytes.
    fn frame(&mut self, kind: u8, payload: &'a [u8]) -> Result<(), WireError>;

    /// A frame that came in pieces: its bytes are gone after the call.
    fn assembled(&mut self, kind: u8, payload: &[u8]) -> Result<(), WireError>;
}

impl<'a, F: FnMut(u8, &[u8]) -> Result<(), WireError>> FrameSink<'a> for F {
    fn frame(&mut self, kind: u8, payload: &'a [u8]) -> Result<(), WireError> {
        self(kind, payload)
    }

    fn assembled(&mut self, kind: u8, payload: &[u8]) -> Result<(), WireError> {
        self(kind, payload)
    }
}

/// Reassembles the frames of one connection. Complete frames are handed out straight from the caller's buffer; only a
/// frame that breaks off at its end is copied. Memory never exceeds what was received of one frame within its limit.
pub struct FrameReader {
    limits: FrameLimits,
    partial: Vec<u8>,
    broken: bool,
}

impl FrameReader {
    pub fn new(limits: FrameLimits) -> Self {
        FrameReader { limits, partial: Vec::new(), broken: false }
    }

    /// Bytes kept of a frame that is not complete yet.
    pub fn buffered(&self) -> usize {
        self.partial.len()
    }

    /// Forgets a partial frame and an earlier error: a new connection begins.
    pub fn reset(&mut self) {
        self.partial = Vec::new();
        self.broken = false;
    }

    /// Hands every complete frame to `sink`, in order. After an error the stream has lost its place: every later call
    /// fails.
    pub fn feed<'a>(&mut self, data: &'a [u8], sink: &mut impl FrameSink<'a>) -> Result<(), WireError> {
        if self.broken {
            return Err(WireError::Frame("more bytes on a connection that already broke the protocol".into()));
        }
        let outcome = self.take(data, sink);
        if outcome.is_err() {
            self.broken = true;
            self.partial = Vec::new();
        }
        outcome
    }

    fn take<'a>(&mut self, data: &'a [u8], sink: &mut impl FrameSink<'a>) -> Result<(), WireError> {
        let mut rest = data;
        if !self.partial.is_empty() {
            rest = match self.complete_partial(rest, sink)? {
                Some(rest) => rest,
                None => return Ok(()),
            };
        }
        while let Some(length) = self.limits.check_header(rest)? {
            let Some(frame) = rest.get(FRAME_HEADER_BYTES..4 + length) else {
                break;
            };
            sink.frame(rest[4], frame)?;
            rest = &rest[4 + length..];
        }
        self.partial.extend_from_slice(rest);
        Ok(())
    }

    /// Completes the frame kept from earlier; `None` when all of `data` went into it and it is still incomplete.
    fn complete_partial<'a>(
        &mut self,
        mut data: &'a [u8],
        sink: &mut impl FrameSink<'a>,
    ) -> Result<Option<&'a [u8]>, WireError> {
        let missing = FRAME_HEADER_BYTES.saturating_sub(self.partial.len());
        data = self.append(data, missing);
        let Some(length) = self.limits.check_header(&self.partial)? else {
            return Ok(None);
        };
        data = self.append(data, 4 + length - self.partial.len());
        if self.partial.len() < 4 + length {
            return Ok(None);
        }
        sink.assembled(self.partial[4], &self.partial[FRAME_HEADER_BYTES..])?;
        self.forget_partial();
        Ok(Some(data))
    }

    fn append<'a>(&mut self, data: &'a [u8], count: usize) -> &'a [u8] {
        let (taken, rest) = data.split_at(count.min(data.len()));
        self.partial.extend_from_slice(taken);
        rest
    }

    /// Keeps a small buffer for the next partial frame; gives a large one back.
    fn forget_partial(&mut self) {
        const KEPT: usize = 16 * 1024;
        if self.partial.capacity() > KEPT {
            self.partial = Vec::new();
        } else {
            self.partial.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        crate::wire::push_frame_header(&mut out, kind, payload.len());
        out.extend_from_slice(payload);
        out
    }

    fn reader() -> FrameReader {
        FrameReader::new(FrameLimits::new([(1, 10), (2, 100)]))
    }

    fn collect(reader: &mut FrameReader, data: &[u8]) -> Result<Vec<(u8, Vec<u8>)>, WireError> {
        let mut seen = Vec::new();
        reader.feed(data, &mut |kind: u8, payload: &[u8]| {
            seen.push((kind, payload.to_vec()));
            Ok(())
        })?;
        Ok(seen)
    }

    #[test]
    fn any_split_gives_the_same_frames() {
        let stream = [frame(1, b""), frame(2, &[5; 100]), frame(1, b"0123456789"), frame(2, b"x")].concat();
        let whole = collect(&mut reader(), &stream).unwrap();
        assert_eq!(whole.len(), 4);
        for step in 1..stream.len() {
            let mut reader = reader();
            let mut seen = Vec::new();
            for part in stream.chunks(step) {
                seen.extend(collect(&mut reader, part).unwrap());
            }
            assert_eq!(seen, whole, "steps of {step}");
            assert_eq!(reader.buffered(), 0);
        }
    }

    #[test]
    fn lengths_out_of_bounds_are_refused_at_once() {
        for length in [0u32, 102, 1 << 31, u32::MAX] {
            let mut reader = reader();
            let bytes = length.to_le_bytes();
            assert!(collect(&mut reader, &bytes).is_err(), "length {length}");
            assert!(collect(&mut reader, &frame(1, b"")).is_err(), "the stream stays broken");
            assert_eq!(reader.buffered(), 0);
        }
        assert!(collect(&mut reader(), &frame(1, &[0; 11])).is_err());
        assert!(collect(&mut reader(), &frame(3, b"")).is_err());
        let mut drip = reader();
        for byte in [12u8, 0, 0, 0] {
            assert_eq!(collect(&mut drip, &[byte]).unwrap(), []);
        }
        assert!(collect(&mut drip, &[1]).is_err(), "the kind's own limit is seen with the kind");
    }

    #[test]
    fn memory_follows_what_was_received() {
        let mut reader = FrameReader::new(FrameLimits::new([(1, u32::MAX)]));
        let mut header = u32::MAX.to_le_bytes().to_vec();
        header.push(1);
        assert_eq!(collect(&mut reader, &header).unwrap(), []);
        assert!(reader.partial.capacity() < 1024);
    }

    #[test]
    fn an_error_of_the_sink_ends_the_stream() {
        let mut reader = reader();
        let mut calls = 0;
        let stream = [frame(1, b"a"), frame(1, b"b")].concat();
        let outcome = reader.feed(&stream, &mut |_: u8, _: &[u8]| {
            calls += 1;
            Err(WireError::Malformed("no".into()))
        });
        assert!(outcome.is_err());
        assert_eq!(calls, 1);
    }
}
