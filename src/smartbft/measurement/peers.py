"""The other replicas of one that is measured alone, played cheaply by one object.

They follow the protocol as that replica sees it, but check no client signature, keep no requests, execute nothing and
have no disk: what is left to measure is the one real replica. They believe it: their WRITE answers its WRITE, and their
signed ACCEPT its ACCEPT, for the value it named. So each of its votes still waits for its own disk, as in a cluster of
replicas with equal disks, and the peers' share of the machine is a few messages and signatures per batch.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from types import TracebackType

from smartbft._fastpath.frames import MESSAGE, FrameReader, frame
from smartbft.crypto.domains import Domains
from smartbft.crypto.keys import load_replica_keys
from smartbft.crypto.signatures import Signer
from smartbft.errors import NotEnoughReplies
from smartbft.limits import DIGEST_BYTES, MAX_MESSAGE_BYTES
from smartbft.messages import (
    Accept,
    FetchStanding,
    Message,
    Progress,
    Propose,
    Standing,
    Write,
    decode,
    encode,
)
from smartbft.net.connection import Connection, ReadBuffer
from smartbft.net.handshake import Identity
from smartbft.net.transport import Dialer, Listener, Target
from smartbft.runtime.assembly import LEVELS
from smartbft.runtime.load import Traffic
from smartbft.testnet import Testnet
from smartbft.types import Parameters, Value, View

CONNECT_SECONDS = 10.0
# How often a leading peer looks whether the client has sent something.
_LOOK_SECONDS = 0.001


class Script:
    """What the played peers say: a pure object, without sockets and clocks.

    Args:
        view: the membership.
        domains: of the chain.
        signers: the consensus keys of the played replicas, by id: all replicas but `real`.
        real: the id of the replica that is not played.

    Attributes:
        decided: the newest instance that the peers have accepted.
    """

    def __init__(self, view: View, domains: Domains, signers: Mapping[int, Signer], real: int) -> None:
        self.decided = 0
        self._view = view
        self._domains = domains
        self._signers = dict(sorted(signers.items()))
        self._real = real
        self._timestamp = 0

    @property
    def leads(self) -> bool:
        """Whether a played replica is the leader."""
        return self._view.leader(0) != self._real

    def answers(self, message: Message) -> list[tuple[int, Message]]:
        """The answers of all peers to a message that the real replica sent to all: `(sender, message)` each.

        Votes of older instances are not answered: the real replica has decided them.
        """
        if isinstance(message, Progress):
            return self._everyone(message)
        if isinstance(message, FetchStanding):
            return self._everyone(Standing(self._view.number, 0, message.token, None, None, None))
        if isinstance(message, Write) and message.instance > self.decided:
            return self._everyone(message)
        if isinstance(message, Accept) and message.instance >= self.decided:
            self.decided = message.instance
            return [(peer, self.accept(signer, message)) for peer, signer in self._signers.items()]
        return []

    def propose(self, digests: bytes, now: int) -> list[tuple[int, Message]]:
        """PROPOSE of the next instance by the played leader.

        Args:
            digests: 32 bytes per request.
            now: the wall clock in microseconds.
        """
        self._timestamp = max(now, self._timestamp + 1)
        value = Value(self._timestamp, digests).encode()
        return [(self._view.leader(0), Propose(self._view.number, 0, self.decided + 1, value))]

    def accept(self, signer: Signer, vote: Accept) -> Accept:
        """The ACCEPT of the peer with the key `signer`, for the same value as `vote`."""
        payload = self._domains.accept_payload(vote.view, vote.regency, vote.instance, vote.digest)
        return Accept(vote.view, vote.regency, vote.instance, vote.digest, signer.sign(payload))

    def _everyone(self, message: Message) -> list[tuple[int, Message]]:
        return [(peer, message) for peer in self._signers]


class PlayedPeers:
    """Connects as all replicas of a test network but one, and follows `Script`. An asynchronous context manager.

    Args:
        network: with the keys of the played replicas in its folders; its transport is plain TCP.
        real: the id of the replica that runs as a process.

    Raises:
        NotEnoughReplies: on entering: the real replica did not connect in time.
        ConfigError: a key is missing, or an address cannot be used.
    """

    def __init__(self, network: Testnet, real: int) -> None:
        self._genesis = network.genesis
        self._real = real
        played = [config for config in network.replicas if config.replica != real]
        self._keys = {config.replica: load_replica_keys(config, network.genesis) for config in played}
        self._level = LEVELS[played[0].persistence]
        signers = {peer: keys.consensus for peer, keys in self._keys.items()}
        self.script = Script(network.genesis.view, Domains(network.genesis.chain_id), signers, real)
        # Everything is sent to all peers alike, so it is read once, in the name of all.
        self._reader = min(self._keys)
        self._channels: dict[int, Connection] = {}
        self._connected = asyncio.Event()
        self._error: BaseException | None = None
        self._listeners: list[Listener] = []
        self._dialers: list[Dialer] = []
        self._proposer = Proposer(self, network.genesis.parameters) if self.script.leads else None

    async def __aenter__(self) -> PlayedPeers:
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
        if self._error is not None and error is None:
            raise self._error

    async def close(self) -> None:
        """Hang up."""
        if self._proposer is not None:
            self._proposer.follow(None)
        for dialer in self._dialers:
            await dialer.close()
        for listener in self._listeners:
            await listener.close()

    def follow(self, source: Source | None) -> None:
        """The client load that a leading peer is to propose; a following one needs no telling."""
        if self._proposer is not None:
            self._proposer.follow(source)

    # --- for the channels and the proposer ---

    def opened(self, peer: int, connection: Connection) -> None:
        """The channel of a played peer is up."""
        self._channels[peer] = connection
        if len(self._channels) == len(self._keys):
            self._connected.set()

    def closed(self, peer: int, connection: Connection) -> None:
        """It is down."""
        if self._channels.get(peer) is connection:
            del self._channels[peer]

    def received(self, peer: int, payload: bytes) -> None:
        """A message to `peer`."""
        if peer != self._reader:
            return
        decided = self.script.decided
        self.send(self.script.answers(decode(payload)))
        if self._proposer is not None and self.script.decided != decided:
            self._proposer.go_on()

    def send(self, messages: list[tuple[int, Message]]) -> None:
        """Send each message in the name of its sender; what several of them say alike is encoded once."""
        encoded: dict[int, bytes] = {}
        for peer, message in messages:
            channel = self._channels.get(peer)
            if channel is not None:
                if id(message) not in encoded:
                    encoded[id(message)] = frame(MESSAGE, encode(message))
                channel.send(encoded[id(message)])

    def failed(self, error: BaseException) -> None:
        """A bug of ours: raised when the run is over, which it soon will be, since nobody answers any more."""
        self._error = self._error or error

    # --- inside ---

    async def _start(self) -> None:
        target = self._genesis.member(self._real)
        for peer, keys in self._keys.items():
            identity = Identity(peer, keys.permanent, self._genesis.view.number, self._level)
            channel = _Channel(self, peer)
            chain_id, address = self._genesis.chain_id, target.replica_address
            if peer < self._real:
                whom = Target(target.id, address.host, address.port, target.permanent_key, None)
                dialer = Dialer(chain_id, whom, identity, channel, ReadBuffer())
                self._dialers.append(dialer)
                dialer.start()
            else:
                mine = self._genesis.member(peer).replica_address
                listener = Listener(chain_id, identity, {target.id: target.permanent_key}, channel, ReadBuffer())
                self._listeners.append(listener)
                await listener.start(mine.host, mine.port)
        try:
            await asyncio.wait_for(self._connected.wait(), CONNECT_SECONDS)
        except TimeoutError:
            missing = sorted(set(self._keys) - set(self._channels))
            raise NotEnoughReplies(
                f"replica {self._real} has no connection with the played replicas {missing} after {CONNECT_SECONDS:g} s"
            ) from None


class _Channel:
    """The connection of one played peer, as its `Handler`."""

    def __init__(self, owner: PlayedPeers, peer: int) -> None:
        self._owner = owner
        self._peer = peer

    def opened(self, connection: Connection) -> FrameReader:
        self._owner.opened(self._peer, connection)
        return FrameReader({MESSAGE: MAX_MESSAGE_BYTES})

    def received(self, connection: Connection, frames: list[tuple[int, bytes]]) -> None:
        for _, payload in frames:
            self._owner.received(self._peer, payload)

    def closed(self, connection: Connection, error: Exception | None) -> None:
        self._owner.closed(self._peer, connection)

    def failed(self, error: BaseException) -> None:
        self._owner.failed(error)


class Source:
    """What the client has sent so far, in its order.

    Args:
        traffic: all that it will send.
        sent: tells how many of these requests have left.
    """

    def __init__(self, traffic: Traffic, sent: Callable[[], int]) -> None:
        self._traffic = traffic
        self._sent = sent
        self._proposed = 0

    def take(self, max_requests: int, max_bytes: int) -> bytes:
        """Digests of the next requests that were sent and not taken, as many as fit into a batch."""
        first, bounds = self._proposed, self._traffic.bounds
        last = min(self._sent(), first + max_requests)
        while last > first + 1 and bounds[last] - bounds[first] > max_bytes:
            last = first + (last - first) // 2
        self._proposed = max(first, last)
        return self._traffic.digests[DIGEST_BYTES * first : DIGEST_BYTES * self._proposed]


class Proposer:
    """The played leader: proposes what the client has sent, one instance after the other."""

    def __init__(self, peers: PlayedPeers, parameters: Parameters) -> None:
        self._peers = peers
        self._parameters = parameters
        self._source: Source | None = None
        self._busy = False
        self._timer: asyncio.TimerHandle | None = None

    def follow(self, source: Source | None) -> None:
        """Propose the requests of `source` from now on; None stops."""
        self._source = source
        if not self._busy:
            self._look()

    def go_on(self) -> None:
        """An instance is over."""
        self._busy = False
        self._look()

    def _look(self) -> None:
        """Propose if there is something; else look again in a moment."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        source = self._source
        if source is None or self._busy:
            return
        digests = source.take(self._parameters.max_batch_requests, self._parameters.max_batch_bytes)
        if digests:
            self._busy = True
            self._peers.send(self._peers.script.propose(digests, time.time_ns() // 1000))
        else:
            self._timer = asyncio.get_running_loop().call_later(_LOOK_SECONDS, self._look)
