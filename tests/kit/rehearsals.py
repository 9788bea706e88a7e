"""Random runs in which a replica comes back by rehearsal, among liars, and crashes on the way."""

from __future__ import annotations

import random
from dataclasses import replace

from smartbft.testing import Simulation, SimulationOptions
from smartbft.testing.drawing import draw_scenario
from smartbft.types import SEQUENTIAL

ATTACKS = ("lie-snapshots", "lie-snapshots,lie-decisions", "lie-snapshots,replay", "lie-decisions", "")


def random_rehearsal(seed: int) -> Simulation:
    """A quiet cluster of four or seven with `f` liars, from which one more replica loses its disk; the run is over.

    Raises:
        PropertyViolation: a promise was broken; liveness too: it must come back, vote again and be level.
    """
    draw = random.Random(f"rehearsal {seed}")
    options = SimulationOptions(
        seed=seed,
        n=draw.choice((4, 4, 7)),
        instances=48,
        persistence=draw.choice(("sync", "sync", "async")),
        checkpoints=SEQUENTIAL,
        faults="none",
        byzantine=draw.choice(ATTACKS),
    )
    scenario = draw_scenario(options)
    interval = max(options.n, draw.choice((4, 5, 8, 13)))
    scenario = replace(scenario, parameters=replace(scenario.parameters, checkpoint_interval=interval))
    world = Simulation(options, scenario=scenario)
    while world.decided < draw.choice((2 * interval, 3 * interval, 48)) and world.wants_requests():
        world.advance(10)
    victim = draw.choice([id for id in world.replica_ids if id not in world.byzantine])
    world.wipe(victim, draw.choice((1_000, 100_000, 1_000_000)))
    synced = options.persistence == "sync"  # else nobody has promised that the machine's end loses nothing
    for _ in range(draw.choice((0, 0, 1, 3))):
        world.advance(draw.randrange(1, 3_000))
        world.crash(victim, downtime=draw.randrange(1, 100_000), power=synced and draw.random() < 0.5)
    world.run()
    return world
