"""Sessions that commands of one key use one after the other, so that a command does not open one of its own.

A session stays open for its lease (an hour, unless the genesis says otherwise) and a key may have few of them. So its
number is kept in a file, with how many numbers of it were given to requests. The file is locked while a command uses
the session, and written before a request leaves. Whether a session is still open, the replicas say: nothing is believed
of fewer than f + 1 of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import socket
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec

from smartbft.errors import Overloaded
from smartbft.limits import COMMANDS_AT_ONCE, SESSION_FILES_DAYS
from smartbft.runtime.client import AsyncClient
from smartbft.runtime.key_sessions import OpenSession, agreed_sessions, limit_reached
from smartbft.runtime.reading import sessions_of

_BUSY_LOOK_SECONDS = 0.05
_MAX_FILE_BYTES = 256
# A session that has less than this part of its lease left is not taken up again.
_LEAST_PART_OF_LEASE = 8


class _Kept(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """What a file holds: a session, and how many of its numbers were given to requests."""

    session: int
    used: int


class SessionFile:
    """The file of one session, locked while this object is open."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self) -> _Kept | None:
        """What it holds; None where that is nothing, or was not written to its end."""
        try:
            kept = msgspec.json.decode(os.pread(self._descriptor, _MAX_FILE_BYTES, 0), type=_Kept)
        except (OSError, msgspec.DecodeError, ValueError):
            return None
        return kept if kept.session > 0 and kept.used >= 0 else None

    def write(self, session: int, used: int) -> None:
        """Keep this. Raises OSError."""
        content = msgspec.json.encode(_Kept(session, used))
        os.pwrite(self._descriptor, content.ljust(_MAX_FILE_BYTES - 1) + b"\n", 0)
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Let others have it."""
        os.close(self._descriptor)


class SessionFolder:
    """The session files of one key on one chain, of this host.

    Args:
        chain_id: 32 bytes.
        key: the client's public key.
        most: files to use, and so commands at once.
        folder: of all session files; None: ``smartbft/sessions`` in the user's folder for state.

    Attributes:
        problem: why sessions cannot be kept here; empty if they can.
    """

    def __init__(self, chain_id: bytes, key: bytes, most: int = COMMANDS_AT_ONCE, folder: Path | None = None) -> None:
        self.problem = ""
        self.most = most
        self._all = folder or _state_folder() / "sessions"
        # By host as well: a home that several hosts share, or that was copied, must not give them one session.
        self._own = self._all / f"{chain_id.hex()[:32]}-{key.hex()[:32]}-{_host()}"

    def take(self) -> SessionFile | None:
        """A file that no other command uses; None while all are in use, or where none can be kept (`problem`)."""
        try:
            if not self._own.is_dir():
                self._all.mkdir(mode=0o700, parents=True, exist_ok=True)
                _remove_old(self._all)
                self._own.mkdir(mode=0o700, exist_ok=True)
            for number in range(self.most):
                descriptor = os.open(self._own / f"{number}.json", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(descriptor)
                    continue
                except OSError:
                    os.close(descriptor)
                    raise
                return SessionFile(descriptor)
        except OSError as error:
            self.problem = f"{error.filename or self._own}: {error.strerror}"
        return None


class CommandSession:
    """Invokes operations in a session that commands share.

    Args:
        client: connected.
        file: where the session is kept; None: nowhere.

    Attributes:
        level: of the persistence that replicas have told with a result: 0 memory, 1 asynchronous, 2 synchronous.
    """

    def __init__(self, client: AsyncClient, file: SessionFile | None) -> None:
        self.level = 0
        self._client = client
        self._file = file

    async def invoke(self, operation: bytes, timeout: float) -> bytes:  # noqa: ASYNC109
        """As `AsyncClient.invoke`."""
        self._keep(self._client.used + 1)  # before it is sent: were this process killed then, the number may be used
        try:
            outcome = await self._client.submit(operation, timeout)
        finally:
            self._keep(self._client.used)  # perhaps of another session
        self.level = max(self.level, outcome.level)
        return outcome.result

    def _keep(self, used: int) -> None:
        if self._file is None:
            return
        try:
            self._file.write(self._client.session, used)
        except OSError:  # a full disk costs the next command this session, and nothing else
            self._file.close()
            self._file = None

    def close(self) -> None:
        """Let another command have the session."""
        if self._file is not None:
            self._file.close()


@contextlib.asynccontextmanager
async def command_session(
    client: AsyncClient, key_name: str, within: float, folder: SessionFolder | None = None
) -> AsyncIterator[CommandSession]:
    """A session for the commands of one key: one that an earlier command has left, or a new one.

    Args:
        client: connected, nothing invoked yet.
        key_name: what the profile calls the key.
        within: seconds for everything before the block.

    Raises:
        Overloaded: the key, or the cluster, has as many open sessions as it may; or too many commands run at once.
    """
    deadline = asyncio.get_running_loop().time() + within
    if folder is None:
        most = min(COMMANDS_AT_ONCE, max(1, 3 * client.genesis.parameters.max_sessions_per_key // 4))
        folder = SessionFolder(client.genesis.chain_id, client.key, most)
    file = await _take(folder, key_name, deadline)
    session = CommandSession(client, file)
    try:
        answers = await sessions_of(client, client.key, max(0.0, deadline - asyncio.get_running_loop().time()))
        known = agreed_sessions(answers, client.genesis.view.f)
        if not _resume(client, file.read() if file is not None else None, known):
            _check_room(client, key_name, known, folder.problem)
        yield session
    finally:
        session.close()


async def _take(folder: SessionFolder, key_name: str, deadline: float) -> SessionFile | None:
    while True:
        file = folder.take()
        if file is not None or folder.problem:
            return file
        if asyncio.get_running_loop().time() >= deadline:
            raise Overloaded(
                f"{folder.most} other commands use the key '{key_name}' on this host, as many as may at once; "
                "nothing was sent"
            )
        await asyncio.sleep(_BUSY_LOOK_SECONDS)


def _resume(client: AsyncClient, kept: _Kept | None, known: Mapping[int, OpenSession]) -> bool:
    """Go on with a kept session, if it is still open and long enough so."""
    if kept is None or kept.session not in known:
        return False
    session, parameters = known[kept.session], client.genesis.parameters
    used = max(kept.used, session.executed)
    if session.left * _LEAST_PART_OF_LEASE < parameters.session_lease or used - session.executed >= parameters.window:
        return False
    client.resume(kept.session, session.executed, used)
    return True


def _check_room(client: AsyncClient, key_name: str, known: Mapping[int, OpenSession], problem: str) -> None:
    """Refuse at once what the replicas would refuse until a session ends, and say which limit that is."""
    reached = limit_reached(known, client.genesis.parameters.max_sessions_per_key)
    if reached:
        kept = f"; sessions cannot be kept for the next command ({problem})" if problem else ""
        raise Overloaded(f"nothing was sent, because of the key '{key_name}': {reached}{kept}")


def _state_folder() -> Path:
    """Where the user's programs keep what is worth keeping and no setting (XDG base directories)."""
    given = os.environ.get("XDG_STATE_HOME", "")
    try:
        base = Path(given) if given.startswith("/") else Path.home() / ".local" / "state"
    except RuntimeError:  # nobody knows where the home is
        base = Path("/nonexistent")
    return base / "smartbft"


def _host() -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "_" for letter in socket.gethostname())[:64]


def _remove_old(folder: Path) -> None:
    """Remove what no chain can know any more: the longest lease is shorter than what is kept."""
    before = time.time() - SESSION_FILES_DAYS * 86400
    for one in folder.iterdir():
        with contextlib.suppress(OSError):
            if one.is_dir() and all(file.stat().st_mtime < before for file in one.iterdir()):
                shutil.rmtree(one, ignore_errors=True)
