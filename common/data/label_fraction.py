"""Train with fewer labels: nested random subsets of subjects, which MONAI's ``partition_dataset`` draws neither nested nor by subject."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from common.data.cases import Case
from common.errors import UserError

_logger = logging.getLogger("brain_bundles")


def label_fraction(cases: Sequence[Case], fraction: float = 1.0, seed: int = 0) -> list[Case]:
    """A share of the training cases, chosen by subject.

    Subjects are shuffled once per seed and a subset is the first of them, so that 20 % is inside 50 % is inside 100 %.

    Args:
        cases: training cases in any order; only ``subject`` and ``id`` are looked at. Validation cases do not belong here.
        fraction: share of the subjects, in (0, 1]; at least one subject is kept.
        seed: of the shuffle.

    Returns:
        The cases kept, sorted by id; all of them where the fraction is 1.

    Raises:
        UserError: a fraction out of range.

    Source: DAE, table 3 (FeTA with 100, 50 and 20 % of the labels). Deviation: how the paper's subsets were drawn is not stated.
    """
    if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
        raise UserError(f"label_fraction: got {fraction}; expected a share above 0 and at most 1, e.g. 0.2 for 20 %.")
    subjects = sorted({str(case["subject"]) for case in cases})
    order = np.random.RandomState(seed).permutation(len(subjects))
    # half up, so that the count grows with the fraction and 2.5 does not become 2
    count = max(1, int(np.floor(fraction * len(subjects) + 0.5)))
    kept = {subjects[index] for index in order[:count]}
    result = sorted((case for case in cases if str(case["subject"]) in kept), key=lambda case: case["id"])
    if fraction < 1:
        _logger.info(
            "LABEL FRACTION %g: %d of %d subjects, %d of %d cases are trained on.",
            fraction,
            len(kept),
            len(subjects),
            len(result),
            len(cases),
        )
    return result
