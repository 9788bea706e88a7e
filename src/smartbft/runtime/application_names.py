"""The names that a genesis may give to an application, and whether an object is an application of that name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import PurePath
from typing import Any

from smartbft.errors import ConfigError
from smartbft.smr.application import BatchStateMachine
from smartbft.smr.per_operation import PerOperation

#: Names that a genesis may use beside ``package.module:target``, and the class that each stands for.
BUILT_IN: Mapping[str, str] = {
    "coin": "smartbft.apps.coin:CoinApplication",
    "coin_ledger": "smartbft.apps.coin_ledger:CoinLedgerApplication",
    "counter": "smartbft.apps.counter:Counter",
    "key_value": "smartbft.apps.key_value:KeyValueStore",
}
_MARK = "made_for_genesis_name"


def mark_made(application: BatchStateMachine, name: str) -> None:
    """Remember under which name an application was made: what a `from_genesis` or a function returns may be of any
    class.
    """
    with suppress(AttributeError):  # it has no room for it
        setattr(application, _MARK, name)


def check_named(application: BatchStateMachine, name: str, file: str | None = None) -> None:
    """Refuse an application that is not the one that a genesis names: its replica would differ from all others.

    Objects of the named class or of a class derived from it pass, and those that were made by that name. Where the name
    is that of a function, or a label that no application has (as in `LocalCluster`), nobody can tell.

    Args:
        application: the object that is to be replicated.
        name: ``application.name`` of the genesis.
        file: the genesis's file.

    Raises:
        ConfigError: it is another one.
    """
    path = BUILT_IN.get(name, name)
    machine: Any = application.machine if isinstance(application, PerOperation) else application
    made_for = getattr(application, _MARK, None)
    if made_for is not None:
        fits = BUILT_IN.get(made_for, made_for) == path
    else:
        fits = ":" not in path or _is_of(machine, path)
    if not fits:
        given = made_for or f"{type(machine).__module__}:{type(machine).__qualname__}"
        raise ConfigError(
            f'the genesis names the application "{name}", and this replica was given "{given}": give it the one that '
            "all replicas of this chain have, or make a chain whose genesis names yours",
            file=file,
            field="application.name",
        )


def _is_of(machine: object, path: str) -> bool:
    module_name, _, attribute = path.partition(":")
    if any(_is_named(kind, module_name, attribute) for kind in type(machine).__mro__):
        return True
    try:
        target: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
    except KeyboardInterrupt:
        raise
    except BaseException:  # there is no such module, or it fails when it is imported: it is not where this comes from
        return False
    return isinstance(machine, target) if isinstance(target, type) else callable(target)


def _is_named(kind: type, module_name: str, attribute: str) -> bool:
    """Whether a class has this path; the program that runs is imported by the name of its file elsewhere."""
    if kind.__qualname__ != attribute:
        return False
    if kind.__module__ != "__main__":
        return kind.__module__ == module_name
    main = sys.modules["__main__"]
    spec, file = getattr(main, "__spec__", None), getattr(main, "__file__", None)
    if spec is not None:
        return bool(spec.name == module_name)
    return file is not None and PurePath(file).stem == module_name.rpartition(".")[2]
