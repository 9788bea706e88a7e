"""``smartbft coin`` speaks to chains of the coin, and sends nothing to any other."""

from __future__ import annotations

from pathlib import Path

import pytest

from smartbft import AsyncClient
from smartbft.testnet import create_testnet

ADDRESS = "ab" * 32
COMMANDS = [
    ("mint", "5"),
    ("spend", ADDRESS, "5"),
    ("spend", ADDRESS, "5", "--coin", ADDRESS),
    ("balance",),
    ("balance", ADDRESS),
    ("coins",),
]


@pytest.mark.parametrize("application", ["counter", "key_value", "own:Application"])
def test_another_application_is_refused_before_anything_is_sent(
    cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, application: str
) -> None:
    profile = create_testnet(tmp_path / "net", 4, application=application).profile.path

    def client(*_: object) -> None:
        pytest.fail("a client was made")

    monkeypatch.setattr(AsyncClient, "from_profile", client)
    for command in COMMANDS:
        for options in ((), ("--json",)):
            done = cli("coin", *command, "--profile", profile, *options)
            assert done.code == 3
            assert done.out == ""
            assert f'the application of this chain is "{application}", and not "coin": nothing was sent' in done.err


@pytest.mark.parametrize("application", ["coin", "coin_ledger", "smartbft.apps.coin:CoinApplication"])
def test_the_coin_is_the_coin_by_whatever_name(cli, tmp_path: Path, application: str) -> None:
    """Nobody listens, so each command tries and says so."""
    profile = create_testnet(tmp_path / "net", 1, application=application, transport="plain").profile.path
    for command in COMMANDS:
        assert cli("coin", *command, "--profile", profile, "--timeout", "50ms").code == 4
