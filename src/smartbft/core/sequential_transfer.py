"""Collaborative state transfer for sequential checkpoints (Dura-SMaRt; protocols.md 2.4).

Only one member has the snapshot of an instance, so nobody else vouches for it at first: it is fetched from that member
and rehearsed (`smartbft.core.rehearsal`) along decisions from several others, up to their checkpoints. The rehearsed
state at the last match is what is installed. From the moment a rehearsal begins the application's state is void, so
until something is installed the replica takes part in nothing, and its own executions are held; what it has on disk
stays as it was.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from smartbft._fastpath.pool import RequestPool
from smartbft.core.checkpoints import Mark, Trusted
from smartbft.core.divergence import TOOL, Divergence
from smartbft.core.effects import AbandonRehearsal, FinishTransfer, KeepSnapshot, ReportFault
from smartbft.core.inputs import (
    BatchRehearsed,
    Input,
    RehearsalFailed,
    SnapshotKept,
    SnapshotLoaded,
    SnapshotRehearsed,
)
from smartbft.core.naming import name_members
from smartbft.core.rehearsal import Rehearsal
from smartbft.core.state_transfer import StateTransfer
from smartbft.errors import RemoteProtocolError, invariant
from smartbft.limits import (
    REHEARSAL_BYTES_PER_SECOND,
    REHEARSAL_PATIENCE_DOUBLINGS,
    REHEARSAL_SIZE_FACTOR,
    REHEARSAL_SIZE_SLACK_BYTES,
    REHEARSAL_STEP_SECONDS,
    SNAPSHOTS_KEPT,
    TRANSFER_PATIENCE_RESENDS,
)
from smartbft.messages import Checkpoint, Decision, SnapshotManifest
from smartbft.snapshots import FoundSnapshots, Manifest, Snapshot

if TYPE_CHECKING:
    from smartbft.core.replica import Replica


class SequentialTransfer(StateTransfer):
    """State transfer by rehearsal.

    Args:
        replica, sources: as for `StateTransfer`.
        make_pool: makes an empty request pool with the chain's limits, for the sessions of a rehearsal.
    """

    def __init__(self, replica: Replica, sources: int, make_pool: Callable[[], RequestPool]) -> None:
        super().__init__(replica, sources)
        self._make_pool = make_pool
        self._loaded: SnapshotLoaded | None = None  # waits until the application has executed what is decided
        self._rehearsal: Rehearsal | None = None
        self._number = 0
        self._seen = (0, 0)  # the steps of the rehearsal at the last look, and for how many looks
        self._hanging = (0, 0)  # likewise while the application has something to do
        self._spoiled: dict[int, str] = {}  # whose snapshots came to nothing here, and why
        self._differing: dict[int, int] = {}  # whose did not become the state of others, and the instance of each
        self._tries: dict[int, int] = {}  # of each member, without success
        self._waited = 0  # resend intervals since the choice fell on the snapshot
        self._undecided = False  # whether a rehearsal came to nothing for want of matching CHECKPOINTs
        self._void = False  # whether the application's state is that of a rehearsal

    def waiting_for(self) -> str:
        """As `StateTransfer.waiting_for`."""
        waiting = self._rehearsal.waiting_for() if self._rehearsal is not None else super().waiting_for()
        return f"{waiting}; {self._fault()}" if waiting and self._is_at_fault() else waiting

    def recovered(self, found: FoundSnapshots) -> None:
        """As `StateTransfer.recovered`; what has ended the process more than once is not the first choice."""
        super().recovered(found)
        if found.trial is not None and found.trial[1] > 1:
            self._tries[found.trial[0]] = 1

    # What is not the seeders' fault

    def divergence(self) -> Divergence | None:
        """As `StateTransfer.divergence`."""
        replica = self._replica
        if len(self._differing) <= replica.view.f:
            return None
        states = [(member, bytes([1])) for member in self._differing]
        return Divergence(max(self._differing.values()), replica.id, ((replica.id, b""), *states), replica.view.f)

    def _is_at_fault(self) -> bool:
        """Whether so many members' snapshots came to nothing here that one of them is a correct one's."""
        return len(self._spoiled) > self._replica.view.f

    def _fault(self) -> str:
        *_, reason = self._spoiled.values()
        return (
            f"the snapshots of {name_members(self._spoiled)} came to nothing here, and no more than f replicas lie: "
            f"the application fails here, or is not deterministic (the last one: {reason}); run '{TOOL}'"
        )

    def _note_spoiled(self, seeder: int, reason: str) -> None:
        known = self._is_at_fault()
        self._spoiled[seeder] = reason
        if self._is_at_fault() and not known:
            self._replica.emit(ReportFault(self._fault()))
        if len(self._liars) > self._replica.view.f:
            self._liars.clear()  # one of them is correct: they are tried again, after the others

    def _give_up(self, reason: str) -> None:
        """What the application here makes of a snapshot, or does not make, proves nothing against its seeder."""
        if self._target is None:
            return
        seeder = self._target.signers[0]
        self._failed_with(seeder)
        self._forget_rehearsal(reason)
        self._note_spoiled(seeder, reason)
        self._drop()

    # Which snapshot

    def choose(self) -> None:
        """Choose a snapshot, or go on with the one that is being rehearsed: there may be more to compare it with."""
        if self._rehearsal is not None:
            self._rehearsal.advance()
        elif self._loaded is None and self._is_due():
            super().choose()

    def _is_due(self) -> bool:
        """Whether a snapshot is the only way on: liars must not be able to cost this replica its state by saying so."""
        return self._void or self._replica.catch_up.is_surely_cut_off()

    def _choice(self) -> Trusted | None:
        """The newest snapshot of a member that was tried least, as far as it can be settled now.

        What has begun to arrive comes first; after a rehearsal that settled nothing, so do those with more to be
        compared with: `2f` others always settle it.
        """
        begun = self._partial.manifest.digest if self._partial is not None else b""

        def order(candidate: tuple[int, Mark, int]) -> tuple[int, bool, int, int]:
            member, mark, others = candidate
            weight = min(others, 2 * self._replica.view.f) if self._undecided else 0
            return self._tries.get(member, 0), mark.digest != begun, -weight, -mark.instance

        self._waited = 0
        found = min(self._candidates(), key=order, default=None)
        return Trusted(found[1], (found[0],)) if found is not None else None

    def _candidates(self) -> list[tuple[int, Mark, int]]:
        """Members, their snapshots, and how many others have one of a later instance that can be reached: `f` at least;
        without the one that is being tried.

        What a liar says about instances that no correct replica has decided counts for nothing.
        """
        replica, reach = self._replica, self._replica.catch_up.reached()
        said: dict[int, list[Checkpoint]] = {}
        for member, message in replica.checkpoints.claims():
            if message.instance <= reach and member not in self._liars:
                said.setdefault(member, []).append(message)
        newest = {member: max(one.instance for one in share) for member, share in said.items()}
        largest = self._largest(said)
        found = []
        for member, share in said.items():
            for one in sorted(share, key=lambda one: one.instance)[-SNAPSHOTS_KEPT:]:
                mark = Mark(one.instance, one.size, one.digest)
                others = sum(1 for other, at in newest.items() if other != member and at > one.instance)
                is_tried = self._target is not None and self._target.mark == mark
                if others >= replica.view.f and one.size <= largest and not is_tried:
                    found.append((member, mark, others))
        return found

    def _largest(self, said: dict[int, list[Checkpoint]]) -> int:
        """The largest snapshot worth fetching, by what at least one correct member says of its own."""
        sizes = sorted((max(one.size for one in share) for share in said.values()), reverse=True)
        f = self._replica.view.f
        return REHEARSAL_SIZE_FACTOR * sizes[f] + REHEARSAL_SIZE_SLACK_BYTES if len(sizes) > f else 0

    def _start_over(self) -> None:
        """As `StateTransfer._start_over`; whoever did not answer is tried after the others."""
        if self._target is not None:
            self._failed_with(self._target.signers[0])
        super()._start_over()

    def _failed_with(self, member: int) -> None:
        self._tries[member] = self._tries.get(member, 0) + 1

    # From its seeder, and from nobody else

    def _on_manifest(self, sender: int, message: SnapshotManifest) -> None:
        """As `StateTransfer._on_manifest`; the proof that comes with it is held against the seeder if it is bad."""
        if self._target is not None and sender in self._target.signers:
            super()._on_manifest(sender, message)

    def _wait_for_manifest(self) -> None:
        self._waited += 1
        if self._waited < TRANSFER_PATIENCE_RESENDS:
            self._ask_for_manifest()
        else:
            self._start_over()

    def _lose_patience(self) -> None:
        """As `StateTransfer._lose_patience`; also with one that sends, but hardly anything, if there is another."""
        self._waited += 1
        if self._waited > self._allowed() and self._candidates():
            self._start_over()
            self.choose()
        else:
            super()._lose_patience()

    def _allowed(self, more: int = 0) -> int:
        """Resend intervals for the chunks of a snapshot, and some seconds more: longer each time that its seeder is
        tried.
        """
        if self._target is None:
            return 0
        seconds = self._target.mark.size / REHEARSAL_BYTES_PER_SECOND + more
        tries = min(self._tries.get(self._target.signers[0], 0), REHEARSAL_PATIENCE_DOUBLINGS)
        ticks = int(seconds * 1_000_000 / self._replica.parameters.resend_interval) + TRANSFER_PATIENCE_RESENDS
        return ticks << tries

    # The rehearsal

    def _finish(self) -> None:
        self._replica.emit(FinishTransfer(keep=False))

    def on_event(self, event: Input) -> None:
        """As `StateTransfer.on_event`, and what the application answers in a rehearsal."""
        rehearsal = self._rehearsal
        if isinstance(event, (BatchRehearsed, SnapshotRehearsed, RehearsalFailed)):
            if rehearsal is None or event.rehearsal != rehearsal.number:
                return
            if isinstance(event, BatchRehearsed):
                rehearsal.on_batch(event.results)
            elif isinstance(event, SnapshotRehearsed):
                rehearsal.on_snapshot(event.manifest, event.snapshot)
            elif event.convicts:
                self._refute(event.reason)
            else:
                self._give_up(event.reason)
        elif isinstance(event, SnapshotKept):
            self._on_kept(event)
        else:
            super().on_event(event)

    def on_rehearsed(self, sender: int, decision: Decision) -> None:
        """A decision for the rehearsal; its proof was not checked."""
        if self._rehearsal is not None:
            self._rehearsal.on_decision(sender, decision)

    def _on_loaded(self, event: SnapshotLoaded) -> None:
        """All chunks are here: rehearse the snapshot, if it is still needed."""
        target = self._target
        if target is None or event.manifest.digest != target.mark.digest or self._rehearsal is not None:
            return
        if not self._is_due():
            self.end()
            return
        try:
            self._replica.validator.check_snapshot(event.manifest, event.snapshot)
        except RemoteProtocolError as error:
            self._refute(str(error))
            return
        self.paused = True
        self._loaded = event
        self._begin_rehearsal()

    def _begin_rehearsal(self) -> None:
        """Begin, once the application has executed what is decided: its answers must not be mixed up."""
        replica, event, target = self._replica, self._loaded, self._target
        if event is None or target is None or (replica.executed != replica.decided and not self._void):
            return
        self._loaded = None
        self._void = True
        self._number += 1
        self._seen = self._hanging = (0, 0)
        replica.checkpoints.hold()
        self._rehearsal = Rehearsal(
            replica,
            self._number,
            target.signers[0],
            event.snapshot,
            self._make_pool(),
            trusted=self._on_trusted,
            refuted=self._refute,
        )
        replica.validator.rehearses = self._rehearsal.log.wants
        self._rehearsal.begin()

    def _on_trusted(self, manifest: Manifest, snapshot: Snapshot) -> None:
        self._replica.emit(KeepSnapshot(manifest, snapshot))

    def _on_kept(self, event: SnapshotKept) -> None:
        """The rehearsed state is on disk: from here on everything is as after any transfer."""
        rehearsal = self._rehearsal
        invariant(rehearsal is not None, "a snapshot was kept that nobody has rehearsed")
        if rehearsal is not None and event.manifest.instance <= self._replica.decided:
            rehearsal.go_on()
            return
        self.end()
        self.installed = event.manifest.instance
        self._replica.install(event.manifest, event.snapshot)

    def end(self) -> None:
        """As `StateTransfer.end`."""
        super().end()
        self._forget_rehearsal()
        self._tries.clear()
        self._spoiled.clear()
        self._differing.clear()
        self._undecided = self._void = self.paused = False

    def _forget_rehearsal(self, reason: str = "") -> None:
        rehearsal, self._rehearsal, self._loaded = self._rehearsal, None, None
        if rehearsal is not None:
            self._replica.emit(AbandonRehearsal(rehearsal.number, rehearsal.seeder, reason))
        self._replica.validator.rehearses = None

    def _refute(self, reason: str) -> None:
        """The snapshot is wrong, so its seeder lies."""
        if self._target is None:
            return
        seeder, instance = self._target.signers[0], self._target.mark.instance
        if self._rehearsal is not None and self._rehearsal.differs:
            self._differing[seeder] = instance
        self._liars[seeder] = None
        self._failed_with(seeder)
        if not self._is_at_fault():
            self._replica.penalise(
                seeder, f"the snapshot of instance {instance} that it vouches for is wrong: {reason}"
            )
        self._note_spoiled(seeder, reason)
        self._drop()

    def _lost(self) -> None:
        """What had arrived is damaged on disk, or was no snapshot: who knows which."""
        if self._target is not None:
            self._failed_with(self._target.signers[0])
        super()._lost()

    def _drop(self) -> None:
        """Look for another snapshot."""
        self._forget_rehearsal()
        self._partial = self._target = self._manifest = None
        self._asked.clear()
        self._ask_around()
        self.choose()

    # Time

    def on_timer(self) -> None:
        """As `StateTransfer.on_timer`, and look after the rehearsal."""
        if self._rehearsal is not None:
            self._look_after(self._rehearsal)
        else:
            self._begin_rehearsal()
        super().on_timer()

    def _look_after(self, rehearsal: Rehearsal) -> None:
        """Without anything new for a while another snapshot may be the better choice; if there is none, wait."""
        rehearsal.log.on_timer()
        rehearsal.advance()
        steps, looks = self._seen
        quiet = rehearsal.steps == steps and not rehearsal.is_busy()
        self._seen = (rehearsal.steps, looks + 1 if quiet else 0)
        if self._hangs(rehearsal):
            self._give_up(f"the application has not come to an end with it at instance {rehearsal.instance + 1}")
            return
        if self._seen[1] < TRANSFER_PATIENCE_RESENDS:
            return
        self._ask_around()
        if self._candidates():
            self._failed_with(rehearsal.seeder)
            self._undecided = True
            self._drop()

    def _hangs(self, rehearsal: Rehearsal) -> bool:
        """Whether the application takes longer for a step than any state of that size should need."""
        steps, looks = self._hanging
        waits = rehearsal.waits_for_application() and rehearsal.steps == steps
        self._hanging = (rehearsal.steps, looks + 1 if waits else 0)
        return self._hanging[1] > self._allowed(REHEARSAL_STEP_SECONDS)

    def _is_over(self) -> bool:
        """Whether others' logs reach us after all, and our own state is still there."""
        return not self.paused and not self._replica.catch_up.is_cut_off()
