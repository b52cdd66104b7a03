"""Compare validation errors: MONAI's evaluators take the greatest metric for the best, and -1 for none yet."""

from __future__ import annotations

import math


def lower_is_better(current: float, best: float) -> bool:
    """``metric_cmp_fn`` of MONAI's evaluator for an error >= 0; its -1 for "none yet" counts as the worst.

    Args:
        current: the error of this epoch; NaN is never better.
        best: the least before, or -1.
    """
    return not math.isnan(current) and (best < 0 or current < best)
