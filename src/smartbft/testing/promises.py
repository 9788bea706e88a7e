"""Checkers of what binds a replica: votes, regencies, and what is on disk before they leave.

As in `smartbft.testing.checkers`, which puts all of them together, the rules are written again here. The numbers are
those of the invariants in docs/simulator.md.
"""

from __future__ import annotations

from typing import Any

from smartbft.core.effects import Record
from smartbft.core.records import (
    ACCEPT,
    DECISION,
    REGENCY,
    SYNC,
    VALUE,
    parse_accept,
    parse_regency,
    parse_sync,
    parse_value,
)
from smartbft.crypto.domains import Domains
from smartbft.errors import SmartBFTError
from smartbft.limits import MAX_WRITE_SET_ENTRIES
from smartbft.messages import (
    Accept,
    Decision,
    Message,
    Progress,
    Proof,
    Propose,
    SnapshotManifest,
    Standing,
    StopData,
    Sync,
    Write,
    stop_data_statement,
    sync_statement,
)
from smartbft.types import View


class PropertyViolation(SmartBFTError):
    """A run broke a promise.

    Attributes:
        promise: the name of the property.
        message: what was seen.
        seed: of the run, from which `SimulationOptions` makes the same one again; None outside a simulation.
        instance: the consensus instance that it is about, or else the last one that was decided then.
        replicas: ids of those that it is about, or else of all.
    """

    def __init__(
        self, promise: str, message: str, *, instance: int | None = None, replicas: tuple[int, ...] = ()
    ) -> None:
        self.promise = promise
        self.message = message
        self.seed: int | None = None
        self.instance = instance
        self.replicas = replicas
        super().__init__(f"{promise}: {message}")

    def __reduce__(self) -> tuple[Any, ...]:
        """As processes pass it to each other: what the constructor of a subclass takes is not known here."""
        return _rebuild, (type(self), self.args, self.__dict__)

    def locate(self, seed: int, decided: int, replicas: tuple[int, ...]) -> None:
        """The run that broke the promise, for what is not known yet."""
        self.seed = seed
        self.instance = decided if self.instance is None else self.instance
        self.replicas = self.replicas or replicas


def _rebuild(kind: type[PropertyViolation], args: tuple[Any, ...], state: dict[str, Any]) -> PropertyViolation:
    violation = kind.__new__(kind)
    violation.args = args
    violation.__dict__.update(state)
    return violation


def dissemination_quorum(n: int) -> int:
    """The least integer strictly greater than ``(n + f) / 2``; written again here, so that a bug elsewhere shows."""
    faulty = (n - 1) // 3
    size = 0
    while 2 * size <= n + faulty:
        size += 1
    return size


