"""A4: the Byzantine replicas of four split the honest ones in every way, in every phase.

One alone (`f`) splits nothing. With an accomplice (`f + 1`) the cluster may stop or split: then the proofs of the two
halves name at least `f + 1` culprits to anybody who sees both, and nobody else. Random ones, with seven too, are
a suite of `ci/campaign.py`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product

import pytest
from kit.splits import PHASES, Split, check_culprits, random_split

from smartbft.core import witness

N, F = 4, 1
FIRST_LEADER, SECOND_LEADER = 1, 2


def subsets(honest: Sequence[int]) -> Iterator[tuple[int, ...]]:
    """Every way to split: who gets the other value."""
    for size in range(len(honest) + 1):
        yield from combinations(honest, size)


def leader_of(phase: str) -> int:
    return SECOND_LEADER if phase == "SYNC" else FIRST_LEADER


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("liar", range(N))
def test_one_splits_nothing(liar: int, phase: str):
    for others in subsets([id for id in range(N) if id != liar]):
        simulation = Split((liar,), others, phase)
        assert simulation.run().instances >= simulation.options.instances
        assert simulation.named() <= {liar}


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("pair", list(combinations(range(N), 2)), ids=lambda pair: f"{pair[0]}-and-{pair[1]}")
def test_f_plus_one_are_named_when_they_split_the_others(pair: tuple[int, int], phase: str):
    honest = [id for id in range(N) if id not in pair]
    for others in subsets(honest):
        simulation = Split(pair, others, phase)
        split = simulation.is_split()
        # With the leader among them, and the honest ones apart, nothing can keep these together.
        assert split or not (phase in ("PROPOSE", "SYNC") and leader_of(phase) in pair and len(others) == 1)
        assert simulation.named() <= set(pair)
        if split:
            assert simulation.culprits() == set(pair)
            assert len(simulation.culprits()) >= F + 1


@pytest.mark.parametrize("number", range(8))
def test_random_ones(number: int):
    check_culprits(random_split(number))


def test_every_split_was_planned():
    planned = [(pair, others) for pair in combinations(range(N), 2) for others in subsets(range(N - 2))]
    alone = [(liar, others) for liar in range(N) for others in subsets(range(N - 1))]
    assert len(list(product(PHASES, planned + alone))) == 4 * (6 * 4 + 4 * 8)


def test_planted_bug_two_accepts_are_no_contradiction(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(witness, "contradiction", lambda one, other: None)
    simulation = Split((FIRST_LEADER, 0), (2,), "PROPOSE")
    assert simulation.is_split()
    assert simulation.culprits() == set()
