"""The genesis: what all replicas and clients of a chain agree on before it begins. Its hash is the chain id."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import msgspec
from blake3 import blake3

from smartbft import limits
from smartbft._fastpath.verify import is_small_order
from smartbft.config.address import Address
from smartbft.config.toml import Duration, HexBytes32, Size, check_plain, read_toml, write_toml
from smartbft.config.units import format_duration, format_size
from smartbft.errors import ConfigError, LocalProtocolError
from smartbft.types import CHANNEL, SEQUENTIAL, SIGNATURES, TOGETHER, Member, Parameters, View

_CONTEXT = "smartbft v1 genesis"
_FORMAT_VERSION = 1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# Which parameters are durations and sizes, and the bounds each must keep.
_DURATIONS = (
    "session_lease",
    "clock_skew",
    "request_timeout",
    "max_request_timeout",
    "proposal_timeout",
    "resend_interval",
    "progress_interval",
    "fetch_grace",
    "batch_delay",
)
_SIZES = ("max_batch_bytes",)
_CHOICES = {"request_authentication": (SIGNATURES, CHANNEL), "checkpoint_schedule": (TOGETHER, SEQUENTIAL)}
_HOUR = 3_600_000_000
_BOUNDS: dict[str, tuple[int, int]] = {
    "max_batch_requests": (1, limits.MAX_BATCH_REQUESTS),
    # The largest request must fit, with its length: else it would never be ordered, nor what waits behind it.
    "max_batch_bytes": (4 + limits.MAX_REQUEST_BYTES, limits.MAX_BATCH_BYTES),
    "window": (1, limits.MAX_WINDOW),
    "max_sessions": (1, limits.MAX_SESSIONS),
    "max_sessions_per_key": (1, limits.MAX_SESSIONS_PER_KEY),
    "session_lease": (1_000_000, 30 * 24 * _HOUR),
    "clock_skew": (1_000, _HOUR),
    "request_timeout": (1_000, _HOUR),
    "max_request_timeout": (1_000, _HOUR),
    "proposal_timeout": (1_000, _HOUR),
    "resend_interval": (1_000, _HOUR),
    "progress_interval": (1_000, _HOUR),
    "fetch_grace": (0, _HOUR),
    "batch_delay": (0, _HOUR),
    "checkpoint_interval": (1, limits.MAX_CHECKPOINT_INTERVAL),
}
# Which durations may not be longer than which, and why.
_NOT_LONGER = (
    ("resend_interval", "request_timeout", "what is lost must be repeated before the leader is suspected for it"),
    ("request_timeout", "max_request_timeout", "the timeout begins there and is doubled up to that"),
)


@dataclass(frozen=True, slots=True)
class GenesisMember:
    """A replica of the first view.

    Attributes:
        id: its number, unique.
        permanent_key, consensus_key: Ed25519 public keys, 32 bytes.
        certificate_sha256: SHA-256 of its TLS certificate (DER), 32 bytes: pinned, nothing else is trusted.
        replica_address: where it listens for the other replicas.
        client_address: where it listens for clients.
    """

    id: int
    permanent_key: bytes
    consensus_key: bytes
    certificate_sha256: bytes
    replica_address: Address
    client_address: Address


@dataclass(frozen=True)
class Genesis:
    """What a chain begins with.

    Attributes:
        chain_name: for people; 1 to 64 characters.
        created: microseconds since the epoch.
        members: in the order that decides who leads.
        parameters: protocol parameters.
        application: a built-in name (``coin``, ``counter``, ``key_value``) or ``package.module:Class``.
        application_parameters: for the application, e.g. the authorised minters of the coin.
    """

    chain_name: str
    created: int
    members: tuple[GenesisMember, ...]
    parameters: Parameters = field(default_factory=Parameters)
    application: str = "coin"
    application_parameters: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises ConfigError: see `validate`."""
        self.validate()

    @cached_property
    def chain_id(self) -> bytes:
        """32 bytes: BLAKE3 of the canonical form of every field, in a domain of its own.

        The canonical form is a MessagePack array with the fields in order and the keys of tables sorted, so neither the
        layout nor the comments of the file matter.
        """
        everything = (
            _FORMAT_VERSION,
            self.chain_name,
            self.created,
            [_canonical(member) for member in self.members],
            asdict(self.parameters),
            self.application,
            self.application_parameters,
        )
        material = msgspec.msgpack.encode(everything, order="deterministic")
        return blake3(material, derive_key_context=_CONTEXT).digest()

    @cached_property
    def view(self) -> View:
        """The first membership."""
        return View(0, tuple(Member(m.id, m.permanent_key, m.consensus_key) for m in self.members))

    def member(self, replica: int) -> GenesisMember:
        """The member with this id. Raises LocalProtocolError: there is none."""
        for member in self.members:
            if member.id == replica:
                return member
        raise LocalProtocolError(f"there is no replica {replica}: this chain has {[m.id for m in self.members]}")

    def validate(self, file: str | None = None) -> None:
        """Raises ConfigError: a duplicate, a value out of bounds, or a key that must not be used."""
        if not 1 <= len(self.chain_name) <= 64 or not self.chain_name.isprintable():
            raise ConfigError("must have 1 to 64 printable characters", file=file, field="chain_name")
        if not self.created >= 0:
            raise ConfigError("lies before 1970", file=file, field="created")
        if not 1 <= len(self.members) <= limits.MAX_MEMBERS:
            raise ConfigError(f"needs 1 to {limits.MAX_MEMBERS} replicas", file=file, field="members")
        _check_members(self.members, file)
        _check_parameters(self.parameters, file)
        _check_schedule(self.parameters, len(self.members), file)
        if not re.fullmatch(r"[a-z][a-z0-9_]*|[A-Za-z_][\w.]*:[A-Za-z_]\w*", self.application):
            raise ConfigError(
                'is neither a name such as "coin" nor "package.module:Class"', file=file, field="application.name"
            )
        try:
            check_plain(self.application_parameters, "")
        except LocalProtocolError as error:
            raise ConfigError(str(error), file=file, field="application.parameters") from None

    @classmethod
    def load(cls, path: Path | str) -> Genesis:
        """Read a genesis file.

        Raises:
            ConfigError: names the file and the field.
        """
        path = Path(path)
        content = read_toml(path, _GenesisFile)
        if content.created.tzinfo is None:
            raise ConfigError("needs a time zone, e.g. 2026-01-31T12:00:00Z", file=str(path), field="created")
        members = tuple(_member_from_file(member, index, path) for index, member in enumerate(content.members))
        try:
            return cls(
                content.chain_name,
                (content.created - _EPOCH) // timedelta(microseconds=1),
                members,
                _parameters(content.parameters),
                content.application.name,
                content.application.parameters,
            )
        except ConfigError as error:
            message = str(error).removeprefix(f"{error.field}: ")
            raise ConfigError(message, file=str(path), field=error.field) from None

    def parameters_as_written(self) -> dict[str, Any]:
        """The parameters as the file has them: durations and sizes with their units."""
        parameters: dict[str, Any] = asdict(self.parameters)
        for name in _DURATIONS:
            parameters[name] = format_duration(parameters[name])
        for name in _SIZES:
            parameters[name] = format_size(parameters[name])
        return parameters

    def dump(self, path: Path | str) -> None:
        """Write the genesis to `path`; `load` gives an equal one."""
        tree = {
            "chain_name": self.chain_name,
            "created": _EPOCH + timedelta(microseconds=self.created),
            "application": {"name": self.application, "parameters": self.application_parameters},
            "parameters": self.parameters_as_written(),
            "members": [_member_to_file(member) for member in self.members],
        }
        comment = f"The same file on every replica and client.\nchain id: {self.chain_id.hex()}"
        write_toml(Path(path), tree, comment=comment)


