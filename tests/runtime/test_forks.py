"""Forked children: they hold no lock, no port and no connection of their parent, and what they cannot use says so."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from kit.forked import in_child, living_child
from kit.patience import PATIENCE_SECONDS, reach, until
from kit.played import Stage, executed

from smartbft import AsyncClient, Client, LocalCluster, Replica
from smartbft._fastpath import log as native
from smartbft._fastpath.log import DurableLog
from smartbft.apps import counter
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import StorageError
from smartbft.forks import _kept, keep_from_children
from smartbft.testnet import create_testnet

Run = Callable[[Callable[[], Awaitable[None]]], None]
CHAIN = bytes(range(32))

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


def open_log(folder: Path) -> DurableLog:
    return DurableLog(str(folder), CHAIN, 1, mode=native.SYNC, segment_bytes=8192)


# --- descriptors ---


def test_a_child_has_the_null_device_in_place_of_what_is_kept_from_it(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb") as file:
        release = keep_from_children(file.fileno())
        assert in_child(lambda: os.readlink(f"/proc/self/fd/{file.fileno()}")) == "/dev/null"
        assert in_child(lambda: os.get_inheritable(file.fileno())) == "False"
        release()
        release()
        assert in_child(lambda: os.readlink(f"/proc/self/fd/{file.fileno()}")) == str(tmp_path / "file")


def test_another_file_with_the_same_number_is_left_alone(tmp_path: Path) -> None:
    """Whoever forgets to release, or closes behind our back, must not cost somebody else a file."""
    descriptor = os.open(tmp_path / "first", os.O_CREAT | os.O_RDWR)
    release = keep_from_children(descriptor)
    os.close(descriptor)
    assert in_child(lambda: "lives") == "lives"
    again = os.open(tmp_path / "second", os.O_CREAT | os.O_RDWR)
    assert again == descriptor
    try:
        assert in_child(lambda: os.readlink(f"/proc/self/fd/{again}")) == str(tmp_path / "second")
    finally:
        os.close(again)
        release()


def test_a_child_without_a_null_device_closes_what_it_must_not_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "devnull", str(tmp_path / "none"))
    with (tmp_path / "file").open("wb") as file:
        release = keep_from_children(file.fileno())
        said = in_child(lambda: os.fstat(file.fileno()))
        release()
    assert said.startswith("OSError: [Errno 9]")


def test_nothing_is_kept_of_what_is_closed(run: Run) -> None:
    async def scenario() -> None:
        before = len(_kept)
        async with LocalCluster(4, counter.Counter) as cluster, cluster.client() as client:
            await reach(client)
            assert len(_kept) > before
        await until(lambda: len(_kept) == before)

    run(scenario)


# --- the lock ---


def test_a_log_is_opened_again_while_a_child_lives(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    with living_child():
        log.close()
        open_log(tmp_path).close()


_OWNER = """
import os, sys
from smartbft._fastpath import log as native
from smartbft._fastpath.log import DurableLog
log = DurableLog(sys.argv[1], bytes(range(32)), 1, mode=native.SYNC, segment_bytes=8192)
reading, writing = os.pipe()
child = os.fork()
if child == 0:
    os.close(writing)
    sys.stdin.read()  # as long as the test says
    os._exit(0)
