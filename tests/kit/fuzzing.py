"""What every decoder of foreign bytes must keep, and the loop that tries to make it fail (promises H1 and H2).

For any input a decoder either returns a value, which encodes to the same bytes again where the format is canonical, or
raises one of its documented errors, with a message. It takes at most 5 ms and memory in proportion to the input.
"""

from __future__ import annotations

import resource
import time
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from kit.mutation import Mutator

Decode = Callable[[bytes], Any]

MOST_SECONDS = 0.005
# Python's own objects for what an input holds (lists, slices, error texts) come on top of two copies of it.
MOST_TRACED_BYTES = 128 * 1024
# No decoder may ask for this much beyond what the process already uses, whatever a length field says.
MOST_ADDRESS_SPACE = 512 * 1024 * 1024
_BATCH = 512
_TRACED_EVERY = 97


class Finding(AssertionError):
    """A decoder broke its promise; says which, and the input that did it."""

    def __init__(self, decoder: Decoder, data: bytes, what: str) -> None:
        self.data = data
        super().__init__(f"{decoder.name}: {what}; input of {len(data)} bytes: {data.hex()}")


@dataclass(frozen=True)
class Decoder:
    """A decoder and what is promised about it.

    Attributes:
        decode: takes bytes; whatever it does besides (a pool that admits them) must not be undone by another input.
        seeds: valid inputs.
        errors: what it may raise.
        planted: the same with a bug that fuzzing must find.
        encode: inverse of `decode`; None where several inputs mean the same.
        fields: values that mean something in this format (see `Mutator`).
        mutator: how inputs are made from the seeds.
        working_bytes: memory it takes whatever the input (a read buffer).
        guide: a parser of the same format in plain Python. Where the decoder is native, a coverage-guided fuzzer sees
            the branches of this one; whatever it raises is ignored.
        generate: makes an input in a way of its own instead (checksums that fit, signatures that hold).
    """

    name: str
    decode: Decode
    seeds: Sequence[bytes]
    errors: type[Exception] | tuple[type[Exception], ...]
    planted: Decode
    encode: Callable[[Any], bytes] | None = None
    fields: Sequence[bytes] = ()
    mutator: type[Mutator] = Mutator
    working_bytes: int = 0
    generate: Callable[[Mutator, bytes], bytes] | None = None
    guide: Decode | None = None

    def with_planted_bug(self) -> Decoder:
        """What the fuzz tests must not pass."""
        return replace(self, name=f"{self.name} with a planted bug", decode=self.planted)


def judge(decoder: Decoder, data: bytes) -> bool:
    """Decode one input; returns whether it was accepted.

    Raises:
        Finding: the wrong error, an error that says nothing, or bytes that are not canonical.
    """
    try:
        value = decoder.decode(data)
    except decoder.errors as error:
        if not str(error):
            raise Finding(decoder, data, f"{type(error).__name__} without a message") from error
        return False
    except Exception as error:
        raise Finding(decoder, data, f"raised {type(error).__name__}: {error}") from error
    if decoder.encode is not None:
        again = decoder.encode(value)
        if again != data:
            raise Finding(decoder, data, f"was accepted, but encodes to {again.hex()}")
    return True


def inputs(decoder: Decoder, seed: int) -> Iterator[list[bytes]]:
    """Batches of mutated inputs, without end; the same seed, the same inputs."""
    mutator = decoder.mutator(seed, decoder.fields)
    seeds = decoder.seeds
    generate, mutate, pick = decoder.generate, mutator.mutate, mutator.pick
    while True:
        if generate is not None:
            yield [generate(mutator, pick(seeds)) for _ in range(_BATCH)]
        else:
            yield [mutate(pick(seeds), pick(seeds)) for _ in range(_BATCH)]


def fuzz(decoder: Decoder, count: int, seed: int) -> int:
    """Try the seeds and `count` mutated inputs; returns how many of these were accepted.

    Raises:
        Finding: at the first input that breaks a promise.
    """
    for data in decoder.seeds:
        if not judge(decoder, data):
            raise Finding(decoder, data, "a valid input was refused")
    accepted, batches = 0, inputs(decoder, seed)
    with bounded_address_space():
        while count > 0:
            batch = next(batches)[:count]
            count -= len(batch)
            accepted += _try_batch(decoder, batch)
    return accepted


def _try_batch(decoder: Decoder, batch: list[bytes]) -> int:
    accepted = 0
    clock = time.perf_counter
    began = clock()
    for data in batch:
        accepted += judge(decoder, data)
        ended = clock()
        if ended - began > MOST_SECONDS:
            check_time(decoder, data)
            ended = clock()
        began = ended
    for data in batch[::_TRACED_EVERY]:
        check_memory(decoder, data)
    return accepted


def check_time(decoder: Decoder, data: bytes) -> None:
    """An input took long by the clock: does it also by the processor's, every time?

    Raises:
        Finding: it does, so that neither another process nor a cold cache explains it.
    """
    times = []
    for _ in range(5):
        began = time.thread_time()
        judge(decoder, data)
        times.append(time.thread_time() - began)
    if min(times) > MOST_SECONDS:
        raise Finding(decoder, data, f"took {1000 * min(times):.1f} ms")


def check_memory(decoder: Decoder, data: bytes) -> None:
    """Python objects beyond twice the input and what the decoder always takes were made: does it do so every time?

    Raises:
        Finding: it does, so that no cache which was filled meanwhile explains it.
    """
    most = 2 * len(data) + MOST_TRACED_BYTES + decoder.working_bytes
    peaks: list[int] = []
    while len(peaks) < 3:
        peaks.append(_traced_peak(decoder, data))
        if peaks[-1] <= most:
            return
    raise Finding(decoder, data, f"took {min(peaks)} bytes of memory")


def _traced_peak(decoder: Decoder, data: bytes) -> int:
    tracemalloc.start()
    try:
        judge(decoder, data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@contextmanager
def bounded_address_space() -> Iterator[None]:
    """Let this process grow by `MOST_ADDRESS_SPACE` at most: a larger allocation, native ones included, fails."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        in_use = int(file.read().split()[0]) * resource.getpagesize()
    wanted = in_use + MOST_ADDRESS_SPACE
    if before[0] == resource.RLIM_INFINITY or wanted < before[0]:
        resource.setrlimit(resource.RLIMIT_AS, (wanted, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
