"""The request pool and session table: bounded, native, deterministic; touched only by the thread that calls `step`.

Layouts (little-endian), see docs/wire-format.md:

- request: ``client key 32 | session u64 | sequence u64 | operation length u32 | operation | signature 64``
- request list ("data"): ``u32 length | request`` repeated
- digests: 32 bytes per request
- results: ``u32 length | result`` repeated, one per request of the batch, in order
- reply: ``replica u16 | status u8 | level u8 | view u32 | instance u64 | agreed time u64 | request digest 32 | result``

The request digest is BLAKE3 keyed with ``derive_key("smartbft v1 request digest", chain_id)`` over the whole request,
signature included. The signed message is ``derive_key("smartbft v1 request signature", chain_id)`` (32 bytes) followed by
the request without its signature.
"""

from collections.abc import Sequence

from typing_extensions import Buffer

EXECUTED: int  # reply statuses
OVERLOADED: int
SESSION_REFUSED: int
REJECTED: int
BAD_SIGNATURE: int

FROM_MEMBER: int  # sources from here on are members, by id: of what they pass on, and answer for

VALID: int  # verdicts of RequestPool.check, in the order in which they are tested
EMPTY: int
TOO_LARGE: int
MALFORMED: int
DUPLICATE: int
NOT_CONTIGUOUS: int
SESSION_INVALID: int

def encode_request(key: bytes, session: int, sequence: int, operation: Buffer, signature: bytes) -> bytes:
    """The canonical bytes of a request. Raises ValueError: a field is out of its bounds."""

def request_digests(chain_id: bytes, data: Buffer) -> bytes:
    """Digests of the requests of a request list. Raises RemoteProtocolError: malformed."""

def split_requests(data: Buffer) -> list[tuple[bytes, int, int, bytes, bytes]]:
    """`(key, session, sequence, operation, signature)` of each. Raises RemoteProtocolError: malformed."""

def join_requests(requests: Sequence[bytes]) -> bytes: ...
def join_results(results: Sequence[bytes]) -> bytes: ...

class VerifyJob:
    """Requests on their way to the verifier: reference-counted bytes, no pool slots."""

    count: int
    data: bytes  # request list, for the application's stateless check
    def items(self) -> list[tuple[bytes, bytes, bytes]]:
        """`(public key, signature, signed message)` of each: for the simulator's keyed-hash signatures."""
    def run(self) -> bytes:
        """Verify here and now, on this thread; returns the mask (also for tests and the simulator)."""
    mask: bytes  # set when the job came back from the Verifier

class Verifier:
    """Jobs in, verdicts out, on the native thread pool of `verify`; completions through an eventfd."""

    def __init__(self, threads: int, nice: int = 10) -> None: ...
    def submit(self, job: VerifyJob) -> None: ...
    def fileno(self) -> int: ...
    def drain(self) -> list[VerifyJob]:
        """Jobs finished since the last call, in order of completion; clears the event."""
    def in_flight(self) -> int:
        """Requests submitted and not yet drained."""
    def close(self) -> None: ...

class Holds:
    """Which members hold which request, where requests carry no signatures (protocols.md 2.1). Members are positions in
    the view. A request here is vouched for when its client sent it on a connection that proves its key, or `f + 1` members
    hold it; it is announced then, and can be proposed when `2f + 1` hold it."""

    def __init__(self, pool: RequestPool) -> None: ...
    def prove(self, source: int, key: bytes) -> None:
        """The client of connection `source` has proven `key`: it may send that client's requests."""
    def hold(self, member: int, digests: Buffer, now: int) -> int:
        """A member announces what it holds; returns how many requests that are here are vouched for, or can be proposed,
        only now. Announcements of requests that are not here are kept, the last `max_holds` of each member.

        Raises LocalProtocolError: no such member, no digest list, or requests are signed."""
    def void(self, member: int) -> None:
        """The channel to a member is new, and it may have restarted: what it announced before counts no longer. What was
        vouched for stays so; what could be proposed waits for `2f + 1` again.

        Raises LocalProtocolError: no such member, or requests are signed."""
    def take(self, most: int) -> bytes:
        """Digests to announce now, each given out once; once more when its client asks again."""
    def held(self, before: int, most: int) -> bytes:
        """Digests of what is vouched for and pending here since before `before`, to announce again: half of them at least
        ready ones, oldest first, if there are so many."""
    def wanted(self, member: int, before: int, now: int, most: int) -> tuple[bytes, bool]:
        """Digests of requests that are not here, that `f + 1` members hold since before `before`, `member` among them; and
        whether anything is wanted at all. What was looked at comes last the next time. Raises LocalProtocolError: requests are signed."""
    def requests(self, digests: Buffer, max_bytes: int) -> bytes:
        """Request list of those among `digests` that are here and vouched for, as far as they fit."""

