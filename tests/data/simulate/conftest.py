"""Scans that several tests look at: each is simulated once per session."""

from __future__ import annotations

import pytest

from common.data.simulate.bonbid import Scan, simulate_scan
from common.data.simulate.head_ct import Scan as HeadScan
from common.data.simulate.head_ct import simulate_scan as simulate_head

SLICES = (10, 11)


@pytest.fixture(scope="session")
def scans_64() -> list[Scan]:
    return [simulate_scan(k, 0, 64, SLICES, "main") for k in range(10)]


@pytest.fixture(scope="session")
def scans_96() -> list[Scan]:
    return [simulate_scan(k, 1, 96, SLICES, "main") for k in range(8)]


@pytest.fixture(scope="session")
def scans_shift() -> list[Scan]:
    return [simulate_scan(k, 0, 64, SLICES, "shift") for k in range(10)]


@pytest.fixture(scope="session")
def healthy_heads() -> list[HeadScan]:
    return [simulate_head(k, 1, 64, 6.0) for k in range(20)]


@pytest.fixture(scope="session")
def hurt_heads() -> list[HeadScan]:
    return [simulate_head(k, 1, 64, 6.0, abnormal=True) for k in range(26)]
