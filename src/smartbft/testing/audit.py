"""What is compared when a run is over: states, sessions and replies on all replicas, and the story each log tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartbft.core.recovery import RecoveredState, recover
from smartbft.errors import InvariantViolation
from smartbft.smr.application import BatchStateMachine, ExecutionContext, execute_decided
from smartbft.storage import SnapshotStore
from smartbft.testing.checkers import PropertyViolation
from smartbft.testing.disk import read_log

if TYPE_CHECKING:
    from smartbft._fastpath.pool import RequestPool
    from smartbft.testing.clients import SimulatedClient
    from smartbft.testing.host import Host
    from smartbft.testing.replica import SimulatedReplica
    from smartbft.testing.simulation import Simulation


def audit(world: Simulation) -> None:
    """5, 12 and 14: equal replicas, and logs and snapshots that tell the whole agreed history.

    Raises:
        PropertyViolation: something differs, or is missing.
    """
    states = {application.snapshot() for application in applications(world)}
    if len(states) != 1:
        raise PropertyViolation("equal state", "the applications differ after the same instances")
    if states != {_replay_all(world)}:
        raise PropertyViolation("equal state", "the replicas' state is not what all decisions make of an empty one")
    if len({_running(host).pool.export_sessions(world.decided) for host in world.core_hosts}) != 1:
        raise PropertyViolation("equal state", "the session tables differ after the same instances")
    for client in world.honest_clients:
        _audit_session(world, client)
    if world.scenario.persistence != "memory":
        for host in world.core_hosts:
            _audit_log(world, host)


def applications(world: Simulation) -> list[BatchStateMachine]:
    """The applications of the healed core, which must be up."""
    return [_running(host).application for host in world.core_hosts]


def _running(host: Host) -> SimulatedReplica:
    if host.replica is None:
        raise InvariantViolation(f"a finished run has replica {host.id} down")
    return host.replica


def _audit_session(world: Simulation, client: SimulatedClient) -> None:
    """Sessions and cached replies are replicated state: equal wherever the same instances were executed."""
    window = world.scenario.parameters.window
    found = {_session_state(_running(host).pool, client, window) for host in world.core_hosts}
    if len(found) != 1:
        raise PropertyViolation("equal state", f"the session of client {client.index} differs between replicas")


def _session_state(pool: RequestPool, client: SimulatedClient, window: int) -> tuple[object, ...]:
    key, session = client.signer.public_key, client.session
    cursors = pool.session(key, session)
    if cursors is None:
        return ()
    _, ordered, executed = cursors
    numbers = range(max(1, executed - window + 1), executed + 1)
    replies = (pool.cached_reply(key, session, number) for number in numbers)
    without_replica = tuple(None if reply is None else reply[2:] for reply in replies)
    return ordered, executed, without_replica


def _replay_all(world: Simulation) -> bytes:
    """The state that all decided batches make of a fresh application."""
    application = world.make_application()
    for instance in range(1, world.decided + 1):
        _execute(world, application, instance)
    return application.snapshot()


def _execute(world: Simulation, application: BatchStateMachine, instance: int) -> None:
    batch = world.checkers.order.batch(instance)
    if batch is None:
        raise PropertyViolation(
            "total order", f"no replica has shown the batch of instance {instance}", instance=instance
        )
    timestamp, seed, data = batch
    execute_decided(application, data, ExecutionContext(instance, timestamp, seed))


def _audit_snapshot(world: Simulation, host: Host, state: RecoveredState) -> None:
    """14: snapshot and tail give the same state as all decisions."""
    if state.snapshots.newest is None:
        return
    application = world.make_application()
    application.restore(state.snapshots.newest.state)
    for decided in state.decisions:
        _execute(world, application, decided.instance)
    if application.snapshot() != _running(host).application.snapshot():
        raise PropertyViolation(
            "equal state",
            f"replica {host.id}: the snapshot after instance {state.base} and its tail give another state",
            replicas=(host.id,),
        )


def _audit_log(world: Simulation, host: Host) -> None:
    snapshots = SnapshotStore(host.disk.snapshots, world.chain_id).open()
    state = recover(read_log(host.disk, world.chain_id, host.id), world.domains, snapshots)
    if state.base + len(state.decisions) != world.decided:
        raise PropertyViolation(
            "durability",
            f"the log of replica {host.id} goes to instance {state.base + len(state.decisions)} of {world.decided}",
            replicas=(host.id,),
        )
    _audit_snapshot(world, host, state)
    for decided in state.decisions:
        world.checkers.agreement.recovered(host.id, decided.instance, decided.proof.digest)
        world.checkers.provability.check(decided.instance, decided.proof.digest, decided.proof)
        batch = world.checkers.order.batch(decided.instance)
        if batch is None or batch[2] != decided.data:
            raise PropertyViolation(
                "durability",
                f"the log of replica {host.id} holds other requests in instance {decided.instance}",
                replicas=(host.id,),
                instance=decided.instance,
            )
