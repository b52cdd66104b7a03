import numpy as np
import pytest

from common.errors import UserError
from common.metrics.components import component_voxels, isolated_components
from common.metrics.detection import count_components


def a_mask():
    """27 voxels and one at their corner, a pair, and one alone."""
    mask = np.zeros((10, 9, 8), dtype=bool)
    mask[:3, :3, :3] = mask[3, 3, 3] = True
    mask[8, 0, :2] = True
    mask[9, 8, 7] = True
    return mask


def test_corners_connect_and_sizes_fall():
    assert component_voxels(a_mask()).tolist() == [28, 2, 1]


@pytest.mark.parametrize(("least", "specks", "voxels"), [(1, 0, 0), (2, 1, 1), (3, 2, 3), (28, 2, 3), (29, 3, 31)])
def test_specks_are_those_of_fewer_voxels(least, specks, voxels):
    assert isolated_components(a_mask(), least) == {"components": 3, "isolated_components": specks, "isolated_voxels": voxels}


def test_an_empty_mask_has_no_component():
    assert isolated_components(np.zeros((3, 2, 1))) == {"components": 0, "isolated_components": 0, "isolated_voxels": 0}


def test_it_counts_as_the_detection_does():
    mask = np.random.default_rng(0).random((12, 11, 10)) < 0.08
    sizes = component_voxels(mask)
    assert len(sizes) == count_components(mask) > 20
    assert sizes.sum() == mask.sum()


def test_mistakes_are_told():
    with pytest.raises(UserError, match="min_voxels: got 0"):
        isolated_components(a_mask(), 0)
    with pytest.raises(UserError, match="expected a 3D volume"):
        isolated_components(np.zeros((2, 2)))
