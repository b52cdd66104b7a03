import math

import numpy as np
import pytest

from common.errors import UserError
from common.metrics.lesion_load import STRATA, lesion_load, mean_per_stratum, stratum


def test_load_is_lesion_voxels_over_brain_voxels():
    brain = np.zeros((10, 10, 4), dtype=np.uint8)
    brain[:, :5] = 1
    lesion = np.zeros_like(brain)
    lesion[0, :3, 0] = 1
    assert lesion_load(lesion, brain) == pytest.approx(3 / 200)
    assert lesion_load(np.zeros_like(brain), brain) == 0


def test_an_empty_brain_or_another_grid_is_refused():
    with pytest.raises(UserError, match="brain: the mask holds no voxel"):
        lesion_load(np.zeros((2, 2, 2)), np.zeros((2, 2, 2)))
    with pytest.raises(UserError, match=r"brain: got shape \(2, 2, 3\)"):
        lesion_load(np.zeros((2, 2, 2)), np.ones((2, 2, 3)))


@pytest.mark.parametrize(
    ("load", "name"),
    [(0.0, "<1 %"), (0.00999, "<1 %"), (0.01, "1-5 %"), (0.03, "1-5 %"), (0.05, "1-5 %"), (0.0500001, ">5 %"), (1.0, ">5 %")],
)
def test_the_borders_belong_to_the_middle_stratum(load, name):
    assert stratum(load) == name


@pytest.mark.parametrize("load", [-0.1, math.nan])
def test_a_load_that_is_no_share_is_refused(load):
    with pytest.raises(UserError, match="load: got"):
        stratum(load)


def test_means_per_stratum_leave_nan_out_and_weigh_back_to_the_overall_mean():
    values, names = [0.2, 0.4, math.nan, 0.9, 0.5], ["<1 %", "<1 %", "<1 %", ">5 %", "unknown"]
    means = mean_per_stratum(values, names)
    assert list(means) == list(STRATA)
    assert means["<1 %"] == pytest.approx(0.3) and means[">5 %"] == 0.9 and math.isnan(means["1-5 %"])
    with pytest.raises(UserError, match="strata: got 1 names, expected 2"):
        mean_per_stratum([1.0, 2.0], ["<1 %"])
