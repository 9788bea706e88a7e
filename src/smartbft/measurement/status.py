"""Asks every replica where it stands."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Collection, Mapping
from typing import Any

from smartbft.errors import NotEnoughReplies, SmartBFTError
from smartbft.runtime.client import AsyncClient

Facts = dict[str, Any]

_POLL_SECONDS = 0.05
# The answers are not of one moment: a replica so few instances behind another is level with it.
_LEVEL_INSTANCES = 20


async def ask_all(client: AsyncClient, *, digest: bool = False, within: float = 5.0) -> dict[int, Facts]:
    """The status of every replica that `client` is connected to and that answers in time, by id."""
    replicas = client.connected
    answers = await asyncio.gather(
        *(client.status(replica, digest=digest, timeout=within) for replica in replicas), return_exceptions=True
    )
    found: dict[int, Facts] = {}
    for replica, answer in zip(replicas, answers, strict=True):
        if isinstance(answer, dict):
            found[replica] = answer
        elif not isinstance(answer, SmartBFTError):
            raise answer
    return found


def all_well(facts: Mapping[int, Facts], members: Collection[int]) -> bool:
    """Whether all `members` answered, take part, and are level with each other but for what is being ordered."""
    if set(facts) != set(members) or not all(answer["takes_part"] for answer in facts.values()):
        return False
    most = max(answer["decided"] for answer in facts.values())
    return all(level(answer, most) for answer in facts.values())


def level(facts: Facts, most: int) -> bool:
    """Whether a replica has executed what the most advanced one had decided, `most`, but for what is being ordered."""
    return most - int(facts["executed"]) <= _LEVEL_INSTANCES


async def connect_to_any(client: AsyncClient, within: float, members: Collection[int] | None = None) -> None:
    """Connect to as many replicas as answer in time; fewer than a quorum are fine for asking where they stand.

    Args:
        members: return as soon as these are connected; None waits for all.
    """
    with contextlib.suppress(NotEnoughReplies):
        await client.connect(0.0)  # dials; the waiting is done below, for members instead of for a quorum
    wanted = set(members or (member.id for member in client.genesis.members))
    deadline = asyncio.get_running_loop().time() + within
    while wanted - set(client.connected):
        if asyncio.get_running_loop().time() >= deadline:
            return
        await asyncio.sleep(_POLL_SECONDS)


async def settled(client: AsyncClient, within: float, members: Collection[int] | None = None) -> dict[int, Facts]:
    """The status with state digest of all replicas, once all have executed the same instances and none is waiting.

    Args:
        members: the replicas that run; None for all.

    Raises:
        NotEnoughReplies: they are not level within `within` seconds.
    """
    expected = len(client.genesis.members if members is None else members)
    deadline = asyncio.get_running_loop().time() + within
    while True:
        facts = await ask_all(client, digest=True)
        instances = {(answer["decided"], answer["digest_instance"]) for answer in facts.values()}
        if len(facts) == expected and len(instances) == 1 and len(set(next(iter(instances)))) == 1:
            return facts
        if asyncio.get_running_loop().time() > deadline:
            shown = {replica: (answer["decided"], answer["executed"]) for replica, answer in sorted(facts.items())}
            raise NotEnoughReplies(
                f"the replicas did not get level within {within:g} seconds (decided, executed: {shown})"
            )
        await asyncio.sleep(_POLL_SECONDS)
