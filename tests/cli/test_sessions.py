"""Commands of one key share sessions: many in a row, at once, killed, beside others, and where nothing can be kept."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from kit.coins import MINTER, OWNER, SECONDS, coin_cluster, session_folder, wallet_of
from kit.patience import let_pass, until

from smartbft import Indeterminate, LocalCluster, Overloaded
from smartbft.apps import coin
from smartbft.cli import sessions
from smartbft.cli.sessions import SessionFile, SessionFolder, command_session
from smartbft.limits import MAX_SESSIONS_PER_KEY, SESSION_FILES_DAYS
from smartbft.runtime.key_sessions import OpenSession, agreed_sessions
from smartbft.runtime.reading import sessions_of
from smartbft.types import Parameters

Run = Callable[[Callable[[], Awaitable[None]]], None]


async def open_sessions(cluster: LocalCluster, key: bytes) -> int:
    async with cluster.client() as client:
        (answer, *_) = await sessions_of(client, key, SECONDS)
        return len(answer["sessions"])


def kept_file(folder: Path) -> Path:
    """The first session file of the only key."""
    (file,) = folder.glob("*/0.json")
    return file


async def exhaust(cluster: LocalCluster) -> None:
    """Open as many sessions of the minter's key as it may have."""
    for _ in range(MAX_SESSIONS_PER_KEY):
        async with cluster.client(MINTER) as client:
            await client.invoke(coin.mint([1]), SECONDS)


