"""The fixture that runs a scenario on a loop of its own."""

from runtime.conftest import run

__all__ = ["run"]
