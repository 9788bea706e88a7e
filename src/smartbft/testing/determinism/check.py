"""The detector itself: which copies there are, and what their differences mean."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from smartbft.errors import LocalProtocolError
from smartbft.smr.application import OK
from smartbft.testing.determinism.compare import (
    Difference,
    Reference,
    all_steps,
    check,
    describe,
    first_difference,
    run_reference,
)
from smartbft.testing.determinism.copies import (
    Make,
    captured,
    from_the_start,
    restored,
    restored_over,
    unobserved,
    whole_batches,
)
from smartbft.testing.determinism.divergence import Divergence, Mistake, NotDeterministic
from smartbft.testing.determinism.processes import run_processes
from smartbft.testing.determinism.script import Batch, OperationMaker, generate, write_script
from smartbft.testing.determinism.suspects import suspects_of
from smartbft.testing.determinism.target import Application, Target, is_coded, written_class


@dataclass(frozen=True, slots=True)
class ApplicationReport:
    """What was run without finding a difference.

    Attributes:
        operations: how many operations each copy executed.
        refused: how many more the application's `check` refused: they were left out, as they are never ordered.
        rejected: how many of the operations `execute` rejected (0 for a `BatchStateMachine`, which has its own codes).
        batches: into how many batches they were divided.
        snapshot_bytes: size of the last snapshot.
        copies: the copies that were compared, in words.
        hash_seeds: of the other processes; empty if the application cannot be imported there.
    """

    operations: int
    refused: int
    rejected: int
    batches: int
    snapshot_bytes: int
    copies: tuple[str, ...]
    hash_seeds: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    """A difference of one copy. `kind` is what it means unless a copy executed from the start differs as well."""

    copy: str
    kind: Mistake | None
    difference: Difference


def check_application(
    application: Application,
    operations: OperationMaker | Sequence[bytes],
    *,
    count: int = 200,
    seed: int = 0,
    parameters: Mapping[str, Any] | None = None,
    hash_seeds: Sequence[int] = (0, 1, 2),
    split_batches: bool = True,
) -> ApplicationReport:
    """Run an application in several copies and compare results and snapshots after every operation.

    The copies: from the start again; in whole batches; never asked for a snapshot; captured, as
    for a checkpoint; restored from a snapshot after
    every operation into a fresh copy, and over an older state; and in other processes with other hash seeds, time
    zones, clocks and environments, where one copy is restored only now and then.

    Args:
        application: a name as in a genesis (``"coin"``, ``"module:Class"``), or a class or function that makes a copy.
            What cannot be imported by its name (a local class, a lambda) is not run in other processes.
        operations: a maker as for `Simulation` (from the randomness, the client's index and its sequence number to
            an operation), or recorded operations. Operations that `check` refuses are left out.
        count: how many operations to make.
        seed: of the randomness that makers draw from, and of batches, agreed times and seeds.
        parameters: of the genesis; only for a name.
        hash_seeds: PYTHONHASHSEED of each other process; none without any.
        split_batches: whether to hand a batch over operation by operation. Without it, a `BatchStateMachine` may give
            an operation a meaning that depends on its place in the batch, and states are compared after batches only.

    Raises:
        NotDeterministic: with the first operation at which something differs, both results, and advice.
        LocalProtocolError: there is nothing to execute, or a process cannot run the application.
        ConfigError: there is no such application.
    """
    if not isinstance(application, str) and parameters:
        raise LocalProtocolError("parameters go with an application's name; give a class what it needs by a function")
    made = generate(operations, count, seed) if callable(operations) else [(0, one) for one in operations]
    with tempfile.TemporaryDirectory(prefix="smartbft-check-") as folder:
        target = Target(application, parameters or {}, Path(folder))
        batches, refused = _admitted(target.make, made, seed)
        return _check(target, batches, refused, tuple(hash_seeds), not split_batches)


def _admitted(make: Make, operations: Sequence[tuple[int, bytes]], seed: int) -> tuple[list[Batch], int]:
    """The script without what `check` refuses, with an empty operation at its end."""
    batches = write_script([*operations, (0, b"")], seed)
    application = make()
    kept: list[Batch] = []
    for batch in batches:
        passed = [step for step, passes in zip(batch, check(application, batch), strict=True) if passes]
        if passed:
            kept.append(passed)
    steps = all_steps(kept)
    if not any(step.operation for step in steps):
        raise LocalProtocolError("there is no operation that passes the application's check: nothing to execute")
    numbers = {step.index: number for number, step in enumerate(steps)}
    renumbered: list[Batch] = [[step.renumbered(numbers[step.index]) for step in batch] for batch in kept]
    return renumbered, len(operations) + 1 - len(steps)


def _check(
    target: Target, batches: Sequence[Batch], refused: int, hash_seeds: tuple[int, ...], whole: bool
) -> ApplicationReport:
    first = target.make()
    coded = is_coded(first)
    reference = run_reference(target.make, batches, whole, coded)
    copies, found = _copies_here(target.make, batches, reference, whole, coded)
    elsewhere = target.to_json()
    if elsewhere is None:
        hash_seeds = ()
    else:
        for surroundings, *differences in run_processes(elsewhere, batches, reference, whole, hash_seeds):
            copies.append(str(surroundings))
            for difference, kind, more in zip(differences, (None, Mistake.RESTORE), ("", ", restored"), strict=True):
                if difference is not None:
                    found.append(_Found(f"{surroundings}{more}", kind, difference))
    divergence = _first(batches, reference, found, coded, written_class(first))
    if divergence is not None:
        raise NotDeterministic(divergence)
    return ApplicationReport(
        operations=len(reference.results),
        refused=refused,
        rejected=sum(bool(result) and result[0] != OK for result in reference.results) if coded else 0,
        batches=len(batches),
        snapshot_bytes=len(reference.snapshots[len(reference.results) - 1]),
        copies=tuple(copies),
        hash_seeds=hash_seeds,
    )


def _copies_here(
    make: Make, batches: Sequence[Batch], reference: Reference, whole: bool, coded: bool
) -> tuple[list[str], list[_Found]]:
    """All copies in this process, and where they differ."""
    # Without a second way to divide it, a batch of single operations can differ only by the snapshots between them.
    batching = Mistake.SNAPSHOT if coded else Mistake.BATCHES
    copies = (
        ("another copy, executed from the start", None, from_the_start(make, batches, whole)),
        ("a copy never asked for a snapshot", Mistake.SNAPSHOT, unobserved(make, batches, whole)),
        ("a copy that executes whole batches", batching, whole_batches(make, batches)),
        ("a copy captured while it goes on", Mistake.CAPTURE, captured(make, batches, whole)),
        ("a copy restored after every call", Mistake.RESTORE, restored(make, batches, whole)),
        ("a copy restored over an older state", Mistake.RESTORE, restored_over(make, batches, whole)),
    )
    digests = reference.digests()
    found = []
    for name, kind, shown in copies:
        difference = first_difference(shown, reference.results, digests)
        if difference is not None:
            found.append(_Found(name, kind, difference))
    return [name for name, _, _ in copies], found


def _first(
    batches: Sequence[Batch], reference: Reference, found: Sequence[_Found], coded: bool, written: type
) -> Divergence | None:
    """The first operation at which anything is wrong, and what that is."""
    steps = all_steps(batches)
    flaw = reference.flaw
    suspects = suspects_of(written)
    chosen = min(found, key=lambda one: one.difference.index, default=None)
    if flaw is not None and (chosen is None or flaw.index <= chosen.difference.index):
        step = steps[flaw.index]
        return Divergence(
            flaw.kind, step.number, step.client, step.operation, flaw.first, flaw.second, flaw.copy, suspects=suspects
        )
    if chosen is None:
        return None
    difference = chosen.difference
    step = steps[difference.index]
    first, second = describe(difference, reference, coded)
    origin = f" ({difference.origin})" if difference.origin else ""
    return Divergence(
        _kind(chosen, found),
        step.number,
        step.client,
        step.operation,
        first,
        second,
        chosen.copy + origin,
        tuple(one.copy for one in found if one is not chosen),
        suspects,
    )


def _kind(chosen: _Found, found: Sequence[_Found]) -> Mistake:
    """Copies that only execute the same from the start must never differ: if one does, the rest follows from that."""
    if all(one.kind is not None for one in found):
        return chosen.kind or Mistake.STATE
    return Mistake.RESULT if chosen.difference.what in ("result", "failed") else Mistake.STATE
