"""Snapshots on a disk that is full, fails or damages them: what is lost, what goes on, and what the user is told."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
from kit.faulty_files import FaultyFiles

from smartbft.core.effects import BeginTransfer, FinishTransfer, ServeSnapshot, StoreChunk, TakeSnapshot
from smartbft.core.inputs import SnapshotLoaded, SnapshotLost, SnapshotSkipped, SnapshotTaken
from smartbft.errors import DurabilityLost, MalformedMessage
from smartbft.limits import SNAPSHOT_CHUNK_BYTES
from smartbft.messages import Proof, encode_proof
from smartbft.runtime.snapshots import SnapshotKeeper
from smartbft.snapshots import Manifest, Snapshot, describe
from smartbft.storage import SnapshotStore
from smartbft.storage.snapshots import snapshot_name

CHAIN = bytes(range(32))
PROOF = encode_proof(Proof(0, 0, 3, bytes(32), ()))
BAD_PROOF = encode_proof(Proof(0, 1, 3, bytes(32), ()))
PARTIAL, TEMPORARY = "transfer.partial", "snapshot.tmp"
CHUNKS = 3
NO_ROOM = [errno.ENOSPC, errno.EDQUOT, errno.EFBIG]
PEER = 2

Run = Callable[[Callable[[], Awaitable[None]]], None]


def check(manifest: Manifest, snapshot: Snapshot) -> None:
    if manifest.proof == BAD_PROOF:
        raise MalformedMessage("a bad signature")


def snapshot(instance: int) -> Snapshot:
    size = CHUNKS * SNAPSHOT_CHUNK_BYTES - 1000
    return Snapshot(0, instance, 10**15 + instance, bytes(32), b"core", b"sessions", bytes([instance]) * size)


class Application:
    """Its state is as large as that of `snapshot`; it answers at once, or when it is told to."""

    def __init__(self) -> None:
        self.later: list[Callable[[], None]] | None = None

    def ask(self, question: Callable[[Any, int], Any], done: Callable[[Any], None]) -> None:
        captured = SimpleNamespace(capture=lambda: lambda: b"\1" * (CHUNKS * SNAPSHOT_CHUNK_BYTES - 1000))
        if self.later is None:
            done(question(captured, 0))
        else:
            self.later.append(lambda: done(question(captured, 0)))

    def restore(self, state: bytes, instance: int) -> None:
        raise AssertionError


class Peers:
    def __init__(self) -> None:
        self.sent: asyncio.Queue[bytes] = asyncio.Queue()

    async def writable(self, peer: int) -> bool:
        return True

    def send(self, to: int, frame: bytes) -> None:
        self.sent.put_nowait(frame)


class Desk:
    """A keeper on a disk with faults, and what it said."""

    def __init__(self, files: FaultyFiles) -> None:
        self.files = files
        self.application, self.peers = Application(), Peers()
        self.said: asyncio.Queue[Any] = asyncio.Queue()  # inputs of the core, and errors that end the replica
        store = SnapshotStore(files, CHAIN, check)  # type: ignore[arg-type]
        self.found = store.open()
        self.keeper = SnapshotKeeper(
            store,
            view=0,
            regency=lambda: 0,
            application=self.application,
            peers=self.peers,
            forget=lambda before: 0,
            take=self.said.put_nowait,
            installed=lambda: None,
            failed=self.said.put_nowait,
        )
        self._actions = self.keeper.actions()

    def do(self, effect: Any) -> None:
        self._actions[type(effect)](effect)

    def take(self, instance: int) -> None:
        sessions: Any = SimpleNamespace(export=lambda: b"sessions")
        self.do(TakeSnapshot(0, instance, 10**15 + instance, bytes(32), b"core", sessions, PROOF, ()))

    def fetch(self, instance: int, chunks: tuple[int, ...] = tuple(range(CHUNKS)), proof: bytes = PROOF) -> None:
        """A snapshot arrives: the list of its chunks, some of them, and its end if all are there."""
        manifest, _ = arriving(instance, proof)
        self.do(BeginTransfer(manifest))
        self.store(instance, chunks)

    def store(self, instance: int, chunks: tuple[int, ...]) -> None:
        _, data = arriving(instance)
        for index in chunks:
            self.do(StoreChunk(index, data[index * SNAPSHOT_CHUNK_BYTES : (index + 1) * SNAPSHOT_CHUNK_BYTES]))
        if chunks[-1:] == (CHUNKS - 1,):
            self.do(FinishTransfer())

    async def settled(self) -> None:
        """Everything that was asked for is done."""
        await asyncio.get_running_loop().run_in_executor(self.keeper._writer, lambda: None)
        await asyncio.sleep(0)

    async def silent(self) -> bool:
        await self.settled()
        return self.said.empty()

    async def serves(self, manifest: Manifest, whole: Manifest) -> bool:
        """Whether a chunk is sent; the list of chunks of a whole one, asked for next, shows that its turn is over."""
        self.do(ServeSnapshot(PEER, manifest.instance, manifest.digest, 0))
        self.do(ServeSnapshot(PEER, whole.instance, whole.digest, -1))
        sent = [await self._next_sent()]
        while len(sent[-1]) > SNAPSHOT_CHUNK_BYTES // 2:
            sent.append(await self._next_sent())
        return len(sent) == 2

    async def _next_sent(self) -> bytes:
        sent, said = asyncio.ensure_future(self.peers.sent.get()), asyncio.ensure_future(self.said.get())
        await asyncio.wait((sent, said), return_when=asyncio.FIRST_COMPLETED)
        assert not said.done(), f"serving ended with {said.result()!r}"
        said.cancel()
        return sent.result()


def arriving(instance: int, proof: bytes = PROOF) -> tuple[Manifest, bytes]:
    data = snapshot(instance).encode(CHAIN)
    return describe(CHAIN, instance, data, proof), data


def disk_with(*instances: int) -> FaultyFiles:
    """A disk with these snapshots."""
    files = FaultyFiles()
    store = SnapshotStore(files, CHAIN)  # type: ignore[arg-type]
    for instance in instances:
        store.write(snapshot(instance), PROOF)
    return files


async def restarted(desk: Desk) -> Desk:
    """The next life, on a disk without faults."""
    await desk.keeper.close()
    desk.files.mend()
    return Desk(desk.files)


def instances(desk: Desk) -> list[int]:
    return [manifest.instance for manifest in desk.found.manifests]


# --- taking one ---


@pytest.mark.parametrize("error", NO_ROOM)
@pytest.mark.parametrize("operation", ["write", "sync", "rename"])
def test_one_without_room_is_left_out_and_takes_none(run: Run, error: int, operation: str) -> None:
    async def scenario() -> None:
        desk = Desk(disk_with(3))
        desk.files.fail(operation, error, TEMPORARY)
        desk.take(6)
        assert await desk.said.get() == SnapshotSkipped(6)
        if operation != "rename":
            assert TEMPORARY not in desk.files.names(), "what was written of it takes room from the log"
        desk.files.mend()
        desk.take(9)
        taken = await desk.said.get()
        assert isinstance(taken, SnapshotTaken)
        assert instances(await restarted(desk)) == [3, 9]

    run(scenario)


@pytest.mark.parametrize("operation", ["write", "sync", "rename", "sync_folder"])
def test_a_disk_that_fails_ends_the_replica_and_keeps_the_last_one(run: Run, operation: str) -> None:
    async def scenario() -> None:
        desk = Desk(disk_with(3))
        desk.files.fail(operation, errno.EIO, "" if operation == "sync_folder" else TEMPORARY)
        desk.take(6)
        problem = await desk.said.get()
        assert isinstance(problem, DurabilityLost)
        assert "a snapshot could not be written: [Errno 5]" in str(problem)
        desk.take(9)
        assert await desk.silent(), "nothing is said after a failure"
        again = await restarted(desk)
        assert 3 in instances(again)
        assert not again.found.damaged
        await again.keeper.close()

    run(scenario)


# --- serving ---


@pytest.mark.parametrize("stuck", [False, True], ids=["it can be set aside", "it cannot"])
@pytest.mark.parametrize("damage", ["a bit", "EIO", "dropped"])
def test_what_cannot_be_read_is_not_served_and_ends_nothing(run: Run, damage: str, stuck: bool) -> None:
    async def scenario() -> None:
        desk = Desk(disk_with(3, 6))
        older, newest = desk.found.manifests
        assert await desk.serves(newest, older)
        name = snapshot_name(6)
        if damage == "a bit":
            desk.files.disk.damage(name, 10_000)
        elif damage == "EIO":
            desk.files.fail("read", errno.EIO, name)
        else:
            desk.files.disk.remove(name)
        if stuck:
            desk.files.fail("rename", errno.EIO, name)
        assert not await desk.serves(newest, older)
        assert await desk.serves(older, older), "the other one is whole"
        assert await desk.silent()
        if damage != "dropped" and not stuck:
            assert name + ".damaged" in desk.files.names()
        await desk.keeper.close()

    run(scenario)


def test_one_that_goes_while_it_is_given_up_ends_nothing(run: Run) -> None:
    """The thread that serves finds damage while the one that writes drops the file."""

    async def scenario() -> None:
        desk = Desk(disk_with(3, 6))
        oldest, newer = desk.found.manifests
        desk.files.disk.damage(snapshot_name(3), 10_000)
        began, goes_on = desk.files.stand_still("rename", snapshot_name(3))
        desk.do(ServeSnapshot(PEER, 3, oldest.digest, 0))
        await asyncio.to_thread(began.wait)
        desk.take(9)  # drops the oldest
        assert isinstance(await desk.said.get(), SnapshotTaken)
        goes_on.set()
        assert await desk.serves(newer, newer)
        assert await desk.silent()
        assert instances(await restarted(desk)) == [6, 9]

    run(scenario)


# --- one that arrives ---


def spoil(desk: Desk, step: str, error: int) -> None:
    """The disk fails while a snapshot begins to arrive, with its second chunk, or at its end."""
    if step == "finish":
        desk.files.fail("sync", error, PARTIAL, after=1)  # the first one is that of the list of hashes
    else:
        desk.files.fail("write", error, PARTIAL, after=0 if step == "begin" else 2)


@pytest.mark.parametrize("error", [*NO_ROOM, errno.EIO])
@pytest.mark.parametrize("step", ["begin", "chunk", "finish"])
def test_a_transfer_that_the_disk_stops_goes_on_after_a_restart(run: Run, step: str, error: int) -> None:
    async def scenario() -> None:
        desk = Desk(disk_with(3))
        spoil(desk, step, error)
        desk.fetch(9)
        problem = await desk.said.get()
        assert isinstance(problem, DurabilityLost)
        assert PARTIAL in str(problem), "which file"
        wants = "is the disk failing?" if error == errno.EIO else "make room for the state and start the replica again"
        assert wants in str(problem)
        assert await desk.silent(), "an end of the transfer, and the loss of what had arrived"
        again = await restarted(desk)
        assert instances(again) == [3]
        here = {"begin": None, "chunk": (0,), "finish": (0, 1, 2)}[step]
        partial = again.found.partial
        assert (partial.chunks if partial is not None else None) == here
        if here is None:
            again.fetch(9)
        else:
            again.store(9, tuple(index for index in range(CHUNKS) if index not in here))
            if len(here) == CHUNKS:
                again.do(FinishTransfer())
        assert await again.said.get() == SnapshotLoaded(arriving(9)[0], snapshot(9))
        assert instances(await restarted(again)) == [3, 9]

    run(scenario)


@pytest.mark.parametrize("at", [3, 200, SNAPSHOT_CHUNK_BYTES + 1000])
def test_one_that_is_damaged_while_it_arrives_begins_again(run: Run, at: int) -> None:
    async def scenario() -> None:
        desk = Desk(disk_with(3))
        desk.fetch(9, chunks=(0, 1))
        await desk.settled()
        desk.files.disk.damage(PARTIAL, at)
        desk.store(9, (2,))
        assert isinstance(await desk.said.get(), SnapshotLost)
        assert PARTIAL not in desk.files.names()
        desk.fetch(9)
        assert isinstance(await desk.said.get(), SnapshotLoaded)
        assert instances(await restarted(desk)) == [3, 9]

    run(scenario)


def test_one_with_a_bad_proof_takes_the_place_of_none(run: Run) -> None:
    async def scenario() -> None:
        desk = Desk(disk_with(3, 6))
        for instance in (9, 12):
            desk.fetch(instance, proof=BAD_PROOF)
            assert isinstance(await desk.said.get(), SnapshotLost)
        assert instances(await restarted(desk)) == [3, 6]

    run(scenario)


# --- the end ---


def test_a_close_in_the_middle_waits_for_what_is_being_written_and_drops_the_rest(run: Run) -> None:
    async def scenario() -> None:
        desk = Desk(disk_with(3))
        desk.fetch(9, chunks=(0,))
        await desk.settled()
        began, goes_on = desk.files.stand_still("write", PARTIAL)
        desk.store(9, (1, 2))
        await asyncio.to_thread(began.wait)
        closing = asyncio.create_task(desk.keeper.close())
        await asyncio.sleep(0)
        assert not closing.done(), "a file is being written"
        desk.take(12)
        desk.do(ServeSnapshot(PEER, 3, desk.found.manifests[0].digest, 0))
        goes_on.set()
        await closing
        assert desk.said.empty()
        assert desk.peers.sent.empty()
        again = await restarted(desk)
        assert again.found.partial is not None
        assert again.found.partial.chunks == (0, 1)
        await again.keeper.close()

    run(scenario)


def test_an_application_that_answers_after_the_close_is_not_written(run: Run) -> None:
    async def scenario() -> None:
        desk = Desk(disk_with(3))
        desk.application.later = []
        desk.take(6)
        await desk.keeper.close()
        for answer in desk.application.later:
            answer()
        assert desk.said.empty()
        assert instances(await restarted(desk)) == [3]

    run(scenario)


# --- planted bugs ---


def test_planted_bug_what_follows_a_failure_is_carried_out(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of a transfer without one of its chunks: what has arrived would be removed as damaged."""
    monkeypatch.setattr(
        SnapshotKeeper, "_broken", property(lambda self: False, lambda self, value: None), raising=False
    )
    with pytest.raises(AssertionError):
        test_a_transfer_that_the_disk_stops_goes_on_after_a_restart(run, "chunk", errno.ENOSPC)


