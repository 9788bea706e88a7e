"""Planted bugs in the regency change, most of them known from other implementations (`smartbft.testing.mutants`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from smartbft.core.effects import Broadcast, Record, Send
from smartbft.core.replica import Replica
from smartbft.core.validation import Validator
from smartbft.errors import RemoteProtocolError
from smartbft.protocols.mod_smart.synchronization import Synchronization
from smartbft.testing.planting import replaced


def _lets_pass(method: str, *words: str) -> AbstractContextManager[None]:
    """A check of the validator lets pass what it would refuse with one of these words."""
    original: Callable[..., None] = getattr(Validator, method)

    def careless(validator: Validator, *arguments: object) -> None:
        try:
            original(validator, *arguments)
        except RemoteProtocolError as error:
            if not any(word in str(error) for word in words):
                raise

    return replaced(Validator, method, careless)


def regency_forgotten() -> AbstractContextManager[None]:
    """A restart begins in regency 0 again."""
    return replaced(Synchronization, "recover", lambda phase, recovered: None)


def promise_before_durable() -> AbstractContextManager[None]:
    """STOPDATA and SYNC leave at once."""

    def at_once(replica: Replica, record: Record, then: Sequence[Send | Broadcast] = ()) -> int:
        replica._effects.extend(then)
        return replica.persist((record,))

    return replaced(Replica, "persist_promise", at_once)


def old_collects_count() -> AbstractContextManager[None]:
    """B1: STOPDATA of an older regency are as good as new ones."""
    return _lets_pass("check_sync", "with STOPDATA of")


def future_votes_in_collects() -> AbstractContextManager[None]:
    """B4: a write set may name a value twice, and hold votes of regencies to come."""
    return _lets_pass("check_stop_data", "names a value twice", "that regency or later")


def decisions_without_proof() -> AbstractContextManager[None]:
    """B5: who claims to have decided more is believed."""
    return replaced(Validator, "_check_last_decision", lambda *_: None)
