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
from smartbft.config.text import encoding_problem
from smartbft.crypto.certificates import PRIVATE_KEY, fingerprint, pem_problem
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.disk import sync_folder
from smartbft.errors import ConfigError

_HEADER = "smartbft ed25519 secret"
_SEED_BYTES = 32
_SEED = re.compile(r"[0-9a-f]{64}")
_KEY_FILE = re.compile(rb"smartbft ed25519 secret\n([0-9a-f]{64})\n")

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
    content = read_secret(path)
    found = _KEY_FILE.fullmatch(content)
    if found is None:
        raise ConfigError(_key_problem(content), file=str(path))
    return Ed25519Signer(bytes.fromhex(found[1].decode()))


def _key_problem(content: bytes) -> str:
    """What is wrong with the content of a key file, without a word of the secret."""
    if not content.strip():
        return "is not a key file: it is empty"
    if problem := encoding_problem(content):
        return f"is damaged: it {problem}; save it as plain ASCII text"
    if b"-----BEGIN" in content:
        return "is not a key file of smartbft, but a PEM file: 'smartbft key new' makes one"
    if b"\r" in content:
        return "is damaged: its lines end as on Windows (CRLF): remove the carriage returns, or copy it as binary"
    lines = content.decode(errors="replace").split("\n")
    if lines[0] != _HEADER:
        if _SEED.fullmatch(lines[0].strip()):
            return f"is damaged: its first line, '{_HEADER}', is missing"
        return "is not a key file: 'smartbft key new' makes one"
    seed = lines[1] if len(lines) > 1 else ""
    if not _SEED.fullmatch(seed):
        return f"is damaged: its second line must be 64 lower-case hexadecimal digits ({_how_the_seed_is(seed)})"
    if len(lines) == 2:
        return "is damaged: the newline at its end is missing, which whoever copied it has cut off: add it"
    if not any(line.strip() for line in lines[2:]):
        return "is damaged: it has blank lines at its end: remove them"
    return "is damaged: it goes on after its second line, which must be the last"


def _how_the_seed_is(seed: str) -> str:
    if not seed:
        return "it is missing"
    if _SEED.fullmatch(seed.strip()):
        return "it has spaces around it"
    if _SEED.fullmatch(seed.lower()):
        return "its letters are capitals"
    return f"it has {len(seed)} characters" if len(seed) != 2 * _SEED_BYTES else "it has other characters"


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

    A file that root owns may be readable by a group of this process: that is how secrets are mounted into containers.

    Raises:
        ConfigError: it cannot be read, or its group or others have access to it.
    """
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(65536)
    except FileNotFoundError:
        raise ConfigError("there is no such key: 'smartbft key new' makes one", file=str(path)) from None
    except PermissionError as error:
        raise ConfigError(f"cannot be read: {error.strerror}{_whose(path)}", file=str(path)) from None
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path, which may come from a profile
        raise ConfigError(f"cannot be read: {getattr(error, 'strerror', error)}", file=str(path)) from None
    mode = stat.S_IMODE(status.st_mode)
    allowed = 0o740 if _is_given_by_root(status) else 0o700
    if mode & ~allowed & 0o777:
        raise ConfigError(
            f"is open to others (mode {mode:04o}, owner {status.st_uid}, group {status.st_gid}): chmod 600 it, or 440 "
            "where root owns it and its group is one of this process's; make a new key if it may have leaked",
            file=str(path),
        )
    return content


def _is_given_by_root(status: os.stat_result) -> bool:
    """Whether root shares it with this process through a group (of root's own group, root is a member anyway)."""
    groups = {os.getegid(), *os.getgroups()}
    return status.st_uid == 0 and status.st_gid in groups and (os.geteuid() != 0 or status.st_gid != 0)


def _whose(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:  # not even its folder may be looked into
        return f" (this process runs as user {os.geteuid()})"
    owner = f"mode {stat.S_IMODE(status.st_mode):04o}, owner {status.st_uid}, group {status.st_gid}"
    return f" ({owner}; this process runs as user {os.geteuid()})"


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
    if problem := pem_problem(read_secret(keys.tls_key), PRIVATE_KEY):
        raise ConfigError(f"holds no private key that can be used: {problem}", file=str(keys.tls_key))
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
    try:
        there = path.exists()
    except OSError as error:  # its folder may not be looked into
        raise ConfigError(f"cannot be read: {error.strerror}{_whose(path)}", file=str(path)) from None
    if not there:
        raise ConfigError(
            "is missing: bring it back from a copy; a new one would not be the one that the genesis names",
            file=str(path),
        )
