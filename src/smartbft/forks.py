"""What a forked child must not keep of its parent: the lock of a data folder, listeners, connections.

A child inherits every open file. As long as it lives, and be it a worker that only sleeps, the folder stays locked, the
port taken, and a connection open at the other end, whatever has become of the parent. So what is named here is open in
the parent alone: in a child its descriptor leads to the null device.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from functools import partial

from smartbft.errors import LocalProtocolError

# Descriptor, and the device and number of the file behind it: where another file has taken the descriptor meanwhile, it
# is not ours.
_kept: dict[int, tuple[int, int, int]] = {}
_numbers = itertools.count()


def keep_from_children(descriptor: int) -> Callable[[], object]:
    """From now on, forked children have no part in the open file behind `descriptor`.

    Returns:
        A function to call before the descriptor is closed; again and again, if you like.

    Raises:
        OSError: the descriptor is not open.
    """
    found = os.fstat(descriptor)
    number = next(_numbers)
    _kept[number] = (descriptor, found.st_dev, found.st_ino)
    return partial(_kept.pop, number, None)


def check_process(owner: int, what: str) -> None:
    """Raise in a forked child, which has the parent's memory but none of its threads.

    Args:
        owner: the process that `what` belongs to.
        what: for the message, e.g. "this client".

    Raises:
        LocalProtocolError: this is another process.
    """
    if os.getpid() != owner:
        raise LocalProtocolError(f"{what} belongs to process {owner}, which this one was forked from: make one here")


def _let_go() -> None:
    """In a new child: give back what is the parent's. Descriptors stay taken: nobody closes another file by one."""
    kept = list(_kept.values())
    _kept.clear()
    if not kept:
        return
    try:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        null = -1  # no room for one more, or no such device: closed is closed
    for descriptor, device, inode in kept:
        try:
            found = os.fstat(descriptor)
        except OSError:
            continue  # it was closed
        if (found.st_dev, found.st_ino) != (device, inode):
            continue
        if null >= 0:
            os.dup2(null, descriptor, inheritable=False)
        else:
            os.close(descriptor)
    if null >= 0:
        os.close(null)


os.register_at_fork(after_in_child=_let_go)
