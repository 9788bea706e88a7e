"""The vote guard: whatever path asks, it never approves two different votes for one instance and regency."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from smartbft.core.safety import VoteGuard

A, B = b"a" * 32, b"b" * 32


def contradictions(guard: VoteGuard, requests: list[tuple[str, int, int, bytes]]) -> list[tuple[str, int, int]]:
    """Ask for every vote; return the statements that were approved with two different digests."""
    made: dict[tuple[str, int, int], bytes] = {}
    twice = []
    for kind, instance, regency, digest in requests:
        if kind == "propose":
            approved = guard.approve_propose(instance, regency, digest, leader=True)
        elif kind == "write":
            approved = guard.approve_write(instance, regency, digest)
        else:
            approved = guard.approve_accept(instance, regency, digest, writes=3, quorum=3)
        if approved and made.setdefault((kind, instance, regency), digest) != digest:
            twice.append((kind, instance, regency))
    return twice


votes = st.lists(
    st.tuples(
        st.sampled_from(["propose", "write", "accept"]), st.integers(1, 3), st.integers(0, 2), st.sampled_from([A, B])
    ),
    max_size=40,
)


@given(votes)
def test_no_two_votes_for_one_statement(requests: list[tuple[str, int, int, bytes]]) -> None:
    assert not contradictions(VoteGuard(), requests)


class ForgetfulGuard(VoteGuard):
    """Planted bug: promises are not kept."""

    @staticmethod
    def _promise(promises: dict[tuple[int, int], bytes], instance: int, regency: int, digest: bytes) -> bool:
        return True


def test_planted_bug_a_forgetful_guard_is_seen() -> None:
    assert contradictions(ForgetfulGuard(), [("write", 1, 0, A), ("write", 1, 0, B)])


def test_only_a_leader_proposes() -> None:
    assert not VoteGuard().approve_propose(1, 0, A, leader=False)


def test_accept_needs_the_quorum() -> None:
    guard = VoteGuard()
    assert not guard.approve_accept(1, 0, A, writes=2, quorum=3)
    assert guard.approve_accept(1, 0, A, writes=3, quorum=3)


def test_no_vote_in_a_decided_instance() -> None:
    guard = VoteGuard()
    guard.decided(1)
    assert not guard.approve_write(1, 0, A)
    assert guard.approve_write(2, 0, A)


def test_installing_a_regency_ends_all_below_it() -> None:
    guard = VoteGuard()
    assert guard.install(2)
    assert not guard.install(2)
    assert not guard.install(1)
    assert guard.synchronize(2, 1, b"")
    assert not guard.approve_write(1, 1, A)
    assert not guard.approve_accept(1, 1, A, writes=3, quorum=3)
    assert guard.approve_write(1, 2, A)


def test_nothing_is_written_before_the_first_sync_of_a_regency() -> None:
    guard = VoteGuard()
    guard.install(1)
    assert not guard.approve_write(1, 1, A)
    assert not guard.synchronize(2, 1, A)
    assert guard.synchronize(1, 1, A)
    assert not guard.synchronize(1, 1, B)
    assert guard.approve_write(1, 1, A)


def test_only_the_value_of_the_sync_is_written_in_its_instance() -> None:
    guard = VoteGuard()
    guard.install(1)
    guard.synchronize(1, 1, A)
    assert not guard.approve_write(1, 1, B)
    assert not guard.approve_propose(1, 1, B, leader=True)
    guard.decided(1)
    assert guard.approve_write(2, 1, B)


def test_instances_are_decided_once_and_in_order() -> None:
    guard = VoteGuard()
    assert not guard.approve_decide(2, 3, 3)
    assert not guard.approve_decide(1, 2, 3)
    assert guard.approve_decide(1, 3, 3)
    guard.decided(1)
    assert not guard.approve_decide(1, 3, 3)


def test_restored_promises_bind() -> None:
    guard = VoteGuard()
    guard.restore(1, 0, A, proposed=False, written=True, accepted=True)
    assert not guard.approve_write(1, 0, B)
    assert not guard.approve_accept(1, 0, B, writes=3, quorum=3)
    assert guard.approve_write(1, 0, A)


def test_nothing_is_promised_while_suspended() -> None:
    guard = VoteGuard()
    guard.suspend("it starts")
    assert not guard.approve_propose(1, 0, A, leader=True)
    assert not guard.approve_write(1, 0, A)
    assert not guard.approve_accept(1, 0, A, writes=3, quorum=3)
    assert not guard.install(1)
    guard.resume()
    assert guard.approve_write(1, 0, B)


def test_a_restored_regency_holds_while_suspended() -> None:
    guard = VoteGuard()
    guard.suspend("it starts")
    guard.restore_regency(2)
    guard.restore_sync(1, A)
    guard.resume()
    assert not guard.approve_write(1, 1, A)
    assert not guard.approve_write(1, 2, B)
    assert guard.approve_write(1, 2, A)


def test_an_accept_is_known_after_its_regency_until_its_instance_is_decided() -> None:
    """What it was for may be decided by now; a read that is not ordered asks."""
    guard = VoteGuard()
    assert guard.approve_accept(1, 0, A, writes=3, quorum=3)
    for regency in range(1, 5):
        guard.install(regency)
        assert guard.accepts(1)
    again = VoteGuard()
    again.restore_regency(4)
    again.restore(1, 0, A, proposed=True, written=True, accepted=True)
    assert again.accepts(1)
    assert again._accepted == guard._accepted
    again.decided(1)
    assert not again.accepts(1)


def test_promises_of_regencies_that_are_over_do_not_pile_up() -> None:
    guard = VoteGuard()
    for regency in range(100):
        guard.install(regency)
        guard.synchronize(regency, 1, b"")
        assert guard.approve_propose(1, regency, A, leader=True)
        assert guard.approve_write(1, regency, A)
        assert guard.approve_accept(1, regency, A, writes=3, quorum=3)
    assert [len(guard._proposed), len(guard._written), len(guard._accepted)] == [1, 1, 1]
