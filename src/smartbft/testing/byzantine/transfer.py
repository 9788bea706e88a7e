"""Attacks on checkpoints and state transfer."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from smartbft.messages import Checkpoint, Decision, Gone, Message, SnapshotChunk, SnapshotManifest
from smartbft.testing.byzantine.base import Attack


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

    def _other_checkpoint(self, message: Checkpoint) -> Checkpoint:
        powers = self.powers
        lies = (
            replace(message, digest=message.digest[::-1]),
            replace(message, size=message.size + 1),
            replace(message, instance=message.instance + powers.parameters.checkpoint_interval),
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
