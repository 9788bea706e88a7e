"""Runs an application written per operation where the runtime wants batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from smartbft import limits
from smartbft._fastpath.pool import join_results, split_requests
from smartbft.errors import POISON_ADVICE, ApplicationFailed, InvariantViolation, LocalProtocolError, Rejected
from smartbft.smr.application import (
    OK,
    RESULT_TOO_LARGE,
    UNSPECIFIED,
    BatchStateMachine,
    ExecutionContext,
    StateMachine,
    name_operation,
)


class PerOperation(BatchStateMachine):
    """The batch interface of a `StateMachine`.

    Args:
        machine: the application.

    Attributes:
        operation: the one that is executed now, or was executed last.
        check_failed: called with an operation and what `StateMachine.check` raised at it other than `Rejected`; None:
            nobody wants to know.
    """

    native = False

    def __init__(self, machine: StateMachine) -> None:
        self.machine = machine
        self.operation = b""
        self.check_failed: Callable[[bytes, BaseException], None] | None = None
        self.needs_signatures = machine.needs_signatures

    def execute_batch(self, data: bytes, context: ExecutionContext) -> bytes:
        """Execute a request list in order; returns the result list.

        Raises:
            ApplicationFailed: the application raised something other than `Rejected`, or returned something other than
                bytes. The replica must stop.
        """
        return join_results(list(self.slices(data, context)))

    def slices(self, data: bytes, context: ExecutionContext) -> Iterator[bytes]:
        """Execute a request list step by step: yields the result of each request after its execution.

        So a caller can give way to others between two operations, by its own clock; nothing else may touch the
        application until the iterator is exhausted. The results, joined, are what `execute_batch` returns.

        Raises:
            ApplicationFailed: as `execute_batch`.
        """
        instance, timestamp, seed = context.instance, context.timestamp, context.seed
        for position, (client, _, _, operation, _) in enumerate(split_requests(data)):
            if operation:
                yield self._execute(operation, ExecutionContext(instance, timestamp, seed, client), position)
            else:
                yield b""

    def check_batch(self, data: bytes) -> bytes:
        """One byte per request of a request list: 1 where the operation passes `StateMachine.check`, else 0."""
        return bytes(self._passes(operation) for _, _, _, operation, _ in split_requests(data))

    def snapshot(self) -> bytes:
        """The application's snapshot. Raises ApplicationFailed: it is no bytes."""
        made = self.machine.snapshot()
        if not isinstance(made, bytes):
            raise ApplicationFailed(f"the application's snapshot is {type(made).__name__}, not bytes")
        return made

    def restore(self, snapshot: bytes) -> None:
        """Restore the application. Raises ValueError."""
        self.machine.restore(snapshot)

    def _execute(self, operation: bytes, context: ExecutionContext, position: int) -> bytes:
        self.operation = operation
        try:
            answer = self.machine.execute(operation, context)
        except Rejected as rejection:
            return bytes([self._code(rejection)])
        except KeyboardInterrupt:  # somebody wants the program to end
            raise
        except BaseException as error:  # sys.exit() in an operation must not end a replica as if all were well
            raise _failure(repr(error), operation, context, position) from error
        if not isinstance(answer, bytes):
            raise _failure(f"it returned {type(answer).__name__}, not bytes", operation, context, position)
        if len(answer) >= limits.MAX_RESULT_BYTES:
            return bytes([RESULT_TOO_LARGE])
        return bytes([OK]) + answer

    @staticmethod
    def _code(rejection: Rejected) -> int:
        code = rejection.code or UNSPECIFIED
        if not isinstance(code, int) or not 1 <= code <= 255:
            raise ApplicationFailed(
                f"the application rejected with code {code!r}; codes go from 1 to 255: {POISON_ADVICE}"
            ) from rejection
        return code

    def _passes(self, operation: bytes) -> bool:
        """A check that fails on a client's bytes in any way refuses them: it must not stop the replica."""
        if not operation:
            return True
        try:
            self.machine.check(operation)
        except Rejected:
            return False
        except (InvariantViolation, KeyboardInterrupt):
            raise
        except BaseException as error:
            if self.check_failed is not None:
                self.check_failed(operation, error)
            return False
        return True


def _failure(what: str, operation: bytes, context: ExecutionContext, position: int) -> ApplicationFailed:
    return ApplicationFailed(
        f"the application failed at request {position} of instance {context.instance}: {what}; operation "
        f"{name_operation(operation)} of client {context.client.hex()}: {POISON_ADVICE}",
        context.instance,
        operation,
    )


def as_batch(machine: StateMachine | BatchStateMachine) -> BatchStateMachine:
    """The batch interface of an application of either kind.

    Raises:
        LocalProtocolError: it is none; a class in place of an object, for instance.
    """
    if isinstance(machine, StateMachine):
        return PerOperation(machine)
    if isinstance(machine, type):
        name = machine.__name__
        raise LocalProtocolError(f"{name} is a class: the application is an object, {name}(...)")
    if not callable(getattr(machine, "execute_batch", None)):
        name = type(machine).__name__
        raise LocalProtocolError(f"'{name}' is no application: derive it from StateMachine or BatchStateMachine")
    return machine
