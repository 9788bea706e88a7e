"""``smartbft start``, but listening for replicas on another port than the genesis says: a proxy listens there.

Run as a script: ``behind_proxy.py HOME PORT``.
"""

from __future__ import annotations

import socket
import sys
from functools import partial

from smartbft.cli import main
from smartbft.config import Genesis, ReplicaConfig
from smartbft.runtime import node


def bound(port: int) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    return listener


def start(home: str, port: int) -> None:
    config = ReplicaConfig.load(home)
    member = Genesis.load(config.genesis_path).member(config.replica)
    sockets = (bound(port), bound(member.client_address.port))
    node.Replica = partial(node.Replica, sockets=sockets)  # type: ignore[assignment, misc]
    sys.argv = ["smartbft", "start", "--home", home, "--exit-with-parent"]
    main()


if __name__ == "__main__":
    start(sys.argv[1], int(sys.argv[2]))
