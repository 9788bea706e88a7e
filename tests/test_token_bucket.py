"""So many tokens at once, and so many a second after that."""

from __future__ import annotations

import pytest

from smartbft.token_bucket import TokenBucket


def test_tokens_are_taken_at_once_and_filled_slowly() -> None:
    bucket = TokenBucket(3, 2.0)
    assert [bucket.take(5.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.wait(5.0) == 0.5
    assert [bucket.take(5.5) for _ in range(2)] == [True, False]
    assert [bucket.take(1000.0) for _ in range(4)] == [True, True, True, False], "no more than fit into it"


def test_what_is_charged_can_be_owed() -> None:
    bucket = TokenBucket(8, 4.0)
    assert bucket.charge(8, 100.0) == 0
    assert bucket.charge(4, 100.0) == pytest.approx(1)
    assert bucket.take(100.9) is False
    assert bucket.charge(0, 100.5) == pytest.approx(0.1), "time passes once"
    assert bucket.charge(4, 102.0) == 0
    assert bucket.charge(8, 1000.0) == 0
    assert bucket.charge(1, 1000.0) == 0.25, "it grows without bound"


def test_a_clock_that_goes_back_fills_nothing() -> None:
    bucket = TokenBucket(2, 1.0)
    assert bucket.charge(2, 10.0) == 0
    assert bucket.take(9.0) is False
    assert bucket.charge(1, 9.0) == 1.0
    assert bucket.charge(0, 10.5) == 0.5


def test_planted_bug_a_bucket_that_never_empties(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TokenBucket, "_fill", lambda self, now: setattr(self, "_left", self._at_once))
    with pytest.raises(AssertionError):
        test_what_is_charged_can_be_owed()
