"""How property tests draw: the same examples in every run, and no example has to be quick.

A machine that stands still for a moment is no finding, and what one run finds and the next does not helps nobody.
SMARTBFT_HYPOTHESIS=exploring draws other examples each time.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

settings.register_profile("exploring", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("repeatable", settings.get_profile("exploring"), derandomize=True, database=None)
settings.load_profile(os.environ.get("SMARTBFT_HYPOTHESIS", "repeatable"))
