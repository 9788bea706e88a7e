"""What ``import smartbft`` offers, and that it costs nothing until it is used."""

from __future__ import annotations

import subprocess
import sys

import pytest

import smartbft

PROBE = """
import sys
before = set(sys.modules)
import smartbft
loaded = sorted(name for name in set(sys.modules) - before if name.startswith("smartbft."))
assert not loaded, loaded
assert smartbft.SmartBFTError.__module__ == "smartbft.errors"
assert "smartbft.runtime.node" not in sys.modules
"""


@pytest.mark.parametrize("name", smartbft.__all__)
def test_every_exported_name_is_there_and_documented(name: str) -> None:
    exported = getattr(smartbft, name)
    assert exported.__name__ == name
    assert exported.__doc__
    assert name in dir(smartbft)


def test_importing_the_package_imports_none_of_its_modules() -> None:
    done = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_unknown_names_are_told() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Nonsense'"):
        smartbft.Nonsense  # noqa: B018
