"""Snapshots on disk: written whole or not at all, read back with every chunk checked, and the one that is arriving.

A file holds the manifest and the snapshot (docs/snapshot-format.md). A damaged one is set aside, and the one before it
is used. A transfer's file has the same form and fills up in any order; what is in it survives a restart.
"""

from __future__ import annotations

import contextlib
import logging
import struct
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from blake3 import blake3

from smartbft.errors import CorruptSnapshot, LocalProtocolError, RemoteProtocolError
from smartbft.limits import DIGEST_BYTES, MAX_SNAPSHOT_BYTES, SNAPSHOT_CHUNK_BYTES, SNAPSHOTS_KEPT
from smartbft.snapshots import (
    FoundSnapshots,
    Manifest,
    Partial,
    Snapshot,
    chunk_count,
    cut,
    describe_pieces,
    snapshot_digest,
)
from smartbft.storage.files import Files, FolderFiles

logger = logging.getLogger(__name__)

SNAPSHOT_FOLDER = "snapshots"  # in the data folder

_MAGIC = b"SBFTSNPF"
_VERSION = 1
# magic, format version, length of the proof, instance, size, digest, chain id
_HEADER = struct.Struct("<8sIIQQ32s32s")
_CHECKSUM_BYTES = 32
_TEMPORARY = "snapshot.tmp"
_PARTIAL = "transfer.partial"
_DAMAGED = ".damaged"
# A snapshot is synced in pieces, so that the syncs of the log never wait long behind it.
_SYNC_EVERY_BYTES = 16 * SNAPSHOT_CHUNK_BYTES


def snapshot_name(instance: int) -> str:
    """The file name of a snapshot."""
    return f"snapshot-{instance:016x}.bin"


def snapshot_instance(name: str) -> int | None:
    """The instance in a snapshot's file name; None for any other name."""
    try:
        instance = int(name.removeprefix("snapshot-").removesuffix(".bin"), 16)
    except ValueError:
        return None
    return instance if snapshot_name(instance) == name else None


def read_snapshots(folder: Path, chain_id: bytes) -> list[Snapshot]:
    """The intact snapshots below a data folder, oldest first; read-only, for the data of a stopped replica."""
    store = SnapshotStore(FolderFiles(folder / SNAPSHOT_FOLDER), chain_id)
    found = []
    for name in store.names():
        try:
            found.append(store.read(name))
        except CorruptSnapshot as error:
            logger.warning("%s is damaged: %s", name, error)
    return found


class SnapshotStore:
    """The snapshots of one replica. Writing is for one thread at a time; chunks may be read from another meanwhile.

    Args:
        files: the folder.
        chain_id: 32 bytes; snapshots of other chains are refused.
        check: whether a snapshot's proof holds (`Validator.check_snapshot`), which others may have sent; raises
            RemoteProtocolError. Called when one is about to be taken up, before it takes the place of another; on the
            thread of the caller.
    """

    def __init__(
        self, files: Files, chain_id: bytes, check: Callable[[Manifest, Snapshot], None] = lambda *_: None
    ) -> None:
        self._files = files
        self._chain_id = chain_id
        self._check = check
        self._manifests: dict[int, Manifest] = {}
        self._arriving: Manifest | None = None

    def open(self) -> FoundSnapshots:
        """Find what earlier runs left. Raises OSError: the folder cannot be read."""
        found = FoundSnapshots()
        self._files.remove(_TEMPORARY)
        instances = [at for name in self._files.names() if (at := snapshot_instance(name)) is not None]
        for instance in sorted(instances, reverse=True):
            try:
                manifest, data = self._read_whole(snapshot_name(instance))
                if manifest.instance != instance:
                    raise CorruptSnapshot(f"it is of instance {manifest.instance}")
                snapshot = self._decode(manifest, data)
            except CorruptSnapshot as error:
                self._set_aside(snapshot_name(instance), error)
                found.damaged.append(snapshot_name(instance))
                continue
            found.newest = found.newest or snapshot
            found.manifests.insert(0, manifest)
            self._manifests[instance] = manifest
        found.partial = self._find_partial()
        return found

    def names(self) -> list[str]:
        """The snapshot files there are, oldest first."""
        return [name for name in self._files.names() if snapshot_instance(name) is not None]

    def read(self, name: str) -> Snapshot:
        """A snapshot, checked. Raises CorruptSnapshot, OSError."""
        return Snapshot.decode(self._read_whole(name)[1], self._chain_id)

    def write(self, snapshot: Snapshot, proof: bytes, keep: Collection[int] = ()) -> Manifest:
        """Write a snapshot and drop the oldest beyond `limits.SNAPSHOTS_KEPT`, but for those of the instances in
        `keep`; it is durable on return.

        Raises:
            CorruptSnapshot: it is too large.
            OSError: the disk failed; what was written of it is gone, so that it takes no room from the log.
        """
        manifest = self.describe(snapshot, proof)
        self._files.remove(_TEMPORARY)
        try:
            self._write_temporary(manifest, self._pieces(snapshot))
        except OSError:
            with contextlib.suppress(OSError):
                self._files.remove(_TEMPORARY)
            raise
        self._keep(_TEMPORARY, manifest, keep)
        return manifest

    def _write_temporary(self, manifest: Manifest, pieces: Iterable[bytes]) -> None:
        at = self._write_manifest(_TEMPORARY, manifest)
        for piece in pieces:
            self._files.write(_TEMPORARY, at, piece)
            self._files.sync(_TEMPORARY)
            at += len(piece)

    def describe(self, snapshot: Snapshot, proof: bytes) -> Manifest:
        """The manifest that `write` would write. Raises CorruptSnapshot: it is too large."""
        return describe_pieces(self._chain_id, snapshot.instance, self._pieces(snapshot), proof)

    def _pieces(self, snapshot: Snapshot) -> Iterator[bytes]:
        return cut(snapshot.parts(self._chain_id), _SYNC_EVERY_BYTES)

    def manifest(self, instance: int, digest: bytes) -> Manifest | None:
        """The manifest of a snapshot that is here."""
        known = self._manifests.get(instance)
        return known if known is not None and known.digest == digest else None

    def chunk(self, instance: int, digest: bytes, index: int) -> bytes | None:
        """A chunk of a snapshot; None: it is not here, or cannot be read whole (then the file is set aside)."""
        manifest = self.manifest(instance, digest)
        if manifest is None or not 0 <= index < manifest.count:
            return None
        name = snapshot_name(instance)
        try:
            chunk = self._files.read(name, _offset(manifest, index), manifest.length(index))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._give_up(instance, CorruptSnapshot(f"chunk {index} cannot be read: {error}"))
            return None
        if not manifest.matches(self._chain_id, index, chunk):
            self._give_up(instance, CorruptSnapshot(f"chunk {index} is damaged"))
            return None
        return chunk

    def _give_up(self, instance: int, error: CorruptSnapshot) -> None:
        """Serve a snapshot no more. It may have been dropped meanwhile, and a bad disk is no reason to stop serving."""
        self._manifests.pop(instance, None)
        try:
            self._set_aside(snapshot_name(instance), error)
        except OSError as problem:
            logger.warning("%s stays where it is: %s", snapshot_name(instance), problem)

    # A snapshot that arrives

    def begin_transfer(self, manifest: Manifest) -> None:
        """Make room for a snapshot; an unfinished one of another digest is dropped."""
        self._files.remove(_PARTIAL)
        self._write_manifest(_PARTIAL, manifest)
        self._files.sync(_PARTIAL)
        self._arriving = manifest

    def put_chunk(self, index: int, chunk: bytes) -> None:
        """Store a chunk that was checked."""
        manifest = self._transfer()
        self._files.write(_PARTIAL, _offset(manifest, index), chunk)

    def keep_rehearsed(self, snapshot: Snapshot, proof: bytes) -> None:
        """As `write`, for a snapshot that takes the place of the one that has arrived. Raises as `write`."""
        self.write(snapshot, proof)
        self._files.remove(_PARTIAL)

    def finish_transfer(self, *, keep: bool = True) -> tuple[Manifest, Snapshot]:
        """All chunks are here: check the whole once more, and keep it as a snapshot; it is durable on return. With
        `keep` False it stays what it is, a transfer.

        Raises:
            CorruptSnapshot: what was stored is not what was checked, or its proof is bad: the transfer begins again.
            OSError: the disk failed.
        """
        self._transfer()
        self._arriving = None
        self._files.sync(_PARTIAL)
        try:
            manifest, data = self._read_whole(_PARTIAL)
            snapshot = self._decode(manifest, data)
        except CorruptSnapshot:
            self._files.remove(_PARTIAL)
            raise
        if keep:
            self._keep(_PARTIAL, manifest)
        return manifest, snapshot

    # Files

    def _decode(self, manifest: Manifest, data: bytes) -> Snapshot:
        """Raises CorruptSnapshot: it is none, or its proof does not hold."""
        snapshot = Snapshot.decode(data, self._chain_id)
        try:
            self._check(manifest, snapshot)
        except RemoteProtocolError as error:
            raise CorruptSnapshot(f"its proof does not hold: {error}") from None
        return snapshot

    def _transfer(self) -> Manifest:
        if self._arriving is None:
            raise LocalProtocolError("no snapshot is arriving")
        return self._arriving

    def _keep(self, name: str, manifest: Manifest, keep: Collection[int] = ()) -> None:
        self._files.rename(name, snapshot_name(manifest.instance))
        self._files.sync_folder()
        self._manifests[manifest.instance] = manifest
        for instance in sorted(self._manifests)[:-SNAPSHOTS_KEPT]:
            if instance not in keep:
                self._manifests.pop(instance, None)  # the thread that serves may have given it up meanwhile
                self._files.remove(snapshot_name(instance))

    def _write_manifest(self, name: str, manifest: Manifest) -> int:
        header = _HEADER.pack(
            _MAGIC,
            _VERSION,
            len(manifest.proof),
            manifest.instance,
            manifest.size,
            manifest.digest,
            self._chain_id,
        )
        rest = manifest.hashes + manifest.proof
        self._files.write(name, 0, header + blake3(header + rest).digest() + rest)
        return _offset(manifest, 0)

    def _read_manifest(self, name: str) -> Manifest:
        """Raises CorruptSnapshot."""
        start = self._files.read(name, 0, _HEADER.size + _CHECKSUM_BYTES)
        if len(start) < _HEADER.size + _CHECKSUM_BYTES:
            raise CorruptSnapshot(f"the file ends after {len(start)} bytes")
        magic, version, proof, instance, size, digest, chain = _HEADER.unpack_from(start)
        if magic != _MAGIC or version != _VERSION or size > MAX_SNAPSHOT_BYTES or proof > MAX_SNAPSHOT_BYTES:
            raise CorruptSnapshot(f"no snapshot file of format version {_VERSION}")
        hashes = chunk_count(size) * DIGEST_BYTES
        rest = self._files.read(name, len(start), hashes + proof)
        if blake3(start[: _HEADER.size] + rest).digest() != start[_HEADER.size :]:
            raise CorruptSnapshot("its manifest is damaged")
        if chain != self._chain_id:
            raise CorruptSnapshot(f"it is of chain {chain.hex()}")
        manifest = Manifest(instance, digest, size, rest[:hashes], rest[hashes:])
        if snapshot_digest(manifest.hashes) != digest:
            raise CorruptSnapshot("its list of hashes does not have its digest")
        return manifest

    def _read_whole(self, name: str) -> tuple[Manifest, bytes]:
        """Raises CorruptSnapshot: a chunk is missing or damaged."""
        manifest = self._read_manifest(name)
        chunks = []
        for index, chunk in self._chunks(name, manifest):
            if not manifest.matches(self._chain_id, index, chunk):
                raise CorruptSnapshot(f"chunk {index} of {manifest.count} is damaged")
            chunks.append(chunk)
        return manifest, b"".join(chunks)

    def _chunks(self, name: str, manifest: Manifest) -> Iterator[tuple[int, bytes]]:
        for index in range(manifest.count):
            yield index, self._files.read(name, _offset(manifest, index), manifest.length(index))

    def _find_partial(self) -> Partial | None:
        if _PARTIAL not in self._files.names():
            return None
        try:
            manifest = self._read_manifest(_PARTIAL)
        except CorruptSnapshot:
            self._files.remove(_PARTIAL)
            return None
        if manifest.instance <= max(self._manifests, default=0):
            self._files.remove(_PARTIAL)
            return None
        self._arriving = manifest
        chunks = self._chunks(_PARTIAL, manifest)
        here = tuple(index for index, chunk in chunks if manifest.matches(self._chain_id, index, chunk))
        return Partial(manifest, here)

    def _set_aside(self, name: str, error: CorruptSnapshot) -> None:
        """Kept for whoever wants to know what happened, but no more of them than of others: each is as large as the
        state.
        """
        logger.warning("%s is damaged and set aside as %s: %s", name, name + _DAMAGED, error)
        damaged = [other for other in self._files.names() if other.endswith(_DAMAGED) and other != name + _DAMAGED]
        for oldest in damaged[: len(damaged) + 1 - SNAPSHOTS_KEPT]:
            self._files.remove(oldest)
        self._files.rename(name, name + _DAMAGED)
        self._files.sync_folder()


def _offset(manifest: Manifest, index: int) -> int:
    start = _HEADER.size + _CHECKSUM_BYTES + len(manifest.hashes) + len(manifest.proof)
    return start + index * SNAPSHOT_CHUNK_BYTES
