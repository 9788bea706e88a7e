"""Leaders that propose in time and next to nothing (L3), and correct ones that have verified less than the others."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kit.slow_leaders import LEADER, SECOND, TIMEOUT, advance, cores, loaded, regencies, scripted, throughput

from smartbft.core.proposal_delays import ProposalDelays
from smartbft.core.request_waits import RequestWaits
from smartbft.protocols.mod_smart.passed_over import PassedOver
from smartbft.testing.byzantine.normal_phase import Censor
from smartbft.testing.replica import SimulatedReplica
from smartbft.testing.scenario import Attacker

# --- leaders that pass requests over


@pytest.mark.parametrize(("n", "batch"), [(4, 1), (4, 2), (7, 1)])
def test_a_leader_with_tiny_batches_is_replaced_and_throughput_comes_back(n: int, batch: int) -> None:
    """It is found when half of the request timeout is lost, before any request was late."""
    attacked, fault_free = loaded(n=n, batch=batch), loaded(n=n)
    advance(attacked, SECOND // 2)
    assert regencies(attacked) == {0}
    before = throughput(attacked, SECOND // 2, SECOND * 9 // 10)
    after = throughput(attacked, SECOND * 5 // 4, SECOND * 3 // 2)
    reference = throughput(fault_free, SECOND // 10, SECOND // 4)
    assert regencies(attacked) == {1}
    assert before < 0.05 * reference
    assert after > 0.30 * reference
    reasons = [core.status()["last_regency_change"]["reason"] for core in cores(attacked)]
    assert any("requests waited for its proposals" in reason for reason in reasons)


def test_planted_bug_a_leader_that_may_pass_requests_over_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PassedOver, "decided", lambda *_: 0)
    monkeypatch.setattr(RequestWaits, "too_long", False)
    with pytest.raises(AssertionError):
        test_a_leader_with_tiny_batches_is_replaced_and_throughput_comes_back(4, 1)


def test_a_leader_that_keeps_nobody_waiting_for_long_stays() -> None:
    """Its batches are small, but what it leaves out is in one of the next: that costs no more than a late proposal."""
    run = scripted(clients=20, in_flight=1, instances=300, batch=4)
    run.run()
    assert regencies(run) == {0}


def test_censorship_is_found_before_the_request_times_out() -> None:
    """One client's requests are left lying, whoever speaks for them, while others' are ordered."""
    run = scripted(clients=4, instances=10**6, attackers=(Attacker(LEADER, "censor", 1.0, 0),))
    (attack,) = run.hosts[LEADER].attacks
    assert isinstance(attack, Censor)
    while regencies(run) == {0}:
        run.advance(20)
        assert run.scheduler.now < TIMEOUT
    assert run.scheduler.now < 0.6 * TIMEOUT


# --- leaders that have verified less than the others

Who = Callable[[SimulatedReplica], bool]
# Requests in a job, and microseconds for it: 160 requests in flight wait for most of a second.
VERIFICATION = [(20, 100_000), (5, 25_000)]


def everybody(replica: SimulatedReplica) -> bool:
    return True


def the_first_leader(replica: SimulatedReplica) -> bool:
    return replica.id == LEADER


def whoever_leads(replica: SimulatedReplica) -> bool:
    return replica.core.leader == replica.id


def last_regency(patch: pytest.MonkeyPatch, slow: Who, job: int, delay: int, seconds: int) -> int:
    """After a run in which some replicas verify one job after the other, each for `delay` microseconds."""
    pump = SimulatedReplica._pump_verifier

    def pump_slowly(replica: SimulatedReplica) -> None:
        if not slow(replica):
            pump(replica)
        elif not replica._jobs and (found := replica.pool.take_unverified(job)) is not None:
            replica._jobs += 1
            replica._scheduler.after(delay, replica._on_verified, found)

    patch.setattr(SimulatedReplica, "_pump_verifier", pump_slowly)
    run = loaded()
    advance(run, seconds * SECOND)
    return max(regencies(run))


@pytest.mark.parametrize(("job", "delay"), VERIFICATION)
def test_where_verification_is_slow_everywhere_leaders_stay(
    job: int, delay: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is the bottleneck: batches are small and requests wait for most of a second, at the leader as well as here.
    They do not wait in the same order everywhere: that may cost one leader before it is allowed for.
    """
    assert last_regency(monkeypatch, everybody, job, delay, 8) <= 1


def test_a_leader_that_verifies_more_slowly_than_the_others_is_replaced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert last_regency(monkeypatch, the_first_leader, 20, 100_000, 3) == 1


def test_where_every_leader_falls_behind_patience_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """From 50 ms to the request timeout there are six doublings at most."""
    assert 1 <= last_regency(monkeypatch, whoever_leads, 20, 100_000, 16) <= 6


def test_planted_bug_patience_with_what_is_passed_over_never_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ProposalDelays, "allowed", lambda delays, now: delays.base)
    assert last_regency(monkeypatch, whoever_leads, 20, 100_000, 16) > 6


# --- what it costs where nothing is wrong


@pytest.mark.parametrize("seed", range(3))
def test_a_correct_leader_is_not_reminded(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """No message more than before."""
    said: list[int] = []
    monkeypatch.setattr(PassedOver, "_say", lambda watch: said.append(watch._chassis.id))
    run = loaded(seed=seed)
    advance(run, SECOND // 2)
    assert regencies(run) == {0}
    assert said == []