class Votes:
    """4 and 5: no replica contradicts what it sent, restarts included; it accepts on `Q` WRITEs only, votes nothing in
    a regency it has left, and tells the new leader all that it voted.

    Args:
        view: the members.
    """

    __slots__ = ("_accepted", "_quorum", "_recorded", "_said", "_view", "_writes", "_written", "regency")

    def __init__(self, view: View) -> None:
        self._view = view
        self._quorum = dissemination_quorum(len(view.ids))
        self._said: dict[tuple[int, type, int, int], bytes] = {}
        self._writes: dict[tuple[int, int, int, bytes], int] = {}  # receiver, instance, regency, digest -> senders
        self._accepted: dict[tuple[int, int], int] = {}  # replica, instance -> newest regency accepted in
        self._written: dict[tuple[int, int], dict[bytes, int]] = {}  # replica, instance -> digest -> regency
        self._recorded: dict[int, StopData] = {}  # replica -> its last REGENCY record
        self.regency: dict[int, int] = {}  # replica -> the highest regency it has sent STOPDATA for

    def received(self, replica: int, sender: int, message: Message) -> None:
        """A message reached a replica."""
        if type(message) is Write:
            key = (replica, message.instance, message.regency, message.digest)
            self._writes[key] = self._writes.get(key, 0) | 1 << sender

    def recorded(self, replica: int, record: Record) -> None:
        """A replica wants a record persisted: nothing below an installed regency is promised any more."""
        if record.kind == REGENCY:
            promise = parse_regency(b"".join(record.parts))
            known = self._recorded.get(replica)
            # The same promise is written again before the log's beginning goes.
            if known is not None and promise.regency <= known.regency and promise != known:
                self._contradiction(replica, f"installs regency {promise.regency} after {known.regency}")
            self._recorded[replica] = promise
        elif record.kind in (VALUE, ACCEPT):
            body = b"".join(record.parts)
            voted = (parse_value(body) if record.kind == VALUE else parse_accept(body)).regency
            known = self._recorded.get(replica)
            if known is not None and voted < known.regency:
                self._contradiction(replica, f"votes in regency {voted} after it installed {known.regency}")

    def restarted(self, replica: int, records: list[tuple[int, int, bytes]]) -> None:
        """A replica took up its log: a regency that it installed and told nobody about may be gone."""
        installed = [parse_regency(body) for kind, _, body in records if kind == REGENCY]
        self._recorded.pop(replica, None)
        if installed:
            self._recorded[replica] = installed[-1]

    def forget_promises(self, replica: int) -> None:
        """The replica has lost its votes, and votes with another key: what it promised, it may have forgotten.

        Not what it voted: it votes in no instance again in which it may have voted before.
        """
        self._recorded.pop(replica, None)
        self.regency[replica] = 0
        for key in [key for key in self._said if key[:2] == (replica, Sync)]:
            del self._said[key]

    def sent(self, replica: int, message: Message) -> None:
        """A replica lets a message out."""
        if isinstance(message, Write):
            if self._once(replica, Write, message.instance, message.regency, message.digest):
                self._check_regency(replica, message)
                self._written.setdefault((replica, message.instance), {})[message.digest] = message.regency
            self.received(replica, replica, message)
        elif isinstance(message, Accept):
            if self._once(replica, Accept, message.instance, message.regency, message.digest):
                self._check_regency(replica, message)
                self._check_writes(replica, message)
                self._accepted[replica, message.instance] = message.regency
        elif isinstance(message, Propose):
            self._once(replica, Propose, message.instance, message.regency, message.value)
        elif isinstance(message, StopData) and message.signer == replica:
            if self._once(replica, StopData, message.instance, message.regency, stop_data_statement(message)):
                self._check_collect(replica, message)
            self.regency[replica] = max(self.regency.get(replica, 0), message.regency)
        elif isinstance(message, Sync) and self._view.leader(message.regency) == replica:
            self._once(replica, Sync, 0, message.regency, sync_statement(message))

    def _contradiction(self, replica: int, what: str) -> None:
        raise PropertyViolation("no contradiction", f"replica {replica} {what}", replicas=(replica,))

    def _once(self, replica: int, kind: type, instance: int, regency: int, content: bytes) -> bool:
        """Remember what was said; True the first time."""
        key = (replica, kind, instance, regency)
        known = self._said.get(key)
        if known is None:
            self._said[key] = content
            return True
        if known is not content and known != content:
            self._contradiction(
                replica, f"sent two different {kind.__name__} messages in instance {instance}, regency {regency}"
            )
        return False

    def _check_regency(self, replica: int, message: Write | Accept) -> None:
        """A first vote in a regency that the replica has promised to leave alone."""
        if message.regency < self.regency.get(replica, 0):
            self._contradiction(
                replica,
                f"sent {type(message).__name__} in regency {message.regency} of instance {message.instance}, after "
                f"STOPDATA for regency {self.regency[replica]}",
            )

    def _check_collect(self, replica: int, message: StopData) -> None:
        """The collect of a correct replica holds all votes that it let out in that instance."""
        newest = self._accepted.get((replica, message.instance), -1)
        told = message.accepted.regency if message.accepted is not None else -1
        written = {entry.digest: entry.regency for entry in message.write_set}
        missing = [
            digest
            for digest, regency in self._written.get((replica, message.instance), {}).items()
            if written.get(digest, -1) < regency >= told  # what it wrote before it accepted that certifies nothing
        ]
        if told < newest or (missing and len(written) < MAX_WRITE_SET_ENTRIES):
            self._contradiction(
                replica, f"hides votes of instance {message.instance} in its STOPDATA for regency {message.regency}"
            )

    def _check_writes(self, replica: int, message: Accept) -> None:
        senders = self._writes.get((replica, message.instance, message.regency, message.digest), 0)
        if senders.bit_count() < self._quorum:
            raise PropertyViolation(
                "write quorum",
                f"replica {replica} accepted in instance {message.instance} with {senders.bit_count()} WRITEs; "
                f"{self._quorum} are needed",
                replicas=(replica,),
                instance=message.instance,
            )


