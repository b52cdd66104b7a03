"""What the tests of all bundles share: each run in this process leaves no trace on the next module."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def _same_path() -> Iterator[None]:
    """Each run puts the bundle's folder on ``sys.path``; give the path back, and the logging too."""
    path, propagate = list(sys.path), logging.getLogger("brain_bundles").propagate
    logging.getLogger("brain_bundles").propagate = True
    yield
    sys.path[:] = path
    logging.getLogger("brain_bundles").propagate = propagate
