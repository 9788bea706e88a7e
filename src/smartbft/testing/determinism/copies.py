"""Several ways to run the same operations. A deterministic application cannot tell them apart."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from smartbft.smr.application import BatchStateMachine
from smartbft.testing.determinism.script import Batch, Step, request_list

Make = Callable[[], BatchStateMachine]
_LENGTH = struct.Struct("<I")


class CopyFailed(Exception):
    """A copy raised where it must not.

    Attributes:
        index: the operation it was at, or had executed last.
        text: what happened.
    """

    def __init__(self, index: int, text: str) -> None:
        self.index = index
        self.text = text
        super().__init__(text)


@dataclass(frozen=True, slots=True)
class Seen:
    """What a copy showed after one call.

    Attributes:
        index: the last operation it has executed.
        results: of the operations of this call, which end with `index`.
        snapshot: of its state, or None: not asked.
        how: "executed", or how the snapshot came about otherwise: "restored": right after a restore; "captured": before
            the operation that came next, made after it.
        origin: in words, the snapshot that this copy began from ("" for none).
    """

    index: int
    results: Sequence[bytes]
    snapshot: bytes | None
    how: str = "executed"
    origin: str = ""


def split_results(data: bytes, count: int) -> list[bytes]:
    """The items of a result list. Raises ValueError: it is not one of `count` items."""
    results = []
    at = 0
    while at < len(data):
        if at + _LENGTH.size > len(data):
            raise ValueError("execute_batch returned a result list that is cut short")
        (length,) = _LENGTH.unpack_from(data, at)
        results.append(data[at + _LENGTH.size : at + _LENGTH.size + length])
        at += _LENGTH.size + length
    if at != len(data) or len(results) != count:
        raise ValueError(f"execute_batch returned {len(results)} results for {count} requests")
    return results


def execute(application: BatchStateMachine, steps: Sequence[Step]) -> list[bytes]:
    """The results of some operations of one batch, executed by one call. Raises CopyFailed."""
    try:
        return split_results(application.execute_batch(request_list(steps), steps[0].context), len(steps))
    except (Exception, SystemExit) as error:
        raise CopyFailed(steps[-1].index, f"execution raised {_describe(error)}") from error


def take_snapshot(application: BatchStateMachine, index: int) -> bytes:
    """The snapshot after operation `index`. Raises CopyFailed."""
    try:
        snapshot = application.snapshot()
    except (Exception, SystemExit) as error:
        raise CopyFailed(index, f"snapshot raised {_describe(error)}") from error
    if not isinstance(snapshot, bytes):
        raise CopyFailed(index, f"snapshot returned {type(snapshot).__name__}, not bytes")
    return snapshot


def restore(application: BatchStateMachine, snapshot: bytes, index: int) -> None:
    """Restore a snapshot taken after operation `index`. Raises CopyFailed."""
    try:
        application.restore(snapshot)
    except (Exception, SystemExit) as error:
        raise CopyFailed(index, f"restore raised {_describe(error)} for the application's own snapshot") from error


def _describe(error: BaseException) -> str:
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"


# The ways to run a script. Each yields what its copy shows, in the order of the operations.


def from_the_start(make: Make, batches: Sequence[Batch], whole: bool) -> Iterator[Seen]:
    """Operation by operation from the initial state, as a replica that executes its log again."""
    application = make()
    for steps in calls(batches, whole):
        results = execute(application, steps)
        yield Seen(steps[-1].index, results, take_snapshot(application, steps[-1].index))


def whole_batches(make: Make, batches: Sequence[Batch]) -> Iterator[Seen]:
    """Batch by batch."""
    return from_the_start(make, batches, True)


def unobserved(make: Make, batches: Sequence[Batch], whole: bool) -> Iterator[Seen]:
    """As `from_the_start`, but asked for a snapshot only at the end: taking one must leave no trace."""
    application, index = make(), 0
    for steps in calls(batches, whole):
        index = steps[-1].index
        yield Seen(index, execute(application, steps), None)
    yield Seen(index, (), take_snapshot(application, index))


def captured(make: Make, batches: Sequence[Batch], whole: bool) -> Iterator[Seen]:
    """Captured after each call, as for a checkpoint; the snapshot is made of that only after the next call."""
    application = make()
    waiting: tuple[int, Callable[[], bytes]] | None = None
    for steps in calls(batches, whole):
        results = execute(application, steps)
        if waiting is not None:
            yield Seen(waiting[0], (), _finish_capture(*waiting), "captured")
        index = steps[-1].index
        waiting = index, _begin_capture(application, index)
        yield Seen(index, results, None)


def _begin_capture(application: BatchStateMachine, index: int) -> Callable[[], bytes]:
    try:
        return application.capture()
    except (Exception, SystemExit) as error:
        raise CopyFailed(index, f"capture raised {_describe(error)}") from error


def _finish_capture(index: int, capture: Callable[[], bytes]) -> bytes:
    try:
        return capture()
    except (Exception, SystemExit) as error:
        raise CopyFailed(index, f"what capture returned raised {_describe(error)}") from error


def restored(make: Make, batches: Sequence[Batch], whole: bool, every: int = 1) -> Iterator[Seen]:
    """After each `every`-th call a fresh application takes over from the snapshot, as after a state transfer."""
    application, origin = make(), ""
    for number, steps in enumerate(calls(batches, whole), 1):
        index = steps[-1].index
        results = execute(application, steps)
        snapshot = take_snapshot(application, index)
        yield Seen(index, results, snapshot, origin=origin)
        if number % every == 0:
            application, origin = make(), f"restored from the snapshot after operation {steps[-1].number}"
            restore(application, snapshot, index)
            yield Seen(index, (), take_snapshot(application, index), "restored", origin)


def restored_over(make: Make, batches: Sequence[Batch], whole: bool) -> Iterator[Seen]:
    """Two applications take turns, each restored over its own older state, as when a replica that lags catches up."""
    application, other, origin = make(), make(), ""
    for steps in calls(batches, whole):
        index = steps[-1].index
        results = execute(application, steps)
        snapshot = take_snapshot(application, index)
        yield Seen(index, results, snapshot, origin=origin)
        application, other = other, application
        origin = f"restored, over an older state, from the snapshot after operation {steps[-1].number}"
        restore(application, snapshot, index)
        yield Seen(index, (), take_snapshot(application, index), "restored", origin)


def calls(batches: Sequence[Batch], whole: bool) -> Iterator[Sequence[Step]]:
    """What is handed to an application at once: whole batches, or single operations."""
    for batch in batches:
        if whole:
            yield batch
        else:
            yield from ([step] for step in batch)
