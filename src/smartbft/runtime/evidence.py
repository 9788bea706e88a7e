"""Keeps what the core holds against members: a file for each contradiction, and a line in the log."""

from __future__ import annotations

import logging
from pathlib import Path

from smartbft.core.effects import ReportEvidence
from smartbft.core.evidence import contradiction, make_evidence
from smartbft.errors import StorageError
from smartbft.storage.evidence import EvidenceFolder

logger = logging.getLogger(__name__)


class EvidenceDesk:
    """Writes evidence into the home of one replica.

    The loop waits for the disk here: the core reports a member a few times in a run at most.

    Args:
        folder: where the files go.
        chain_id: of the chain on which the statements were signed.
    """

    def __init__(self, folder: Path, chain_id: bytes) -> None:
        self._folder = EvidenceFolder(folder)
        self._chain_id = chain_id
        self._count = len(self._folder.files())

    def __len__(self) -> int:
        """Evidence files in the home, those of earlier runs included."""
        return self._count

    def report(self, effect: ReportEvidence) -> None:
        """Keep the evidence. A disk that does not take it is logged: evidence is no promise of ours."""
        evidence = make_evidence(self._chain_id, effect.accused, effect.first, effect.second, effect.key)
        offence = contradiction(effect.first, effect.second)
        what = offence.value if offence is not None else "statements that contradict each other"
        try:
            path = self._folder.put(effect.accused, evidence.name(), evidence.encode())
        except StorageError as error:
            logger.error("replica %d has signed %s: %s", effect.accused, what, error)
            return
        if path is not None:
            self._count += 1
            logger.error("replica %d has signed %s: evidence in %s", effect.accused, what, path)
