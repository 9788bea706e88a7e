"""Write a whole test network: keys, certificates, genesis, one home folder per replica and a client profile."""

from __future__ import annotations

import contextlib
import secrets
import shutil
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smartbft.config import Address, ClientProfile, Genesis, GenesisMember, ReplicaConfig, check_schedule
from smartbft.config.replica import LogLevel, Persistence, SignatureCheck, Transport
from smartbft.crypto import keys
from smartbft.crypto.certificates import fingerprint, make_certificate
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import ConfigError
from smartbft.limits import DEFAULT_SEGMENT_BYTES, MAX_MEMBERS
from smartbft.storage import mark_never_started
from smartbft.types import Parameters

HOST = "127.0.0.1"
_LOWEST_PORT = 10_000  # below are those of well-known services
_OUTGOING_PORTS = Path("/proc/sys/net/ipv4/ip_local_port_range")
_USUAL_OUTGOING_PORTS = 32_768, 65_535


@dataclass(frozen=True)
class Testnet:
    """A test network on disk.

    Attributes:
        folder: holds everything.
        genesis: of its chain.
        replicas: the settings of each replica.
        profile: for clients; its keys are ``client`` and, for the coin, ``minter``.
    """

    __test__ = False  # not a test case, whatever pytest makes of the name

    folder: Path
    genesis: Genesis
    replicas: tuple[ReplicaConfig, ...]
    profile: ClientProfile

    @property
    def homes(self) -> tuple[Path, ...]:
        """The home folder of each replica."""
        return tuple(config.home for config in self.replicas)

    def signer(self, name: str = "client") -> Ed25519Signer:
        """The signer of a key of the client profile."""
        return keys.load_signer(self.profile.key_path(name))


