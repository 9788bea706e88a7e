"""``smartbft start`` for a replica that, as the leader, keeps every proposal back for a while. For `faults.py`.

python benchmarks/slow_leader.py HOME MICROSECONDS
"""

from __future__ import annotations

import sys

from smartbft.cli import main
from smartbft.core.chassis import Chassis
from smartbft.core.inputs import Timer
from smartbft.protocols.mod_smart import ModSmart
from smartbft.runtime import assembly


class SlowLeader(ModSmart):
    """Lets every batch wait for `delay` microseconds, however many requests there are."""

    delay = 0

    def __init__(self, chassis: Chassis) -> None:
        super().__init__(chassis)
        self._slow_chassis = chassis

    def _waits_for_more(self, ready: int) -> bool:
        chassis = self._slow_chassis
        if not self._batch_due:
            self._batch_due = chassis.now + self.delay
            chassis.set_timer(Timer.BATCH, self.delay)
        return chassis.now < self._batch_due


if __name__ == "__main__":
    SlowLeader.delay = int(sys.argv[2])
    assembly.ModSmart = SlowLeader  # type: ignore[misc]
    main(["start", "--home", sys.argv[1], "--exit-with-parent"])
