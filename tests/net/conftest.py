"""Counts of who was turned away stay until a test has looked at them, however long it takes."""

from __future__ import annotations

import pytest

from smartbft.net import lobby


@pytest.fixture(autouse=True)
def _kept_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lobby, "LOBBY_REPORT_SECONDS", 3600.0)
