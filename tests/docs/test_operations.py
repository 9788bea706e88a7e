"""The reference in docs/operations.md names what there is, with its defaults and bounds."""

from __future__ import annotations

import asyncio
from typing import Any, get_args, get_origin, get_type_hints

import msgspec
import pytest
from kit.documents import ROOT, table

from smartbft import limits
from smartbft.apps.counter import Counter
from smartbft.cli.exit_codes import MEANINGS
from smartbft.config import genesis, profile, replica
from smartbft.config.toml import Duration, Size
from smartbft.config.units import format_duration, format_size, parse_duration, parse_size
from smartbft.runtime.local import LocalCluster

PAGE = (ROOT / "docs" / "operations.md").read_text()


def shown(value: Any, kind: Any) -> str:
    """A default as a configuration file has it."""
    if kind is Duration:
        return format_duration(value)
    if kind is Size:
        return format_size(value)
    return "none" if value is msgspec.NODEFAULT else str(value).lower()  # an empty table is made anew


def bounds(kind: Any) -> str | None:
    """The bounds that a type itself has."""
    if kind is bool:
        return "true, false"
    if get_origin(kind) is not None and get_args(kind) and all(isinstance(item, str) for item in get_args(kind)):
        return ", ".join(get_args(kind))
    for meta in getattr(kind, "__metadata__", ()):
        return f"{meta.ge} to {meta.le}"
    return None


def assert_documented(rows: list[list[str]], schema: type[msgspec.Struct]) -> None:
    """Rows `key | default | bounds | meaning` against a schema."""
    found = {field.name: field for field in msgspec.structs.fields(schema)}
    types = get_type_hints(schema, include_extras=True)
    assert [row[0] for row in rows] == list(found)
    for key, default, documented, meaning in rows:
        field = found[key]
        assert default == ("required" if field.required else shown(field.default, field.type)), key
        known = bounds(types[key])
        assert known is None or documented == known, key
        assert meaning, key


def test_config() -> None:
    rows = table(PAGE, "config.toml")
    assert_documented(rows, replica._ReplicaFile)
    found = {row[0]: row[2].split(" to ") for row in rows}
    assert [parse_size(bound) for bound in found["segment_size"]] == [
        limits.MIN_SEGMENT_BYTES,
        replica._MAX_SEGMENT_BYTES,
    ]
    assert [parse_duration(bound) for bound in found["sync_floor"]] == [0, replica._MAX_SYNC_FLOOR_MICROSECONDS]


def test_parameters() -> None:
    rows = table(PAGE[PAGE.index("`parameters`:") :].replace("`parameters`:", "# parameters"), "parameters")
    assert_documented(rows, genesis._ParametersFile)
    for key, _, documented, _ in rows:
        if key in genesis._CHOICES:
            assert tuple(documented.split(", ")) == genesis._CHOICES[key]
            continue
        parse = parse_duration if key in genesis._DURATIONS else parse_size if key in genesis._SIZES else int
        assert tuple(parse(bound) for bound in documented.split(" to ")) == genesis._BOUNDS[key], key


def test_genesis() -> None:
    rows = table(PAGE, "genesis.toml")
    top = {field.name for field in msgspec.structs.fields(genesis._GenesisFile)}
    assert {row[0].partition(".")[0] for row in rows} == top
    application = {field.name for field in msgspec.structs.fields(genesis._ApplicationFile)}
    assert {row[0].partition(".")[2] for row in rows} - {""} == application
    members = {row[0]: row[2] for row in rows}["members"]
    assert members == f"1 to {limits.MAX_MEMBERS}"


def test_members() -> None:
    page = PAGE.replace("Each of `members` has, without defaults:", "# members")
    documented = [row[0] for row in table(page, "members")]
    assert documented == [field.name for field in msgspec.structs.fields(genesis._MemberFile)]


def test_profile() -> None:
    assert_documented(table(PAGE, "client.toml"), profile._ProfileFile)


def test_exit_codes() -> None:
    assert table(PAGE, "Exit codes") == [[str(code.value), meaning] for code, meaning in MEANINGS.items()]


def test_status_fields() -> None:
    async def ask() -> dict[str, Any]:
        async with LocalCluster(1, Counter, "sync") as cluster:
            return await cluster.replicas[0].status(digest=True)

    rows = table(PAGE, "Status")
    facts = asyncio.run(ask())
    assert {name for row in rows for name in row[0].split(", ")} == set(facts)
    meanings = {row[0]: row[1] for row in rows}
    for part in ("pool", "log"):
        assert [name for name in facts[part] if name not in meanings[part]] == []


def test_limits() -> None:
    found = {row[0]: row[1] for row in table(PAGE, "Limits")}
    numbers = [int(value.split()[0].rstrip(",")) for value in found.values() if value[0].isdigit()]
    assert numbers == [
        limits.MAX_MEMBERS,
        limits.MAX_OPERATION_BYTES,
        limits.COMMANDS_AT_ONCE,
        limits.MAX_WALLET_COINS,
        limits.MAX_CLIENT_CONNECTIONS,
        limits.MAX_POOL_REQUESTS,
        limits.MAX_UNVERIFIED_PER_SOURCE,
        limits.MAX_BAD_SIGNATURES_PER_SOURCE,
        limits.WASTED_REQUESTS_AT_ONCE,
        limits.HANDSHAKE_TIMEOUT_SECONDS,
        limits.CLIENT_IDLE_TIMEOUT_SECONDS / 60,
        limits.MAX_LOG_QUEUE_BYTES / 2**20,
        limits.MAX_BYTES_WAITING_FOR_CLIENTS / 2**20,
    ]
    wasted = found["repeated or refused requests of one connection before it is read more slowly"]
    assert wasted == f"{limits.WASTED_REQUESTS_AT_ONCE} at once, {limits.WASTED_REQUESTS_PER_SECOND} per second"
    assert limits.MAX_RESULT_BYTES == limits.MAX_OPERATION_BYTES
    assert f"the window, {limits.DEFAULT_WINDOW} unless" in found["requests in flight per session"]


def test_a_stale_table_is_found() -> None:
    rows = [[*row] for row in table(PAGE, "config.toml")]
    for change in ("replica", "persistence", "verify_threads"):
        stale = [row for row in rows if row[0] != change]
        with pytest.raises(AssertionError):
            assert_documented(stale, replica._ReplicaFile)
    rows[1][1] = "async"
    with pytest.raises(AssertionError):
        assert_documented(rows, replica._ReplicaFile)
