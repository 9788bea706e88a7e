//! Results become replies: kept per session, sent when they may leave, sent again when asked for.

use super::pool::{Misuse, RequestPool};
use super::sessions::Session;
use super::sources::NO_SOURCE;
use crate::wire::{fitting, items, status, Digest, ReplyHeader, RequestView, SessionId, KEY_BYTES, REPLY_HEADER_BYTES};

/// What all replies of a batch have in common.
#[derive(Clone, Copy)]
pub struct Execution {
    pub instance: u64,
    pub view: u32,
    pub timestamp: u64,
    pub level: u8,
}

impl Execution {
    /// The header of one reply.
    pub fn reply_header(&self, replica: u16, digest: Digest) -> ReplyHeader {
        ReplyHeader {
            replica,
            status: status::EXECUTED,
            level: self.level,
            view: self.view,
            instance: self.instance,
            agreed_time: self.timestamp,
            digest,
        }
    }
}

impl Session {
    /// The next request of the session was executed: its reply takes the place of the one that leaves the window.
    pub fn keep_reply(&mut self, header: &ReplyHeader, result: &[u8], window: u64) {
        let result = fitting(result);
        // The oldest reply's memory serves the new one.
        let mut reply = Vec::new();
        if self.replies.len() as u64 >= window {
            reply = self.replies.pop_front().unwrap_or_default();
            reply.clear();
        }
        reply.reserve_exact(REPLY_HEADER_BYTES + result.len());
        reply.extend_from_slice(&header.encode());
        reply.extend_from_slice(&result);
        self.replies.push_back(reply);
        self.executed += 1;
    }
}

impl RequestPool {
    /// Keeps the replies of an executed batch; also for sessions that a later decision has ended, until that one is
    /// executed too: they belong to the state of this instance.
    pub fn executed(&mut self, names: &[u8], list: &[u8], results: &[u8], execution: Execution) -> Result<(), Misuse> {
        let names = super::ordering::digests(names)?;
        let batch = self.batch(list, names.len())?;
        let results: Result<Vec<_>, _> = items(results).collect();
        let results = results.map_err(|error| Misuse(format!("a malformed result list: {error:?}")))?;
        if results.len() != batch.len() {
            return Err(Misuse(format!("{} results for a batch of {} requests", results.len(), batch.len())));
        }
        let (instance, executed) = (execution.instance, self.executed_instance);
        if instance <= executed {
            return Err(Misuse(format!("instance {instance} was executed before: the last one was {executed}")));
        }
        if instance > self.decided_instance {
            return Err(Misuse(format!("instance {instance} was executed before it was decided")));
        }
        for ((request, digest), result) in batch.into_iter().zip(names).zip(results) {
            let Some(state) = self.sessions.ordered_session(&request.session()) else {
                return Err(Misuse("a request was executed whose session no decision has opened".into()));
            };
            let number = request.sequence();
            if number <= state.executed {
                return Err(Misuse(format!("request {number} of a session was executed before")));
            }
            if number != state.executed + 1 || number > state.ordered {
                return Err(Misuse(format!("request {number} of a session was executed out of order")));
            }
            let header = execution.reply_header(self.config.replica, digest);
            state.keep_reply(&header, result, self.config.window);
        }
        self.executed_instance = instance;
        self.last_view = execution.view;
        self.last_instance = instance;
        self.sessions.forget_ended(instance);
        Ok(())
    }

    /// The session of an ordered request, unless its lease has ended since.
    fn open_session(&self, request: &RequestView) -> Option<u32> {
        self.sessions.find(&request.session()).filter(|session| self.sessions.slab[*session].is_open())
    }

    /// The replies of an executed batch may leave.
    pub fn release(&mut self, names: &[u8], list: &[u8]) -> Result<(), Misuse> {
        let names = super::ordering::digests(names)?;
        let batch = self.batch(list, names.len())?;
        for request in batch {
            let Some(session) = self.open_session(&request) else { continue };
            let state = &mut self.sessions.slab[session];
            let number = request.sequence();
            if number > state.executed {
                return Err(Misuse(format!("request {number} of a session is released before it was executed")));
            }
            let Some(route) = state.release(number) else { continue };
            if let Some(reply) = state.reply(number) {
                self.sources.reply(route.source, reply);
            }
        }
        Ok(())
    }

    /// A request that was ordered before comes again: its reply leaves once more, or later and by the newer route.
    pub(super) fn answer_again(&mut self, session: u32, number: u64, digest: &Digest, source: u64) {
        if source == NO_SOURCE {
            return;
        }
        let state = &mut self.sessions.slab[session];
        if number > state.released {
            if let Some(route) = state.route_mut(number).filter(|route| route.digest == *digest) {
                route.source = source;
            }
            return;
        }
        // Only the very request that was executed is answered: anybody can make another one with its number.
        let reply = state.reply(number).filter(|reply| ReplyHeader::parse(reply).is_ok_and(|r| r.digest == *digest));
        if let Some(reply) = reply {
            self.sources.reply_if_room(source, reply);
        }
    }

    /// `(source, frames)` of everything that waits for a client's connection.
    pub fn take_replies(&mut self) -> Vec<(u64, Vec<u8>)> {
        self.sources.take_replies()
    }

    /// The kept reply to a request, released or not.
    pub fn cached_reply(&self, id: &SessionId, sequence: u64) -> Option<&[u8]> {
        let session = self.sessions.find(id)?;
        self.sessions.slab[session].reply(sequence)
    }

    /// Cursors `(received, ordered, executed)` of a session.
    pub fn session(&self, id: &SessionId) -> Option<(u64, u64, u64)> {
        let state = &self.sessions.slab[self.sessions.find(id)?];
        Some((state.received, state.ordered, state.executed))
    }

    /// See `SessionTable::of_key`.
    pub fn sessions_of(&self, key: &[u8; KEY_BYTES]) -> Vec<[u64; 3]> {
        self.sessions.of_key(key)
    }
}
