"""What the members say about their states after the same instance, and what is certain once they differ.

At most `f` members lie. So more than `f` others that differ from this replica show for certain that a correct replica
has another state; fewer may be the liars. No digest that `f + 1` have is needed for that: an application that gives a
different state on every replica is found as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from smartbft.core.naming import name_members

#: What finds most causes of a divergence.
TOOL = "smartbft check-application"
_SHOWN_DIGITS = 16


@dataclass(frozen=True, slots=True)
class Divergence:
    """Members whose states after one instance differ.

    Attributes:
        instance: of the checkpoint.
        own: the id of the replica that compares, which trusts its own state.
        digests: members and the digest of the state of each, as far as they are known; `own` among them.
        f: how many of the others may lie.
    """

    instance: int
    own: int
    digests: tuple[tuple[int, bytes], ...]
    f: int

    @property
    def differing(self) -> tuple[int, ...]:
        """The members whose state is another than ours."""
        ours = dict(self.digests)[self.own]
        return tuple(member for member, digest in self.digests if digest != ours)

    @property
    def certain(self) -> bool:
        """Whether a correct replica has another state, whoever lies."""
        return len(self.differing) > self.f

    def groups(self) -> dict[bytes, list[int]]:
        """The members that have each digest, in the order of their ids."""
        found: dict[bytes, list[int]] = {}
        for member, digest in sorted(self.digests):
            found.setdefault(digest, []).append(member)
        return found

    def as_dict(self) -> dict[str, Any]:
        """For the status."""
        digests = {digest.hex(): members for digest, members in self.groups().items()}
        return {"instance": self.instance, "certain": self.certain, "digests": digests}

    def __str__(self) -> str:
        states = name_states({digest.hex(): members for digest, members in self.groups().items()})
        if not self.certain:
            return (
                f"{name_members(self.differing)} and this replica have different states after instance {self.instance} "
                f"({states}): no more than f replicas differ, so they lie or their state is damaged, unless the "
                f"application is not deterministic ('{TOOL}' tells)"
            )
        largest = max(len(members) for members in self.groups().values())
        agreed = f"only {largest}" if largest > self.f else f"no {self.f + 1}"
        return (
            f"{agreed} replicas agree on the state after instance {self.instance} ({states}): correct replicas have "
            "diverged, because the application is not deterministic, or is not the same on all of them; "
            f"run '{TOOL}'"
        )


def name_states(digests: Mapping[str, Sequence[int]]) -> str:
    """Who has which state, in words.

    Args:
        digests: the members that have each digest, which is in hexadecimal.
    """
    return ", ".join(f"{name_members(members)}: {digest[:_SHOWN_DIGITS]}" for digest, members in digests.items())


def compare(instance: int, own: int, digests: Sequence[tuple[int, bytes]], f: int) -> Divergence | None:
    """The divergence that these digests show; None: all of them are those of `own`.

    Args:
        instance: of the checkpoint.
        own: the id of the replica that compares.
        digests: members and digests, with those of `own`.
        f: how many of the others may lie.
    """
    found = Divergence(instance, own, tuple(digests), f)
    return found if found.differing else None
