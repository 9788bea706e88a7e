"""What to simulate: the options a person gives."""

from __future__ import annotations

from dataclasses import dataclass, fields

from smartbft.errors import LocalProtocolError
from smartbft.limits import MAX_MEMBERS, MAX_WINDOW
from smartbft.quorum import max_faulty
from smartbft.testing.byzantine import ANY, ATTACKS, KEYS
from smartbft.types import CHANNEL, SEQUENTIAL, SIGNATURES, TOGETHER

PERSISTENCE_LEVELS = {"memory": 0, "async": 1, "sync": 2}


@dataclass(frozen=True, slots=True)
class SimulationOptions:
    """What a run is made from. The same options give the same run, on any machine.

    Attributes:
        seed: everything that is not fixed here is drawn from it.
        n: replicas.
        instances: consensus instances to decide before the clients stop.
        clients: client sessions.
        in_flight: requests a client keeps in flight.
        signatures: "keyed-hash", "ed25519", or "auto": Ed25519 for one seed in twenty.
        persistence: "memory", "async", "sync", or "auto": mostly sync.
        authentication: of requests, "signatures", "channel", or "auto": channel for one seed in four, unless the
            application needs signatures.
        checkpoints: their schedule, "together", "sequential" (in memory: together), or "auto": sequential for one seed
            in four.
        faults: "all", "network" (no crashes), "crashes" (a quiet network, honest clients) or "none".
        patience: virtual seconds that the healed cluster has to finish everything.
        byzantine: attacks that up to `f` replicas make, separated by commas; "any": some that the seed draws; "keys":
            some on consensus keys and some others, often beside a correct replica that has lost its disk.
        twins: `f` replicas run twice, with the same keys, through partitions that the seed draws.
        mutations: up to `f` replicas change at most three messages each by one small step.
        late_liars: with `byzantine`: liars begin late. As many replicas lose their disks, and when one of them votes
            again with a new key, and so counts towards `f` no more, a liar takes its place.
        greedy: clients that want all room, places and time for themselves; pools are small then. Where nothing else
            goes wrong (`faults` "none", nobody lies), no leader may be replaced because of them.
        faulty: replicas that the caller makes faulty by means of its own: the seed draws fewer.
        without: names of faults of the scenario to leave out, separated by commas (`Scenario.faults`).
    """

    seed: int = 0
    n: int = 4
    instances: int = 50
    clients: int = 3
    in_flight: int = 2
    signatures: str = "auto"
    persistence: str = "auto"
    authentication: str = "auto"
    checkpoints: str = "auto"
    faults: str = "all"
    patience: int = 120
    byzantine: str = ""
    twins: bool = False
    mutations: bool = False
    late_liars: bool = False
    greedy: int = 0
    faulty: int = 0
    without: str = ""

    def __post_init__(self) -> None:
        _choose("signatures", self.signatures, ("auto", "keyed-hash", "ed25519"))
        _choose("persistence", self.persistence, ("auto", *PERSISTENCE_LEVELS))
        _choose("authentication", self.authentication, ("auto", SIGNATURES, CHANNEL))
        _choose("checkpoints", self.checkpoints, ("auto", TOGETHER, SEQUENTIAL))
        _choose("faults", self.faults, ("all", "network", "crashes", "none"))
        for attack in self.attacks:
            _choose("byzantine", attack, (ANY, KEYS, *ATTACKS))
        if (self.twins or self.attacks or self.mutations) and max_faulty(self.n) == 0:
            raise LocalProtocolError(f"{self.n} replicas tolerate no Byzantine one: n must be 4 or more")
        if self.late_liars and (not self.attacks or self.persistence == "memory" or self.faults in ("network", "none")):
            raise LocalProtocolError("late_liars: needs attacks (byzantine), a log, and faults that crash replicas")
        _bound("n", self.n, 1, MAX_MEMBERS)
        _bound("in_flight", self.in_flight, 1, MAX_WINDOW)
        _bound("greedy", self.greedy, 0, 1_000)
        for name in ("instances", "clients", "patience"):
            _bound(name, getattr(self, name), 1, 1_000_000)

    @property
    def attacks(self) -> tuple[str, ...]:
        """The names of the attacks asked for."""
        return tuple(name for name in self.byzantine.split(",") if name)

    def command(self) -> str:
        """The command line that repeats this run."""
        words = ["smartbft sim", f"--seed {self.seed}", f"--n {self.n}", f"--instances {self.instances}"]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("seed", "n", "instances") and value != field.default:
                option = f"--{field.name.replace('_', '-')}"
                words.append(option if value is True else f"{option} {value}")
        return " ".join(words)


def _choose(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise LocalProtocolError(f"{name}: '{value}' is none of {', '.join(allowed)}")


def _bound(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise LocalProtocolError(f"{name}: {value} is not between {low} and {high}")
