"""Sequential checkpoints: a replica that lost its disk rehearses a snapshot that one member alone vouches for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from kit.rehearsals import random_rehearsal

from smartbft.core.effects import Broadcast, FinishTransfer, KeepSnapshot, Penalise, Persist, Reply, ReportFault, Send
from smartbft.core.member_keys import MemberKeys
from smartbft.core.rehearsal import Rehearsal
from smartbft.core.sequential_transfer import SequentialTransfer
from smartbft.core.state_transfer import StateTransfer
from smartbft.errors import SmartBFTError
from smartbft.limits import REHEARSAL_STEP_SECONDS
from smartbft.messages import Accept, Checkpoint, FetchChunk, Message, Propose, StopData, Write
from smartbft.testing import Simulation, SimulationOptions
from smartbft.testing.application import AppendLog, Hangs
from smartbft.testing.byzantine import transfer
from smartbft.testing.checkers import PropertyViolation
from smartbft.testing.drawing import _checkpoint_interval, draw_scenario
from smartbft.testing.replica import SimulatedReplica
from smartbft.testing.scenario import Attacker
from smartbft.types import SEQUENTIAL

VICTIM = 3
LIAR = 2
INTERVAL = 8


def options(n: int = 4, seed: int = 0, **changes: Any) -> SimulationOptions:
    """A quiet run with sequential checkpoints, eight instances apart."""
    found = (
        SimulationOptions(seed=number, n=n, faults="none", persistence="sync", checkpoints=SEQUENTIAL, **changes)
        for number in range(seed, seed + 1000)
    )
    return next(one for one in found if _checkpoint_interval(one) == INTERVAL)


def replica(world: Simulation, id: int) -> SimulatedReplica:
    running = world.hosts[id].replica
    assert running is not None
    return running


def until(world: Simulation, holds: Callable[[], bool]) -> None:
    while not holds():
        world.advance(1)


def back(world: Simulation, downtime: int = 1_000) -> SimulatedReplica:
    """The victim, which has just come back with an empty disk."""
    world.wipe(VICTIM, downtime)
    until(world, lambda: world.hosts[VICTIM].replica is not None)
    return replica(world, VICTIM)


def penalties_at(victim: SimulatedReplica) -> list[Penalise]:
    """What it holds against others from now on."""
    penalties: list[Penalise] = []
    victim._handlers[Penalise] = penalties.append
    return penalties


def rehearsing(victim: SimulatedReplica) -> bool:
    state_transfer = victim.core.transfer
    assert isinstance(state_transfer, SequentialTransfer)
    return state_transfer._rehearsal is not None


# --- honest members ---


def test_each_replica_takes_its_checkpoints_at_instances_of_its_own() -> None:
    world = Simulation(options())
    world.run()
    for id in world.replica_ids:
        taken = [mark.instance for mark in replica(world, id).core.checkpoints.taken]
        assert len(taken) == 2
        assert {instance % INTERVAL for instance in taken} == {id * INTERVAL // 4}


def test_logs_forget_with_sequential_checkpoints() -> None:
    world = Simulation(options())
    world.run()
    for id in world.replica_ids:
        checkpoints = replica(world, id).core.checkpoints
        assert checkpoints.first == checkpoints.taken[0].instance + 1 > INTERVAL


@pytest.mark.parametrize("n", [4, 7])
def test_a_wiped_replica_comes_back_by_rehearsal(n: int) -> None:
    world = Simulation(options(n))
    until(world, lambda: world.decided >= 3 * INTERVAL)
    back(world)
    world.run()
    assert (world.rehearsals, world.transfers) == (1, 1)
    victim = replica(world, VICTIM)
    assert victim.executed == world.decided
    assert not victim.core.guard.suspended, "with a new consensus key it votes again"


@pytest.mark.parametrize("n", [4, 7])
def test_a_wiped_replica_comes_back_to_an_idle_cluster(n: int) -> None:
    """Nobody takes a checkpoint any more: the last two of each are enough."""
    world = Simulation(options(n, instances=4 * INTERVAL))
    until(world, lambda: not world.wants_requests() and not world.outstanding)
    victim = back(world)
    until(world, lambda: victim.core.transfer.installed > 0)
    assert world.rehearsals == 1
    world.run()


def test_a_crash_in_a_rehearsal_finds_the_disk_as_it_was() -> None:
    world = Simulation(options())
    until(world, lambda: world.decided >= 3 * INTERVAL)
    victim = back(world)
    until(world, lambda: world.rehearsals == 1 and rehearsing(victim))
    kept = world.hosts[VICTIM].disk.snapshots.names()
    assert kept == ["transfer.partial"], "no start may take it for a snapshot"
    world.crash(VICTIM, downtime=1_000, power=False)
    until(world, lambda: world.hosts[VICTIM].replica is not None)
    assert replica(world, VICTIM).core.executed == 0
    said = said_by(replica(world, VICTIM))
    world.run()
    assert world.rehearsals == 2
    assert world.transfers == 1
    assert not [message for message in said if isinstance(message, FetchChunk)], "what had arrived was there"
    assert "transfer.partial" not in world.hosts[VICTIM].disk.snapshots.names()


def test_a_crash_after_a_rehearsal_starts_with_what_came_out_of_it() -> None:
    """The rehearsed state is on disk, and the replica dies before it has installed it."""
    world = Simulation(options())
    until(world, lambda: world.decided >= 3 * INTERVAL)
    victim = back(world)

    def keep_and_die(effect: KeepSnapshot) -> None:
        victim._snapshots._store.keep_rehearsed(effect.snapshot, effect.manifest.proof)
        world.crash(VICTIM, downtime=1_000)

    victim._handlers[KeepSnapshot] = keep_and_die
    until(world, lambda: world.hosts[VICTIM].replica not in (None, victim))
    again = replica(world, VICTIM)
    assert again.core.executed == again.core.checkpoints.newest > INTERVAL
    world.run()
    assert (world.rehearsals, world.transfers) == (1, 0)


def said_by(victim: SimulatedReplica) -> list[Message]:
    """What it says to others from now on."""
    said: list[Message] = []
    for kind in (Send, Broadcast):
        go_on = victim._handlers[kind]
        victim._handlers[kind] = lambda effect, go_on=go_on: (said.append(effect.message), go_on(effect))
    return said


def test_nothing_of_a_rehearsal_is_said_or_persisted() -> None:
    world = Simulation(options())
    until(world, lambda: world.decided >= 3 * INTERVAL)
    victim = back(world)
    until(world, lambda: rehearsing(victim))
    said = said_by(victim)
    done: list[object] = []
    for kind in (Persist, Reply):
        victim._handlers[kind] = done.append
    before = victim.core.decided, victim.core.executed, victim.core.agreed_time, victim.core.keys.known
    while rehearsing(victim):
        assert (
            victim.core.decided,
            victim.core.executed,
            victim.core.agreed_time,
            victim.core.keys.known,
        ) == before
        assert victim.core.status()["waiting_for"].startswith("the rehearsal of replica")
        world.advance(1)
    assert done == []
    assert not [message for message in said if isinstance(message, (Propose, Write, Accept, StopData, Checkpoint))]


# --- liars ---


def with_liar(**changes: Any) -> Simulation:
    """A run in which one replica is Byzantine, and does nothing of the kind by itself."""
    chosen = options(instances=6 * INTERVAL, **changes)
    scenario = replace(draw_scenario(chosen), attackers=(Attacker(LIAR, "lie-snapshots", 0.0, 0),))
    return Simulation(chosen, scenario=scenario)


def corrupt(world: Simulation) -> None:
    """From now on the liar has another state than the others, and stands by it in all it says and serves."""
    until(world, lambda: replica(world, LIAR).idle())
    application: Any = replica(world, LIAR).application
    application.length += 10**6


def prefer(victim: SimulatedReplica, seeder: int) -> None:
    """Let the victim try this member's snapshots first."""
    state_transfer: Any = victim.core.transfer
    state_transfer._tries.update({id: 1 for id in range(4) if id != seeder})


