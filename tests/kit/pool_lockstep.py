"""A pool that decides far ahead of execution, beside one that executes each decision at once: their session tables as
of the executed prefix must be equal byte by byte.
"""

from __future__ import annotations

import dataclasses
from random import Random

from kit.pool_twins import RULES, Batch, PoolTwins, native_pool, random_step
from smartbft._fastpath.pool import SessionCapture, join_results
from smartbft.errors import LocalProtocolError
from smartbft.smr.pool_rules import PoolOracle, SessionCaptureOracle
from smartbft.smr.sessions import PoolRules

VIEW = 3


def results_of(batch: Batch) -> bytes:
    return join_results([f"{batch.instance}.{number}".encode() for number in range(len(batch.digests) // 32)])


def answer(capture: SessionCapture | SessionCaptureOracle) -> bytes | None:
    """What a capture exports; None if another one took its place."""
    try:
        return capture.export()
    except LocalProtocolError:
        return None


class Lockstep(PoolTwins):
    """Twins with a third pool: another replica, at another level, that has nothing pending and never decides ahead."""

    def __init__(self, rules: PoolRules = RULES, oracle: PoolOracle | None = None) -> None:
        super().__init__(rules, oracle)
        self.other = native_pool(dataclasses.replace(rules, replica=rules.replica + 1))
        self.behind_most = self.exports = self.captured = 0
        self.captures: list[tuple[SessionCapture, SessionCaptureOracle]] = []

    def execute(self) -> None:
        self.behind_most = max(self.behind_most, len(self.decided))
        if not self.decided:
            return
        batch = self.decided[0]
        super().execute()
        self.other.decide(batch.digests, batch.data, batch.instance, batch.timestamp)
        self.other.executed(batch.digests, batch.data, results_of(batch), batch.instance, VIEW, batch.timestamp, 0)
        exported = self.compare_exports(batch)
        self.check_captures(exported, batch.instance)

    def check_captures(self, exported: bytes, instance: int) -> None:
        """Every few instances the sessions are captured, and some instances later written down."""
        if instance % 4 == 1:
            self.captures.append((self.native.capture_sessions(instance), self.oracle.capture_sessions(instance)))
        if instance % 4 == 3 and instance % 12 != 7:
            while self.captures:
                found, expected = (answer(capture) for capture in self.captures.pop())
                assert found == expected, "a capture is of another moment"
                self.captured += found is not None

    def compare_exports(self, batch: Batch) -> bytes:
        exported = self.native.export_sessions(batch.instance)
        assert exported == self.other.export_sessions(batch.instance), "decisions ahead show in the executed state"
        assert exported == self.oracle.export_sessions(batch.instance)
        self.exports += 1
        return exported

    def import_into_fresh(self, oracle: PoolOracle | None = None) -> None:
        """Go on from nothing but the exported bytes; the other pool goes on from what it is."""
        while self.decided:
            self.execute()
        exported = self.other.export_sessions(self.instance)
        agreed_time = self.other.agreed_time
        self.native = native_pool(self.rules)
        self.oracle = oracle or PoolOracle(self.rules)
        self.jobs, self.executed, self.captures = [], type(self.executed)(), []
        self.same("import_sessions", exported, agreed_time, 2)
        assert self.same("export_sessions", self.instance) == exported
        self.compare()


def lockstep_walk(seed: int, steps: int, twins: Lockstep | None = None, imports: int = 0) -> Lockstep:
    """A random walk with `imports` fresh starts from exported bytes on the way."""
    random = Random(seed)
    twins = twins or Lockstep()
    starts = {steps * (number + 1) // (imports + 1) for number in range(imports)}
    for step in range(steps):
        if step in starts:
            twins.import_into_fresh(type(twins.oracle)(twins.rules))
        random_step(random, twins)
    while twins.decided:
        twins.execute()
    return twins
