"""Reads that are not ordered: they open no session and cost no consensus instance.

`Q` replicas answer alike, after the same instance, and none of them has voted ACCEPT in a later one. That is as good as
an ordered read, in every persistence mode. *Why*: what was acknowledged before the read began was decided, so `Q`
replicas have voted ACCEPT in its instance. Two quorums share a correct replica. It answered, so that instance is not
later than the one that the answer is as of.

Under load the replicas are seldom at rest together. Then nothing comes of it, and the query has to be ordered.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from typing import TYPE_CHECKING, Any

from smartbft.errors import NotEnoughReplies
from smartbft.runtime.status import Question

if TYPE_CHECKING:
    from smartbft.runtime.client import AsyncClient

# Between two attempts: the replicas that lag have a moment to catch up.
_PAUSE_SECONDS = 0.03
# A replica that is silent for so long after a quorum has answered is not waited for.
_GRACE_SECONDS = 0.2


async def read(client: AsyncClient, query: bytes, within: float) -> bytes | None:
    """The result of `query` without ordering it.

    Args:
        client: connected, at least to some.
        query: an operation of which the application says that it changes nothing (`BatchStateMachine.read`).
        within: seconds to try for.

    Returns:
        The result; None if the replicas do not agree in time, or the application answers it only when it is ordered.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + within
    while True:
        answers = await _ask(client, Question(read=query), max(0.0, deadline - loop.time()))
        result = agreed(answers, client.genesis.view.quorum)
        if result is not None or loop.time() + _PAUSE_SECONDS >= deadline or _refused(answers, client):
            return result
        await asyncio.sleep(_PAUSE_SECONDS)


def agreed(answers: list[dict[str, Any]], quorum: int) -> bytes | None:
    """The result that `quorum` of the answers give alike and at rest; None if there is none."""
    votes: dict[tuple[int, str], int] = {}
    for answer in answers:
        instance, accepted, result = (answer.get(name) for name in ("instance", "accepted", "result"))
        if type(instance) is not int or type(accepted) is not int or not isinstance(result, str):
            continue
        if accepted <= instance:
            votes[instance, result] = votes.get((instance, result), 0) + 1
            if votes[instance, result] >= quorum:
                return _decoded(result)
    return None


def _decoded(result: str) -> bytes | None:
    try:
        return base64.b64decode(result, validate=True)
    except binascii.Error:
        return None


def _refused(answers: list[dict[str, Any]], client: AsyncClient) -> bool:
    """Whether a correct replica says that it has no such answer: the next attempt would give none either."""
    return sum("problem" in answer for answer in answers) > client.genesis.view.f


async def _ask(client: AsyncClient, question: Question, within: float) -> list[dict[str, Any]]:
    """What the connected replicas answer. Once a quorum has answered, the others have a moment left."""
    quorum = client.genesis.view.quorum
    waiting = {asyncio.ensure_future(client.look_up(replica, question, within)) for replica in client.connected}
    everybody = list(waiting)
    answers: list[dict[str, Any]] = []
    try:
        while waiting and agreed(answers, quorum) is None:
            grace = None if len(answers) < quorum else _GRACE_SECONDS
            done, waiting = await asyncio.wait(waiting, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
            if not done:
                break
            answers += [task.result() for task in done if _answered(task)]
    finally:
        for task in everybody:
            task.cancel()
        await asyncio.gather(*everybody, return_exceptions=True)
    return answers


def _answered(task: asyncio.Future[dict[str, Any]]) -> bool:
    error = task.exception()
    if error is not None and not isinstance(error, NotEnoughReplies):
        raise error
    return error is None


async def sessions_of(client: AsyncClient, key: bytes, within: float) -> list[dict[str, Any]]:
    """What the replicas say of the sessions of `key`: one answer from each that answers in time."""
    return await _ask(client, Question(sessions=key), within)