class SessionCapture:
    """The session table as of an executed prefix, written down while the pool goes on: a session that is about to change
    is written first, the others little by little."""

    def export(self) -> bytes:
        """What `export_sessions` would have returned at the time of the capture; can be had once.

        May be called on any thread (GIL released); takes the pool's lock for a fraction of a millisecond at a time.
        Raises LocalProtocolError: a later capture or an import took its place, or it was exported before."""

class RequestPool:
    holds: Holds
    def __init__(
        self,
        chain_id: bytes,
        *,
        replica: int = 0,
        window: int,
        max_requests: int,
        max_bytes: int,
        max_operation_bytes: int,
        max_sessions: int,
        max_sessions_per_key: int,
        max_unverified_per_source: int,
        lease: int,
        skew: int,
        admit_unverified: bool = False,
        members: int = 0,
        member: int = 0,
        max_holds: int = 1,
        max_idle: int = 16_000_000,
    ) -> None:
        """
        Args:
            window: requests a session may have in flight, and replies kept per session.
            lease, skew: microseconds; `W` and `skew` of protocols.md 2.1.
            admit_unverified: benchmark mode: requests count as verified on arrival.
            members: of the view, if requests carry no signatures; 0: they are signed.
            member: position of this replica among them.
            max_holds: announcements kept of one member about requests that are not here.
            max_idle: how long a verified request stays that could not be proposed, microseconds.
        """
    # reception
    def admit(self, data: Buffer, source: int, now: int) -> int:
        """Admit a request list; returns how many were new. `source`: the client's connection, or `FROM_MEMBER` and the id
        of the member that passes them on, or 0 for nobody in particular.

        In a full pool, requests that could not be proposed give way first, and refusals tell their clients; then the
        newest one of a connection, or else of a client key, that has far more here. Each member is guaranteed a share.

        A request that was executed and released makes its cached reply leave again towards `source`; one beyond a limit or
        with a lapsed session makes a refusal. Raises RemoteProtocolError: malformed (nothing was admitted).
        """
    def admit_body(self, data: Buffer, now: int) -> int:
        """As `admit` for bodies named by a proposal: taken even if the pool holds another request with that number, and
        put at the front of the verification queue. The limits on sources do not apply."""
    def drop_source(self, source: int) -> None:
        """The connection is gone: its requests that are not at the verifier yet and its reply route are forgotten."""
    def pass_time(self, now: int) -> None:
        """It is `now` (microseconds): requests that could not be proposed for longer than `max_idle` are refused, and so
        are those of sessions that can no longer be opened, by this clock or by the next batch. `admit` does it too."""
    def take_unverified(self, max_requests: int) -> VerifyJob | None:
        """The next requests to verify: prioritised ones first, then round-robin over sources, oldest first."""
    def apply_verdicts(self, job: VerifyJob, mask: Buffer, reasons: Buffer = b"") -> list[tuple[int, int]]:
        """Mask bytes: 1 valid, 0 bad signature, 2 refused by the application's check. Returns `(source, bad)` for each
        source of requests with bad signatures: whoever brought each of them first. Requests that were dropped or decided meanwhile are passed over.
        `reasons` are items as `join_results` makes them, one for each refused request in their order, or fewer: what
        the client of each gets with its refusal.

        Raises ValueError: not one verdict per request."""
    # proposing and voting
    def ready(self) -> int:
        """Requests a leader could propose now (verified, contiguous from the ordered prefix)."""
    def form_batch(self, max_requests: int, max_bytes: int, timestamp: int) -> tuple[bytes, bytes]:
        """A fair batch `(digests, data)`: round-robin over the sessions with ready requests. Does not change the pool."""
    def resolve(self, digests: Buffer, bound: bool = False) -> tuple[bytes, bytes, int]:
        """`(data, missing, unverified)`: the request list when everything is here and verified (else b""); the digests
        that are not here; how many are here but unverified (they move to the front of the verification queue).
        `bound`: the value binds, so its requests were vouched for when it was written."""
    def check(self, data: Buffer, timestamp: int, max_requests: int, max_bytes: int) -> int:
        """The predicate gamma's part on sessions (protocols.md 2.2): VALID or why not. Depends on the decided prefix and
        the arguments only."""
    def decide(self, digests: Buffer, data: Buffer, instance: int, timestamp: int) -> None:
        """The batch was decided in `instance` at agreed time `timestamp`: ordered cursors advance, sessions open and lapse,
        other pending requests with these numbers are dropped. An empty batch only moves the agreed time.

        Raises LocalProtocolError: it does not follow the decided prefix (`check` would not be VALID), or instance or time
        do not advance; nothing has changed."""
    def executed(
        self, digests: Buffer, data: Buffer, results: Buffer, instance: int, view: int, timestamp: int, level: int
    ) -> None:
        """Store the replies in the sessions' reply caches (deterministic state). To be called for every decided instance,
        also one with an empty batch: sessions that its decision ended are kept for `export_sessions` until then.

        Raises LocalProtocolError: not one result per request, not the next numbers of their sessions, or an instance that
        is not decided or was executed before."""
    def release(self, digests: Buffer, data: Buffer) -> None:
        """Replies may leave: route them to the clients' connections (`take_replies`) and answer retransmissions.

        Raises LocalProtocolError: the batch was not executed."""
    def take_replies(self) -> list[tuple[int, bytes]]:
        """`(source, frames)`: what waits to be written to each client connection, as complete REPLY frames."""
    def collect(self, digests: Buffer) -> bytes:
        """Request list of those among `digests` that the pool holds verified (for peers that lack them)."""
    # timers
    def oldest_pending(self) -> int:
        """Arrival time (microseconds) of the oldest request that a leader could propose, or -1. A request that waited
        behind a gap counts from when the gap was filled."""
    def overdue(self, before: int, max_bytes: int) -> bytes:
        """Request list of the ready requests that arrived before `before`, with their pending predecessors, oldest first."""
    agreed_time: int
    def set_accepting(self, accepting: bool) -> None:
        """False: every new request is refused with OVERLOADED (the disk is filling up, a queue is full)."""
    def session(self, key: bytes, session: int) -> tuple[int, int, int] | None:
        """Cursors `(received, ordered, executed)` of a session: every number up to `received` is ordered, or pending
        here, verified and reachable without a gap. None: neither open nor with a pending request."""
    def sessions_of(self, key: bytes) -> list[tuple[int, int, int]]:
        """The open sessions of a client key, by number: session number, last executed number, and when the lease ends if
        nothing more is decided for it (agreed time)."""
    def cached_reply(self, key: bytes, session: int, sequence: int) -> bytes | None: ...
    # checkpoints and state transfer (docs/snapshot-format.md, Sessions)
    def export_sessions(self, instance: int) -> bytes:
        """The session table with cursors and cached replies as of the executed prefix, which ends with `instance`. The
        same prefix gives the same bytes on every replica, however far `decide` has run ahead and whatever is pending.

        Raises LocalProtocolError: the last executed instance is another one."""
    def capture_sessions(self, instance: int) -> SessionCapture:
        """As `export_sessions`, without the time that it takes to write everything down: see `SessionCapture`. A pool has
        one capture at a time; the last one counts."""
    def import_sessions(self, data: Buffer, agreed_time: int, level: int = 0) -> None:
        """Replace the session table by an exported one, as of the executed prefix that ended at `agreed_time`.

        Afterwards retransmissions of executed requests get their replies (from this replica, with persistence `level`),
        duplicates are refused and sequences go on. Pending requests are dropped, connections stay; the next `decide`
        and `executed` are those of any later instance.

        Raises:
            ValueError: not canonical, or beyond the limits of this pool; nothing has changed.
            LocalProtocolError: the pool's agreed time is later than that; nothing has changed.
        """
    def stats(self) -> dict[str, int]:
        """`pending`, `verified`, `unverified`, `bytes`, `sessions`, `admitted`, `duplicates`, `bad_signatures`,
        `refused`, `signature_checks`; `idle`: verified, but could not be proposed; `evicted`: gave way to others, or were
        not proposable for too long; `full`: 1 if the largest request has no room before others give way."""