def create_testnet(
    folder: Path | str,
    n: int = 4,
    *,
    application: str = "coin",
    application_parameters: Mapping[str, Any] | None = None,
    parameters: Parameters | None = None,
    persistence: Persistence = "sync",
    transport: Transport = "tls",
    signature_check: SignatureCheck = "parallel",
    record_votes: bool = True,
    verify_threads: int = 0,
    application_sync: bool = True,
    segment_bytes: int = DEFAULT_SEGMENT_BYTES,
    sync_floor_seconds: float = 0.0,
    log_level: LogLevel = "info",
    base_port: int | None = None,
    chain_name: str = "testnet",
) -> Testnet:
    """Write a test network of `n` replicas on this machine into a new or empty folder.

    Args:
        application_parameters: for the coin, ``minters`` is added: the public key of the ``minter`` key.
        base_port: replica `i` listens for replicas on ``base_port + 2 * i`` and for clients on the next one; None or 0
            chooses ports that are free now.

    Raises:
        ConfigError: the folder is not empty, or an argument is out of bounds.
    """
    folder = Path(folder).absolute()
    if not 1 <= n <= MAX_MEMBERS:
        raise ConfigError(f"a network has 1 to {MAX_MEMBERS} replicas, not {n}")
    check_schedule(persistence, parameters or Parameters())
    addresses = _addresses(n, base_port)
    with _claimed(folder):
        client_keys = {name: folder / "keys" / f"{name}.key" for name in ("client", "minter")}
        (folder / "keys").mkdir(mode=0o700)
        public = {name: keys.generate_key(path).public_key for name, path in client_keys.items()}
        chosen = dict(application_parameters or {})
        if application.startswith("coin"):
            chosen.setdefault("minters", [public["minter"].hex()])
        configs = tuple(
            ReplicaConfig(
                replica=replica,
                home=folder / f"replica-{replica}",
                persistence=persistence,
                transport=transport,
                signature_check=signature_check,
                record_votes=record_votes,
                verify_threads=verify_threads,
                application_sync=application_sync,
                segment_bytes=segment_bytes,
                sync_floor_seconds=sync_floor_seconds,
                log_level=log_level,
            )
            for replica in range(n)
        )
        members = tuple(_make_home(config, addresses[config.replica]) for config in configs)
        genesis = Genesis(chain_name, time.time_ns() // 1000, members, parameters or Parameters(), application, chosen)
        for config in configs:
            genesis.dump(config.genesis_path)
        genesis.dump(folder / "genesis.toml")
        profile = ClientProfile(folder / "client.toml", genesis, transport, persistence, client_keys)
        profile.dump(folder / "genesis.toml")
        return Testnet(folder, genesis, configs, profile)


def load_testnet(folder: Path | str) -> Testnet:
    """Read back what `create_testnet` wrote. Raises ConfigError."""
    folder = Path(folder).absolute()
    profile = ClientProfile.load(folder / "client.toml")
    replicas = tuple(ReplicaConfig.load(folder / f"replica-{member.id}") for member in profile.genesis.members)
    return Testnet(folder, profile.genesis, replicas, profile)


@contextlib.contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """A new or empty folder to write to. If that fails, it is as it was before: not there, or empty.

    Raises:
        ConfigError: the folder is not empty, or cannot be written.
    """
    new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = any(folder.iterdir())
    except OSError as error:
        raise ConfigError(f"cannot be used: {error.strerror}", file=str(folder)) from None
    if occupied:
        raise ConfigError("is not empty: choose a new folder, or remove this one", file=str(folder))
    try:
        yield
    except BaseException as error:
        for path in folder.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if new:
            folder.rmdir()
        if isinstance(error, OSError):
            raise ConfigError(f"cannot be written: {error.strerror}", file=str(folder)) from None
        raise


def _make_home(config: ReplicaConfig, addresses: tuple[Address, Address]) -> GenesisMember:
    """Create the folders, keys, certificate and configuration of one replica."""
    for path in (config.home, config.keys_folder, config.data_folder, config.run_folder):
        path.mkdir(mode=0o700)
    permanent = keys.generate_key(config.keys_folder / keys.PERMANENT_KEY)
    consensus = keys.generate_key(config.keys_folder / keys.CONSENSUS_KEY)
    key, certificate = make_certificate(f"replica {config.replica}")
    keys.write_secret(config.keys_folder / keys.TLS_KEY, key)
    keys.write_secret(config.keys_folder / keys.TLS_CERTIFICATE, certificate)
    config.dump()
    mark_never_started(config.home)
    pinned = fingerprint(config.keys_folder / keys.TLS_CERTIFICATE)
    return GenesisMember(config.replica, permanent.public_key, consensus.public_key, pinned, *addresses)


def _addresses(n: int, base_port: int | None) -> list[tuple[Address, Address]]:
    if base_port:
        if not 1 <= base_port <= 65536 - 2 * n:
            raise ConfigError(f"base port {base_port} leaves no room for {2 * n} ports: choose 1 to {65536 - 2 * n}")
        ports = list(range(base_port, base_port + 2 * n))
    else:
        ports = free_ports(2 * n)
    return [(Address(HOST, ports[2 * i]), Address(HOST, ports[2 * i + 1])) for i in range(n)]


def free_ports(count: int) -> list[int]:
    """Different TCP ports on loopback that nobody listens on now.

    None is one that the system gives to outgoing connections: such a connection could take the port of a replica that
    is down for a while, or, while it dials that port, be connected to itself.

    Raises:
        ConfigError: there are not so many.
    """
    first, last = _outgoing_ports()
    candidates = [port for port in range(_LOWEST_PORT, 65536) if not first <= port <= last]
    secrets.SystemRandom().shuffle(candidates)
    with ExitStack() as stack:
        found: list[int] = []
        for port in candidates:
            if len(found) == count:
                break
            listener = stack.enter_context(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            with contextlib.suppress(OSError):  # somebody listens there
                listener.bind((HOST, port))
                found.append(port)
    if len(found) < count:
        raise ConfigError(f"{count} free ports are needed, and there are {len(found)}: choose a base port")
    return found


def _outgoing_ports() -> tuple[int, int]:
    """The first and the last port of outgoing connections."""
    try:
        first, last = _OUTGOING_PORTS.read_text().split()
        return int(first), int(last)
    except (OSError, ValueError):
        return _USUAL_OUTGOING_PORTS