class _MemberFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    id: Annotated[int, msgspec.Meta(ge=0, le=2**16 - 1)]
    permanent_key: HexBytes32
    consensus_key: HexBytes32
    certificate_sha256: HexBytes32
    replica_address: str
    client_address: str


class _ApplicationFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    name: str
    parameters: dict[str, Any] = {}


_DEFAULT = Parameters()


class _ParametersFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    max_batch_requests: int = _DEFAULT.max_batch_requests
    max_batch_bytes: Size = Size(_DEFAULT.max_batch_bytes)
    window: int = _DEFAULT.window
    max_sessions: int = _DEFAULT.max_sessions
    max_sessions_per_key: int = _DEFAULT.max_sessions_per_key
    session_lease: Duration = Duration(_DEFAULT.session_lease)
    clock_skew: Duration = Duration(_DEFAULT.clock_skew)
    request_timeout: Duration = Duration(_DEFAULT.request_timeout)
    max_request_timeout: Duration = Duration(_DEFAULT.max_request_timeout)
    proposal_timeout: Duration = Duration(_DEFAULT.proposal_timeout)
    resend_interval: Duration = Duration(_DEFAULT.resend_interval)
    progress_interval: Duration = Duration(_DEFAULT.progress_interval)
    fetch_grace: Duration = Duration(_DEFAULT.fetch_grace)
    batch_delay: Duration = Duration(_DEFAULT.batch_delay)
    request_authentication: str = _DEFAULT.request_authentication
    checkpoint_interval: int = _DEFAULT.checkpoint_interval
    checkpoint_schedule: str = _DEFAULT.checkpoint_schedule


