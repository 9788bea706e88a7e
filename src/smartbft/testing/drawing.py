"""The scenario that a seed makes of the options."""

from __future__ import annotations

import math
import random
from dataclasses import replace

from smartbft.quorum import max_faulty
from smartbft.testing.byzantine import ANY, ATTACKS, KEY_ATTACKS, KEYS
from smartbft.testing.clients import MOST_SESSIONS
from smartbft.testing.disk import FAILURES, DiskOptions
from smartbft.testing.network import NetworkOptions
from smartbft.testing.options import SimulationOptions
from smartbft.testing.scenario import (
    Attacker,
    BitRot,
    ClockStep,
    Crash,
    Deafness,
    DiskFailure,
    Isolation,
    OneWayCut,
    Round,
    Scenario,
    Wipe,
)
from smartbft.types import CHANNEL, SEQUENTIAL, SIGNATURES, TOGETHER, Parameters

# One seed in so many uses real Ed25519 signatures; the others use keyed hashes.
REAL_SIGNATURES_EVERY = 20
# One seed in so many authenticates requests by their channels.
CHANNEL_EVERY = 4
# One seed in about so many has sequential checkpoints.
SEQUENTIAL_EVERY = 4
# How far ahead of its own clock a voter accepts a proposal's time; small, so that a run in which each proposal is held
# until its time has come does not take minutes.
CLOCK_SKEW = 100_000  # microseconds
# Not the usual one, which may change: a seed stays the run that it is.
PROPOSAL_TIMEOUT = 60_000  # microseconds
# Twins: rounds at most (promise A2), and the groups of each.
MOST_ROUNDS = 12
# Attacked replicas live through partitions so often.
SPLIT_RATE = 0.4
# A replica that a late liar follows loses its disk just after it has promised a regency so often.
ONCE_PROMISED_RATE = 0.8
# Who leads at first is Byzantine so often.
FIRST_LEADER_RATE = 0.5


def draw_scenario(options: SimulationOptions) -> Scenario:
    """The scenario of a seed: `options.seed` decides everything that the options leave open."""
    draw = random.Random(f"smartbft scenario {options.seed}")  # noqa: S311 - schedules, not secrets
    persistence = options.persistence
    if persistence == "auto":
        persistence = draw.choices(("sync", "async", "memory"), (8, 1, 1))[0]
        if options.late_liars and persistence == "memory":
            persistence = "sync"
    real = options.signatures == "ed25519"
    if options.signatures == "auto":
        real = options.seed % REAL_SIGNATURES_EVERY == 0
    network_faults = options.faults in ("all", "network") and not options.twins
    crash_faults = options.faults in ("all", "crashes") and not options.twins
    scenario = Scenario(
        real_signatures=real,
        persistence=persistence,
        parameters=_parameters(draw, options, persistence),
        network=_network(draw, network_faults),
        disk=_disk(draw),
        clock_offsets=_clock_offsets(draw, options.n),
        verify_delay=_log_uniform(draw, 50, 10_000),
        execute_delay=_log_uniform(draw, 20, 10_000),
        think_time=_log_uniform(draw, 10, 2_000),
        tell_one=draw.choice((0.0, 0.0, 0.1)) if network_faults else 0.0,
        troublemakers=draw.choice((0, 0, 1, 2)) if network_faults else 0,
        mischief_pause=_log_uniform(draw, 2_000, 50_000),
        crashes=_crashes(draw, options, persistence) if crash_faults else (),
        isolations=_isolations(draw, options) if network_faults else (),
        clock_steps=_clock_steps(draw, options) if network_faults else (),
    )
    # Drawn from a generator of its own, so that honest scenarios do not depend on which attacks there are.
    scenario = _with_adversary(random.Random(f"smartbft adversary {options.seed}"), options, scenario)  # noqa: S311
    scenario = _with_greedy_clients(options, scenario)
    return scenario.without([name for name in options.without.split(",") if name])


