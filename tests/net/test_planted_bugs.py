"""Bugs planted on purpose: the suite of the handshake must notice each."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from smartbft.net.handshake import Handshake
from tests.net import test_handshake as suite


def check_nothing(self: Handshake, *arguments: object) -> None:
    """Accept every proof."""


def same_always(self: Handshake, side: bytes, dialers: object, acceptors: object) -> bytes:
    """Sign nothing of this connection."""
    return self._domain


def without_channel(self: Handshake, side: bytes, dialers: object, acceptors: object) -> bytes:
    """Sign the hellos, but not the channel they came through."""
    return self._domain + side + repr((dialers, acceptors)).encode()


def any_chain(self: Handshake, chain_id: bytes) -> None:
    """Talk to every chain."""


@pytest.mark.parametrize(
    ("method", "bug", "test"),
    [
        ("_check_proof", check_nothing, suite.test_a_forged_sender_id_is_found_out),
        ("_check_proof", check_nothing, suite.test_an_impostor_that_accepts_is_found_out),
        ("_statement", same_always, suite.test_a_replayed_handshake_fails_because_the_nonce_is_fresh),
        ("_statement", same_always, suite.test_a_replayed_answer_fails_because_the_nonce_is_fresh),
        ("_statement", same_always, suite.test_a_reflected_proof_is_worth_nothing),
        ("_statement", same_always, suite.test_a_proof_for_one_replica_is_worth_nothing_at_another),
        ("_statement", without_channel, suite.test_a_proof_cannot_be_carried_over_to_another_channel),
        ("_check_chain", any_chain, suite.test_another_chain_is_refused_by_both_sides),
    ],
)
def test_the_suite_notices(
    monkeypatch: pytest.MonkeyPatch, method: str, bug: Callable[..., object], test: Callable[[], None]
) -> None:
    test()
    monkeypatch.setattr(Handshake, method, bug)
    with pytest.raises(pytest.fail.Exception, match="DID NOT RAISE"):
        test()
