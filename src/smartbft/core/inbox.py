"""The out-of-context buffer: messages that came early (Mod-SMaRt section V-A), bounded per sender.

A Byzantine replica can fill only its own share, so it cannot push out another's messages. Whatever is dropped here
can be asked for again: votes are re-sent, decisions are fetched.
"""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")


class Inbox(Generic[T]):
    """Early messages per sender.

    Args:
        senders: the ids that may send; each has its own share.
        capacity: messages kept per sender; when full, the one for the farthest instance goes.
    """

    __slots__ = ("_capacity", "_messages")

    def __init__(self, senders: tuple[int, ...], capacity: int) -> None:
        self._capacity = capacity
        self._messages: dict[int, list[tuple[int, T]]] = {sender: [] for sender in senders}

    def put(self, sender: int, instance: int, message: T) -> None:
        """Keep a message for a later instance; evicts the farthest of the same sender when its share is full."""
        share = self._messages[sender]
        share.append((instance, message))
        if len(share) > self._capacity:
            farthest = max(range(len(share)), key=lambda position: share[position][0])
            del share[farthest]

    def take(self, instance: int) -> list[tuple[int, T]]:
        """Remove and return `(sender, message)` for `instance`, in the order of members, then arrival; drop older
        ones.
        """
        due: list[tuple[int, T]] = []
        for sender, share in self._messages.items():
            if share:
                due.extend((sender, message) for at, message in share if at == instance)
                share[:] = [entry for entry in share if entry[0] > instance]
        return due

    def drop(self, sender: int) -> None:
        """Forget all messages of one sender."""
        self._messages[sender].clear()

    def __len__(self) -> int:
        return sum(len(share) for share in self._messages.values())
