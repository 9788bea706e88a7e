"""The decisions that a rehearsal replays, on their way from several peers at once (Dura-SMaRt: the recovering replica
takes parts of the log from different seeders).

What arrives was checked by validation but for its proof, which counts with the keys that the snapshot on trial tells. A
proof that fails with those proves nothing against its sender; but where the logs of `f + 1` senders fail, one of them
correct, it is the snapshot that is wrong.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from smartbft.limits import REHEARSAL_BLOCK, REHEARSAL_BLOCK_RESENDS, REHEARSAL_BLOCKS
from smartbft.messages import Decision, FetchDecisions

if TYPE_CHECKING:
    from smartbft.core.replica import Replica


@dataclass(slots=True)
class _Block:
    """Decisions asked of one peer.

    Attributes:
        first, last: instances.
        waited: resend intervals since it was asked for.
    """

    first: int
    last: int
    waited: int = 0


class RehearsalLog:
    """A window of decisions after a snapshot on trial.

    Args:
        replica: for whom they are.
        first: the instance whose decision is needed first.

    Attributes:
        next: the instance whose decision is needed next.
        failed: senders of decisions that did not hold; nothing more is taken from them in this rehearsal.
    """

    __slots__ = ("_blocks", "_here", "_replica", "_turn", "failed", "next")

    def __init__(self, replica: Replica, first: int) -> None:
        self.next = first
        self.failed: dict[int, None] = {}
        self._replica = replica
        self._blocks: list[_Block] = []
        self._here: dict[int, tuple[int, Decision]] = {}
        self._turn = 0

    def wants(self, instance: int) -> bool:
        """Whether the decision of an instance was asked for and is not here."""
        return bool(self._blocks) and self.next <= instance <= self._blocks[-1].last and instance not in self._here

    def put(self, sender: int, decision: Decision) -> None:
        """A decision has arrived."""
        if sender not in self.failed and self.wants(decision.instance):
            self._here[decision.instance] = (sender, decision)

    def ask_until(self, last: int) -> None:
        """Keep some blocks on their way, up to an instance that somebody claims to have decided."""
        while self._blocks and self._blocks[0].last < self.next:
            del self._blocks[0]
        first = self._blocks[-1].last + 1 if self._blocks else self.next
        while len(self._blocks) < REHEARSAL_BLOCKS and first <= last:
            block = _Block(first, min(first + REHEARSAL_BLOCK - 1, last))
            if not self._ask(block):
                return
            self._blocks.append(block)
            first = block.last + 1

    def _ask(self, block: _Block) -> bool:
        """Ask the next of the peers whose logs have what is missing of a block."""
        replica = self._replica
        missing = [at for at in range(max(block.first, self.next), block.last + 1) if at not in self._here]
        if not missing:
            return True
        peers = [peer for peer in replica.catch_up.having(missing[0]) if peer not in self.failed]
        if not peers:
            return False
        self._turn += 1
        peer = peers[self._turn % len(peers)]
        replica.send(peer, FetchDecisions(replica.view.number, replica.regency, missing[0], missing[-1]))
        return True

    def peek(self) -> tuple[int, Decision] | None:
        """The next decision, if it is here, and who sent it."""
        return self._here.get(self.next)

    def take(self) -> None:
        """The next decision holds."""
        del self._here[self.next]
        self.next += 1

    def refuse(self) -> None:
        """The next decision does not hold: whatever its sender has sent is asked of others."""
        sender, _ = self._here[self.next]
        self.failed[sender] = None
        self._here = {at: kept for at, kept in self._here.items() if kept[0] != sender}
        for block in self._blocks:
            self._ask(block)

    def on_timer(self) -> None:
        """A resend interval has passed: what has not come is asked of the next peer."""
        for block in self._blocks:
            block.waited += 1
            if block.waited >= REHEARSAL_BLOCK_RESENDS and block.last >= self.next:
                block.waited = 0
                self._ask(block)
