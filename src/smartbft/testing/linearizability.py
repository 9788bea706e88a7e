"""Is there an order that explains what clients saw? The checker of Wing and Gong, with Lowe's memory.

Linearizable (Herlihy and Wing 1990): the operations can be put in one order in which each takes effect between its
invocation and its answer, and every answer is what a single copy would have given. An indeterminate operation may take
effect at any time after its invocation, or never. A history is linearizable if it is so for each key of its own
(locality), so keys are searched one by one. The search is that of Wing and Gong (1993); that a set of operations that
were placed and the state they led to need never be tried twice is Lowe's addition (2017).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

from smartbft.errors import SmartBFTError
from smartbft.smr.application import ExecutionContext, StateMachine
from smartbft.smr.per_operation import PerOperation
from smartbft.testing.checkers import PropertyViolation
from smartbft.testing.determinism.copies import split_results
from smartbft.testing.determinism.divergence import show, show_result
from smartbft.testing.determinism.script import Step, request_list
from smartbft.testing.history import Operation

#: Configurations that one key may take; far more than any history of a correct system needs.
MOST_CONFIGURATIONS = 2_000_000
_MOST_SHOWN = 12
_INDETERMINATE = "no answer, it may have happened"


class Undecided(SmartBFTError):
    """The search was given up: too many configurations. Shorter histories, more keys or fewer clients help."""


class SequentialModel(Protocol):
    """What a single copy does. States are compared and hashed.

    Attributes:
        overwrites: whether the state after an operation that changes it never depends on the state before. Then an
            indeterminate operation that is followed at once by another one might as well never happen, which keeps the
            search short.
    """

    overwrites: bool

    def key(self, operation: bytes) -> Hashable:
        """What the operation touches; operations on different keys never influence each other."""
        ...

    def initial(self) -> Hashable:
        """The state of a key at the beginning."""
        ...

    def apply(self, state: Any, operation: bytes) -> tuple[Hashable, bytes]:
        """The state after an operation, and its result."""
        ...

    def relevant(self, operations: Sequence[Operation]) -> Sequence[Operation]:
        """The operations on one key without such indeterminate ones as nobody can have noticed."""
        ...

    def describe(self, operation: bytes, result: bytes | None) -> str:
        """What was asked and answered (None: nobody knows what came of it), in words."""
        ...


class ApplicationModel:
    """A `StateMachine` as the model of itself: right if it does not use the context.

    Args:
        make: makes a copy in its initial state.
        key: what an operation touches; without it, everything touches everything, and histories must be short.
    """

    overwrites = False

    def __init__(self, make: Callable[[], StateMachine], key: Callable[[bytes], Hashable] | None = None) -> None:
        self._make = make
        self._key = key
        self._context = ExecutionContext(1, 1, bytes(32))
        self._known: dict[tuple[bytes, bytes], tuple[bytes, bytes]] = {}

    def key(self, operation: bytes) -> Hashable:
        """As the function that was given says."""
        return None if self._key is None else self._key(operation)

    def initial(self) -> bytes:
        """The snapshot of a new copy."""
        return self._make().snapshot()

    def apply(self, state: bytes, operation: bytes) -> tuple[bytes, bytes]:
        """Restore the state, execute, take a snapshot."""
        known = self._known.get((state, operation))
        if known is None:
            machine = self._make()
            machine.restore(state)
            requests = request_list([Step(0, 0, 0, 1, operation, self._context)])
            (result,) = split_results(PerOperation(machine).execute_batch(requests, self._context), 1)
            known = self._known[state, operation] = machine.snapshot(), result
        return known

    def relevant(self, operations: Sequence[Operation]) -> Sequence[Operation]:
        """All: nothing is known about them."""
        return operations

    def describe(self, operation: bytes, result: bytes | None) -> str:
        """The bytes, as text where they are text."""
        return f"{show(operation)}: {_INDETERMINATE if result is None else show_result(result, coded=True)}"


class KeyValueModel:
    """The key-value store as registers, one for each key; written again here, so that a bug there shows.

    COUNT touches all keys and must not be in the history; all values that are put must differ.
    """

    overwrites = True

    def key(self, operation: bytes) -> bytes:
        """The key that a PUT, GET or DELETE names."""
        if operation[0] == 1:
            return operation[3 : 3 + int.from_bytes(operation[1:3], "little")]
        if operation[0] in (2, 3):
            return operation[1:]
        raise ValueError("only PUT, GET and DELETE touch a single key")

    def initial(self) -> bytes | None:
        """No value."""
        return None

    def apply(self, state: bytes | None, operation: bytes) -> tuple[bytes | None, bytes]:
        """All of them answer with the value before."""
        answer = b"\0\0" if state is None else b"\0\1" + state
        if operation[0] == 1:
            return operation[3 + int.from_bytes(operation[1:3], "little") :], answer
        return (state if operation[0] == 2 else None), answer

    def relevant(self, operations: Sequence[Operation]) -> Sequence[Operation]:
        """Without reads that nobody answered, and without such writes whose value no answer shows.

        Every operation answers with the value before: a value that no answer shows was overwritten by another operation
        without an answer, or is still there; or it was never written.
        """
        shown = {one.result for one in operations}

        def may_matter(one: Operation) -> bool:
            if one.result is not None or one.operation[0] == 3:
                return True
            return one.operation[0] == 1 and self.apply(self.apply(None, one.operation)[0], one.operation)[1] in shown

        return [one for one in operations if may_matter(one)]

    def describe(self, operation: bytes, result: bytes | None) -> str:
        """The operation by its name, and the value that it found."""
        key = self.key(operation)
        if operation[0] == 1:
            asked = f"PUT {key!r} {operation[3 + len(key) :]!r}"
        else:
            asked = f"{'GET' if operation[0] == 2 else 'DELETE'} {key!r}"
        if result is None:
            return f"{asked}: {_INDETERMINATE}"
        when = "" if operation[0] == 2 else " before"
        if result == b"\0\0":
            return f"{asked}: no value{when}"
        return f"{asked}: {result[2:]!r}{when}" if result[:2] == b"\0\1" else f"{asked}: {show(result)}"


class NotLinearizable(PropertyViolation):
    """No order explains what clients saw.

    Attributes:
        key: where.
        operation: the first operation, by the time of its answer, that no order explains.
    """

    def __init__(self, key: Hashable, operation: Operation, message: str) -> None:
        self.key = key
        self.operation = operation
        super().__init__("linearizability", message)


@dataclass(frozen=True, slots=True)
class LinearizabilityReport:
    """What was checked.

    Attributes:
        operations: all of them.
        indeterminate: those without an answer.
        keys: parts that were searched one by one.
        configurations: what the search took: sets of placed operations with their states.
    """

    operations: int
    indeterminate: int
    keys: int
    configurations: int


def check_linearizable(
    operations: Sequence[Operation], model: SequentialModel, most_configurations: int = MOST_CONFIGURATIONS
) -> LinearizabilityReport:
    """Find an order that explains a history.

    Args:
        operations: what clients saw.
        model: what a single copy does.
        most_configurations: of one key, before the search is given up.

    Raises:
        NotLinearizable: there is none.
        Undecided: the search took too long.
    """
    parts: dict[Hashable, list[Operation]] = {}
    for one in operations:
        parts.setdefault(model.key(one.operation), []).append(one)
    configurations = 0
    for key, part in parts.items():
        search = _Search(part, model, most_configurations)
        if not search.run():
            raise _explain(key, part, model, most_configurations)
        configurations += search.configurations
    indeterminate = sum(one.result is None for one in operations)
    return LinearizabilityReport(len(operations), indeterminate, len(parts), configurations)


class _Node:
    """A call or an answer in the list of what has not been placed yet."""

    __slots__ = ("answer", "bit", "is_call", "next", "operation", "previous")

    def __init__(self, operation: Operation | None, bit: int, is_call: bool) -> None:
        self.operation = operation
        self.bit = bit
        self.is_call = is_call
        self.answer: _Node | None = None
        self.next: _Node | None = None
        self.previous: _Node | None = None

    def unlink(self) -> None:
        """Take it out of the list; it remembers where it was."""
        if self.previous is not None:
            self.previous.next = self.next
        if self.next is not None:
            self.next.previous = self.previous

    def relink(self) -> None:
        """Inverse of `unlink`, in the opposite order of several."""
        if self.previous is not None:
            self.previous.next = self
        if self.next is not None:
            self.next.previous = self


class _Search:
    """The search for one key."""

    def __init__(self, operations: Sequence[Operation], model: SequentialModel, most: int) -> None:
        self._model = model
        self._most = most
        self._head = _list_of(model.relevant(operations))
        self._unanswered = sum(one.result is not None for one in operations)
        self.configurations = 0

    def run(self) -> bool:
        """Whether there is an order."""
        state: Any = self._model.initial()
        placed = 0
        seen: set[tuple[int, Any]] = set()
        stack: list[tuple[_Node, Any]] = []
        node = self._head.next
        while self._unanswered:
            last = stack[-1][0] if stack else None
            after = None if node is None or not node.is_call else self._try(node, state, last)
            if after is not None and node is not None and (placed | node.bit, after[0]) not in seen:
                placed |= node.bit
                seen.add((placed, after[0]))
                self.configurations = len(seen)
                if len(seen) > self._most:
                    raise Undecided(f"gave up after {len(seen)} configurations of one key")
                stack.append((node, state))
                state = after[0]
                self._place(node)
                node = self._head.next
            elif node is not None and node.is_call:
                node = node.next
            elif stack:
                # An answer whose operation is not placed (or the end): what was placed last was placed too early.
                node, state = stack.pop()
                placed ^= node.bit
                self._take_back(node)
                node = node.next
            else:
                return False
        return True

    def _try(self, node: _Node, state: Any, last: _Node | None) -> tuple[Hashable] | None:
        """The state after an operation, if a single copy would have answered as it was answered."""
        operation = node.operation
        if operation is None:
            return None
        if self._model.overwrites and node.answer is None and last is not None and last.answer is None:
            return None  # what was placed last might as well not have happened
        after, result = self._model.apply(state, operation.operation)
        return (after,) if operation.result is None or operation.result == result else None

    def _place(self, node: _Node) -> None:
        node.unlink()
        if node.answer is not None:
            node.answer.unlink()
            self._unanswered -= 1

    def _take_back(self, node: _Node) -> None:
        if node.answer is not None:
            node.answer.relink()
            self._unanswered += 1
        node.relink()


def _list_of(operations: Sequence[Operation]) -> _Node:
    """Calls and answers in the order of time; at equal times calls first, for then they overlap."""
    events: list[tuple[int, int, int, _Node]] = []
    for number, one in enumerate(operations):
        call = _Node(one, 1 << number, True)
        events.append((one.invoked, 0, number, call))
        if one.result is not None:
            call.answer = _Node(one, 0, False)
            events.append((one.answered, 1, number, call.answer))
    head = last = _Node(None, 0, False)
    for _, _, _, node in sorted(events, key=lambda event: event[:3]):
        last.next, node.previous = node, last
        last = node
    return head


def _until(operations: Sequence[Operation], time: int) -> list[Operation]:
    """What clients had seen by a time: later answers are unknown, later operations are not there."""
    return [
        one if one.result is None or one.answered <= time else replace(one, result=None)
        for one in operations
        if one.invoked <= time
    ]


def _explain(key: Hashable, operations: Sequence[Operation], model: SequentialModel, most: int) -> NotLinearizable:
    """Name the first answer that no order explains: histories that are cut off earlier are linearizable."""
    answered = sorted((one for one in operations if one.result is not None), key=lambda one: one.answered)
    low, high = 0, len(answered) - 1
    while low < high:
        middle = (low + high) // 2
        if _Search(_until(operations, answered[middle].answered), model, most).run():
            low = middle + 1
        else:
            high = middle
    culprit = answered[low]
    before = [one for one in _until(operations, culprit.answered) if one is not culprit]

    def line(one: Operation) -> str:
        return f"  {one.describe(model.describe(one.operation, one.result))}"

    lines = [f"no order of the operations on {key!r} explains this answer:", line(culprit), "after"]
    lines += [line(one) for one in sorted(before, key=lambda one: one.answered)[-_MOST_SHOWN:]]
    return NotLinearizable(key, culprit, "\n".join(lines))


__all__ = [
    "ApplicationModel",
    "KeyValueModel",
    "LinearizabilityReport",
    "NotLinearizable",
    "SequentialModel",
    "Undecided",
    "check_linearizable",
]
