"""One rehearsal (protocols.md 2.4): a snapshot for which one member stands alone is installed tentatively, replayed
along the decided values up to the instances of others' checkpoints, and compared there.

It is trusted once the digests of `f` other members, at later instances, are those of the replayed state: `f + 1`
members vouch for it then, one of them correct. If that is one of the `f`, its state is ours at its instance; if only
the seeder is, the start was right, and so were the keys with which what followed was checked. Either way everything
after the last match is right. Where the digests of `f + 1` differ, one of them correct, the seeder has lied. Whoever
differs beside `f` matches may be right: what was wrong at its instance may have been overwritten since.

Nothing here touches the replica's own state: keys, sessions and time are of the rehearsal alone, nothing is persisted,
voted on, replied or served. Only the application is the replica's own, whose state is void meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from smartbft._fastpath.pool import RequestPool
from smartbft.core.effects import BeginRehearsal, Execute, RehearseBatch, RehearseSnapshot, TakeSnapshot
from smartbft.core.member_keys import MemberKeys
from smartbft.core.naming import name_members
from smartbft.core.rehearsal_log import RehearsalLog
from smartbft.errors import RemoteProtocolError, SmartBFTError
from smartbft.messages import Checkpoint, Decision, Proof, encode_proof
from smartbft.snapshots import Manifest, Snapshot
from smartbft.types import Value

if TYPE_CHECKING:
    from smartbft.core.replica import Replica


class Rehearsal:
    """The rehearsal of one snapshot.

    Args:
        replica: who rehearses.
        number: of the rehearsal; what is left of an earlier one has another.
        seeder: whose snapshot it is; its own CHECKPOINTs say nothing about it.
        snapshot: with a proof that holds by the keys that it tells.
        pool: an empty one, for the sessions; nobody else uses it.
        trusted: called with the manifest and the snapshot of the replayed state, which may be installed.
        refuted: called with what is wrong with the snapshot; the rehearsal is over then.

    Attributes:
        instance: how far it has been replayed.
        steps: grows with everything that happens.
        differs: whether the replayed state is not that of `f + 1` others.
        log: the decisions on their way.
    """

    def __init__(
        self,
        replica: Replica,
        number: int,
        seeder: int,
        snapshot: Snapshot,
        pool: RequestPool,
        *,
        trusted: Callable[[Manifest, Snapshot], None],
        refuted: Callable[[str], None],
    ) -> None:
        self.seeder = seeder
        self.number = number
        self.instance = snapshot.instance
        self.steps = 0
        self.differs = False
        self.log = RehearsalLog(replica, snapshot.instance + 1)
        self._replica = replica
        self._snapshot: Snapshot | None = snapshot
        self._pool = pool
        self._keys = MemberKeys(replica.view)
        self._validator = replica.validator.with_keys(self._keys)
        self._agreed_time = snapshot.agreed_time
        self._last: Proof | None = None
        self._executing: tuple[Value, Decision] | None = None
        self._busy = False
        self._keeping = False
        self._captured = snapshot.instance
        self._matched: dict[int, None] = {}
        self._differing: dict[int, None] = {}
        self._trust = trusted
        self._refute = refuted

    def begin(self) -> None:
        """Take up the snapshot."""
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is None:
            return
        try:
            self._keys.restore(snapshot.core)
            self._pool.import_sessions(snapshot.sessions, snapshot.agreed_time)
        except (SmartBFTError, ValueError) as error:
            self._refute(f"it holds no state: {error}")
            return
        self._replica.emit(BeginRehearsal(self.number, snapshot.state, self.seeder))
        self.advance()

    def waiting_for(self) -> str:
        """Where it is, in words."""
        needed = self._replica.view.f
        return (
            f"the rehearsal of replica {self.seeder}'s snapshot, which is at instance {self.instance}: "
            f"{len(self._matched)} of {needed} other replicas' checkpoints match"
        )

    # What the others say

    def _claims(self) -> Iterator[tuple[int, Checkpoint]]:
        """The CHECKPOINTs that it is compared with: not the seeder's, nor of what no correct replica has decided."""
        reach = self._replica.catch_up.reached()
        for member, said in self._replica.checkpoints.claims():
            if member != self.seeder and said.instance <= reach:
                yield member, said

    def _is_trusted(self) -> bool:
        return len(self._matched) >= self._replica.view.f

    def _stop(self) -> int:
        """The next instance at which there is something to compare, or to install; 0: none is known."""
        if self._is_trusted():
            return max(self._replica.decided, self.instance) + 1
        return min((said.instance for _, said in self._claims() if said.instance > self.instance), default=0)

    def _is_at_stop(self) -> bool:
        if self._captured == self.instance:
            return False
        if self._is_trusted():
            return self.instance > self._replica.decided
        return any(said.instance == self.instance for _, said in self._claims())

    # Replaying

    def advance(self) -> None:
        """Go on as far as decisions and CHECKPOINTs are here; never beyond the next that is known, since those that are
        to come may be of instances in between.
        """
        if self._busy:
            return
        if self._is_at_stop():
            self._capture()
            return
        self.log.ask_until(self._stop())
        while self.instance < self._stop() and (found := self.log.peek()) is not None:
            if self._holds(found[1].proof):
                self.log.take()
                self._execute(found[1])
                return
            self.log.refuse()
            if len(self.log.failed) > self._replica.view.f:
                senders = name_members(sorted(self.log.failed))
                self._refute(f"no decision after instance {self.instance}, not even of {senders}, fits its keys")
                return

    def _holds(self, proof: Proof) -> bool:
        try:
            self._validator.check_proof(proof)
        except RemoteProtocolError:
            return False
        return True

    def _execute(self, decision: Decision) -> None:
        """With the right keys this is what was decided: if it does not follow the state, the state is wrong."""
        value = Value.decode(decision.value)
        try:
            self._pool.decide(value.digests, decision.data, decision.instance, value.timestamp)
        except SmartBFTError as error:
            self._refute(f"what was decided in instance {decision.instance} does not follow it: {error}")
            return
        self._keys.decided(decision.instance, value.statements)
        self._agreed_time = value.timestamp
        self._last = decision.proof
        self._executing = value, decision
        self._busy = True
        seed = self._replica.domains.seed(decision.instance, decision.proof.digest)
        batch = Execute(decision.instance, value.timestamp, seed, decision.data)
        self._replica.emit(RehearseBatch(self.number, batch))

    def on_batch(self, results: bytes) -> None:
        """The application has executed the batch."""
        if self._executing is None:
            return
        (value, decision), self._executing = self._executing, None
        view = self._replica.view.number
        try:
            self._pool.executed(
                value.digests, decision.data, results, decision.instance, view, value.timestamp, level=0
            )
        except SmartBFTError as error:
            self._refute(f"instance {decision.instance} cannot be executed on it: {error}")
            return
        self.instance = decision.instance
        self._go_on()

    def _go_on(self) -> None:
        self._busy = False
        self.steps += 1
        self.advance()

    # Comparing

    def _capture(self) -> None:
        if self._last is None:
            return
        self._busy = True
        take = TakeSnapshot(
            view=self._replica.view.number,
            instance=self.instance,
            agreed_time=self._agreed_time,
            value_digest=self._last.digest,
            core=self._keys.encode(),
            sessions=self._pool.capture_sessions(self.instance),
            proof=encode_proof(self._last),
            keep=(),
        )
        self._replica.emit(RehearseSnapshot(self.number, take))

    def on_snapshot(self, manifest: Manifest, snapshot: Snapshot) -> None:
        """The replayed state, to be compared with what others say about theirs after the same instance."""
        self._captured = manifest.instance
        for member, said in self._claims():
            if said.instance == manifest.instance:
                same = (said.size, said.digest) == (manifest.size, manifest.digest)
                (self._matched if same else self._differing)[member] = None
        if len(self._differing) > self._replica.view.f:
            self.differs = True
            self._refute(f"replayed, it does not become the state of {name_members(sorted(self._differing))}")
        elif self._is_trusted() and manifest.instance > self._replica.decided:
            self._keeping = True
            self._trust(manifest, snapshot)
        else:
            self._go_on()

    def go_on(self) -> None:
        """What it was trusted with came too late: the replica has decided more meanwhile."""
        self._keeping = False
        self._go_on()

    def on_decision(self, sender: int, decision: Decision) -> None:
        """A decision that it has asked for."""
        self.log.put(sender, decision)
        self.steps += 1
        self.advance()

    def is_busy(self) -> bool:
        """Whether it waits for the application or the disk, and not for others."""
        return self._busy

    def waits_for_application(self) -> bool:
        """Whether it waits for the application, on a state that may make it hang."""
        return self._busy and not self._keeping
