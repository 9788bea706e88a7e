"""Carries out the faults of a scenario, each when its time has come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartbft.errors import CorruptLog
from smartbft.testing.disk import read_log
from smartbft.testing.scenario import (
    PHASES,
    BitRot,
    ClockStep,
    Crash,
    Deafness,
    DiskFailure,
    Fault,
    Isolation,
    OneWayCut,
    Round,
    Wipe,
)
from smartbft.testing.trace import Kind

if TYPE_CHECKING:
    from smartbft.testing.host import Host
    from smartbft.testing.simulation import Simulation


class Faults:
    """The plan of faults of one run, and what of it is under way.

    Attributes:
        planned: faults to come, in the order of the decisions that they follow.
        crashes: crashes of single replicas so far.
    """

    def __init__(self, world: Simulation) -> None:
        self.planned: list[Fault] = world.scenario.planned
        self.crashes = 0
        self._world = world
        self._scheduler = world.scheduler
        self._under_way = 0
        self._rounds: list[Round] = list(world.scenario.rounds)
        self._downtimes: dict[int, int] = {}  # replica -> how long it stays down when its disk has failed
        self._until_promised: dict[int, Wipe] = {}  # wipes that wait for a promise of their replica
        if self._rounds:
            self._under_way += 1
            self._scheduler.after(0, self._next_round)

    @property
    def over(self) -> bool:
        """Whether all that was planned has happened, and everybody is back."""
        return not self.planned and not self._under_way

    def begin_after(self, instance: int) -> None:
        """Begin the faults that follow decisions before this one."""
        while self.planned and self.planned[0].after_instance < instance:
            self._begin(self.planned.pop(0))

    def heal(self) -> None:
        """The second phase: all links are mended, disks work; who is left out is cut off for good."""
        network, left_out = self._world.network, self._world.scenario.left_out
        network.heal()
        for id in left_out:
            network.partition((id,), tuple(peer for peer in self._world.replica_ids if peer != id))
        for host in self._world.hosts:
            host.disk.failing = ""

    def _begin(self, fault: Fault) -> None:
        self._under_way += 1
        if isinstance(fault, Crash):
            self._scheduler.after(fault.delay, self._crash, fault)
        elif isinstance(fault, Isolation):
            self._scheduler.after(0, self._isolate, fault)
        elif isinstance(fault, OneWayCut):
            self._scheduler.after(0, self._cut, fault)
        elif isinstance(fault, Deafness):
            self._scheduler.after(0, self._deafen, fault)
        elif isinstance(fault, DiskFailure):
            self._scheduler.after(0, self._fail_disk, fault)
        elif isinstance(fault, BitRot):
            self._scheduler.after(0, self._rot, fault)
        elif isinstance(fault, Wipe):
            self._scheduler.after(0, self._wipe_in_time, fault)
        else:
            self._scheduler.after(0, self._step_clock, fault)

    def _is_over(self, _: None = None) -> None:
        self._under_way -= 1
        self._world.maybe_heal()

    # Machines

    def crash(self, crash: Crash) -> None:
        """Crash replicas now."""
        self._under_way += 1
        self._crash(crash)

    def wipe(self, wipe: Wipe) -> None:
        """Take a replica's disk away now."""
        self._under_way += 1
        self._wipe(wipe)

    def isolate(self, isolation: Isolation) -> None:
        """Cut a replica off now."""
        self._under_way += 1
        self._isolate(isolation)

    def _crash(self, crash: Crash) -> None:
        for id, downtime in zip(crash.replicas, crash.downtime, strict=True):
            host = self._world.hosts[id]
            if host.replica is not None:  # else it is down already, by another fault that will start it again
                self._stop(host, crash.power, downtime)
        self._is_over()

    def _stop(self, host: Host, power: bool, downtime: int) -> None:
        self.crashes += 1
        self._under_way += 1
        host.crash(power)
        self._scheduler.after(downtime, self._restart, host)

    def _restart(self, host: Host) -> None:
        host.start()
        for peer in self._world.replica_ids:
            self._world.connect(host.id, peer)
        self._is_over()

    def _step_clock(self, step: ClockStep) -> None:
        self._world.hosts[step.replica].set_clock(step.offset)
        self._world.trace.note(self._scheduler.now, Kind.CLOCK, step.replica, step.offset & 0xFFFFFFFF)
        self._is_over()

    # Disks

    def _fail_disk(self, fault: DiskFailure) -> None:
        self._world.hosts[fault.replica].disk.failing = fault.operation
        self._downtimes[fault.replica] = fault.downtime
        self._is_over()

    def disk_failed(self, host: Host) -> None:
        """What was not synced is gone with the failed operation, as on Linux; the replica comes back after a while."""
        self._stop(host, True, self._downtimes[host.id])

    def _rot(self, fault: BitRot) -> None:
        host = self._world.hosts[fault.replica]
        if host.replica is not None:
            self._stop(host, True, fault.downtime)
            if fault.zeros:
                host.disk.zero()
                host.refuses = True
            else:
                self._flip_a_bit(host)
            host.rotten = True
        self._is_over()

    def _flip_a_bit(self, host: Host) -> None:
        """Damage a place where the log can tell it from a torn tail.

        Where the last group holds a sector of zeros no log can (docs/log-format.md), and that replica would be one that
        forgot its last votes, which other scenarios play.
        """
        count = len(self._records(host))
        while True:
            flipped = host.disk.rot(self._scheduler.random)
            try:
                if len(self._records(host)) >= count:
                    return
            except CorruptLog:
                return
            host.disk.flip(*flipped)

    def _records(self, host: Host) -> list[tuple[int, int, bytes]]:
        return read_log(host.disk, self._world.chain_id, host.id)

    def _wipe_in_time(self, wipe: Wipe) -> None:
        if not wipe.once_promised:
            self._wipe(wipe)
            return
        self._until_promised[wipe.replica] = wipe
        patience = 2 * self._world.scenario.parameters.request_timeout
        self._scheduler.after(patience, self.promised, wipe.replica)

    def promised(self, replica: int) -> None:
        """A replica has promised a regency, or it has had the time to: a wipe may have waited for that."""
        wipe = self._until_promised.pop(replica, None)
        if wipe is not None:
            self._scheduler.after(0, self._wipe, wipe)

    def _wipe(self, wipe: Wipe) -> None:
        host = self._world.hosts[wipe.replica]
        if host.replica is not None:  # else it is down already, by another fault that will start it again
            self._stop(host, True, wipe.downtime)
        host.wipe()
        self._world.checkers.wiped(wipe.replica)
        self._is_over()

    # The network

    def _isolate(self, isolation: Isolation) -> None:
        others = tuple(id for id in self._world.replica_ids if id != isolation.replica)
        self._world.network.partition((isolation.replica,), others)
        self._world.trace.note(self._scheduler.now, Kind.CUT, isolation.replica, 1)
        self._scheduler.after(isolation.duration, self._rejoin, isolation.replica)

    def _rejoin(self, id: int) -> None:
        self._world.trace.note(self._scheduler.now, Kind.CUT, id, 0)
        for peer in self._world.replica_ids:
            self._mend(id, peer)
            self._mend(peer, id)
        self._is_over()

    def _cut(self, cut: OneWayCut) -> None:
        self._world.network.cut(cut.sender, cut.to)
        self._world.trace.note(self._scheduler.now, Kind.CUT, cut.sender, 2 + cut.to)
        self._scheduler.after(cut.duration, self._end_cut, cut)

    def _end_cut(self, cut: OneWayCut) -> None:
        self._mend(cut.sender, cut.to)
        self._is_over()

    def _deafen(self, fault: Deafness) -> None:
        kind = PHASES[fault.phase]
        for id in fault.replicas:
            self._world.hosts[id].deaf_to.append(kind)
            self._world.trace.note(self._scheduler.now, Kind.CUT, id, 1 << 16)
        self._scheduler.after(fault.duration, self._end_deafness, fault)

    def _end_deafness(self, fault: Deafness) -> None:
        for id in fault.replicas:
            self._world.hosts[id].deaf_to.remove(PHASES[fault.phase])
        self._is_over()

    def _mend(self, sender: int, to: int) -> None:
        self._world.network.mend(sender, to)
        self._world.connect(sender, to)

    def _next_round(self, _: None = None) -> None:
        """Twins: the next partition of the machines; after the last one everybody reaches everybody."""
        network, machines = self._world.network, len(self._world.machines)
        for one in range(machines):
            for other in range(machines):
                network.mend(one, other)
        if not self._rounds:
            self._is_over()
            return
        now = self._rounds.pop(0)
        network.partition(*now.groups)
        self._world.trace.note(self._scheduler.now, Kind.CUT, 0, len(self._rounds))
        self._scheduler.after(now.duration, self._next_round)
