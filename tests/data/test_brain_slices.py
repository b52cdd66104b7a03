from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.data.brain_slices import (
    MIN_SHARE,
    SliceSelector,
    brain_shares,
    counted_shares,
    lower_cut,
    nonzero_counts,
    nonzero_means,
    read_counts,
    select_slices,
)
from common.errors import UserError


def mask(*pixels: int, side: int = 256) -> np.ndarray:
    """A mask whose slices have so many pixels each."""
    out = np.zeros((side * side, len(pixels)), np.uint8)
    for place, count in enumerate(pixels):
        out[:count, place] = 1
    return out.reshape(side, side, len(pixels))


def test_three_thousand_pixels_are_not_enough_and_one_more_is() -> None:
    brain = mask(0, 2999, 3000, 3001, 40000, 3000)
    assert select_slices(brain, brain=brain).tolist() == [3, 4]
    assert pytest.approx(0.0458, abs=5e-5) == MIN_SHARE


def test_a_share_holds_at_any_size() -> None:
    # 4.58 % of 64 x 64 are 187.5 pixels
    brain = mask(187, 188, side=64)
    assert select_slices(brain, brain=brain).tolist() == [1]
    assert select_slices(brain, brain=brain, min_share=0.05).tolist() == []


def test_a_table_of_counts_wins_over_a_mask_and_gives_the_authors_slices(tmp_path: Path) -> None:
    lines = ["ID,BRAIN_QUANTITY", *(f"IXI002-Guys-0828-T1_{k},{n}" for k, n in ((0, 0), (2, 3001), (10, 5000), (1, 3000)))]
    (tmp_path / "counts.csv").write_text("\n".join(lines) + "\n")
    counts = read_counts(tmp_path / "counts.csv")
    assert counts == {"IXI002-Guys-0828-T1": {0: 0, 2: 3001, 10: 5000, 1: 3000}}, "slices are numbers, not text"
    volume = np.ones((4, 4, 12))
    select = SliceSelector(table=tmp_path / "counts.csv")
    assert select("IXI002-Guys-0828-T1", volume, brain=np.ones_like(volume)).tolist() == [2, 10] and not select.needs_brain
    with pytest.raises(UserError, match=r"nothing on IXI003 in the table; it has IXI002-Guys-0828-T1. Leave the table out"):
        select("IXI003", volume)
    with pytest.raises(UserError, match="slice 10 of IXI002-Guys-0828-T1, which has 9; the table is of other volumes"):
        counted_shares(counts, "IXI002-Guys-0828-T1", 9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ID,COUNT\na_0,1\n", "no column BRAIN_QUANTITY; found ID, COUNT"),
        ("ID,BRAIN_QUANTITY\na_0,1\na,2\n", "line 3: got 'a', '2'; expected <volume>_<slice> and a number of pixels"),
        ("ID,BRAIN_QUANTITY\na_0,many\n", "line 2: got 'a_0', 'many'"),
    ],
)
def test_mistakes_in_a_table_of_counts_are_named(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_counts(tmp_path / "c.csv")


def test_the_rejected_rules_cut_the_distribution_of_the_volume() -> None:
    values = np.array([1.0, 2, 3, 4, 5, 6, 7, 8, 9])
    # Q1 = 3, Q3 = 7; mean 5, SD sqrt(60/9)
    assert lower_cut(values, "q1") == 3 and lower_cut(values, "iqr") == 3 - 1.5 * 4
    assert lower_cut(values, "sd") == pytest.approx(5 - 3 * np.sqrt(60 / 9))
    volume = np.zeros((3, 3, 9))
    for place in range(9):
        volume.reshape(9, 9)[: place + 1, place] = 9 - place  # ever more pixels, ever darker
    assert nonzero_counts(volume).tolist() == list(range(1, 10)) and nonzero_means(volume).tolist() == list(range(9, 0, -1))
    assert select_slices(volume, "nonzero").tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert select_slices(volume, "mean").tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert select_slices(volume, "mean", cut="iqr").tolist() == list(range(9))


def test_a_slice_of_zeros_has_mean_zero() -> None:
    assert nonzero_means(np.zeros((2, 2, 1))).tolist() == [0.0]


def test_the_middle_and_a_fixed_range_look_at_nothing() -> None:
    assert select_slices(np.zeros((2, 2, 7)), "middle").tolist() == [3]
    assert select_slices(np.zeros((2, 2, 150)), "range").tolist() == list(range(24, 126)), "102 slices, the mean of the share of brain"
    assert select_slices(np.zeros((2, 2, 5)), "all").tolist() == [0, 1, 2, 3, 4]


def test_shares_are_those_of_a_loop() -> None:
    brain = np.random.default_rng(0).random((5, 7, 4)) > 0.6
    assert brain_shares(brain).tolist() == [brain[:, :, k].sum() / 35 for k in range(4)]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "best"}, "got 'best' with cut 'q1'; expected one of brain, nonzero, mean, middle, range, all"),
        ({"rule": "mean", "cut": "q2"}, "cut 'q2'.*and one of sd, iqr, q1"),
        ({"min_share": 1.5}, "min_share 1.5"),
        ({}, "got neither mask nor shares nor spacing_mm"),
        ({"brain": np.ones((2, 2, 4))}, r"a mask of shape \(2, 2, 4\) for a volume of shape \(2, 2, 3\)"),
        ({"shares": np.ones(4)}, "shares of 4 slices for a volume of 3"),
    ],
)
def test_mistakes_are_named(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        select_slices(np.ones((2, 2, 3)), **settings)


def test_a_case_without_a_slice_left_is_named() -> None:
    with pytest.raises(
        UserError, match=r"case A: the rule 'brain' keeps none of 3 slices \(min_share 0.0457764\); is it a T1 of a whole head"
    ):
        SliceSelector()("A", np.ones((2, 2, 3)), brain=np.zeros((2, 2, 3)))
