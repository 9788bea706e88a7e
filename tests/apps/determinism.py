"""What every application must keep, whatever it does; used by each application's tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from smartbft._fastpath.pool import encode_request, join_requests
from smartbft.errors import Rejected
from smartbft.smr.application import ExecutionContext, StateMachine
from smartbft.smr.per_operation import PerOperation

Batch = Sequence[bytes]


def request_list(operations: Batch) -> bytes:
    """Requests of one client that carry the operations."""
    return join_requests(
        [encode_request(bytes(32), 1, number, operation, bytes(64)) for number, operation in enumerate(operations, 1)]
    )


def assert_replicas_agree(make: Callable[[], StateMachine], batches: Sequence[Batch]) -> None:
    """Run batches on three replicas: as they come; operation by operation; restored from a snapshot after each batch.

    Results, snapshots and digests must agree, and a rejected operation must change nothing.
    """
    plain, stepping, restored = (PerOperation(make()) for _ in range(3))
    for instance, operations in enumerate(batches, 1):
        data = request_list(operations)
        before, captured = plain.snapshot(), plain.capture()
        context = ExecutionContext(instance, 1_000_000 + instance, bytes([instance % 256]) * 32)
        results = plain.execute_batch(data, context)
        assert restored.execute_batch(data, context) == results
        assert captured() == before, "a capture is of the moment when it was made"
        for operation in operations:
            execute_alone(stepping.machine, operation, context)
        snapshot = plain.snapshot()
        assert stepping.snapshot() == restored.snapshot() == snapshot
        assert plain.digest() == stepping.digest()
        restored = PerOperation(make())
        restored.restore(snapshot)
        assert restored.snapshot() == snapshot


def execute_alone(machine: StateMachine, operation: bytes, context: ExecutionContext) -> None:
    """Execute one operation; if it is rejected, the state must be as before, and so must it if `check` refuses it."""
    if not operation:
        return
    before = machine.snapshot()
    try:
        machine.execute(operation, context)
    except Rejected:
        assert machine.snapshot() == before
        return
    machine.check(operation)
