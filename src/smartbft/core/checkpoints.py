"""Checkpoints (protocols.md 2.4): snapshots at agreed instances, what the members say about theirs, and what may then
be forgotten.

The application is captured between two batches: what is decided after a checkpoint's instance waits for the capture,
which is short; writing goes on in the background. Digests of one instance are compared: a replica that differs from
`f + 1` others that agree has diverged and stops; where more than `f` others differ from it in any way, correct replicas
have diverged, which is reported (`smartbft.core.divergence`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from msgspec.structs import replace

from smartbft.core.divergence import TOOL, Divergence, compare
from smartbft.core.effects import Execute, ForgetDecisions, ReportDivergence, ServeSnapshot, TakeSnapshot
from smartbft.core.inputs import SnapshotTaken
from smartbft.core.naming import name_members
from smartbft.errors import StateDiverged
from smartbft.limits import (
    CHECKPOINTS_PER_MEETING,
    CHECKPOINTS_PER_MEMBER,
    DIGEST_BYTES,
    FETCHING_RESENDS,
    MOST_SNAPSHOTS_KEPT,
    SNAPSHOTS_KEPT,
)
from smartbft.messages import (
    Checkpoint,
    FetchCheckpoints,
    FetchChunk,
    FetchManifest,
    Proof,
    SnapshotChunk,
    SnapshotManifest,
    encode_proof,
)
from smartbft.quorum import weak_quorum
from smartbft.snapshots import chunk_count, chunk_length

if TYPE_CHECKING:
    from smartbft.core.replica import Replica


_UNTIL_INSTALLED = -1  # a barrier that no instance lifts


@dataclass(frozen=True, slots=True)
class Mark:
    """A snapshot, by what a CHECKPOINT says about it."""

    instance: int
    size: int
    digest: bytes


@dataclass(frozen=True, slots=True)
class Trusted:
    """A snapshot that `f + 1` other members vouch for: at least one of them is correct."""

    mark: Mark
    signers: tuple[int, ...]


class Checkpoints:
    """The checkpoints of one replica, and those it has heard of.

    Attributes:
        first: the first instance whose decision the log can still serve.
        taken: the durable snapshots here, oldest first: the newest two, and older ones that somebody is fetching.
    """

    def __init__(self, replica: Replica) -> None:
        self.first = 1
        self.taken: list[Mark] = []
        self._replica = replica
        self._heard: dict[int, dict[int, Checkpoint]] = {id: {} for id in replica.view.ids}
        self._barrier = 0  # an instance whose execution later ones wait for; 0: none
        self._held: deque[Execute] = deque()
        self._writing = False
        self._fetching: dict[int, tuple[int, int]] = {}  # peer -> the snapshot it fetches, and when it asked last
        self._kept: tuple[int, ...] = ()  # instances of older snapshots that stay beside the one being written
        self._forgetting: tuple[int, int] | None = None  # a token, and the instance that may be forgotten with it
        self._reported: dict[int, Divergence] = {}  # by instance: what was reported last

    @property
    def newest(self) -> int:
        """The instance of the newest durable snapshot here; 0: none."""
        return self.taken[-1].instance if self.taken else 0

    # Execution

    def execute(self, batch: Execute) -> None:
        """Hand a batch to the application, after the capture that is due."""
        if self._barrier:
            self._held.append(batch)
            return
        self._replica.emit(batch)
        if self._replica.schedule.is_due(self._replica.id, batch.instance):
            self._barrier = batch.instance

    def hold(self) -> None:
        """The application's state is void: what is decided waits until a snapshot is installed."""
        self._barrier = _UNTIL_INSTALLED

    def executed(self, instance: int, agreed_time: int, proof: Proof) -> None:
        """The sessions and the application are as of `instance`: take the checkpoint if it is due.

        One that is due while the last one is still being written is left out: snapshots must not pile up in memory.
        """
        if instance != self._barrier:
            return
        if not self._writing and self._is_wanted(instance):
            self._writing = True
            self._take(instance, agreed_time, proof)
        self._barrier = 0
        held, self._held = self._held, deque()
        for batch in held:
            self.execute(batch)

    def _is_wanted(self, instance: int) -> bool:
        """Whether it is time for another checkpoint: only when `Q` members have the last one, so that a replica whose
        disk is quick does not run ahead of those that it needs.

        Those that have missed each other meet: where nobody waits who has waited for long. But not once correct
        replicas have diverged: more snapshots would only push out the last one that a quorum has agreed on.
        """
        schedule = self._replica.schedule
        if schedule.sequential or not self.taken or self._is_stable(self.taken[-1]):
            return True
        if (found := self.divergence()) is not None and found.certain:
            return False
        between = CHECKPOINTS_PER_MEETING * schedule.interval
        return instance % between == 0 and instance - self.newest >= between // 2

    def _take(self, instance: int, agreed_time: int, proof: Proof) -> None:
        replica = self._replica
        self._kept = self._fetched(instance)
        replica.emit(
            TakeSnapshot(
                view=replica.view.number,
                instance=instance,
                agreed_time=agreed_time,
                value_digest=proof.digest,
                core=replica.section(instance),
                sessions=replica.pool.capture_sessions(instance),
                proof=encode_proof(proof),
                keep=self._kept,
            )
        )

    def _fetched(self, instance: int) -> tuple[int, ...]:
        """The instances of the snapshots that peers are fetching now, as far as they are not too old at `instance`."""
        replica = self._replica
        patience = FETCHING_RESENDS * replica.parameters.resend_interval
        fetched = {wanted for wanted, asked in self._fetching.values() if replica.now - asked <= patience}
        oldest = instance - MOST_SNAPSHOTS_KEPT * replica.parameters.checkpoint_interval
        return tuple(mark.instance for mark in self.taken if mark.instance in fetched and mark.instance > oldest)

    # Our own

    def recovered(self, marks: list[Mark], first: int) -> None:
        """The snapshots found on disk, oldest first, and the first instance whose decision the log has."""
        self.first = first
        for mark in marks:
            self._add(mark)

    def on_taken(self, event: SnapshotTaken) -> None:
        """A snapshot is durable: say so, signed."""
        self._writing = False
        mark = Mark(event.instance, event.size, event.digest)
        self._add(mark, self._kept)
        if not self._replica.guard.suspended:
            self._replica.broadcast(self._statement(mark))
        self._advance()

    def on_skipped(self) -> None:
        """There was no room for a snapshot: go on without it."""
        self._writing = False

    def installed(self, mark: Mark) -> None:
        """The state is that of a snapshot that was transferred: what waited for the application is void."""
        self._barrier = 0
        self._held.clear()
        self._add(mark)
        self.first = mark.instance + 1

    def _add(self, mark: Mark, keep: tuple[int, ...] = ()) -> None:
        known = [taken for taken in self.taken if taken.instance != mark.instance]
        found = sorted([*known, mark], key=lambda taken: taken.instance)
        self.taken = [taken for taken in found[:-SNAPSHOTS_KEPT] if taken.instance in keep] + found[-SNAPSHOTS_KEPT:]
        if self._is_ours_to_say(mark):
            self._hear(self._replica.id, self._statement(mark))
        self._compare(mark.instance)

    def _is_ours_to_say(self, mark: Mark) -> bool:
        """Whether the others are told of it: with sequential checkpoints not of a transferred one, whose instance is
        another member's, nor of one whose next decisions are not in our log.
        """
        schedule = self._replica.schedule
        if not schedule.sequential:
            return True
        return schedule.is_due(self._replica.id, mark.instance) and mark.instance + 1 >= self.first

    def _statement(self, mark: Mark) -> Checkpoint:
        replica = self._replica
        view = replica.view.number
        known = self._heard[replica.id].get(mark.instance)
        if known is not None and known.digest == mark.digest:
            return replace(known, regency=replica.regency)
        payload = replica.domains.checkpoint_payload(view, mark.instance, mark.size, mark.digest)
        signature = replica.signer.sign(payload)
        return Checkpoint(view, replica.regency, mark.instance, mark.size, mark.digest, signature)

    def resend(self, to: int) -> None:
        """Tell a peer which snapshots are here."""
        if not self._replica.guard.suspended:
            for mark in self.taken:
                if self._is_ours_to_say(mark):
                    self._replica.send(to, self._statement(mark))

    def answer(self, to: int) -> None:
        """A peer asks which snapshots are here."""
        if self._replica.rates.may(to, Checkpoint):
            self._replica.rates.charge(to, Checkpoint)
            self.resend(to)

    def insist(self) -> None:
        """While the newest checkpoint lacks the word of others: repeat ours, and ask for theirs."""
        if not self.taken or self._is_settled(self.taken[-1]):
            return
        replica = self._replica
        if not replica.guard.suspended and self._is_ours_to_say(self.taken[-1]):
            replica.broadcast(self._statement(self.taken[-1]))
        replica.broadcast(FetchCheckpoints(replica.view.number, replica.regency))

    # The others'

    def on_checkpoint(self, sender: int, message: Checkpoint) -> None:
        """A member has a snapshot. Its last word counts: one that has lost its state, and has it from others, says of
        the same instance something else than before.
        """
        self._hear(sender, message)
        self._compare(message.instance)
        self._advance()

    def _hear(self, member: int, message: Checkpoint) -> None:
        share = self._heard[member]
        share[message.instance] = message
        while len(share) > CHECKPOINTS_PER_MEMBER:
            del share[min(share)]

    def _signers(self, mark: Mark) -> list[int]:
        signers = []
        for member, share in self._heard.items():
            said = share.get(mark.instance)
            if said is not None and (said.size, said.digest) == (mark.size, mark.digest):
                signers.append(member)
        return signers

    def _compare(self, instance: int) -> None:
        """Raises StateDiverged: `f + 1` others, one of them correct, have another state after the same instance."""
        ours = next((mark for mark in self.taken if mark.instance == instance), None)
        if ours is None:
            return
        for trusted in self.trusted(instance - 1):
            if trusted.mark.instance == instance and trusted.mark != ours:
                theirs = trusted.mark.digest
                raise StateDiverged(
                    f"the state after instance {instance} has digest {ours.digest.hex()} here, but {theirs.hex()} at "
                    f"{name_members(trusted.signers)}: this replica has diverged: the application is not "
                    f"deterministic, or not the same here, or memory or disk is damaged; run '{TOOL}'",
                    instance,
                    ours.digest,
                    theirs,
                )
        self._report(ours)

    # Those that differ

    def divergence(self) -> Divergence | None:
        """The members that differ since the last state that a quorum has agreed on: for certain, or perhaps."""
        suspected: Divergence | None = None
        for mark in reversed(self.taken):
            found = self._differing(mark)
            if found is not None and found.certain:
                return found
            suspected = suspected or found
            if self._is_stable(mark):
                break
        return suspected

    def waiting_for(self) -> str:
        """That the replicas cannot agree on a state any more, in words; empty: they can, as far as it is known here."""
        found = self.divergence()
        return f"agreement on a checkpoint: {found}" if found is not None and found.certain else ""

    def _differing(self, ours: Mark) -> Divergence | None:
        replica = self._replica
        at = ours.instance
        others = [(id, said[at].digest) for id, said in self._heard.items() if id != replica.id and at in said]
        return compare(at, replica.id, [(replica.id, ours.digest), *others], replica.view.f)

    def _report(self, ours: Mark) -> None:
        """Say that members differ: once that it may be so, for each of them, and once that it is certain."""
        found = self._differing(ours)
        if found is None:
            return
        before = self._reported.get(ours.instance)
        known = before.differing if before is not None else ()
        if before is not None and (before.certain or set(found.differing) <= set(known)):
            return
        kept = [mark.instance for mark in self.taken]
        self._reported = {at: reported for at, reported in self._reported.items() if at in kept}
        self._reported[ours.instance] = found
        self._replica.emit(ReportDivergence(found))

    def trusted(self, after: int) -> list[Trusted]:
        """Snapshots of instances later than `after` that `f + 1` other members vouch for, newest first."""
        replica = self._replica
        marks = {
            Mark(said.instance, said.size, said.digest): None
            for member, share in self._heard.items()
            for said in share.values()
            if member != replica.id and said.instance > after
        }
        found = [
            Trusted(mark, tuple(signer for signer in self._signers(mark) if signer != replica.id)) for mark in marks
        ]
        found.sort(key=lambda trusted: (-trusted.mark.instance, trusted.mark.digest))
        return [trusted for trusted in found if len(trusted.signers) >= weak_quorum(replica.view.n)]

    def claims(self) -> list[tuple[int, Checkpoint]]:
        """What other members say about their snapshots: the newest few of each."""
        own = self._replica.id
        return [(member, said) for member, share in self._heard.items() if member != own for said in share.values()]

    def holders(self, mark: Mark) -> list[int]:
        """Other members that have this snapshot now, as far as we know: everybody keeps the newest two, and one that is
        being fetched.
        """
        return [
            signer
            for signer in self._signers(mark)
            if signer != self._replica.id and mark.instance in sorted(self._heard[signer])[-SNAPSHOTS_KEPT:]
        ]

    # What may be forgotten

    def _is_stable(self, mark: Mark) -> bool:
        """Whether `Q` members have it."""
        return len(self._signers(mark)) >= self._replica.view.quorum

    def _is_held_since(self, instance: int) -> bool:
        """Whether `Q` members, this one included, have a snapshot of this instance or of a later one."""
        own = self._replica.id
        held = sum(1 for member, share in self._heard.items() if member != own and max(share, default=-1) >= instance)
        return held + (self.newest >= instance) >= self._replica.view.quorum

    def _is_settled(self, mark: Mark) -> bool:
        """Whether enough others have said theirs: for the same instance, or in the same round."""
        schedule = self._replica.schedule
        return self._is_held_since(mark.instance - schedule.interval) if schedule.sequential else self._is_stable(mark)

    def _may_forget(self) -> bool:
        """Whether the log before the oldest snapshot that is kept has served: `Q` members can do without it.

        With sequential checkpoints whoever takes the snapshot of one member needs the decisions after it, and finds
        them there: each keeps those after its own oldest.
        """
        if len(self.taken) < SNAPSHOTS_KEPT:
            return False
        if self._replica.schedule.sequential:
            return self._is_held_since(self.taken[0].instance)
        return self._is_stable(self.taken[-1])

    def _advance(self) -> None:
        """With the newest snapshot stable, the log before the oldest that is kept has served.

        What binds beyond its instance (the installed regency) is written again first.
        """
        if self._forgetting is not None or not self._may_forget():
            return
        previous = self.taken[0].instance
        if previous < self.first:
            return
        records = self._replica.ordering.standing_records()
        token = self._replica.persist(records) if records else 0
        self._forgetting = (token, previous)
        self.on_persisted()

    def on_persisted(self) -> None:
        """The standing records are durable: now the old ones may go."""
        if self._forgetting is None or self._forgetting[0] > self._replica.durable:
            return
        instance, self._forgetting = self._forgetting[1], None
        self.first = max(self.first, instance + 1)
        self._replica.emit(ForgetDecisions(instance + 1))

    # Serving

    def on_fetch(self, sender: int, message: FetchManifest | FetchChunk) -> None:
        """A peer asks for a part of a snapshot; if that is gone, it hears which ones there are."""
        wanted = (message.instance, message.digest)
        mark = next((mark for mark in self.taken if (mark.instance, mark.digest) == wanted), None)
        if mark is None:
            self.answer(sender)
            return
        self._fetching[sender] = (message.instance, self._replica.now)
        if isinstance(message, FetchChunk):
            self._serve(sender, mark, SnapshotChunk, message.index, chunk_length(mark.size, message.index))
        else:
            self._serve(sender, mark, SnapshotManifest, -1, DIGEST_BYTES * chunk_count(mark.size))

    def _serve(self, to: int, mark: Mark, answer: type, chunk: int, size: int) -> None:
        if self._replica.rates.may(to, answer):
            self._replica.rates.charge(to, answer, size)
            self._replica.emit(ServeSnapshot(to, mark.instance, mark.digest, chunk))

    def on_decisions_fetched(self, sender: int) -> None:
        """Whoever rehearses a snapshot of ours goes on to need the decisions after it: they stay as long."""
        wanted, asked = self._fetching.get(sender, (0, 0))
        patience = FETCHING_RESENDS * self._replica.parameters.resend_interval
        if wanted and self._replica.schedule.sequential and self._replica.now - asked <= patience:
            self._fetching[sender] = (wanted, self._replica.now)
