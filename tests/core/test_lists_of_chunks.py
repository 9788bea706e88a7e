"""A list of chunks with a false proof beside it: only the whole snapshot shows that, and a liar shows it once."""

from __future__ import annotations

import pytest
from kit.cluster import Cluster, Node, secret
from kit.requests import CHAIN

from smartbft.core.effects import BeginTransfer, FinishTransfer, Send, StoreChunk
from smartbft.core.inputs import SnapshotLoaded, SnapshotLost
from smartbft.core.state_transfer import StateTransfer
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.messages import Checkpoint, FetchChunk, FetchManifest, Gone, Proof, SnapshotChunk, SnapshotManifest
from smartbft.snapshots import Manifest, Snapshot, describe

INSTANCE = 4
LIAR = 3
FALSE = Proof(0, 0, INSTANCE, bytes(32), tuple((signer, bytes(64)) for signer in (0, 1, 2)))
SNAPSHOT = Snapshot(0, INSTANCE, 1, bytes(32), b"", bytes(4), b"state")
DATA = SNAPSHOT.encode(CHAIN)
MANIFEST = describe(CHAIN, INSTANCE, DATA, b"")
LIST = SnapshotManifest(0, 0, INSTANCE, MANIFEST.size, MANIFEST.digest, MANIFEST.hashes, FALSE)


@pytest.fixture
def node() -> Node:
    """A replica that the others' logs do not reach; all of them vouch for a snapshot."""
    node = Cluster().nodes[0]
    for peer in (1, 2, 3):
        payload = node.domains.checkpoint_payload(0, INSTANCE, MANIFEST.size, MANIFEST.digest)
        signature = Ed25519Signer(secret(peer)).sign(payload)
        node.receive(peer, Checkpoint(0, 0, INSTANCE, MANIFEST.size, MANIFEST.digest, signature))
        node.receive(peer, Gone(0, 0, INSTANCE + 1))
    return node


def asked(node: Node, kind: type) -> list[int]:
    """Whom it asked, since the last look."""
    found = [effect.to for effect in node.effects if isinstance(effect, Send) and isinstance(effect.message, kind)]
    node.effects.clear()
    return found


def check_transfer(node: Node, source: int) -> None:
    """The list comes from `source`, the chunk from whoever is asked, and all is for nothing."""
    node.receive(source, LIST)
    assert any(isinstance(effect, BeginTransfer) for effect in node.effects)
    for seeder in asked(node, FetchChunk):
        node.receive(seeder, SnapshotChunk(0, 0, INSTANCE, MANIFEST.digest, 0, DATA))
    assert any(isinstance(effect, StoreChunk) for effect in node.effects)
    assert any(isinstance(effect, FinishTransfer) for effect in node.effects)
    node.effects.clear()


def test_a_list_that_was_not_asked_for_is_dropped(node: Node) -> None:
    [seeder] = asked(node, FetchManifest)
    for other in {1, 2, 3} - {seeder}:
        node.receive(other, LIST)
    assert not [effect for effect in node.effects if isinstance(effect, BeginTransfer)]
    node.receive(seeder, LIST)
    assert [effect for effect in node.effects if isinstance(effect, BeginTransfer)]


@pytest.mark.parametrize("found_by_the_core", [True, False])
def test_each_member_wastes_one_transfer_at_most(node: Node, found_by_the_core: bool) -> None:
    wasted: list[int] = []
    for _ in range(3):
        [seeder] = asked(node, FetchManifest)
        assert seeder not in wasted
        wasted.append(seeder)
        check_transfer(node, seeder)
        loaded = SnapshotLoaded(Manifest(INSTANCE, MANIFEST.digest, MANIFEST.size, MANIFEST.hashes, b""), SNAPSHOT)
        node.step(loaded if found_by_the_core else SnapshotLost())
    assert asked(node, FetchManifest), "it may have been our own disk after all"


def test_planted_bug_whoever_is_first_is_believed(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then one member has everything fetched again for ever."""
    original = StateTransfer._on_manifest

    def on_manifest(self: StateTransfer, sender: int, message: SnapshotManifest) -> None:
        self._lists_asked[sender] = None
        original(self, sender, message)

    monkeypatch.setattr(StateTransfer, "_on_manifest", on_manifest)
    for _ in range(5):
        asked(node, FetchManifest)
        check_transfer(node, LIAR)
        node.step(SnapshotLost())
