"""Why replicas are not reached, in words."""

from __future__ import annotations

from collections.abc import Mapping

from smartbft.core.naming import name_members


def problem_lines(problems: Mapping[int, str]) -> list[str]:
    """One text for each problem, naming all replicas that have it.

    Example:
        >>> problem_lines({0: "connection refused", 1: "no answer yet", 2: "connection refused"})
        ['replicas 0 and 2: connection refused', 'replica 1: no answer yet']
    """
    together: dict[str, list[int]] = {}
    for replica, problem in sorted(problems.items()):
        together.setdefault(problem, []).append(replica)
    return [f"{name_members(replicas)}: {problem}" for problem, replicas in together.items()]


def name_problems(problems: Mapping[int, str]) -> str:
    """The same in one line."""
    return "; ".join(problem_lines(problems))
