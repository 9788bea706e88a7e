//! The session table as canonical bytes (docs/snapshot-format.md, section Sessions): the same executed prefix gives the
//! same bytes on every replica, however far decisions have run ahead and whatever is pending.

use super::index::Map;
use super::pool::{Misuse, RequestPool};
use super::replies::Execution;
use super::sessions::{Session, Written};
use crate::wire::{
    array_at, u32_at, u64_at, Digest, ReplyHeader, SessionId, DIGEST_BYTES, KEY_BYTES, REPLY_HEADER_BYTES,
};

/// Client key, session, executed cursor, number of replies.
const SESSION_HEADER_BYTES: usize = KEY_BYTES + 8 + 8 + 4;
/// View, instance, agreed time, digest, length of the result.
const KEPT_REPLY_HEADER_BYTES: usize = 4 + 8 + 8 + DIGEST_BYTES + 4;

/// Why sessions were not imported; nothing has changed.
#[derive(Debug, PartialEq, Eq)]
pub enum ImportError {
    /// The bytes are not a session table in its canonical form and within this pool's limits.
    Refused(String),
    Misuse(Misuse),
}

fn refused<T>(why: String) -> Result<T, ImportError> {
    Err(ImportError::Refused(why))
}

/// A kept reply without what differs between replicas.
#[derive(Clone, Copy, PartialEq, Eq)]
struct KeptReply<'a> {
    view: u32,
    instance: u64,
    agreed_time: u64,
    digest: Digest,
    result: &'a [u8],
}

struct KeptSession<'a> {
    id: SessionId,
    executed: u64,
    replies: Vec<KeptReply<'a>>,
}

impl KeptSession<'_> {
    /// Agreed time of the last executed request, of which the reply is always kept.
    fn last_activity(&self) -> u64 {
        self.replies.last().map_or(0, |reply| reply.agreed_time)
    }
}

/// A session with its replies, as in the table.
pub fn session_bytes(session: &Session) -> Vec<u8> {
    let mut out = Vec::with_capacity(session_length(session));
    push_session(&mut out, session);
    out
}

/// A session table of sessions that are written down already.
pub fn join_sessions(mut sessions: Written) -> Vec<u8> {
    sessions.sort_unstable_by_key(|(id, _)| *id);
    let mut out = Vec::with_capacity(4 + sessions.iter().map(|(_, bytes)| bytes.len()).sum::<usize>());
    out.extend_from_slice(&(sessions.len() as u32).to_le_bytes());
    sessions.iter().for_each(|(_, bytes)| out.extend_from_slice(bytes));
    out
}

fn push_session(out: &mut Vec<u8>, session: &Session) {
    out.extend_from_slice(&session.id.key);
    out.extend_from_slice(&session.id.number.to_le_bytes());
    out.extend_from_slice(&session.executed.to_le_bytes());
    out.extend_from_slice(&(session.replies.len() as u32).to_le_bytes());
    for reply in &session.replies {
        // View, instance, agreed time and digest, as they are in the reply; its first fields are this replica's own.
        out.extend_from_slice(&reply[4..REPLY_HEADER_BYTES]);
        out.extend_from_slice(&((reply.len() - REPLY_HEADER_BYTES) as u32).to_le_bytes());
        out.extend_from_slice(&reply[REPLY_HEADER_BYTES..]);
    }
}

fn session_length(session: &Session) -> usize {
    let replies: usize = session.replies.iter().map(Vec::len).sum();
    SESSION_HEADER_BYTES + replies + session.replies.len() * (KEPT_REPLY_HEADER_BYTES - REPLY_HEADER_BYTES)
}

/// Cuts pieces off the front of foreign bytes.
struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize, what: &str) -> Result<&'a [u8], ImportError> {
        if length > self.rest.len() {
            let left = self.rest.len();
            return refused(format!("{what} has {length} bytes; {left} are left"));
        }
        let (piece, rest) = self.rest.split_at(length);
        self.rest = rest;
        Ok(piece)
    }

    fn session(&mut self, window: u64) -> Result<KeptSession<'a>, ImportError> {
        let header = self.take(SESSION_HEADER_BYTES, "a session")?;
        let id = SessionId { key: array_at(header, 0), number: u64_at(header, KEY_BYTES) };
        let executed = u64_at(header, KEY_BYTES + 8);
        let count = u64::from(u32_at(header, KEY_BYTES + 16));
        if executed == 0 {
            return refused("a session without an executed request".into());
        }
        if count != executed.min(window) {
            return refused(format!(
                "{count} replies for a session with {executed} executed requests, window {window}"
            ));
        }
        let mut replies: Vec<KeptReply> = Vec::new();
        for _ in 0..count {
            let reply = self.reply()?;
            if replies.last().is_some_and(|last| !follows(last, &reply)) {
                return refused("replies of a session whose instances or times are not in order".into());
            }
            replies.push(reply);
        }
        Ok(KeptSession { id, executed, replies })
    }

    fn reply(&mut self) -> Result<KeptReply<'a>, ImportError> {
        let header = self.take(KEPT_REPLY_HEADER_BYTES, "a reply")?;
        let length = u32_at(header, 20 + DIGEST_BYTES) as usize;
        Ok(KeptReply {
            view: u32_at(header, 0),
            instance: u64_at(header, 4),
            agreed_time: u64_at(header, 12),
            digest: array_at(header, 20),
            result: self.take(length, "a result")?,
        })
    }
}

