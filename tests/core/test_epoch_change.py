"""The epoch change of VP-Consensus: which sets of collects are sound, what binds, what is free.

Every set is judged twice: by the product, and by an oracle written with plain sets.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracles import epoch_change as oracle
from oracles.epoch_change import EMPTY, Collect

from smartbft.core import epoch_change
from smartbft.core.epoch_change import Outcome, Verdict, evaluate
from smartbft.messages import Accepted, StopData, Written
from smartbft.quorum import max_faulty, quorum

A, B, C = b"a" * 32, b"b" * 32, b"c" * 32
NEXT = 9  # the regency that is being installed: above all timestamps
SIZES = (4, 5, 7)


def stop_data(signer: int, collect: Collect = EMPTY, instance: int = 1) -> StopData:
    ts, value, write_set = collect
    entries = tuple(Written(digest, when) for digest, when in sorted(write_set))
    return StopData(0, NEXT, signer, instance, Accepted(ts, value) if ts >= 0 else None, entries, None, bytes(64))


def product(collects: dict[int, Collect], n: int) -> Outcome:
    return evaluate([stop_data(signer, collect) for signer, collect in collects.items()], n, max_faulty(n))


def judge(collects: dict[int, Collect], n: int) -> Outcome:
    """The product's verdict, after the oracle has agreed."""
    outcome = product(collects, n)
    assert (outcome.verdict.value, outcome.digest) == oracle.verdict(collects, n, max_faulty(n))
    return outcome


def collect(ts: int = -1, value: bytes = b"", *written: tuple[bytes, int]) -> Collect:
    return ts, value, frozenset(written)


def accepted(ts: int, value: bytes) -> Collect:
    """As a correct replica has it that wrote and accepted."""
    return collect(ts, value, (value, ts))


def numbered(*groups: tuple[int, Collect]) -> dict[int, Collect]:
    """So many replicas with this collect each, numbered from 0."""
    every = [each for count, each in groups for _ in range(count)]
    return dict(enumerate(every))


# Boundaries of each predicate, for n = 4 (Q = 3), n = 5 (Q = 4: rounding down would give 3) and n = 7 (Q = 5).


@pytest.mark.parametrize("n", SIZES)
def test_sound_needs_n_minus_f_replicas(n: int) -> None:
    f = max_faulty(n)
    assert judge(numbered((n - f - 1, EMPTY)), n).verdict is Verdict.UNSOUND
    assert judge(numbered((n - f, EMPTY)), n).verdict is Verdict.UNBOUND
    assert judge(numbered((n - f - 1, accepted(0, A))), n).verdict is Verdict.UNSOUND
    assert judge(numbered((n - f, accepted(0, A))), n) == Outcome(1, Verdict.BOUND, A)


def test_sound_of_nobody() -> None:
    assert evaluate([], 4, 1) == Outcome(0, Verdict.UNSOUND)


@pytest.mark.parametrize("n", SIZES)
def test_unbound_needs_a_quorum_of_empty_collects(n: int) -> None:
    q = quorum(n)
    torn = collect(0, A)  # accepted, but certified by nobody
    assert judge(numbered((q - 1, EMPTY), (n - q + 1, torn)), n).verdict is Verdict.UNSOUND
    assert judge(numbered((q, EMPTY), (n - q, torn)), n).verdict is Verdict.UNBOUND


@pytest.mark.parametrize("n", SIZES)
def test_certified_needs_more_than_f_writers(n: int) -> None:
    f = max_faulty(n)
    writers = [collect(0, A, (A, 0))] * f
    silent = [collect(0, A)] * (n - f)
    assert judge(dict(enumerate([*writers, *silent])), n).verdict is Verdict.UNSOUND
    writers.append(collect(0, A, (A, 0)))
    assert judge(dict(enumerate([*writers, *silent[1:]])), n).digest == A


@pytest.mark.parametrize("n", SIZES)
def test_certified_counts_writes_of_that_regency_or_later(n: int) -> None:
    f = max_faulty(n)
    rest = n - f - 1
    assert judge(numbered((f + 1, collect(3, A, (A, 2))), (rest, collect(3, A))), n).verdict is Verdict.UNSOUND
    assert judge(numbered((f + 1, collect(3, A, (A, 3))), (rest, collect(3, A))), n).digest == A
    assert judge(numbered((f + 1, collect(3, A, (A, 8))), (rest, collect(3, A))), n).digest == A


@pytest.mark.parametrize("n", SIZES)
def test_quorum_highest_needs_a_quorum_that_saw_nothing_newer(n: int) -> None:
    q = quorum(n)
    newer = collect(5, B)  # certified by nobody, so it binds nothing itself
    assert judge(numbered((q - 1, accepted(3, A)), (n - q + 1, newer)), n).verdict is Verdict.UNSOUND
    assert judge(numbered((q, accepted(3, A)), (n - q, newer)), n).digest == A


@pytest.mark.parametrize("n", SIZES)
def test_quorum_highest_another_value_of_the_same_regency_does_not_agree(n: int) -> None:
    q = quorum(n)
    other = collect(3, B)
    assert judge(numbered((q - 1, accepted(3, A)), (n - q + 1, other)), n).verdict is Verdict.UNSOUND
    assert judge(numbered((q, accepted(3, A)), (n - q, other)), n).digest == A


