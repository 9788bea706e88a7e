"""The bytes of a snapshot: the state after one instance, canonical, in chunks that can be checked one by one.

Same state, same bytes, on every replica and machine (docs/snapshot-format.md). What differs between replicas, the proof
of the decision, is kept beside the snapshot and outside of its digest.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from smartbft._fastpath.hashing import derive_key, hash_many_packed, keyed_hash, merkle_root
from smartbft.errors import CorruptSnapshot
from smartbft.limits import DIGEST_BYTES, MAX_SNAPSHOT_BYTES, SNAPSHOT_CHUNK_BYTES

FORMAT_VERSION = 1

_MAGIC = b"SBFTSNAP"
# magic, format version, chain id, view, instance, agreed time, value digest; lengths of core, sessions and state
_HEAD = struct.Struct("<8sI32sQQQ32sQQQ")
_CHUNK_CONTEXT = "smartbft v1 snapshot chunk"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a replica is after an instance, as far as all replicas agree on it.

    Attributes:
        view: number of the view in force.
        instance: the last one executed.
        agreed_time: of that instance, microseconds.
        value_digest: what that instance decided.
        core: what the core itself keeps from instance to instance, canonical (`Replica.section`).
        sessions: sessions and replies (`RequestPool.export_sessions`).
        state: the application's snapshot.
    """

    view: int
    instance: int
    agreed_time: int
    value_digest: bytes
    core: bytes
    sessions: bytes
    state: bytes

    def encode(self, chain_id: bytes) -> bytes:
        """Canonical bytes: `parts`, joined. Raises as they do."""
        return b"".join(self.parts(chain_id))

    def parts(self, chain_id: bytes) -> tuple[bytes, bytes, bytes, bytes]:
        """The canonical bytes: a head, the core's section, the sessions, the state.

        Raises:
            CorruptSnapshot: it would be larger than `limits.MAX_SNAPSHOT_BYTES`.
        """
        head = _HEAD.pack(
            _MAGIC,
            FORMAT_VERSION,
            chain_id,
            self.view,
            self.instance,
            self.agreed_time,
            self.value_digest,
            len(self.core),
            len(self.sessions),
            len(self.state),
        )
        size = len(head) + len(self.core) + len(self.sessions) + len(self.state)
        if size > MAX_SNAPSHOT_BYTES:
            raise CorruptSnapshot(f"a snapshot of {size} bytes: at most {MAX_SNAPSHOT_BYTES} can be transferred")
        return head, self.core, self.sessions, self.state

    @classmethod
    def decode(cls, data: bytes, chain_id: bytes) -> Snapshot:
        """Inverse of `encode`.

        Raises:
            CorruptSnapshot: not a snapshot, of another format version, or of another chain.
        """
        if len(data) < _HEAD.size:
            raise CorruptSnapshot(f"a snapshot of {len(data)} bytes is too short")
        magic, version, chain, view, instance, time, value, core, sessions, state = _HEAD.unpack_from(data)
        if magic != _MAGIC or version != FORMAT_VERSION:
            raise CorruptSnapshot(f"no snapshot of format version {FORMAT_VERSION}")
        if chain != chain_id:
            raise CorruptSnapshot(f"a snapshot of chain {chain.hex()}, not of {chain_id.hex()}")
        start, split = _HEAD.size + core, _HEAD.size + core + sessions
        if len(data) != split + state:
            raise CorruptSnapshot(f"a snapshot of {len(data)} bytes, but its parts have {split + state}")
        return cls(view, instance, time, value, data[_HEAD.size : start], data[start:split], data[split:])


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of a snapshot before its chunks are: how each of them is checked.

    Attributes:
        instance: the last one executed.
        digest: Merkle root over `hashes`: what CHECKPOINT messages agree on.
        size: bytes of the snapshot.
        hashes: 32 bytes per chunk, in order.
        proof: that `instance` decided what the snapshot says (an encoded `messages.Proof`); differs between replicas.
    """

    instance: int
    digest: bytes
    size: int
    hashes: bytes
    proof: bytes

    @property
    def count(self) -> int:
        """How many chunks there are."""
        return chunk_count(self.size)

    def hash(self, index: int) -> bytes:
        """The hash of a chunk."""
        return self.hashes[index * DIGEST_BYTES : (index + 1) * DIGEST_BYTES]

    def length(self, index: int) -> int:
        """The bytes of a chunk: all have the same, but for the last."""
        return chunk_length(self.size, index)

    def matches(self, chain_id: bytes, index: int, chunk: bytes) -> bool:
        """Whether `chunk` is the chunk `index` of the snapshot."""
        return len(chunk) == self.length(index) and chunk_hash(chain_id, chunk) == self.hash(index)


@dataclass(frozen=True, slots=True)
class Partial:
    """A snapshot that had begun to arrive before a restart.

    Attributes:
        manifest: of the snapshot.
        chunks: the chunks that are here and intact, ascending.
    """

    manifest: Manifest
    chunks: tuple[int, ...]


@dataclass(slots=True)
class FoundSnapshots:
    """What the earlier lives of a replica left.

    Attributes:
        manifests: of the intact snapshots, oldest first.
        newest: the newest of them, whole.
        partial: a transfer that was under way.
        damaged: names of the files that were set aside.
        trial: whose snapshot was being rehearsed when the process ended, and how many times in a row; None: nobody's.
    """

    manifests: list[Manifest] = field(default_factory=list)
    newest: Snapshot | None = None
    partial: Partial | None = None
    damaged: list[str] = field(default_factory=list)
    trial: tuple[int, int] | None = None


def chunk_count(size: int) -> int:
    """How many chunks a snapshot of so many bytes has."""
    return -(-size // SNAPSHOT_CHUNK_BYTES)


def chunk_length(size: int, index: int) -> int:
    """The bytes of a chunk of a snapshot of `size` bytes; not positive: it has no such chunk."""
    return min(SNAPSHOT_CHUNK_BYTES, size - index * SNAPSHOT_CHUNK_BYTES)


def chunk_hash(chain_id: bytes, chunk: bytes) -> bytes:
    """BLAKE3, keyed for snapshot chunks of one chain."""
    return keyed_hash(derive_key(_CHUNK_CONTEXT, chain_id), chunk)


def chunk_hashes(chain_id: bytes, data: bytes) -> bytes:
    """The hashes of all chunks of a snapshot, 32 bytes each. Releases the GIL."""
    offsets = array("Q", range(0, len(data), SNAPSHOT_CHUNK_BYTES))
    offsets.append(len(data))
    return hash_many_packed(data, offsets, derive_key(_CHUNK_CONTEXT, chain_id))


def snapshot_digest(hashes: bytes) -> bytes:
    """The Merkle root over chunk hashes: it vouches for the list, and the list for each chunk."""
    return merkle_root([hashes[at : at + DIGEST_BYTES] for at in range(0, len(hashes), DIGEST_BYTES)])


def describe(chain_id: bytes, instance: int, data: bytes, proof: bytes) -> Manifest:
    """The manifest of an encoded snapshot."""
    return describe_pieces(chain_id, instance, (data,), proof)


def describe_pieces(chain_id: bytes, instance: int, pieces: Iterable[bytes], proof: bytes) -> Manifest:
    """The manifest of an encoded snapshot that comes in pieces: each but the last has whole chunks."""
    hashes, size = bytearray(), 0
    for piece in pieces:
        hashes += chunk_hashes(chain_id, piece)
        size += len(piece)
    return Manifest(instance, snapshot_digest(bytes(hashes)), size, bytes(hashes), proof)


def cut(parts: Iterable[bytes], length: int) -> Iterator[bytes]:
    """What the parts are together, in pieces of `length` bytes (the last one may be shorter).

    A state may take half of the memory: it is not copied as a whole, nor is the interpreter held while that is done.
    """
    held: list[memoryview] = []
    room = length
    for part in parts:
        rest = memoryview(part)
        while rest:
            held.append(rest[:room])
            rest = rest[room:]
            room -= len(held[-1])
            if not room:
                yield b"".join(held)
                held, room = [], length
    if held:
        yield b"".join(held)
