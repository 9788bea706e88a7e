"""Makes the consensus key that a replica needs when it has lost the record of its votes, and keeps the marker of it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from smartbft.core.effects import MakeConsensusKey, VotesOnRecord
from smartbft.core.inputs import ConsensusKeyMade
from smartbft.crypto.signatures import Signer
from smartbft.errors import ConfigError
from smartbft.storage import ConsensusKeys, Lives

logger = logging.getLogger(__name__)

# A disk that is full now may have room later.
_AGAIN_SECONDS = 5.0


class KeyDesk:
    """Carries out what the core asks for about its own consensus key.

    Args:
        keys: in the data folder.
        lives: with the marker of lost votes.
        made: told about the new key, on the loop.
        again: seconds after which it is tried again where no key could be made.
    """

    def __init__(
        self,
        keys: ConsensusKeys,
        lives: Lives,
        made: Callable[[ConsensusKeyMade], None],
        again: float = _AGAIN_SECONDS,
    ) -> None:
        self._keys = keys
        self._lives = lives
        self._made = made
        self._again = again
        self._closing = asyncio.Event()
        self._making: asyncio.Task[None] | None = None

    def make(self, _: MakeConsensusKey) -> None:
        """Make a key beside the loop: the disk may take its time."""
        self._making = asyncio.get_running_loop().create_task(self._make())

    async def _make(self) -> None:
        said = ""
        while not self._closing.is_set():
            try:
                signer: Signer = await asyncio.to_thread(self._keys.make)
            except ConfigError as error:
                if str(error) != said:
                    said = str(error)
                    logger.error("no new consensus key can be made, so this replica only learns for now: %s", error)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), self._again)
            else:
                self._made(ConsensusKeyMade(signer))
                return

    def on_record(self, _: VotesOnRecord) -> None:
        """Every vote from now on is on record: the next start finds it. The loop waits for the disk here, once."""
        self._lives.find()
        logger.warning("the votes of this replica are on record again: its new consensus key is in force")

    async def close(self) -> None:
        """Wait for a key that is being made."""
        self._closing.set()
        if self._making is not None:
            await asyncio.wait([self._making])