def _with_greedy_clients(options: SimulationOptions, scenario: Scenario) -> Scenario:
    """Pools that they can fill, and few places; but batches and timeouts for what they may order, as in a genesis:
    who may order as much as fits into many batches, and does, keeps others waiting. A stream of its own: other draws
    stay as they are.
    """
    if not options.greedy:
        return scenario
    draw = random.Random(f"smartbft greedy {options.seed}")  # noqa: S311 - schedules, not secrets
    return replace(
        scenario,
        greedy=options.greedy,
        pool_requests=draw.choice((64, 256, 1024)),
        pool_bytes=draw.choice((128 * 1024, 1024 * 1024)),
        disk=replace(scenario.disk, segment_bytes=1024 * 1024),
        parameters=replace(
            scenario.parameters,
            max_sessions_per_key=draw.choice((MOST_SESSIONS, 16)),
            max_batch_requests=draw.choice((64, 1024)),
            max_batch_bytes=256 * 1024,
            request_timeout=max(500_000, scenario.parameters.request_timeout),
            max_request_timeout=max(2_000_000, scenario.parameters.max_request_timeout),
        ),
    )


def _with_adversary(draw: random.Random, options: SimulationOptions, scenario: Scenario) -> Scenario:
    """Up to `f` faulty replicas, and faults that only make sense when it is known who they are."""
    f, everybody = max_faulty(options.n), range(options.n)
    budget = f - options.faulty
    faulty: set[int] = set()
    attackers: tuple[Attacker, ...] = ()
    replaced_by_liars: tuple[Wipe, ...] = ()
    if options.attacks or options.mutations:
        attackers = _attackers(draw, options, f)
        if options.late_liars:
            attackers, replaced_by_liars = _begin_late(options, attackers, scenario.parameters)
        faulty |= {attacker.replica for attacker in attackers}
    twins = tuple(sorted(draw.sample(everybody, draw.randint(1, f)))) if options.twins else ()
    faulty |= set(twins)
    crashes, forgetful = scenario.crashes, set[int]()
    if scenario.persistence == "memory":
        forgetful = faulty or set(draw.sample(everybody, f))
        crashes = tuple(
            replace(crash, replicas=(draw.choice(sorted(forgetful)),), downtime=crash.downtime[:1])
            for crash in crashes
            if forgetful
        )
        forgetful = {id for crash in crashes for id in crash.replicas}
        faulty |= forgetful
    lost = {one.replica for one in replaced_by_liars}  # not faulty at the same time as those who follow them
    rot = _rot(draw, options, scenario, sorted(set(everybody) - faulty - lost), budget - len(faulty))
    faulty |= {one.replica for one in rot}
    wipes = replaced_by_liars or _wipes(options, scenario, sorted(set(everybody) - faulty), budget - len(faulty))
    faulty |= {one.replica for one in wipes}
    correct = sorted(set(everybody) - faulty)
    left_out: tuple[int, ...] = ()
    if options.faults != "none" and budget > len(faulty) and draw.random() < 0.3:
        left_out = tuple(sorted(draw.sample(correct, budget - len(faulty))))
    return replace(
        scenario,
        crashes=crashes,
        attackers=attackers,
        twins=twins,
        rounds=_rounds(draw, options.n, len(twins), scenario.parameters) if twins else _splits(options, scenario),
        deafness=_deafness(options, scenario),
        forgetful=frozenset(forgetful),
        rot=rot,
        wipes=wipes,
        left_out=left_out,
        cuts=_cuts(draw, options) if options.faults in ("all", "network") and not twins else (),
        disk_failures=_disk_failures(draw, options, scenario),
    )


def _attackers(draw: random.Random, options: SimulationOptions, f: int) -> tuple[Attacker, ...]:
    """Who attacks, and how: accomplices make the same attacks, or each its own."""
    # Attacks on keys want a correct replica that needs a new one: it counts towards f.
    fewer = int(KEYS in options.attacks and f > 1 and draw.random() < 0.7)
    replicas = draw.sample(range(options.n), f - fewer)
    if draw.random() < FIRST_LEADER_RATE and 1 not in replicas:
        replicas[0] = 1
    names = list(options.attacks) + (["mutate"] if options.mutations else [])
    common = _choose_attacks(draw, names)
    together = draw.random() < 0.5
    return tuple(
        Attacker(replica, name, draw.choice((0.1, 0.5, 1.0)), draw.randrange(100))
        for replica in sorted(replicas)
        for name in (common if together else _choose_attacks(draw, names))
    )


