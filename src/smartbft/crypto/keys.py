"""Key files: one Ed25519 secret each, readable by their owner only.

A key file is text: a line ``smartbft ed25519 secret`` and the 32-byte seed in hexadecimal. The public key is always
derived from it, never stored beside it.
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from nacl.utils import random

from smartbft.config import Genesis, ReplicaConfig
from smartbft.crypto.certificates import fingerprint
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.disk import sync_folder
from smartbft.errors import ConfigError

_HEADER = "smartbft ed25519 secret"
_SEED_BYTES = 32
_SEED = re.compile(r"[0-9a-f]{64}")

PERMANENT_KEY = "permanent.key"
CONSENSUS_KEY = "consensus.key"
TLS_KEY = "tls.key"
TLS_CERTIFICATE = "tls.crt"


def generate_key(path: Path) -> Ed25519Signer:
    """Make a new key and write it to `path`, which must not exist yet. Returns its signer.

    Raises:
        ConfigError: the file exists (a key is never overwritten) or cannot be written.
    """
    seed = random(_SEED_BYTES)
    write_secret(path, f"{_HEADER}\n{seed.hex()}\n".encode())
    return Ed25519Signer(seed)


def load_signer(path: Path) -> Ed25519Signer:
    """The signer of a key file.

    Raises:
        ConfigError: the file is missing, readable by others, or not a key file.
    """
    lines = read_secret(path).decode(errors="replace").split("\n")
    if len(lines) != 3 or lines[0] != _HEADER or lines[2]:
        raise ConfigError("is not a key file: 'smartbft key new' makes one", file=str(path))
    if not _SEED.fullmatch(lines[1]):
        raise ConfigError("is damaged: its second line must be 64 lower-case hexadecimal digits", file=str(path))
    return Ed25519Signer(bytes.fromhex(lines[1]))


def write_secret(path: Path, content: bytes) -> None:
    """Create `path` with mode 0600, exclusively, and sync it and its folder.

    Raises:
        ConfigError: the file exists or cannot be written.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise ConfigError("exists, and a key is never overwritten: choose another name", file=str(path)) from None
    except OSError as error:
        raise ConfigError(f"cannot be written: {error.strerror}", file=str(path)) from None
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # a part of a key would be in the way of a whole one
            path.unlink()
        raise ConfigError(f"cannot be written: {error.strerror}", file=str(path)) from None


def read_secret(path: Path) -> bytes:
    """The content of a file that nobody else may read.

    Raises:
        ConfigError: it cannot be read, or its group or others have access to it.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            content = file.read(65536)
    except FileNotFoundError:
        raise ConfigError("there is no such key: 'smartbft key new' makes one", file=str(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path, which may come from a profile
        raise ConfigError(f"cannot be read: {getattr(error, 'strerror', error)}", file=str(path)) from None
    if stat.S_IMODE(mode) & 0o077:
        raise ConfigError(
            f"is open to others (mode {stat.S_IMODE(mode):04o}): chmod 600 it, or make a new key if it may have leaked",
            file=str(path),
        )
    return content


@dataclass(frozen=True)
class ReplicaKeys:
    """The secrets of a replica.

    Attributes:
        permanent: signs for the replica itself.
        consensus: signs votes of the current view.
        tls_key, tls_certificate: PEM files for the TLS context.
    """

    permanent: Ed25519Signer
    consensus: Ed25519Signer
    tls_key: Path
    tls_certificate: Path


def load_replica_keys(config: ReplicaConfig, genesis: Genesis) -> ReplicaKeys:
    """Load a replica's keys and see that they are the ones the genesis names.

    Raises:
        ConfigError: the replica is not in the genesis, a key is missing or exposed, or belongs to somebody else.
    """
    folder = config.keys_folder
    member = next((member for member in genesis.members if member.id == config.replica), None)
    if member is None:
        ids = ", ".join(str(member.id) for member in genesis.members)
        raise ConfigError(
            f"replica {config.replica} is not in the genesis (which has {ids})",
            file=str(config.config_path),
            field="replica",
        )
    keys = ReplicaKeys(
        _load_own(folder / PERMANENT_KEY),
        _load_own(folder / CONSENSUS_KEY),
        folder / TLS_KEY,
        folder / TLS_CERTIFICATE,
    )
    _see_there_is(keys.tls_key)
    read_secret(keys.tls_key)
    found = [
        (PERMANENT_KEY, keys.permanent.public_key, member.permanent_key),
        (CONSENSUS_KEY, keys.consensus.public_key, member.consensus_key),
        (TLS_CERTIFICATE, fingerprint(keys.tls_certificate), member.certificate_sha256),
    ]
    for name, ours, expected in found:
        if ours != expected:
            raise ConfigError(
                f"is {ours.hex()}, but replica {config.replica} has {expected.hex()} in the genesis: wrong home folder",
                file=str(folder / name),
            )
    return keys


def _load_own(path: Path) -> Ed25519Signer:
    """A key of a replica, which nothing can replace."""
    _see_there_is(path)
    return load_signer(path)


def _see_there_is(path: Path) -> None:
    if not path.exists():
        raise ConfigError(
            "is missing: bring it back from a copy; a new one would not be the one that the genesis names",
            file=str(path),
        )
