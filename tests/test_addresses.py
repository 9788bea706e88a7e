"""Addresses in a genesis: what resolvers know is taken, what nobody can dial is refused, spellings do not matter."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from smartbft.config import Address, Genesis
from smartbft.errors import ConfigError, LocalProtocolError
from tests.test_config import genesis, member


@pytest.mark.parametrize(
    "text",
    [
        "orderer_1:7000",  # docker compose
        "my_stack_replica_0:7000",
        "_smartbft.example:7000",
        "replica-0.net.svc.cluster.local.:7000",  # absolute: no search list
        "localhost.:7000",
        "xn--bcher-kva.example:7000",
        "3com.example:7000",
        "a.b-c.d:7000",
        "x" * 63 + ".example:7000",
        ".".join(["x" * 61] * 4) + ":7000",
        "[2001:db8::1]:7000",
        "[fe80::1%eth0]:7000",
        "[fe80::1%br-1aB2]:7000",
        "[fe80::1%Eth0.100]:7000",
        "[fe80::1%2]:7000",
    ],
)
def test_what_resolvers_know_comes_back_as_it_was_written(text: str) -> None:
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    ("text", "usual"),
    [
        ("HOST.Example:7000", "host.example:7000"),
        ("127.1:7000", "127.0.0.1:7000"),
        ("0x7f.1:7000", "127.0.0.1:7000"),
        ("2130706433:7000", "127.0.0.1:7000"),
        ("10.1.258:7000", "10.1.1.2:7000"),
        ("[::ffff:127.0.0.1]:7000", "127.0.0.1:7000"),
        ("[0:0:0:0:0:0:0:1]:7000", "[::1]:7000"),
        ("[2001:DB8:0:0::00A1]:7000", "[2001:db8::a1]:7000"),
        ("[FE80::0:1%Br-1aB2]:7000", "[fe80::1%Br-1aB2]:7000"),
        ("localhost:07000", "localhost:7000"),
    ],
)
def test_an_address_has_one_spelling(text: str, usual: str) -> None:
    assert Address.parse(text) == Address.parse(usual)
    assert str(Address.parse(text)) == usual


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("0.0.0.0:7000", "every address of a machine"),
        ("0:7000", "every address of a machine"),
        ("0x0.0:7000", "every address of a machine"),
        ("[::]:7000", "every address of a machine"),
        ("[0:0::0]:7000", "every address of a machine"),
        ("[::%eth0]:7000", "every address of a machine"),
        ("[::ffff:0.0.0.0]:7000", "every address of a machine"),
        ("255.255.255.255:7000", "no address of a single host"),
        ("224.0.0.1:7000", "no address of a single host"),
        ("[ff02::1%eth0]:7000", "no address of a single host"),
        ("[fe80::1]:7000", "zone"),
        ("[fe80::1%]:7000", "no valid host"),
        ("[fe80::1%a%b]:7000", "no valid host"),
        ("[fe80::1%a b]:7000", "its zone"),
        ("[fe80::1%\0]:7000", "its zone"),
        ("[127.0.0.1]:7000", "no IPv6 address in its brackets"),
        ("::1:7000", "ambiguous"),
        ("010.0.0.1:7000", "octal"),
        ("127.0.0.08:7000", "octal"),
        ("999.999.999.999:7000", "nor an IPv4 address"),
        ("1.2.3.4.5:7000", "nor an IPv4 address"),
        ("1.2.70000:7000", "nor an IPv4 address"),
        ("1_0.0.0.1:7000", "nor an IPv4 address"),
        ("host.256:7000", "nor an IPv4 address"),
        ("127.0.0.1.:7000", "nor an IPv4 address"),
        ("0x:7000", "nor an IPv4 address"),
        ("bücher.example:7000", 'write it as "xn--bcher-kva.example"'),
        ("\uff4cocalhost:7000", 'write it as "localhost"'),
        ("*:7000", "no valid host"),
        (":7000", "no valid host"),
        (".:7000", "no valid host"),
        ("a..b:7000", "no valid host"),
        ("a.-b:7000", "no valid host"),
        ("x" * 64 + ".example:7000", "no valid host"),
        (".".join(["x" * 63] * 4) + ":7000", "no valid host"),
        ("host:\uff17000", "no port"),
        ("http://host:7000", "ambiguous"),
    ],
)
def test_what_nobody_can_dial_is_refused(text: str, advice: str) -> None:
    with pytest.raises(LocalProtocolError, match=re.escape(advice)):
        Address.parse(text)


def test_what_nobody_can_dial_is_refused_in_python_too() -> None:
    with pytest.raises(LocalProtocolError, match="every address"):
        Address("0.0.0.0", 7000)
    with pytest.raises(LocalProtocolError, match="port"):
        Address("localhost", 0)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("[::1]:7000", "[0:0:0:0:0:0:0:1]:7000"),
        ("127.0.0.1:7000", "127.1:7000"),
        ("127.0.0.1:7000", "[::ffff:7f00:1]:7000"),
        ("replica.example:7000", "REPLICA.example:7000"),
        ("replica.example:7000", "replica.example.:7000"),
        ("localhost:7000", "127.0.0.1:7000"),
        ("[2001:db8::1%eth0]:7000", "[2001:db8::1]:7000"),
    ],
)
def test_equal_addresses_in_two_spellings_are_duplicates(tmp_path: Path, first: str, second: str) -> None:
    path = tmp_path / "genesis.toml"
    genesis().dump(path)
    text = path.read_text().replace("127.0.0.1:7000", first).replace("127.0.0.1:7003", second)
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"is also members\[0\]\.replica_address") as caught:
        Genesis.load(path)
    assert caught.value.field == "members[1].client_address"


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("[fe80::1%eth0]:7000", "[fe80::1%eth1]:7000"),
        ("[fe80::1%eth0]:7000", "[fe80::1%Eth0]:7000"),
        ("[::1]:7000", "127.0.0.1:7000"),
        ("replica.example:7000", "replica.example:7001"),
    ],
)
def test_different_addresses_are_no_duplicates(first: str, second: str) -> None:
    changed = dataclasses.replace(member(0), replica_address=Address.parse(first), client_address=Address.parse(second))
    assert len(genesis(members=(changed,)).members) == 1


def test_the_spelling_of_an_address_does_not_change_the_chain_id(tmp_path: Path) -> None:
    path = tmp_path / "genesis.toml"
    genesis().dump(path)
    path.write_text(path.read_text().replace("127.0.0.1:7000", "127.1:07000"))
    assert Genesis.load(path).chain_id == genesis().chain_id


@pytest.mark.parametrize("field", ["replica_address", "client_address"])
def test_an_address_for_listening_only_names_its_place_in_the_genesis(tmp_path: Path, field: str) -> None:
    path = tmp_path / "genesis.toml"
    genesis().dump(path)
    text = path.read_text()
    port = {"replica_address": 7002, "client_address": 7003}[field]
    path.write_text(text.replace(f"127.0.0.1:{port}", f"0.0.0.0:{port}"))
    with pytest.raises(ConfigError, match="which nobody can dial") as caught:
        Genesis.load(path)
    assert caught.value.field == f"members[1].{field}"
    assert caught.value.file == str(path)


@pytest.mark.parametrize("host", ["localhost", "localhost.", "127.0.0.1", "127.1", "::1", "::1%lo", "::ffff:127.0.0.1"])
def test_loopback_is_known_in_every_spelling(host: str) -> None:
    assert Address(host, 7000).is_loopback


@pytest.mark.parametrize("host", ["localhost.example", "192.0.2.1", "2001:db8::1", "fe80::1%lo"])
def test_what_may_leave_the_machine_is_not_loopback(host: str) -> None:
    assert not Address(host, 7000).is_loopback
