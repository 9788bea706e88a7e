"""What holds for every test: where programs keep their state, and how property tests draw.

Property tests draw the same examples in every run, and no example has to be quick.

A machine that stands still for a moment is no finding, and what one run finds and the next does not helps nobody.
SMARTBFT_HYPOTHESIS=exploring draws other examples each time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("exploring", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("repeatable", settings.get_profile("exploring"), derandomize=True, database=None)
settings.load_profile(os.environ.get("SMARTBFT_HYPOTHESIS", "repeatable"))


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What commands keep for later commands is kept in the tests' own folder, not in the user's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield
