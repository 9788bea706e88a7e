"""``smartbft start`` for a replica that, as the leader, is slower than it could be. For `faults.py`.

python benchmarks/slow_leader.py HOME delay MICROSECONDS     every proposal is kept back for so long
python benchmarks/slow_leader.py HOME batch REQUESTS         proposals come at once, with so many requests at most
python benchmarks/slow_leader.py HOME age MICROSECONDS       proposals leave out what is not as old as that
"""

from __future__ import annotations

import sys

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


class SlowLeader(ModSmart):
    """A leader with a `measure` of slowness."""

    measure = 0

    def __init__(self, chassis: Chassis) -> None:
        super().__init__(chassis)
        self._slow_chassis = chassis

    def _wait(self, delay: int) -> bool:
        chassis = self._slow_chassis
        if not self._batch_due:
            self._batch_due = chassis.now + delay
            chassis.set_timer(Timer.BATCH, delay)
        return chassis.now < self._batch_due


class Delays(SlowLeader):
    """Lets every batch wait for `measure` microseconds, however many requests there are."""

    def _waits_for_more(self, ready: int) -> bool:
        return self._wait(self.measure)


class TinyBatches(SlowLeader):
    """Proposes at once, and no more than `measure` requests."""

    def _waits_for_more(self, ready: int) -> bool:
        return False

    def _form_batch(self) -> tuple[Value | None, bytes]:
        value, data = super()._form_batch()
        if value is None:
            return None, b""
        end = 0
        for _ in range(min(self.measure, value.count)):
            end += 4 + int.from_bytes(data[end : end + 4], "little")
        return Value(value.timestamp, value.digests[: self.measure * DIGEST_BYTES], value.statements), data[:end]


class OldRequestsOnly(SlowLeader):
    """Proposes what has waited for `measure` microseconds, and nothing else."""

    def _old(self) -> bytes:
        chassis = self._slow_chassis
        return chassis.pool.overdue(chassis.now - self.measure, _BATCH_BYTES)

    def _waits_for_more(self, ready: int) -> bool:
        oldest = self._slow_chassis.pool.oldest_pending()
        left = oldest + self.measure + 1 - self._slow_chassis.now
        return left > 0 and self._wait(left)

    def _form_batch(self) -> tuple[Value | None, bytes]:
        value, _ = super()._form_batch()
        data = self._old()
        if value is None or not data:
            return None, b""
        return Value(value.timestamp, request_digests(self._slow_chassis.domains.chain_id, data)), data


WAYS = {"delay": Delays, "batch": TinyBatches, "age": OldRequestsOnly}

if __name__ == "__main__":
    leader = WAYS[sys.argv[2]]
    leader.measure = int(sys.argv[3])
    assembly.ModSmart = leader  # type: ignore[misc]
    main(["start", "--home", sys.argv[1], "--exit-with-parent"])
