"""The benchmark of the pool calls it as the runtime does: it has to follow the interface."""

from __future__ import annotations

from benchmarks.fastpath.bench_pool import BATCHES, STAGES, Cycle


def test_a_round_of_the_benchmark_goes_through_all_stages() -> None:
    cycle = Cycle()
    for _ in range(2):
        cycle.round(cycle.streams())
    assert cycle.instance == 2 * BATCHES
    assert [stage for stage in STAGES if not cycle.seconds[stage]] == []
