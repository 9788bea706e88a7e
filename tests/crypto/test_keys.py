"""Key files and certificates: modes, exclusive creation, pinning."""

from __future__ import annotations

import errno
import os
import re
import ssl
import stat
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

pytest.importorskip("smartbft._fastpath.verify")

from smartbft.crypto.certificates import fingerprint, fingerprint_of, make_certificate
from smartbft.crypto.keys import generate_key, load_replica_keys, load_signer, write_secret
from smartbft.errors import ConfigError
from smartbft.net.tls import acceptor_context
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


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        (lambda good: b"", "is not a key file: it is empty"),
        (lambda good: b"\n", "is not a key file: it is empty"),
        (lambda good: good.rstrip(b"\n"), "the newline at its end is missing"),
        (lambda good: good.replace(b"\n", b"\r\n"), "as on Windows (CRLF)"),
        (lambda good: good.replace(b"\n", b"\r"), "as on Windows (CRLF)"),
        (lambda good: good + b"\n", "blank lines at its end"),
        (lambda good: good + b" \n\n", "blank lines at its end"),
        (lambda good: good + good, "goes on after its second line"),
        (lambda good: b"\xef\xbb\xbf" + good, "begins with a byte order mark"),
        (lambda good: good.decode().encode("utf-16"), "is UTF-16 text"),
        (lambda good: good.decode().encode("utf-16-le"), "UTF-16"),
        (lambda good: good.partition(b"\n")[2], "its first line, 'smartbft ed25519 secret', is missing"),
        (lambda good: b"\n" + good, "is not a key file"),
        (lambda good: good.partition(b"\n")[0] + b"\n", "(it is missing)"),
        (lambda good: good[:-9] + b"\n", "(it has 56 characters)"),
        (lambda good: good[:-1] + b" \n", "(it has spaces around it)"),
        (lambda good: good[:-2] + b"x\n", "(it has other characters)"),
        (lambda good: good[:24] + b"A" + good[25:], "(its letters are capitals)"),
        (lambda good: make_certificate("replica 0")[0], "a PEM file"),
    ],
)
def test_what_is_wrong_with_a_key_file_is_said_and_nothing_of_the_secret(
    tmp_path: Path, spoil: Callable[[bytes], bytes], problem: str
) -> None:
    generate_key(tmp_path / "good.key")
    good = (tmp_path / "good.key").read_bytes()
    write_secret(tmp_path / "a.key", spoil(good))
    with pytest.raises(ConfigError, match=re.escape(problem)) as caught:
        load_signer(tmp_path / "a.key")
    assert str(tmp_path / "a.key") in str(caught.value)
    assert good[30:40].decode() not in str(caught.value)


@dataclass
class Owned:
    """Whose a file is, and as whom this process runs."""

    owner: int
    group: int
    user: int
    groups: tuple[int, ...]

    def pretend(self, monkeypatch: pytest.MonkeyPatch) -> None:
        look = os.fstat

        def status(descriptor: int) -> os.stat_result:
            found = list(look(descriptor))
            found[stat.ST_UID], found[stat.ST_GID] = self.owner, self.group
            return os.stat_result(found)

        monkeypatch.setattr(os, "fstat", status)
        monkeypatch.setattr(os, "geteuid", lambda: self.user)
        monkeypatch.setattr(os, "getegid", lambda: self.groups[0])
        monkeypatch.setattr(os, "getgroups", lambda: list(self.groups[1:]))


MOUNTED = Owned(owner=0, group=2000, user=1000, groups=(1000, 2000))


@pytest.mark.parametrize("mode", [0o440, 0o640, 0o400])
@pytest.mark.parametrize(
    "owned", [MOUNTED, replace(MOUNTED, groups=(2000,)), replace(MOUNTED, user=0)], ids=["more", "own", "root"]
)
def test_a_key_that_root_shares_with_a_group_of_ours_is_fine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owned: Owned, mode: int
) -> None:
    """Secrets in containers look like this."""
    generate_key(tmp_path / "a.key")
    made = load_signer(tmp_path / "a.key").public_key
    (tmp_path / "a.key").chmod(mode)
    owned.pretend(monkeypatch)
    assert load_signer(tmp_path / "a.key").public_key == made


