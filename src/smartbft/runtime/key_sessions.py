"""The sessions that a client key has open, as f + 1 replicas know them, and what to say when it may open no more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from smartbft.errors import SmartBFTError
from smartbft.runtime.reading import sessions_of

if TYPE_CHECKING:
    from smartbft.runtime.client import AsyncClient

_LOOK_SECONDS = 5.0
# No lease is longer: what a replica says of one is a number like any other.
_MOST_LEFT = 31 * 24 * 3600 * 1_000_000


@dataclass(frozen=True)
class OpenSession:
    """A session as f + 1 replicas know it.

    Attributes:
        executed: its numbers up to here are used up.
        left: microseconds until it ends, if nothing is ordered for it.
    """

    executed: int
    left: int


def agreed_sessions(answers: Sequence[Mapping[str, Any]], f: int) -> dict[int, OpenSession]:
    """The open sessions that at least one correct replica knows, by number: what f + 1 answers say or exceed."""
    told: dict[int, list[tuple[int, int]]] = {}
    for answer in answers:
        try:
            found = msgspec.convert(answer.get("sessions"), list[tuple[int, int, int]])
        except msgspec.ValidationError:
            continue
        for number, (executed, left) in {number: (executed, left) for number, executed, left in found}.items():
            told.setdefault(number, []).append((executed, left))
    agreed = {}
    for number, readings in sorted(told.items()):
        if len(readings) > f:
            executed = sorted((one for one, _ in readings), reverse=True)[f]
            left = sorted((one for _, one in readings), reverse=True)[f]
            agreed[number] = OpenSession(executed, left)
    return agreed


def limit_reached(known: Mapping[int, OpenSession], most: int) -> str:
    """What to say about a key that has as many sessions open as it may, and until when; empty if it has fewer."""
    lasting = [session.left for session in known.values() if session.left > 0]
    if len(lasting) < most:
        return ""
    return (
        f"it has {len(lasting)} sessions open, as many as a key may have (max_sessions_per_key in the genesis): the "
        f"first of them ends {_at(min(lasting))}, unless it is used again"
    )


async def learn_limit(client: AsyncClient) -> str:
    """`limit_reached` of a client's own key; empty as well if too few replicas answer."""
    try:
        answers = await sessions_of(client, client.key, _LOOK_SECONDS)
    except SmartBFTError:  # it is being closed
        return ""
    genesis = client.genesis
    reached = limit_reached(agreed_sessions(answers, genesis.view.f), genesis.parameters.max_sessions_per_key)
    return f"the key {client.key.hex()[:16]}: {reached}" if reached else ""


def _at(left: int) -> str:
    """In how long, and when that is."""
    left = min(left, _MOST_LEFT)
    when = datetime.now(UTC) + timedelta(microseconds=left)
    minutes, seconds = divmod(-(-left // 1_000_000), 60)
    wait = f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    return f"in {wait} (at {when:%H:%M:%S} UTC)"
