"""A cluster of ``smartbft start`` processes, used and stopped from the command line."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from smartbft import AsyncClient
from smartbft.apps import coin
from smartbft.limits import MAX_SESSIONS_PER_KEY
from smartbft.testnet import Testnet, create_testnet
from smartbft.types import Parameters

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

ADDRESS = "ab" * 32
PATIENCE_SECONDS = 120
PATIENTLY = ("--timeout", "8s")  # all of it passes where a replica is down


def launch(home: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "smartbft", "start", "--home", str(home), *options]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ready_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        _, err = process.communicate(timeout=PATIENCE_SECONDS)
        pytest.fail(err)
    return line


class Cluster:
    """Four replicas; `call` runs a command with the network's profile."""

    def __init__(self, network: Testnet) -> None:
        self.network = network
        self.processes = [launch(home, "--log-level", "warning") for home in network.homes]
        for replica, process in enumerate(self.processes):
            line = ready_line(process)
            assert line.startswith(f"ready replica={replica} ")
            assert f"pid={process.pid}" in line

    def call(self, *arguments: object, code: int = 0) -> Any:
        command = [sys.executable, "-m", "smartbft", *map(str, arguments), "--profile", str(self.network.profile.path)]
        done = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return json.loads(done.stdout) if done.stdout else done.stderr

    def complaint(self, *arguments: object, code: int) -> str:
        """What a command that fails says to people."""
        command = [sys.executable, "-m", "smartbft", *map(str, arguments), "--profile", str(self.network.profile.path)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert done.returncode == code, done.stderr
        return done.stderr

    def said(self, *arguments: object, profile: Path | None = None) -> str:
        """What a command that does what it should says beside its output."""
        profile = profile or self.network.profile.path
        command = [sys.executable, "-m", "smartbft", *map(str, arguments), "--profile", str(profile)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def stop(self, *replicas: int, number: signal.Signals = signal.SIGTERM) -> None:
        for replica in replicas:
            self.processes[replica].send_signal(number)
        for replica in replicas:
            _, err = self.processes[replica].communicate(timeout=PATIENCE_SECONDS)
            assert self.processes[replica].returncode == 0, err
            assert "Traceback" not in err


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(create_testnet(tmp_path / "net", parameters=Parameters(request_timeout=60_000_000)))
    yield made
    for process in made.processes:
        process.kill()
        process.communicate()


def test_a_session_with_the_coin(cluster: Cluster) -> None:
    minted = cluster.call("coin", "mint", 100, 50)
    assert [coin["value"] for coin in minted] == [100, 50]
    client = cluster.network.signer().public_key.hex()
    paid = cluster.call("coin", "spend", client, 120, "--key", "minter")
    assert [coin["value"] for coin in paid] == [120, 30]
    assert [coin["value"] for coin in cluster.call("coin", "mint", 5)] == [5]
    assert cluster.call("coin", "balance") == {"address": client, "amount": 120, "coins": 1}
    assert cluster.call("coin", "balance", ADDRESS)["amount"] == 0
    assert cluster.call("coin", "coins") == paid[:1]
    assert "not authorised" in cluster.call("coin", "mint", 5, "--key", "client", code=6)
    assert "not enough" in cluster.call("coin", "spend", ADDRESS, 121, code=6)
    assert cluster.call("coin", "coins", "--largest", "--most", 1, "--key", "minter") == paid[1:]
    assert cluster.call("coin", "coins", "--after", paid[0]["coin"]) == []
    assert [coin["value"] for coin in cluster.call("coin", "consolidate")] == [120]
    assert "no such coin" in cluster.call("coin", "spend", ADDRESS, 1, "--coin", minted[0]["coin"], code=6)
    assert "there is no key" in cluster.call("coin", "balance", "--key", "nobody", code=3)

    assert "paid to the key 'minter'" in cluster.said("coin", "mint", 1)
    assert f"this is the key 'client', address {client}; other keys of the profile: --key minter" in cluster.said(
        "coin", "balance"
    )
    _weaker_profiles_are_warned_of(cluster)

    status = _level(cluster)
    assert len({facts["digest"] for facts in status}) == 1
    assert {facts["persistence"] for facts in status} == {"sync"}
    assert {facts["state"] for facts in status} == {"up"}
    _watched(cluster.network)

    cluster.stop(3, number=signal.SIGINT)
    assert "not every replica" in cluster.complaint("status", *PATIENTLY, "--wait", "200ms", code=4)
    assert cluster.call("coin", "balance")["amount"] == 120
    cluster.stop(2)
    states = [facts["state"] for facts in cluster.call("status", *PATIENTLY, code=4)["replicas"]]
    assert states == ["up", "up", "unreachable", "unreachable"]
    cluster.call("coin", "balance", "--timeout", "500ms", code=4)
    cluster.stop(0, 1)
    _logs_hold_the_session(cluster.network)


def _weaker_profiles_are_warned_of(cluster: Cluster) -> None:
    path = cluster.network.profile.path
    weaker = path.with_name("weaker.toml")
    weaker.write_text(path.read_text().replace('persistence = "sync"', 'persistence = "memory"'))
    for command in (("status", *PATIENTLY), ("coin", "mint", 1)):
        assert 'weaker.toml: persistence = "memory" is weaker' in cluster.said(*command, profile=weaker)
        assert "weaker" not in cluster.said(*command)


def test_commands_of_one_key_do_not_use_up_its_sessions(cluster: Cluster) -> None:
    """More commands than a key may have sessions, in a row, at once, and killed: each finds a session."""
    for _ in range(MAX_SESSIONS_PER_KEY + 2):
        cluster.call("coin", "mint", 1)
    command = [sys.executable, "-m", "smartbft", "coin", "mint", "1", "--profile", str(cluster.network.profile.path)]
    killed = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(4)]
    for process in killed:
        process.kill()
    for process in killed:
        process.wait(PATIENCE_SECONDS)
    together = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(MAX_SESSIONS_PER_KEY + 4)]
    for process in together:
        process.communicate(timeout=PATIENCE_SECONDS)
    assert {process.returncode for process in together} == {0}
    found = cluster.call("coin", "balance", "--key", "minter")
    assert 2 * MAX_SESSIONS_PER_KEY + 6 <= found["amount"] <= 2 * MAX_SESSIONS_PER_KEY + 10
    cluster.stop(0, 1, 2, 3)


