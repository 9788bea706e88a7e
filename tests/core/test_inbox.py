"""The out-of-context buffer is bounded per sender: one sender cannot push out another's messages."""

from __future__ import annotations

from smartbft.core.inbox import Inbox


def flooded(inbox: Inbox[str]) -> bool:
    """Whether a flood from sender 2 makes the message of sender 1 disappear."""
    inbox.put(1, 5, "honest")
    for instance in range(1000):
        inbox.put(2, 6 + instance, "flood")
    return (1, "honest") not in inbox.take(5)


def test_a_flood_costs_only_its_sender() -> None:
    inbox: Inbox[str] = Inbox((1, 2), 4)
    assert not flooded(inbox)
    assert len(inbox) == 4


class GlobalQuota(Inbox[str]):
    """Planted bug: one quota for all senders."""

    def put(self, sender: int, instance: int, message: str) -> None:
        super().put(sender, instance, message)
        while len(self) > self._capacity:
            next(share for share in self._messages.values() if share).pop(0)


def test_planted_bug_a_global_quota_is_seen() -> None:
    assert flooded(GlobalQuota((1, 2), 4))


def test_the_farthest_goes_first() -> None:
    inbox: Inbox[str] = Inbox((1,), 2)
    for instance in (9, 5, 7):
        inbox.put(1, instance, str(instance))
    assert inbox.take(5) == [(1, "5")]
    assert inbox.take(7) == [(1, "7")]


def test_messages_come_in_the_order_of_members_then_arrival_and_old_ones_go() -> None:
    inbox: Inbox[str] = Inbox((1, 2), 8)
    for sender, instance, text in [(2, 5, "c"), (1, 5, "a"), (1, 5, "b"), (1, 4, "old"), (2, 6, "later")]:
        inbox.put(sender, instance, text)
    assert inbox.take(5) == [(1, "a"), (1, "b"), (2, "c")]
    assert inbox.take(6) == [(2, "later")]
    assert len(inbox) == 0
