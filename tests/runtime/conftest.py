"""Help for tests of the runtime."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
from kit.patience import run_bounded


@pytest.fixture
def run() -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Runs a coroutine function on a fresh loop; a test that hangs fails instead."""
    return run_bounded
