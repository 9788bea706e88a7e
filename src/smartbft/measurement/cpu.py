"""CPU time of other processes, thread by thread, from ``/proc`` (Linux)."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path

# Names of the native threads that may use other cores (at most 15 bytes, as the kernel keeps them).
POOL_THREADS = ("verify", "log")


@dataclass(frozen=True)
class ThreadTime:
    """CPU time of one thread.

    Attributes:
        name: ``loop`` for the first thread, else as the kernel shows it.
        seconds: user and system time since the thread began.
    """

    name: str
    seconds: float

    @property
    def in_pool(self) -> bool:
        """Whether it belongs to the verify or the log pool, whose work parallelises."""
        return any(word in self.name for word in POOL_THREADS)


Snapshot = dict[int, ThreadTime]


def threads(pid: int) -> Snapshot:
    """The CPU time of every thread of a process, by thread id; empty if the process is gone."""
    found: Snapshot = {}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                name = "loop" if int(task.name) == pid else (task / "comm").read_text().strip()
                found[int(task.name)] = ThreadTime(name, _seconds(task))
    return found


def _seconds(task: Path) -> float:
    """Time on a CPU: to the nanosecond where the kernel counts it so, else in clock ticks."""
    try:
        return int((task / "schedstat").read_text().split()[0]) / 1e9
    except FileNotFoundError:
        # The name in brackets may hold spaces and brackets of its own.
        fields = (task / "stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int) -> int:
    """Memory of a process; 0 if it is gone."""
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return 0


@dataclass(frozen=True)
class CpuUse:
    """CPU time of a process between two snapshots, in seconds.

    Attributes:
        total: of all threads.
        verify: of the signature checkers.
        log: of the log's threads.
        busiest: of the busiest thread outside these pools: the serial part.
        busiest_name: its name.
    """

    total: float
    verify: float
    log: float
    busiest: float
    busiest_name: str


def use(before: Snapshot, after: Snapshot) -> CpuUse:
    """What the threads of a process used between two snapshots of it."""
    spent = [
        ThreadTime(thread.name, thread.seconds - (before[number].seconds if number in before else 0.0))
        for number, thread in after.items()
    ]
    serial = [thread for thread in spent if not thread.in_pool]
    busiest = max(serial, key=lambda thread: thread.seconds, default=ThreadTime("none", 0.0))
    return CpuUse(
        total=sum(thread.seconds for thread in spent),
        verify=sum(thread.seconds for thread in spent if "verify" in thread.name),
        log=sum(thread.seconds for thread in spent if "log" in thread.name and "verify" not in thread.name),
        busiest=busiest.seconds,
        busiest_name=busiest.name,
    )
