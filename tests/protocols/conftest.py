from __future__ import annotations

import pytest
from kit.cluster import Cluster


@pytest.fixture
def cluster() -> Cluster:
    """Four replicas; replica 1 leads regency 0, replica 2 regency 1, replica 3 regency 2."""
    return Cluster()
