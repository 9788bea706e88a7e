"""Runs an application written per operation where the runtime wants batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from smartbft._fastpath.pool import join_results, split_requests
from smartbft.arguments import bytes_of
from smartbft.errors import (
    POISON_ADVICE,
    ApplicationFailed,
    ArgumentTypeError,
    InvariantViolation,
    LocalProtocolError,
    Rejected,
)
from smartbft.limits import MAX_RESULT_BYTES
from smartbft.smr.application import (
    NO_CODE,
    OK,
    BatchStateMachine,
    ExecutionContext,
    StateMachine,
    name_operation,
    too_large,
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
            ApplicationFailed: the application raised something other than `Rejected`, or returned something that is
                not bytes-like. The replica must stop.
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

    def why_refused(self, operation: bytes) -> tuple[int, str]:
        """Code and text of what `StateMachine.check` raises."""
        try:
            self.machine.check(operation)
        except Rejected as rejection:
            code = rejection.code
            return (code if isinstance(code, int) and 0 <= code <= 255 else 0), str(rejection)
        except (InvariantViolation, KeyboardInterrupt):
            raise
        except BaseException as error:
            return 0, f"the check raised {type(error).__name__}"
        return 0, ""

    def snapshot(self) -> bytes:
        """The application's snapshot. Raises ApplicationFailed: it is not bytes-like."""
        made = self.machine.snapshot()
        try:
            return bytes_of(made, "a snapshot")
        except ArgumentTypeError:
            raise ApplicationFailed(f"the application's snapshot is {type(made).__name__}, not bytes") from None

    def restore(self, snapshot: bytes) -> None:
        """Restore the application. Raises ValueError."""
        self.machine.restore(snapshot)

    def _execute(self, operation: bytes, context: ExecutionContext, position: int) -> bytes:
        self.operation = operation
        try:
            answer = self.machine.execute(operation, context)
        except Rejected as rejection:
            return self._rejection(rejection)
        except KeyboardInterrupt:  # somebody wants the program to end
            raise
        except BaseException as error:  # sys.exit() in an operation must not end a replica as if all were well
            raise _failure(repr(error), operation, context, position) from error
        try:
            result = bytes_of(answer, "a result")
        except ArgumentTypeError:
            what = f"it returned {type(answer).__name__}, not bytes"
            raise _failure(what, operation, context, position) from None
        return bytes([OK]) + result if len(result) <= MAX_RESULT_BYTES else too_large(len(result))

    @staticmethod
    def _rejection(rejection: Rejected) -> bytes:
        code = rejection.code or 0
        if not isinstance(code, int) or not 0 <= code <= 255:
            raise ApplicationFailed(
                f"the application rejected with code {code!r}; codes go from 1 to 255: {POISON_ADVICE}"
            ) from rejection
        return bytes([code]) if code else NO_CODE

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
