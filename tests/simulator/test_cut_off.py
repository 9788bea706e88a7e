"""L2: any `f` replicas are cut off at any phase of the protocol: the others make progress, and healing brings all back.

Every replica of four in every phase, a sample of pairs of seven, and some of the random ones of `ci/campaign.py`.
"""

from __future__ import annotations

import random
from itertools import combinations

import pytest
from kit.cut_offs import LEADERS, PHASES, CutOff, random_cut_off

from smartbft.core import epoch_change
from smartbft.core.catch_up import CatchUp
from smartbft.messages import StopData
from smartbft.protocols.mod_smart import collecting
from smartbft.testing import PropertyViolation


def words(positions: tuple[int, ...]) -> str:
    return " and ".join(LEADERS[position] for position in positions)


@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.replace(" ", "-"))
@pytest.mark.parametrize("position", range(4), ids=lambda position: LEADERS[position].replace(" ", "-") + "-cut-off")
def test_four_replicas(position: int, phase: str):
    world = CutOff(4, (position,), phase)
    world.live()
    assert world.level()


PAIRS = [(pair, phase) for pair in combinations(range(7), 2) for phase in PHASES]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("positions", "phase"),
    random.Random(7).sample(PAIRS, 24),
    ids=lambda value: words(value) if isinstance(value, tuple) else value,
)
def test_seven_replicas(positions: tuple[int, ...], phase: str):
    world = CutOff(7, positions, phase)
    world.live()
    assert world.level()


@pytest.mark.parametrize("number", range(8))
def test_random_ones(number: int):
    world = random_cut_off(number)
    world.live()
    assert world.begun is None or world.level()


# --- planted bugs -----------------------------------------------------------------------------------------------------


def _waits_for_all(patch: pytest.MonkeyPatch) -> None:
    """A new leader wants the STOPDATA of everybody, as one in Hyperledger Fabric waited for the wrong set (2016)."""

    def evaluate(collected: list[StopData], n: int, f: int) -> epoch_change.Outcome:
        return epoch_change.evaluate(collected if len(collected) == n else [], n, f)

    patch.setattr(collecting, "evaluate", evaluate)


def _decides_with_all(patch: pytest.MonkeyPatch) -> None:
    """A quorum is everybody: one replica out of reach stops the rest (BFT-SMaRt issue 19)."""
    patch.setattr("smartbft.types.quorum", lambda n: n)


def _never_catches_up(patch: pytest.MonkeyPatch) -> None:
    """Who was away does not ask for what it missed (BFT-SMaRt issue 27)."""
    patch.setattr(CatchUp, "_ask", lambda *_: None)


@pytest.mark.parametrize(
    ("plant", "position", "phase"),
    [
        (_waits_for_all, 3, "during STOP"),
        (_decides_with_all, 2, "before PROPOSE"),
        (_never_catches_up, 2, "before PROPOSE"),
    ],
    ids=["waits for all", "decides with all", "never catches up"],
)
def test_planted_bugs(plant: object, position: int, phase: str, monkeypatch: pytest.MonkeyPatch):
    plant(monkeypatch)  # type: ignore[operator]
    world = CutOff(4, (position,), phase)
    with pytest.raises((AssertionError, PropertyViolation), match=r"nothing goes on|liveness"):
        world.live()
