"""Scans that several tests look at: each is simulated once per session."""

from __future__ import annotations

import pytest

from common.data.simulate.bonbid import Scan, simulate_scan

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
