"""The three configuration files: round trips, strictness, and errors that name file and field."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from smartbft.config import (
    Address,
    ClientProfile,
    Genesis,
    GenesisMember,
    ReplicaConfig,
    check_schedule,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)
from smartbft.config.toml import format_toml
from smartbft.crypto.keys import load_signer
from smartbft.errors import ConfigError, LocalProtocolError
from smartbft.testnet import create_testnet
from smartbft.types import CHANNEL, SEQUENTIAL, SIGNATURES, TOGETHER, Parameters


def key(number: int) -> bytes:
    return bytes(SigningKey(number.to_bytes(32, "little")).verify_key)


def member(replica: int) -> GenesisMember:
    return GenesisMember(
        replica,
        key(3 * replica + 1),
        key(3 * replica + 2),
        key(3 * replica + 3),
        Address("127.0.0.1", 7000 + 2 * replica),
        Address("127.0.0.1", 7001 + 2 * replica),
    )


def genesis(**changes: object) -> Genesis:
    values = {
        "chain_name": "test",
        "created": 1_700_000_000_123_456,
        "members": tuple(map(member, range(4))),
        "parameters": Parameters(request_timeout=1_500_000),
        "application": "coin",
        "application_parameters": {"minters": ["ab"], "table": {"b": 1, "a": True}},
    }
    return Genesis(**{**values, **changes})  # type: ignore[arg-type]


def test_a_genesis_comes_back_as_it_was_written(tmp_path: Path) -> None:
    written = genesis()
    written.dump(tmp_path / "genesis.toml")
    read = Genesis.load(tmp_path / "genesis.toml")
    assert read == written
    assert read.chain_id == written.chain_id
    assert read.view.n == 4
    assert read.view.member(2).consensus_key == key(8)  # type: ignore[union-attr]


def test_layout_and_comments_do_not_change_the_chain_id(tmp_path: Path) -> None:
    path = tmp_path / "genesis.toml"
    genesis().dump(path)
    path.write_text("# a remark\n\n" + path.read_text().replace(" = ", "   =  ").replace('"1500ms"', '"1.5s"'))
    assert Genesis.load(path).chain_id == genesis().chain_id


@pytest.mark.parametrize(
    "changes",
    [
        {"chain_name": "other"},
        {"created": 1},
        {"members": tuple(map(member, (1, 0, 2, 3)))},
        {"members": tuple(map(member, range(5)))},
        {"parameters": Parameters()},
        {"application": "kv"},
        {"application_parameters": {}},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_field_changes_the_chain_id(changes: dict[str, object]) -> None:
    assert genesis(**changes).chain_id != genesis().chain_id


def test_every_parameter_can_be_set_in_the_file(tmp_path: Path) -> None:
    for field in dataclasses.fields(Parameters):
        default = getattr(Parameters(), field.name)
        others = {SIGNATURES: CHANNEL, TOGETHER: SEQUENTIAL}
        other = others[default] if isinstance(default, str) else default - 1
        written = genesis(parameters=Parameters(**{field.name: other}))
        written.dump(tmp_path / "genesis.toml")
        assert Genesis.load(tmp_path / "genesis.toml").parameters == written.parameters


PERMANENT = f'permanent_key = "{key(4).hex()}"'


@pytest.mark.parametrize(
    ("old", "new", "field", "advice"),
    [
        ("window = 64", "windwo = 64", "parameters.windwo", "did you mean 'window'?"),
        ("window = 64", "window = 0", "parameters.window", "choose 1 to"),
        ("window = 64", 'window = "64"', "parameters.window", "expected a whole number, got a string"),
        ("window = 64", "window = 64\nwindow = 65", None, "given twice"),
        ('request_timeout = "1500ms"', "request_timeout = 2", "parameters.request_timeout", "with a unit"),
        ('request_timeout = "1500ms"', 'request_timeout = "2 weeks"', "parameters.request_timeout", "not a duration"),
        ('request_timeout = "1500ms"', 'request_timeout = "9h"', "parameters.request_timeout", "choose 1ms to 1h"),
        ('max_batch_bytes = "1MiB"', 'max_batch_bytes = "1GiB"', "parameters.max_batch_bytes", "choose"),
        ('"127.0.0.1:7002"', '"127.0.0.1:7001"', "members[1].replica_address", "members[0].client_address"),
        ('"127.0.0.1:7002"', '"127.0.0.1"', "members[1].replica_address", "host:port"),
        (PERMANENT, f'permanent_key = "{key(1).hex()}"', "members[1].permanent_key", "its own"),
        (PERMANENT, 'permanent_key = "00"', "members[1].permanent_key", "64 lower-case"),
        (PERMANENT, f'permanent_key = "{"00" * 32}"', "members[1].permanent_key", "not a usable"),
        ("id = 1\n", "id = 0\n", "members[1].id", "members[0].id"),
        ("id = 1\n", "id = -1\n", "members[1].id", ">= 0"),
        ("id = 1\n", 'id = 1\nid_ = 3\nhost = "x"\n', "members[1].id_", "did you mean 'id'"),
        ('name = "coin"', 'name = "../coin"', "application.name", "neither a name"),
        ("[application.parameters]", "[application.parameters]\nx = 0.5", "application.parameters", "x is a float"),
        ('chain_name = "test"', 'chain_name = ""', "chain_name", "printable"),
        ('chain_name = "test"\n', "", None, "missing required field `chain_name`"),
        ('chain_name = "test"', 'chain_name = "te\\u0000st"', "chain_name", "printable"),
        ("created = 2023-11-14T22:13:20.123456Z", "created = 2023-11-14T22:13:20", "created", "time zone"),
        ("created = 2023-11-14T22:13:20.123456Z", "created = 1950-01-01T00:00:00Z", "created", "1970"),
    ],
)
def test_a_bad_genesis_is_refused_with_file_and_field(
    tmp_path: Path, old: str, new: str, field: str | None, advice: str
) -> None:
    path = tmp_path / "genesis.toml"
    genesis().dump(path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ConfigError, match=re.escape(advice)) as caught:
        Genesis.load(path)
    assert caught.value.file == str(path)
    assert caught.value.field == field
    assert str(caught.value).count(str(path)) == 1


def test_a_missing_binary_or_huge_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        Genesis.load(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        Genesis.load(tmp_path / "binary.toml")
    (tmp_path / "huge.toml").write_bytes(b"#" * (1024 * 1024 + 1))
    with pytest.raises(ConfigError, match="larger than"):
        Genesis.load(tmp_path / "huge.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        Genesis.load(tmp_path)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xef\xbb\xbfreplica = 1\n", "begins with a byte order mark: save it as UTF-8"),
        ("replica = 1\n".encode("utf-16"), "is UTF-16 text: save it as UTF-8"),
        ("replica = 1\n".encode("utf-16-be"), "null bytes"),
        ("replica = 1\n".encode("utf-32"), "is UTF-32 text"),
    ],
)
def test_text_of_another_encoding_is_named(tmp_path: Path, content: bytes, problem: str) -> None:
    (tmp_path / "config.toml").write_bytes(content)
    with pytest.raises(ConfigError, match=problem):
        ReplicaConfig.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("x = " + "[" * 100_000, "nested too deeply"),
        (".".join("a" * 3000) + " = 1", "nested too deeply|unknown key"),
        ("replica = " + "9" * 5000, "is not valid TOML"),
        ("replica = 1e999", "expected a whole number, got a number with a fraction"),
        ("replica = 99999999999999999999", "out of range|<= 65535"),
    ],
    ids=["arrays", "tables", "digits", "infinity", "large"],
)
def test_extravagant_toml_is_a_configuration_error(tmp_path: Path, text: str, advice: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=advice):
        ReplicaConfig.load(tmp_path)


@pytest.mark.parametrize("depth", [17, 3000])
def test_application_parameters_nested_too_deeply_are_refused(tmp_path: Path, depth: int) -> None:
    path = tmp_path / "genesis.toml"
    genesis(application_parameters={"here": 1}).dump(path)
    path.write_text(path.read_text().replace("here = 1", ".".join("a" * depth) + " = 1"))
    with pytest.raises(ConfigError, match="nested"):
        Genesis.load(path)


def test_a_profile_with_a_null_byte_in_a_name(tmp_path: Path) -> None:
    path = tmp_path / "profile.toml"
    path.write_text('genesis = "gene\\u0000sis.toml"')
    with pytest.raises(ConfigError, match="cannot be read: embedded null"):
        ClientProfile.load(path)
    with pytest.raises(ConfigError, match="cannot be read: embedded null"):
        load_signer(tmp_path / "a\0.key")


def test_a_key_of_the_wrong_length_is_refused_in_python_too() -> None:
    with pytest.raises(ConfigError, match=r"members\[0\].consensus_key: must have 32 bytes"):
        genesis(members=(dataclasses.replace(member(0), consensus_key=b"short"),))


def test_replica_settings_come_back_as_they_were_written(tmp_path: Path) -> None:
    config = ReplicaConfig(
        3,
        tmp_path,
        "async",
        "plain",
        "sequential",
        False,
        2,
        False,
        1 << 20,
        sync_floor_seconds=0.004,
        log_level="debug",
    )
    config.dump()
    assert ReplicaConfig.load(tmp_path) == config
    assert config.genesis_path == tmp_path / "genesis.toml"


@pytest.mark.parametrize(
    ("text", "field", "advice"),
    [
        ("", None, "missing required field `replica`"),
        ("replica = 1\npersistance = 'sync'", "persistance", "did you mean 'persistence'?"),
        ("replica = 1\nzzz = 'sync'", "zzz", "known here are replica, persistence, "),
        ("replica = 1\npersistence = 'fsync'", "persistence", "Invalid enum value 'fsync'"),
        ("replica = 1\nsegment_size = '1B'", "segment_size", "choose 64KiB to 1GiB"),
        ("replica = 1\nsegment_size = 4096", "segment_size", "with a unit"),
        ("replica = 1\nsync_floor = '1h'", "sync_floor", "choose 0s to 1s"),
        ("replica = true", "replica", "expected a whole number, got true or false"),
        ("replica = 1\nverify_threads = -1", "verify_threads", ">= 0"),
    ],
)
def test_bad_replica_settings_are_refused(tmp_path: Path, text: str, field: str | None, advice: str) -> None:
    (tmp_path / "config.toml").write_text(text)
    with pytest.raises(ConfigError, match=re.escape(advice)) as caught:
        ReplicaConfig.load(tmp_path)
    assert caught.value.file == str(tmp_path / "config.toml")
    assert caught.value.field == field


def test_a_client_profile_moves_with_its_folder(tmp_path: Path) -> None:
    old = tmp_path / "old"
    old.mkdir()
    genesis().dump(old / "genesis.toml")
    profile = ClientProfile(old / "client.toml", genesis(), "plain", "async", {"client": old / "keys" / "client.key"})
    profile.dump(old / "genesis.toml")
    new = old.rename(tmp_path / "new")
    read = ClientProfile.load(new / "client.toml")
    assert read.genesis == genesis()
    assert read.key_path("client") == new / "keys" / "client.key"
    assert read.replies_needed == 2
    assert dataclasses.replace(read, persistence="sync").replies_needed == 3
    with pytest.raises(ConfigError, match="there is no key 'minter'"):
        read.key_path("minter")


@pytest.mark.parametrize("text", ["127.0.0.1:7000", "[::1]:7000", "replica-0.example.org:65535", "localhost:1"])
def test_addresses_come_back_as_they_were_written(text: str) -> None:
    assert str(Address.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":7",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "host:" + "9" * 5000,
        "host:x",
        "host:-1",
        "::1:70",
        "[host]:7",
        "a b:7",
        "-a:7",
    ],
)
def test_bad_addresses_are_refused(text: str) -> None:
    with pytest.raises(LocalProtocolError, match="host"):
        Address.parse(text)


@given(st.integers(0, 10**15))
def test_quantities_come_back_as_they_were_written(amount: int) -> None:
    assert parse_duration(format_duration(amount)) == amount
    assert parse_size(format_size(amount)) == amount


@pytest.mark.parametrize(
    ("text", "microseconds"),
    [("0s", 0), ("250ms", 250_000), ("1.5s", 1_500_000), ("2 min", 120_000_000), ("1h", 3_600_000_000), ("7us", 7)],
)
def test_durations(text: str, microseconds: int) -> None:
    assert parse_duration(text) == microseconds


@pytest.mark.parametrize("text", ["", "5", "ms", "-1s", "1e3s", "1S", "0.5us", "1 week", "1s2ms", "٣s"])
def test_bad_durations_are_refused(text: str) -> None:
    with pytest.raises(LocalProtocolError):
        parse_duration(text)


plain = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(st.integers()) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=12,
)


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), plain))
def test_written_toml_is_read_back_by_the_standard_library(tree: dict[str, object]) -> None:
    assert tomllib.loads(format_toml(tree)) == tree


@pytest.mark.parametrize(
    ("parameters", "field", "problem"),
    [
        (Parameters(request_timeout=200_000), "resend_interval", "250ms is longer than request_timeout, 200ms"),
        (Parameters(max_request_timeout=1_000_000), "request_timeout", "2s is longer than max_request_timeout, 1s"),
    ],
)
def test_timeouts_that_do_not_fit_together_are_refused(parameters: Parameters, field: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        genesis(parameters=parameters)
    assert caught.value.field == f"parameters.{field}"


def test_timeouts_may_be_the_same() -> None:
    parameters = Parameters(request_timeout=250_000, max_request_timeout=250_000)
    assert genesis(parameters=parameters).parameters == parameters


def test_sequential_checkpoints_need_an_instance_for_each_replica() -> None:
    with pytest.raises(ConfigError, match=r"3 is too small.*choose 4 or more") as caught:
        genesis(parameters=Parameters(checkpoint_interval=3, checkpoint_schedule=SEQUENTIAL))
    assert caught.value.field == "parameters.checkpoint_interval"
    genesis(parameters=Parameters(checkpoint_interval=4, checkpoint_schedule=SEQUENTIAL))


def test_sequential_checkpoints_need_a_log(tmp_path: Path) -> None:
    parameters = Parameters(checkpoint_schedule=SEQUENTIAL)
    for persistence in ("sync", "async"):
        check_schedule(persistence, parameters)
    with pytest.raises(ConfigError, match="need a log") as caught:
        create_testnet(tmp_path / "net", persistence="memory", parameters=parameters)
    assert caught.value.field == "persistence"
    assert not (tmp_path / "net").exists()
