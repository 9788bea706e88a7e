"""Attacks on checkpoints and state transfer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from msgspec.structs import replace

from smartbft.core.member_keys import MemberKeys
from smartbft.limits import KEY_BYTES, SIGNATURE_BYTES
from smartbft.messages import Checkpoint, Decision, Gone, Message, SnapshotChunk, SnapshotManifest
from smartbft.snapshots import Snapshot
from smartbft.testing.byzantine.base import Attack, Powers
from smartbft.types import SEQUENTIAL, KeyStatement


class LieAboutSnapshots(Attack):
    """Signs checkpoints of states that nobody has, serves poisoned snapshots, and denies what its log holds."""

    def outgoing(self, to: int, message: Message) -> Sequence[Message]:
        """Something else."""
        powers = self.powers
        lie: Message | None = None
        if isinstance(message, Checkpoint):
            lie = self._other_checkpoint(message)
        elif isinstance(message, SnapshotManifest):
            lie = self._other_manifest(message)
        elif isinstance(message, SnapshotChunk):
            lie = self._other_chunk(message)
        elif isinstance(message, Decision):
            lie = Gone(message.view, message.regency, message.instance + powers.draw.choice((1, 10)))
        elif isinstance(message, Gone):
            lie = replace(message, first=powers.draw.choice((0, 1, 2**40)))
        return (message if lie is None or not powers.feels_like_it() else lie,)

    def snapshot(self, snapshot: Snapshot) -> Snapshot:
        """One that is right in itself and wrong in its content, where nobody else has one of the same instance."""
        powers = self.powers
        if powers.parameters.checkpoint_schedule != SEQUENTIAL or not powers.feels_like_it():
            return snapshot
        forge = powers.draw.choice((forge_state, forge_keys, forge_sessions, forge_time))
        return forge(powers, snapshot)

    def _other_checkpoint(self, message: Checkpoint) -> Checkpoint:
        powers = self.powers
        lies = (
            replace(message, digest=message.digest[::-1]),
            replace(message, size=message.size + 1),
            replace(message, instance=message.instance + powers.parameters.checkpoint_interval),
            replace(message, instance=message.instance + 1_000_000 * powers.parameters.checkpoint_interval),
        )
        return powers.signed(powers.draw.choice(lies))

    def _other_manifest(self, message: SnapshotManifest) -> SnapshotManifest:
        lies = (
            replace(message, hashes=message.hashes[::-1]),
            replace(message, size=message.size + 1),
            replace(message, proof=replace(message.proof, signatures=message.proof.signatures[:1])),
        )
        return self.powers.draw.choice(lies)

    def _other_chunk(self, message: SnapshotChunk) -> SnapshotChunk:
        lies = (
            replace(message, data=bytes([message.data[0] ^ 1]) + message.data[1:]),
            replace(message, data=message.data[:1]),
            replace(message, index=message.index + 1),
        )
        return self.powers.draw.choice(lies)


def forge_state(powers: Powers, snapshot: Snapshot) -> Snapshot:
    """Another state of the application, or something that is none."""
    state = snapshot.state
    states = (state[:-1] + bytes([state[-1] ^ 1]), state[::-1], b"")
    return dataclasses.replace(snapshot, state=powers.draw.choice(states))


def forge_sessions(powers: Powers, snapshot: Snapshot) -> Snapshot:
    """All sessions forgotten, or no table of sessions."""
    return dataclasses.replace(snapshot, sessions=powers.draw.choice((bytes(4), snapshot.sessions[:-1], b"")))


def forge_time(powers: Powers, snapshot: Snapshot) -> Snapshot:
    """Another agreed time."""
    return dataclasses.replace(snapshot, agreed_time=snapshot.agreed_time + powers.draw.choice((-1, 1, 3_600_000_000)))


def forge_keys(powers: Powers, snapshot: Snapshot) -> Snapshot:
    """A key of the attacker's in force for another member: then the true decisions do not seem to hold."""
    keys = MemberKeys(powers.view)
    keys.restore(snapshot.core)
    victim = powers.draw.choice(powers.peers)
    own = powers.draw.randbytes(KEY_BYTES)
    statement = KeyStatement(victim, keys.latest(victim) or b"", own, bytes(SIGNATURE_BYTES), bytes(SIGNATURE_BYTES))
    keys.known -= 1
    keys.decided(keys.known, (statement,))
    return dataclasses.replace(snapshot, core=keys.encode())
