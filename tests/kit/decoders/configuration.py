"""Decoders of files that people write: genesis, settings, profiles, keys, certificates, and their small syntaxes."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kit.files import fuzz_folder
from kit.fuzzing import Decoder
from kit.mutation import TextMutator
from smartbft.config import (
    Address,
    ClientProfile,
    Genesis,
    ReplicaConfig,
    format_duration,
    format_size,
    parse_duration,
    parse_size,
)
from smartbft.crypto.certificates import fingerprint, make_certificate
from smartbft.crypto.keys import load_signer
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import ConfigError, LocalProtocolError

_KEYS = [Ed25519Signer(bytes([number]) * 32).public_key.hex() for number in (1, 2)]
_GENESIS = f"""\
chain_name = "t"
created = 2026-01-31T12:00:00Z
[application]
name = "coin"
parameters.minters = ["{_KEYS[0]}"]
[parameters]
window = 8
max_batch_bytes = "1MiB"
fetch_grace = "1ms"
[[members]]
id = 0
permanent_key = "{_KEYS[0]}"
consensus_key = "{_KEYS[1]}"
certificate_sha256 = "{"cd" * 32}"
replica_address = "127.0.0.1:7000"
client_address = "[::1]:7100"
""".encode()
_CONFIG = b"""\
replica = 3
persistence = "async"
transport = "plain"
signature_check = "parallel"
record_votes = true
verify_threads = 2
segment_size = "64KiB"
sync_floor = "1.5ms"
log_level = "info"
"""
_PROFILE = b"""\
genesis = "genesis.toml"
transport = "tls"
persistence = "sync"
[keys]
client = "keys/client.key"
"""
_SECRET = b"smartbft ed25519 secret\n" + b"0f" * 32 + b"\n"
_CERTIFICATE = make_certificate("replica 0")[1]

# A file is read into a buffer of the largest size it may have.
_READ_BUFFER_BYTES = 1024 * 1024

_TOML = [b'"', b"'", b'"""', b"=", b"[", b"]", b"[[", b"{", b"}", b",", b".", b"#", b"\\u0000", b"\\ud800", b"\n"]
_TOML += [b"true", b"nan", b"-1", b"9" * 200, b"0x", b"1e9", b"1979-05-27T07:32:00-08:00", b"9999-12-31", b"\xff"]
_TOML += [b"members", b"[parameters]", b"window", b"max_sessions = 1", b"replica = 1", b'""', b'"1MiB"', b'"1us"']


def _from(name: str, load: Callable[[Path], Any], **beside: bytes) -> Callable[[bytes], Any]:
    """A decoder of a file called `name`, with other files beside it."""
    folder = fuzz_folder() / f"{load.__qualname__}-{name}"
    folder.mkdir()
    for other, content in beside.items():
        (folder / other.replace("_", ".")).write_bytes(content)
    path = folder / name
    path.touch(mode=0o600)

    def decode(data: bytes) -> Any:
        path.write_bytes(data)
        return load(path)

    return decode


def _load_genesis(path: Path) -> None:
    genesis = Genesis.load(path)
    written = path.with_name("again.toml")
    genesis.dump(written)
    again = Genesis.load(written)
    if again != genesis or again.chain_id != genesis.chain_id:
        raise AssertionError("written and read again it is another genesis")


def _load_without_looking(path: Path) -> None:
    """Planted bug: the file is taken as it comes."""
    try:
        tree = tomllib.loads(path.read_bytes().decode())
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(error)) from None
    bytes.fromhex(tree["members"][0]["permanent_key"])


def _load_config(path: Path) -> None:
    config = ReplicaConfig.load(path.parent)
    dumped = path.read_bytes()
    config.dump()
    if ReplicaConfig.load(path.parent) != config:
        raise AssertionError("written and read again it is another configuration")
    path.write_bytes(dumped)