class Durability:
    """5, 7 and persist-before-speak: what a replica says or acknowledges is in its log first, and never leaves it; its
    regency never goes back.

    Args:
        view: the members.
        domains: for value digests.
        check_votes: whether votes are recorded before they leave (the durable modes with vote records).
        holders: on how many logs an acknowledged request lies at least (0: the mode has no log).
    """

    __slots__ = (
        "_check_votes",
        "_domains",
        "_forgotten",
        "_holders",
        "_regency",
        "_view",
        "_votes",
        "_wiped",
        "decided",
    )

    def __init__(self, view: View, domains: Domains, *, check_votes: bool, holders: int) -> None:
        n = len(view.ids)
        self._view = view
        self._domains = domains
        self._check_votes = check_votes
        self._holders = holders
        self._votes: list[dict[tuple[type, int, int], bytes]] = [{} for _ in range(n)]
        self._wiped = [False] * n  # counts towards `f`: what it said it had, it may have lost
        self._forgotten: list[dict[tuple[type, int, int], bytes]] = [{} for _ in range(n)]  # may still be repeated
        self._regency = [0] * n  # the highest installed regency in the log for good
        self.decided = [0] * n  # last instance whose decision is in the log for good

    def stored(self, replica: int, record: Record) -> None:
        """A record has reached the level of the mode in the replica's log."""
        if record.kind == DECISION:
            self.decided[replica] = max(self.decided[replica], record.instance)
        elif self._check_votes:
            # Without the requests, which may be long and say nothing about votes.
            self._store_vote(replica, record.kind, record.instance, b"".join(record.parts[:2]))

    def _store_vote(self, replica: int, kind: int, instance: int, body: bytes) -> None:
        votes = self._votes[replica]
        if kind == VALUE:
            vote = parse_value(body)
            if vote.proposed:
                votes[Propose, instance, vote.regency] = vote.value
            if vote.written:
                votes[Write, instance, vote.regency] = self._domains.value_digest(vote.value)
        elif kind == ACCEPT:
            accept = parse_accept(body)
            votes[Accept, instance, accept.regency] = accept.digest
        elif kind == REGENCY:
            stop_data = parse_regency(body)
            votes[StopData, stop_data.instance, stop_data.regency] = stop_data_statement(stop_data)
            self._regency[replica] = max(self._regency[replica], stop_data.regency)
        elif kind == SYNC:
            sync = parse_sync(body)
            votes[Sync, 0, sync.regency] = sync_statement(sync)

    def forgotten(self, replica: int, before: int) -> None:
        """The replica may drop what its log holds of earlier instances; its regency, and how that began, stay."""
        votes = self._votes[replica]
        for key in [key for key in votes if key[1] < before and self._may_go(replica, key)]:
            self._forgotten[replica][key] = votes.pop(key)

    def _may_go(self, replica: int, key: tuple[type, int, int]) -> bool:
        return key[0] not in (StopData, Sync) or key[2] < self._regency[replica]

    def installed(self, replica: int, instance: int) -> None:
        """A snapshot that stands for all decisions up to this instance is on the replica's disk."""
        self.decided[replica] = max(self.decided[replica], instance)

    def wiped(self, replica: int) -> None:
        """The replica's disk is empty."""
        self.decided[replica] = self._regency[replica] = 0
        self._wiped[replica] = True
        self._votes[replica].clear()
        self._forgotten[replica].clear()

    def restarted(self, replica: int, records: list[tuple[int, int, bytes]], base: int) -> None:
        """A replica took up its log and a snapshot after instance `base`: nothing that was stored may be missing."""
        last = max((instance for kind, instance, _ in records if kind == DECISION), default=0)
        last = max(last, base)
        if last < self.decided[replica]:
            raise PropertyViolation(
                "durability",
                f"replica {replica} restarted with {last} decisions, but had {self.decided[replica]} stored",
                replicas=(replica,),
            )
        self.decided[replica] = last
        self._forgotten[replica].clear()
        if self._check_votes:
            before, self._votes[replica] = self._votes[replica], {}
            for kind, instance, body in records:
                self._store_vote(replica, kind, instance, body)
            for key, content in before.items():
                if self._votes[replica].get(key) != content:
                    raise PropertyViolation(
                        "durability", f"replica {replica} lost a stored {key[0].__name__} vote", replicas=(replica,)
                    )

    def sent(self, replica: int, message: Message) -> None:
        """A replica lets a message out: if it binds, it must be stored."""
        if not self._check_votes:
            return
        if isinstance(message, (Standing, Decision, SnapshotManifest, StopData)) and message.proof is not None:
            self._check_own_vote(replica, message.proof)
        if type(message) is Progress and message.regency < self._regency[replica]:
            raise PropertyViolation(
                "regency goes on",
                f"replica {replica} speaks in regency {message.regency}, but has installed {self._regency[replica]}",
                replicas=(replica,),
            )
        instance = 0
        if type(message) is Write or type(message) is Accept:
            content, instance = message.digest, message.instance
        elif type(message) is Propose:
            content, instance = message.value, message.instance
        elif type(message) is StopData:
            content, instance = stop_data_statement(message), message.instance
        elif type(message) is Sync and self._view.leader(message.regency) == replica and not self._wiped[replica]:
            content = sync_statement(message)  # one that was wiped may pass on what it had said before, as anybody does
        else:
            return
        key = (type(message), instance, message.regency)
        if content not in (self._votes[replica].get(key), self._forgotten[replica].get(key)):
            raise PropertyViolation(
                "persist before speak",
                f"replica {replica} sent {type(message).__name__} for instance {instance}, regency {message.regency}, "
                "before it was stored",
                replicas=(replica,),
                instance=instance,
            )

    def _check_own_vote(self, replica: int, proof: Proof) -> None:
        """A proof may hold the replica's own ACCEPT: it leaves with it. (What a replica that was wiped shows, it has
        from others.)
        """
        own = any(signer == replica for signer, _ in proof.signatures)
        if not own or self._wiped[replica] or proof.instance <= self.decided[replica]:
            return
        if self._votes[replica].get((Accept, proof.instance, proof.regency)) != proof.digest:
            raise PropertyViolation(
                "persist before speak",
                f"replica {replica} shows a proof of instance {proof.instance} with its ACCEPT in regency "
                f"{proof.regency}, before that was stored",
                replicas=(replica,),
            )

    def replied(self, replica: int, instance: int) -> None:
        """A replica lets replies of an instance out."""
        if self._holders and self.decided[replica] < instance:
            raise PropertyViolation(
                "durability",
                f"replica {replica} replied for instance {instance} before its decision was stored",
                replicas=(replica,),
                instance=instance,
            )

    def acknowledged(self, instance: int, digest: bytes, replicas: int) -> None:
        """A client accepted a result from the replicas in the mask."""
        stored = [decided >= instance for decided in self.decided]
        holders = sum(1 for known, wiped in zip(stored, self._wiped, strict=True) if known or wiped)
        if holders < self._holders:
            raise PropertyViolation(
                "durability",
                f"request {digest.hex()[:16]} was acknowledged by {replicas:#b} but only {holders} replicas stored "
                f"instance {instance}",
                instance=instance,
            )
