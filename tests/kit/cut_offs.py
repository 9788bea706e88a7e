"""L2: some replicas are cut off when a phase of the protocol begins; the others must go on, and all come back.

Where the phase is one of a regency change, the first leader is out of reach until somebody asks for another one. Then
nothing is lost but what the cut loses.
"""

from __future__ import annotations

import random

from smartbft.core.effects import Record
from smartbft.core.records import DECISION
from smartbft.messages import Accept, Message, Propose, Stop, StopData, Sync, Write
from smartbft.testing import Simulation, SimulationOptions
from smartbft.testing.checkers import Checkers

INSTANCE = 3  # what is running when somebody is cut off, unless the caller says
MORE = 5  # instances that the others decide without them
MOST_TIMEOUTS = 40  # request timeouts in which they do so
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
        phase: when, in `instance`.
        before: how often somebody says what begins the phase before the cut comes.
    """

    def __init__(
        self,
        n: int,
        positions: tuple[int, ...],
        phase: str,
        seed: int = 0,
        *,
        instance: int = INSTANCE,
        before: int = 0,
    ) -> None:
        options = SimulationOptions(
            seed=seed, n=n, instances=instance + 2 * MORE, faults="none", signatures="keyed-hash", persistence="sync"
        )
        super().__init__(options)
        self._instance = instance
        self._before = before
        self._highest = 0  # instance that was decided
        self.victims = tuple(self.view.leader(position) for position in positions)
        self.others = tuple(id for id in self.replica_ids if id not in self.victims)
        self.begun: int | None = None  # the last decision when the phase began
        self._phase = phase
        self._apart = False  # whether the first leader is cut off, so that there is a regency change to be cut off in
        self._changes = phase in OF_A_REGENCY_CHANGE
        self._watched = self.checkers
        self.checkers = _Watched(self)  # type: ignore[assignment]

    def saw(self, message: Message) -> None:
        """Somebody is about to say this."""
        kind, regency = PHASES[self._phase]
        if isinstance(message, Stop):
            self._reach_the_first_leader()
        instance = getattr(message, "instance", self._instance)
        at = getattr(message, "target", 1) - 1 if isinstance(message, Stop) else getattr(message, "regency", 0)
        if self._phase != "after ACCEPT" and isinstance(message, kind) and (at, instance) == (regency, self._instance):
            self._before -= 1
            if self._before < 0:
                self._cut()

    def decides(self, instance: int) -> None:
        """A replica decides an instance; the first one to do so moves things along."""
        if instance <= self._highest:
            return
        self._highest = instance
        if self._changes and instance == self._instance - 1:
            leader = self.view.leader(0)
            self._apart = True
            self.network.partition((leader,), tuple(id for id in self.replica_ids if id != leader))
        if self._phase == "after ACCEPT" and instance == self._instance:
            self._cut()

    def _reach_the_first_leader(self) -> None:
        if self._changes and self.begun is None and self._apart:
            self._apart = False  # first: whoever is connected says again what binds it, its STOP too
            self.network.heal()
            for id in self.replica_ids:
                self.connect(self.view.leader(0), id)

    def _cut(self) -> None:
        if self.begun is None:
            self.begun = self._highest
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
        """The others decide `MORE` instances, in at most `f + 1` regencies; or the phase does not come."""
        most = MOST_TIMEOUTS * self.scenario.parameters.request_timeout
        while self.begun is None or min(self._executed()) < self.begun + MORE:
            if self.begun is None and self._highest >= self._instance + MORE:
                return  # the leader was back before enough of them asked for another one
            self.advance(1)
            assert self.scheduler.now < most, f"nothing goes on: {self._what_is_missing()}"
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

    def recorded(self, replica: int, record: Record) -> None:
        if record.kind == DECISION:
            self._world.decides(record.instance)
        self._checkers.recorded(replica, record)

    def sent(self, replica: int, message: Message) -> None:
        self._world.saw(message)
        self._checkers.sent(replica, message)


def random_cut_off(number: int) -> CutOff:
    """One of all that are possible with four or seven replicas: whom, when, and on which network."""
    draw = random.Random(f"smartbft cut off {number}")
    n = draw.choice((4, 7))
    positions = tuple(sorted(draw.sample(range(n), draw.randint(1, (n - 1) // 3))))
    phase = draw.choice(tuple(PHASES))
    only_leaders = PHASES[phase][0] in (Propose, Sync)  # say it, once; at least n - f say the other things
    before = 0 if only_leaders else draw.randint(0, (n - 1) // 3)
    return CutOff(n, positions, phase, number, instance=draw.randint(2, 8), before=before)
