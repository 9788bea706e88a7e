"""The applications that come with the package, and how any application is found by the name that a genesis gives.

``coin``          SMaRtCoin, executed in native code (`smartbft.apps.coin`)
``coin_ledger``   the same, writing its own ledger inside the execution: for comparison (`smartbft.apps.coin_ledger`)
``counter``       a counter (`smartbft.apps.counter`)
``key_value``     a key-value store (`smartbft.apps.key_value`)
``package.module:Class``   anybody's own
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any

from smartbft.errors import ApplicationFailed, ConfigError
from smartbft.runtime.application_names import BUILT_IN, mark_made
from smartbft.smr.application import BatchStateMachine, LocalOptions, StateMachine
from smartbft.smr.per_operation import as_batch

_FIELD = "application.name"


def create_application(
    name: str, chain_id: bytes, parameters: Mapping[str, Any], local: LocalOptions | None = None
) -> BatchStateMachine:
    """Make the application that a genesis names, in its initial state.

    Args:
        name: a built-in name, or ``package.module:target``. The target is a class with a ``from_genesis`` (every
            `StateMachine` has one) or any callable that takes the parameters as keyword arguments.
        chain_id: 32 bytes.
        parameters: ``application.parameters`` of the genesis.
        local: this replica's configuration.

    Raises:
        ConfigError: there is no such application, its module cannot be imported, or its parameters are wrong.
        ApplicationFailed: it raised something else when it was made.
    """
    target = _find(name)
    try:
        from_genesis = getattr(target, "from_genesis", None)
        if from_genesis is not None:
            made = from_genesis(chain_id, parameters, local or LocalOptions())
        else:
            made = target(**parameters)
    except TypeError as error:
        raise ConfigError(
            f'"{name}" does not take these parameters: {error}', field="application.parameters"
        ) from error
    except (ConfigError, KeyboardInterrupt):
        raise
    except BaseException as error:  # sys.exit() in an application must not look like success
        raise ApplicationFailed(f'the application "{name}" failed when it was made: {error!r}') from error
    if not isinstance(made, StateMachine) and not callable(getattr(made, "execute_batch", None)):
        raise ConfigError(f'"{name}" makes a {type(made).__name__}, which is no StateMachine', field=_FIELD)
    application = as_batch(made)
    mark_made(application, name)
    return application


def _find(name: str) -> Any:
    path = BUILT_IN.get(name, name)
    module_name, colon, attribute = path.partition(":")
    if not colon:
        known = ", ".join(f'"{known}"' for known in BUILT_IN)
        raise ConfigError(f'there is no application "{name}": use {known} or "package.module:Class"', field=_FIELD)
    try:
        return getattr(importlib.import_module(module_name), attribute)
    except ImportError as error:
        raise ConfigError(f'cannot import "{module_name}" for the application: {error}', field=_FIELD) from error
    except (ConfigError, KeyboardInterrupt):
        raise
    except AttributeError as error:
        if module_name not in sys.modules:
            raise _import_failed(module_name, error) from error
        raise ConfigError(f'the module "{module_name}" has no "{attribute}"', field=_FIELD) from None
    except BaseException as error:
        raise _import_failed(module_name, error) from error


def _import_failed(module_name: str, error: BaseException) -> ConfigError:
    script = "; a script's end belongs below 'if __name__ == \"__main__\":'" if isinstance(error, SystemExit) else ""
    return ConfigError(f'the module "{module_name}" fails when it is imported: {error!r}{script}', field=_FIELD)
