"""L2: any `f` replicas are cut off at any phase of the protocol: the others make progress, and healing brings all back.

Every replica of four in every phase, and a sample of pairs of seven. Where the phase is one of a regency change, the
first leader is out of reach until somebody asks for another one. Then nothing is lost but what the cut loses.
"""

from __future__ import annotations

import random
from itertools import combinations

import pytest

from smartbft.core import epoch_change
from smartbft.core.catch_up import CatchUp
from smartbft.messages import Accept, Message, Propose, Stop, StopData, Sync, Write
from smartbft.protocols.mod_smart import collecting
from smartbft.testing import PropertyViolation, Simulation, SimulationOptions
from smartbft.testing.checkers import Checkers

INSTANCE = 3  # what is running when somebody is cut off
MORE = 5  # instances that the others decide without them
MOST_SECONDS = 20
LEADERS = ("leader", "second leader", "third leader", "fourth leader", "fifth leader", "sixth leader", "seventh leader")

# What is said for the first time when the phase begins. The cut comes first: from those cut off, nobody hears it.
PHASES: dict[str, tuple[type, int]] = {
    "before PROPOSE": (Propose, 0),
    "after PROPOSE": (Write, 0),
    "after the WRITE quorum": (Accept, 0),
    "after ACCEPT": (Accept, 0),
    "during STOP": (Stop, 0),
    "during STOPDATA": (StopData, 1),
    "during SYNC": (Sync, 1),
    "after SYNC": (Write, 1),
}
OF_A_REGENCY_CHANGE = ("during STOP", "during STOPDATA", "during SYNC", "after SYNC")


class CutOff(Simulation):
    """A quiet cluster of which some replicas are cut off from their peers when a phase begins; clients reach them.

    Args:
        positions: whom to cut off: 0 leads in regency 0, 1 in regency 1, and so on.
        phase: when, in instance `INSTANCE`.
    """

    def __init__(self, n: int, positions: tuple[int, ...], phase: str, seed: int = 0) -> None:
        options = SimulationOptions(
            seed=seed, n=n, instances=INSTANCE + 2 * MORE, faults="none", signatures="keyed-hash", persistence="sync"
        )
        super().__init__(options)
        self.victims = tuple(self.view.leader(position) for position in positions)
        self.others = tuple(id for id in self.replica_ids if id not in self.victims)
        self.begun: int | None = None  # the last decision when the phase began
        self._phase = phase
        self._changes = phase in OF_A_REGENCY_CHANGE
        self._watched = self.checkers
        self.checkers = _Watched(self)  # type: ignore[assignment]

    def saw(self, message: Message) -> None:
        """Somebody is about to say this."""
        kind, regency = PHASES[self._phase]
        if isinstance(message, Stop):
            self._reach_the_first_leader()
        instance = getattr(message, "instance", INSTANCE)
        at = getattr(message, "target", 1) - 1 if isinstance(message, Stop) else getattr(message, "regency", 0)
        if self._phase != "after ACCEPT" and isinstance(message, kind) and (at, instance) == (regency, INSTANCE):
            self._cut()

    def on_decided(self, instance: int) -> None:
        super().on_decided(instance)
        if self._changes and instance == INSTANCE - 1 and self.begun is None:
            leader = self.view.leader(0)
            self.network.partition((leader,), tuple(id for id in self.replica_ids if id != leader))
        if self._phase == "after ACCEPT" and instance == INSTANCE:
            self._cut()

    def _reach_the_first_leader(self) -> None:
        if self._changes and self.begun is None:
            self.network.heal()
            for id in self.replica_ids:
                self.connect(self.view.leader(0), id)

    def _cut(self) -> None:
        if self.begun is None:
            self.begun = self.decided
            self.network.partition(self.victims, self.others)

    def live(self) -> None:
        """The others go on; then the cut is over, and everybody has everything."""
        self.others_go_on()
        self.network.heal()
        for victim in self.victims:
            for id in self.replica_ids:
                self.connect(victim, id)
        self.run()

    def others_go_on(self) -> None:
        """The others decide `MORE` instances, in at most `f + 1` regencies."""
        while self.begun is None or min(self._executed()) < self.begun + MORE:
            self.advance(1)
            assert self.scheduler.now < MOST_SECONDS * 1_000_000, f"nothing goes on: {self._what_is_missing()}"
        assert max(self.hosts[id].replica.core.regency for id in self.others) <= self.view.f + 1 + self._changes

    def level(self) -> bool:
        """Whether everybody has executed as much, more than was there when the cut began."""
        executed = {self.hosts[id].replica.executed for id in self.replica_ids}
        return len(executed) == 1 and self.begun is not None and min(executed) > self.begun

    def _executed(self) -> list[int]:
        return [self.hosts[id].replica.executed for id in self.others]


class _Watched:
    """The checkers of a run, which hear everything that is said."""

    def __init__(self, world: CutOff) -> None:
        self._world = world
        self._checkers: Checkers = world.checkers

    def __getattr__(self, name: str) -> object:
        return getattr(self._checkers, name)

    def sent(self, replica: int, message: Message) -> None:
        self._world.saw(message)
        self._checkers.sent(replica, message)


def words(positions: tuple[int, ...]) -> str:
    return " and ".join(LEADERS[position] for position in positions)


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.replace(" ", "-"))
@pytest.mark.parametrize("position", range(4), ids=lambda position: LEADERS[position].replace(" ", "-") + "-cut-off")
def test_four_replicas(position: int, phase: str):
    world = CutOff(4, (position,), phase)
    world.live()
    assert world.level()


PAIRS = [(pair, phase) for pair in combinations(range(7), 2) for phase in PHASES]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("positions", "phase"),
    random.Random(7).sample(PAIRS, 24),
    ids=lambda value: words(value) if isinstance(value, tuple) else value,
)
def test_seven_replicas(positions: tuple[int, ...], phase: str):
    world = CutOff(7, positions, phase)
    world.live()
    assert world.level()


# --- planted bugs -----------------------------------------------------------------------------------------------------


def _waits_for_all(patch: pytest.MonkeyPatch) -> None:
    """A new leader wants the STOPDATA of everybody, as one in Hyperledger Fabric waited for the wrong set (2016)."""

    def evaluate(collected: list[StopData], n: int, f: int) -> epoch_change.Outcome:
        return epoch_change.evaluate(collected if len(collected) == n else [], n, f)

    patch.setattr(collecting, "evaluate", evaluate)


def _decides_with_all(patch: pytest.MonkeyPatch) -> None:
    """A quorum is everybody: one replica out of reach stops the rest (BFT-SMaRt issue 19)."""
    patch.setattr("smartbft.types.quorum", lambda n: n)


def _never_catches_up(patch: pytest.MonkeyPatch) -> None:
    """Who was away does not ask for what it missed (BFT-SMaRt issue 27)."""
    patch.setattr(CatchUp, "_ask", lambda *_: None)


@pytest.mark.parametrize(
    ("plant", "position", "phase"),
    [
        (_waits_for_all, 3, "during STOP"),
        (_decides_with_all, 2, "before PROPOSE"),
        (_never_catches_up, 2, "before PROPOSE"),
    ],
    ids=["waits for all", "decides with all", "never catches up"],
)
def test_planted_bugs(plant: object, position: int, phase: str, monkeypatch: pytest.MonkeyPatch):
    plant(monkeypatch)  # type: ignore[operator]
    world = CutOff(4, (position,), phase)
    with pytest.raises((AssertionError, PropertyViolation), match=r"nothing goes on|liveness"):
        world.live()
