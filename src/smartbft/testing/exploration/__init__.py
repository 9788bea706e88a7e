"""Exhaustive small-scope search of the regency change: four replicas, one of them Byzantine, the first instance.

    python -m smartbft.testing.exploration

explores every reachable state within the bounds and says how many there are (docs/simulator.md).
"""

from smartbft.testing.exploration.search import Broken, Report, Search

__all__ = ["Broken", "Report", "Search"]
