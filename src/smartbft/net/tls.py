"""TLS 1.3 contexts. No authority is trusted: a dialer compares the certificate with the fingerprint in the genesis.

A dialing replica authenticates itself inside the channel, with a signature that covers the acceptor's certificate (see
`smartbft.net.handshake`); clients sign their requests. So the contexts here ask for no client certificate.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from smartbft.crypto.certificates import fingerprint_of
from smartbft.errors import ConfigError
from smartbft.net.dialing import tls_reason

_MISMATCH = ("KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH")
# A handshake takes two flights from each side.
_MOST_FLIGHTS = 8


class _Encrypted(Exception):
    """The private key needs a passphrase."""


def acceptor_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """The context of a replica's listeners.

    Args:
        certificate, key: PEM files; the certificate is the one whose SHA-256 is in the genesis.

    Raises:
        ConfigError: they cannot be read or do not belong together, the key is encrypted, or OpenSSL does not take them.
    """
    context = _hardened(ssl.PROTOCOL_TLS_SERVER)
    # A resumed session would show no certificate to a dialer that pins one.
    context.num_tickets = 0
    try:
        context.load_cert_chain(certificate, key, password=_refuse_to_ask)
    except _Encrypted:
        raise ConfigError(
            "is encrypted, and a replica asks nobody for a passphrase: decrypt it ('openssl pkey -in FILE'), and keep "
            "others from reading it",
            file=str(key),
        ) from None
    except ssl.SSLError as error:
        mismatch = getattr(error, "reason", None) in _MISMATCH
        why = "they do not belong together" if mismatch else f"OpenSSL takes them not ({tls_reason(error)})"
        raise ConfigError(f"cannot be used with {key}: {why}", file=str(certificate)) from None
    except OSError as error:
        raise ConfigError(f"cannot be used with {key}: {error.strerror or error}", file=str(certificate)) from None
    return context


def dialer_context() -> ssl.SSLContext:
    """The context of whoever dials a replica; its certificate must be compared with its fingerprint afterwards.

    Raises:
        ConfigError: OpenSSL is configured in a way that allows none.
    """
    context = _hardened(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # `Connection` pins the very certificate, which says more than any authority
    return context


def check_with_itself(accepting: ssl.SSLContext, dialing: ssl.SSLContext, pinned: bytes, certificate: Path) -> None:
    """A handshake of both contexts with each other, in memory: what fails here fails with every peer and client.

    Args:
        pinned: SHA-256 of the certificate that the genesis names.
        certificate: its file, for the message.

    Raises:
        ConfigError: there is no handshake, because a policy of the system forbids what it needs, say.
    """
    to_acceptor, to_dialer = ssl.MemoryBIO(), ssl.MemoryBIO()
    acceptor = accepting.wrap_bio(to_acceptor, to_dialer, server_side=True)
    dialer = dialing.wrap_bio(to_dialer, to_acceptor)
    unfinished = [dialer, acceptor]
    try:
        for _ in range(_MOST_FLIGHTS):
            unfinished = [side for side in unfinished if not _is_done(side)]
        shown = dialer.getpeercert(binary_form=True) if not unfinished else None
    except ssl.SSLError as error:
        raise ConfigError(
            f"this machine cannot do a TLS handshake with it ({tls_reason(error)}): does a policy of its OpenSSL "
            "(openssl.cnf, OPENSSL_CONF, FIPS mode) forbid Ed25519 certificates or TLS 1.3?",
            file=str(certificate),
        ) from None
    if shown is None or fingerprint_of(shown) != pinned:
        raise ConfigError("TLS shows another certificate than the one that the genesis names", file=str(certificate))


def _is_done(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _hardened(protocol: int) -> ssl.SSLContext:
    try:
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"OpenSSL cannot be set up for TLS 1.3 (see openssl.cnf): {error}") from None
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    return context


def _refuse_to_ask() -> str:
    """OpenSSL would ask on the terminal, and a service would wait for ever."""
    raise _Encrypted