print(child, flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def killed_owner(program: str, *arguments: str) -> Iterator[int]:
    """A process with a child of its own; it is killed, the child lives. The child's number."""
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdin is not None
    try:
        child = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        process.wait()
        yield child
        os.kill(child, 0)  # it has lived all the time
    finally:
        process.stdin.close()
        process.stdout.close()


def test_a_killed_process_leaves_no_lock_to_its_child(tmp_path: Path) -> None:
    with killed_owner(_OWNER, str(tmp_path)):
        open_log(tmp_path).close()


_HOLDER = """
import fcntl, sys
lock = open(sys.argv[1], "r+")
fcntl.flock(lock, fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""


def test_a_lock_that_is_held_names_who_holds_it(tmp_path: Path) -> None:
    """The number in the file may be that of a process that is gone, or of one that has come after it."""
    open_log(tmp_path).close()
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            _HOLDER,
            str(tmp_path / "lock"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    assert holder.stdin is not None
    try:
        holder.stdout.readline()
        gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
        for noted in (gone.stdout, b"%d\n" % os.getpid(), b"%d\n" % holder.pid, b"", b"no number"):
            (tmp_path / "lock").write_bytes(noted)
            with pytest.raises(StorageError, match=f"is in use by process {holder.pid}: stop it"):
                open_log(tmp_path)
    finally:
        holder.stdin.close()
        holder.stdout.close()
        holder.wait()
    open_log(tmp_path).close()


def test_a_lock_of_this_process_is_told_as_that(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    with pytest.raises(StorageError, match=rf"is in use by process {os.getpid()} \(this one\)"):
        open_log(tmp_path)
    log.close()


def test_a_process_that_only_looks_at_the_lock_is_not_its_holder(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    with (tmp_path / "lock").open("rb") as looking:
        assert f"is in use by process {os.getpid()}: stop it" in in_child(lambda: open_log(tmp_path))
        assert looking.read() == b"%d\n" % os.getpid()
    log.close()


def test_a_child_leaves_its_parents_log_alone_and_is_told_so(tmp_path: Path) -> None:
    log = open_log(tmp_path)
    log.wait(log.append(1, 1, [b"before"]))
    for use in (lambda: log.append(1, 2, [b"child"]), lambda: log.wait(1), log.completed, lambda: log.forget(1)):
        assert in_child(use) == "StorageError: a forked process leaves the log to its parent"
    assert in_child(log.close) == "None"
    with pytest.raises(StorageError, match=r"\(this one\)"):
        open_log(tmp_path)
    log.wait(log.append(1, 2, [b"after"]))
    log.close()
    again = open_log(tmp_path)
    assert [body for _, _, body in again.recovered()] == [b"before", b"after"]
    again.close()


# --- listeners and connections ---

_REPLICA = """
import asyncio, os, sys
from smartbft import Replica
from smartbft.apps.counter import Counter

async def main():
    async with Replica(sys.argv[1], Counter()) as replica:
        await replica.ready()
        child = os.fork()
        if child == 0:
            sys.stdin.read()
            os._exit(0)
        print(child, flush=True)
        await replica.wait()

asyncio.run(main())
"""


def test_a_killed_replica_starts_again_while_its_child_lives(run: Run, tmp_path: Path) -> None:
    """A service that forks workers is killed, and started again by its supervisor."""
    network = create_testnet(tmp_path / "net", 1, transport="plain", application="counter")

    async def scenario() -> None:
        async with Replica(network.homes[0], counter.Counter()) as replica:
            await replica.ready()

    with killed_owner(_REPLICA, str(network.homes[0])):
        member = network.genesis.members[0]
        for address in (member.client_address, member.replica_address):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection((address.host, address.port)).close()
        run(scenario)


def test_a_cluster_that_is_closed_listens_no_more_while_a_child_lives(run: Run) -> None:
    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter) as cluster:
            ports = [member.client_address.port for member in cluster.genesis.members]
            child = contextlib.ExitStack()
            child.enter_context(living_child())
        for port in ports:
            with pytest.raises(ConnectionRefusedError):
                await asyncio.open_connection("127.0.0.1", port)
        child.close()

    run(scenario)


@pytest.mark.parametrize("transport", ["plain", "tls"])
def test_a_connection_ends_with_its_owner_while_a_child_lives(run: Run, transport: str) -> None:
    """Else the other side would wait for somebody who is gone."""

    async def scenario() -> None:
        async with LocalCluster(4, counter.Counter, transport=transport) as cluster:  # type: ignore[arg-type]
            client = cluster.client()
            await client.connect(PATIENCE_SECONDS)
            await reach(client)
            with living_child():
                await client.aclose()
                for replica in cluster.replicas.values():
                    while (await replica.status())["clients"]:
                        await asyncio.sleep(0.002)

    run(scenario)


# --- clients, replicas and clusters in a child ---


def client_of(stage: Stage) -> Client:
    return Client(lambda: AsyncClient(stage.genesis, Ed25519Signer(bytes(32)), transport="plain"))


def test_a_blocking_client_says_in_a_child_that_it_is_its_parents(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(executed) as stage:

            def use() -> None:
                client = client_of(stage)
                client.connect(PATIENCE_SECONDS)
                waiting = client.submit(b"x", timeout=PATIENCE_SECONDS)
                for call in (
                    lambda: client.invoke(b"y"),
                    lambda: client.submit(b"y"),
                    lambda: client.status(0),
                    client.connect,
                ):
                    assert in_child(call) == f"LocalProtocolError: {belongs(os.getpid())}"
                assert waiting.result().result == b"done x"
                # However a child ends, the parent goes on.
                assert in_child(client.close) == "None"
                assert in_child(lambda: leave_the_block(client)) == "left"
                assert client.invoke(b"z", timeout=PATIENCE_SECONDS) == b"done z"
                client.close()

            await asyncio.to_thread(use)

    run(scenario)


def belongs(process: int) -> str:
    return f"this client belongs to process {process}, which this one was forked from: make one here"


def leave_the_block(client: Client) -> str:
    with contextlib.closing(client):
        pass
    client.__exit__(None, None, None)
    return "left"


def test_a_future_of_the_parent_says_so_in_a_child(run: Run) -> None:
    async def scenario() -> None:
        async with Stage(lambda replica, sequence, operation: []) as stage:

            def use() -> None:
                client = client_of(stage)
                client.connect(PATIENCE_SECONDS)
                waiting = client.submit(b"x", timeout=PATIENCE_SECONDS)
                for call in (waiting.result, waiting.exception):
                    assert in_child(call).startswith("LocalProtocolError: this client belongs to process")
                client.close()

            await asyncio.to_thread(use)

    run(scenario)


def test_a_client_that_was_made_and_not_connected_may_be_connected_in_a_child(run: Run) -> None:
    """Programs make their client when they are loaded, and fork workers then."""

    async def scenario() -> None:
        async with Stage(executed) as stage:
            client = client_of(stage)

            def use() -> bytes:
                with client:
                    return client.invoke(b"x", timeout=PATIENCE_SECONDS)

            # The replicas are ours, so our loop must go on while the child asks them.
            assert await asyncio.to_thread(in_child, use) == "b'done x'"
            assert await asyncio.to_thread(use) == b"done x"

    run(scenario)


def test_an_asynchronous_client_says_in_a_child_that_it_is_its_parents(run: Run) -> None:
    """Its connections are shared with the parent: two writers would garble them."""

    async def scenario() -> None:
        async with Stage(executed) as stage:
            client = await stage.connected()
            for use in (lambda: client.invoke(b"x"), lambda: client.status(0), lambda: client.connect()):
                said = in_child(lambda use=use: asyncio.run(use()))
                assert said.startswith("LocalProtocolError: this client belongs to process"), said
            assert await client.invoke(b"y") == b"done y"

    run(scenario)


def test_a_replica_and_a_cluster_are_their_parents_too(run: Run) -> None:
    async def scenario() -> None:
        async with LocalCluster(1, counter.Counter, "sync") as cluster:
            replica = cluster.replicas[0]
            said = in_child(lambda: asyncio.run(replica.status()))
            assert said.startswith("LocalProtocolError: this replica belongs to process"), said
            said = in_child(lambda: asyncio.run(cluster.start(0)))
            assert said.startswith("LocalProtocolError: this cluster belongs to process"), said
            for closing in (replica.aclose, cluster.aclose):
                assert in_child(lambda closing=closing: asyncio.run(closing())) == "None"
            assert in_child(lambda: cluster._remove and cluster._remove()) == "None"
            assert cluster.folder.is_dir(), "a child that ends removes nothing"
            async with cluster.client() as client:
                assert counter.decode_value(await client.invoke(counter.add(1))) == 1
        assert not cluster.folder.exists()

    run(scenario)