@pytest.mark.parametrize(
    ("owned", "mode"),
    [
        (MOUNTED, 0o444),  # others
        (MOUNTED, 0o460),  # the group may write
        (MOUNTED, 0o450),
        (replace(MOUNTED, group=3000), 0o440),  # a group of others
        (replace(MOUNTED, owner=1000), 0o440),  # ours: nothing forces us to share it
        (replace(MOUNTED, owner=1001), 0o440),
        (replace(MOUNTED, group=0, user=0, groups=(0,)), 0o440),
    ],
)
def test_a_key_that_more_than_that_can_reach_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owned: Owned, mode: int
) -> None:
    generate_key(tmp_path / "a.key")
    (tmp_path / "a.key").chmod(mode)
    owned.pretend(monkeypatch)
    said = rf"is open to others \(mode {mode:04o}, owner {owned.owner}, group {owned.group}\)"
    with pytest.raises(ConfigError, match=said):
        load_signer(tmp_path / "a.key")


def test_a_key_that_may_not_be_read_says_whose_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generate_key(tmp_path / "a.key")

    def refused(self: Path, mode: str) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(ConfigError, match=r"Permission denied \(mode 0600, owner \d+, group \d+; this process runs as"):
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


def in_der_form(pem: bytes) -> bytes:
    return ssl.PEM_cert_to_DER_cert(pem.decode())


def encrypted(key: bytes) -> bytes:
    """The same key behind a passphrase."""
    private = serialization.load_pem_private_key(key, None)
    protection = serialization.BestAvailableEncryption(b"secret")
    return private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)


def in_the_form_of_openssh(key: bytes) -> bytes:
    private = serialization.load_pem_private_key(key, None)
    form = serialization.PrivateFormat.OpenSSH
    return private.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


@pytest.mark.parametrize(
    ("name", "spoil", "problem"),
    [
        ("tls.key", lambda key, crt: b"", "it is empty"),
        ("tls.key", lambda key, crt: crt, "it is a certificate: were two files exchanged?"),
        ("tls.key", lambda key, crt: encrypted(key), "it is encrypted, and a replica asks nobody for a passphrase"),
        ("tls.key", lambda key, crt: in_the_form_of_openssh(key), "a key of OpenSSH"),
        ("tls.key", lambda key, crt: key[:-30], "it is cut off"),
        ("tls.key", lambda key, crt: b"\xef\xbb\xbf" + key, "it begins with a byte order mark"),
        ("tls.key", lambda key, crt: key.decode().encode("utf-16"), "it is UTF-16 text"),
        ("tls.key", lambda key, crt: b"smartbft ed25519 secret\n", "it has no line '-----BEGIN PRIVATE KEY-----'"),
        ("tls.crt", lambda key, crt: b"", "it is empty"),
        ("tls.crt", lambda key, crt: key, "it is a private key: were two files exchanged?"),
        ("tls.crt", lambda key, crt: in_der_form(crt), "it is in DER form"),
        ("tls.crt", lambda key, crt: crt[:-30], "it is cut off"),
        ("tls.crt", lambda key, crt: crt.replace(b"MII", b"M!I"), "damaged|wrong home folder"),
        ("tls.crt", lambda key, crt: b"\xef\xbb\xbf" + crt, "it begins with a byte order mark"),
        ("tls.crt", lambda key, crt: b"-----END CERTIFICATE-----\n" + crt[:-30], "it is damaged"),
        ("tls.crt", lambda key, crt: crt.replace(b"CERTIFICATE", b"CERTIFICATE REQUEST"), "a certificate request"),
    ],
)
def test_what_is_wrong_with_the_files_of_tls_is_said(
    tmp_path: Path, name: str, spoil: Callable[[bytes, bytes], bytes], problem: str
) -> None:
    network = create_testnet(tmp_path / "net", 1)
    config = network.replicas[0]
    key, certificate = ((config.keys_folder / file).read_bytes() for file in ("tls.key", "tls.crt"))
    (config.keys_folder / name).write_bytes(spoil(key, certificate))
    with pytest.raises(ConfigError, match=problem.replace("?", r"\?")) as caught:
        load_replica_keys(config, network.genesis)
    assert caught.value.file == str(config.keys_folder / name)


@pytest.mark.parametrize(
    "harmless",
    [
        lambda crt: crt.rstrip(b"\n"),
        lambda crt: crt.replace(b"\n", b"\r\n"),
        lambda crt: b"subject=/CN=replica 0\n" + crt,
        lambda crt: crt + make_certificate("another")[1],
    ],
    ids=["no newline", "CRLF", "text before", "a chain"],
)
def test_what_tls_does_not_mind_in_a_certificate_is_fine(tmp_path: Path, harmless: Callable[[bytes], bytes]) -> None:
    network = create_testnet(tmp_path / "net", 1)
    path = network.replicas[0].keys_folder / "tls.crt"
    path.write_bytes(harmless(path.read_bytes()))
    keys = load_replica_keys(network.replicas[0], network.genesis)
    acceptor_context(keys.tls_certificate, keys.tls_key)


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
