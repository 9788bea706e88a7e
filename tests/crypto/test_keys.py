"""Key files and certificates: modes, exclusive creation, pinning."""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path

import pytest

pytest.importorskip("smartbft._fastpath.verify")

from smartbft.crypto.certificates import fingerprint, fingerprint_of, make_certificate
from smartbft.crypto.keys import generate_key, load_replica_keys, load_signer, write_secret
from smartbft.errors import ConfigError
from smartbft.testnet import create_testnet


def test_a_key_comes_back_with_the_same_public_key(tmp_path: Path) -> None:
    signer = generate_key(tmp_path / "a.key")
    assert load_signer(tmp_path / "a.key").public_key == signer.public_key
    assert stat.S_IMODE((tmp_path / "a.key").stat().st_mode) == 0o600


def test_a_key_is_never_overwritten(tmp_path: Path) -> None:
    generate_key(tmp_path / "a.key")
    before = (tmp_path / "a.key").read_bytes()
    with pytest.raises(ConfigError, match="never overwritten"):
        generate_key(tmp_path / "a.key")
    assert (tmp_path / "a.key").read_bytes() == before


def test_a_key_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "a.key").symlink_to(tmp_path / "target")
    with pytest.raises(ConfigError):
        generate_key(tmp_path / "a.key")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601, 0o666])
def test_a_key_that_others_can_reach_is_refused(tmp_path: Path, mode: int) -> None:
    generate_key(tmp_path / "a.key")
    (tmp_path / "a.key").chmod(mode)
    with pytest.raises(ConfigError, match="open to others"):
        load_signer(tmp_path / "a.key")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff" * 64,
        b"smartbft ed25519 secret\n",
        b"smartbft ed25519 secret\nzz\n",
        b"0" * 64,
        b"smartbft ed25519 secret\n" + b"0f" * 31 + b"\n",
        b"smartbft ed25519 secret\n" + b"0f " * 32 + b"\n",  # Python would read these digits
        b"smartbft ed25519 secret\n" + b"0F" * 32 + b"\n",
        b"smartbft ed25519 secret\r\n" + b"0f" * 32 + b"\n",
    ],
)
def test_a_file_that_is_no_key_is_refused(tmp_path: Path, content: bytes) -> None:
    write_secret(tmp_path / "a.key", content)
    with pytest.raises(ConfigError, match=r"is not a key file|is damaged"):
        load_signer(tmp_path / "a.key")


def test_a_missing_key_and_a_missing_folder_are_configuration_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="smartbft key new"):
        load_signer(tmp_path / "none.key")
    with pytest.raises(ConfigError, match="cannot be written"):
        generate_key(tmp_path / "none" / "a.key")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_signer(tmp_path)


def test_a_certificate_works_for_tls_and_has_the_pinned_fingerprint(tmp_path: Path) -> None:
    private, certificate = make_certificate("replica 0")
    (tmp_path / "tls.key").write_bytes(private)
    (tmp_path / "tls.crt").write_bytes(certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "tls.crt", tmp_path / "tls.key")
    context.load_verify_locations(tmp_path / "tls.crt")
    der = ssl.PEM_cert_to_DER_cert(certificate.decode())
    assert fingerprint(tmp_path / "tls.crt") == fingerprint_of(der)
    (tmp_path / "tls.crt").write_text("nothing")
    with pytest.raises(ConfigError, match="no certificate"):
        fingerprint(tmp_path / "tls.crt")


def test_a_replica_refuses_the_keys_of_another(tmp_path: Path) -> None:
    network = create_testnet(tmp_path / "net")
    first, second = network.replicas[:2]
    keys = load_replica_keys(first, network.genesis)
    assert keys.consensus.public_key == network.genesis.member(0).consensus_key
    os.replace(second.keys_folder / "consensus.key", first.keys_folder / "consensus.key")
    with pytest.raises(ConfigError, match="wrong home folder"):
        load_replica_keys(first, network.genesis)


@pytest.mark.parametrize("name", ["permanent.key", "consensus.key", "tls.key"])
def test_a_lost_key_of_a_replica_cannot_be_made_anew(tmp_path: Path, name: str) -> None:
    network = create_testnet(tmp_path / "net", 1)
    config = network.replicas[0]
    (config.keys_folder / name).unlink()
    with pytest.raises(ConfigError, match=f"{name}: is missing: bring it back from a copy"):
        load_replica_keys(config, network.genesis)


def test_a_replica_that_is_not_in_the_genesis_is_refused(tmp_path: Path) -> None:
    small, large = create_testnet(tmp_path / "small", 1), create_testnet(tmp_path / "large")
    with pytest.raises(ConfigError, match="replica 3 is not in the genesis"):
        load_replica_keys(large.replicas[3], small.genesis)
