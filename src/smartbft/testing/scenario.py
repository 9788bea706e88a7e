"""What goes wrong in a run: the faults, one by one, and the scenario that holds all of them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from smartbft.errors import LocalProtocolError
from smartbft.limits import MAX_POOL_BYTES, MAX_POOL_REQUESTS
from smartbft.messages import Accept, Message, Propose, Sync, Write
from smartbft.testing.disk import DiskOptions
from smartbft.testing.network import NetworkOptions
from smartbft.types import CHANNEL, Parameters

_COUNTED = (
    "attackers",
    "rounds",
    "crashes",
    "isolations",
    "cuts",
    "deafness",
    "clock_steps",
    "disk_failures",
    "rot",
    "wipes",
    "left_out",
)
_RATES = ("loss", "duplication", "straggling")
_NUMBERS = ("troublemakers", "tell_one", "greedy")


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


@dataclass(frozen=True, slots=True)
class OneWayCut:
    """One planned cut of a link in one direction.

    Attributes:
        sender, to: what the first sends to the second is lost.
        after_instance: the cut follows the first decision of this instance.
        duration: microseconds.
    """

    sender: int
    to: int
    after_instance: int
    duration: int


# What replicas may be deaf to.
PHASES: dict[str, type[Message]] = {"PROPOSE": Propose, "WRITE": Write, "ACCEPT": Accept, "SYNC": Sync}


@dataclass(frozen=True, slots=True)
class Deafness:
    """One planned time in which the messages of one phase are lost on their way to some replicas.

    Attributes:
        replicas: to whom.
        after_instance: it follows the first decision of this instance.
        phase: a name in `PHASES`.
        duration: microseconds.
    """

    replicas: tuple[int, ...]
    after_instance: int
    phase: str
    duration: int


@dataclass(frozen=True, slots=True)
class DiskFailure:
    """One planned failure of a disk: the replica stops, and starts again with what is on the medium.

    Attributes:
        replica: whose disk.
        after_instance: the disk fails after the first decision of this instance.
        operation: what fails: one of `smartbft.testing.disk.FAILURES`.
        downtime: microseconds until the replica starts again.
    """

    replica: int
    after_instance: int
    operation: str
    downtime: int


@dataclass(frozen=True, slots=True)
class BitRot:
    """The power fails at a replica, and then one bit of its log is another, or the newest segment of it reads as zeros:
    it must not start, and counts as faulty.

    Attributes:
        replica: whose disk.
        after_instance: the crash follows the first decision of this instance.
        downtime: microseconds until it tries to start again.
        zeros: whether it is a segment, else a bit.
    """

    replica: int
    after_instance: int
    downtime: int
    zeros: bool = False


@dataclass(frozen=True, slots=True)
class Wipe:
    """One replica loses its disk and comes back with nothing but its permanent key: it counts towards `f` until a new
    consensus key of it is in force.

    Attributes:
        replica: who.
        after_instance: the wipe follows the first decision of this instance.
        downtime: microseconds until it starts again.
        once_promised: the wipe waits until the replica has promised a regency, so that a promise which it forgets is
            under way; it waits two request timeouts at most.
    """

    replica: int
    after_instance: int
    downtime: int
    once_promised: bool = False


@dataclass(frozen=True, slots=True)
class Attacker:
    """An attack that a replica makes all the time, or from when another one is not faulty any more.

    Attributes:
        replica: the Byzantine one.
        attack: a name in `smartbft.testing.byzantine.ATTACKS`.
        rate: how often it does what it could.
        victim: a number that it may pick its victims by.
        after: it begins when this replica, which loses its disk, votes again with a new key: until then it is honest.
            So at each moment no more are faulty than one of the two. None: it lies from the start.
    """

    replica: int
    attack: str
    rate: float
    victim: int
    after: int | None = None


@dataclass(frozen=True, slots=True)
class Round:
    """A time in which only machines of one group reach each other (Twins).

    Attributes:
        groups: numbers of machines: 0 to n - 1 are the replicas, then come the second copies.
        duration: microseconds.
    """

    groups: tuple[tuple[int, ...], ...]
    duration: int


Fault = Crash | Isolation | ClockStep | OneWayCut | Deafness | DiskFailure | BitRot | Wipe


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
        mischief_pause: longest time between two deeds of a troublemaker, or of a greedy client.
        crashes, isolations, clock_steps, cuts, deafness, disk_failures, rot, wipes: what goes wrong beside the network.
        attackers: attacks, each of one Byzantine replica.
        twins: replicas of which two copies run.
        rounds: the partitions that the copies and the others live through.
        left_out: correct replicas that are cut off for good when the others are healed.
        greedy: clients that want all room, places and time for themselves.
        pool_requests, pool_bytes: the room in the pool of each replica.
        forgetful: replicas that restart without their votes; they count towards `f`, and are judged all the same.
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
    cuts: tuple[OneWayCut, ...] = ()
    deafness: tuple[Deafness, ...] = ()
    disk_failures: tuple[DiskFailure, ...] = ()
    rot: tuple[BitRot, ...] = ()
    wipes: tuple[Wipe, ...] = ()
    attackers: tuple[Attacker, ...] = ()
    twins: tuple[int, ...] = ()
    rounds: tuple[Round, ...] = ()
    left_out: tuple[int, ...] = ()
    greedy: int = 0
    pool_requests: int = MAX_POOL_REQUESTS
    pool_bytes: int = MAX_POOL_BYTES
    forgetful: frozenset[int] = frozenset()

    @property
    def channel(self) -> bool:
        """Whether requests carry no signatures."""
        return self.parameters.request_authentication == CHANNEL

    @property
    def byzantine(self) -> frozenset[int]:
        """Who may do and say anything."""
        return frozenset(attacker.replica for attacker in self.attackers) | frozenset(self.twins)

    @property
    def planned(self) -> list[Fault]:
        """The faults that follow decisions, in that order."""
        machines = (self.crashes, self.clock_steps, self.disk_failures, self.rot, self.wipes)
        kinds = (*machines, self.isolations, self.cuts, self.deafness)
        faults: list[Fault] = [fault for kind in kinds for fault in kind]
        return sorted(faults, key=lambda fault: fault.after_instance)

    def faults(self) -> list[str]:
        """Names of everything that goes wrong, each of which `without` can leave out."""
        names = [f"{kind}:{number}" for kind in _COUNTED for number in range(len(getattr(self, kind)))]
        names += [name for name in _RATES if getattr(self.network, name)]
        return names + [name for name in _NUMBERS if getattr(self, name)] + (["stalls"] if self.disk.stall_rate else [])

    def without(self, names: Collection[str]) -> Scenario:
        """The same scenario with some faults left out; the others stay what they are.

        Raises:
            LocalProtocolError: a name is none of `faults`.
        """
        unknown = [name for name in names if name not in self.faults()]
        if unknown:
            raise LocalProtocolError(f"without: the scenario has no {unknown[0]}, only {', '.join(self.faults())}")
        changes: dict[str, Any] = {
            kind: tuple(one for number, one in enumerate(getattr(self, kind)) if f"{kind}:{number}" not in names)
            for kind in _COUNTED
        }
        off: dict[str, Any] = {name: 0.0 for name in _RATES if name in names}
        changes["network"] = replace(self.network, **off)
        changes |= {name: 0 for name in _NUMBERS if name in names}
        if "stalls" in names:
            changes["disk"] = replace(self.disk, stall_rate=0.0)
        return replace(self, **changes)

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
            f"{len(self.wipes)} wipes, {self.troublemakers} troublemakers{self._greedy()}{self._attacks()}"
        )

    def _greedy(self) -> str:
        return f", {self.greedy} greedy clients" if self.greedy else ""

    def _attacks(self) -> str:
        attacks = "".join(
            f", replica {one.replica}: {one.attack} {one.rate:.0%}"
            + (f" after replica {one.after}" if one.after is not None else "")
            for one in self.attackers
        )
        attacks += "".join(f", twins of replica {id}" for id in self.twins)
        return attacks + (f", {len(self.rounds)} rounds of partitions" if self.rounds else "")
