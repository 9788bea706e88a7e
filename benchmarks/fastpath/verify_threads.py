"""How well two threads share the work: `verify_many` with 2 threads against two independent processes.

Each process is pinned to a core of its own and verifies on one thread; the threads of `verify_many` have the same two
cores. The two are measured in turn, so that a slow moment of the machine meets both, and the median ratio of the
throughputs is printed. A round in which other programs took a core away from one of the processes says nothing: it is
counted apart (the process got less processor time than the round took) and measured again. The threads' side has no
such excuse, since an idle thread looks the same as a disturbed one.
Run: ``python benchmarks/fastpath/verify_threads.py``.
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
CALLS = 4  # per round and process
ROUNDS = 15  # undisturbed ones
MOST_ROUNDS = 200
LEAST_SHARE = 0.98  # of a core, that a pinned process must have had

Measured = tuple[float, float]  # seconds, processor seconds

Batch = tuple[list[bytes], list[bytes], list[bytes]]


def make_batch() -> Batch:
    signing_keys = [SigningKey.generate() for _ in range(COUNT)]
    messages = [os.urandom(310) for _ in range(COUNT)]
    signatures = [key.sign(message).signature for key, message in zip(signing_keys, messages, strict=True)]
    return [bytes(key.verify_key) for key in signing_keys], signatures, messages


def timed_calls(batch: Batch, threads: int, calls: int) -> Measured:
    start, processor = time.perf_counter(), time.process_time()
    for _ in range(calls):
        verify.verify_many(*batch, threads=threads)
    return time.perf_counter() - start, time.process_time() - processor


def pinned_process(core: int, start: Barrier, answers: Connection) -> None:
    os.sched_setaffinity(0, {core})
    batch = make_batch()
    timed_calls(batch, 1, 1)
    while True:
        start.wait()
        answers.send(timed_calls(batch, 1, CALLS))


def measure(start: Barrier, receivers: list[Connection], batch: Batch) -> tuple[list[float], list[float], int]:
    """Ratios and rates of the undisturbed rounds, and how many rounds there were in all."""
    ratios, rates, rounds = [], [], 0
    while len(ratios) < ROUNDS and rounds < MOST_ROUNDS:
        rounds += 1
        start.wait()
        # Two processes do the calls each, at their own pace.
        singles: list[Measured] = [receiver.recv() for receiver in receivers]
        seconds, _ = timed_calls(batch, 2, 2 * CALLS)
        if any(processor < LEAST_SHARE * wall for wall, processor in singles):
            continue
        rates.append(COUNT * 2 * CALLS / seconds)
        ratios.append(rates[-1] / sum(COUNT * CALLS / single[0] for single in singles))
    return ratios, rates, rounds


def main() -> None:
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        sys.exit("this measurement needs two cores")
    os.sched_setaffinity(0, set(cores))
    verify.set_threads(2, 0)
    context = multiprocessing.get_context("spawn")
    start = context.Barrier(3)
    receivers = []
    for core in cores:
        receiver, sender = context.Pipe(duplex=False)
        context.Process(target=pinned_process, args=(core, start, sender), daemon=True).start()
        receivers.append(receiver)
    batch = make_batch()
    timed_calls(batch, 2, 1)

    ratios, rates, rounds = measure(start, receivers, batch)
    if len(ratios) < 9:
        sys.exit(f"the machine is busy: only {len(ratios)} of {rounds} rounds were undisturbed")
    result = {
        "ratio_median": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "signatures_per_second": round(statistics.median(rates)),
        "rounds": {"undisturbed": len(ratios), "all": rounds},
        "machine": platform.processor() or platform.machine(),
        "python": platform.python_version(),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
