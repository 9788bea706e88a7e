"""``smartbft start`` for a replica that changes a byte in every chunk of a snapshot that it sends.

python lying_seeder.py HOME
"""

from __future__ import annotations

import sys

from smartbft.cli import main
from smartbft.storage import SnapshotStore


class LyingStore(SnapshotStore):
    """Reads its own snapshots as they are."""

    def chunk(self, instance: int, digest: bytes, index: int) -> bytes | None:
        """Not the chunk."""
        data = super().chunk(instance, digest, index)
        return data if data is None else bytes([data[0] ^ 1]) + data[1:]


if __name__ == "__main__":
    from smartbft.runtime import assembly

    assembly.SnapshotStore = LyingStore  # type: ignore[misc]
    main(["start", "--home", sys.argv[1], "--exit-with-parent"])
