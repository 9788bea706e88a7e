"""How well two threads share the work: `verify_many` with 2 threads against two independent processes.

Each process is pinned to a core of its own and verifies on one thread; the threads of `verify_many` have the same two
cores. The two are measured in turn, so that a slow moment of the machine meets both, and the median ratio of the
throughputs is printed. Run: ``python benchmarks/fastpath/verify_threads.py``.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

from nacl.signing import SigningKey

from smartbft._fastpath import verify

COUNT = 1024
CALLS = 8  # per round and process
ROUNDS = 15

Batch = tuple[list[bytes], list[bytes], list[bytes]]


def make_batch() -> Batch:
    signing_keys = [SigningKey.generate() for _ in range(COUNT)]
    messages = [os.urandom(310) for _ in range(COUNT)]
    signatures = [key.sign(message).signature for key, message in zip(signing_keys, messages, strict=True)]
    return [bytes(key.verify_key) for key in signing_keys], signatures, messages


def timed_calls(batch: Batch, threads: int, calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        verify.verify_many(*batch, threads=threads)
    return time.perf_counter() - start


def pinned_process(core: int, start: Barrier, answers: Connection) -> None:
    os.sched_setaffinity(0, {core})
    batch = make_batch()
    timed_calls(batch, 1, 1)
    for _ in range(ROUNDS):
        start.wait()
        answers.send(timed_calls(batch, 1, CALLS))
        start.wait()


def main() -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("this measurement needs two cores")
    os.sched_setaffinity(0, set(cores))
    verify.set_threads(2, 0)
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    pipes = [context.Pipe(duplex=False) for _ in cores]
    for core, (_, sender) in zip(cores, pipes, strict=True):
        context.Process(target=pinned_process, args=(core, start, sender), daemon=True).start()
    batch = make_batch()
    timed_calls(batch, 2, 1)

    ratios, rates = [], []
    for _ in range(ROUNDS):
        start.wait()
        # Two processes do the calls each, at their own pace.
        processes = sum(COUNT * CALLS / receiver.recv() for receiver, _ in pipes)
        threads = COUNT * 2 * CALLS / timed_calls(batch, 2, 2 * CALLS)
        start.wait()
        ratios.append(threads / processes)
        rates.append(threads)
    print(
        json.dumps(
            {
                "ratio_median": round(statistics.median(ratios), 3),
                "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
                "signatures_per_second": round(statistics.median(rates)),
                "rounds": ROUNDS,
                "cores": len(cores),
                "machine": platform.processor() or platform.machine(),
                "python": platform.python_version(),
            }
        )
    )


if __name__ == "__main__":
    main()
