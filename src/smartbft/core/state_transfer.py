"""State transfer (protocols.md 2.4): a replica that the others' logs do not reach takes a snapshot from its peers.

Trust comes first: only a snapshot that `f + 1` members vouch for is asked for. Its list of chunk hashes is checked
against their digest, every chunk against the list, on arrival and whoever sends it. So the chunks may come from one
peer or from several at once, a liar is known by its first lie, and what has arrived survives a restart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartbft.core.checkpoints import Trusted
from smartbft.core.divergence import Divergence
from smartbft.core.effects import BeginTransfer, FinishTransfer, StoreChunk
from smartbft.core.inputs import Input, SnapshotLoaded, SnapshotLost, SnapshotSkipped, SnapshotTaken, Timer
from smartbft.core.naming import name_members
from smartbft.errors import RemoteProtocolError
from smartbft.limits import TRANSFER_CHUNKS_IN_FLIGHT, TRANSFER_PATIENCE_RESENDS
from smartbft.messages import (
    Checkpoint,
    Decision,
    FetchCheckpoints,
    FetchChunk,
    FetchManifest,
    Gone,
    SnapshotChunk,
    SnapshotManifest,
    encode_proof,
)
from smartbft.snapshots import FoundSnapshots, Manifest, Partial

if TYPE_CHECKING:
    from smartbft.core.replica import Replica

TransferMessage = Checkpoint | FetchCheckpoints | Gone | FetchManifest | SnapshotManifest | FetchChunk | SnapshotChunk
_MISSING, _ASKED, _HERE = range(3)


class StateTransfer:
    """The snapshot on its way here, if there is one.

    Attributes:
        installed: the instance of the last snapshot that took the place of decisions; 0: none in this life.
        paused: whether this replica takes part in nothing meanwhile.

    Args:
        replica: whom it is for.
        sources: from how many peers chunks come at once; 1 is PBFT's way, several are Dura-SMaRt's.
    """

    def __init__(self, replica: Replica, sources: int) -> None:
        self.installed = 0
        self.paused = False
        self._replica = replica
        self._sources = sources
        self._wanted = False
        self._target: Trusted | None = None
        self._manifest: Manifest | None = None
        self._partial: Partial | None = None
        self._chunks = bytearray()  # what is known of each chunk
        self._left = 0
        self._asked: dict[
            int, dict[int, int]
        ] = {}  # peer -> chunks on their way from it, and the tick they were asked at
        self._ticks = 0  # resend intervals of this transfer
        self._quiet: dict[int, int] = {}  # peer -> resend intervals without anything from it
        self._slow: dict[int, None] = {}
        self._liars: dict[int, None] = {}
        self._lists_asked: dict[int, None] = {}  # who was asked for the list of chunks
        self._list_from = -1  # whose list it is
        self._doubted: dict[int, None] = {}  # whose list was followed to no end: its proof may be false
        self._attempts = 0

    # What arrives

    def on_message(self, sender: int, message: TransferMessage) -> None:
        """A verified message about checkpoints or snapshots."""
        replica = self._replica
        if isinstance(message, Checkpoint):
            replica.checkpoints.on_checkpoint(sender, message)
            self.choose()
        elif isinstance(message, FetchCheckpoints):
            replica.checkpoints.answer(sender)
        elif isinstance(message, Gone):
            replica.catch_up.on_gone(sender, message)
        elif isinstance(message, SnapshotManifest):
            self._on_manifest(sender, message)
        elif isinstance(message, SnapshotChunk):
            self._on_chunk(sender, message)
        else:
            replica.checkpoints.on_fetch(sender, message)

    def on_event(self, event: Input) -> None:
        """A snapshot was written, has arrived, or was lost."""
        if isinstance(event, SnapshotTaken):
            self._replica.checkpoints.on_taken(event)
        elif isinstance(event, SnapshotSkipped):
            self._replica.checkpoints.on_skipped()
        elif isinstance(event, SnapshotLoaded):
            self._on_loaded(event)
        elif isinstance(event, SnapshotLost):
            self._lost()

    def _on_loaded(self, event: SnapshotLoaded) -> None:
        """All chunks are here; the keys in the snapshot tell whether the proof that came with the list holds."""
        try:
            self._replica.validator.check_snapshot(event.manifest, event.snapshot)
        except RemoteProtocolError:
            self._lost()
            return
        self.end()
        if event.snapshot.instance > self._replica.decided:
            self.installed = event.snapshot.instance
            self._replica.install(event.manifest, event.snapshot)

    def recovered(self, found: FoundSnapshots) -> None:
        """What had arrived before a restart."""
        self._partial = found.partial

    def divergence(self) -> Divergence | None:
        """That no snapshot of correct replicas can be confirmed by others; None: as far as it is known, some can."""
        return None

    def active(self) -> bool:
        """Whether a snapshot is wanted."""
        return self._wanted

    def waiting_for(self) -> str:
        """What is missing of the snapshot that is wanted, and from whom; empty: none is."""
        if not self._wanted:
            return ""
        if self._target is None:
            return "a snapshot that f + 1 replicas vouch for: the decisions that come next are in no log any more"
        instance = self._target.mark.instance
        if self._manifest is None:
            return f"the list of chunks of the snapshot of instance {instance}, from {name_members(self._seeders())}"
        count = len(self._chunks)
        sources = name_members(self._asked)
        return f"{self._left} of {count} chunks of the snapshot of instance {instance}, from {sources}"

    def begin(self) -> None:
        """The decisions that come next here are in nobody's log any more: find a snapshot."""
        if self._wanted:
            return
        self._wanted = True
        self._ask_around()
        self._replica.set_timer(Timer.TRANSFER, self._replica.parameters.resend_interval)
        self.choose()

    def end(self) -> None:
        """Caught up, one way or the other."""
        self._wanted = False
        self._target = self._manifest = None
        self._asked.clear()
        self._slow.clear()
        self._liars.clear()
        self._doubted.clear()

    def _ask_around(self) -> None:
        self._replica.broadcast(FetchCheckpoints(self._replica.view.number, self._replica.regency))

    # Which snapshot

    def choose(self) -> None:
        """Take the newest snapshot that can be trusted, or the one that has begun to arrive."""
        if not self._wanted or self._target is not None:
            return
        self._target = self._choice()
        if self._target is None:
            return
        self._manifest, self._left = None, 1
        self._list_from = -1
        self._lists_asked.clear()
        self._asked.clear()
        self._quiet.clear()
        self._slow.clear()
        if self._partial is not None and self._partial.manifest.digest == self._target.mark.digest:
            self._take_up(self._partial.manifest, self._partial.chunks)
        else:
            self._ask_for_manifest()

    def _choice(self) -> Trusted | None:
        checkpoints = self._replica.checkpoints
        candidates = [known for known in checkpoints.trusted(self._replica.decided) if checkpoints.holders(known.mark)]
        begun = self._partial.manifest.digest if self._partial is not None else b""
        return next((known for known in candidates if known.mark.digest == begun), next(iter(candidates), None))

    def _seeders(self) -> list[int]:
        """Who has the snapshot and is worth asking: not who was too slow, or lied.

        The others go on meanwhile; they keep a snapshot while it is fetched. One that does not is passed over as slow.
        """
        if self._target is None:
            return []
        holders = {*self._target.signers, *self._replica.checkpoints.holders(self._target.mark)}
        return [holder for holder in sorted(holders) if holder not in self._liars and holder not in self._slow]

    def _ask_for_manifest(self) -> None:
        seeders = self._seeders()
        if self._target is None or not seeders:
            return
        replica, mark = self._replica, self._target.mark
        asked = [seeder for seeder in seeders if seeder not in self._doubted] or seeders
        seeder = asked[self._attempts % len(asked)]
        self._attempts += 1
        self._lists_asked[seeder] = None
        replica.send(seeder, FetchManifest(replica.view.number, replica.regency, mark.instance, mark.digest))

    def _on_manifest(self, sender: int, message: SnapshotManifest) -> None:
        """The list of hashes; validation has compared it with its digest, which `f + 1` members vouch for.

        The proof beside it is known to hold only in the end. So a list counts that was asked for, and the next time
        another member is asked: else one that is always the first with a false proof has all fetched again for ever.
        """
        if self._target is None or self._manifest is not None or sender not in self._lists_asked:
            return
        mark = self._target.mark
        if (message.instance, message.size, message.digest) != (mark.instance, mark.size, mark.digest):
            return
        proof = encode_proof(message.proof)
        manifest = Manifest(message.instance, message.digest, message.size, message.hashes, proof)
        self._list_from = sender
        self._replica.emit(BeginTransfer(manifest))
        self._take_up(manifest, ())

    def _take_up(self, manifest: Manifest, here: tuple[int, ...]) -> None:
        self._partial = None
        self._manifest = manifest
        self._chunks = bytearray(manifest.count)
        for index in here:
            self._chunks[index] = _HERE
        self._left = manifest.count - len(here)
        if self._left:
            self._fill()
        else:
            self._finish()

    def _finish(self) -> None:
        self._replica.emit(FinishTransfer())

    def on_rehearsed(self, sender: int, decision: Decision) -> None:
        """A decision for a rehearsal: here is none."""

    # Chunks

    def _fill(self) -> None:
        """Keep some chunks on their way from each source, each beginning in its own part of the snapshot."""
        seeders = self._seeders()
        sources = sorted(seeders, key=lambda seeder: seeder not in self._asked)[: self._sources]
        share = -(-self._left // max(1, len(sources)))
        for seeder in sources:
            self._ask_seeder(seeder, self._first_of(seeder), min(share, TRANSFER_CHUNKS_IN_FLIGHT))

    def _first_of(self, seeder: int) -> int:
        """Where a seeder's part begins."""
        seeders = self._seeders()
        return seeders.index(seeder) * len(self._chunks) // len(seeders) if self._sources > 1 else 0

    def _ask_seeder(self, seeder: int, start: int, most: int = TRANSFER_CHUNKS_IN_FLIGHT) -> None:
        asked = self._asked.setdefault(seeder, {})
        replica, manifest = self._replica, self._manifest
        while manifest is not None and len(asked) < most:
            index = self._chunks.find(_MISSING, start)
            if index < 0:
                index = self._chunks.find(_MISSING)
            if index < 0:
                return
            self._chunks[index] = _ASKED
            asked[index] = self._ticks
            view, regency = replica.view.number, replica.regency
            replica.send(seeder, FetchChunk(view, regency, manifest.instance, manifest.digest, index))

    def _on_chunk(self, sender: int, message: SnapshotChunk) -> None:
        """A chunk: it is what the list of hashes says, or its sender lies."""
        manifest = self._manifest
        if manifest is None or (message.instance, message.digest) != (manifest.instance, manifest.digest):
            return
        asked = self._asked.get(sender, {})
        if message.index not in asked:
            return
        del asked[message.index]
        self._quiet[sender] = 0
        if self._chunks[message.index] == _HERE:
            return
        if not manifest.matches(self._replica.domains.chain_id, message.index, message.data):
            self._pass_over(sender)
            self._liars[sender] = None
            self._chunks[message.index] = _MISSING
            self._replica.penalise(
                sender, f"chunk {message.index} of the snapshot of instance {manifest.instance} is not what it signed"
            )
            self._fill()
            return
        self._chunks[message.index] = _HERE
        self._left -= 1
        self._replica.emit(StoreChunk(message.index, message.data))
        if self._left:
            self._ask_seeder(sender, message.index)
        else:
            self._finish()

    def _pass_over(self, peer: int) -> None:
        """What was asked of this peer is asked of others."""
        for index in self._asked.pop(peer, {}):
            if self._chunks[index] == _ASKED:
                self._chunks[index] = _MISSING

    # Time

    def on_timer(self) -> None:
        """Ask again, pass over who is silent, or look for a newer snapshot when nobody is left."""
        replica = self._replica
        if self._wanted and self._is_over():
            self.end()
        if not self._wanted:
            return
        if self._target is None:
            self._ask_around()
            self.choose()
        elif self._manifest is None:
            self._wait_for_manifest()
        elif self._left:
            self._lose_patience()
        replica.set_timer(Timer.TRANSFER, replica.parameters.resend_interval)

    def _is_over(self) -> bool:
        """Whether decisions have come by other ways, or others' logs reach us after all."""
        if self._target is not None:
            return self._target.mark.instance <= self._replica.decided
        return not self._replica.catch_up.is_cut_off()

    def _wait_for_manifest(self) -> None:
        seeders = self._seeders()
        if self._attempts % (len(seeders) + 1) == len(seeders):
            # Nobody answers: perhaps all of them have gone on to a newer one.
            self._attempts += 1
            self._start_over()
        else:
            self._ask_for_manifest()

    def _lose_patience(self) -> None:
        self._ticks += 1
        for peer in list(self._asked):
            self._forget_lost(peer)
            self._quiet[peer] = self._quiet.get(peer, 0) + 1 if self._asked[peer] else 0
            if self._quiet[peer] >= TRANSFER_PATIENCE_RESENDS:
                self._pass_over(peer)
                self._quiet[peer] = 0
                self._slow[peer] = None
        if not self._seeders():
            self._start_over()
        self._fill()

    def _forget_lost(self, peer: int) -> None:
        """A peer that sends chunks may drop a question: what it has not sent for that long is asked for again."""
        asked = self._asked[peer]
        for index in [at for at, tick in asked.items() if self._ticks - tick >= 2 * TRANSFER_PATIENCE_RESENDS]:
            del asked[index]
            if self._chunks[index] == _ASKED:
                self._chunks[index] = _MISSING

    def _start_over(self) -> None:
        """Look around again. What has arrived counts if the choice falls on the same snapshot."""
        manifest = self._manifest
        if manifest is not None:
            here = tuple(index for index, known in enumerate(self._chunks) if known == _HERE)
            self._partial = Partial(manifest, here)
        self._target = self._manifest = None
        self._asked.clear()
        self._ask_around()

    def _lost(self) -> None:
        """What had arrived is damaged on disk, or its proof is false: begin again, with the list of another."""
        if self._list_from >= 0:
            self._doubted[self._list_from] = None
        self._partial = self._target = self._manifest = None
        self.choose()
