"""The decided prefix and its execution (Algorithm 2, lines 11-17): decisions go to the application in order, replies
leave when the decision is durable, and a snapshot may stand for the beginning.
"""

from __future__ import annotations

from collections import deque
from struct import Struct
from typing import TYPE_CHECKING

from smartbft.core.decisions import RecentDecisions
from smartbft.core.effects import Execute, Reply
from smartbft.core.recovery import Decided
from smartbft.errors import POISON_ADVICE, ApplicationFailed, LocalProtocolError, invariant
from smartbft.limits import DIGEST_BYTES, MAX_UNEXECUTED_BYTES, MAX_UNLOGGED_BYTES, UNEXECUTED_BATCH_BYTES
from smartbft.messages import Proof, decode_proof
from smartbft.snapshots import Manifest, Snapshot
from smartbft.types import Value

if TYPE_CHECKING:
    from smartbft.core.replica import Replica


class Delivery:
    """What one replica has decided and executed. Nobody else moves its `decided`, `executed` and `agreed_time`.

    Attributes:
        recent: the last decisions, for peers that lack them.
        last_proof: of the last decision; None before the first one.

    Args:
        replica: whose decisions they are.
        recent: an empty window of decisions.
        level: how durable a reply is, told to clients.
    """

    __slots__ = (
        "_executing",
        "_level",
        "_replica",
        "_sections",
        "_unexecuted",
        "_unlogged",
        "_unlogged_bytes",
        "durable_proof",
        "last_proof",
        "recent",
    )

    def __init__(self, replica: Replica, recent: RecentDecisions, level: int) -> None:
        self.recent = recent
        self.last_proof: Proof | None = None
        self.durable_proof: Proof | None = None
        self._replica = replica
        self._level = level
        self._executing: dict[int, tuple[Decided, Value, int]] = {}  # with the token of the decision's record
        self._unexecuted = 0  # bytes of those that were decided in this life
        # Of decisions that are not durable yet: the tokens of their records, bytes and proofs.
        self._unlogged: deque[tuple[int, int, Proof]] = deque()
        self._unlogged_bytes = 0
        self._sections: dict[int, bytes] = {}  # for the snapshots of instances that are not executed yet

    @property
    def backlog(self) -> int:
        """How many decided batches the application has not executed yet."""
        return len(self._executing)

    @property
    def full(self) -> bool:
        """Whether so much waits for the application, or for the disk, that no more may be decided before it has taken
        some.

        What the log held is in memory anyway: a replica votes again before it has executed that.
        """
        return self._unexecuted >= MAX_UNEXECUTED_BYTES or self._unlogged_bytes >= MAX_UNLOGGED_BYTES

    def decided_value(self, instance: int) -> bytes:
        """The encoded value of a decided instance, or b"" if it is not in memory any more."""
        known = self.recent.get(instance)
        return known[0].value if known is not None else b""

    def deliver(self, decision: Decided, token: int) -> tuple[int, ...]:
        """Lines 11-16: the decided prefix grows, and the batch goes to the application.

        Args:
            decision: of the instance after the last decided one.
            token: tells when its record is durable; 0: it is.

        Returns:
            The members that vote with other keys from the next instance on.

        Raises:
            InvariantViolation: it is of another instance, or the agreed time would go back.
        """
        replica = self._replica
        instance = decision.instance
        invariant(instance == replica.decided + 1, f"instance {instance} decided after {replica.decided}")
        value = Value.decode(decision.value)
        invariant(value.timestamp > replica.agreed_time, f"agreed time went back in instance {instance}")
        replica.guard.decided(instance)
        changed = replica.keys.decided(instance, value.statements)
        if replica.schedule.is_due(replica.id, instance):
            self._sections[instance] = replica.keys.encode()
        replica.pool.decide(value.digests, decision.data, instance, value.timestamp)
        replica.decided = instance
        replica.agreed_time = value.timestamp
        self.recent.add(decision, token)
        self.last_proof = decision.proof
        self._executing[instance] = (decision, value, token)
        weight = _weight(decision, token)
        self._unexecuted += weight
        if token:
            self._unlogged.append((token, weight, decision.proof))
            self._unlogged_bytes += weight
        else:
            self.durable_proof = decision.proof
        seed = replica.domains.seed(instance, decision.proof.digest)
        replica.checkpoints.execute(Execute(instance, value.timestamp, seed, decision.data))
        return changed

    def logged(self, durable: int) -> bool:
        """The log has all records up to this token.

        Returns:
            Whether decisions that had to wait for the disk may go on.
        """
        was_full = self.full
        while self._unlogged and self._unlogged[0][0] <= durable:
            _, weight, proof = self._unlogged.popleft()
            self._unlogged_bytes -= weight
            if self.durable_proof is None or proof.instance > self.durable_proof.instance:
                self.durable_proof = proof  # else a snapshot has overtaken it
        return was_full and not self.full

    def executed(self, instance: int, results: bytes) -> bool:
        """Lines 16-17: replies exist now; they leave when the decision is durable.

        Returns:
            False if the instance is settled: a snapshot was installed while it was being executed.

        Raises:
            InvariantViolation: it is not the instance after the last executed one.
            ApplicationFailed: these are not the results of its requests.
        """
        replica = self._replica
        if instance <= replica.executed and instance not in self._executing:
            return False
        invariant(instance == replica.executed + 1, f"instance {instance} executed after instance {replica.executed}")
        decision, value, token = self._executing.pop(instance)
        self._unexecuted -= _weight(decision, token)
        try:
            replica.pool.executed(
                value.digests, decision.data, results, instance, replica.view.number, value.timestamp, self._level
            )
        except LocalProtocolError as error:
            wrong = what_is_wrong(results, len(value.digests) // DIGEST_BYTES)
            if not wrong:
                raise
            raise ApplicationFailed(
                f"the application failed at instance {instance}: {wrong}: {POISON_ADVICE}", instance
            ) from error
        replica.executed = instance
        replica.checkpoints.executed(instance, value.timestamp, decision.proof)
        replica.emit(Reply(instance, value.digests, decision.data, token))
        return True

    def section(self, instance: int) -> bytes:
        """What the core keeps from instance to instance beside the sessions, for the snapshot of an executed instance:
        canonical bytes, the same on all replicas. These are the members' consensus keys, as of its decision.
        """
        section = self._sections[instance]
        self._sections = {other: kept for other, kept in self._sections.items() if other > instance}
        return section

    def begin_after(self, snapshot: Snapshot, manifest: Manifest) -> tuple[int, ...]:
        """Everything up to the snapshot's instance is settled. Returns the members that vote with other keys since."""
        replica = self._replica
        self._sections.clear()
        changed = replica.keys.restore(snapshot.core)
        replica.guard.settled(snapshot.instance)
        replica.pool.import_sessions(snapshot.sessions, snapshot.agreed_time, self._level)
        replica.decided = replica.executed = snapshot.instance
        replica.agreed_time = snapshot.agreed_time
        self.last_proof = self.durable_proof = decode_proof(manifest.proof)
        self._executing.clear()
        self._unexecuted = 0
        self.recent.clear()
        return changed


_LENGTH = Struct("<I")


def _weight(decision: Decided, token: int) -> int:
    return UNEXECUTED_BATCH_BYTES + len(decision.value) + len(decision.data) if token else 0


def what_is_wrong(results: bytes, requests: int) -> str:
    """What keeps a result list from being that of so many requests, in words; empty: nothing. (The pool has checked it
    already, and says less: this is for the message.)
    """
    count = at = 0
    while at < len(results):
        (length,) = _LENGTH.unpack_from(results.ljust(at + _LENGTH.size, b"\0"), at)
        at += _LENGTH.size + length
        count += 1
    if at != len(results):
        return "its result list breaks off: an item is 'u32 length | result' (smartbft.join_results makes the list)"
    return f"it returned {count} results for {requests} requests" if count != requests else ""
