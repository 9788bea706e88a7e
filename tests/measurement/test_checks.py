"""The checks after a run, each shown to fail on what it is there to find."""

from __future__ import annotations

from pathlib import Path

import pytest

from smartbft.apps.coin import CoinApplication
from smartbft.core.records import decision_record, value_record
from smartbft.crypto.domains import Domains
from smartbft.errors import CorruptLog
from smartbft.measurement import checks
from smartbft.measurement.requests import distribute, split_frames
from smartbft.messages import Proof
from smartbft.smr.application import ExecutionContext
from smartbft.storage.log import ReplicaLog
from smartbft.testnet import Testnet, create_testnet
from smartbft.types import Value

A, B, C = bytes([1]) * 32, bytes([2]) * 32, bytes([3]) * 32


def contents(*digests: bytes, state: bytes = A, supply: int = 5, minted: int = 5) -> checks.LogContents:
    return checks.LogContents(1, dict.fromkeys(digests, 1), state, supply, minted)


def later(*digests: bytes, first: int = 2, before: int = 1, state: bytes = C) -> checks.LogContents:
    """A log that begins at a checkpoint."""
    return checks.LogContents(1, dict.fromkeys(digests, first), state, 5, 5, first, before)


def test_equal_states() -> None:
    assert checks.same_state({0: "aa", 1: "aa"}).passed
    assert not checks.same_state({0: "aa", 1: "ab"}).passed
    assert not checks.same_state({}).passed


def test_logs_that_replay_to_another_state() -> None:
    live = {0: A.hex(), 1: A.hex()}
    assert checks.replayed_state({0: contents(), 1: contents()}, live).passed
    assert not checks.replayed_state({0: contents(), 1: contents(state=B)}, live).passed
    assert not checks.replayed_state({0: contents(), 1: contents()}, {0: A.hex()}).passed
    assert not checks.replayed_state({}, {}).passed


@pytest.mark.parametrize("wrong", [contents(supply=6), contents(minted=6), contents(supply=4, minted=4)])
def test_money_made_or_lost(wrong: checks.LogContents) -> None:
    assert checks.money_conserved({0: contents(), 1: contents()}, 5).passed
    assert not checks.money_conserved({0: contents(), 1: wrong}, 5).passed


def test_a_missing_acknowledged_transaction() -> None:
    assert checks.nothing_lost({0: contents(A, B, C), 1: contents(A, B)}, A + B).passed
    found = checks.nothing_lost({0: contents(A, B), 1: contents(A, C)}, A + B)
    assert not found.passed
    assert "replica 1 lacks 1" in found.detail
    assert not checks.nothing_lost({}, A).passed


def test_logs_that_begin_at_a_checkpoint() -> None:
    before, live = checks.LogContents(2, {A: 1, B: 2}, C, 5, 5), {0: C.hex(), 1: C.hex()}
    assert checks.nothing_lost({0: before, 1: later(B)}, A + B).passed
    found = checks.nothing_lost({0: before, 1: later()}, A + B)
    assert not found.passed
    assert "replica 1 lacks 1" in found.detail
    # Without a log that goes back to the beginning, the snapshots count what was before.
    assert checks.nothing_lost({0: later(B), 1: later(B)}, A + B).passed
    assert not checks.nothing_lost({0: later(B), 1: later(B, before=0)}, A + B).passed
    assert not checks.nothing_lost({0: later(B), 1: later(B)}, A + B + C).passed
    found = checks.replayed_state({0: before, 1: later(B)}, live, lost=[1])
    assert found.passed
    assert found.detail == (
        "1 or 2 instances; replica 1 rebuilt its log; replica 1 from instance 2 on, with a snapshot of 1 requests"
    )
    assert not checks.replayed_state({0: before, 1: later(B, state=b"")}, live).passed
    assert not checks.money_conserved({1: later(B)}, 0).passed


def test_a_log_that_was_removed_is_named() -> None:
    live = {0: A.hex(), 1: A.hex()}
    found = checks.replayed_state({0: contents(), 1: contents()}, live, lost=[1])
    assert found.passed
    assert "replica 1 rebuilt its log" in found.detail
    assert not checks.replayed_state({0: contents(), 1: contents(state=B)}, live, lost=[1]).passed


def test_refusals_and_rejections() -> None:
    assert checks.all_executed({0: 7, 1: 0}, {0: 7}, 0, 0).passed
    assert not checks.all_executed({0: 7, 1: 1}, {0: 7}, 0, 0).passed
    assert not checks.all_executed({0: 7}, {0: 6, 3: 1}, 0, 0).passed


def test_a_replica_that_did_not_end_well() -> None:
    assert checks.clean_exits({0: 0, 1: 0}).passed
    assert not checks.clean_exits({0: 0, 1: -9}).passed


@pytest.fixture
def network(tmp_path: Path) -> Testnet:
    return create_testnet(tmp_path / "net", 1, segment_bytes=65536)


def write_log(network: Testnet, *, swap: bool = False, forget: bool = False) -> tuple[bytes, bytes]:
    """A log with one decided batch (a MINT and a SPEND); returns the digests and the state after it."""
    genesis, config = network.genesis, network.replicas[0]
    domains = Domains(genesis.chain_id)
    traffic = distribute(genesis.chain_id, network.signer("minter"), 1, [A, B], 10).traffic
    data = b"".join(len(request).to_bytes(4, "little") + request for request in split_frames(traffic))
    digests = traffic.digests[32:] + traffic.digests[:32] if swap else traffic.digests
    value = Value(1, digests).encode()
    proof = Proof(0, 0, 1, domains.value_digest(value), ())
    with ReplicaLog(config.data_folder, genesis.chain_id, 0, mode="sync", segment_bytes=65536) as log:
        log.append([value_record(1, 0, 0, 2, value, data)])
        if not forget:
            log.append([decision_record(1, proof)])
    application = CoinApplication(genesis.chain_id, [network.signer("minter").public_key])
    application.execute_batch(data, ExecutionContext(1, 1, bytes(32)))
    return traffic.digests, application.digest()


def test_a_log_is_read_and_executed_again(network: Testnet) -> None:
    digests, state = write_log(network)
    found = checks.read_log(network.replicas[0].data_folder, network.genesis, 0)
    assert found.instances == 1
    assert set(found.digests) == set(checks.split_digests(digests))
    assert found.state_digest == state
    assert found.supply == found.minted == 20


def test_a_log_without_the_decision_lacks_its_transactions(network: Testnet) -> None:
    digests, _ = write_log(network, forget=True)
    found = checks.read_log(network.replicas[0].data_folder, network.genesis, 0)
    assert not checks.nothing_lost({0: found}, digests).passed


def test_requests_that_are_not_the_decided_ones_are_found(network: Testnet) -> None:
    write_log(network, swap=True)
    with pytest.raises(CorruptLog, match="not the ones that were decided"):
        checks.read_log(network.replicas[0].data_folder, network.genesis, 0)
