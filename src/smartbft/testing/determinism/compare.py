"""Runs the first copy with checks of its own, and compares other copies with it after every operation."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from blake3 import blake3

from smartbft.smr.application import BatchStateMachine, is_rejection
from smartbft.testing.determinism.copies import CopyFailed, Make, Seen, calls, execute, take_snapshot
from smartbft.testing.determinism.divergence import Mistake, show_difference, show_result
from smartbft.testing.determinism.script import Batch, Step, request_list


@dataclass(frozen=True, slots=True)
class Difference:
    """Where a copy differs from the first one.

    Attributes:
        index: the operation.
        what: "result", "snapshot", "restored" (the snapshot right after a restore) or "failed".
        found: the copy's result or snapshot, or the text of its failure.
        origin: see `Seen`.
    """

    index: int
    what: str
    found: bytes
    origin: str = ""


@dataclass(frozen=True, slots=True)
class Flaw:
    """A broken promise that one copy shows by itself."""

    kind: Mistake
    index: int
    first: str
    second: str
    copy: str


@dataclass(slots=True)
class Reference:
    """What the first copy showed.

    Attributes:
        results: of the operations, in order.
        snapshots: by the operation after which they were taken.
        flaw: the first thing that is wrong with this copy alone; nothing was executed after it.
    """

    results: list[bytes] = field(default_factory=list)
    snapshots: dict[int, bytes] = field(default_factory=dict)
    flaw: Flaw | None = None

    def digests(self) -> dict[int, bytes]:
        """BLAKE3 of the snapshots."""
        return {index: blake3(snapshot).digest() for index, snapshot in self.snapshots.items()}


def run_reference(make: Make, batches: Sequence[Batch], whole: bool, coded: bool) -> Reference:
    """Execute a script on the first copy; judges what one copy alone can show, after every call."""
    application = make()
    reference = Reference()
    before = application.snapshot()
    for steps in calls(batches, whole):
        index = steps[-1].index
        try:
            results = execute(application, steps)
            after = take_snapshot(application, index)
        except CopyFailed as failure:
            reference.flaw = Flaw(Mistake.FAILED, failure.index, failure.text, "not asked", "other copies")
            return reference
        reference.results += results
        if reference.snapshots.get(index - 1) == after:
            after = reference.snapshots[index - 1]  # one object for many equal snapshots
        reference.snapshots[index] = after
        reference.flaw = _judge(application, steps, results, (before, after), coded)
        if reference.flaw is not None:
            return reference
        before = after
    reference.flaw = _judge_checks(make(), application, batches)
    return reference


def _judge(
    application: BatchStateMachine,
    steps: Sequence[Step],
    results: Sequence[bytes],
    states: tuple[bytes, bytes],
    coded: bool,
) -> Flaw | None:
    before, after = states
    index = steps[-1].index
    again = take_snapshot(application, index)
    if again != after:
        return Flaw(Mistake.SNAPSHOT, index, *show_difference(after, again), "the same copy, asked again at once")
    if application.digest() != blake3(after).digest():
        found = f"digest {application.digest().hex()}"
        return Flaw(
            Mistake.DIGEST, index, f"BLAKE3-256 of its snapshot {blake3(after).hexdigest()}", found, "its digest"
        )
    if len(steps) > 1:
        return None
    (step,), (result,) = steps, results
    if not step.operation and (result or after != before):
        shown = f"{show_result(result, coded=coded)}; {'state changed' if after != before else 'state unchanged'}"
        return Flaw(Mistake.EMPTY, index, shown, "an empty result; state unchanged", "required")
    if coded and is_rejection(result) and after != before:
        old, new = show_difference(before, after)
        shown = show_result(result, coded=True)
        return Flaw(Mistake.REJECTED, index, f"{shown}; before: {old}", new, "the same copy, after the rejection")
    return None


def _judge_checks(fresh: BatchStateMachine, used: BatchStateMachine, batches: Sequence[Batch]) -> Flaw | None:
    """All operations of the script passed on a fresh copy; they must pass at any time."""
    for batch in batches:
        for step, now, later in zip(batch, check(fresh, batch), check(used, batch), strict=True):
            if now != later:
                words = {True: "passes", False: "refused"}
                return Flaw(
                    Mistake.CHECK,
                    step.index,
                    f"{words[now]} (initial state)",
                    words[later],
                    "after all operations",
                )
    return None


def check(application: BatchStateMachine, steps: Sequence[Step]) -> list[bool]:
    """Which operations pass the application's check."""
    return [bool(verdict) for verdict in application.check_batch(request_list(steps))]


def first_difference(
    shown: Iterator[Seen], results: Sequence[bytes], digests: Mapping[int, bytes]
) -> Difference | None:
    """Follow a copy to the first thing that differs.

    Args:
        shown: what the copy shows.
        results: of the first copy.
        digests: of its snapshots.
    """
    last = len(results) - 1
    origin = ""
    try:
        for seen in shown:
            origin = seen.origin
            begin = seen.index - len(seen.results) + 1
            for index, result in enumerate(seen.results, begin):
                if index > last:
                    return None
                if result != results[index]:
                    return Difference(index, "result", result, origin)
            wanted = digests.get(seen.index)
            if seen.snapshot is not None and wanted is not None and blake3(seen.snapshot).digest() != wanted:
                return Difference(
                    seen.index, "restored" if seen.how == "restored" else "snapshot", seen.snapshot, origin
                )
            if seen.index >= last and seen.how != "executed":
                return None
    except CopyFailed as failure:
        return Difference(failure.index, "failed", failure.text.encode(), origin) if failure.index <= last else None
    return None


def describe(difference: Difference, reference: Reference, coded: bool) -> tuple[str, str]:
    """What the first copy and the other one showed, in words."""
    index = difference.index
    if difference.what == "result":
        return (
            show_result(reference.results[index], coded=coded),
            show_result(difference.found, coded=coded),
        )
    if difference.what == "failed":
        return f"{show_result(reference.results[index], coded=coded)}", difference.found.decode(errors="replace")
    return show_difference(reference.snapshots[index], difference.found)


def all_steps(batches: Iterable[Batch]) -> list[Step]:
    """The steps of a script, in order."""
    return [step for batch in batches for step in batch]