def lied_to(deaf: bool = False) -> tuple[Simulation, SimulatedReplica, list[Penalise]]:
    """The victim comes back when the liar has the newest snapshot, and asks the liar first.

    Args:
        deaf: for some seconds it does not hear what replica 0 says about its snapshots.
    """
    world = with_liar()
    until(world, lambda: world.decided >= INTERVAL)
    corrupt(world)
    ids = [0, 1, LIAR]

    def newest(id: int) -> int:
        return replica(world, id).core.checkpoints.newest

    until(world, lambda: newest(LIAR) >= 4 * INTERVAL and newest(LIAR) == max(newest(id) for id in ids))
    victim = back(world)
    prefer(victim, LIAR)
    checkpoints: Any = victim.core.checkpoints
    claims, end = checkpoints.claims, world.scheduler.now + 5_000_000
    if deaf:
        checkpoints.claims = lambda: [
            (member, said) for member, said in claims() if member != 0 or world.scheduler.now > end
        ]
    return world, victim, penalties_at(victim)


def test_a_liar_that_stands_by_its_state_is_named_and_passed_over() -> None:
    world, victim, penalties = lied_to()
    world.run()
    assert [penalty.peer for penalty in penalties] == [LIAR]
    assert "does not become the state of replicas 0 and 1" in penalties[0].reason
    assert victim.core.transfer.installed
    assert world.rehearsals == 2


