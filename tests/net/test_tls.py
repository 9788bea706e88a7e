"""TLS is tried before a replica says that it is ready, and nobody is asked for a passphrase."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from kit.patience import PATIENCE_SECONDS, until

from smartbft.crypto.certificates import fingerprint, make_certificate
from smartbft.errors import ConfigError
from smartbft.net.tls import acceptor_context, check_with_itself, dialer_context
from smartbft.net.transport import Dialer
from smartbft.testnet import Testnet, create_testnet
from tests.net.test_transport import PATIENT, Pair, run, tls

assert tls  # a fixture

TLS = list[tuple[ssl.SSLContext, bytes]]


def write_keys(folder: Path) -> tuple[Path, Path, bytes]:
    key, certificate = make_certificate("replica")
    (folder / "tls.key").write_bytes(key)
    (folder / "tls.crt").write_bytes(certificate)
    return folder / "tls.crt", folder / "tls.key", fingerprint(folder / "tls.crt")


def test_contexts_that_work_pass(tmp_path: Path) -> None:
    certificate, key, pinned = write_keys(tmp_path)
    check_with_itself(acceptor_context(certificate, key), dialer_context(), pinned, certificate)


def test_another_certificate_than_the_pinned_one_is_found(tmp_path: Path) -> None:
    certificate, key, _ = write_keys(tmp_path)
    with pytest.raises(ConfigError, match="another certificate than the one that the genesis names"):
        check_with_itself(acceptor_context(certificate, key), dialer_context(), bytes(32), certificate)


def test_contexts_that_have_nothing_in_common_are_found(tmp_path: Path) -> None:
    certificate, key, pinned = write_keys(tmp_path)
    dialing = dialer_context()
    dialing.minimum_version = ssl.TLSVersion.TLSv1_2
    dialing.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ConfigError, match="this machine cannot do a TLS handshake with it") as caught:
        check_with_itself(acceptor_context(certificate, key), dialing, pinned, certificate)
    assert caught.value.file == str(certificate)


@pytest.mark.parametrize("form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL])
def test_an_encrypted_key_asks_nobody(tmp_path: Path, form: serialization.PrivateFormat) -> None:
    """The terminal is there, and nobody sits at it: the process must end by itself."""
    import pty

    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

    certificate, key, _ = write_keys(tmp_path)
    private = generate_private_key(65537, 2048)
    protection = serialization.BestAvailableEncryption(b"secret")
    key.write_bytes(private.private_bytes(serialization.Encoding.PEM, form, protection))
    program = (
        "import sys; from pathlib import Path; from smartbft.errors import ConfigError\n"
        "from smartbft.net.tls import acceptor_context\n"
        "try: acceptor_context(Path(sys.argv[1]), Path(sys.argv[2]))\n"
        "except ConfigError as error: sys.exit(str(error))\n"
    )
    ours, terminal = pty.openpty()
    try:
        ended = subprocess.run(
            [sys.executable, "-c", program, certificate, key],
            stdin=terminal,
            stderr=subprocess.PIPE,
            text=True,
            timeout=PATIENCE_SECONDS,
            start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            check=False,
        )
    finally:
        os.close(ours)
        os.close(terminal)
    assert ended.stderr.strip().startswith(f"{key}: is encrypted, and a replica asks nobody for a passphrase")


# --- a replica that starts ---


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Testnet:
    return create_testnet(tmp_path_factory.mktemp("tls") / "net", application="counter")


@pytest.mark.parametrize(
    ("policy", "reason"),
    [
        ("SignatureAlgorithms = ECDSA+SHA256:RSA-PSS+SHA256", "no suitable signature algorithm"),
        ("MaxProtocol = TLSv1.2", "no protocols available"),
    ],
)
def test_a_policy_that_forbids_what_tls_needs_is_told_before_a_replica_is_ready(
    network: Testnet, tmp_path: Path, policy: str, reason: str
) -> None:
    settings = tmp_path / "openssl.cnf"
    settings.write_text(
        f"openssl_conf = all\n[all]\nssl_conf = contexts\n[contexts]\nsystem_default = policy\n[policy]\n{policy}\n"
    )
    ended = subprocess.run(
        [sys.executable, "-m", "smartbft", "start", "--home", network.homes[0]],
        env={**os.environ, "OPENSSL_CONF": str(settings), "PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (3, "")
    said = ended.stderr.splitlines()[-1]
    assert "keys/tls.crt: this machine cannot do a TLS handshake with it" in said
    assert reason in said
    assert "OPENSSL_CONF" in said


# --- what a dialer is told ---


def test_a_dialer_names_what_may_differ_when_the_other_side_ends_the_handshake(tls: TLS) -> None:
    """Python hangs up without an alert."""

    async def scenario() -> None:
        async with Pair(tls=tls[0]) as pair:
            pair.dial()
            assert isinstance(pair.dialer, Dialer)
            pair.dialer._tls = dialer_context()
            pair.dialer._tls.minimum_version = pair.dialer._tls.maximum_version = ssl.TLSVersion.TLSv1_2
            await until(lambda: pair.dialer is not None and pair.dialer.problem)
            assert "TLS 1.3" in pair.dialer.problem
            assert "no answer in time" not in pair.dialer.problem

    run(scenario)


def test_a_dialer_with_tls_names_the_transport_when_the_other_side_has_none(tls: TLS) -> None:
    async def scenario() -> None:
        async with Pair() as pair:
            pair.dial(PATIENT)
            assert isinstance(pair.dialer, Dialer)
            pair.dialer._tls = dialer_context()
            await until(lambda: pair.dialer is not None and pair.dialer.problem)
            assert "is 'transport' the same on both sides" in pair.dialer.problem

    run(scenario)
