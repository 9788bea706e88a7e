"""Votes of regencies that are over, in an instance that goes on: what is kept of them has a bound.

They come from liars, who may vote in every regency there ever was, and from regencies that failed one after the other.
"""

from __future__ import annotations

from typing import Any

from smartbft.limits import MAX_OLD_VOTES_PER_MEMBER

Voters = dict[tuple[type, int, int], bytes]  # (kind, regency, member) -> digest
Votes = dict[tuple[int, bytes], dict[int, Any]]  # (regency, digest) -> who voted so


def forget_old_votes(voters: Voters, votes: Votes, kind: type, member: int, regency: int, needed: int) -> None:
    """Keep a member's newest few votes of one kind of the regencies before `regency`, and those that are needed.

    Args:
        voters: who has voted for what, of all kinds.
        votes: those of this kind, counted.
        kind: `Write` or `Accept`.
        member: whose votes they are: nobody's votes push out another's.
        regency: that of the instance.
        needed: so many votes for one value stay, however old they are.
    """
    old = [at for vote, at, voter in voters if vote is kind and voter == member and at < regency]
    for at in sorted(old)[:-MAX_OLD_VOTES_PER_MEMBER]:
        counted = at, voters[kind, at, member]
        alike = votes.get(counted, {})
        if len(alike) < needed:
            del voters[kind, at, member]
            alike.pop(member, None)
            if not alike:
                votes.pop(counted, None)
