"""Leaders that are slow and not silent (L3), and what must not look like one: far networks, stalls, clients."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest
from kit.slow_leaders import PROPOSAL_TIMEOUT, TIMEOUT, cores, regencies, scripted

from smartbft.core.proposal_delays import ProposalDelays
from smartbft.limits import LATE_PROPOSALS
from smartbft.protocols.mod_smart.leader_watch import LeaderWatch
from smartbft.testing import Simulation
from smartbft.testing.scenario import Attacker
from smartbft.testing.troublemakers import Troublemaker
from smartbft.types import CHANNEL, SIGNATURES

Deeds = tuple[Callable[[Troublemaker], None], ...]


# --- slow leaders


@pytest.mark.parametrize("n", [4, 7])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6, 0.9])
def test_a_leader_under_the_request_timeout_is_replaced_once(share: float, n: int) -> None:
    run = scripted(delay=int(share * TIMEOUT), n=n)
    report = run.run()
    assert regencies(run) == {1}
    # Four late proposals, or as many as cost half of a timeout; then all is quick.
    assert report.virtual_seconds < LATE_PROPOSALS * share * TIMEOUT / 1e6 + 3
    reasons = {core.status()["last_regency_change"]["reason"] for core in cores(run)}
    assert any("proposals came late" in reason for reason in reasons)


def test_planted_bug_a_leader_that_is_never_too_slow_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProposalDelays, "too_slow", False)
    run = scripted(delay=int(0.9 * TIMEOUT))
    assert run.run().virtual_seconds > LATE_PROPOSALS * 0.9 * TIMEOUT / 1e6 + 3
    assert regencies(run) == {0}


def test_a_leader_under_the_proposal_timeout_stays_and_costs_no_more() -> None:
    run = scripted(delay=PROPOSAL_TIMEOUT * 8 // 10)
    report = run.run()
    assert regencies(run) == {0}
    assert report.virtual_seconds < 60 * 1.5 * PROPOSAL_TIMEOUT / 1e6


# --- what must not look like one


def test_a_far_network_stops_changing_leaders() -> None:
    """Every leader is far from some: at most as many changes as it takes to allow for it."""
    run = scripted(instances=150, network=replace(scripted().scenario.network, delay=150_000, jitter=20_000))
    while run.decided < 75:
        run.advance(100)
    half_way = max(regencies(run))
    run.run()
    assert max(regencies(run)) <= 5
    assert max(regencies(run)) - half_way <= 1


def always_late(monkeypatch: pytest.MonkeyPatch) -> int:
    """Everybody is as slow as the first leader was, for so long that only more patience ends it."""
    run = scripted(instances=100, delay=300_000, attackers=tuple(Attacker(id, "slow", 1.0, 0) for id in range(4)))
    run.byzantine = frozenset()
    for host in run.hosts:
        for attack in host.attacks:
            attack._share = 300_000 / TIMEOUT  # type: ignore[attr-defined]
    while run.decided < 100 and run.scheduler.now < 60_000_000:
        run.advance(100)
    return max(host.replica.core.regency for host in run.hosts if host.replica is not None)


def test_where_all_leaders_are_slow_patience_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= always_late(monkeypatch) <= 5


def test_planted_bug_patience_that_never_grows_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProposalDelays, "allowed", lambda delays, now: delays.base)
    assert always_late(monkeypatch) > 8


@pytest.mark.parametrize("seed", range(1, 4))
def test_disks_that_stall_now_and_then_cost_no_leader(seed: int) -> None:
    """Most of the time: where four of them hit one leader within a few instances (a tenth of the seeds), it goes."""
    stalling = replace(scripted().scenario.disk, stall_rate=0.02, stall=400_000)
    run = scripted(seed=seed, disk=stalling)
    run.run()
    assert regencies(run) == {0}


@pytest.mark.parametrize("pause", [300_000, 1_500_000])
def test_a_follower_that_is_cut_off_for_a_while_suspects_nobody(pause: int) -> None:
    run = scripted(instances=200)
    for _ in range(5):
        run.advance(2_000)
        run.isolate(0, pause)
    run.run()
    assert regencies(run) == {0}


def tell_all_but_the_leader(client: Troublemaker) -> None:
    """A good request, of which the first leader hears from the others only."""
    client._sequence += 1
    request = client._request()
    for replica in (0, 2, 3):
        client._send(request, replica)


DEEDS = {
    "tells all but the leader": (tell_all_but_the_leader,),
    "tells one replica only": (Troublemaker._tell_one,),
    "leaves gaps": (Troublemaker._leave_gap, Troublemaker._leave_gap, Troublemaker._tell_one),
    "says different things to different replicas": (Troublemaker._equivocate,),
    "floods": (Troublemaker._flood,),
}


def beside(deeds: Deeds, seed: int, authentication: str = SIGNATURES) -> Simulation:
    """Few honest requests, so that there is often nothing else to propose."""
    run = scripted(
        seed=seed,
        instances=100,
        authentication=authentication,
        proposal_timeout=40_000,
        troublemakers=1,
        mischief_pause=100_000,
        think_time=1_000_000,
    )
    for client in run.clients:
        if isinstance(client, Troublemaker):
            client._mischief = tuple(partial(deed, client) for deed in deeds)
    return run


@pytest.mark.parametrize("authentication", [SIGNATURES, CHANNEL])
@pytest.mark.parametrize("deeds", DEEDS.values(), ids=DEEDS.keys())
@pytest.mark.parametrize("seed", range(2))
def test_bad_clients_have_no_leader_replaced(seed: int, deeds: Deeds, authentication: str) -> None:
    """L4, with a proposal timeout that is as short as it may be on this network."""
    run = beside(deeds, seed, authentication)
    run.run()
    assert run.outstanding == 0
    assert regencies(run) == {0}


def test_planted_bug_a_leader_that_is_not_reminded_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others wait for what the leader cannot propose."""
    monkeypatch.setattr(LeaderWatch, "_ask", lambda self: None)
    run = beside(DEEDS["tells all but the leader"], 0)
    run.run()
    assert regencies(run) != {0}
