"""Snapshots on disk: whole or not at all, every chunk checked, the last two kept, transfers resumed."""

from __future__ import annotations

import errno
import random
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from smartbft.errors import CorruptSnapshot, LocalProtocolError
from smartbft.limits import SNAPSHOT_CHUNK_BYTES
from smartbft.snapshots import Manifest, Snapshot, chunk_count, cut, describe, snapshot_digest
from smartbft.storage import Files, FolderFiles, MemoryFiles, SnapshotStore
from smartbft.storage.snapshots import snapshot_instance, snapshot_name
from smartbft.testing.files import SimulatedFiles

CHAIN = bytes(range(32))
PROOF = b"a proof"


def snapshot(instance: int, size: int = 1000, fill: int = 7) -> Snapshot:
    return Snapshot(0, instance, 10**15 + instance, bytes([instance]) * 32, b"core", b"sessions", bytes([fill]) * size)


@pytest.fixture(params=["folder", "memory", "simulated"])
def files(request: pytest.FixtureRequest, tmp_path: Path) -> Files:
    makers: dict[str, Callable[[], Files]] = {
        "folder": lambda: FolderFiles(tmp_path / "snapshots"),
        "memory": MemoryFiles,
        "simulated": SimulatedFiles,
    }
    return makers[request.param]()


def opened(files: Files) -> SnapshotStore:
    store = SnapshotStore(files, CHAIN)
    store.open()
    return store


# --- the bytes ---


@pytest.mark.parametrize("size", [0, 1, SNAPSHOT_CHUNK_BYTES, 3 * SNAPSHOT_CHUNK_BYTES + 5])
def test_a_snapshot_has_one_form(size: int) -> None:
    whole = snapshot(5, size)
    data = whole.encode(CHAIN)
    assert Snapshot.decode(data, CHAIN) == whole
    manifest = describe(CHAIN, 5, data, PROOF)
    assert manifest.count == chunk_count(len(data)) == len(manifest.hashes) // 32
    assert manifest.digest == snapshot_digest(manifest.hashes)
    for index in range(manifest.count):
        chunk = data[index * SNAPSHOT_CHUNK_BYTES : (index + 1) * SNAPSHOT_CHUNK_BYTES]
        assert manifest.matches(CHAIN, index, chunk)
        assert not manifest.matches(CHAIN, index, chunk[:-1])
        assert not manifest.matches(CHAIN, index, bytes([chunk[0] ^ 1]) + chunk[1:])
        assert not manifest.matches(bytes(32), index, chunk)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"X" + data[1:],
        lambda data: data[:8] + b"\2" + data[9:],
        lambda data: data[:20],
        lambda data: data[:12] + bytes(32) + data[44:],
    ],
)
def test_what_is_no_snapshot_is_refused(spoil: Callable[[bytes], bytes]) -> None:
    with pytest.raises(CorruptSnapshot):
        Snapshot.decode(spoil(snapshot(5).encode(CHAIN)), CHAIN)


def test_every_field_is_in_the_digest() -> None:
    fields: dict[str, Any] = {
        "view": 1,
        "instance": 6,
        "agreed_time": 1,
        "value_digest": bytes(32),
        "core": b"",
        "sessions": b"",
        "state": b"",
    }
    base = snapshot(5)
    digests = {describe(CHAIN, 5, base.encode(CHAIN), PROOF).digest}
    for name, value in fields.items():
        kept = {field: getattr(base, field) for field in fields}
        digests.add(describe(CHAIN, 5, Snapshot(**{**kept, name: value}).encode(CHAIN), PROOF).digest)
    assert len(digests) == len(fields) + 1
    # The proof differs between replicas: it is beside.
    assert describe(CHAIN, 5, base.encode(CHAIN), b"another").digest in digests


@given(st.lists(st.binary(max_size=40), max_size=6), st.integers(1, 50))
def test_pieces_are_the_parts_and_nothing_else(parts: list[bytes], length: int) -> None:
    pieces = list(cut(parts, length))
    assert b"".join(pieces) == b"".join(parts)
    assert all(len(piece) == length for piece in pieces[:-1])
    assert all(0 < len(piece) <= length for piece in pieces)


# --- the store ---


def test_a_snapshot_in_pieces_is_the_one_that_was_encoded(files: Files) -> None:
    store, whole = opened(files), snapshot(5, 40 * SNAPSHOT_CHUNK_BYTES)
    manifest = store.write(whole, PROOF)
    assert manifest == store.describe(whole, PROOF) == describe(CHAIN, 5, whole.encode(CHAIN), PROOF)
    assert store.read(snapshot_name(5)) == whole


