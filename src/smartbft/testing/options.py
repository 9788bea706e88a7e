"""What to simulate: the options a person gives, and the scenario a seed makes of them."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, fields

from smartbft.errors import LocalProtocolError
from smartbft.limits import MAX_MEMBERS, MAX_WINDOW
from smartbft.testing.disk import DiskOptions
from smartbft.testing.network import NetworkOptions
from smartbft.types import CHANNEL, SIGNATURES, Parameters

PERSISTENCE_LEVELS = {"memory": 0, "async": 1, "sync": 2}
# One seed in so many uses real Ed25519 signatures; the others use keyed hashes.
REAL_SIGNATURES_EVERY = 20
# One seed in so many authenticates requests by their channels.
CHANNEL_EVERY = 4
# How far ahead of its own clock a voter accepts a proposal's time; small, so that a run in which each proposal is held
# until its time has come does not take minutes.
CLOCK_SKEW = 100_000  # microseconds


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
        faults: "all", "network" (no crashes), "crashes" (a quiet network, honest clients) or "none".
        patience: virtual seconds that the healed cluster has to finish everything.
    """

    seed: int = 0
    n: int = 4
    instances: int = 50
    clients: int = 3
    in_flight: int = 2
    signatures: str = "auto"
    persistence: str = "auto"
    authentication: str = "auto"
    faults: str = "all"
    patience: int = 120

    def __post_init__(self) -> None:
        _choose("signatures", self.signatures, ("auto", "keyed-hash", "ed25519"))
        _choose("persistence", self.persistence, ("auto", *PERSISTENCE_LEVELS))
        _choose("authentication", self.authentication, ("auto", SIGNATURES, CHANNEL))
        _choose("faults", self.faults, ("all", "network", "crashes", "none"))
        _bound("n", self.n, 1, MAX_MEMBERS)
        _bound("in_flight", self.in_flight, 1, MAX_WINDOW)
        for name in ("instances", "clients", "patience"):
            _bound(name, getattr(self, name), 1, 1_000_000)

    def command(self) -> str:
        """The command line that repeats this run."""
        words = ["smartbft sim", f"--seed {self.seed}", f"--n {self.n}", f"--instances {self.instances}"]
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("seed", "n", "instances") and value != field.default:
                words.append(f"--{field.name.replace('_', '-')} {value}")
        return " ".join(words)


