"""TOML files in and out: strict typed reading with errors that name file and field, and a small canonical writer."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from smartbft.config.text import encoding_problem
from smartbft.config.units import parse_duration, parse_size
from smartbft.disk import write_file
from smartbft.errors import ConfigError, LocalProtocolError

# A configuration is read whole: a larger file is not one of ours.
_MAX_FILE_BYTES = 1024 * 1024
# Of application parameters: what is nested deeper is a mistake, and would exhaust the stack of whoever reads it.
_MAX_DEPTH = 16

_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*?)`(?: - at `\$\.?(.*)`)?")
_INVALID = re.compile(r"(.*?) - at `\$\.?(.*)`", re.DOTALL)
_EXPECTED = re.compile(r"Expected `(\w+)`, got `(\w+)`")
_KINDS = {
    "int": "a whole number",
    "float": "a number with a fraction",
    "str": "a string",
    "bool": "true or false",
    "array": "a list",
    "object": "a table",
    "datetime": "a time",
}
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")

Schema = TypeVar("Schema", bound=msgspec.Struct)


class Duration(int):
    """A schema field in microseconds, written with a unit."""


class Size(int):
    """A schema field in bytes, written with a unit."""


class HexBytes32(bytes):
    """A schema field of 32 bytes, written as 64 hexadecimal digits."""


def read_toml(path: Path, schema: type[Schema]) -> Schema:
    """Read `path` as TOML and convert it to `schema`, strictly.

    Raises:
        ConfigError: the file cannot be read, is not TOML (a key given twice included), or does not fit the schema.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise ConfigError(_missing(path), file=str(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path, which may come from another file
        raise ConfigError(f"cannot be read: {getattr(error, 'strerror', error)}", file=str(path)) from None
    if len(content) > _MAX_FILE_BYTES:
        raise ConfigError(f"is larger than {_MAX_FILE_BYTES} bytes and cannot be a configuration", file=str(path))
    if problem := encoding_problem(content):
        raise ConfigError(f"{problem}: save it as UTF-8 without a byte order mark", file=str(path))
    try:
        tree = tomllib.loads(content.decode())
    except UnicodeDecodeError:
        raise ConfigError("is not UTF-8 text", file=str(path)) from None
    except ValueError as error:  # TOMLDecodeError, or Python's own about numbers with thousands of digits
        twice = " (a key or table is given twice)" if "overwrite" in str(error) or "twice" in str(error) else ""
        raise ConfigError(f"is not valid TOML: {error}{twice}", file=str(path)) from None
    except RecursionError:
        raise ConfigError("is nested too deeply", file=str(path)) from None
    try:
        return msgspec.convert(tree, schema, dec_hook=_decode_custom)
    except msgspec.ValidationError as error:
        raise _explain(error, path, schema) from None
    except RecursionError:
        raise ConfigError("is nested too deeply", file=str(path)) from None


def write_toml(path: Path, tree: Mapping[str, Any], *, comment: str = "", mode: int = 0o644) -> None:
    """Write `tree` to a new or existing file: complete and synced, or not at all."""
    text = "".join(f"# {line}\n" for line in comment.splitlines()) + format_toml(tree)
    write_file(path, text.encode(), mode)


def format_toml(tree: Mapping[str, Any]) -> str:
    """TOML text of nested mappings; the same tree in the same order gives the same text."""
    lines: list[str] = []
    _format_table(tree, (), lines)
    return "\n".join(lines).strip() + "\n"


def check_plain(value: Any, path: str, depth: int = 0) -> None:
    """See that application parameters hold nothing but tables, lists, strings, whole numbers and booleans.

    Raises:
        LocalProtocolError: names the place. (Floats and dates have no canonical form and would split the chain id.)
    """
    if depth > _MAX_DEPTH:
        raise LocalProtocolError(f"{path} is nested more than {_MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        for key, item in value.items():
            check_plain(item, f"{path}.{key}" if path else str(key), depth + 1)
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            check_plain(item, f"{path}[{index}]", depth + 1)
    elif not isinstance(value, str | int):
        kind = type(value).__name__
        raise LocalProtocolError(f"{path} is a {kind}: use strings, whole numbers, booleans, lists and tables")
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise LocalProtocolError(f"{path} does not fit 64 bits")


def _decode_custom(kind: type, value: Any) -> Any:
    if not isinstance(value, str):
        unit = {Duration: ' with a unit, e.g. "250ms"', Size: ' with a unit, e.g. "64MiB"'}.get(kind, "")
        raise ValueError(f"expected a string{unit}, got {type(value).__name__}")
    try:
        if kind is Duration:
            return Duration(parse_duration(value))
        if kind is Size:
            return Size(parse_size(value))
    except LocalProtocolError as error:
        raise ValueError(str(error)) from None
    if kind is HexBytes32:
        if not re.fullmatch(r"[0-9a-f]{64}", value):
            raise ValueError("expected 64 lower-case hexadecimal digits")
        return HexBytes32(bytes.fromhex(value))
    raise NotImplementedError(f"no conversion to {kind}")


def _explain(error: msgspec.ValidationError, path: Path, schema: type[msgspec.Struct]) -> ConfigError:
    message = str(error)
    unknown = _UNKNOWN_FIELD.fullmatch(message)
    if unknown:
        field = ".".join(part for part in (unknown[2], unknown[1]) if part)
        close = difflib.get_close_matches(unknown[1], sorted(_field_names(schema)), n=1, cutoff=0.5)
        known = ", ".join(_keys_at(schema, unknown[2]))
        advice = f"did you mean '{close[0]}'?" if close else f"known here are {known}" if known else "remove it"
        return ConfigError(f"unknown key; {advice}", file=str(path), field=field)
    located = _INVALID.fullmatch(message)
    if located:
        return ConfigError(_plain(located[1]), file=str(path), field=located[2])
    return ConfigError(_plain(message), file=str(path))


def _missing(path: Path) -> str:
    """What to say of a file that is not there, as far as the folders round it tell."""
    folder = path.parent
    if not folder.exists():
        return f"there is no folder {folder}"
    homes = sorted(home.name for home in folder.glob("replica-*") if (home / path.name).is_file())
    if homes:
        return f"the file does not exist; the homes of replicas are in this folder: {', '.join(homes)}"
    return "the file does not exist: 'smartbft testnet' writes it"


def _plain(message: str) -> str:
    """A message of the schema library in the words of TOML."""
    found = _EXPECTED.fullmatch(message)
    if found is None:
        return message
    return f"expected {_KINDS.get(found[1], found[1])}, got {_KINDS.get(found[2], found[2])}"


def _keys_at(schema: Any, path: str | None) -> list[str]:
    """The keys that the top of a schema knows; nothing for what lies deeper, which has keys of its own."""
    return [] if path else [field.encode_name for field in msgspec.structs.fields(schema)]


def _field_names(schema: Any) -> set[str]:
    """The keys of a schema and of the tables inside it."""
    names: set[str] = set()
    for field in msgspec.structs.fields(schema):
        names.add(field.encode_name)
        for inner in (field.type, *getattr(field.type, "__args__", ())):
            if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
                names |= _field_names(inner)
    return names


def _format_table(table: Mapping[str, Any], path: tuple[str, ...], lines: list[str]) -> None:
    nested: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, Mapping) or (isinstance(value, list | tuple) and value and isinstance(value[0], Mapping)):
            nested.append((key, value))
        else:
            lines.append(f"{_format_key(key)} = {_format_value(value)}")
    for key, value in nested:
        inner = (*path, key)
        name = ".".join(map(_format_key, inner))
        for item in [value] if isinstance(value, Mapping) else value:
            lines += ["", f"[{name}]" if isinstance(value, Mapping) else f"[[{name}]]"]
            _format_table(item, inner, lines)


def _format_key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _format_string(key)


def _format_value(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, str):
        return _format_string(value)
    if isinstance(value, datetime):
        return value.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_format_value, value)) + "]"
    raise LocalProtocolError(f"a {type(value).__name__} cannot be written to a configuration file")


def _format_string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " and c != "\x7f" else f"\\u{ord(c):04x}" for c in escaped) + '"'
