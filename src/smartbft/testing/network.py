"""The simulated network: per-link delay, reordering, duplication, loss and cut links."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from smartbft.testing.scheduler import Action, Scheduler


@dataclass(frozen=True, slots=True)
class NetworkOptions:
    """How the network treats packets. Times are microseconds, rates are probabilities per packet.

    Attributes:
        delay: each link draws its base delay from ``[1, delay]``.
        jitter: added to each packet, uniformly up to this.
        loss: share of packets that never arrive.
        duplication: share of packets that arrive twice.
        straggling: share of packets that are held back by up to `straggle`, so that later ones overtake them.
        straggle: see `straggling`.
    """

    delay: int = 200
    jitter: int = 100
    loss: float = 0.0
    duplication: float = 0.0
    straggling: float = 0.0
    straggle: int = 20_000


class SimulatedNetwork:
    """Carries packets between endpoints, which are plain numbers (replicas and clients share one number space).

    Packets between two endpoints may overtake each other whenever jitter allows it: nothing may depend on their order.
    """

    __slots__ = ("_base", "_cut", "_options", "_scheduler", "lost", "sent")

    def __init__(self, scheduler: Scheduler, options: NetworkOptions) -> None:
        self._scheduler = scheduler
        self._options = options
        self._base: dict[tuple[int, int], int] = {}
        self._cut: set[tuple[int, int]] = set()  # membership tests only: never iterated
        self.sent = 0
        self.lost = 0

    def send(self, sender: int, to: int, action: Action, packet: Any) -> None:
        """Hand ``packet`` to ``action`` when the network delivers it: once, twice or never."""
        options = self._options
        scheduler = self._scheduler
        draw = scheduler.random.random
        self.sent += 1
        link = (sender, to)
        base = self._base.get(link)
        if base is None:
            base = self._base[link] = 1 + int(options.delay * draw())
        if (self._cut and link in self._cut) or (options.loss and draw() < options.loss):
            self.lost += 1
            return
        delay = base + int(options.jitter * draw())
        if options.straggling and draw() < options.straggling:
            delay += int(options.straggle * draw())
        scheduler.after(delay, action, packet)
        if options.duplication and draw() < options.duplication:
            scheduler.after(delay + int(options.straggle * draw()), action, packet)

    def cut(self, sender: int, to: int) -> None:
        """Lose everything `sender` sends to `to` until the link is mended (one direction only)."""
        self._cut.add((sender, to))

    def mend(self, sender: int, to: int) -> None:
        """End `cut`."""
        self._cut.discard((sender, to))

    def partition(self, *groups: tuple[int, ...]) -> None:
        """Cut every link between endpoints of different groups; endpoints in no group keep their links."""
        for here in groups:
            for there in groups:
                if here is not there:
                    self._cut.update((sender, to) for sender in here for to in there)

    def heal(self) -> None:
        """From now on nothing is lost, duplicated or held back, and no link is cut."""
        self._cut.clear()
        self._options = NetworkOptions(delay=self._options.delay, jitter=self._options.jitter)
