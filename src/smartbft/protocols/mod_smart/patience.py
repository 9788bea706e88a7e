"""How long a replica waits for its leader (Mod-SMaRt, Algorithm 3, line 21)."""

from __future__ import annotations

from smartbft.limits import DECISIONS_PER_TIMEOUT_DECAY
from smartbft.types import Parameters


class Patience:
    """The timeout of one replica: doubled by each regency, so that some leader has enough time in the end, capped, and
    halved again by progress.
    """

    __slots__ = ("_failures", "_parameters", "_progress")

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._failures = 0  # regencies since the last progress
        self._progress = 0  # decisions since the timeout was changed

    @property
    def timeout(self) -> int:
        """Microseconds."""
        parameters = self._parameters
        return int(min(parameters.request_timeout << self._failures, parameters.max_request_timeout))

    def installed(self) -> None:
        """Another leader was given up.

        What the cap takes off is not counted: after a night of failures the timeout must be short again soon.
        """
        if self.timeout < self._parameters.max_request_timeout:
            self._failures += 1
        self._progress = 0

    def decided(self) -> None:
        """An instance was decided; many in a row shorten the timeout."""
        self._progress += 1
        if self._failures and self._progress >= DECISIONS_PER_TIMEOUT_DECAY:
            self._failures -= 1
            self._progress = 0
