"""The snapshots of a replica in the simulator: what the runtime's `SnapshotKeeper` does, in virtual time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from smartbft.core.effects import (
    AbandonRehearsal,
    BeginRehearsal,
    BeginTransfer,
    FinishTransfer,
    ForgetDecisions,
    InstallSnapshot,
    KeepSnapshot,
    RehearseBatch,
    RehearseSnapshot,
    ServeSnapshot,
    StoreChunk,
    TakeSnapshot,
)
from smartbft.core.inputs import (
    BatchRehearsed,
    Input,
    RehearsalFailed,
    SnapshotKept,
    SnapshotLoaded,
    SnapshotLost,
    SnapshotRehearsed,
    SnapshotSkipped,
    SnapshotTaken,
)
from smartbft.errors import CorruptSnapshot, LocalProtocolError
from smartbft.messages import Message, SnapshotChunk, SnapshotManifest, decode_proof
from smartbft.smr.application import ExecutionContext, execute_decided
from smartbft.snapshots import FoundSnapshots, Manifest, Snapshot
from smartbft.storage import MemoryFiles, SnapshotStore
from smartbft.testing.application import Hangs
from smartbft.testing.trace import Kind

if TYPE_CHECKING:
    from smartbft.testing.host import Host
    from smartbft.testing.replica import SimulatedReplica
    from smartbft.testing.simulation import Simulation


Rehearsing = BeginRehearsal | RehearseBatch | RehearseSnapshot


class SimulatedSnapshots:
    """The snapshots of one life of a replica.

    Args:
        world: the simulation it is part of.
        replica: whose they are.
        host: the machine with the disk they are on.
    """

    def __init__(self, world: Simulation, replica: SimulatedReplica, host: Host) -> None:
        in_memory = world.scenario.persistence == "memory"
        self._world = world
        self._scheduler = world.scheduler
        self._replica = replica
        files = MemoryFiles() if in_memory else host.disk.snapshots
        self._store = SnapshotStore(files, world.chain_id, replica.core.validator.check_snapshot)
        self._forged = SnapshotStore(MemoryFiles(), world.chain_id)
        self._attacks = host.attacks

    def actions(self) -> dict[type, Callable[[Any], None]]:
        """Who carries out which effect."""
        return {
            TakeSnapshot: self._replica.execute_next,
            InstallSnapshot: self._install,
            ForgetDecisions: self._forget,
            ServeSnapshot: self._serve,
            BeginTransfer: lambda effect: self._store.begin_transfer(effect.manifest),
            StoreChunk: lambda effect: self._store.put_chunk(effect.index, effect.data),
            FinishTransfer: self._finish_transfer,
            **dict.fromkeys((BeginRehearsal, RehearseBatch, RehearseSnapshot), self._replica.execute_next),
            AbandonRehearsal: lambda _: self._replica.give_up_rehearsal(),
            KeepSnapshot: lambda effect: self._on_disk(self._keep_rehearsed, effect),
        }

    def open(self) -> FoundSnapshots:
        """What earlier lives left."""
        return self._store.open()

    # Our own

    def capture(self, effect: TakeSnapshot) -> None:
        """It is the turn of a snapshot between two batches."""
        render = self._replica.application.capture()
        scenario = self._world.scenario
        delay = self._scheduler.between(1, scenario.disk.sync_delay + scenario.execute_delay)
        self._scheduler.after(delay, self._write, (effect, render))

    def _write(self, captured: tuple[TakeSnapshot, Callable[[], bytes]]) -> None:
        replica = self._replica
        if replica.dead:
            return
        effect, render = captured
        try:
            snapshot = effect.snapshot(render())
        except LocalProtocolError:
            replica.step(SnapshotSkipped(effect.instance))
            return
        manifest = self._tell(snapshot, self._store.write(snapshot, effect.proof, effect.keep))
        self._world.trace.note(self._scheduler.now, Kind.SNAPSHOT, replica.id, manifest.instance)
        self._world.snapshots += 1
        replica.step(SnapshotTaken(manifest.instance, manifest.size, manifest.digest))

    def _tell(self, snapshot: Snapshot, manifest: Manifest) -> Manifest:
        """What the others are told of it; a liar keeps the truth to itself."""
        told = snapshot
        for attack in self._attacks:
            told = attack.snapshot(told)
        return manifest if told is snapshot else self._forged.write(told, manifest.proof)

    def _forget(self, effect: ForgetDecisions) -> None:
        self._replica.log.forget(effect.before)
        if self._replica.judged:
            self._world.checkers.durability.forgotten(self._replica.id, effect.before)

    # For others, and from others

    def _serve(self, effect: ServeSnapshot) -> None:
        store = self._store
        if self._forged.manifest(effect.instance, effect.digest) is not None:
            store = self._forged
        manifest = store.manifest(effect.instance, effect.digest)
        view, regency = self._world.view.number, self._replica.core.regency
        if manifest is None:
            return
        if effect.chunk < 0:
            proof = decode_proof(manifest.proof)
            answer: Message = SnapshotManifest(
                view, regency, manifest.instance, manifest.size, manifest.digest, manifest.hashes, proof
            )
        else:
            data = store.chunk(effect.instance, effect.digest, effect.chunk)
            if data is None:
                return
            answer = SnapshotChunk(view, regency, effect.instance, effect.digest, effect.chunk, data)
        self._replica.send_to(effect.to, answer)

    def _finish_transfer(self, effect: FinishTransfer) -> None:
        self._on_disk(self._on_arrived, effect)

    def _on_disk(self, done: Callable[[Any], None], effect: Any) -> None:
        self._scheduler.after(self._scheduler.between(1, self._world.scenario.disk.sync_delay), done, effect)

    def _on_arrived(self, effect: FinishTransfer) -> None:
        if self._replica.dead:
            return
        try:
            arrived = self._store.finish_transfer(keep=effect.keep)
        except CorruptSnapshot:
            self._replica.step(SnapshotLost())
        else:
            self._replica.step(SnapshotLoaded(*arrived))

    # Rehearsals

    def rehearse(self, effect: Rehearsing) -> bool:
        """It is the turn of a rehearsal's next step: the application may make anything of it.

        Returns:
            Whether the application has come back.
        """
        try:
            answer = self._rehearse(effect)
        except Hangs:
            return False
        except Exception as error:
            convicts = isinstance(effect, BeginRehearsal) and isinstance(error, ValueError)
            answer = RehearsalFailed(effect.rehearsal, str(error), convicts)
        if answer is not None:
            # After what the application has to do next: `rehearse` is called between two jobs of it.
            self._scheduler.after(1, self._answer, answer)
        return True

    def _rehearse(self, effect: Rehearsing) -> Input | None:
        replica, world = self._replica, self._world
        if isinstance(effect, BeginRehearsal):
            world.rehearsals += 1
            world.trace.note(self._scheduler.now, Kind.REHEARSED, replica.id, effect.rehearsal)
            replica.application.restore(effect.state)
            return None
        if isinstance(effect, RehearseBatch):
            batch = effect.batch
            context = ExecutionContext(batch.instance, batch.timestamp, batch.seed)
            return BatchRehearsed(effect.rehearsal, execute_decided(replica.application, batch.data, context))
        snapshot = effect.take.snapshot(replica.application.capture()())
        return SnapshotRehearsed(effect.rehearsal, self._store.describe(snapshot, effect.take.proof), snapshot)

    def _answer(self, answer: Input) -> None:
        if not self._replica.dead:
            self._replica.step(answer)

    def _keep_rehearsed(self, effect: KeepSnapshot) -> None:
        if not self._replica.dead:
            self._store.keep_rehearsed(effect.snapshot, effect.manifest.proof)
            self._replica.step(SnapshotKept(effect.manifest, effect.snapshot))

    def _install(self, effect: InstallSnapshot) -> None:
        world, replica = self._world, self._replica
        if replica.judged:
            world.checkers.installed(replica.id, effect.instance)
        world.trace.note(self._scheduler.now, Kind.INSTALLED, replica.id, effect.instance)
        world.transfers += 1
        replica.forget_replies()
        replica.execute_next(effect)
