from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest

from smartbft.apps import BUILT_IN, create_application
from smartbft.apps.coin import CoinApplication
from smartbft.apps.coin_ledger import CoinLedgerApplication
from smartbft.apps.counter import Counter
from smartbft.errors import ApplicationFailed, ConfigError
from smartbft.smr.application import ExecutionContext, LocalOptions
from smartbft.smr.per_operation import PerOperation

CHAIN = bytes(32)
MINTER = "11" * 32


def test_every_built_in_name_can_be_made(tmp_path) -> None:
    local = LocalOptions(folder=tmp_path)
    for name in BUILT_IN:
        parameters = {"minters": [MINTER]} if name.startswith("coin") else {}
        made = create_application(name, CHAIN, parameters, local)
        assert made.execute_batch(b"", ExecutionContext(1, 1, bytes(32))) == b""
        assert len(made.digest()) == 32
        assert made.native == name.startswith("coin")


def test_the_coin_comes_native_and_the_others_wrapped(tmp_path) -> None:
    assert type(create_application("coin", CHAIN, {"minters": [MINTER]})) is CoinApplication
    made = create_application("coin_ledger", CHAIN, {"minters": [MINTER]}, LocalOptions(folder=tmp_path))
    assert type(made) is CoinLedgerApplication
    counter = create_application("counter", CHAIN, {"start": 3})
    assert isinstance(counter, PerOperation)
    assert isinstance(counter.machine, Counter)
    assert counter.machine.value == 3


def test_anybodys_own(monkeypatch) -> None:
    module = types.ModuleType("their_application")
    module.Machine = Counter
    module.make = lambda start: Counter(start)
    module.thing = lambda: 5
    monkeypatch.setitem(sys.modules, "their_application", module)
    for target in ("Machine", "make"):
        assert create_application(f"their_application:{target}", CHAIN, {"start": 9}).machine.value == 9
    with pytest.raises(ConfigError, match="makes a int"):
        create_application("their_application:thing", CHAIN, {})
    with pytest.raises(ConfigError, match='has no "Missing"'):
        create_application("their_application:Missing", CHAIN, {})


BROKEN = [
    ("import sys\nsys.exit(0)\n", ConfigError, r"fails when it is imported: SystemExit\(0\)"),
    ("1 / 0\n", ConfigError, r"fails when it is imported: ZeroDivisionError"),
    ("none.attribute\n", ConfigError, r"fails when it is imported: NameError"),
    ("import sys\nsys.missing\n", ConfigError, r"fails when it is imported: AttributeError"),
    ("def broken(:\n", ConfigError, r"fails when it is imported: SyntaxError"),
    ("def Machine():\n    1 / 0\n", ApplicationFailed, r"failed when it was made: ZeroDivisionError"),
    ("import sys\ndef Machine():\n    sys.exit(0)\n", ApplicationFailed, r"failed when it was made: SystemExit\(0\)"),
]


@pytest.mark.parametrize(("code", "kind", "message"), BROKEN, ids=[message for _, _, message in BROKEN])
def test_one_that_cannot_be_made_is_named_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, kind: type[Exception], message: str
) -> None:
    (tmp_path / "broken_application.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_application", raising=False)
    with pytest.raises(kind, match=message) as refused:
        create_application("broken_application:Machine", CHAIN, {})
    assert refused.value.__cause__ is not None, "its traceback"


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("coins", {}, 'there is no application "coins": use "coin"'),
        ("no_such_module:Machine", {}, 'cannot import "no_such_module"'),
        ("counter", {"begin": 1}, "does not take these parameters"),
        ("coin", {}, "must list at least one public key"),
        ("coin", {"minters": "11" * 32}, "must list at least one public key"),
        ("coin", {"minters": ["11"]}, "is not a public key"),
        ("coin", {"minters": [MINTER, MINTER]}, "twice"),
        ("coin", {"minters": ["00" * 32]}, "small order"),
        ("coin", {"minters": [MINTER], "receipt_bytes_mint": -1}, "whole number from 0"),
        ("coin", {"minters": [MINTER], "receipt_bytes_spend": True}, "whole number from 0"),
        ("coin", {"minters": [MINTER], "receipt_bytes_spend": 65537}, "whole number from 0"),
        ("coin", {"minters": [MINTER], "colour": "blue"}, "no such parameter"),
        ("coin_ledger", {"minters": [MINTER]}, "needs a replica with a folder"),
    ],
)
def test_mistakes_are_named(name: str, parameters: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        create_application(name, CHAIN, parameters)
    assert error.value.field.startswith("application.")
