//! From a client's connection into the pool: the requests of one reception are digested side by side.

use super::admission::Arrival;
use super::pool::RequestPool;
use crate::frames::{FrameReader, FrameSink};
use crate::wire::{push_frame_header, RequestView, WireError, KIND_REQUEST};

struct Sink<'a, 'p> {
    pool: &'p mut RequestPool,
    arrival: Arrival,
    requests: Vec<RequestView<'a>>,
    others: Vec<u8>,
}

impl<'a> FrameSink<'a> for Sink<'a, '_> {
    fn frame(&mut self, kind: u8, payload: &'a [u8]) -> Result<(), WireError> {
        if kind != KIND_REQUEST {
            return self.assembled(kind, payload);
        }
        self.requests.push(self.pool.parse_from(self.arrival.source(), payload)?);
        Ok(())
    }

    fn assembled(&mut self, kind: u8, payload: &[u8]) -> Result<(), WireError> {
        if kind == KIND_REQUEST {
            // It came before everything that is still collected: a frame in pieces is the first of a reception.
            let request = self.pool.parse_from(self.arrival.source(), payload)?;
            self.pool.admit_many(&[request], self.arrival);
            return Ok(());
        }
        push_frame_header(&mut self.others, kind, payload.len());
        self.others.extend_from_slice(payload);
        Ok(())
    }
}

impl RequestPool {
    /// Takes what a connection delivered: requests go into the pool, also those before an error; the other frames are
    /// returned, one after another as they came.
    pub fn receive(&mut self, frames: &mut FrameReader, data: &[u8], arrival: Arrival) -> Result<Vec<u8>, WireError> {
        let mut sink = Sink { pool: self, arrival, requests: Vec::new(), others: Vec::new() };
        let outcome = frames.feed(data, &mut sink);
        let Sink { requests, others, .. } = sink;
        self.admit_many(&requests, arrival);
        outcome.map(|()| others)
    }
}
