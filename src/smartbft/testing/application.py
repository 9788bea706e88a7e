"""The application that simulations run unless told otherwise: a log whose digest covers all it is told."""

from __future__ import annotations

import random
import struct

from blake3 import blake3

from smartbft._fastpath.pool import join_results, split_requests
from smartbft.smr.application import BatchStateMachine, ExecutionContext

_CONTEXT = struct.Struct("<QQ32s")
_STATE = struct.Struct("<Q32s")


class Hangs(BaseException):
    """Raised by an application of the simulator where a real one would not return."""


class AppendLog(BatchStateMachine):
    """Appends each operation to a log of which it keeps length and running digest; the result of an operation is both.

    Any difference in order, time, seed or contents shows in the digest, and so in replies and snapshots.
    """

    def __init__(self) -> None:
        self.length = 0
        self.chained = bytes(32)

    def execute_batch(self, data: bytes, context: ExecutionContext) -> bytes:
        """Append the operations of a request list; returns the result list."""
        head = _CONTEXT.pack(context.instance, context.timestamp, context.seed)
        results = []
        for _, _, _, operation, _ in split_requests(data):
            if not operation:
                results.append(b"")  # the no-op of every application
                continue
            self.length += 1
            self.chained = blake3(self.chained + head + operation).digest()
            results.append(_STATE.pack(self.length, self.chained))
        return join_results(results)

    def check_batch(self, data: bytes) -> bytes:
        """Any operation will do."""
        return b"\x01" * len(split_requests(data))

    def snapshot(self) -> bytes:
        """Length and digest."""
        return _STATE.pack(self.length, self.chained)

    def restore(self, snapshot: bytes) -> None:
        """Inverse of `snapshot`."""
        self.length, self.chained = _STATE.unpack(snapshot)


def random_operation(draw: random.Random, client: int, number: int) -> bytes:
    """An operation for `AppendLog`: some bytes, now and then many.

    Args:
        draw: randomness of the run.
        client: index of the client.
        number: the request's sequence number.
    """
    size = 2_000 if draw.random() < 0.01 else 8 + int(24 * draw.random())
    return (client << 32 | number).to_bytes(8, "little") + bytes(size - 8)
