from __future__ import annotations

import itertools

import pytest

from common.data.label_fraction import label_fraction
from common.errors import UserError


def cohort(subjects: int = 20) -> list[dict[str, str]]:
    """Every third subject has two visits."""
    return [{"id": f"s{n:02d}_{visit}", "subject": f"s{n:02d}"} for n in reversed(range(subjects)) for visit in range(1 + (n % 3 == 0))]


def subjects(cases: list[dict[str, str]]) -> set[str]:
    return {case["subject"] for case in cases}


@pytest.mark.parametrize("seed", range(4))
def test_smaller_shares_are_inside_larger_ones_and_have_their_size(seed: int) -> None:
    shares = [0.01, 0.1, 0.2, 0.35, 0.5, 0.9, 1.0]
    chosen = [subjects(label_fraction(cohort(), share, seed)) for share in shares]
    assert all(small <= large for small, large in itertools.pairwise(chosen))
    assert [len(names) for names in chosen] == [1, 2, 4, 7, 10, 18, 20]


def test_all_visits_of_a_subject_go_together() -> None:
    kept = label_fraction(cohort(), 0.5, 1)
    assert kept == [case for case in sorted(cohort(), key=lambda c: c["id"]) if case["subject"] in subjects(kept)]


def test_the_draw_depends_on_the_seed_alone() -> None:
    assert label_fraction(cohort(), 0.2, 3) == label_fraction(list(reversed(cohort())), 0.2, 3)
    assert len({tuple(sorted(subjects(label_fraction(cohort(), 0.2, seed)))) for seed in range(6)}) > 3


def test_the_whole_is_the_whole() -> None:
    assert label_fraction(cohort()) == sorted(cohort(), key=lambda case: case["id"])


@pytest.mark.parametrize("share", [0, -0.1, 1.01, 20, "0.2", True, float("nan")])
def test_a_share_out_of_range_is_an_error(share: float) -> None:
    with pytest.raises(UserError, match=r"label_fraction: got .*expected a share above 0 and at most 1, e\.g\. 0\.2 for 20 %"):
        label_fraction(cohort(), share)
