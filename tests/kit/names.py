"""A resolver for tests: names that are found, are not, or hang until the test says otherwise."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from smartbft.net import names


class Names:
    """Stands in for the system's resolver.

    Attributes:
        found: addresses by name, in the resolver's order.
        asked: the look-ups so far.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: dict[str, list[str]] = {}
        self.asked: list[str] = []
        self.hanging = 0
        self._answers = threading.Event()
        self._answers.set()
        self._hang: set[str] = set()
        self._lock = threading.Lock()
        names.RESOLVER.start_anew()
        monkeypatch.setattr(socket, "getaddrinfo", self._getaddrinfo)

    def hang(self, *hosts: str) -> None:
        """Look-ups of these names do not end until `answer`."""
        self._answers.clear()
        self._hang.update(hosts)

    def answer(self) -> None:
        """Everything that hangs ends."""
        self._hang.clear()
        self._answers.set()

    def _getaddrinfo(self, host: str, port: Any, *_: Any, **__: Any) -> list[tuple[Any, ...]]:
        if not any(letter.isalpha() for letter in host) or ":" in host:
            return [_entry(host, port)]
        with self._lock:
            self.asked.append(host)
        if host in self._hang:
            with self._lock:
                self.hanging += 1
            self._answers.wait()
            with self._lock:
                self.hanging -= 1
        if host not in self.found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [_entry(address, port) for address in self.found[host]]


def _entry(address: str, port: Any) -> tuple[Any, ...]:
    if ":" in address:
        return (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port or 0, 0, 0))
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port or 0))
