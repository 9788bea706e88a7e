"""The consensus keys that a replica has made for itself, in its data folder: who loses the log loses them with it."""

from __future__ import annotations

import logging
import os
from pathlib import Path

from smartbft.crypto.keys import generate_key, load_signer
from smartbft.crypto.signatures import Ed25519Signer
from smartbft.errors import ConfigError

logger = logging.getLogger(__name__)

_PREFIX, _SUFFIX = "consensus-", ".key"


class ConsensusKeys:
    """Key files beside the segments of a log.

    Args:
        folder: the data folder; made if need be.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self) -> list[Ed25519Signer]:
        """The signers of all keys here. A file that is damaged counts as missing: its key was never announced, or the
        replica has to do without it.
        """
        signers = []
        for path in self._files():
            try:
                signers.append(load_signer(path))
            except ConfigError as error:
                logger.warning("a consensus key cannot be used: %s", error)
        return signers

    def make(self) -> Ed25519Signer:
        """Make a new key, on disk when this returns, in place of the ones before.

        Whoever needs a new key has lost the votes that the others signed, and may not use them.

        Raises:
            ConfigError: the file cannot be written.
        """
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            for path in self._files():
                path.unlink()
        except OSError as error:
            raise ConfigError(f"cannot be prepared for a new key: {error.strerror}", file=str(self._folder)) from None
        return generate_key(self._folder / f"{_PREFIX}{os.urandom(8).hex()}{_SUFFIX}")

    def _files(self) -> list[Path]:
        if not self._folder.is_dir():
            return []
        return sorted(self._folder.glob(f"{_PREFIX}*{_SUFFIX}"))
