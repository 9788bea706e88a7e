"""Planted bugs in the use of new consensus keys (`smartbft.testing.mutants`)."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager

from smartbft.core.key_changes import KeyChanges
from smartbft.core.member_keys import MemberKeys
from smartbft.core.validation import Validator
from smartbft.crypto.signatures import Signer
from smartbft.errors import InvalidSignature
from smartbft.testing.planting import replaced
from smartbft.types import KeyStatement


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


def keys_of_anybody() -> AbstractContextManager[None]:
    """Nobody looks at the signature of the permanent key: any member may state the keys of any other."""
    check = Validator.check_statement

    def careless(validator: Validator, statement: KeyStatement) -> None:
        try:
            check(validator, statement)
        except InvalidSignature as error:
            if "did not sign" not in str(error):
                raise

    return replaced(Validator, "check_statement", careless)


def any_key_replaced() -> AbstractContextManager[None]:
    """A statement need not replace the key in force."""

    def last_of_each(keys: MemberKeys, statements: Iterable[KeyStatement]) -> tuple[KeyStatement, ...]:
        chosen = {one.member: one for one in statements if one.key != keys.latest(one.member)}
        return tuple(chosen[member] for member in sorted(chosen))

    return replaced(MemberKeys, "admitted", last_of_each)


def syncs_outlive_keys() -> AbstractContextManager[None]:
    """A SYNC that was taken up stays in force although a promise in it was signed with a key that is replaced."""
    return replaced(Validator, "in_force", lambda validator, sync: True)


def old_promises_count() -> AbstractContextManager[None]:
    """STOPDATA and SYNC count with any key that their signer ever had."""
    check = Validator._check_promise

    def lenient(validator: Validator, signer: int, instance: int, signature: bytes, payload: bytes, who: str) -> None:
        keys, verifier = validator._keys, validator._verifier
        earlier = [entry.key for entry in keys._history.get(signer, ())]
        if not any(verifier.verify(key, signature, payload) for key in earlier):
            check(validator, signer, instance, signature, payload, who)

    return replaced(Validator, "_check_promise", lenient)
