"""A folder on a disk of which chosen operations fail, or stand still."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from smartbft.testing.files import SimulatedFiles


@dataclass
class Fault:
    """From the call number `after` on, an operation on a file does something else; `name` "" is any file."""

    operation: str
    name: str
    happens: Callable[[], None]
    after: int = 0


class FaultyFiles:
    """`smartbft.storage.Files` on a simulated disk."""

    def __init__(self, files: SimulatedFiles | None = None) -> None:
        self.disk = files or SimulatedFiles()
        self.faults: list[Fault] = []

    def fail(self, operation: str, error: int, name: str = "", after: int = 0) -> None:
        """From now on `operation` raises an OSError with this number."""

        def happens() -> None:
            raise OSError(error, os.strerror(error), name)

        self.faults.append(Fault(operation, name, happens, after))

    def stand_still(self, operation: str, name: str = "") -> tuple[threading.Event, threading.Event]:
        """The next call waits. Returns what tells that it began, and what lets it go on."""
        began, goes_on = threading.Event(), threading.Event()

        def happens() -> None:
            began.set()
            goes_on.wait()

        self.faults.append(Fault(operation, name, happens))
        return began, goes_on

    def mend(self) -> None:
        """Nothing fails any more."""
        self.faults.clear()

    def __getattr__(self, operation: str) -> Any:
        work = getattr(self.disk, operation)

        def call(*arguments: Any) -> Any:
            name = arguments[0] if arguments else ""
            for fault in self.faults:
                if fault.operation == operation and fault.name in ("", name):
                    fault.after -= 1
                    if fault.after < 0:
                        fault.happens()
            return work(*arguments)

        return call
