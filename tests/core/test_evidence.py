"""Evidence: what contradicts what, what convinces a third party, and that no correct replica can be accused."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.requests import CHAIN
from kit.statements import (
    DIGESTS,
    DOMAINS,
    VALUES,
    VIEW,
    V,
    W,
    accept,
    proof,
    signed,
    signed_sync,
    stop_data,
    sync,
    unbound,
)
from msgspec.structs import replace

from smartbft.core import evidence as rules
from smartbft.core.evidence import (
    Evidence,
    Offence,
    Statement,
    contradiction,
    decode_evidence,
    make_evidence,
    verify,
)
from smartbft.crypto.domains import Domains
from smartbft.errors import MalformedMessage

OTHER_CHAIN = Domains(bytes(32))

CONTRADICTIONS: dict[str, tuple[Offence, int, Statement, Statement]] = {
    "two ACCEPTs": (Offence.TWO_ACCEPTS, 0, accept(), accept(digest=W)),
    "two STOPDATA: another lock": (Offence.TWO_STOP_DATA, 0, stop_data(), stop_data(accepted=(0, V))),
    "two STOPDATA: another write set": (Offence.TWO_STOP_DATA, 0, stop_data(), stop_data(written=((V, 0),))),
    "two SYNCs: other values": (Offence.TWO_SYNCS, 2, sync(unbound(), VALUES[0]), sync(unbound(), VALUES[1])),
    "two SYNCs: a value and none": (Offence.TWO_SYNCS, 2, sync(unbound(), VALUES[0]), sync(unbound())),
    "two SYNCs: other STOPDATA": (
        Offence.TWO_SYNCS,
        2,
        sync(unbound()),
        sync((*unbound()[:2], stop_data(3))),
    ),
    "lock left out": (Offence.FORGOTTEN_LOCK, 0, accept(), stop_data(regency=1)),
    "lock of an older regency": (
        Offence.FORGOTTEN_LOCK,
        0,
        accept(regency=2),
        stop_data(regency=3, accepted=(1, V)),
    ),
    "lock of another value": (Offence.FORGOTTEN_LOCK, 0, accept(), stop_data(regency=1, accepted=(0, W))),
    "lock admitted once and left out later": (
        Offence.FORGOTTEN_LOCK,
        0,
        stop_data(regency=1, accepted=(0, V)),
        stop_data(regency=2),
    ),
    "accepted where it says it has not been": (
        Offence.FORGOTTEN_DECISION,
        0,
        accept(instance=3),
        stop_data(instance=2),
    ),
    "decided less than before": (
        Offence.FORGOTTEN_DECISION,
        0,
        stop_data(regency=1, instance=3),
        stop_data(regency=2, instance=2),
    ),
}

HARMLESS: dict[str, tuple[Statement, Statement]] = {
    "the same ACCEPT": (accept(), accept()),
    "ACCEPTs of two regencies": (accept(), accept(regency=1, digest=W)),
    "ACCEPTs of two instances": (accept(), accept(instance=2, digest=W)),
    "the same STOPDATA with another proof": (
        stop_data(instance=2),
        stop_data(instance=2, last=proof(1, (1, 2, 3))),
    ),
    "STOPDATA of two regencies": (stop_data(regency=1), stop_data(regency=2, accepted=(1, V))),
    "STOPDATA of two signers": (stop_data(0), stop_data(1, accepted=(0, V))),
    "STOPDATA that went on": (stop_data(regency=1, instance=1), stop_data(regency=2, instance=2)),
    "SYNCs of two regencies": (sync(unbound()), sync(unbound(2), regency=2)),
    "lock remembered": (accept(), stop_data(regency=1, accepted=(0, V))),
    "lock replaced by a newer one": (accept(), stop_data(regency=2, accepted=(1, W))),
    "ACCEPT after the promise, in its regency": (accept(regency=1), stop_data(regency=1)),
    "ACCEPT after the promise, in a later regency": (accept(regency=2), stop_data(regency=1)),
    "ACCEPT in an instance decided since": (accept(instance=1), stop_data(instance=2)),
    "another view": (accept(), accept(view=1, digest=W)),
    "an ACCEPT and a SYNC": (accept(2), sync(unbound(), VALUES[1])),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions_are_found_and_convince(name: str) -> None:
    offence, accused, one, other = CONTRADICTIONS[name]
    assert contradiction(one, other) is contradiction(other, one) is offence
    made = make_evidence(CHAIN, accused, one, other)
    assert made == make_evidence(CHAIN, accused, other, one)
    verdict = verify(decode_evidence(made.encode()), VIEW, DOMAINS)
    assert (verdict.holds, verdict.offence, verdict.reason) == (True, offence, "")
    assert made.name().startswith(f"{accused}-")


@pytest.mark.parametrize("name", HARMLESS)
def test_what_goes_together_is_no_contradiction(name: str) -> None:
    one, other = HARMLESS[name]
    assert contradiction(one, other) is contradiction(other, one) is None
    assert not verify(make_evidence(CHAIN, 0, one, other), VIEW, DOMAINS).holds


def false_accusations() -> dict[str, tuple[Evidence, str]]:
    """Evidence that must not hold, and a word of the reason."""
    one, other = accept(), accept(digest=W)
    good = make_evidence(CHAIN, 0, one, other)
    foreign = accept(digest=W, domains=OTHER_CHAIN)
    lie = stop_data(domains=OTHER_CHAIN)
    return {
        "another accused": (replace(good, accused=1), "did not sign the Accept"),
        "no member": (replace(good, accused=9), "not a member"),
        "another chain": (replace(good, chain_id=bytes(32)), "is about chain"),
        "a vote of another chain": (make_evidence(CHAIN, 0, one, foreign), "did not sign the Accept"),
        "a STOPDATA of another chain": (make_evidence(CHAIN, 0, one, lie), "did not sign the StopData"),
        "another view": (make_evidence(CHAIN, 0, one, accept(view=1, digest=W)), "about view 1"),
        "statements of two signers": (make_evidence(CHAIN, 0, one, accept(1, digest=W)), "did not sign the Accept"),
        "a changed digest": (make_evidence(CHAIN, 0, one, replace(one, digest=W)), "did not sign the Accept"),
        "a changed regency": (
            make_evidence(CHAIN, 0, other, replace(accept(regency=1), regency=0)),
            "did not sign the Accept",
        ),
        "a STOPDATA of somebody else": (make_evidence(CHAIN, 0, one, stop_data(1)), "not for replica 0 to sign"),
        "a STOPDATA signed by somebody else": (
            make_evidence(CHAIN, 0, one, signed(stop_data(), by=1)),
            "did not sign the StopData",
        ),
        "a SYNC that was not theirs to make": (
            make_evidence(CHAIN, 0, sync(unbound()), sync(unbound(), VALUES[0])),
            "not for replica 0 to sign",
        ),
        "a SYNC that its leader did not sign": (
            make_evidence(CHAIN, 2, sync(unbound()), signed_sync(sync(unbound(), VALUES[0]), by=0)),
            "did not sign the Sync",
        ),
        "the same twice": (make_evidence(CHAIN, 0, one, one), "do not contradict"),
    }


def test_no_false_accusation_holds_and_each_says_why() -> None:
    for name, (made, word) in false_accusations().items():
        verdict = verify(decode_evidence(made.encode()), VIEW, DOMAINS)
        assert not verdict.holds, name
        assert word in verdict.reason, name


def accusations_that_hold() -> list[str]:
    """Names of the false accusations that pass."""
    return [name for name, (made, _) in false_accusations().items() if verify(made, VIEW, DOMAINS).holds]


def test_planted_bug_no_domain_check(monkeypatch: pytest.MonkeyPatch) -> None:
    """With one key on two chains, honest votes there and here would become evidence."""
    monkeypatch.setattr(Domains, "accept_payload", lambda self, view, regency, instance, digest: digest)
    assert "a vote of another chain" in accusations_that_hold()


def test_planted_bug_the_signer_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rules.Ed25519KeyVerifier, "verify", lambda *_: True)
    assert "another accused" in accusations_that_hold()


# --- what no correct replica can get into: a model of one that keeps its promises ---


class Correct:
    """Signs what a correct replica may sign, in any order of events, with restarts and repetitions."""

    def __init__(self) -> None:
        self.decided = 0
        self.regency = 0
        self.lock: tuple[int, bytes] | None = None
        self.said: list[Statement] = []

    def accept(self, digest: bytes) -> None:
        """In a regency it accepts one value per instance."""
        if self.lock is None or self.lock[0] < self.regency:
            self.lock = (self.regency, digest)
            self.said.append(accept(0, self.regency, self.decided + 1, digest))

    def decide(self, _: bytes) -> None:
        self.decided += 1
        self.lock = None

    def install(self, _: bytes) -> None:
        self.regency += 1
        self.said.append(stop_data(0, self.regency, self.decided + 1, self.lock, last=proof(max(1, self.decided))))

    def restart(self, _: bytes) -> None:
        """It finds its records and says the last things again."""
        self.said += self.said[-2:]


STEPS: list[Callable[[Correct, bytes], None]] = [Correct.accept, Correct.decide, Correct.install, Correct.restart]
History = list[tuple[Callable[[Correct, bytes], None], bytes]]
histories = st.lists(st.tuples(st.sampled_from(STEPS), st.sampled_from(DIGESTS)), max_size=14)


def offences_in(history: History) -> list[Offence]:
    replica = Correct()
    for step, digest in history:
        step(replica, digest)
    found = (contradiction(*pair) for pair in itertools.combinations(replica.said, 2))
    return [offence for offence in found if offence is not None]


@settings(max_examples=300, deadline=None)
@given(histories)
def test_a_correct_replica_never_contradicts_itself(history: History) -> None:
    assert not offences_in(history)


def test_planted_bug_a_rule_that_accuses_the_innocent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever decided an instance does not speak of its lock any more: a rule that forgets this is found."""
    concealed = rules._concealed

    def hasty(accepted, instance, promise):  # type: ignore[no-untyped-def]
        return concealed(accepted, max(instance, promise.instance), promise)

    monkeypatch.setattr(rules, "_concealed", hasty)
    assert offences_in([(Correct.accept, V), (Correct.decide, V), (Correct.install, V)])


# --- the file ---


def test_other_files_are_refused() -> None:
    good = make_evidence(CHAIN, 0, accept(), accept(digest=W))
    swapped = replace(good, first=good.second, second=good.first)
    with_proof = replace(good, first=accept(), second=stop_data(instance=2))
    for bad, word in (
        (b"", "not evidence"),
        (b"\xff" * 100, "not evidence"),
        (good.encode()[:-1], "not evidence"),
        (good.encode() + b"\0", "not evidence"),
        (replace(good, version=1).encode(), "format version 1"),
        (swapped.encode(), "canonical"),
        (with_proof.encode(), "canonical"),
        (bytes(rules.MAX_EVIDENCE_BYTES + 1), "too many"),
    ):
        with pytest.raises(MalformedMessage, match=word):
            decode_evidence(bad)