def _choose(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise LocalProtocolError(f"{name}: '{value}' is none of {', '.join(allowed)}")


def _bound(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise LocalProtocolError(f"{name}: {value} is not between {low} and {high}")


@dataclass(frozen=True, slots=True)
class Crash:
    """One planned crash.

    Attributes:
        replicas: who goes down, together.
        after_instance: the crash follows the first decision of this instance,
        delay: this many microseconds later.
        downtime: microseconds until each of them starts again, in the order of `replicas`.
        power: True: unsynced writes are lost or torn; False: the process dies, the operating system keeps its cache.
    """

    replicas: tuple[int, ...]
    after_instance: int
    delay: int
    downtime: tuple[int, ...]
    power: bool


@dataclass(frozen=True, slots=True)
class Isolation:
    """One planned cut of a replica from all others (clients still reach it).

    Attributes:
        replica: who is cut off.
        after_instance: the cut follows the first decision of this instance.
        duration: microseconds.
    """

    replica: int
    after_instance: int
    duration: int


@dataclass(frozen=True, slots=True)
class ClockStep:
    """One planned jump of a replica's clock, forwards or backwards.

    Attributes:
        replica: whose clock.
        after_instance: the jump follows the first decision of this instance.
        offset: of the clock against virtual time from then on, microseconds.
    """

    replica: int
    after_instance: int
    offset: int


Fault = Crash | Isolation | ClockStep


@dataclass(frozen=True, slots=True)
class Scenario:
    """Everything that is drawn once per run. Times are microseconds.

    Attributes:
        real_signatures: Ed25519, else keyed hashes.
        persistence: "memory", "async" or "sync".
        parameters: the chain's protocol parameters.
        network: between all endpoints.
        disk: of each replica.
        clock_offsets: of each replica against the virtual time.
        verify_delay, execute_delay: longest time of a verification job and of the execution of a batch.
        think_time: longest pause of a client between an answer and its next request.
        tell_one: how often a client sends a new request to one replica only.
        troublemakers: clients that break the rules.
        mischief_pause: longest time between two deeds of a troublemaker.
        crashes, isolations, clock_steps: what goes wrong beside the network.
    """

    real_signatures: bool
    persistence: str
    parameters: Parameters
    network: NetworkOptions
    disk: DiskOptions
    clock_offsets: tuple[int, ...]
    verify_delay: int
    execute_delay: int
    think_time: int
    tell_one: float
    troublemakers: int
    mischief_pause: int
    crashes: tuple[Crash, ...]
    isolations: tuple[Isolation, ...]
    clock_steps: tuple[ClockStep, ...]

    @property
    def channel(self) -> bool:
        """Whether requests carry no signatures."""
        return self.parameters.request_authentication == CHANNEL

    def summary(self) -> str:
        """One line for people."""
        signatures = "ed25519" if self.real_signatures else "keyed-hash"
        if self.channel:
            signatures += ", requests by channel"
        crashed = sum(len(crash.replicas) for crash in self.crashes)
        network = self.network
        return (
            f"{self.persistence}, {signatures}, loss {network.loss:.1%}, duplication {network.duplication:.1%}, "
            f"stragglers {network.straggling:.1%}, {crashed} crashes, {len(self.isolations)} isolations, "
            f"{self.troublemakers} troublemakers"
        )


def draw_scenario(options: SimulationOptions, leader: int) -> Scenario:
    """The scenario of a seed.

    Args:
        options: what to simulate; `options.seed` decides the rest.
        leader: the id of the replica that leads; without durable logs it is spared from crashes, because nobody takes
            over yet from a leader that has forgotten everything.
    """
    draw = random.Random(f"smartbft scenario {options.seed}")  # noqa: S311 - schedules, not secrets
    persistence = options.persistence
    if persistence == "auto":
        persistence = draw.choices(("sync", "async", "memory"), (8, 1, 1))[0]
    real = options.signatures == "ed25519"
    if options.signatures == "auto":
        real = options.seed % REAL_SIGNATURES_EVERY == 0
    network_faults = options.faults in ("all", "network")
    crash_faults = options.faults in ("all", "crashes")
    return Scenario(
        real_signatures=real,
        persistence=persistence,
        parameters=_parameters(draw, options),
        network=_network(draw, network_faults),
        disk=_disk(draw),
        clock_offsets=_clock_offsets(draw, options.n),
        verify_delay=_log_uniform(draw, 50, 10_000),
        execute_delay=_log_uniform(draw, 20, 10_000),
        think_time=_log_uniform(draw, 10, 2_000),
        tell_one=draw.choice((0.0, 0.0, 0.1)) if network_faults else 0.0,
        troublemakers=draw.choice((0, 0, 1, 2)) if network_faults else 0,
        mischief_pause=_log_uniform(draw, 2_000, 50_000),
        crashes=_crashes(draw, options, persistence, leader) if crash_faults else (),
        isolations=_isolations(draw, options) if network_faults else (),
        clock_steps=_clock_steps(draw, options) if network_faults else (),
    )


def _log_uniform(draw: random.Random, low: int, high: int) -> int:
    return int(math.exp(draw.uniform(math.log(low), math.log(high))))


def _parameters(draw: random.Random, options: SimulationOptions) -> Parameters:
    return Parameters(
        max_batch_requests=draw.choice((1, 3, 8, 64)),
        max_batch_bytes=draw.choice((2_500, 1024 * 1024, 1024 * 1024)),
        window=max(options.in_flight, draw.choice((2, 8, 64))),
        clock_skew=CLOCK_SKEW,
        request_timeout=draw.choice((100_000, 500_000, 2_000_000)),
        resend_interval=draw.choice((50_000, 100_000, 250_000)),
        progress_interval=draw.choice((100_000, 1_000_000)),
        fetch_grace=draw.choice((1_000, 20_000)),
        batch_delay=draw.choice((0, 5_000)),
        request_authentication=_authentication(options),
    )


def _authentication(options: SimulationOptions) -> str:
    if options.authentication != "auto":
        return options.authentication
    return CHANNEL if options.seed % CHANNEL_EVERY == CHANNEL_EVERY - 1 else SIGNATURES


def _network(draw: random.Random, faulty: bool) -> NetworkOptions:
    delay = _log_uniform(draw, 20, 2_000)
    jitter = _log_uniform(draw, 10, 2_000)
    if not faulty:
        return NetworkOptions(delay=delay, jitter=jitter)

    def rate(most: float) -> float:
        return draw.choice((0.0, 0.0, most / 10, most))

    return NetworkOptions(
        delay=delay,
        jitter=jitter,
        loss=rate(0.05),
        duplication=rate(0.1),
        straggling=rate(0.1),
        straggle=_log_uniform(draw, 1_000, 200_000),
    )


def _disk(draw: random.Random) -> DiskOptions:
    return DiskOptions(
        write_delay=_log_uniform(draw, 5, 200),
        sync_delay=_log_uniform(draw, 50, 5_000),
        stall_rate=draw.choice((0.0, 0.0, 0.01)),
        stall=50_000,
        segment_bytes=draw.choice((64 * 1024, 256 * 1024)),
    )


def _clock_offsets(draw: random.Random, n: int) -> tuple[int, ...]:
    # Most clusters agree within milliseconds; some have a clock that is ahead by more than voters accept at once.
    most = draw.choice((0, 5_000, 5_000, CLOCK_SKEW // 4, CLOCK_SKEW * 3 // 4))
    return tuple(draw.randint(-most, most) for _ in range(n))


def _crashes(draw: random.Random, options: SimulationOptions, persistence: str, leader: int) -> tuple[Crash, ...]:
    """Where votes survive anybody may crash, all at once included; elsewhere one replica that counts towards `f`.

    A cluster of one is spared: alone, it decides before anything is on disk, and what nobody was told may be decided
    differently after a crash.
    """
    if options.n == 1:
        return ()
    others = [id for id in range(options.n) if id != leader]
    victim = draw.choice(others) if others else leader
    crashes = []
    for _ in range(draw.choice((0, 0, 1, 2, 4))):
        replicas: tuple[int, ...] = (victim,)
        if persistence != "memory":
            count = draw.choice((1, 1, 1, 2, options.n))
            pool = list(range(options.n)) if draw.random() < 0.4 or not others else others
            replicas = tuple(draw.sample(pool, min(count, len(pool))))
        crashes.append(
            Crash(
                replicas=replicas,
                after_instance=draw.randrange(options.instances),
                delay=draw.randint(0, _log_uniform(draw, 10, 10_000)),
                downtime=tuple(_log_uniform(draw, 100, 500_000) for _ in replicas),
                power=persistence == "sync" and draw.random() < 0.6,
            )
        )
    return tuple(sorted(crashes, key=lambda crash: crash.after_instance))


def _clock_steps(draw: random.Random, options: SimulationOptions) -> tuple[ClockStep, ...]:
    return tuple(
        ClockStep(
            replica=draw.randrange(options.n),
            after_instance=draw.randrange(options.instances),
            offset=draw.randint(-CLOCK_SKEW, CLOCK_SKEW),
        )
        for _ in range(draw.choice((0, 0, 0, 1, 3)))
    )


def _isolations(draw: random.Random, options: SimulationOptions) -> tuple[Isolation, ...]:
    return tuple(
        Isolation(
            replica=draw.randrange(options.n),
            after_instance=draw.randrange(options.instances),
            duration=_log_uniform(draw, 1_000, 300_000),
        )
        for _ in range(draw.choice((0, 0, 0, 1, 2)))
    )
