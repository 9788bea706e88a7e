"""Self-signed Ed25519 certificates for TLS. Nobody's authority is trusted: peers pin the certificate's fingerprint."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

from smartbft.config.text import encoding_problem
from smartbft.errors import ConfigError

# Replaced with the membership, not with the calendar: a replica must not drop out of its cluster on a forgotten date.
_VALID_FOR = timedelta(days=365 * 20)

# Of PEM blocks: what a file may be wanted to hold.
CERTIFICATE = "CERTIFICATE"
PRIVATE_KEY = "PRIVATE KEY"
_BEGIN = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----")
_END_OF_CERTIFICATE = b"-----END CERTIFICATE-----"
_DER = b"\x30"
# A PEM file is read whole: a larger one is none of ours.
_MAX_FILE_BYTES = 64 * 1024


def make_certificate(name: str) -> tuple[bytes, bytes]:
    """A new key and its self-signed X.509 certificate.

    Args:
        name: the common name; informative, since the fingerprint is what is pinned.

    Returns:
        Private key and certificate, both PEM.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))  # clocks of a cluster differ
        .not_valid_after(now + _VALID_FOR)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False
        )
    )
    certificate = builder.sign(key, None)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return private, certificate.public_bytes(serialization.Encoding.PEM)


def fingerprint_of(certificate: bytes) -> bytes:
    """SHA-256 of a certificate's DER form (as the TLS library hands it over): what a genesis pins."""
    return hashlib.sha256(certificate).digest()


def fingerprint(path: Path) -> bytes:
    """SHA-256 of the certificate in a PEM file; of the first one, if there are several.

    Raises:
        ConfigError: the file is missing or holds no certificate; says what it is instead.
    """
    import ssl

    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES)
    except FileNotFoundError:
        raise ConfigError(
            "is missing: bring it back from a copy; a new one would not be the one that the genesis names",
            file=str(path),
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise ConfigError(f"cannot be read: {getattr(error, 'strerror', error)}", file=str(path)) from None
    if problem := pem_problem(content, CERTIFICATE):
        raise ConfigError(f"holds no certificate: {problem}", file=str(path))
    try:
        block = content[content.index(b"-----BEGIN CERTIFICATE-----") :]
        end = block.index(_END_OF_CERTIFICATE) + len(_END_OF_CERTIFICATE)
        return fingerprint_of(ssl.PEM_cert_to_DER_cert(block[:end].decode("ascii")))
    except ValueError as error:
        raise ConfigError(f"holds no certificate: it is damaged ({error})", file=str(path)) from None


def pem_problem(content: bytes, wanted: str) -> str:
    """Why the content of a PEM file is not what is wanted (`CERTIFICATE` or `PRIVATE_KEY`); empty if it may be that."""
    if not content.strip():
        return "it is empty"
    if problem := encoding_problem(content):
        is_der = content.startswith(_DER)
        return "it is in DER form: convert it with openssl (-inform DER)" if is_der else f"it {problem}"
    labels = [label.decode() for label in _BEGIN.findall(content)]
    if not labels:
        return f"it has no line '-----BEGIN {wanted}-----'"
    if "OPENSSH PRIVATE KEY" in labels:
        return "it is a key of OpenSSH, which TLS does not read"
    if wanted == PRIVATE_KEY and any(_is_encrypted(label, content) for label in labels):
        return (
            "it is encrypted, and a replica asks nobody for a passphrase: decrypt it ('openssl pkey -in FILE'), and "
            "keep others from reading it"
        )
    fits = str.endswith if wanted == PRIVATE_KEY else str.__eq__  # "EC PRIVATE KEY", but no "TRUSTED CERTIFICATE"
    label = next((label for label in labels if fits(label, wanted)), None)
    if label is None:
        return f"it is a {labels[0].lower()}: were two files exchanged?"
    if f"-----END {label}-----".encode() not in content:
        return f"it is cut off: the line '-----END {label}-----' is missing"
    return ""


def _is_encrypted(label: str, content: bytes) -> bool:
    return label.startswith("ENCRYPTED") or (label.endswith(PRIVATE_KEY) and b"4,ENCRYPTED" in content)
