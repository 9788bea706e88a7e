"""The pure packages import nothing that could make two runs differ: no sockets, clocks, randomness or threads."""

from __future__ import annotations

import subprocess
import sys

import pytest

# Refuses the import of poisoned modules to modules of ours only: libraries may use them inside.
POISON = """
import builtins, importlib, pkgutil, sys

POISONED = {"socket", "asyncio", "time", "random", "threading", "selectors", "subprocess", "secrets", "uuid", "ssl"}
PURE = ("smartbft.core", "smartbft.protocols", "smartbft.smr", "smartbft.ledger")
import_as_before = builtins.__import__

def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if level == 0 and name.partition(".")[0] in POISONED and importer.startswith("smartbft"):
        raise ImportError(f"{importer} imports {name}")
    return import_as_before(name, globals, locals, fromlist, level)

builtins.__import__ = guarded

def import_all(package):
    try:
        module = importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name == package:
            return 0
        raise
    count = 1
    for found in pkgutil.walk_packages(getattr(module, "__path__", []), package + "."):
        importlib.import_module(found.name)
        count += 1
    return count
"""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", POISON + code], capture_output=True, text=True, timeout=300)


def test_the_pure_packages_import_with_the_impure_modules_poisoned():
    done = run_python("print(sum(map(import_all, PURE)))")
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 15


@pytest.mark.parametrize("module", ["time", "random", "asyncio", "threading", "socket"])
def test_the_poison_works(module: str):
    """The planted bug: a module of ours that imports a clock."""
    planted = f"""
import types
planted = types.ModuleType("smartbft.core.planted")
try:
    exec("import {module}", planted.__dict__)
except ImportError as error:
    print(error)
"""
    assert run_python(planted).stdout.strip() == f"smartbft.core.planted imports {module}"
