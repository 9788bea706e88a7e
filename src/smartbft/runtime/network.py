"""A replica's place on the network: its listeners, whom it dials, and the keys it shows."""

from __future__ import annotations

import contextlib
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from smartbft import limits
from smartbft.config import Genesis, GenesisMember, ReplicaConfig
from smartbft.crypto.keys import load_replica_keys
from smartbft.crypto.signatures import Signer
from smartbft.errors import ConfigError
from smartbft.net import descriptors
from smartbft.net.connection import Handler, ReadBuffer
from smartbft.net.handshake import Identity
from smartbft.net.penalties import Probation
from smartbft.net.tls import acceptor_context, check_with_itself, dialer_context
from smartbft.net.transport import Dialer, Listener, Target
from smartbft.net.watch import ConnectionLimits
from smartbft.runtime.clocks import wall_clock

logger = logging.getLogger(__name__)

PEER_LIMITS = ConnectionLimits(
    connections=4 * limits.MAX_MEMBERS,
    strangers=limits.MAX_STRANGERS_FOR_REPLICAS,
    handshakes_at_once=limits.REPLICA_HANDSHAKES_AT_ONCE,
    handshakes_per_second=limits.REPLICA_HANDSHAKES_PER_SECOND,
    idle_timeout=limits.PEER_IDLE_TIMEOUT_SECONDS,
    waiting_limit=limits.MAX_MEMBERS * limits.WRITE_LIMIT_BYTES,
)


@dataclass(frozen=True, slots=True)
class Secrets:
    """A replica's private keys.

    Attributes:
        permanent: proves to its peers who it is.
        consensus: signs votes in the current view.
        tls: PEM files of certificate and key; None on plain TCP.
    """

    permanent: Signer
    consensus: Signer
    tls: tuple[Path, Path] | None


class Network:
    """The sockets of one replica.

    Args:
        genesis: who the others are.
        replica: its id.
        secrets: its keys.
        level: persistence level of its replies.
        peers, clients: the owners of the two kinds of connections.
        agreed_time: the last one decided here, microseconds; told to whoever connects, like the clock.

    Raises:
        ConfigError: TLS does not work on this machine with these keys.
    """

    def __init__(
        self,
        genesis: Genesis,
        replica: int,
        secrets: Secrets,
        level: int,
        peers: Handler,
        clients: Handler,
        agreed_time: Callable[[], int],
    ) -> None:
        self._genesis = genesis
        self._member = genesis.member(replica)
        self._identity = Identity(
            replica, secrets.permanent, genesis.view.number, level, lambda: (wall_clock(), agreed_time())
        )
        self._peers = peers
        self._clients = clients
        self._accepting: ssl.SSLContext | None = None
        self._dialing: ssl.SSLContext | None = None
        if secrets.tls is not None:
            self._accepting, self._dialing = acceptor_context(*secrets.tls), dialer_context()
            check_with_itself(self._accepting, self._dialing, self._member.certificate_sha256, secrets.tls[0])
        self._buffer = ReadBuffer()
        self._listeners: list[Listener] = []
        self._dialers: list[Dialer] = []

    async def start(self, sockets: tuple[socket.socket, socket.socket] | None) -> None:
        """Listen for replicas and clients (on `sockets`, if they are given), and dial the replicas with higher ids.

        Raises:
            ConfigError: an address cannot be used.
        """
        members, me = self._genesis.members, self._member
        lower = {member.id: member.permanent_key for member in members if member.id < me.id}
        replica_socket, client_socket = sockets or (None, None)
        available = descriptors.available()
        replicas = self._listener(lower, self._peers, descriptors.for_replicas(PEER_LIMITS, available))
        await replicas.start(me.replica_address.host, me.replica_address.port, replica_socket)
        probation = Probation(
            limits.PROBATION_SECONDS, limits.PROBATION_NEWCOMERS_PER_SECOND, limits.MAX_ADDRESSES_ON_PROBATION
        )
        bounds = descriptors.for_clients(ConnectionLimits(), available)
        if bounds.connections < limits.MAX_CLIENT_CONNECTIONS:
            logger.warning(
                "at most %d clients may be connected, and not %d: this process may have %d open files (ulimit -n)",
                bounds.connections,
                limits.MAX_CLIENT_CONNECTIONS,
                available,
            )
        clients = self._listener(None, self._clients, bounds, probation)
        await clients.start(me.client_address.host, me.client_address.port, client_socket)
        for member in members:
            if member.id > me.id:
                self._dial(member)

    async def close(self) -> None:
        """Close everything, whatever goes wrong meanwhile."""
        async with contextlib.AsyncExitStack() as last_first:
            for listener in self._listeners:
                last_first.push_async_callback(listener.close)
            for dialer in self._dialers:
                last_first.push_async_callback(dialer.close)

    def _listener(
        self,
        peers: dict[int, bytes] | None,
        handler: Handler,
        bounds: ConnectionLimits,
        probation: Probation | None = None,
    ) -> Listener:
        listener = Listener(
            self._genesis.chain_id,
            self._identity,
            peers,
            handler,
            self._buffer,
            tls=self._accepting,
            certificate=self._member.certificate_sha256 if self._accepting is not None else None,
            connection_limits=bounds,
            probation=probation,
        )
        self._listeners.append(listener)
        return listener

    def _dial(self, member: GenesisMember) -> None:
        address = member.replica_address
        certificate = member.certificate_sha256 if self._dialing is not None else None
        target = Target(member.id, address.host, address.port, member.permanent_key, certificate)
        dialer = Dialer(
            self._genesis.chain_id,
            target,
            self._identity,
            self._peers,
            self._buffer,
            tls=self._dialing,
            connection_limits=PEER_LIMITS,
        )
        self._dialers.append(dialer)
        dialer.start()


def load_secrets(config: ReplicaConfig, genesis: Genesis) -> Secrets:
    """Read a replica's keys from its home folder. Raises ConfigError: see `smartbft.crypto.keys.load_replica_keys`."""
    keys = load_replica_keys(config, genesis)
    tls = (keys.tls_certificate, keys.tls_key) if config.transport == "tls" else None
    return Secrets(keys.permanent, keys.consensus, tls)


def check_loopback(config: ReplicaConfig, genesis: Genesis) -> None:
    """Raises ConfigError: the replica would listen on plain TCP beyond this machine."""
    member = genesis.member(config.replica)
    for address in (member.replica_address, member.client_address):
        if not address.is_loopback:
            raise ConfigError(
                f"plain TCP on {address} would send everything in the clear: use tls (plain is for measurements on one "
                "machine, on loopback addresses)",
                file=str(config.config_path),
                field="transport",
            )