@pytest.mark.parametrize("n", SIZES)
def test_quorum_highest_older_and_empty_collects_agree(n: int) -> None:
    f = max_faulty(n)
    collects = numbered((1, accepted(3, A)), (f, collect(2, B, (A, 3))), (n - f - 1, EMPTY))
    assert judge(collects, n).digest == A


@pytest.mark.parametrize("n", SIZES)
def test_binds_needs_one_who_accepted(n: int) -> None:
    """Everybody wrote it and nobody saw the quorum: the leader is free."""
    assert judge(numbered((n, collect(-1, b"", (A, 3)))), n).verdict is Verdict.UNBOUND


@pytest.mark.parametrize("n", SIZES)
def test_binds_the_greatest_of_several(n: int) -> None:
    """A liar's old claim and a newer one may both bind while nothing is decided: all must choose the same."""
    f = max_faulty(n)
    liars = [accepted(0, A)] * f
    both = [collect(-1, b"", (A, 0), (B, 1))] * (n - 2 * f)
    newer = [accepted(1, B)] * f
    collects = dict(enumerate([*liars, *both, *newer]))
    assert oracle.binding(collects, n, f) == {(0, A), (1, B)}
    assert judge(collects, n).digest == B


@pytest.mark.parametrize("n", SIZES)
def test_field_note_b4_entries_do_not_add_up(n: int) -> None:
    """One replica that names a value in many regencies counts once."""
    f = max_faulty(n)
    liar = collect(5, A, *((A, ts) for ts in range(5, 5 + f + 1)))
    statements = [stop_data(signer) for signer in range(n - f - 1)]
    outcome = evaluate([*statements, stop_data(n - 1, liar)], n, f)
    assert outcome.verdict is not Verdict.BOUND


# Instances: the bounded STOPDATA speaks about the instance after the signer's last decision only.


@pytest.mark.parametrize("n", SIZES)
def test_the_instance_after_the_highest_proven_one_counts(n: int) -> None:
    f = max_faulty(n)
    statements = [stop_data(signer, accepted(0, A), instance=4) for signer in range(n - f)]
    assert evaluate(statements, n, f) == Outcome(4, Verdict.BOUND, A)


@pytest.mark.parametrize("n", SIZES)
def test_a_collect_for_a_proven_instance_counts_as_empty(n: int) -> None:
    f, q = max_faulty(n), quorum(n)
    behind = [stop_data(signer, accepted(0, A), instance=3) for signer in range(q)]
    ahead = [stop_data(signer, accepted(0, B), instance=4) for signer in range(q, n)]
    outcome = evaluate([*behind, *ahead], n, f)
    assert outcome == Outcome(4, Verdict.UNBOUND)


@pytest.mark.parametrize("n", SIZES)
def test_what_was_written_in_a_proven_instance_certifies_nothing(n: int) -> None:
    f = max_faulty(n)
    behind = [stop_data(signer, collect(-1, b"", (B, 3)), instance=3) for signer in range(n - f - 1)]
    ahead = [stop_data(n - 1, accepted(3, B), instance=4)]
    assert evaluate([*behind, *ahead], n, f).verdict is not Verdict.BOUND


# Properties

entries = st.frozensets(st.tuples(st.sampled_from([A, B, C]), st.integers(0, NEXT - 1)), max_size=3)


@st.composite
def any_collect(draw: st.DrawFn) -> Collect:
    write_set = frozenset(dict(sorted(draw(entries), key=lambda entry: entry[1])).items())
    if draw(st.booleans()):
        return -1, b"", write_set
    return draw(st.integers(0, NEXT - 1)), draw(st.sampled_from([A, B, C])), write_set


@st.composite
def any_set(draw: st.DrawFn) -> tuple[int, dict[int, Collect]]:
    n = draw(st.sampled_from(SIZES))
    signers = draw(st.sets(st.integers(0, n - 1), min_size=0, max_size=n))
    return n, {signer: draw(any_collect()) for signer in sorted(signers)}


@given(any_set())
def test_the_product_and_the_oracle_agree(example: tuple[int, dict[int, Collect]]) -> None:
    n, collects = example
    outcome = product(collects, n)
    assert (outcome.verdict.value, outcome.digest) == oracle.verdict(collects, n, max_faulty(n))


@given(any_set(), st.randoms(use_true_random=False))
def test_the_order_of_collects_does_not_matter(example: tuple[int, dict[int, Collect]], random: object) -> None:
    n, collects = example
    statements = [stop_data(signer, each) for signer, each in collects.items()]
    shuffled = list(statements)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert evaluate(statements, n, max_faulty(n)) == evaluate(shuffled, n, max_faulty(n))


