"""After which instances a member takes its checkpoints (protocols.md 2.4).

Together: all after the same instances, so that their digests can be compared. Sequential (Dura-SMaRt): the members are
`P / n` instances apart, so that at most one of them is slow at a time; their snapshots are compared by rehearsal.
"""

from __future__ import annotations

from smartbft.types import SEQUENTIAL, Parameters, View


class CheckpointSchedule:
    """When the members' snapshots fall; equal on all replicas, since it comes from the genesis.

    Attributes:
        interval: instances between two checkpoints of one member (`P`).
        sequential: whether each member has instances of its own.

    Args:
        parameters: the chain's.
        view: whose members they are.
    """

    __slots__ = ("_offsets", "interval", "sequential")

    def __init__(self, parameters: Parameters, view: View) -> None:
        self.interval = parameters.checkpoint_interval
        self.sequential = parameters.checkpoint_schedule == SEQUENTIAL
        self._offsets = {
            member: position * self.interval // view.n if self.sequential else 0
            for position, member in enumerate(sorted(view.ids))
        }

    def is_due(self, member: int, instance: int) -> bool:
        """Whether a member takes a checkpoint after this instance; False for strangers."""
        return instance % self.interval == self._offsets.get(member, -1)
