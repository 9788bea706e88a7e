"""``smartbft start`` for a replica that stands still (SIGSTOP) in the middle of something, where it can be killed.

python stands_still.py HOME MOMENT
"""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from smartbft.cli import main
from smartbft.runtime.rehearsals import RehearsalStage
from smartbft.storage import SnapshotStore

TRANSFER, CHECKPOINT, REHEARSAL = "transfer", "checkpoint", "rehearsal"
# It stands still right after this.
MOMENTS: dict[str, tuple[type, str]] = {
    TRANSFER: (SnapshotStore, "put_chunk"),
    CHECKPOINT: (SnapshotStore, "_write_temporary"),
    REHEARSAL: (RehearsalStage, "_begin"),
}


def _then_stand_still(work: Callable[..., Any]) -> Callable[..., Any]:
    def stopped(*arguments: Any) -> Any:
        done = work(*arguments)
        sys.stderr._outlet.drain(60)  # type: ignore[attr-defined] # a thread writes it, which stands still
        signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)  # this thread, so that not even it goes on
        return done

    return stopped


if __name__ == "__main__":
    kind, method = MOMENTS[sys.argv[2]]
    setattr(kind, method, _then_stand_still(getattr(kind, method)))
    main(["start", "--home", sys.argv[1], "--exit-with-parent"])
