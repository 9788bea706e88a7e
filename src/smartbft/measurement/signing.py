"""Worker processes that sign requests. A worker reads a job from its standard input and writes rounds to its output.

Plain subprocesses, in sessions of their own: Ctrl-C reaches the parent only, and when the parent is gone, however it
went, a worker's next write fails and it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from itertools import pairwise

import msgspec

from smartbft.errors import invariant
from smartbft.measurement.requests import Job, equal_traffic, sign_rounds
from smartbft.runtime.load import Traffic

# Below this many signatures, starting a process costs more than it saves.
_WORTH_A_PROCESS = 2000


async def sign(job: Job, *, lanes: bool = False, processes: int | None = None) -> list[Traffic]:
    """Sign a job on several processes.

    Args:
        job: what to sign.
        lanes: a `Traffic` for every key (closed-loop clients) instead of one for all, round after round.
        processes: how many; None chooses.

    Returns:
        One `Traffic`, or one for every key.
    """
    total = len(job.seeds) * job.rounds
    wanted = processes if processes is not None else min(os.cpu_count() or 1, max(1, total // _WORTH_A_PROCESS))
    parts = _split(job, max(1, min(wanted, len(job.seeds))))
    if len(parts) == 1 and processes is None and total < _WORTH_A_PROCESS:
        streams = [b"".join(sign_rounds(parts[0]))]
    else:
        streams = await asyncio.gather(*(_run_worker(part) for part in parts))
    size = job.request_bytes
    if lanes:
        return [
            equal_traffic(job.chain_id, _column(stream, key, len(part.seeds), size), size, 1)
            for part, stream in zip(parts, streams, strict=True)
            for key in range(len(part.seeds))
        ]
    requests = b"".join(
        stream[number * size * len(part.seeds) : (number + 1) * size * len(part.seeds)]
        for number in range(job.rounds)
        for part, stream in zip(parts, streams, strict=True)
    )
    return [equal_traffic(job.chain_id, requests, size, len(job.seeds))]


def _split(job: Job, parts: int) -> list[Job]:
    """The keys of a job dealt out to several jobs."""
    count = len(job.seeds)
    edges = [count * part // parts for part in range(parts + 1)]
    return [
        msgspec.structs.replace(job, seeds=job.seeds[a:b], coins=job.coins[a:b], payees=job.payees[a:b])
        for a, b in pairwise(edges)
    ]


def _column(stream: bytes, key: int, keys: int, size: int) -> bytes:
    """The requests of one key, out of rounds of all."""
    return b"".join(stream[start : start + size] for start in range(key * size, len(stream), keys * size))


async def _run_worker(job: Job) -> bytes:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "smartbft.measurement.signing",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        stream, _ = await process.communicate(msgspec.msgpack.encode(job))
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    expected = job.rounds * len(job.seeds) * job.request_bytes
    invariant(process.returncode == 0 and len(stream) == expected, "a signing process did not finish its job")
    return stream


def _write(descriptor: int, data: bytes) -> None:
    """All of it. Of a write that SIGSTOP and SIGCONT (Ctrl-Z) cut short, Python's buffered one was seen to lose the
    rest.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def main() -> None:
    """The worker process."""
    job = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=Job)
    with contextlib.suppress(BrokenPipeError):
        for part in sign_rounds(job):
            _write(sys.stdout.fileno(), part)
        return
    os._exit(1)  # the parent is gone; Python's own exit would fail to flush and say so


if __name__ == "__main__":
    main()
