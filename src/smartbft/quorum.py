"""Quorum arithmetic (protocols: Mod-SMaRt section II; dissemination quorums, SMaRtChain section III)."""

from __future__ import annotations

from smartbft.errors import LocalProtocolError


def max_faulty(n: int) -> int:
    """`f`: how many of `n` replicas may be Byzantine, ``(n - 1) // 3``.

    Raises:
        LocalProtocolError: there is no replica.
    """
    if n < 1:
        raise LocalProtocolError(f"a view has at least one replica, not {n}")
    return (n - 1) // 3


def quorum(n: int) -> int:
    """`Q`: the least integer strictly greater than ``(n + f) / 2``. Two quorums share at least ``f + 1`` replicas."""
    return (n + max_faulty(n)) // 2 + 1


def weak_quorum(n: int) -> int:
    """``f + 1``: at least one correct replica."""
    return max_faulty(n) + 1
