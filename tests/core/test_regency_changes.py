"""What is told to operators: members in words, and why and how long the leader was replaced."""

from __future__ import annotations

from smartbft.core.naming import name_members, name_some
from smartbft.core.regency_changes import RegencyChanges


def test_members_in_words() -> None:
    assert name_members([]) == "no replica"
    assert name_members({2}) == "replica 2"
    assert name_members([3, 0, 1]) == "replicas 0, 1 and 3"


def test_some_members_in_words() -> None:
    assert name_some(1, (0, 1, 2, 3), [0, 2]) == "1 of replicas 1 and 3"
    assert name_some(2, (0, 1, 2, 3), [0, 2]) == "replicas 1 and 3"
    assert name_some(1, (0, 1, 2, 3), {0: None, 1: None, 2: None}) == "replica 3"


def test_a_change_is_one_from_the_first_suspicion_to_the_regency_that_lasts() -> None:
    changes = RegencyChanges()
    changes.begin(1_000_000, 4, 1, "requests were late")
    changes.begin(2_000_000, 5, 2, "no SYNC came")
    changes.end(3_500_000, 6, 3)
    assert changes.count == 1
    assert changes.last is not None
    assert changes.last.as_dict() == {
        "from": 4,
        "to": 6,
        "leader_before": 1,
        "leader_after": 3,
        "reason": "requests were late",
        "began": 1_000_000,
        "took_seconds": 2.5,
    }


def test_what_is_withdrawn_or_never_began_is_no_change() -> None:
    changes = RegencyChanges()
    changes.begin(1, 0, 0, "requests were late")
    changes.withdraw()
    changes.end(2, 1, 1)
    assert (changes.count, changes.last) == (0, None)
