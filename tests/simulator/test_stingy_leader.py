"""Leaders that use every limit at once (L3): proposals that are nearly late, and leave out whoever asked last."""

from __future__ import annotations

from functools import partial

import pytest
from kit.slow_leaders import PROPOSAL_TIMEOUT, SECOND, advance, cores, loaded, regencies, scripted, throughput

from smartbft.core.request_waits import RequestWaits
from smartbft.protocols.mod_smart.left_out import LeftOut
from smartbft.testing import Simulation
from smartbft.testing.troublemakers import Troublemaker

IN_FLIGHT = 80  # requests, of clients that wait for their replies
# Requests per second if each waits for the leader as long as is allowed, and then for the votes on it.
LEAST = 0.8 * IN_FLIGHT / (PROPOSAL_TIMEOUT / SECOND)
# Shares of what a proposal may take, and for how many proposals a request waits.
WAYS = [(0.9, 2), (0.9, 4), (0.7, 2), (0.45, 2), (0.45, 3), (0.1, 5)]


def left_by(share: float, groups: int, n: int = 4) -> tuple[Simulation, float]:
    """The run, and its requests per second after the adaptation."""
    run = scripted(n=n, clients=10, in_flight=8, instances=10**6, delay=int(share * PROPOSAL_TIMEOUT), groups=groups)
    return run, throughput(run, 2 * SECOND, 5 * SECOND // 2)


@pytest.mark.parametrize(("share", "groups"), WAYS)
def test_whoever_stays_keeps_requests_waiting_no_longer_than_a_proposal_may_take(share: float, groups: int) -> None:
    run, rate = left_by(share, groups)
    assert rate > LEAST
    assert regencies(run) in ({0}, {1})


@pytest.mark.parametrize("n", [4, 7])
def test_the_strongest_is_replaced_and_it_is_said_why(n: int) -> None:
    run, rate = left_by(0.9, 3, n)
    assert regencies(run) == {1}
    assert rate > LEAST
    reasons = [core.status()["last_regency_change"]["reason"] for core in cores(run)]
    assert any("requests waited for its proposals" in reason for reason in reasons)


def test_planted_bug_nobody_adds_up_what_is_nearly_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RequestWaits, "too_long", False)
    with pytest.raises(AssertionError):
        test_whoever_stays_keeps_requests_waiting_no_longer_than_a_proposal_may_take(0.9, 3)


# --- what must not look like one


def tell_the_followers(client: Troublemaker) -> None:
    """Many good requests at once, of which the first leader hears from the others only."""
    for _ in range(10):
        client._sequence += 1
        request = client._request()
        for replica in (0, 2, 3):
            client._send(request, replica)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("think_time", [1_000, 1_000_000], ids=["under load", "with little else to propose"])
def test_clients_that_tell_followers_only_have_no_leader_replaced(seed: int, think_time: int) -> None:
    run = scripted(
        seed=seed, instances=300, clients=8, in_flight=4, troublemakers=2, mischief_pause=50_000, think_time=think_time
    )
    for client in run.clients:
        if isinstance(client, Troublemaker):
            client._mischief = (partial(tell_the_followers, client),)
    run.run()
    assert regencies(run) == {0}


@pytest.mark.parametrize("seed", range(3))
def test_a_correct_leader_is_told_nothing(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No message more than before."""
    said: list[int] = []
    monkeypatch.setattr(LeftOut, "tell", lambda rule: said.append(rule._chassis.id))
    run = loaded(seed=seed)
    advance(run, SECOND // 2)
    assert regencies(run) == {0}
    assert said == []
