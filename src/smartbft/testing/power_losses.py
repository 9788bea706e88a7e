"""Promise D2 for the whole cluster: the power fails at one instant after the other, and nothing acknowledged is lost.

One run has `POINTS` power losses, each at an instant of its own, of one replica, some, or all at once; many of them
fall into the recovery from the one before. The simulated disk keeps what was synced, and of the rest any sectors. That
nothing acknowledged is lost and no vote is taken back is checked after every event, like everything else.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from smartbft.testing.campaign import Failure, caught
from smartbft.testing.options import SimulationOptions
from smartbft.testing.simulation import Simulation

#: Power losses of one run, at most: a run that answers everything before has fewer.
POINTS = 20
_MOST_EVENTS = 120
_DOWNTIME = (100, 5_000)


@dataclass(frozen=True, slots=True)
class PowerLosses:
    """What a run with power losses came to.

    Attributes:
        points: instants at which the power failed.
        losses: replicas that were without power, summed over the instants.
        requests: requests answered.
        failure: the promise that was broken, if one was.
    """

    points: int
    losses: int
    requests: int
    failure: Failure | None = None


def power_loss_options(seed: int) -> SimulationOptions:
    """What is simulated: votes are on disk before they leave; every other seed has a bad network as well."""
    return SimulationOptions(
        seed=seed,
        instances=12,
        clients=2,
        signatures="keyed-hash",
        persistence="sync",
        faults="network" if seed % 2 else "none",
    )


def lose_power_often(seed: int) -> PowerLosses:
    """Run one seed; whatever the run raises is in the outcome."""
    options = power_loss_options(seed)
    simulation = Simulation(options)
    points = 0
    try:
        points = _lose_power(simulation, random.Random(f"smartbft power losses {seed}"))  # noqa: S311 - no secret
        simulation.run()
        failure = None
    except Exception as error:  # as in every campaign
        found = caught(error, options)
        failure = replace(found, command=f"python ci/campaign.py --suite power-loss --only {seed}")
    return PowerLosses(points, simulation.faults.crashes, simulation.answered, failure)


def _lose_power(simulation: Simulation, draw: random.Random) -> int:
    points = 0
    while points < POINTS:
        simulation.advance(draw.randrange(1, _MOST_EVENTS))
        if simulation.healed:
            break
        before = simulation.faults.crashes
        n = simulation.options.n
        replicas = draw.sample(simulation.replica_ids, draw.choice((1, 2, n, n)))
        simulation.crash(*replicas, downtime=draw.randint(*_DOWNTIME))
        points += simulation.faults.crashes > before  # else all of them were down already
    return points
