"""Planted bugs in the use of new consensus keys (`smartbft.testing.mutants`)."""

from __future__ import annotations

from contextlib import AbstractContextManager

from smartbft.core.key_changes import KeyChanges
from smartbft.core.member_keys import MemberKeys
from smartbft.crypto.signatures import Signer
from smartbft.testing.planting import replaced


def first_keys_for_ever() -> AbstractContextManager[None]:
    """Votes count with the keys that the view names."""

    def named_by_the_view(keys: MemberKeys, member: int, instance: int) -> bytes | None:
        known = keys._view.member(member)
        return known.consensus_key if known is not None else None

    return replaced(MemberKeys, "key_at", named_by_the_view)


def newest_keys_for_all() -> AbstractContextManager[None]:
    """Votes of old instances count with the keys of now."""
    return replaced(MemberKeys, "key_at", lambda keys, member, instance: keys.latest(member))


def votes_before_its_key() -> AbstractContextManager[None]:
    """Who has lost its votes does not wait until its new key is ordered."""
    made = KeyChanges.on_made

    def vote_at_once(changes: KeyChanges, signer: Signer) -> None:
        made(changes, signer)
        replica = changes._replica
        replica.signer = signer
        replica.guard.suspend("")
        replica._taking_part.learns = ""
        replica.ordering.take_part()

    return replaced(KeyChanges, "on_made", vote_at_once)
