"""Why replicas are not reached, in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping

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


def with_absent(waiting: str, spare: int, missing: Collection[int], silent: Collection[int]) -> str:
    """What a replica waits for, in words, with those that keep it from coming.

    Args:
        waiting: what the protocol waits for; empty for nothing.
        spare: how many other replicas it can do without.
        missing: ids of those that are not connected.
        silent: ids of those that are connected and say nothing.
    """
    absent = sorted({*missing, *silent})
    if len(absent) > spare:
        needed = len(absent) - spare
        what = "a sign of life from" if silent else "a connection to"
        waiting = f"{what} {'' if needed == len(absent) else f'{needed} of '}{name_members(absent)}"
        known = dict.fromkeys(silent, "connected, but silent")
    elif waiting:
        known = dict.fromkeys(missing, "not connected") | dict.fromkeys(silent, "silent")
    else:
        known = {}
    return f"{waiting} ({name_problems(known)})" if known else waiting
