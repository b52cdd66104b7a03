"""One real head CT goes to the reference cube, from DICOM with tilt and uneven slices and from NIfTI, to the same place."""

import os
from pathlib import Path

import numpy as np
import pytest

from common.data.head_ct import HeadCT, read_head_ct
from common.transforms.prepare_head_ct import PrepareHeadCTd
from common.transforms.reference_frame import make_reference
from common.transforms.register_head import register_rigid, rotation_matrix

FOLDER = Path(os.environ.get("BRAIN_BUNDLES_REAL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "head_ct"
NIFTI, DICOM = FOLDER / "ge_head_ct_tiltcorrected_1x1x2mm.nii.gz", FOLDER / "dicom"
pytestmark = pytest.mark.skipif(not NIFTI.is_file(), reason=f"no real data: {NIFTI} is absent (see BRAIN_BUNDLES_REAL_DATA)")


@pytest.fixture(scope="module")
def ct() -> HeadCT:
    return read_head_ct(NIFTI)


def test_both_formats_of_one_scan_come_to_the_same_place(ct):
    transform = PrepareHeadCTd("image", make_reference(ct, 4.0), 128, 2.0)
    cubes = [transform({"image": str(path)}) for path in (NIFTI, DICOM)]
    for cube in cubes:
        volumes = np.bincount(cube["structures"].numpy().ravel(), minlength=5) * 8 / 1000
        assert cube["image"].meta["registered"]
        assert 1300 < volumes[3] + volumes[4] < 1700  # cc of brain and CSF
        assert volumes[3] == pytest.approx(volumes[4], rel=0.03)
    brains = [(cube["structures"] > 2).numpy() for cube in cubes]
    assert 2 * (brains[0] & brains[1]).sum() / (brains[0].sum() + brains[1].sum()) > 0.98


def test_a_known_motion_is_recovered(ct):
    motion = np.eye(4)
    motion[:3, :3], motion[:3, 3] = rotation_matrix(14, -9, 17), (20, -15, 33)
    found = register_rigid(ct.hu, ct.affine, ct.hu, motion @ ct.affine, 4.0)
    corners = np.array([[x, y, z, 1] for x in (-70, 70) for y in (-85, 85) for z in (0, 140)], dtype=float)
    assert found.ok, found.reason
    assert np.linalg.norm((corners @ (found.matrix - motion).T)[:, :3], axis=1).max() < 0.5
