"""Self-signed Ed25519 certificates for TLS. Nobody's authority is trusted: peers pin the certificate's fingerprint."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

from smartbft.errors import ConfigError

# Replaced with the membership, not with the calendar: a replica must not drop out of its cluster on a forgotten date.
_VALID_FOR = timedelta(days=365 * 20)


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
    """SHA-256 of the certificate in a PEM file.

    Raises:
        ConfigError: the file is missing or holds no certificate.
    """
    import ssl

    try:
        return fingerprint_of(ssl.PEM_cert_to_DER_cert(path.read_text().strip()))
    except FileNotFoundError:
        raise ConfigError(
            "is missing: bring it back from a copy; a new one would not be the one that the genesis names",
            file=str(path),
        ) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"holds no certificate in PEM form: {error}", file=str(path)) from None
