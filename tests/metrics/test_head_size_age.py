"""Age by regression on head size: recovered where size is a function of age, and its error by hand."""

import math

import numpy as np
import pytest

from common.errors import UserError
from common.metrics.head_size_age import age_agreement, brain_size, fit_age_from_size


@pytest.mark.parametrize("degree", [1, 2])
def test_age_is_recovered_where_size_follows_from_it(degree):
    ages = np.linspace(26, 45, 12)
    sizes = 10 + 0.8 * ages if degree == 1 else np.sqrt(ages - 20)
    fitted = fit_age_from_size(sizes, ages, degree)
    assert fitted.age_weeks(sizes) == pytest.approx(ages, abs=1e-8) and fitted.scans == 12


def test_estimates_stay_within_the_ages_seen_and_nan_stays_nan():
    fitted = fit_age_from_size([30.0, 32.0, 35.0, math.nan], [34.0, 37.0, 40.0, 44.0], 1)
    found = fitted.age_weeks([10.0, 50.0, math.nan])
    assert found[0] == 34 and found[1] == 40 and math.isnan(found[2])


def test_two_scans_make_a_line_whatever_degree_is_asked_for():
    assert fit_age_from_size([30.0, 40.0], [30.0, 40.0], 2).age_weeks(35.0) == pytest.approx(35)


def test_the_size_of_a_brain_by_hand():
    mask = np.zeros((5, 6, 7))
    mask[:2, :3, :4] = 1
    assert brain_size(mask, (10, 10, 5)) == pytest.approx(24 * 0.5), "24 voxels of half a ml"
    assert brain_size(mask[..., 0], (10, 5)) == pytest.approx(6 * 0.5), "6 pixels of half a square cm"


def test_the_error_of_ages_by_hand():
    found = age_agreement([30.0, 35.0, 41.0, math.nan], [31.0, 35.0, 39.0, 40.0])
    # errors -1, 0, 2
    assert (found["n"], found["left_out"]) == (3, 1)
    assert found["mae_weeks"] == pytest.approx(1) and found["bias_weeks"] == pytest.approx(1 / 3)
    assert found["sd_weeks"] == pytest.approx(np.std([-1, 0, 2], ddof=1)) and found["r"] > 0.98
    assert math.isnan(age_agreement([], [])["mae_weeks"])


def test_a_fit_without_spread_is_refused():
    with pytest.raises(UserError, match="got 1 different sizes among 2 scans, expected at least 2"):
        fit_age_from_size([30.0, 30.0], [30.0, 31.0])
    with pytest.raises(UserError, match="got 1 sizes, 2 ages, degree 2"):
        fit_age_from_size([30.0], [30.0, 31.0])