def test_the_seeder_does_not_vouch_for_itself() -> None:
    """Beside the liar's own later word there is only one other's, which differs: nothing can be said about either."""
    world, victim, penalties = lied_to(deaf=True)
    world.run()
    assert victim.core.transfer.installed
    assert {penalty.peer for penalty in penalties} <= {LIAR}


def test_counting_the_seeder_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug: a later CHECKPOINT of the seeder itself counts as one of the `f` others."""

    def everybody(rehearsal: Rehearsal) -> Any:
        reach = rehearsal._replica.catch_up.reached()
        return [(member, said) for member, said in rehearsal._replica.checkpoints.claims() if said.instance <= reach]

    monkeypatch.setattr(Rehearsal, "_claims", everybody)
    world, _, _ = lied_to(deaf=True)
    with pytest.raises(SmartBFTError):
        world.run()


def test_installing_without_a_rehearsal_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug: a snapshot is installed as it comes, on the word of one."""
    monkeypatch.setattr(SequentialTransfer, "_on_loaded", StateTransfer._on_loaded)
    monkeypatch.setattr(SequentialTransfer, "_finish", lambda self: self._replica.emit(FinishTransfer()))
    world, _, _ = lied_to()
    with pytest.raises(SmartBFTError):
        world.run()


FORGERIES = (transfer.forge_state, transfer.forge_sessions, transfer.forge_time, transfer.forge_keys)


@pytest.mark.parametrize("forge", FORGERIES, ids=lambda forge: forge.__name__)
def test_whatever_is_forged_in_a_snapshot_costs_time_only(
    monkeypatch: pytest.MonkeyPatch, forge: Callable[..., Any]
) -> None:
    """Right manifest, right chunks, wrong content."""
    monkeypatch.setattr(transfer.LieAboutSnapshots, "snapshot", lambda attack, snapshot: forge(attack.powers, snapshot))
    world = with_liar()
    until(world, lambda: world.decided >= 3 * INTERVAL)
    victim = back(world)
    prefer(victim, LIAR)
    penalties = penalties_at(victim)
    world.run()
    assert {penalty.peer for penalty in penalties} <= {LIAR}
    assert victim.core.transfer.installed


def test_wrong_digests_of_others_do_not_stop_a_rehearsal(monkeypatch: pytest.MonkeyPatch) -> None:
    """The liar says something else about the right instances, and about instances to come."""
    monkeypatch.setattr(
        transfer.LieAboutSnapshots,
        "outgoing",
        lambda attack, to, message: (
            (attack._other_checkpoint(message),) if isinstance(message, Checkpoint) else (message,)
        ),
    )
    world = with_liar()
    until(world, lambda: world.decided >= 3 * INTERVAL)
    victim = back(world)
    world.run()
    assert victim.core.transfer.installed