def test_planted_bug_half_a_snapshot_stays_on_the_full_disk(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(self: SnapshotStore, taken: Snapshot, proof: bytes, keep: object = ()) -> Manifest:
        data = taken.encode(CHAIN)
        manifest = describe(CHAIN, taken.instance, data, proof)
        self._write_temporary(manifest, (data,))
        self._keep(TEMPORARY, manifest)
        return manifest

    monkeypatch.setattr(SnapshotStore, "write", write)
    with pytest.raises(AssertionError, match="takes room"):
        test_one_without_room_is_left_out_and_takes_none(run, errno.ENOSPC, "sync")


def test_planted_bug_a_bad_sector_ends_whoever_serves(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def give_up(self: SnapshotStore, instance: int, error: Exception) -> None:
        del self._manifests[instance]
        self._files.rename(snapshot_name(instance), "damaged")

    monkeypatch.setattr(SnapshotStore, "_give_up", give_up)
    with pytest.raises(AssertionError, match="serving ended"):
        test_what_cannot_be_read_is_not_served_and_ends_nothing(run, "EIO", True)


def test_planted_bug_proofs_are_not_checked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(globals(), "check", lambda manifest, snapshot: None)
    with pytest.raises(AssertionError):
        test_one_with_a_bad_proof_takes_the_place_of_none(run)
