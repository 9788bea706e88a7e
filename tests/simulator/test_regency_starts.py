"""The checker of what regencies begin with: right SYNCs pass, forged ones do not, and it agrees with the oracle."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kit.statements import DIGESTS, DOMAINS, VALUES, VIEW, V, W, proof, signed, signed_sync, stop_data, sync, unbound
from msgspec.structs import replace
from oracles import epoch_change as oracle

from smartbft.crypto.signatures import Ed25519KeyVerifier
from smartbft.messages import Sync, Written
from smartbft.testing.checkers import PropertyViolation, Provability
from smartbft.testing.regency_starts import RegencyStarts

FREE = unbound()
BIND = (*(stop_data(signer, 1, 1, (0, V), ((V, 0),)) for signer in range(2)), stop_data(2))
LOCKED = (stop_data(0, 1, 1, (0, V), ((V, 0),)), *(stop_data(signer, 1, 1, None, ((W, 0),)) for signer in (1, 2)))


def checker() -> RegencyStarts:
    verifier = Ed25519KeyVerifier()
    provability = Provability(VIEW, DOMAINS, verifier)
    return RegencyStarts(VIEW, DOMAINS, verifier, provability.check, provability.key)


def objection(judge: RegencyStarts, replica: int, message: Sync) -> str:
    """What the checker says when the replica takes up this SYNC; empty: nothing."""
    try:
        judge.recorded(replica, message, 1)
    except PropertyViolation as violation:
        return str(violation)
    return ""


@pytest.mark.parametrize(
    "message",
    [
        sync(FREE),
        sync(FREE, VALUES[0]),
        sync(BIND, VALUES[0]),
        sync((*FREE[:2], stop_data(2, 1, 2)), VALUES[1]),
        # Who has not decided instance 1 cannot have voted in instance 2: its collect counts as empty.
        sync((BIND[0], BIND[1], stop_data(2, 1, 2)), VALUES[1]),
    ],
    ids=["unbound", "with a value", "bound", "after a decision", "of different instances"],
)
def test_what_the_rules_allow(message: Sync):
    judge = checker()
    assert [objection(judge, replica, message) for replica in (0, 1)] == ["", ""]


FORGED = {
    "did not sign": signed_sync(sync(FREE, VALUES[0]), by=1),
    "of 2 signers in 2 entries": sync(FREE[:2]),
    "of 2 signers in 3 entries": sync((*FREE[:2], FREE[1])),
    "no member": sync((*FREE[:2], signed(replace(stop_data(3), signer=5)))),
    "made for regency 2": sync((*FREE[:2], stop_data(2, 2))),
    "that it did not sign": sync((*FREE[:2], signed(stop_data(3), by=2))),
    "names a value twice": sync((*FREE[:2], signed(replace(FREE[2], write_set=(Written(V, 0), Written(V, 0)))))),
    "votes of 1": sync((*FREE[:2], stop_data(2, 1, 1, (1, V), ((V, 1),)))),
    "claims instance 1 without": sync((*FREE[:2], replace(stop_data(2, 1, 2), proof=None))),
    "claims instance 2 without": sync((*FREE[:2], replace(stop_data(2, 1, 3), proof=proof(1)))),
    "provability": sync((*FREE[:2], stop_data(2, 1, 2, last=proof(1, (0, 1))))),
    "another value than the one that binds": sync(BIND, VALUES[1]),
    "neither that a value binds": sync((*LOCKED[:2], stop_data(2, 1, 1, (0, W), ((W, 0),))), VALUES[0]),
}


@pytest.mark.parametrize("words", FORGED)
def test_what_the_rules_forbid(words: str):
    assert words in objection(checker(), 0, FORGED[words])


@st.composite
def collects(draw: st.DrawFn) -> dict[int, oracle.Collect]:
    """What three or four members say in regency 3."""
    found = {}
    for signer in draw(st.sampled_from([(0, 1, 2), (0, 1, 3), (1, 2, 3), (0, 1, 2, 3)])):
        written = draw(st.dictionaries(st.sampled_from(DIGESTS[:2]), st.integers(0, 2)))
        accepted = draw(st.sampled_from([None, *((when, digest) for digest in DIGESTS[:2] for when in range(3))]))
        when, digest = accepted or (-1, b"")
        found[signer] = (when, digest, frozenset(written.items()))
    return found


@settings(max_examples=300, deadline=None)
@given(collects(), st.sampled_from([0, 1]))
def test_it_agrees_with_the_oracle(said: dict[int, oracle.Collect], proposed: int):
    statements = tuple(
        stop_data(signer, 3, 1, (when, digest) if when >= 0 else None, tuple(written))
        for signer, (when, digest, written) in said.items()
    )
    verdict, digest = oracle.verdict(said, 4, 1)
    allowed = verdict == "unbound" or (verdict == "bound" and digest == DIGESTS[proposed])
    try:
        checker().recorded(0, sync(statements, VALUES[proposed], 3), 1)
    except PropertyViolation:
        assert not allowed
    else:
        assert allowed


def test_planted_bug_any_number_is_many(monkeypatch: pytest.MonkeyPatch):
    unsound = sync((stop_data(0, 1, 1, (0, V), ((V, 0),)), *FREE[1:]), VALUES[0])
    with pytest.raises(PropertyViolation, match="neither that a value binds"):
        checker().recorded(0, unsound, 1)
    monkeypatch.setattr(RegencyStarts, "_many", lambda checker, signers: True)
    checker().recorded(0, unsound, 1)
