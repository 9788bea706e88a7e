"""A stored snapshot whose proof does not hold is not taken up at the start: others would not believe what it proves."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from smartbft import LocalCluster
from smartbft.apps import counter
from smartbft.core.validation import Validator
from smartbft.messages import decode_proof, encode_proof
from smartbft.storage import SNAPSHOT_FOLDER, FolderFiles, SnapshotStore
from smartbft.storage.snapshots import snapshot_name
from smartbft.types import Parameters

Run = Callable[[Callable[[], Awaitable[None]]], None]
INTERVAL = 4
QUICK = Parameters(
    request_timeout=400_000, resend_interval=50_000, progress_interval=50_000, checkpoint_interval=INTERVAL
)


def with_a_false_signature(encoded: bytes) -> bytes:
    proof = decode_proof(encoded)
    signer, _ = proof.signatures[0]
    return encode_proof(replace(proof, signatures=((signer, bytes(64)), *proof.signatures[1:])))


def of_the_decision_before(encoded: bytes) -> bytes:
    proof = decode_proof(encoded)
    return encode_proof(replace(proof, instance=proof.instance - 1))


def exchange_proof(folder: Path, chain_id: bytes, change: Callable[[bytes], bytes]) -> tuple[int, int]:
    """Store the newest snapshot with another proof, as a transfer without a check would have. Returns the instances of
    the one before it, and of it.
    """
    store = SnapshotStore(FolderFiles(folder), chain_id)
    found = store.open()
    newest = found.newest
    assert newest is not None
    before, manifest = found.manifests
    store.write(newest, change(manifest.proof), keep=(before.instance,))
    return before.instance, newest.instance


async def in_step(cluster: LocalCluster) -> None:
    """Wait until all have decided the same: one that falls behind may fetch a snapshot, and its log does not reach from
    the snapshot before to that one; who serves it keeps more of them meanwhile.
    """
    while len({(await replica.status())["decided"] for replica in cluster.replicas.values()}) > 1:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("change", [with_a_false_signature, of_the_decision_before])
def test_it_is_set_aside_and_the_one_before_is_used(run: Run, tmp_path: Path, change: Callable[[bytes], bytes]) -> None:
    folder = tmp_path / "replica-0" / "data" / SNAPSHOT_FOLDER

    async def scenario() -> None:
        async with (
            LocalCluster(4, counter.Counter, "async", folder=tmp_path, parameters=QUICK) as cluster,
            cluster.client(retransmit=0.2) as client,
        ):
            while len(list(folder.glob("snapshot-*.bin"))) < 2:
                await client.invoke(counter.add(1))
                await in_step(cluster)
            await cluster.stop(0)
            before, instance = exchange_proof(folder, cluster.genesis.chain_id, change)
            await cluster.start(0)
            assert (folder / (snapshot_name(instance) + ".damaged")).exists()
            status = await cluster.replicas[0].status()
            assert status["checkpoint"] == before
            assert status["decided"] >= instance, "the log goes on after the snapshot before"
            assert not status["learns"]
            while (await cluster.replicas[0].status())["checkpoint"] <= instance:
                await client.invoke(counter.add(1))

    run(scenario)


def test_one_with_a_good_proof_is_taken_up(run: Run, tmp_path: Path) -> None:
    with pytest.raises(AssertionError):
        test_it_is_set_aside_and_the_one_before_is_used(run, tmp_path, lambda proof: proof)


def test_planted_bug_stored_proofs_are_believed(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Validator, "check_snapshot", lambda self, manifest, snapshot: None)
    with pytest.raises(AssertionError):
        test_it_is_set_aside_and_the_one_before_is_used(run, tmp_path, with_a_false_signature)
