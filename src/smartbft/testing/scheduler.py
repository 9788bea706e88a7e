"""Virtual time: an event queue in integer microseconds, and the only source of randomness of a simulation."""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

Action = Callable[[Any], None]


class Scheduler:
    """Runs actions in the order of their virtual times; equal times run in the order in which they were scheduled.

    Args:
        seed: of `random`, from which everything in a simulation draws. The same seed gives the same run.

    Attributes:
        now: virtual time in microseconds since the start of the run.
        random: the generator.
        events: how many actions have run.
    """

    __slots__ = ("_heap", "_sequence", "events", "now", "random")

    def __init__(self, seed: int) -> None:
        self.now = 0
        self.events = 0
        self.random = random.Random(seed)  # noqa: S311 - schedules, not secrets
        self._heap: list[tuple[int, int, Action, Any]] = []
        self._sequence = 0

    def after(self, delay: int, action: Action, argument: Any = None) -> None:
        """Run ``action(argument)`` `delay` microseconds from now (0: after what is already due now)."""
        self._sequence += 1
        # The sequence number is unique, so a comparison never reaches the action.
        heappush(self._heap, (self.now + delay, self._sequence, action, argument))

    def run_next(self) -> bool:
        """Run the earliest action; False when there is none."""
        if not self._heap:
            return False
        self.now, _, action, argument = heappop(self._heap)
        self.events += 1
        action(argument)
        return True

    def run(self, count: int) -> bool:
        """Run the `count` earliest actions; False when there are fewer."""
        heap = self._heap
        for _ in range(count):
            if not heap:
                return False
            self.now, _, action, argument = heappop(heap)
            self.events += 1
            action(argument)
        return True

    def __len__(self) -> int:
        """How many actions wait."""
        return len(self._heap)

    def between(self, low: int, high: int) -> int:
        """A number of microseconds in ``[low, high]``, uniformly."""
        return low + int((high - low + 1) * self.random.random())

    def chance(self, probability: float) -> bool:
        """True with this probability."""
        return self.random.random() < probability