def _begin_late(
    options: SimulationOptions, attackers: tuple[Attacker, ...], parameters: Parameters
) -> tuple[tuple[Attacker, ...], tuple[Wipe, ...]]:
    """Some of the liars, or all, begin when another replica is correct again; and how that one loses its disk.

    Most of those have promised a regency just before: what a key change must not do to promises is what this is about.
    """
    draw = random.Random(f"smartbft late liars {options.seed}")  # noqa: S311 - schedules, not secrets
    liars = sorted({attacker.replica for attacker in attackers})
    late = draw.sample(liars, draw.randint(1, len(liars)))
    lost = draw.sample([id for id in range(options.n) if id not in liars], len(late))
    follows = dict(zip(late, lost, strict=True))
    wipes = tuple(
        Wipe(
            replica,
            draw.randrange(max(1, options.instances // 2)),
            _log_uniform(draw, 1_000, parameters.request_timeout),
            once_promised=draw.random() < ONCE_PROMISED_RATE,
        )
        for replica in lost
    )
    return tuple(replace(one, after=follows.get(one.replica)) for one in attackers), wipes


def _choose_attacks(draw: random.Random, names: list[str]) -> list[str]:
    drawn = draw.sample(sorted(ATTACKS), draw.randint(1, 3)) if ANY in names else []
    if KEYS in names:
        drawn += draw.sample(KEY_ATTACKS, draw.randint(2, 3))
        drawn += draw.sample([name for name in sorted(ATTACKS) if name not in KEY_ATTACKS], draw.randint(0, 2))
    return list(dict.fromkeys([name for name in names if name not in (ANY, KEYS)] + drawn))


def _splits(options: SimulationOptions, scenario: Scenario) -> tuple[Round, ...]:
    """Now and then the others are split while some attack: so a value may be written or accepted by few, in several
    regencies. A stream of its own: other draws stay as they are.
    """
    draw = random.Random(f"smartbft splits {options.seed}")  # noqa: S311 - schedules, not secrets
    attacked = options.attacks or options.mutations
    if not attacked or options.faults not in ("all", "network") or draw.random() >= SPLIT_RATE:
        return ()
    return _rounds(draw, options.n, 0, scenario.parameters)


def _deafness(options: SimulationOptions, scenario: Scenario) -> tuple[Deafness, ...]:
    """As `_splits`, by phases: all have written a value and nobody has accepted it, or a few have."""
    draw = random.Random(f"smartbft deafness {options.seed}")  # noqa: S311 - schedules, not secrets
    attacked = options.attacks or options.mutations
    if not attacked or options.faults not in ("all", "network") or draw.random() >= SPLIT_RATE:
        return ()
    return tuple(
        Deafness(
            replicas=tuple(sorted(draw.sample(range(options.n), draw.randint(1, options.n)))),
            after_instance=draw.randrange(options.instances),
            phase=draw.choice(("PROPOSE", "WRITE", "ACCEPT", "ACCEPT", "ACCEPT", "SYNC")),
            duration=int(draw.choice((0.5, 1.2, 2.5)) * scenario.parameters.request_timeout),
        )
        for _ in range(draw.randint(1, 6))
    )


def _rounds(draw: random.Random, n: int, twins: int, parameters: Parameters) -> tuple[Round, ...]:
    """Partitions of all machines, the second copies included, into two or three groups."""
    rounds = []
    for _ in range(draw.randint(1, MOST_ROUNDS)):
        count = draw.choice((2, 2, 3))
        group = [draw.randrange(count) for _ in range(n + twins)]
        groups = tuple(tuple(one for one in range(n + twins) if group[one] == number) for number in range(count))
        timeouts = draw.choice((0.05, 0.5, 1.2, 2.5))
        rounds.append(Round(groups, int(timeouts * parameters.request_timeout)))
    return tuple(rounds)


def _rot(
    draw: random.Random, options: SimulationOptions, scenario: Scenario, correct: list[int], budget: int
) -> tuple[BitRot, ...]:
    if scenario.persistence != "sync" or options.faults not in ("all", "crashes") or options.twins or budget < 1:
        return ()
    if draw.random() >= 0.15:
        return ()
    replica, after, downtime = draw.choice(correct), draw.randrange(options.instances), _log_uniform(draw, 100, 500_000)
    # A stream of its own: other draws stay as they are.
    zeros = random.Random(f"smartbft zeros {options.seed}").random() < 0.5  # noqa: S311 - schedules, not secrets
    return (BitRot(replica, after, downtime, zeros),)


def _wipes(options: SimulationOptions, scenario: Scenario, correct: list[int], budget: int) -> tuple[Wipe, ...]:
    """One replica at most, which counts towards `f`; it may lose its disk more than once."""
    draw = random.Random(f"smartbft wipes {options.seed}")  # noqa: S311 - schedules, not secrets
    if scenario.persistence == "memory" or options.faults not in ("all", "crashes") or options.twins or budget < 1:
        return ()
    replica = draw.choice(correct)
    times = (1, 1, 2) if KEYS in options.attacks else (0, 0, 0, 1, 2)
    instances = sorted(draw.randrange(options.instances) for _ in range(draw.choice(times)))
    return tuple(Wipe(replica, instance, _log_uniform(draw, 1_000, 1_000_000)) for instance in instances)


def _cuts(draw: random.Random, options: SimulationOptions) -> tuple[OneWayCut, ...]:
    if options.n == 1:
        return ()
    cuts = []
    for _ in range(draw.choice((0, 0, 0, 1, 4))):
        sender, to = draw.sample(range(options.n), 2)
        duration = _log_uniform(draw, 1_000, 1_000_000)
        cuts.append(OneWayCut(sender, to, draw.randrange(options.instances), duration))
    return tuple(cuts)


def _disk_failures(draw: random.Random, options: SimulationOptions, scenario: Scenario) -> tuple[DiskFailure, ...]:
    if scenario.persistence != "sync" or options.faults not in ("all", "crashes") or options.twins or options.n == 1:
        return ()
    return tuple(
        DiskFailure(
            replica=draw.randrange(options.n),
            after_instance=draw.randrange(options.instances),
            operation=draw.choice(FAILURES),
            downtime=_log_uniform(draw, 100, 500_000),
        )
        for _ in range(draw.choice((0, 0, 0, 1, 2)))
    )


def _log_uniform(draw: random.Random, low: int, high: int) -> int:
    return int(math.exp(draw.uniform(math.log(low), math.log(high))))


def _parameters(draw: random.Random, options: SimulationOptions, persistence: str) -> Parameters:
    schedule = _checkpoint_schedule(options, persistence)
    interval = _checkpoint_interval(options)
    timeout = draw.choice((100_000, 500_000, 2_000_000))
    return Parameters(
        max_batch_requests=draw.choice((1, 3, 8, 64)),
        max_batch_bytes=draw.choice((2_500, 1024 * 1024, 1024 * 1024)),
        window=max(options.in_flight, draw.choice((2, 8, 64))),
        clock_skew=CLOCK_SKEW,
        request_timeout=timeout,
        max_request_timeout=timeout * draw.choice((4, 16)),
        proposal_timeout=PROPOSAL_TIMEOUT,
        resend_interval=min(timeout, draw.choice((50_000, 100_000, 250_000))),
        progress_interval=draw.choice((100_000, 1_000_000)),
        fetch_grace=draw.choice((1_000, 20_000)),
        batch_delay=draw.choice((0, 5_000)),
        request_authentication=_authentication(options),
        checkpoint_interval=max(interval, options.n) if schedule == SEQUENTIAL else interval,
        checkpoint_schedule=schedule,
    )


def _checkpoint_interval(options: SimulationOptions) -> int:
    """Often so short that a run of usual length takes several. A stream of its own: other draws stay as they are."""
    draw = random.Random(f"smartbft checkpoints {options.seed}")  # noqa: S311 - schedules, not secrets
    return draw.choice((3, 5, 8, 13, 20, 1024))


def _checkpoint_schedule(options: SimulationOptions, persistence: str) -> str:
    """Sequential checkpoints need a log. A stream of its own: other draws stay as they are."""
    draw = random.Random(f"smartbft checkpoint schedule {options.seed}")  # noqa: S311 - schedules, not secrets
    drawn = SEQUENTIAL if draw.randrange(SEQUENTIAL_EVERY) == 0 else TOGETHER
    chosen = drawn if options.checkpoints == "auto" else options.checkpoints
    return TOGETHER if persistence == "memory" else chosen


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


def _crashes(draw: random.Random, options: SimulationOptions, persistence: str) -> tuple[Crash, ...]:
    """Anybody may crash, all at once included (where votes do not survive, only who then counts as faulty).

    A cluster of one is spared: alone, it decides before anything is on disk, and what nobody was told may be decided
    differently after a crash.
    """
    if options.n == 1:
        return ()
    crashes = []
    for _ in range(draw.choice((0, 0, 1, 2, 4))):
        replicas = tuple(draw.sample(range(options.n), min(draw.choice((1, 1, 1, 2, options.n)), options.n)))
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