/// Of one instance, or of a later one that was decided at a later time.
fn follows(last: &KeptReply, next: &KeptReply) -> bool {
    if next.instance == last.instance {
        next.agreed_time == last.agreed_time && next.view == last.view
    } else {
        next.instance > last.instance && next.agreed_time > last.agreed_time && next.view >= last.view
    }
}

impl RequestPool {
    /// The session table as of the executed prefix, which ends with `instance`.
    pub fn export_sessions(&self, instance: u64) -> Result<Vec<u8>, Misuse> {
        self.check_prefix(instance)?;
        let mut sessions: Vec<&Session> = self.sessions.executed_sessions().collect();
        sessions.sort_unstable_by_key(|session| session.id);
        let mut out = Vec::with_capacity(4 + sessions.iter().map(|session| session_length(session)).sum::<usize>());
        out.extend_from_slice(&(sessions.len() as u32).to_le_bytes());
        for session in sessions {
            push_session(&mut out, session);
        }
        Ok(out)
    }

    fn check_prefix(&self, instance: u64) -> Result<(), Misuse> {
        match self.executed_instance {
            0 => Ok(()),
            executed if executed == instance => Ok(()),
            executed => Err(Misuse(format!("sessions as of instance {instance}; the last executed one is {executed}"))),
        }
    }

    /// Captures the session table as of the executed prefix, to be written down little by little; returns the number of
    /// the capture. It takes the place of an unfinished one.
    pub fn capture_sessions(&mut self, instance: u64) -> Result<u64, Misuse> {
        self.check_prefix(instance)?;
        Ok(self.sessions.begin_capture())
    }

    /// Writes up to `most` more sessions of a capture down; all of them (see [`join_sessions`]) when it is complete.
    pub fn continue_capture(&mut self, capture: u64, most: usize) -> Result<Option<Written>, Misuse> {
        let given_up = || Misuse("a later capture or an import took the place of this one, or it was exported".into());
        self.sessions.continue_capture(capture, most).ok_or_else(given_up)
    }

    /// Replaces the session table by an exported one as of `agreed_time`; pending requests are dropped. `level` is what
    /// the imported replies tell the clients.
    pub fn import_sessions(&mut self, data: &[u8], agreed_time: u64, level: u8) -> Result<(), ImportError> {
        if agreed_time < self.agreed_time {
            let own = self.agreed_time;
            return Err(ImportError::Misuse(Misuse(format!(
                "sessions as of agreed time {agreed_time}; the pool is at {own}, and does not go back"
            ))));
        }
        let sessions = self.parse_sessions(data, agreed_time)?;
        self.clear();
        self.agreed_time = agreed_time;
        self.now = self.now.max(agreed_time);
        self.decided_instance = 0;
        self.executed_instance = 0;
        for session in sessions {
            self.install(session, level);
        }
        Ok(())
    }

    fn parse_sessions<'a>(&self, data: &'a [u8], agreed_time: u64) -> Result<Vec<KeptSession<'a>>, ImportError> {
        let limits = &self.config.sessions;
        let mut reader = Reader { rest: data };
        let count = u32_at(reader.take(4, "the number of sessions")?, 0) as usize;
        if count > limits.max_sessions {
            return refused(format!("{count} sessions; the limit is {}", limits.max_sessions));
        }
        let mut sessions: Vec<KeptSession> = Vec::new();
        let mut of_key: Map<[u8; KEY_BYTES], usize> = Map::default();
        for _ in 0..count {
            let session = reader.session(self.config.window)?;
            if sessions.last().is_some_and(|last| last.id >= session.id) {
                return refused("sessions that are not in ascending order".into());
            }
            self.check_lease(&session, agreed_time)?;
            let used = of_key.entry(session.id.key).or_insert(0);
            *used += 1;
            if *used > limits.max_sessions_per_key {
                return refused(format!("more than {} sessions of one key", limits.max_sessions_per_key));
            }
            sessions.push(session);
        }
        match reader.rest.len() {
            0 => Ok(sessions),
            left => refused(format!("{left} bytes after the last session")),
        }
    }

    fn check_lease(&self, session: &KeptSession, agreed_time: u64) -> Result<(), ImportError> {
        let (active, number) = (session.last_activity(), session.id.number);
        if active > agreed_time {
            return refused(format!("a reply with time {active}, later than the agreed time {agreed_time}"));
        }
        if number > active.saturating_add(self.config.sessions.skew) {
            return refused(format!("session number {number}, which no batch up to time {active} could open"));
        }
        if active.max(number) < agreed_time.saturating_sub(self.config.sessions.lease) {
            return refused(format!("a session that was over before the agreed time {agreed_time}"));
        }
        Ok(())
    }

    fn install(&mut self, kept: KeptSession, level: u8) {
        let slot = self.sessions.find_or_insert(kept.id);
        self.sessions.open(slot, kept.last_activity());
        let session = &mut self.sessions.slab[slot];
        session.executed = kept.executed - kept.replies.len() as u64;
        for reply in &kept.replies {
            let KeptReply { view, instance, agreed_time: timestamp, .. } = *reply;
            let execution = Execution { instance, view, timestamp, level };
            let header: ReplyHeader = execution.reply_header(self.config.replica, reply.digest);
            session.keep_reply(&header, reply.result, self.config.window);
            self.last_view = self.last_view.max(view);
            self.last_instance = self.last_instance.max(instance);
        }
        session.ordered = kept.executed;
        session.received = kept.executed;
        session.released = kept.executed;
    }
}
