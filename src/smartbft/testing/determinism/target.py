"""The application under check: how to make copies of it, here and in other processes."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from smartbft.apps import create_application
from smartbft.smr.application import BatchStateMachine, LocalOptions, StateMachine
from smartbft.smr.per_operation import PerOperation, as_batch
from smartbft.testing.determinism.script import CHAIN_ID

Application = str | Callable[[], StateMachine | BatchStateMachine]


class Target:
    """Makes copies of an application.

    Args:
        application: the name that a genesis would give (then `parameters` go to its `from_genesis`), or what makes a
            copy when called.
        parameters: of the genesis; only for a name.
        folder: below it each copy of a named application gets a folder of its own.
    """

    def __init__(self, application: Application, parameters: Mapping[str, Any], folder: Path) -> None:
        self._application = application
        self._parameters = dict(parameters)
        self._folder = folder

    def make(self) -> BatchStateMachine:
        """A copy in its initial state. Raises ConfigError."""
        if not isinstance(self._application, str):
            return as_batch(self._application())
        local = LocalOptions(folder=Path(tempfile.mkdtemp(dir=self._folder)))
        return create_application(self._application, CHAIN_ID, self._parameters, local)

    def to_json(self) -> dict[str, Any] | None:
        """What `from_json` needs in another process; None: only this process can make copies."""
        if isinstance(self._application, str):
            return {"name": self._application, "parameters": self._parameters}
        module = getattr(self._application, "__module__", None)
        name = getattr(self._application, "__qualname__", None)
        if module in (None, "__main__") or name is None or _look_up(module, name) is not self._application:
            return None
        return {"module": module, "qualified": name}

    @classmethod
    def from_json(cls, data: Mapping[str, Any], folder: Path) -> Target:
        """Inverse of `to_json`. Raises ConfigError, ImportError."""
        if "name" in data:
            return cls(data["name"], data["parameters"], folder)
        found = _look_up(data["module"], data["qualified"])
        if found is None:
            raise ImportError(f"{data['module']} has no {data['qualified']}")
        return cls(found, {}, folder)


def is_coded(application: BatchStateMachine) -> bool:
    """Whether the first byte of a result is a code: so for everything derived from `StateMachine`."""
    return isinstance(application, PerOperation)


def written_class(application: BatchStateMachine) -> type:
    """The class that its author wrote."""
    return type(application.machine) if isinstance(application, PerOperation) else type(application)


def _look_up(module: str, name: str) -> Any:
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return found
