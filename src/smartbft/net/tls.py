"""TLS 1.3 contexts. No authority is trusted: a dialer compares the certificate with the fingerprint in the genesis.

A dialing replica authenticates itself inside the channel, with a signature that covers the acceptor's certificate (see
`smartbft.net.handshake`); clients sign their requests. So the contexts here ask for no client certificate.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from smartbft.errors import ConfigError


def acceptor_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """The context of a replica's listeners.

    Args:
        certificate, key: PEM files; the certificate is the one whose SHA-256 is in the genesis.

    Raises:
        ConfigError: they cannot be read or do not belong together.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    # A resumed session would show no certificate to a dialer that pins one.
    context.num_tickets = 0
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"cannot be used with {key}: {error}", file=str(certificate)) from None
    return context


def dialer_context() -> ssl.SSLContext:
    """The context of whoever dials a replica; its certificate must be compared with its fingerprint afterwards."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # `Connection` pins the very certificate, which says more than any authority
    _harden(context)
    return context


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
