"""The durable log, the disk's limit, and plain Python files: ``pytest benchmarks/fastpath/bench_log.py``.

The figure that counts is the bandwidth of group commits of 1 MiB against `pwritev` + `fdatasync` of the same bytes into
a file that is zero-filled in the same way. Disks vary from second to second, so both are measured in turns, a few MiB
each, and compared by the median of the ratios. ``--basetemp FOLDER`` chooses the disk.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from smartbft._fastpath import log as native
from smartbft._fastpath.log import HEADER_SIZE, DurableLog

CHAIN = bytes(32)
MIB = 1 << 20
ROUNDS = 7
PER_ROUND = 24
# One group is written while the next is appended, as a replica does it.
IN_FLIGHT = 2


class RawFile:
    """The floor: the same bytes with two system calls a group."""

    def __init__(self, path: Path, size: int) -> None:
        self._file = os.open(path, os.O_CREAT | os.O_RDWR)
        for offset in range(0, size, MIB):
            os.pwrite(self._file, bytes(MIB), offset)
        os.fsync(self._file)
        self._offset = 0

    def commit(self, buffers: list[bytes]) -> None:
        self._offset += os.pwritev(self._file, buffers, self._offset)
        os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


class PythonFile:
    """What one would write without this package: length and checksum, write, flush, sync."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def commit(self, buffers: list[bytes]) -> None:
        import hashlib

        for data in buffers:
            self._file.write(len(data).to_bytes(8, "little") + hashlib.sha256(data).digest())
            self._file.write(data)
        self._file.flush()
        os.fdatasync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def open_log(folder: Path, size: int, mode: int = native.SYNC) -> DurableLog:
    """A log whose first segments are prepared, so that no zero-filling runs meanwhile."""
    log = DurableLog(str(folder), CHAIN, 0, mode=mode, segment_bytes=size)
    while not (folder / "segment-0000000000000001.log").exists():
        time.sleep(0.01)
    return log


def commit_groups(log: DurableLog, groups: list[list[bytes]]) -> None:
    """Append group after group, waiting so that about one is written while the next is made."""
    ends: list[int] = []
    for group in groups:
        for body in group[:-1]:
            log.append(1, 0, (body,), more=True)
        ends.append(log.append(1, 0, (group[-1],)))
        if len(ends) >= IN_FLIGHT:
            log.wait(ends[-IN_FLIGHT])
    log.wait(ends[-1])


def seconds_of(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def median_ratio(folder: Path, body_bytes: int, rounds: int = ROUNDS) -> dict[str, float]:
    """Bandwidths in MiB/s and their ratio, measured in turns."""
    per_group = MIB // (HEADER_SIZE + body_bytes)
    bodies = [os.urandom(body_bytes) for _ in range(per_group)]
    raw_buffers = [os.urandom(HEADER_SIZE + body_bytes) for _ in range(per_group)]
    size = (rounds * PER_ROUND + 4) * MIB
    raw, log = RawFile(folder / "raw", size), open_log(folder / "log", size)
    ours: list[float] = []
    floor: list[float] = []
    for _ in range(rounds):
        floor.append(seconds_of(lambda: [raw.commit(raw_buffers) for _ in range(PER_ROUND)] and None))
        ours.append(seconds_of(lambda: commit_groups(log, [bodies] * PER_ROUND)))
    raw.close()
    log.close()
    return {
        "raw_mib_per_second": PER_ROUND / statistics.median(floor),
        "log_mib_per_second": PER_ROUND / statistics.median(ours),
        "ratio": statistics.median(a / b for a, b in zip(floor, ours, strict=True)),
    }


@pytest.mark.parametrize("body_bytes", [MIB - HEADER_SIZE, 64 * 1024 - HEADER_SIZE, 4096 - HEADER_SIZE])
def bench_group_commit_of_1_mib_against_the_raw_file(
    benchmark: BenchmarkFixture, tmp_path: Path, body_bytes: int
) -> None:
    found: dict[str, float] = {}
    benchmark.pedantic(lambda: found.update(median_ratio(tmp_path, body_bytes)), rounds=1)
    benchmark.extra_info.update(found)
    print(f"\nrecords of {body_bytes} bytes: " + ", ".join(f"{name} {value:.3f}" for name, value in found.items()))


@pytest.fixture(params=["memory", "async", "sync"])
def small_log(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[DurableLog]:
    mode = {"memory": native.MEMORY, "async": native.ASYNC, "sync": native.SYNC}[request.param]
    size = 64 * MIB
    log = DurableLog(str(tmp_path / "log"), CHAIN, 0, mode=mode, segment_bytes=size)
    yield log
    log.close()


def bench_append_and_wait_4_kib(benchmark: BenchmarkFixture, small_log: DurableLog) -> None:
    """The latency of one durable record."""
    body = os.urandom(4096)
    benchmark.pedantic(lambda: small_log.wait(small_log.append(1, 1, (body,))), rounds=300, warmup_rounds=10)


@pytest.mark.parametrize("body_bytes", [100, 4096, 64 * 1024, MIB])
def bench_append(benchmark: BenchmarkFixture, tmp_path: Path, body_bytes: int) -> None:
    """What the appending thread pays: copy, checksum, queue."""
    log = open_log(tmp_path / "log", 512 * MIB, native.ASYNC)
    body = os.urandom(body_bytes)
    last = [0]

    def append() -> None:
        last[0] = log.append(1, 1, (body,))

    benchmark.pedantic(append, setup=lambda: log.wait(last[0]), rounds=200, warmup_rounds=10)
    log.close()


@pytest.mark.parametrize("writer", ["raw", "python"])
def bench_files_4_kib(benchmark: BenchmarkFixture, tmp_path: Path, writer: str) -> None:
    """The same record with plain system calls, and as a Python user would write it."""
    body = os.urandom(4096)
    file = RawFile(tmp_path / "raw", 8 * MIB) if writer == "raw" else PythonFile(tmp_path / "file")
    benchmark.pedantic(lambda: file.commit([body]), rounds=300, warmup_rounds=10)
    file.close()


@pytest.mark.parametrize("writer", ["raw", "python"])
def bench_files_1_mib(benchmark: BenchmarkFixture, tmp_path: Path, writer: str) -> None:
    body = os.urandom(MIB)
    file = RawFile(tmp_path / "raw", 64 * MIB) if writer == "raw" else PythonFile(tmp_path / "file")
    benchmark.pedantic(lambda: file.commit([body]), rounds=40, warmup_rounds=2)
    file.close()


def bench_recover_16_mib(benchmark: BenchmarkFixture, tmp_path: Path) -> None:
    """Reading a full segment of 4 KiB records back."""
    folder = tmp_path / "log"
    log = open_log(folder, 16 * MIB)
    body = os.urandom(4096)
    for instance in range(15 * MIB // (4096 + HEADER_SIZE)):
        log.append(1, instance, (body,))
    log.close()

    def recover() -> None:
        again = DurableLog(str(folder), CHAIN, 0, mode=native.SYNC, segment_bytes=16 * MIB)
        assert len(again.recovered()) > 3000
        again.close()

    benchmark.pedantic(recover, rounds=10)