def test_liars_and_crashes_stop_no_rehearsal() -> None:
    """`f` replicas sign, serve and deny what is not so, and whoever comes back crashes; `ci/campaign.py` goes on."""
    worlds = [random_rehearsal(seed) for seed in range(12)]
    assert sum(world.rehearsals for world in worlds) >= 10
    assert {world.options.n for world in worlds} == {4, 7}
    assert any(world.byzantine for world in worlds)


# --- keys ---


def wiped_again_when_its_key_is_new(seed: int) -> Simulation:
    """The victim loses its disk again as soon as its new key is ordered, and rehearses the last snapshot before that:
    what it replays changes the keys.
    """
    world = Simulation(options(seed=seed, instances=8 * INTERVAL))
    until(world, lambda: world.decided >= 3 * INTERVAL)
    back(world)
    keys = replica(world, 0).core.keys
    until(world, lambda: keys.changed(VICTIM))
    entry = keys.entry_at(VICTIM, keys.known)
    assert entry is not None
    until(world, lambda: max(replica(world, id).core.checkpoints.newest for id in (0, 1, 2)) >= entry.first)
    world.options = replace(world.options, instances=world.decided)  # the clients stop: nothing newer comes
    state_transfer: Any = back(world).core.transfer
    candidates = state_transfer._candidates
    state_transfer._candidates = lambda: sorted(
        (one for one in candidates() if one[1].instance < entry.first - 1), key=lambda one: -one[1].instance
    )[:1]
    return world


@pytest.mark.parametrize("seed", list(range(0, 40, 8)))
def test_keys_that_change_in_a_rehearsal_are_taken_up(seed: int) -> None:
    world = wiped_again_when_its_key_is_new(seed)
    changed: list[int] = []
    replay = MemberKeys.decided

    def note(keys: MemberKeys, instance: int, statements: Any) -> tuple[int, ...]:
        found = replay(keys, instance, statements)
        rehearsal: Any = getattr(replica(world, VICTIM).core.transfer, "_rehearsal", None)
        if found and rehearsal is not None and keys is rehearsal._keys:
            changed.append(instance)
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MemberKeys, "decided", note)
        until(world, lambda: replica(world, VICTIM).core.transfer.installed > 0)
    assert changed, "else this shows nothing"
    world.run()
    assert len(replica(world, VICTIM).core.keys._history[VICTIM]) >= 3


def test_a_rehearsal_that_forgets_new_keys_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Planted bug: the keys of a rehearsal stay those of the snapshot."""
    world = wiped_again_when_its_key_is_new(0)

    def counted_only(keys: MemberKeys, instance: int, statements: Any) -> tuple[int, ...]:
        rehearsal: Any = getattr(replica(world, VICTIM).core.transfer, "_rehearsal", None)
        mine = rehearsal is not None and keys is rehearsal._keys
        return replay(keys, instance, () if mine else statements)

    replay = MemberKeys.decided
    monkeypatch.setattr(MemberKeys, "decided", counted_only)
    with pytest.raises(SmartBFTError):
        world.run()


# --- an application that makes nothing of it ---


class Touchy(AppendLog):
    """Does what a test says with the states that it is to restore."""

    restoring: Callable[[Touchy, bytes], None] = AppendLog.restore

    def restore(self, snapshot: bytes) -> None:
        type(self).restoring(self, snapshot)


def touchy(monkeypatch: pytest.MonkeyPatch, restoring: Callable[[Touchy, bytes], None]) -> Simulation:
    """A run whose replicas restore like this from when the victim comes back."""
    world = Simulation(options(instances=6 * INTERVAL), application=Touchy)
    until(world, lambda: world.decided >= 3 * INTERVAL)
    monkeypatch.setattr(Touchy, "restoring", restoring)
    return world


def failing(times: int, error: BaseException) -> Callable[[Touchy, bytes], None]:
    """Restores that fail so many times."""
    left = [error] * times

    def restore(application: Touchy, snapshot: bytes) -> None:
        if left:
            raise left.pop()
        AppendLog.restore(application, snapshot)

    return restore


@pytest.mark.parametrize("error", [Hangs(), OSError("no space left on device"), KeyError("a bug")], ids=repr)
def test_what_the_application_makes_of_a_state_is_held_against_nobody(
    monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    """Also where it never comes back: the next member's snapshot is tried, and the replica gets there."""
    world = touchy(monkeypatch, failing(1, error))
    victim = back(world)
    world.run()  # a penalty would be a false accusation
    assert victim.core.transfer.installed
    assert world.rehearsals == 2


