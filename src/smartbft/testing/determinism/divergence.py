"""What the detector finds, in words that help to mend it."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from smartbft.smr.application import OK, is_rejection
from smartbft.testing.checkers import PropertyViolation
from smartbft.testing.determinism.suspects import Suspect

_MOST_SHOWN = 60
_CONTEXT = 24
_MOST_NAMED = 3


class Mistake(enum.StrEnum):
    """What is wrong with an application."""

    RESULT = "two copies gave different results"
    STATE = "two copies have different snapshots"
    SNAPSHOT = "two snapshots of one state differ"
    RESTORE = "a restored copy goes on differently"
    CAPTURE = "what was captured is not the snapshot of its moment"
    BATCHES = "results or state depend on how operations are divided into batches"
    REJECTED = "a rejected operation changed the state"
    EMPTY = "the empty operation is not a no-op"
    CHECK = "the verdict of check depends on the state"
    DIGEST = "the digest is not that of the snapshot"
    FAILED = "the application raised"


ADVICE: dict[Mistake, str] = {
    Mistake.RESULT: "results may depend on nothing but the operations, their order and the context: look for a clock "
    "(use context.timestamp), random numbers (random.Random(context.seed)), the order of a set (sorted), hash(), id(), "
    "the environment, and state that lives outside the instance (module globals, attributes of the class)",
    Mistake.STATE: "state may depend on nothing but the operations, their order and the context: look for a clock, "
    "random numbers, the order of a set (sorted), hash(), id(), the environment, and state outside the instance",
    Mistake.SNAPSHOT: "snapshot must only read, and give the same bytes for the same state: no clock, no counter, "
    "sorted(...) round everything that comes from a set",
    Mistake.RESTORE: "snapshot must hold everything that later results depend on, restore must bring all of it back "
    "and drop what was there before (assign, do not update), and neither may round floats or reorder: a restored "
    "copy makes the same snapshot, byte for byte",
    Mistake.CAPTURE: "what capture returns must not change with later operations: copy what execute changes, or leave "
    "capture out (the inherited one takes a snapshot at once)",
    Mistake.BATCHES: "an operation's effect may depend on the context of its batch, not on its neighbours or its "
    "place: keep nothing from one call of execute_batch to the next but the state (--whole-batches checks without it)",
    Mistake.REJECTED: "execute must find out that it rejects before it changes anything",
    Mistake.EMPTY: "the empty operation reaches batch applications too: answer b'' and change nothing",
    Mistake.CHECK: "check must judge by the bytes of the operation alone: replicas check at different times",
    Mistake.DIGEST: "leave digest out (the inherited one is right), or return the BLAKE3-256 of the snapshot",
    Mistake.FAILED: "execute may raise Rejected and nothing else; any other exception stops every replica",
}


@dataclass(frozen=True, slots=True)
class Divergence:
    """The first operation at which an application breaks its promise.

    Attributes:
        kind: what is wrong.
        index: number of the operation among those given or made, from 0 (one more than the last: an empty operation).
        client: index of the client that asked.
        operation: its bytes.
        first: what the first copy showed, in words.
        second: what the other one showed.
        copy: which other copy it was.
        also: other copies that differ too, at this operation or later.
        suspects: places in the application's source that may be the cause.
    """

    kind: Mistake
    index: int
    client: int
    operation: bytes
    first: str
    second: str
    copy: str
    also: tuple[str, ...] = ()
    suspects: tuple[Suspect, ...] = ()

    @property
    def advice(self) -> str:
        """What usually causes this, and what to do."""
        return ADVICE[self.kind]

    def describe(self) -> str:
        """Several lines for people."""
        lines = [
            f"{self.kind} at operation {self.index} of client {self.client}: {show(self.operation)}",
            f"  first copy: {self.first}",
            f"  {self.copy}: {self.second}",
        ]
        if self.also:
            more = f" and {len(self.also) - _MOST_NAMED} more" if len(self.also) > _MOST_NAMED else ""
            lines.append(f"  here or later these differ too: {'; '.join(self.also[:_MOST_NAMED])}{more}")
        lines.append(f"  usual causes: {self.advice}")
        lines += [f"  suspect: {suspect}" for suspect in self.suspects]
        return "\n".join(lines)


class NotDeterministic(PropertyViolation):
    """An application breaks the promise of `StateMachine`.

    Attributes:
        divergence: where it shows first.
    """

    def __init__(self, divergence: Divergence) -> None:
        self.divergence = divergence
        super().__init__("deterministic application", divergence.describe())


def show(data: bytes) -> str:
    """Bytes for people: as text where they are text, shortened, with their length."""
    head = data[:_MOST_SHOWN]
    text = repr(head) if all(32 <= byte < 127 for byte in head) else f"0x{head.hex()}"
    dots = "..." if len(data) > len(head) else ""
    return f"{text}{dots} ({len(data)} bytes)"


def show_result(result: bytes, *, coded: bool) -> str:
    """A result for people.

    Args:
        result: as an application gave it.
        coded: whether its first byte is a code, as that of every `StateMachine`.
    """
    if not coded or not result:
        return f"result {show(result)}"
    if result[0] == OK:
        return f"result {show(result[1:])}"
    if is_rejection(result):
        return f"rejected with code {result[0]}" if len(result) == 1 else "rejected without a code"
    return "a result that is too long"


def show_difference(first: bytes, second: bytes) -> tuple[str, str]:
    """Two snapshots for people: their lengths, and both from a little before the first byte that differs."""
    at = next((place for place, (a, b) in enumerate(zip(first, second, strict=False)) if a != b), None)
    if at is None:
        at = min(len(first), len(second))
    begin = max(0, at - _CONTEXT // 2)

    def around(data: bytes) -> str:
        part = data[begin : at + _CONTEXT]
        text = repr(part) if all(32 <= byte < 127 for byte in part) else f"0x{part.hex()}"
        return f"snapshot of {len(data)} bytes; from byte {begin}: {text}"

    return f"{around(first)} (they differ from byte {at} on)", around(second)