def test_many_commands_take_one_session(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with coin_cluster() as cluster:
            for _ in range(MAX_SESSIONS_PER_KEY + 8):
                async with wallet_of(cluster, MINTER, tmp_path) as wallet:
                    await wallet.mint([1])
            assert await open_sessions(cluster, MINTER.public_key) == 1

    run(scenario)


def test_commands_that_run_at_once_wait_for_a_session(run: Run, tmp_path: Path) -> None:
    """Forty commands at once, of a key that may have sixteen sessions."""

    async def command(cluster: LocalCluster) -> None:
        async with wallet_of(cluster, MINTER, tmp_path) as wallet:
            await wallet.mint([1])

    async def scenario() -> None:
        async with coin_cluster() as cluster:
            await asyncio.gather(*(command(cluster) for _ in range(40)))
            assert await open_sessions(cluster, MINTER.public_key) <= sessions.COMMANDS_AT_ONCE

    run(scenario)


@pytest.mark.parametrize("sent", [False, True])
def test_a_command_that_was_killed_leaves_its_session_to_the_next(run: Run, tmp_path: Path, sent: bool) -> None:
    """Its number may be used, or not; either way the next command goes on, and nothing is executed twice."""

    async def scenario() -> None:
        async with coin_cluster() as cluster:
            for _ in range(MAX_SESSIONS_PER_KEY + 2):
                async with cluster.client(MINTER) as client:
                    folder = session_folder(client, tmp_path)
                    async with command_session(client, "minter", SECONDS, folder) as session:
                        await session.invoke(coin.mint([1]), SECONDS)
                        session._keep(client.used + 1)  # it was about to send, or has sent, when it was killed
                        killed = asyncio.ensure_future(client.invoke(coin.mint([1]), SECONDS)) if sent else None
                        await asyncio.sleep(0)
                        session.close()
                        session._file = None
                        if killed is not None:
                            killed.cancel()
            assert await open_sessions(cluster, MINTER.public_key) == 1
            async with wallet_of(cluster, MINTER, tmp_path) as wallet:
                await wallet.mint([1])
                found = await wallet.balance(MINTER.public_key)
            low = MAX_SESSIONS_PER_KEY + 3
            assert low <= found.amount <= low + sent * (low - 1)

    run(scenario)


def test_the_limit_is_named_with_the_time_when_it_ends(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with coin_cluster() as cluster:
            await exhaust(cluster)
            async with wallet_of(cluster, MINTER, tmp_path) as wallet:
                with pytest.raises(
                    Overloaded, match=r"16 sessions open.*max_sessions_per_key.*ends in \d+ min \d+ s \(at .* UTC\)"
                ):
                    await wallet.mint([1])

    run(scenario)


def test_a_client_says_which_limit_keeps_it_from_opening_a_session(run: Run) -> None:
    """Not only commands: every client of the key hears it, and keeps its timeout."""

    async def scenario() -> None:
        async with coin_cluster(4) as cluster:
            await exhaust(cluster)
            async with cluster.client(MINTER) as client:
                invoked = asyncio.ensure_future(client.invoke(coin.mint([1]), SECONDS))
                await until(lambda: client._limit is not None and client._limit.done())
                let_pass(SECONDS)
                with pytest.raises(
                    Indeterminate, match=r"16 sessions open.*max_sessions_per_key.*ends in .* UTC"
                ) as raised:
                    await invoked
                assert (raised.value.session, raised.value.sequence) == (client.session, 1)

    run(scenario)


def test_reads_take_no_session(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with coin_cluster(4) as cluster:
            await exhaust(cluster)
            async with wallet_of(cluster, MINTER, tmp_path) as wallet:
                assert (await wallet.balance(MINTER.public_key)).amount == MAX_SESSIONS_PER_KEY
                assert len((await wallet.first_coins(MINTER.public_key, 100))[0]) == MAX_SESSIONS_PER_KEY
            async with wallet_of(cluster, OWNER, tmp_path) as wallet:
                assert (await wallet.balance(OWNER.public_key)).amount == 0
            assert await open_sessions(cluster, OWNER.public_key) == 0

    run(scenario)


def test_a_session_that_the_replicas_do_not_know_is_not_used(run: Run, tmp_path: Path) -> None:
    """It has ended, or it was never opened because the command was killed: a number after a gap would wait."""

    async def scenario() -> None:
        async with coin_cluster() as cluster:
            async with cluster.client(MINTER) as client:
                file = session_folder(client, tmp_path).take()
                assert file is not None
                file.write(client.session - 1, 3)
                file.close()
            async with wallet_of(cluster, MINTER, tmp_path) as wallet:
                await wallet.mint([1])
            assert await open_sessions(cluster, MINTER.public_key) == 1

    run(scenario)


def test_a_session_that_will_soon_end_is_left_alone(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        async with coin_cluster() as cluster:
            async with wallet_of(cluster, MINTER, tmp_path) as wallet:
                await wallet.mint([1])
            monkeypatch.setattr(sessions, "_LEAST_PART_OF_LEASE", 1)
            async with wallet_of(cluster, MINTER, tmp_path) as wallet:
                await wallet.mint([1])
            assert await open_sessions(cluster, MINTER.public_key) == 2

    run(scenario)


@pytest.mark.parametrize("content", [b"", b"x" * 100, b'{"session": -1, "used": 0}', b'{"session": 5}', bytes(500)])
def test_a_damaged_file_costs_a_session_and_no_more(run: Run, tmp_path: Path, content: bytes) -> None:
    async def scenario() -> None:
        async with coin_cluster() as cluster:
            for _ in range(2):
                async with wallet_of(cluster, MINTER, tmp_path) as wallet:
                    await wallet.mint([1])
                kept_file(tmp_path).write_bytes(content)
            assert await open_sessions(cluster, MINTER.public_key) == 2

    run(scenario)


def test_without_a_place_to_keep_it_each_command_has_its_own(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")

    async def scenario() -> None:
        async with coin_cluster() as cluster:
            for _ in range(MAX_SESSIONS_PER_KEY):
                async with wallet_of(cluster, MINTER, tmp_path / "file" / "state") as wallet:
                    await wallet.mint([1])
            async with wallet_of(cluster, MINTER, tmp_path / "file" / "state") as wallet:
                with pytest.raises(Overloaded, match=r"cannot be kept for the next command .*file"):
                    await wallet.mint([1])

    run(scenario)


def test_a_full_disk_ends_no_command(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    async def scenario() -> None:
        async with coin_cluster() as cluster:
            monkeypatch.setattr(os, "fdatasync", full)
            async with wallet_of(cluster, MINTER, tmp_path) as wallet:
                assert len(await wallet.mint([1, 2])) == 2
                assert len(await wallet.mint([3])) == 1

    run(scenario)


def test_too_many_commands_at_once_are_refused_in_the_end(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with coin_cluster() as cluster, cluster.client(MINTER) as client:
            folder = session_folder(client, tmp_path, most=2)
            taken = [folder.take(), folder.take()]
            assert None not in taken
            with pytest.raises(Overloaded, match="2 other commands use the key 'minter' on this host"):
                async with command_session(client, "minter", 0.0, folder):
                    pass

    run(scenario)


def test_a_key_that_may_have_few_sessions_leaves_others_some(run: Run, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    async def command(cluster: LocalCluster) -> None:
        async with cluster.client(MINTER) as client, command_session(client, "minter", SECONDS) as session:
            await session.invoke(coin.mint([1]), SECONDS)

    async def scenario() -> None:
        async with coin_cluster(1, Parameters(max_sessions_per_key=2)) as cluster:
            await asyncio.gather(*(command(cluster) for _ in range(5)))
            assert await open_sessions(cluster, MINTER.public_key) == 1

    run(scenario)


def test_numbers_in_flight_are_filled(run: Run, tmp_path: Path) -> None:
    """A kept count that is far ahead of what was executed is caught up with, up to a window."""

    async def scenario() -> None:
        window = Parameters().window
        async with coin_cluster() as cluster:
            for ahead, expected in ((window - 1, 1), (window, 2)):
                async with wallet_of(cluster, MINTER, tmp_path) as wallet:
                    await wallet.mint([1])
                file = SessionFile(os.open(kept_file(tmp_path), os.O_RDWR))
                kept = file.read()
                assert kept is not None
                file.write(kept.session, kept.used + ahead)
                file.close()
                async with wallet_of(cluster, MINTER, tmp_path) as wallet:
                    await wallet.mint([1])
                assert await open_sessions(cluster, MINTER.public_key) == expected

    run(scenario)


# --- files and answers ---


def test_a_file_belongs_to_one_command_at_a_time(tmp_path: Path) -> None:
    folder = SessionFolder(bytes(32), bytes(32), 2, tmp_path)
    first, second = folder.take(), folder.take()
    assert first is not None
    assert second is not None
    assert (folder.take(), folder.problem) == (None, "")
    first.write(7, 3)
    first.close()
    again = folder.take()
    assert again is not None
    kept = again.read()
    assert kept is not None
    assert (kept.session, kept.used, second.read()) == (7, 3, None)
    other = SessionFolder(bytes(32), bytes([1]) * 32, 2, tmp_path).take()
    assert other is not None
    assert other.read() is None, "another key has other sessions"


def test_files_are_for_their_owner_and_old_ones_go(tmp_path: Path) -> None:
    old = SessionFolder(bytes(32), bytes(32), 2, tmp_path / "state")
    taken = old.take()
    assert taken is not None
    taken.close()
    (file,) = (tmp_path / "state").glob("*/*.json")
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    long_ago = time.time() - (SESSION_FILES_DAYS + 1) * 86400
    os.utime(file, (long_ago, long_ago))
    assert SessionFolder(bytes(32), bytes([1]) * 32, 2, tmp_path / "state").take() is not None
    assert not file.exists()


def test_a_copied_home_is_no_reason_to_share_a_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = SessionFolder(bytes(32), bytes(32), 2, tmp_path).take()
    assert first is not None
    first.write(7, 3)
    first.close()
    monkeypatch.setattr("socket.gethostname", lambda: "another/host")
    second = SessionFolder(bytes(32), bytes(32), 2, tmp_path).take()
    assert second is not None
    assert second.read() is None


def test_only_what_a_correct_replica_says_counts() -> None:
    honest = [{"sessions": [[7, 3, 1000], [8, 1, 500]]}] * 2
    liar: list[dict[str, object]] = [
        {"sessions": [[7, 99, 10**12], [9, 1, 10**12]]},
        {"sessions": []},
        {"sessions": "none"},
        {"sessions": [[7]]},
        {"problem": "none"},
        {},
        {"sessions": [[9, 1, 1], [9, 1, 1], [9, 2, 2]]},
    ]
    for lie in liar:
        assert agreed_sessions([lie, *honest], 1) == {7: OpenSession(3, 1000), 8: OpenSession(1, 500)}
        assert agreed_sessions([lie], 1) == {}


def test_a_client_resumes_only_before_it_invokes(run: Run, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with coin_cluster() as cluster, cluster.client(MINTER) as client:
            with pytest.raises(Exception, match="less than a window"):
                client.resume(5, 0, client.genesis.parameters.window)
            await client.invoke(coin.mint([1]), SECONDS)
            with pytest.raises(Exception, match="before anything is invoked"):
                client.resume(5, 1, 1)

    run(scenario)
