"""Greedy shrinking: the smallest run that still breaks the promise that a seed broke."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from smartbft.testing.campaign import Failure, run_seed
from smartbft.testing.drawing import draw_scenario
from smartbft.testing.options import SimulationOptions

MOST_RUNS = 200


def shrink(
    failure: Failure, *, run: Callable[[SimulationOptions], object] = run_seed, most_runs: int = MOST_RUNS
) -> Failure:
    """Leave out one fault after the other, then instances and clients, as long as the same promise is broken.

    What is left out does not change what the seed makes of the rest, so the result is one command line.

    Args:
        failure: what to repeat.
        run: how to run options.
        most_runs: give up looking for something smaller after so many.
    """
    runs = 0
    found = True
    while found and runs < most_runs:
        found = False
        for smaller in _smaller(failure.options):
            runs += 1
            outcome = run(smaller)
            if isinstance(outcome, Failure) and outcome.promise == failure.promise:
                failure, found = outcome, True
                break
            if runs >= most_runs:
                break
    return failure


def _smaller(options: SimulationOptions) -> Iterator[SimulationOptions]:
    """The same run with a little less in it, the largest steps first."""
    left_out = [name for name in options.without.split(",") if name]
    everything = draw_scenario(replace(options, without="")).faults()
    remaining = [name for name in everything if name not in left_out]
    if len(remaining) > 3:
        half = len(remaining) // 2
        for part in (remaining[:half], remaining[half:]):
            yield replace(options, without=",".join([*left_out, *part]))
    if options.instances > 1:
        yield replace(options, instances=options.instances // 2)
        yield replace(options, instances=options.instances - 1)
    for name in remaining:
        yield replace(options, without=",".join([*left_out, name]))
    if options.clients > 1:
        yield replace(options, clients=options.clients - 1)
    if options.in_flight > 1:
        yield replace(options, in_flight=1)
