"""The predicates of VP-Consensus' epoch change, written a second time, with plain sets (protocols.md section 1).

A collect is `(ts, val, write_set)`: `ts` is -1 and `val` empty where nothing was accepted; `write_set` is a set of
`(digest, ts)`. `collects` maps signers to collects, so that everything counts signers by construction. "Strictly more
than (n + f) / 2" is computed with fractions.
"""

from __future__ import annotations

from fractions import Fraction

Collect = tuple[int, bytes, frozenset[tuple[bytes, int]]]
EMPTY: Collect = (-1, b"", frozenset())


def more_than_half_of_n_and_f(signers: set[int], n: int, f: int) -> bool:
    return len(signers) > Fraction(n + f, 2)


def quorum_highest(ts: int, value: bytes, collects: dict[int, Collect], n: int, f: int) -> bool:
    below = {signer for signer, (own, _, _) in collects.items() if own < ts}
    same = {signer for signer, (own, accepted, _) in collects.items() if (own, accepted) == (ts, value)}
    return more_than_half_of_n_and_f(below | same, n, f)


def certified(ts: int, value: bytes, collects: dict[int, Collect], f: int) -> bool:
    writers = {
        signer
        for signer, (_, _, write_set) in collects.items()
        for written, when in write_set
        if written == value and when >= ts
    }
    return len(writers) > f


def binding(collects: dict[int, Collect], n: int, f: int) -> set[tuple[int, bytes]]:
    """All `(ts, v)` that bind."""
    if len(collects) < n - f:
        return set()
    claimed = {(ts, value) for ts, value, _ in collects.values() if ts >= 0}
    return {
        (ts, value)
        for ts, value in claimed
        if quorum_highest(ts, value, collects, n, f) and certified(ts, value, collects, f)
    }


def unbound(collects: dict[int, Collect], n: int, f: int) -> bool:
    empty = {signer for signer, (ts, _, _) in collects.items() if ts < 0}
    return len(collects) >= n - f and more_than_half_of_n_and_f(empty, n, f)


def verdict(collects: dict[int, Collect], n: int, f: int) -> tuple[str, bytes]:
    """`("bound", digest)`, `("unbound", b"")` or `("unsound", b"")`."""
    values = binding(collects, n, f)
    if values:
        return "bound", max(values)[1]
    return ("unbound" if unbound(collects, n, f) else "unsound"), b""
