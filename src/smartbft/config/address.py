"""`Address`: where a replica listens. Each address has one spelling, and can be dialed."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from smartbft.errors import LocalProtocolError

_ADVICE = 'write host:port, e.g. "127.0.0.1:7000" or "[::1]:7000"'
_PORT = re.compile(r"[0-9]{1,5}")
# Resolvers know names with underscores (docker compose makes them), and absolute names with a dot at the end.
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_HOST_NAME = re.compile(rf"{_LABEL}(\.{_LABEL})*\.?")
_MAX_NAME_CHARACTERS = 253
# A name whose last label is a number is an IPv4 address, or nothing.
_NUMBER = re.compile(r"0x[0-9a-f]*|[0-9]+")
_ZONE = re.compile(r"(?:(?![%/:\[\]])[!-~]){1,63}")
_LOCALHOST = "localhost"


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """Where a TCP listener is: a host name or IP address, and a port.

    IP addresses are kept in their usual spelling (``127.0.0.1`` for ``127.1`` or ``::ffff:127.0.0.1``, ``::1`` for
    ``0:0:0:0:0:0:0:1``), names in lower case. The zone of an IPv6 address keeps its case: it names an interface.

    Raises:
        LocalProtocolError: the host or the port is none that others could dial.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        """Bring the host into its usual spelling."""
        if not 1 <= self.port <= 65535:
            raise LocalProtocolError(f'"{self.host}" has no port from 1 to 65535: {_ADVICE}')
        object.__setattr__(self, "host", _usual_spelling(self.host))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> Address:
        """Parse ``"host:port"`` or ``"[IPv6 address]:port"``. Raises LocalProtocolError."""
        host, colon, port = text.rpartition(":")
        if not colon or not _PORT.fullmatch(port) or not 1 <= int(port) <= 65535:
            raise LocalProtocolError(f'"{text}" has no port from 1 to 65535: {_ADVICE}')
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
            if ":" not in host:
                raise LocalProtocolError(f'"{text}" has no IPv6 address in its brackets: {_ADVICE}')
        elif ":" in host:
            raise LocalProtocolError(f'"{text}" is ambiguous, or has no valid host: {_ADVICE}')
        return cls(host, int(port))

    @property
    def endpoint(self) -> tuple[str, int]:
        """What two addresses have in common that cannot both be listened at."""
        host = self.host.removesuffix(".")
        if host == _LOCALHOST:
            host = "127.0.0.1"
        elif "%" in host and not ipaddress.ip_address(host).is_link_local:
            host = host.partition("%")[0]  # elsewhere a zone changes nothing
        return host, self.port

    @property
    def is_loopback(self) -> bool:
        """Whether it is known never to leave this machine."""
        try:
            return ipaddress.ip_address(self.endpoint[0]).is_loopback
        except ValueError:
            return False


def _usual_spelling(host: str) -> str:
    """The one spelling of a host. Raises LocalProtocolError."""
    if ":" in host:
        return _ipv6(host)
    if not host.isascii():
        raise LocalProtocolError(f'"{host}" is no valid host: {_in_ascii(host)}')
    host = host.lower()
    if not _HOST_NAME.fullmatch(host) or len(host.removesuffix(".")) > _MAX_NAME_CHARACTERS:
        raise LocalProtocolError(f'"{host}" is no valid host: {_ADVICE}')
    if _NUMBER.fullmatch(host.removesuffix(".").rpartition(".")[2]):
        return _ipv4(host)
    return host


def _in_ascii(host: str) -> str:
    try:
        return f'write it as "{host.encode("idna").decode()}"'
    except UnicodeError:
        return _ADVICE


def _ipv6(host: str) -> str:
    try:
        address = ipaddress.IPv6Address(host)
    except ValueError:
        raise LocalProtocolError(f'"{host}" is no valid host, nor an IPv6 address: {_ADVICE}') from None
    zone = address.scope_id
    if zone is not None and not _ZONE.fullmatch(zone):
        raise LocalProtocolError(f'"{host}" is no valid host: its zone names no interface')
    if address.ipv4_mapped is not None:
        return _dialable(address.ipv4_mapped, host)
    if address.is_link_local and zone is None:
        raise LocalProtocolError(f'"{host}" is no host without a zone: write the interface, e.g. "[{host}%eth0]:7000"')
    return _dialable(ipaddress.IPv6Address(int(address)), host) + (f"%{zone}" if zone is not None else "")


def _ipv4(host: str) -> str:
    """What resolvers make of numbers: up to four, the last of which fills what the others leave."""
    numbers = host.split(".")
    if any(len(number) > 1 and number.startswith("0") and not number.startswith("0x") for number in numbers):
        raise LocalProtocolError(
            f'"{host}" is no valid host: numbers that begin with 0 are octal to some programs and decimal to others'
        )
    try:
        if not all(map(_NUMBER.fullmatch, numbers)):  # `int` reads more than numbers, "1_0" for one
            raise ValueError
        *first, last = (int(number, 0) for number in numbers)
        if len(first) > 3 or any(number > 255 for number in first):
            raise ValueError
        room = 4 - len(first)
        return _dialable(ipaddress.IPv4Address(bytes(first) + last.to_bytes(room, "big")), host)
    except (ValueError, OverflowError):
        raise LocalProtocolError(f'"{host}" is no valid host, nor an IPv4 address: {_ADVICE}') from None


def _dialable(address: ipaddress.IPv4Address | ipaddress.IPv6Address, host: str) -> str:
    if address.is_unspecified:
        raise LocalProtocolError(
            f'"{host}" is every address of a machine, which nobody can dial: name the host, or the one address of it, '
            "at which replicas and clients reach it"
        )
    if address.is_multicast or str(address) == "255.255.255.255":
        raise LocalProtocolError(f'"{host}" is no address of a single host: name one at which a replica can be dialed')
    return str(address)