def most_memory(write: Callable[[], object]) -> int:
    """Bytes that were allocated at once beyond what was there before."""
    tracemalloc.start()
    try:
        write()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_snapshot_is_not_copied_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 128 * SNAPSHOT_CHUNK_BYTES
    whole, store = snapshot(5, size), opened(MemoryFiles())
    assert most_memory(lambda: store.write(whole, PROOF)) < 1.5 * size, "the file, and a piece at a time"
    monkeypatch.setattr(SnapshotStore, "_pieces", lambda self, one: iter((one.encode(CHAIN),)))
    assert most_memory(lambda: store.write(whole, PROOF)) > 1.9 * size, "planted bug: a copy must show"


def test_the_newest_two_are_kept(files: Files) -> None:
    store = opened(files)
    manifests = [store.write(snapshot(instance), PROOF) for instance in (3, 6, 9)]
    found = SnapshotStore(files, CHAIN).open()
    assert found.manifests == manifests[1:]
    assert found.newest == snapshot(9)
    assert store.manifest(3, manifests[0].digest) is None
    assert store.manifest(9, manifests[2].digest) == manifests[2]
    assert store.manifest(9, manifests[1].digest) is None


def test_what_is_being_fetched_is_kept_too(files: Files) -> None:
    store = opened(files)
    for instance in (3, 6):
        store.write(snapshot(instance), PROOF)
    for instance in (9, 12):
        store.write(snapshot(instance), PROOF, keep=(3,))
    assert [manifest.instance for manifest in SnapshotStore(files, CHAIN).open().manifests] == [3, 9, 12]
    store.write(snapshot(15), PROOF)
    assert [manifest.instance for manifest in SnapshotStore(files, CHAIN).open().manifests] == [12, 15]


def test_chunks_are_served_as_they_are(files: Files) -> None:
    store = opened(files)
    whole = snapshot(4, 2 * SNAPSHOT_CHUNK_BYTES)
    manifest = store.write(whole, PROOF)
    chunks = [store.chunk(4, manifest.digest, index) for index in range(manifest.count)]
    assert b"".join(chunk or b"" for chunk in chunks) == whole.encode(CHAIN)
    assert store.chunk(4, manifest.digest, manifest.count) is None
    assert store.chunk(5, manifest.digest, 0) is None


def test_a_damaged_snapshot_is_set_aside_and_the_one_before_is_used(caplog: pytest.LogCaptureFixture) -> None:
    files = SimulatedFiles()
    opened(files).write(snapshot(3), PROOF)
    size = len(files.read(snapshot_name(3)))
    for at in range(0, size, 37):
        store = opened(files)
        store.write(snapshot(6), PROOF)
        files.damage(snapshot_name(6), at)
        caplog.clear()
        found = SnapshotStore(files, CHAIN).open()
        assert found.newest == snapshot(3)
        assert found.damaged == [snapshot_name(6)]
        assert "damaged and set aside" in caplog.text
        assert snapshot_name(6) + ".damaged" in files.names()
        files.remove(snapshot_name(6) + ".damaged")


def test_damaged_snapshots_do_not_pile_up(files: Files) -> None:
    for instance in range(1, 20):
        opened(files).write(snapshot(instance), b"")
        files.write(snapshot_name(instance), 400, b"other bytes")
        opened(files)
    damaged = [name for name in files.names() if name.endswith(".damaged")]
    assert damaged == [snapshot_name(instance) + ".damaged" for instance in (18, 19)]


def test_a_chunk_that_went_bad_is_not_served() -> None:
    files = SimulatedFiles()
    store = opened(files)
    manifest = store.write(snapshot(6), PROOF)
    files.damage(snapshot_name(6), len(files.read(snapshot_name(6))) - 1)
    assert store.chunk(6, manifest.digest, 0) is None
    assert store.manifest(6, manifest.digest) is None


def test_snapshots_of_another_chain_are_set_aside(tmp_path: Path) -> None:
    files = FolderFiles(tmp_path)
    opened(files).write(snapshot(3), PROOF)
    assert SnapshotStore(files, bytes(32)).open().newest is None


# --- crashes ---


class Crash(Exception):
    pass


