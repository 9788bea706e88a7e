"""Writing and reading back a test network."""

from __future__ import annotations

import errno
import os
import socket
import stat
from pathlib import Path

import pytest

pytest.importorskip("smartbft._fastpath.verify")

from smartbft import testnet
from smartbft.crypto.keys import load_replica_keys
from smartbft.errors import ConfigError
from smartbft.testnet import create_testnet, free_ports, load_testnet


def test_a_network_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = create_testnet(tmp_path / "net", 4, persistence="async", transport="plain", sync_floor_seconds=0.004)
    read = load_testnet(tmp_path / "net")
    assert read == written
    assert [home.name for home in read.homes] == [f"replica-{i}" for i in range(4)]
    for config in read.replicas:
        load_replica_keys(config, read.genesis)
        assert config.genesis_path.read_bytes() == (tmp_path / "net" / "genesis.toml").read_bytes()
        assert stat.S_IMODE(config.keys_folder.stat().st_mode) == 0o700
    assert read.genesis.application_parameters == {"minters": [read.signer("minter").public_key.hex()]}


def test_ports_follow_the_base_port(tmp_path: Path) -> None:
    network = create_testnet(tmp_path / "net", 2, base_port=7000)
    ports = [(m.replica_address.port, m.client_address.port) for m in network.genesis.members]
    assert ports == [(7000, 7001), (7002, 7003)]


def test_two_networks_never_share_an_identity(tmp_path: Path) -> None:
    assert create_testnet(tmp_path / "a").genesis.chain_id != create_testnet(tmp_path / "b").genesis.chain_id


def test_a_used_folder_or_an_impossible_number_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="is not empty"):
        create_testnet(tmp_path)
    with pytest.raises(ConfigError, match="cannot be used"):
        create_testnet(tmp_path / "file")
    with pytest.raises(ConfigError, match="1 to 64 replicas"):
        create_testnet(tmp_path / "net", 0)
    with pytest.raises(ConfigError, match="leaves no room"):
        create_testnet(tmp_path / "net", 4, base_port=65530)
    assert not (tmp_path / "net").exists()


@pytest.mark.parametrize("there", [False, True], ids=["new folder", "empty folder"])
@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), KeyboardInterrupt()], ids=repr)
def test_what_was_written_is_removed_when_the_rest_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, error: BaseException
) -> None:
    def full(*_: object) -> None:
        raise error

    monkeypatch.setattr(testnet.Genesis, "dump", full)
    if there:
        (tmp_path / "net").mkdir()
    with pytest.raises((ConfigError, KeyboardInterrupt)) as raised:
        create_testnet(tmp_path / "net", 1)
    if isinstance(error, OSError):
        assert str(raised.value) == f"{tmp_path}/net: cannot be written: No space left on device"
    assert (tmp_path / "net").exists() is there
    assert not there or not any((tmp_path / "net").iterdir())


def test_free_ports_are_different_and_none_that_an_outgoing_connection_could_take() -> None:
    first, last = map(int, Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split())
    ports = free_ports(16)
    assert len(set(ports)) == 16
    assert [port for port in ports if first <= port <= last] == []


def test_a_port_that_is_taken_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken, free = free_ports(2)
    ranges = tmp_path / "range"
    ranges.write_text(f"{min(taken, free) + 1} 65535")
    monkeypatch.setattr(testnet, "_OUTGOING_PORTS", ranges)
    monkeypatch.setattr(testnet, "_LOWEST_PORT", min(taken, free))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", min(taken, free)))
        with pytest.raises(ConfigError, match="1 free ports are needed, and there are 0"):
            free_ports(1)
    assert free_ports(1) == [min(taken, free)]
