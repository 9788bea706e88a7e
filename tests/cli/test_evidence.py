"""``smartbft evidence``: what scripts see of evidence that holds, and of evidence that does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from smartbft.core.evidence import make_evidence
from smartbft.crypto.domains import Domains
from smartbft.crypto.keys import CONSENSUS_KEY, load_signer
from smartbft.messages import Accept
from smartbft.storage.evidence import EvidenceFolder
from smartbft.testnet import Testnet, create_testnet


@pytest.fixture
def network(tmp_path: Path) -> Testnet:
    return create_testnet(tmp_path / "net", transport="plain")


def accept(network: Testnet, digest: bytes) -> Accept:
    """An ACCEPT of replica 2."""
    signer = load_signer(network.replicas[2].keys_folder / CONSENSUS_KEY)
    return Accept(0, 0, 1, digest, signer.sign(Domains(network.genesis.chain_id).accept_payload(0, 0, 1, digest)))


@pytest.fixture
def held(network: Testnet) -> Path:
    """Evidence that replica 0 has against replica 2."""
    made = make_evidence(network.genesis.chain_id, 2, accept(network, bytes(32)), accept(network, b"\1" * 32))
    path = EvidenceFolder(network.replicas[0].evidence_folder).put(2, made.name(), made.encode())
    assert path is not None
    return path


def test_evidence_that_holds(cli, network: Testnet, held: Path) -> None:
    outcome = cli("evidence", "verify", held, "--genesis", network.folder / "genesis.toml")
    assert outcome.code == 0
    assert "replica 2" in outcome.out
    assert "two ACCEPTs" in outcome.out
    facts = json.loads(cli("evidence", "verify", held, "--genesis", network.folder / "genesis.toml", "--json").out)
    assert (facts["holds"], facts["accused"], facts["offence"]) == (True, 2, "two_accepts")
    assert facts["chain"] == network.genesis.chain_id.hex()


def test_evidence_that_does_not_hold_is_a_failed_check_with_a_reason(cli, network: Testnet, tmp_path: Path) -> None:
    genesis = network.folder / "genesis.toml"
    harmless = make_evidence(network.genesis.chain_id, 2, accept(network, bytes(32)), accept(network, bytes(32)))
    framed = make_evidence(network.genesis.chain_id, 1, accept(network, bytes(32)), accept(network, b"\1" * 32))
    for content, word in (
        (harmless.encode(), "do not contradict"),
        (framed.encode(), "did not sign"),
        (b"something else", "not evidence"),
    ):
        file = tmp_path / "some.evidence"
        file.write_bytes(content)
        outcome = cli("evidence", "verify", file, "--genesis", genesis)
        assert outcome.code == 7
        assert word in outcome.err


def test_evidence_of_another_chain_does_not_hold(cli, held: Path, tmp_path: Path) -> None:
    other = create_testnet(tmp_path / "other", transport="plain", chain_name="other")
    outcome = cli("evidence", "verify", held, "--genesis", other.folder / "genesis.toml")
    assert outcome.code == 7
    assert "about chain" in outcome.err


def test_a_missing_file_or_genesis_is_a_configuration_error(cli, network: Testnet, held: Path, tmp_path: Path) -> None:
    assert cli("evidence", "verify", tmp_path / "none", "--genesis", network.folder / "genesis.toml").code == 3
    assert cli("evidence", "verify", held, "--genesis", tmp_path / "none.toml").code == 3
    assert cli("evidence", "verify", held).code == 2


def test_list(cli, network: Testnet, held: Path) -> None:
    home = network.replicas[0].home
    (home / "evidence" / "3-damaged.evidence").write_bytes(b"x")
    rows = json.loads(cli("evidence", "list", home, "--json").out)
    assert [(row["accused"], row["holds"]) for row in rows] == [(2, True), (None, False)]
    assert "two ACCEPTs" in cli("evidence", "list", home).out
    assert "no evidence" in cli("evidence", "list", network.replicas[1].home).err