class _GenesisFile(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    chain_name: str
    created: datetime
    members: list[_MemberFile]
    application: _ApplicationFile
    parameters: _ParametersFile = _ParametersFile()


def _parameters(content: _ParametersFile) -> Parameters:
    values: dict[str, Any] = msgspec.structs.asdict(content)
    for name in values.keys() - _CHOICES.keys():
        values[name] = int(values[name])
    return Parameters(**values)


def _member_from_file(member: _MemberFile, index: int, path: Path) -> GenesisMember:
    addresses: list[Address] = []
    for name in ("replica_address", "client_address"):
        try:
            addresses.append(Address.parse(getattr(member, name)))
        except LocalProtocolError as error:
            raise ConfigError(str(error), file=str(path), field=f"members[{index}].{name}") from None
    keys = (bytes(member.permanent_key), bytes(member.consensus_key), bytes(member.certificate_sha256))
    return GenesisMember(member.id, *keys, *addresses)


def _member_to_file(member: GenesisMember) -> Mapping[str, Any]:
    return {
        "id": member.id,
        "permanent_key": member.permanent_key.hex(),
        "consensus_key": member.consensus_key.hex(),
        "certificate_sha256": member.certificate_sha256.hex(),
        "replica_address": str(member.replica_address),
        "client_address": str(member.client_address),
    }


def _canonical(member: GenesisMember) -> tuple[Any, ...]:
    keys = (member.permanent_key, member.consensus_key, member.certificate_sha256)
    return (member.id, *keys, str(member.replica_address), str(member.client_address))


def _check_members(members: Iterable[GenesisMember], file: str | None) -> None:
    seen: dict[str, dict[Any, str]] = {"id": {}, "key": {}, "certificate": {}, "address": {}}
    for index, member in enumerate(members):
        items: list[tuple[str, str, int | bytes | Address]] = [
            ("id", "id", member.id),
            ("key", "permanent_key", member.permanent_key),
            ("key", "consensus_key", member.consensus_key),
            ("certificate", "certificate_sha256", member.certificate_sha256),
            ("address", "replica_address", member.replica_address),
            ("address", "client_address", member.client_address),
        ]
        for kind, name, value in items:
            place = f"members[{index}].{name}"
            if isinstance(value, bytes) and len(value) != 32:
                raise ConfigError("must have 32 bytes", file=file, field=place)
            # With a point of small order anybody can sign for the member (ZIP-215 accepts such signatures).
            if kind == "key" and isinstance(value, bytes) and is_small_order(value):
                raise ConfigError("is not a usable Ed25519 public key", file=file, field=place)
            same = value.endpoint if isinstance(value, Address) else value
            if same in seen[kind]:
                shown = value.hex() if isinstance(value, bytes) else value
                raise ConfigError(
                    f"{shown} is also {seen[kind][same]}: every replica needs its own", file=file, field=place
                )
            seen[kind][same] = place


def _check_parameters(parameters: Parameters, file: str | None) -> None:
    for name, choices in _CHOICES.items():
        if getattr(parameters, name) not in choices:
            raise ConfigError(f"must be one of: {', '.join(choices)}", file=file, field=f"parameters.{name}")
    for item in fields(parameters):
        if item.name in _CHOICES:
            continue
        lowest, highest = _BOUNDS[item.name]
        value = getattr(parameters, item.name)
        if not lowest <= value <= highest:
            show = format_duration if item.name in _DURATIONS else format_size if item.name in _SIZES else str
            raise ConfigError(
                f"{show(value)} is out of bounds: choose {show(lowest)} to {show(highest)}",
                file=file,
                field=f"parameters.{item.name}",
            )
    for shorter, longer, reason in _NOT_LONGER:
        value, bound = getattr(parameters, shorter), getattr(parameters, longer)
        if value > bound:
            raise ConfigError(
                f"{format_duration(value)} is longer than {longer}, {format_duration(bound)}: {reason}",
                file=file,
                field=f"parameters.{shorter}",
            )


def _check_schedule(parameters: Parameters, n: int, file: str | None) -> None:
    """Checkpoints of different replicas must fall on different instances."""
    if parameters.checkpoint_schedule == SEQUENTIAL and parameters.checkpoint_interval < n:
        raise ConfigError(
            f"{parameters.checkpoint_interval} is too small: with sequential checkpoints each of {n} replicas takes "
            f"its own after another instance; choose {n} or more",
            file=file,
            field="parameters.checkpoint_interval",
        )
