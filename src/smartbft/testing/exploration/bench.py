"""A correct replica of the exploration: the product's own ordering protocol on the least chassis that carries it.

What is real: `ModSmart`, `Synchronization`, `VPConsensus`, `VoteGuard`, `epoch_change`, the messages. What is not: the
pool (two requests, A and B, that everybody can name), the disk (everything is durable at once), time (timers fire when
the adversary wants) and signatures (tagged with their signer; the adversary only makes those of its own replica).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import msgspec

from smartbft._fastpath.pool import VALID
from smartbft.core.effects import Broadcast, Record, Send
from smartbft.core.inputs import Timer
from smartbft.core.member_keys import MemberKeys
from smartbft.core.records import decision_record
from smartbft.core.recovery import recover
from smartbft.core.safety import VoteGuard
from smartbft.core.validation import Validator
from smartbft.crypto.signatures import Signer
from smartbft.errors import RemoteProtocolError
from smartbft.messages import Message, Proof, StopData, Sync
from smartbft.protocols.mod_smart import ModSmart
from smartbft.testing.exploration.setting import DOMAINS, NOW, N, Past, Setting, key_of, tag
from smartbft.types import KeyStatement, Parameters, Value

PARAMETERS = Parameters(batch_delay=0)
REQUESTS = (b"A" * 32, b"B" * 32)  # request digests
VALUES = tuple(Value(NOW, digest).encode() for digest in REQUESTS)
DIGESTS = tuple(DOMAINS.value_digest(value) for value in VALUES)
A, B = 0, 1  # indices into these
Statement = TypeVar("Statement")


class TaggedSigner:
    """Signs with the tags of one key."""

    def __init__(self, number: int) -> None:
        self._number = number

    @property
    def public_key(self) -> bytes:
        return key_of(self._number)

    def sign(self, payload: bytes) -> bytes:
        return tag(self._number)


class TaggedVerifier:
    """Accepts the tags; nobody but the adversary makes messages outside the replicas, and it only uses its own."""

    def verify(self, key: bytes, signature: bytes, payload: bytes) -> bool:
        return signature == key * 2

    def acceptable(self, key: bytes) -> bool:
        return True


def make_validator(setting: Setting) -> Validator:
    """The checks of a replica that is at the instance under search."""
    return Validator(setting.view, DOMAINS, TaggedVerifier(), PARAMETERS, setting.keys())


def passes(check: Callable[[Statement], object], statement: Statement) -> bool:
    """Whether validation lets a statement pass."""
    try:
        check(statement)
    except RemoteProtocolError:
        return False
    return True


class _Pool:
    """A pool in which the next request to order is what the adversary says; `missing`: no bodies have come."""

    def __init__(self) -> None:
        self.pending: int | None = None
        self.missing = False

    def ready(self) -> int:
        return int(self.pending is not None)

    def stats(self) -> dict[str, int]:
        return {"unverified": 0}

    def oldest_pending(self) -> int:
        return -1  # no time passes here

    def form_batch(self, max_requests: int, max_bytes: int, timestamp: int) -> tuple[bytes, bytes]:
        if self.pending is None:
            return b"", b""
        return REQUESTS[self.pending], b"data"

    def resolve(self, digests: bytes, bound: bool = False) -> tuple[bytes, bytes, int]:
        return (b"", digests, 0) if self.missing else (b"data", b"", 0)

    def check(self, data: bytes, timestamp: int, max_requests: int, max_bytes: int) -> int:
        return VALID

    def collect(self, digests: bytes) -> bytes:
        return b""


class Bench:
    """The chassis of one replica: remembers what the replica said, and decides what it decides."""

    def __init__(self, id: int, setting: Setting) -> None:
        self.id = id
        self.setting = setting
        self.view = setting.view
        self.domains = DOMAINS
        self.signer: Signer = TaggedSigner(id)
        self.pool: Any = _Pool()
        self.parameters = PARAMETERS
        self.guard = VoteGuard()
        self.keys = MemberKeys(self.view)
        self.record_votes = True
        self.now = NOW
        self.decided = 0
        self.agreed_time = 0
        self.durable = 0
        self.said: list[Message] = []
        self.log: list[Record] = []
        self.decision: tuple[bytes, Proof] | None = None  # of the instance that is searched
        self._last: tuple[bytes, Proof] | None = None
        self.ordering = ModSmart(self)

    # What the exploration does to it

    def receive(self, sender: int, message: Message) -> None:
        """A validated message."""
        self.ordering.on_message(sender, message)

    def give_requests(self, pending: int | None, missing: bool, ready: bool) -> None:
        """Set what the pool will say, and let the replica look if they are `ready`."""
        self.pool.pending = pending
        self.pool.missing = missing
        if ready:
            self.ordering.on_requests()

    def learn(self, proof: Proof) -> None:
        """A decision with its proof arrives, as a `Decision` message brings it."""
        if self.decided < proof.instance:
            self.decide(proof.instance, VALUES[DIGESTS.index(proof.digest)], b"data", proof, False)

    def go_through(self, past: Past) -> None:
        """All up to the decision of the first instance, which replaces a key."""
        lost = self.id == self.setting.lost
        if lost:
            self.guard.suspend("lost its votes", follow=True)
        for other in range(N if past.regency else 0):
            if other != self.id:
                self.ordering.heard(other, past.regency)
        if past.sync is not None:
            self.receive(self.view.leader(past.regency), past.sync)
        value, proof = self.setting.decided
        self.persist((decision_record(1, proof, value, b""),))
        self._settle(1, value, proof)
        self.ordering.on_keys_changed(tuple(one.member for one in self.setting.statements))
        self.ordering.on_decided(1)
        if lost:
            self.signer = TaggedSigner(self.setting.number(self.id))
            self.ordering.promise_anew()
            self.guard.resume_with_new_key(2)
            self.ordering.take_part()
        # What was said so far concerns the first instance; the promises of regency 1 are on record.
        self.said.clear()

    def restarted(self) -> Bench:
        """The replica after a crash: what is in the log is all that is left. (Only before it has decided.)"""
        again = Bench(self.id, self.setting)
        again.pool.missing = True  # so it does not take the next step at once
        state = recover(((record.kind, record.instance, b"".join(record.parts)) for record in self.log), DOMAINS)
        for known in state.decisions:
            again._settle(known.instance, known.value, known.proof)
        again.signer = TaggedSigner(self.setting.number(self.id))
        again.ordering.recover(state)
        again.ordering.take_part()
        return again

    def _settle(self, instance: int, value: bytes, proof: Proof) -> None:
        """An instance is over."""
        self.guard.decided(instance)
        self.keys.decided(instance, Value.decode(value).statements)
        self.decided = instance
        self.agreed_time = Value.decode(value).timestamp
        self._last = (value, proof)

    def promises(self) -> Any:
        """All that binds the replica before it has decided."""
        current, guard = self.ordering.current, self.guard
        return _freeze(guard), current.accepted, sorted(current.written.regencies.items())

    # What the protocol asks for

    def persist(self, records: tuple[Record, ...], then: Sequence[Send | Broadcast] = ()) -> int:
        self.durable += 1
        self.log.extend(records)
        self.said.extend(effect.message for effect in then)
        return self.durable

    def persist_promise(self, record: Record, then: Sequence[Send | Broadcast] = ()) -> int:
        return self.persist((record,), then)

    def send(self, to: int, message: Message) -> None:
        self.said.append(message)

    def broadcast(self, message: Message) -> None:
        self.said.append(message)

    def tell(self, to: int | None, message: Message) -> None:
        self.said.append(message)

    def may_answer(self, to: int, answer: type[Message]) -> bool:
        return True

    def answer(self, to: int, message: Message, size: int = 0) -> None:
        self.said.append(message)

    def decide(self, instance: int, value: bytes, data: bytes, proof: Proof, logged: bool) -> None:
        self._settle(instance, value, proof)
        self.decision = self._last
        self.ordering.on_decided(instance)

    def last_proof(self) -> Proof | None:
        return self._last[1] if self._last else None

    def decided_value(self, instance: int) -> bytes:
        return self._last[0] if self._last and instance == self.decided else b""

    def in_force(self, sync: Sync) -> bool:
        return Validator(self.view, DOMAINS, TaggedVerifier(), PARAMETERS, self.keys).in_force(sync)

    def statements(self) -> tuple[KeyStatement, ...]:
        return ()

    def may_propose(self) -> bool:
        return True

    def may_decide(self) -> bool:
        return True

    def could_propose(self) -> bool:
        return True

    def batch_times(self) -> tuple[int, ...]:
        return (max(self.now, self.agreed_time + 1),)

    def suspects(self) -> bool:
        return False

    def overdue(self) -> bytes:
        return b""

    def fetch_decision(self, instance: int, holders: tuple[int, ...]) -> None: ...
    def set_timer(self, timer: Timer, delay: int) -> None: ...
    def cancel_timer(self, timer: Timer) -> None: ...
    def penalise(self, peer: int, reason: str) -> None: ...
    def report(self, accused: int, first: Message, second: Message) -> None: ...
    def answer_with_decision(self, to: int, instance: int) -> None: ...
    def note_progress(self, peer: int, decided: int) -> None: ...
    def adopt(self, sender: int, data: bytes) -> None: ...
    def watch_again(self) -> None: ...


# What is the same about two replicas: everything the protocol keeps, but for the attributes below.

_OUTSIDE = {"_chassis", "_ordering", "_phase", "_handlers"}
_REPEATS = {"_sent", "_own", "_answered", "_fetches", "_questions", "_logged"}  # what may be said again
_LIVENESS = {"_stopping", "_patience", "_last_batch", "_batch_due", "_watch"}
_SETTLED = {"_first"}  # at most the instance that is searched
_HEARD = {"_seen", "_seen_accepts"}  # told to replicas that start, and to operators
# Votes and statements that have come. What had no effect was not delivered (see `machine`), what had one is told by it.
_COUNTS = {"_writes", "_accepts", "_voters", "_early", "_stop_data", "_missing"}
_IGNORED = frozenset(_OUTSIDE | _REPEATS | _LIVENESS | _SETTLED | _HEARD | _COUNTS)


def picture(bench: Bench) -> Any:
    """All that decides what the replica will say in the instance that is searched."""
    guard = bench.guard
    if bench.decision is not None:
        return bench.decision[0], guard.regency, guard.synchronized
    return _freeze(bench.ordering), _freeze(guard)


def _freeze(thing: object) -> Any:
    if thing is None or isinstance(thing, (int, bytes, str, type)):
        return thing
    if isinstance(thing, (Sync, StopData)):
        return thing.regency  # what it says has been taken up; the rest is only passed on
    if isinstance(thing, msgspec.Struct):
        return thing
    if isinstance(thing, dict):
        return tuple(sorted(((_freeze(key), _freeze(value)) for key, value in thing.items()), key=repr))
    if isinstance(thing, (tuple, list)):
        return tuple(_freeze(item) for item in thing)
    attributes = ((name, getattr(thing, name)) for name in _attributes(type(thing), thing) if name not in _IGNORED)
    return type(thing).__name__, tuple((name, _freeze(value)) for name, value in attributes)


def _attributes(kind: type, thing: object) -> list[str]:
    if hasattr(thing, "__dict__"):
        return sorted(vars(thing))
    return sorted(name for base in kind.__mro__ for name in getattr(base, "__slots__", ()))
