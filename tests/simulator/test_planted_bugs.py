"""The simulator finds every planted bug within its stated number of seeds, and nothing in the same seeds without it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from smartbft.core.taking_part import TakingPart
from smartbft.testing import SimulationOptions, run_campaign, run_seed
from smartbft.testing.campaign import Failure
from smartbft.testing.checkers import Durability
from smartbft.testing.mutants import MUTANTS, Mutant, hunt
from smartbft.types import TOGETHER


def _asks_for(mutant: Mutant) -> tuple[str, int, bool, int]:
    """What it adds to the options of a run."""
    return mutant.byzantine, mutant.instances, mutant.late_liars, mutant.greedy


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_found(mutant: Mutant):
    found = hunt(mutant, SimulationOptions(checkpoints=TOGETHER))
    assert found is not None, f"not found within {mutant.seeds} seeds: {mutant.rule}"
    seeds, failure = found
    assert seeds <= mutant.seeds
    assert failure.promise in mutant.promises, failure.message


@pytest.mark.slow
@pytest.mark.parametrize(("attacks", "instances", "late", "greedy"), sorted({_asks_for(one) for one in MUTANTS}))
def test_without_the_bugs_the_same_seeds_pass(attacks: str, instances: int, late: bool, greedy: int):
    seeds = max(one.seeds for one in MUTANTS if _asks_for(one) == (attacks, instances, late, greedy))
    options = SimulationOptions(
        byzantine=attacks,
        checkpoints=TOGETHER,
        instances=instances or 50,
        late_liars=late,
        greedy=greedy,
        faults="none" if greedy else "all",
    )
    assert run_campaign(options, seeds).failures == []


def test_a_replica_that_forgets_and_votes_is_found_in_memory_mode(monkeypatch: pytest.MonkeyPatch):
    """Who restarts there counts towards `f`; that is no excuse for what it says."""
    begin = TakingPart.begin
    monkeypatch.setattr(TakingPart, "begin", lambda start, recovered, lost: begin(start, recovered, ""))
    monkeypatch.setattr(TakingPart, "_votes_are_missing", lambda start: False)
    options = SimulationOptions(persistence="memory", instances=30)
    outcomes = (run_seed(replace(options, seed=seed)) for seed in range(60))
    found = next(outcome for outcome in outcomes if isinstance(outcome, Failure))
    assert found.promise == "no contradiction"


@pytest.mark.slow
def test_a_vote_sent_too_early_is_also_found_by_what_it_leads_to(monkeypatch: pytest.MonkeyPatch):
    """Without the checker that compares each vote with the log.

    A leader that lost its proposal makes another one; or the others remember the votes, more than `f` replicas may only
    learn, and the cluster stands.
    """
    monkeypatch.setattr(Durability, "sent", lambda *_: None)
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name == "vote-before-durable")
    options = SimulationOptions(persistence="sync", signatures="keyed-hash")
    for seed in range(60):
        found = hunt(mutant, SimulationOptions(seed=seed, persistence=options.persistence, signatures="keyed-hash"))
        if found is not None:
            # By the checker, by a replica that holds the two votes against their signer, or by the stall.
            assert found[1].promise in ("no contradiction", "no false accusation", "liveness")
            return
    pytest.fail("not found within 60 seeds")