@given(any_set(), st.data())
def test_added_collects_take_nothing_away(example: tuple[int, dict[int, Collect]], data: st.DataObject) -> None:
    """What is sound stays sound; what binds goes on binding."""
    n, collects = example
    f = max_faulty(n)
    missing = [signer for signer in range(n) if signer not in collects]
    added = data.draw(st.sets(st.sampled_from(missing))) if missing else set()
    more = collects | {signer: data.draw(any_collect()) for signer in added}
    before, after = judge(collects, n), judge(more, n)
    if before.verdict is not Verdict.UNSOUND:
        assert after.verdict is not Verdict.UNSOUND
    if before.verdict is Verdict.BOUND:
        assert after.verdict is Verdict.BOUND
    assert oracle.binding(collects, n, f) <= oracle.binding(more, n, f)


@dataclass(frozen=True)
class Decided:
    """A world in which `value` was decided in `regency`: what each replica would put into its collect."""

    n: int
    regency: int
    value: bytes
    liars: frozenset[int]
    collects: dict[int, Collect]


@st.composite
def decided_world(draw: st.DrawFn, settled: bool = False) -> Decided:
    """`Q` replicas wrote the value and `Q` accepted it; at most `f` of all lie about everything.

    Correct replicas accepted nothing else in that regency or later (`smartbft.testing.exploration` shows that none
    can); before it, anything.

    Args:
        settled: those who accepted saw a WRITE quorum, so the writers wrote in that regency or a later one.
    """
    n = draw(st.sampled_from(SIZES))
    f, q = max_faulty(n), quorum(n)
    regency = draw(st.integers(0, NEXT - 1))
    newest = draw(st.integers(regency, NEXT - 1))
    liars = draw(st.frozensets(st.integers(0, n - 1), max_size=f))
    everybody = st.permutations(range(n))
    writers, acceptors = set(draw(everybody)[:q]), set(draw(everybody)[:q])
    collects = {}
    for replica in range(n):
        if replica in liars:
            collects[replica] = draw(any_collect())
            continue
        write_set = {digest: ts for digest, ts in draw(entries) if ts < regency and digest != A}
        if replica in writers:
            write_set[A] = draw(st.integers(newest if settled else regency, NEXT - 1))
        ts, value = -1, b""
        if replica in acceptors:
            ts, value = draw(st.integers(regency, newest)), A
        elif regency and draw(st.booleans()):
            ts, value = draw(st.integers(0, regency - 1)), draw(st.sampled_from([A, B, C]))
        collects[replica] = ts, value, frozenset(write_set.items())
    return Decided(n, regency, A, liars, collects)


def violations(world: Decided, signers: set[int]) -> list[str]:
    """What a set of these signers gets wrong about the decision, judged by the product alone."""
    statements = [stop_data(signer, world.collects[signer]) for signer in sorted(signers)]
    outcome = evaluate(statements, world.n, max_faulty(world.n))
    wrong = []
    if outcome.verdict is Verdict.UNBOUND:
        wrong.append("a decided value does not bind: the leader would be free")
    if outcome.verdict is Verdict.BOUND and outcome.digest != world.value:
        wrong.append("another value than the decided one binds")
    return wrong


@given(decided_world(), st.data())
def test_after_a_decision_a_sound_set_binds_its_value_and_no_other(world: Decided, data: st.DataObject) -> None:
    f = max_faulty(world.n)
    signers = set(data.draw(st.permutations(range(world.n)))[: data.draw(st.integers(world.n - f, world.n))])
    assert not violations(world, signers)
    chosen = {signer: world.collects[signer] for signer in signers}
    assert {value for _, value in oracle.binding(chosen, world.n, f)} <= {world.value}


@given(decided_world(settled=True))
def test_the_collects_of_all_correct_replicas_are_sound_after_a_decision(world: Decided) -> None:
    """So a correct leader never depends on a liar."""
    honest = {replica: each for replica, each in world.collects.items() if replica not in world.liars}
    assert judge(honest, world.n) == Outcome(1, Verdict.BOUND, A)


# Planted bugs: without one of the conditions, a liar displaces a decided value.


def _writers(regency: int, digest: bytes, collects: list[epoch_change.Collect]) -> int:
    return sum(1 for each in collects if each.written.get(digest, -1) >= regency)


def _certified_by_f(regency: int, digest: bytes, collects: list[epoch_change.Collect], f: int) -> bool:
    return _writers(regency, digest, collects) >= f


def _always(*_: object) -> bool:
    return True


NEWER_LIE = {0: accepted(0, A), 1: accepted(0, A), 2: EMPTY, 3: accepted(5, B)}
OLDER_VALUE = {0: collect(2, A), 1: accepted(2, A), 2: collect(1, B, (A, 2), (B, 1)), 3: accepted(1, B)}
PLANTED = {
    "certified by f": ("_certified", _certified_by_f, Decided(4, 0, A, frozenset({3}), NEWER_LIE), {0, 1, 2, 3}),
    "highest of nobody": ("_quorum_highest", _always, Decided(4, 2, A, frozenset({3}), OLDER_VALUE), {0, 2, 3}),
}


@pytest.mark.parametrize("name", PLANTED)
def test_planted_bug_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rule, broken, world, signers = PLANTED[name]
    assert not violations(world, signers)
    monkeypatch.setattr(epoch_change, rule, broken)
    assert violations(world, signers)