def test_the_application_may_take_long_for_a_large_state(monkeypatch: pytest.MonkeyPatch) -> None:
    """What hangs on everything for the time that is allowed at first is given twice as much the next time."""
    world = touchy(monkeypatch, failing(1, Hangs()))
    victim = back(world)
    transfer: Any = victim.core.transfer
    until(world, lambda: rehearsing(victim))
    first = transfer._allowed(REHEARSAL_STEP_SECONDS)
    seeder = transfer._target.signers[0]
    until(world, lambda: transfer._tries.get(seeder, 0) == 1)
    transfer._target = replace(transfer._target, signers=(seeder,))
    assert transfer._allowed(REHEARSAL_STEP_SECONDS) == 2 * first


def test_planted_bug_whoever_made_the_application_fail_is_a_liar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SequentialTransfer, "_give_up", SequentialTransfer._refute)
    with pytest.raises(PropertyViolation, match="no false accusation"):
        test_what_the_application_makes_of_a_state_is_held_against_nobody(monkeypatch, OSError())


def test_planted_bug_nobody_looks_whether_the_application_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SequentialTransfer, "_hangs", lambda *_: False)
    with pytest.raises(PropertyViolation, match="liveness"):
        test_what_the_application_makes_of_a_state_is_held_against_nobody(monkeypatch, Hangs())


@pytest.mark.parametrize("error", [ValueError("no state of mine"), OSError("no space left on device")], ids=repr)
def test_where_more_than_f_fail_the_fault_is_here(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """One of them is correct, so nobody is a liar any more; it is said loudly, and all are tried again."""
    world = touchy(monkeypatch, failing(4, error))
    victim = back(world)
    faults: list[ReportFault] = []
    victim._handlers[ReportFault] = faults.append
    penalties = penalties_at(victim)
    until(world, lambda: bool(faults))
    assert "came to nothing here, and no more than f replicas lie" in faults[0].reason
    assert "run 'smartbft check-application'" in faults[0].reason
    assert "came to nothing here" in victim.core.status()["waiting_for"]
    until(world, lambda: victim.core.transfer.installed > 0)
    assert len(faults) == 1
    assert len({penalty.peer for penalty in penalties}) <= 2
    assert "came to nothing" not in victim.core.status()["waiting_for"]


class Personal(AppendLog):
    """Answers like the others; its snapshot says whose it is."""

    made = 0

    def __init__(self) -> None:
        super().__init__()
        Personal.made += 1
        self.name = bytes([Personal.made])

    def snapshot(self) -> bytes:
        return super().snapshot() + self.name

    def restore(self, snapshot: bytes) -> None:
        super().restore(snapshot[:-1])


def test_states_that_nobody_confirms_are_a_divergence(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever rehearses finds that no snapshot becomes another replica's state."""
    monkeypatch.setattr(SimulatedReplica, "_accuse", lambda *_: None)
    monkeypatch.setattr(SimulatedReplica, "_report_fault", lambda *_: None)
    world = Simulation(options(instances=6 * INTERVAL), application=Personal)
    until(world, lambda: world.decided >= 3 * INTERVAL)
    victim = back(world)
    until(world, lambda: victim.core.status()["divergence"] is not None)
    assert victim.core.status()["divergence"]["certain"]
    assert "run 'smartbft check-application'" in victim.core.status()["waiting_for"]


def test_planted_bug_nobody_counts_what_is_refuted(monkeypatch: pytest.MonkeyPatch) -> None:
    """All are liars, and the replica waits for another snapshot without a word."""
    monkeypatch.setattr(SequentialTransfer, "_note_spoiled", lambda *_: None)
    monkeypatch.setattr(SimulatedReplica, "_accuse", lambda *_: None)
    world = touchy(monkeypatch, failing(4, ValueError()))
    back(world)
    with pytest.raises(PropertyViolation, match="liveness"):
        world.run()
