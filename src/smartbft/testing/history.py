"""What clients saw: which operation was invoked when, and when its answer came, or that nobody can tell.

A history is all that promise A6 (linearizability) is judged by: it says nothing about replicas.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation as its client saw it. Times are microseconds.

    Attributes:
        client: who invoked it.
        operation: its bytes.
        invoked: when.
        result: the answer, or None: indeterminate. It took effect at some time after `invoked`, or never will.
        answered: when the answer came, or when the client gave up on it.
    """

    client: int
    operation: bytes
    invoked: int
    result: bytes | None
    answered: int

    def describe(self, what: str) -> str:
        """One line for people; `what` says what was asked and answered (see `SequentialModel.describe`)."""
        return f"client {self.client} [{self.invoked} .. {self.answered}] {what}"


class _Open:
    """An operation whose outcome is not known yet."""

    __slots__ = ("client", "invoked", "operation")

    def __init__(self, client: int, operation: bytes, invoked: int) -> None:
        self.client = client
        self.operation = operation
        self.invoked = invoked


class History:
    """Records what clients see.

    Args:
        patience: how long a client waits for an answer, microseconds; one that comes later is not believed any more:
            the client has been told that the outcome is indeterminate (0: clients wait for ever).
    """

    def __init__(self, patience: int = 0) -> None:
        self._patience = patience
        self._open: dict[object, _Open] = {}
        self._closed: list[Operation] = []

    def invoked(self, identity: object, client: int, operation: bytes, now: int) -> None:
        """A client sends an operation.

        Args:
            identity: names this invocation, for instance the digest of its request.
            client: a number for the client.
            operation: what it asks.
            now: microseconds.
        """
        self._open[identity] = _Open(client, operation, now)

    def answered(self, identity: object, result: bytes, now: int) -> None:
        """The client believes this result. Nothing is noted of an operation it has given up or never sent."""
        found = self._open.pop(identity, None)
        if found is None:
            return
        given_up = found.invoked + self._patience
        if self._patience and now > given_up:
            self._closed.append(Operation(found.client, found.operation, found.invoked, None, given_up))
        else:
            self._closed.append(Operation(found.client, found.operation, found.invoked, result, now))

    def gave_up(self, identity: object, now: int) -> None:
        """The client will never know."""
        found = self._open.pop(identity, None)
        if found is not None:
            self._closed.append(Operation(found.client, found.operation, found.invoked, None, now))

    def operations(self) -> Sequence[Operation]:
        """All operations in the order of their invocations; those still without an answer are indeterminate."""
        still_open = [
            Operation(one.client, one.operation, one.invoked, None, one.invoked) for one in self._open.values()
        ]
        return sorted([*self._closed, *still_open], key=lambda one: one.invoked)
