"""The two sides of the seam between the replica and its ordering protocol.

A protocol is rules on this chassis: it is told what arrived, and asks the chassis to persist, send, set timers and
deliver decisions. Every protocol has the same input (requests in the pool) and the same output (`decide`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from smartbft._fastpath.pool import RequestPool
from smartbft.core.effects import Broadcast, Record, Send
from smartbft.core.inputs import Timer
from smartbft.core.member_keys import MemberKeys
from smartbft.core.recovery import RecoveredState
from smartbft.core.regency_changes import RegencyChanges
from smartbft.core.safety import VoteGuard
from smartbft.crypto.domains import Domains
from smartbft.crypto.signatures import Signer
from smartbft.messages import Accept, Message, Proof, Sync, Vote
from smartbft.types import KeyStatement, Parameters, View


class Chassis(Protocol):
    """What the replica offers its ordering protocol."""

    id: int
    view: View
    domains: Domains
    signer: Signer
    pool: RequestPool
    parameters: Parameters
    guard: VoteGuard
    keys: MemberKeys
    record_votes: bool
    now: int  # microseconds, of the input being handled
    decided: int  # the last decided instance
    agreed_time: int  # its timestamp
    durable: int  # the highest released token

    def persist(self, records: tuple[Record, ...], then: Sequence[Send | Broadcast] = ()) -> int:
        """Append records to the log, with what may be said once they are durable; returns the token."""

    def persist_promise(self, record: Record, then: Sequence[Send | Broadcast] = ()) -> int:
        """As `persist`, for what binds this replica; where votes are not recorded, `then` leaves at once (token 0)."""

    def send(self, to: int, message: Message) -> None:
        """Send something that does not bind."""

    def broadcast(self, message: Message) -> None:
        """Send something that does not bind to every other member."""

    def tell(self, to: int | None, message: Message) -> None:
        """Send something that does not bind to one member, or (None) to every other one."""

    def may_answer(self, to: int, answer: type[Message]) -> bool:
        """Whether a peer may get another answer of this kind now: each has a rate (`smartbft.core.answer_rates`)."""

    def answer(self, to: int, message: Message, size: int = 0) -> None:
        """Send an answer, at the expense of the peer's budget. `size`: its bytes, where bytes are counted."""

    def set_timer(self, timer: Timer, delay: int) -> None:
        """Start or restart a timer; `delay` in microseconds."""

    def cancel_timer(self, timer: Timer) -> None:
        """Stop a timer."""

    def penalise(self, peer: int, reason: str) -> None:
        """Report a peer that broke the protocol."""

    def decide(self, instance: int, value: bytes, data: bytes, proof: Proof, logged: bool) -> None:
        """Deliver a decision: the next instance, its encoded value, its requests and its proof.

        `logged`: the value and its requests are in the log already (as a VALUE record).
        """

    def fetch_decision(self, instance: int, holders: tuple[int, ...]) -> None:
        """Ask `holders` for a decision that is known to exist but whose value is not here."""

    def answer_with_decision(self, to: int, instance: int) -> None:
        """A peer lacks this decided instance: send it the decision, at most once per resend interval."""

    def note_progress(self, peer: int, decided: int) -> None:
        """A hint that `peer` has decided all instances up to `decided`."""

    def last_proof(self) -> Proof | None:
        """The proof of the last decision; None before the first one."""

    def decided_value(self, instance: int) -> bytes:
        """The encoded value of a decided instance, or b"" if it is not in memory any more."""

    def adopt(self, sender: int, data: bytes) -> None:
        """Requests that `sender` passes on because they were not ordered in time."""

    def overdue(self) -> bytes:
        """The pending requests that were not ordered in time, as a bounded request list."""

    def suspects(self) -> bool:
        """Whether the oldest pending request was forwarded and is still not ordered."""

    def watch_again(self) -> None:
        """A regency begins: the deadlines of pending requests start again, with the timeout of now."""

    def in_force(self, sync: Sync) -> bool:
        """Whether all who signed a SYNC, or the STOPDATA in it, did so with their keys of now."""

    def statements(self) -> tuple[KeyStatement, ...]:
        """The key statements that wait to be ordered, as many as one value may hold."""

    def may_propose(self) -> bool:
        """Whether another batch may be ordered now: not while too many decided ones wait for the application."""

    def may_decide(self) -> bool:
        """Whether another instance may be decided here now: not while the memory is full of what waits for the
        application. Once there is room, `Ordering.on_executed` is called.
        """

    def batch_times(self) -> tuple[int, ...]:
        """The times that a batch may have that this replica proposes now, in the order in which they are tried."""

    def could_propose(self) -> bool:
        """Whether this replica could propose a pending request now, if it were the leader."""


class Ordering(Protocol):
    """What an ordering protocol offers the replica."""

    @property
    def regency(self) -> int:
        """The installed regency."""

    @property
    def leader(self) -> int:
        """The id of the replica that proposes in the current regency."""

    @property
    def changes(self) -> RegencyChanges:
        """What is remembered of the regency changes, for operators."""

    @property
    def timeout(self) -> int:
        """Microseconds from a request's arrival to the suspicion of the leader: grows with failed regencies."""

    def recover(self, recovered: RecoveredState) -> None:
        """Take up the regency, and the votes of the instance after the last decision, found in the log; called once,
        before anything else.
        """

    def suspect(self, data: bytes) -> None:
        """Pending requests (a request list) were forwarded to everybody and are still not ordered: the leader fails."""

    def heard(self, sender: int, regency: int) -> None:
        """A message that is none of this protocol's shows which regency its sender is in."""

    def prove(self, proof: Proof) -> None:
        """A valid proof that somebody showed: if it is of the running instance, it decides."""

    def seen_of(self, member: int) -> tuple[Vote | None, Accept | None]:
        """The highest vote seen from a member, and its highest signed one."""

    def take_part(self) -> None:
        """The start is over: what was held back while the guard was suspended may be said now."""

    def changing(self) -> bool:
        """Whether a regency change is under way: then we repeat ourselves even while instances are decided."""

    def on_message(self, sender: int, message: Message) -> None:
        """A verified message of this protocol."""

    def on_requests(self) -> None:
        """The pool has newly verified requests: propose, or look again at a proposal."""

    def on_executed(self) -> None:
        """A batch has been executed: as `on_requests`; and what could not be decided for want of room may be now."""

    def on_decided(self, instance: int) -> None:
        """`instance` was decided (here or fetched): go on with the next."""

    def on_installed(self, instance: int) -> None:
        """The state is that of a snapshot after `instance`: everything up to it is over, go on with the next."""

    def standing_records(self) -> tuple[Record, ...]:
        """What binds beyond its instance, to be written again before the log's beginning is dropped."""

    def on_keys_changed(self, members: tuple[int, ...]) -> None:
        """These members vote with other consensus keys from the next instance; called before `on_decided`."""

    def promise_anew(self) -> None:
        """Our own key is another from the next instance on: record what we promise with it, before we say anything."""

    def on_timer(self, timer: Timer) -> None:
        """A timer of this protocol fired."""

    def resend(self, to: int | None) -> None:
        """Send again what binds us in the live instances, to one peer or (None) to all."""

    def running(self) -> bool:
        """Whether something has begun that is not decided: then silence is a reason to repeat ourselves."""

    def logged(self, digest: bytes) -> bool:
        """Whether the log holds this value of the current instance, with its requests."""

    def waiting_for(self) -> str:
        """What the protocol is waiting for, in words (for `status`)."""