class Dying:
    """Files whose process dies at the k-th change."""

    def __init__(self, files: SimulatedFiles, after: int) -> None:
        self._files = files
        self._left = after

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            if name not in ("names", "read"):
                if not self._left:
                    raise Crash
                self._left -= 1
            return getattr(self._files, name)(*arguments)

        return call


def crash_points() -> Iterator[tuple[int, int]]:
    return ((after, seed) for after in range(16) for seed in range(6))


@pytest.mark.parametrize("power", [False, True])
def test_a_crash_leaves_the_old_snapshot_or_the_new_one(power: bool) -> None:
    states = set()
    for after, seed in crash_points():
        files = SimulatedFiles()
        opened(files).write(snapshot(3), PROOF)
        try:
            SnapshotStore(Dying(files, after), CHAIN).write(snapshot(6, 20 * SNAPSHOT_CHUNK_BYTES), PROOF)
            finished = True
        except Crash:
            finished = False
        if power:
            files.lose_power(random.Random(seed))
        found = SnapshotStore(files, CHAIN).open()
        assert found.damaged == []
        assert found.newest is not None
        states.add(found.newest.instance)
        if finished:
            assert found.newest.instance == 6
    assert states == {3, 6}


def test_a_missing_sync_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """This suite can fail: without the sync of the content the renamed file may be torn."""
    monkeypatch.setattr(SimulatedFiles, "sync", lambda *_: None)
    with pytest.raises(AssertionError):
        test_a_crash_leaves_the_old_snapshot_or_the_new_one(True)


# --- a snapshot that arrives ---


def chunks_of(whole: Snapshot) -> tuple[Manifest, list[bytes]]:
    data = whole.encode(CHAIN)
    manifest = describe(CHAIN, whole.instance, data, PROOF)
    starts = range(0, len(data), SNAPSHOT_CHUNK_BYTES)
    return manifest, [data[at : at + SNAPSHOT_CHUNK_BYTES] for at in starts]


def test_a_transfer_goes_on_after_a_restart(files: Files) -> None:
    whole = snapshot(9, 4 * SNAPSHOT_CHUNK_BYTES)
    manifest, chunks = chunks_of(whole)
    store = opened(files)
    store.write(snapshot(3), PROOF)
    store.begin_transfer(manifest)
    for index in (4, 1):
        store.put_chunk(index, chunks[index])
    store = SnapshotStore(files, CHAIN)
    found = store.open()
    assert found.newest == snapshot(3)
    assert found.partial is not None
    assert found.partial.manifest == manifest
    assert found.partial.chunks == (1, 4)
    for index in (0, 2, 3):
        store.put_chunk(index, chunks[index])
    assert store.finish_transfer() == (manifest, whole)
    assert SnapshotStore(files, CHAIN).open().newest == whole


def test_a_transfer_that_was_damaged_on_disk_begins_again() -> None:
    files = SimulatedFiles()
    manifest, chunks = chunks_of(snapshot(9, SNAPSHOT_CHUNK_BYTES))
    store = opened(files)
    store.begin_transfer(manifest)
    store.put_chunk(1, chunks[1])
    store.put_chunk(0, chunks[0])
    files.damage("transfer.partial", len(files.read("transfer.partial")) - 1)
    with pytest.raises(CorruptSnapshot):
        store.finish_transfer()
    found = SnapshotStore(files, CHAIN).open()
    assert found.newest is found.partial is None
    with pytest.raises(LocalProtocolError):
        store.put_chunk(0, chunks[0])


def test_a_transfer_that_is_behind_what_is_here_is_dropped() -> None:
    files = SimulatedFiles()
    store = opened(files)
    store.begin_transfer(chunks_of(snapshot(3))[0])
    store.write(snapshot(6), PROOF)
    assert SnapshotStore(files, CHAIN).open().partial is None
    assert "transfer.partial" not in files.names()


def test_names() -> None:
    assert snapshot_instance(snapshot_name(77)) == 77
    for name in ("snapshot-4d.bin", "segment-000000000000004d.log", snapshot_name(1) + ".damaged", "snapshot.tmp"):
        assert snapshot_instance(name) is None


# --- what the operating system says ---


def test_a_full_disk_is_named_with_the_file(tmp_path: Path) -> None:
    """Writes to an open file do not say by themselves which one it was."""
    (tmp_path / "full").symlink_to("/dev/full")
    with pytest.raises(OSError, match=r"No space left on device: '.*/full'") as caught:
        FolderFiles(tmp_path).write("full", 0, b"bytes")
    assert caught.value.errno == errno.ENOSPC
