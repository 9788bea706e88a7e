"""``smartbft start`` for a replica that, as the leader, is slower than it could be. For `faults.py`.

python benchmarks/slow_leader.py HOME delay MICROSECONDS     every proposal is kept back for so long
python benchmarks/slow_leader.py HOME batch REQUESTS         proposals come at once, with so many requests at most
python benchmarks/slow_leader.py HOME age MICROSECONDS       proposals leave out what is not as old as that
python benchmarks/slow_leader.py HOME steps DELAY:GROUPS,... both, in turns: a proposal is kept back for so many
                                                             microseconds, and has only what was there so many proposals
                                                             before (1: all that is there now)
"""

from __future__ import annotations

import sys
from collections import deque

from smartbft._fastpath.pool import request_digests
from smartbft.cli import main
from smartbft.core.chassis import Chassis
from smartbft.core.inputs import Timer
from smartbft.limits import DIGEST_BYTES
from smartbft.protocols.mod_smart import ModSmart
from smartbft.runtime import assembly
from smartbft.types import Value

# Of one batch of a leader that orders old requests only.
_BATCH_BYTES = 512 * 1024


def _first(value: Value, data: bytes, count: int) -> tuple[Value, bytes]:
    """The first requests of a batch."""
    end = 0
    for _ in range(min(count, value.count)):
        end += 4 + int.from_bytes(data[end : end + 4], "little")
    return Value(value.timestamp, value.digests[: count * DIGEST_BYTES], value.statements), data[:end]


class SlowLeader(ModSmart):
    """A leader with a `measure` of slowness."""

    measure = "0"

    def __init__(self, chassis: Chassis) -> None:
        super().__init__(chassis)
        self._slow_chassis = chassis
        self._number = int(self.measure) if self.measure.isdigit() else 0

    def _wait(self, delay: int) -> bool:
        chassis = self._slow_chassis
        if not self._batch_due:
            self._batch_due = chassis.now + delay
            chassis.set_timer(Timer.BATCH, delay)
        return chassis.now < self._batch_due


class Delays(SlowLeader):
    """Lets every batch wait for `measure` microseconds, however many requests there are."""

    def _waits_for_more(self, ready: int) -> bool:
        return self._wait(self._number)


class TinyBatches(SlowLeader):
    """Proposes at once, and no more than `measure` requests."""

    def _waits_for_more(self, ready: int) -> bool:
        return False

    def _form_batch(self) -> tuple[Value | None, bytes]:
        value, data = super()._form_batch()
        return (None, b"") if value is None else _first(value, data, self._number)


class OldRequestsOnly(SlowLeader):
    """Proposes what has waited for `measure` microseconds, and nothing else."""

    def _old(self) -> bytes:
        chassis = self._slow_chassis
        return chassis.pool.overdue(chassis.now - self._number, _BATCH_BYTES)

    def _waits_for_more(self, ready: int) -> bool:
        oldest = self._slow_chassis.pool.oldest_pending()
        left = oldest + self._number + 1 - self._slow_chassis.now
        return left > 0 and self._wait(left)

    def _form_batch(self) -> tuple[Value | None, bytes]:
        value, _ = super()._form_batch()
        data = self._old()
        if value is None or not data:
            return None, b""
        return Value(value.timestamp, request_digests(self._slow_chassis.domains.chain_id, data)), data


class Steps(SlowLeader):
    """Keeps proposals back, and leaves out what came lately: the requests fall into groups, one for each instance."""

    def __init__(self, chassis: Chassis) -> None:
        super().__init__(chassis)
        steps = (step.split(":") for step in self.measure.split(","))
        self._steps = deque((int(delay), int(groups)) for delay, groups in steps)
        self._proposed: deque[int] = deque(maxlen=max(groups for _, groups in self._steps))  # when
        self._instance = 0

    def _waits_for_more(self, ready: int) -> bool:
        if self._instance != self.current.instance:
            self._instance = self.current.instance
            self._steps.rotate(-1)
        delay, _ = self._steps[-1]
        return delay > 0 and self._wait(delay)

    def _form_batch(self) -> tuple[Value | None, bytes]:
        value, data = super()._form_batch()
        if value is None:
            return None, b""
        self._proposed.append(self._slow_chassis.now)
        groups = self._steps[-1][1]
        if groups == 1:
            return value, data
        if len(self._proposed) >= groups:
            old = self._slow_chassis.pool.overdue(self._proposed[-groups], _BATCH_BYTES)
            if old:
                return Value(value.timestamp, request_digests(self._slow_chassis.domains.chain_id, old)), old
        return _first(value, data, max(1, value.count // groups))


WAYS = {"delay": Delays, "batch": TinyBatches, "age": OldRequestsOnly, "steps": Steps}

if __name__ == "__main__":
    leader = WAYS[sys.argv[2]]
    leader.measure = sys.argv[3]
    assembly.ModSmart = leader  # type: ignore[misc]
    main(["start", "--home", sys.argv[1], "--exit-with-parent"])
