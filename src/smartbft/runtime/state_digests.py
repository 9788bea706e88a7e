"""Digests of the application's state, for the status: made beside the loop and the batches, however large the state."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from smartbft.runtime.executor import SliceExecutor, ThreadExecutor
from smartbft.runtime.status import facts_of
from smartbft.smr.application import BatchStateMachine

logger = logging.getLogger(__name__)

Answer = dict[str, Any]
_Finish = Callable[[], Answer]

#: Where there is no state of this replica's own to tell about.
NOTHING: Answer = {"digest": "", "digest_instance": -1, "application": {}}


def ask_for_digest(executor: ThreadExecutor | SliceExecutor, done: Callable[[Answer], None]) -> None:
    """Call `done` on the loop with digest, instance and figures of the application's state.

    Between two batches the state is captured: at once where the application knows how, else apart from the loop while
    the batches wait. The digest of the capture is made on a thread of its own while batches go on. A mistake of the
    application in it ends nothing: nothing depends on the answer.
    """

    def begun(finish: _Finish | Exception) -> None:
        if isinstance(finish, Exception):
            # What it has may belong to the thread that executes, as a connection of sqlite3 does.
            executor.ask(_begin, lambda again: _finish(again, done))
        else:
            _finish(finish, done)

    executor.ask_apart(_begin, begun)


def _begin(application: BatchStateMachine, instance: int) -> _Finish | Exception:
    try:
        digest = application.capture_digest()
    except Exception as error:
        return error
    figures = facts_of(application)
    return lambda: {"digest": digest().hex(), "digest_instance": instance, "application": figures}


def _finish(finish: _Finish | Exception, done: Callable[[Answer], None]) -> None:
    work = partial(_work, asyncio.get_running_loop(), finish, done)
    threading.Thread(target=work, name="digest", daemon=True).start()


def _work(loop: asyncio.AbstractEventLoop, finish: _Finish | Exception, done: Callable[[Answer], None]) -> None:
    try:
        if isinstance(finish, Exception):
            raise finish
        answer = finish()
    except Exception as error:
        logger.exception("the application cannot tell the digest of its state")
        answer = {**NOTHING, "application": {"error": f"{type(error).__name__}: {error}"}}
    try:
        loop.call_soon_threadsafe(done, answer)
    except RuntimeError:  # the loop is closed: nobody waits for this any more
        return
