"""Which epoch is kept where the metric is an error."""

from __future__ import annotations

import math

from common.metrics.lower_is_better import lower_is_better


def test_the_lower_error_is_better_and_any_is_better_than_none_yet() -> None:
    assert lower_is_better(3.0, -1)
    assert lower_is_better(0.1, 0.2)
    assert not lower_is_better(0.2, 0.1)
    assert not lower_is_better(0.2, 0.2), "the first of two equal ones stays"


def test_nan_is_never_kept_since_nothing_would_be_better_than_it() -> None:
    assert not lower_is_better(math.nan, -1)
    assert not lower_is_better(math.nan, 0.2)
