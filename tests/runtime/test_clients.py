"""The connections of clients: who breaks the protocol again and again does not fill the log."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from kit.patience import let_pass

from smartbft.errors import RemoteProtocolError
from smartbft.limits import OFFENCES_TOLD_AT_ONCE
from smartbft.runtime.clients import ClientGate


class Offender:
    """A connection that is closed for what it did."""

    address = "192.0.2.1:7"
    peer = None


def nothing(*_: Any) -> None:
    """Nobody listens."""


def test_offences_are_told_at_a_bounded_rate_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        gate = ClientGate(None, arrived=nothing, question=nothing, forgotten=nothing, failed=nothing)  # type: ignore[arg-type]
        loop = asyncio.get_running_loop()
        moment = loop.time()
        loop.time = lambda: moment  # type: ignore[method-assign]
        for _ in range(OFFENCES_TOLD_AT_ONCE + 70):
            gate.closed(Offender(), RemoteProtocolError("bad bytes"))  # type: ignore[arg-type]
        assert len(caplog.records) == OFFENCES_TOLD_AT_ONCE
        let_pass(2.0)
        gate.closed(Offender(), RemoteProtocolError("bad bytes"))  # type: ignore[arg-type]
        assert caplog.messages[-1].endswith("192.0.2.1:7 is closed: bad bytes (70 others before it)")
        let_pass(2.0)
        gate.closed(Offender(), RemoteProtocolError("bad bytes"))  # type: ignore[arg-type]
        assert caplog.messages[-1].endswith("is closed: bad bytes")

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
