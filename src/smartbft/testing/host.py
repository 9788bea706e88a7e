"""A machine of the simulation: what stays when a replica crashes, and what an attacker has taken over."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zlib import crc32

from smartbft.core.inputs import ConsensusKeyMade
from smartbft.core.member_keys import MemberKeys
from smartbft.crypto.signatures import Signer
from smartbft.errors import CorruptLog
from smartbft.messages import Message, encode
from smartbft.testing.byzantine import Attack, KeyRing
from smartbft.testing.checkers import PropertyViolation
from smartbft.testing.disk import SimulatedDisk
from smartbft.testing.replica import SimulatedReplica
from smartbft.testing.trace import Kind

if TYPE_CHECKING:
    from smartbft.testing.simulation import Simulation


class Host:
    """The machine of a replica: it keeps the disk, and whatever life of the replica runs now.

    Args:
        world: the simulation it is part of.
        id: the member that runs here.
        endpoint: the machine's number in the network: the member's, unless it is a second copy (Twins).
    """

    def __init__(self, world: Simulation, id: int, endpoint: int) -> None:
        self.id = id
        self.endpoint = endpoint
        self.attacks: tuple[Attack, ...] = ()
        self.disk = SimulatedDisk()
        self.replica: SimulatedReplica | None = None
        self.lives = 0
        self.votes_lost = False
        self.deaf_to: list[type[Message]] = []  # what is lost on its way to here
        self.signers: list[Signer] = []  # of consensus keys that were made here, on the disk
        self.rotten = False
        self.refuses = False  # records are missing in the log for certain: the replica must not start from it
        self.clock_offset = world.scenario.clock_offsets[id]
        self._world = world
        self._scheduler = world.scheduler
        self._note = world.trace.note

    def start(self) -> None:
        """Start the replica; without a log (memory mode) it knows nothing of earlier lives."""
        world = self._world
        self.lives += 1
        try:
            self.replica = SimulatedReplica(world, self.id, self)
        except CorruptLog as error:
            if not self.rotten:
                raise PropertyViolation(
                    "durability", f"replica {self.id} finds its log corrupt: {error}", replicas=(self.id,)
                ) from None
            return
        if self.refuses:
            raise PropertyViolation(
                "durability", f"replica {self.id} starts, and its newest segment reads as zeros", replicas=(self.id,)
            )
        world.trace.note(world.scheduler.now, Kind.STARTED, self.endpoint, self.lives)
        self.replica.start()

    def crash(self, power: bool) -> None:
        """Kill the process; with `power`, what was not synced is lost too."""
        world = self._world
        if self.replica is not None:
            self.replica.crash()
        self.replica = None
        if power:
            self.disk.lose_power(world.scheduler.random)
        world.trace.note(world.scheduler.now, Kind.CRASHED, self.id, power)

    def wipe(self) -> None:
        """The disk of a machine that is down is replaced by an empty one: log, snapshots and keys are gone, and whoever
        starts it knows that.
        """
        self.disk = SimulatedDisk()
        self.signers.clear()
        self.votes_lost, self.rotten, self.refuses = True, False, False
        self._note(self._scheduler.now, Kind.WIPED, self.id, self.lives)

    def make_key(self) -> Signer:
        """A new consensus key, kept on the disk."""
        signer = self._world.make_signer(self.id)
        self.signers.append(signer)
        return signer

    def set_clock(self, offset: int) -> None:
        """The machine's clock jumps to this offset against virtual time."""
        self.clock_offset = offset
        if self.replica is not None:
            self.replica.set_clock(offset)

    # What an attacker changes

    def key_ring(self, permanent: Signer, first: Signer) -> KeyRing:
        """The keys of this machine, for whoever takes it over."""
        return KeyRing(permanent, first, self.signers, self.make_key, self._adopt_later, self._key_table)

    def _key_table(self) -> MemberKeys | None:
        return self.replica.core.keys if self.replica is not None else None

    def _adopt_later(self, signer: Signer) -> None:
        self._scheduler.after(1, self._adopt, signer)

    def _adopt(self, signer: Signer) -> None:
        if self.replica is not None:
            self.replica.step(ConsensusKeyMade(signer))

    def hears(self, sender: int, message: Message) -> Message | None:
        """What the attacks on this replica let it hear."""
        heard: Message | None = message
        for attack in self.attacks:
            if heard is not None:
                heard = attack.incoming(sender, heard)
        return heard

    def says(self, to: int, message: Message) -> list[Message]:
        """What the attacks on this replica make of a message to a peer."""
        said = [message]
        for attack in self.attacks:
            said = [other for one in said for other in attack.outgoing(to, one)]
        return said

    def transmit(self, to: int, message: Message) -> None:
        """Send a message to all machines of a member."""
        data = encode(message)
        for machine in self._world.machines_of[to]:
            packet = (self.id, data, crc32(data))
            self._world.network.send(self.endpoint, machine.endpoint, machine.deliver_message, packet)

    def say(self, to: int, message: Message, delay: int) -> None:
        """What an attacker sends by itself, if its replica is up then."""
        self._scheduler.after(delay, self._say, (to, message))

    def _say(self, saying: tuple[int, Message]) -> None:
        if self.replica is not None:
            self.transmit(*saying)

    # What arrives

    def deliver_message(self, packet: tuple[int, bytes, int]) -> None:
        """The network hands over a message of a peer; lost if nobody is there."""
        sender, data, checksum = packet
        self._note(self._scheduler.now, Kind.MESSAGE, self.id, sender << 32 | checksum, data)
        if self.replica is not None:
            self.replica.receive(sender, data)

    def deliver_requests(self, packet: tuple[int, bytes]) -> None:
        """The network hands over frames of a client; lost if nobody is there."""
        source, frames = packet
        world = self._world
        world.trace.note(world.scheduler.now, Kind.REQUESTS, self.id, source << 32 | crc32(frames))
        if self.replica is not None:
            self.replica.receive_requests(source, frames)