def test_a_key_says_which_limit_it_has_reached(cluster: Cluster) -> None:
    async def exhaust() -> None:
        for _ in range(MAX_SESSIONS_PER_KEY):
            async with AsyncClient.from_profile(cluster.network.profile, "minter") as client:
                await client.invoke(coin.mint([1]), PATIENCE_SECONDS)

    asyncio.run(exhaust())
    for command in (("balance",), ("coins",)):
        cluster.call("coin", *command, "--key", "minter")
    said = cluster.complaint("coin", "mint", 1, code=4)
    assert "the key 'minter': it has 16 sessions open" in said
    assert "max_sessions_per_key" in said
    assert "UTC" in said
    cluster.stop(0, 1, 2, 3)


def _level(cluster: Cluster) -> list[dict[str, Any]]:
    """What all say once they have executed the same: three make a result, and the fourth may come later."""
    while True:
        found: list[dict[str, Any]] = cluster.call("status", *PATIENTLY, "--wait", "60s", "--digest")["replicas"]
        if len({facts["digest_instance"] for facts in found}) == 1:
            return found


def _watched(network: Testnet) -> None:
    """Line after line of JSON, until it is interrupted."""
    command = [sys.executable, "-m", "smartbft", "status", "--watch", "--json", "--profile", str(network.profile.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        for _ in range(2):
            assert len(json.loads(watching.stdout.readline())["replicas"]) == 4
        watching.send_signal(signal.SIGINT)
        assert watching.wait(PATIENCE_SECONDS) == 130


def _logs_hold_the_session(network: Testnet) -> None:
    for home in network.homes:
        done = subprocess.run(
            [sys.executable, "-m", "smartbft", "log", "verify", str(home), "--json"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found["verdict"] == "complete"
        assert found["verified_decisions"] == found["last_instance"] >= 4


def test_no_answer_in_time_is_an_unknown_outcome(cluster: Cluster) -> None:
    cluster.call("coin", "mint", 1)
    # Stopped, not ended: the others take the request, and nobody misses the leader for a long time.
    leader = cluster.processes[cluster.network.genesis.view.leader(0)]
    leader.send_signal(signal.SIGSTOP)
    try:
        assert "may or may not" in cluster.call("coin", "mint", 2, "--timeout", "10s", code=5)
    finally:
        leader.send_signal(signal.SIGCONT)


def test_another_chain_is_incompatible(cluster: Cluster, tmp_path: Path) -> None:
    other = cluster.network.folder / "genesis.toml"
    other.write_text(other.read_text().replace('chain_name = "testnet"', 'chain_name = "another"'))
    assert "same genesis file" in cluster.call("coin", "balance", code=9)


def test_a_folder_in_use_is_refused(cluster: Cluster) -> None:
    second = launch(cluster.network.homes[0])
    _, err = second.communicate(timeout=PATIENCE_SECONDS)
    assert second.returncode == 8
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert "in use" in err


def test_a_damaged_log_is_refused_and_named(tmp_path: Path) -> None:
    network = create_testnet(tmp_path / "net", 1, transport="plain")
    process = launch(network.homes[0])
    ready_line(process)
    profile = str(network.profile.path)
    for value in (1, 2, 3):
        command = [sys.executable, "-m", "smartbft", "coin", "mint", str(value), "--profile", profile]
        subprocess.run(command, check=True, capture_output=True)
    process.terminate()
    assert process.wait(PATIENCE_SECONDS) == 0
    process.communicate()
    (segment, *_) = sorted((network.homes[0] / "data").glob("segment-*.log"))
    content = bytearray(segment.read_bytes())
    content[700] ^= 1
    segment.write_bytes(content)
    for command in (("start", "--home"), ("log", "verify")):
        done = subprocess.run(
            [sys.executable, "-m", "smartbft", *command, str(network.homes[0])],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=PATIENCE_SECONDS,
        )
        assert done.returncode == 8
        assert segment.name in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize("when", ["starting", "ready"])
def test_a_replica_ends_with_its_parent(tmp_path: Path, when: str) -> None:
    network = create_testnet(tmp_path / "net", 1, transport="plain")
    process = launch(network.homes[0], "--exit-with-parent")
    if when == "ready":
        ready_line(process)
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(PATIENCE_SECONDS) == 0
    process.stdin = None
    _, err = process.communicate()
    assert "Traceback" not in err


def test_an_application_of_ones_own_is_found_in_the_working_folder(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text("from smartbft.apps.counter import Counter\n\n\nclass Own(Counter):\n    pass\n")
    network = create_testnet(tmp_path / "net", 1, application="own:Own", transport="plain")
    command = [sys.executable, "-m", "smartbft", "start", "--home", str(network.homes[0])]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ready_line(process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, err
