"""Members in words, for the status."""

from __future__ import annotations

from collections.abc import Collection, Sequence


def name_members(ids: Collection[int]) -> str:
    """As in: replica 2; replicas 0 and 3."""
    names = [str(id) for id in sorted(ids)]
    if len(names) == 1:
        return f"replica {names[0]}"
    return f"replicas {', '.join(names[:-1])} and {names[-1]}" if names else "no replica"


def name_some(count: int, members: Sequence[int], heard: Collection[int]) -> str:
    """`count` of the members that were not heard, in words."""
    silent = [id for id in members if id not in heard]
    return name_members(silent) if count >= len(silent) else f"{count} of {name_members(silent)}"
