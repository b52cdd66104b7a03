"""An atlas of another size, place and tilt comes onto the scan."""

import numpy as np
import pytest
from scipy.ndimage import affine_transform

from common.data.simulate.brats import simulate_scan
from common.errors import UserError
from common.transforms.affine_registration import register_atlas
from common.transforms.register_head import rotation_matrix
from common.transforms.rigid_registration import displacement_mm


@pytest.fixture(scope="module")
def scan():
    return simulate_scan(1, 0, 64)


def test_an_atlas_of_another_size_and_tilt_is_brought_onto_the_scan(scan):
    true = np.eye(4)
    true[:3, :3] = rotation_matrix(5, -4, 6) @ np.diag([0.85, 0.9, 0.8])
    true[:3, 3] = (12, -20, 8)  # world of the scan to world of the atlas
    scanned = scan.images[0].astype(np.float32)
    step = np.linalg.inv(scan.affine) @ np.linalg.inv(true) @ scan.affine
    atlas = affine_transform(scanned, step[:3, :3], step[:3, 3], order=1)
    found = register_atlas(scanned, scan.affine, atlas, scan.affine)
    points = np.argwhere(scanned > 0)[::50] @ scan.affine[:3, :3].T + scan.affine[:3, 3]
    assert displacement_mm(true @ np.linalg.inv(found), points @ found[:3, :3].T + found[:3, 3]) < 1.0
    assert displacement_mm(true, points) > 15


def test_an_empty_atlas_is_named(scan):
    with pytest.raises(UserError, match=r"mean.nii: no brain found in it"):
        register_atlas(scan.images[0], scan.affine, np.zeros((9, 9, 9)), np.diag([9.0, 9, 9, 1]), ("adc.nii", "mean.nii"))
