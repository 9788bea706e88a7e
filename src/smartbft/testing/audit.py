"""What is compared when a run is over: states, sessions and replies on all replicas, and the story each log tells."""

from __future__ import annotations

from typing import TYPE_CHECKING

from smartbft.core.recovery import recover
from smartbft.errors import InvariantViolation
from smartbft.smr.application import BatchStateMachine
from smartbft.testing.checkers import PropertyViolation
from smartbft.testing.disk import read_log

if TYPE_CHECKING:
    from smartbft._fastpath.pool import RequestPool
    from smartbft.testing.clients import SimulatedClient
    from smartbft.testing.host import Host
    from smartbft.testing.replica import SimulatedReplica
    from smartbft.testing.simulation import Simulation


def audit(world: Simulation) -> None:
    """5, 12 and 14: equal replicas, and logs that tell the whole agreed history.

    Raises:
        PropertyViolation: something differs, or is missing.
    """
    if len({application.snapshot() for application in applications(world)}) != 1:
        raise PropertyViolation("equal state", "the applications differ after the same instances")
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


def _audit_log(world: Simulation, host: Host) -> None:
    state = recover(read_log(host.disk, world.chain_id, host.id), world.domains)
    if len(state.decisions) != world.decided:
        raise PropertyViolation(
            "durability", f"the log of replica {host.id} holds {len(state.decisions)} of {world.decided} decisions"
        )
    for decided in state.decisions:
        world.checkers.agreement.recovered(host.id, decided.instance, decided.proof.digest)
        world.checkers.provability.check(decided.instance, decided.proof.digest, decided.proof)
        batch = world.checkers.order.batch(decided.instance)
        if batch is None or batch[2] != decided.data:
            raise PropertyViolation(
                "durability", f"the log of replica {host.id} holds other requests in instance {decided.instance}"
            )
