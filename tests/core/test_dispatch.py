"""Every message on the wire has exactly one part of the replica that takes it."""

from __future__ import annotations

from typing import get_args

from kit.cluster import Cluster

from smartbft.messages import Message


def test_every_class_of_messages_goes_to_one_part() -> None:
    node = Cluster().nodes[0]
    common, protocol = set(node.replica._message_handlers), set(node.ordering._handlers)
    assert common | protocol == set(get_args(Message))
    assert not common & protocol