def _config_without_bounds(path: Path) -> None:
    """Planted bug: nothing but the syntax is checked."""
    try:
        tree = tomllib.loads(path.read_text(errors="replace"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(error)) from None
    parse_size(tree["segment_size"])


def _load_profile(path: Path) -> None:
    profile = ClientProfile.load(path)
    for name in profile.keys:
        profile.key_path(name)


def _profile_of_strings(path: Path) -> None:
    """Planted bug: the profile's genesis is opened whatever its name is."""
    try:
        tree = tomllib.loads(path.read_text(errors="replace"))
        (path.parent / str(tree.get("genesis"))).read_bytes()
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(str(error)) from None


def _load_key(path: Path) -> bytes:
    load_signer(path)
    return path.read_bytes()


def _lenient_key(path: Path) -> bytes:
    """Planted bug: digits are read as Python reads them, spaces and all."""
    lines = path.read_bytes().split(b"\n")
    if len(lines) != 3:
        raise ConfigError("no key")
    Ed25519Signer(bytes.fromhex(lines[1].decode()))
    return b"\n".join((lines[0], bytes.fromhex(lines[1].decode()).hex().encode(), lines[2]))


def _text(parse: Callable[[str], Any]) -> Callable[[bytes], Any]:
    return lambda data: parse(data.decode(errors="replace"))


def _parse_address(text: str) -> None:
    address = Address.parse(text)
    if Address.parse(str(address)) != address:
        raise AssertionError(f"{address} is read as another address")


def _port_of_any_length(text: str) -> None:
    """Planted bug: the port is whatever `int` takes."""
    host, _, port = text.rpartition(":")
    if not 1 <= int(port) <= 65535:
        raise LocalProtocolError("no port")
    Address.parse(f"{host}:{int(port)}")


def _parse_quantities(text: str) -> None:
    """As a size, else as a duration."""
    try:
        if parse_size(format_size(parse_size(text))) != parse_size(text):
            raise AssertionError("written and read again it is another size")
    except LocalProtocolError:
        if parse_duration(format_duration(parse_duration(text))) != parse_duration(text):
            raise AssertionError("written and read again it is another duration") from None


def _quantities_of_floats(text: str) -> None:
    """Planted bug: the fraction is rounded away."""
    number = text.strip().rstrip("umsKiMGBhd ")
    if parse_duration(text) != int(float(number) * 1000):
        raise AssertionError("another duration")


DECODERS = [
    Decoder(
        "genesis file",
        _from("genesis.toml", _load_genesis),
        [_GENESIS],
        ConfigError,
        _from("genesis.toml", _load_without_looking),
        fields=_TOML,
        mutator=TextMutator,
        working_bytes=_READ_BUFFER_BYTES,
    ),
    Decoder(
        "settings of a replica",
        _from("config.toml", _load_config),
        [_CONFIG, b"replica = 0\n"],
        ConfigError,
        _from("config.toml", _config_without_bounds),
        fields=_TOML,
        mutator=TextMutator,
        working_bytes=_READ_BUFFER_BYTES,
    ),
    Decoder(
        "profile of a client",
        _from("profile.toml", _load_profile, genesis_toml=_GENESIS),
        [_PROFILE, b'genesis = "genesis.toml"\n'],
        ConfigError,
        _from("profile.toml", _profile_of_strings, genesis_toml=_GENESIS),
        fields=_TOML,
        mutator=TextMutator,
        working_bytes=_READ_BUFFER_BYTES,
    ),
    Decoder(
        "key file",
        _from("a.key", _load_key),
        [_SECRET],
        ConfigError,
        _from("a.key", _lenient_key),
        lambda content: content,
        [b" ", b"0F", b"\r\n", b"\n", "٣".encode()],
        TextMutator,
    ),
    Decoder(
        "certificate file",
        _from("tls.crt", fingerprint),
        [_CERTIFICATE],
        ConfigError,
        _from("tls.crt", lambda path: fingerprint(path) if b"END" in path.read_bytes() else path.read_text()[60]),
        fields=[b"-----", b"\n", b"=", b"====", b"\0"],
        mutator=TextMutator,
    ),
    Decoder(
        "address",
        _text(_parse_address),
        [b"127.0.0.1:7000", b"[::1]:7000", b"replica-0.example.org:65535", b"[fe80::1%Eth0]:7000", b"a_b.:7000"],
        LocalProtocolError,
        _text(_port_of_any_length),
        fields=[b":", b"[", b"]", b".", b"-", b"%", b"0", b"0x", b"_", b"::ffff:", b"9" * 200, "٣".encode()],
    ),
    Decoder(
        "duration or size",
        _text(_parse_quantities),
        [b"250ms", b"1.5s", b"64MiB", b"0B", b"1d"],
        LocalProtocolError,
        _text(_quantities_of_floats),
        fields=[b".", b"e", b"-", b"us", b"GiB", b" ", b"9" * 18, "٣".encode()],
    ),
]
