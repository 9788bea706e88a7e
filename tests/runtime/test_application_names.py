"""A replica runs the application that its genesis names, and no other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from smartbft import ConfigError, Replica
from smartbft.apps import counter, create_application, key_value
from smartbft.apps.coin import CoinApplication
from smartbft.smr.application import BatchStateMachine
from smartbft.smr.per_operation import as_batch
from smartbft.testnet import create_testnet

HERE = __name__


class Own(counter.Counter):
    """Derived from a built-in one."""


class Batches(BatchStateMachine):
    """An application by batch."""

    def execute_batch(self, data: bytes, context: Any) -> bytes:
        return b""


def make_own() -> Own:
    return Own()


def replica(folder: Path, name: str, application: Any) -> Replica:
    network = create_testnet(folder / "net", 1, application=name, transport="plain")
    return Replica(network.homes[0], application)


@pytest.mark.parametrize(
    ("name", "application"),
    [
        ("counter", counter.Counter()),
        ("smartbft.apps.counter:Counter", counter.Counter()),
        ("counter", Own()),
        ("counter", as_batch(counter.Counter())),
        ("counter", create_application("counter", bytes(32), {})),
        ("smartbft.apps.counter:Counter", create_application("counter", bytes(32), {})),
        (f"{HERE}:Own", Own()),
        (f"{HERE}:Batches", Batches()),
        (f"{HERE}:make_own", Own()),
        (f"{HERE}:make_own", create_application(f"{HERE}:make_own", bytes(32), {})),
        ("coin", CoinApplication(bytes(32), [])),
        ("a_label", Own()),
    ],
)
def test_the_one_that_is_named_is_taken(tmp_path: Path, name: str, application: Any) -> None:
    assert replica(tmp_path, name, application).genesis.application == name


@pytest.mark.parametrize(
    ("name", "application", "given"),
    [
        ("counter", key_value.KeyValueStore(), "smartbft.apps.key_value:KeyValueStore"),
        ("coin", counter.Counter(), "smartbft.apps.counter:Counter"),
        ("counter", Batches(), "test_application_names:Batches"),
        (f"{HERE}:Own", counter.Counter(), "smartbft.apps.counter:Counter"),
        (f"{HERE}:Batches", Own(), "test_application_names:Own"),
        ("nowhere.to.be:Found", Own(), "test_application_names:Own"),
        (f"{HERE}:Missing", Own(), "test_application_names:Own"),
        ("key_value", create_application("counter", bytes(32), {}), "counter"),
        (f"{HERE}:make_own", create_application("counter", bytes(32), {}), "counter"),
    ],
)
def test_another_one_is_refused(tmp_path: Path, name: str, application: Any, given: str) -> None:
    with pytest.raises(ConfigError, match=r"genesis\.toml: application\.name: the genesis names") as refused:
        replica(tmp_path, name, application)
    assert f'"{name}"' in str(refused.value)
    assert given in str(refused.value)


PROGRAM = """
import sys
from smartbft import Replica
from smartbft.apps.counter import Counter


class Application(Counter):
    pass


Replica(sys.argv[1], Application())
"""


def test_a_class_of_the_program_that_runs_is_known_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "service.py").write_text(PROGRAM)
    for name, code in (("service:Application", 0), ("other:Application", 1)):
        network = create_testnet(tmp_path / name, 1, application=name, transport="plain")
        command = [sys.executable, str(tmp_path / "service.py"), str(network.homes[0])]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == code, done.stderr
        assert ("__main__:Application" in done.stderr) == bool(code)
