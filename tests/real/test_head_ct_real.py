"""One real head CT: 28 DICOM slices with gantry tilt and two thicknesses, against the NIfTI that dcm2niix made of them."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import map_coordinates

from common.data.dataset import find_cases
from common.data.dicom_files import dicom_files, series_headers
from common.data.dicom_series import describe_series
from common.data.head_ct import HeadCT, read_head_ct
from common.data.splits import fingerprints
from common.transforms.load_case import read_volume
from common.transforms.save_like_source import SaveLikeSourced

REAL = Path(os.environ.get("BRAIN_BUNDLES_REAL_DATA", "../shared/data")) / "head_ct"
CORRECTED = REAL / "ge_head_ct_tiltcorrected_1x1x2mm.nii.gz"
pytestmark = pytest.mark.skipif(not (REAL / "dicom").is_dir(), reason=f"no real volumes at {REAL}; set BRAIN_BUNDLES_REAL_DATA")


@pytest.fixture(scope="module")
def scan() -> HeadCT:
    return read_head_ct(REAL / "dicom")


def test_tilt_and_two_thicknesses_are_seen_and_corrected(scan: HeadCT) -> None:
    short = describe_series(REAL / "dicom")
    assert (short.slices, short.tilt_deg, short.even, short.axial, short.problem) == (28, 18.5, False, True, "")
    assert scan.notes == (
        "gantry tilt of 18.5 degrees removed by shifting the slices in their planes",
        "uneven slices (1.08 to 7.00 mm apart) interpolated to 4 mm",
    )
    steps = scan.affine[:3, :3].T @ scan.affine[:3, :3]
    np.testing.assert_allclose(steps, np.diag(np.diag(steps)), atol=1e-9)
    np.testing.assert_allclose(np.sqrt(np.diag(steps)), [0.488, 0.488, 4.0], atol=0.01)


def test_it_agrees_with_the_tilt_corrected_nifti(scan: HeadCT) -> None:
    other = read_head_ct(CORRECTED)
    to_ours = np.linalg.inv(scan.affine) @ other.affine
    index = to_ours[:3, :3] @ np.indices(other.hu.shape).reshape(3, -1) + to_ours[:3, 3:]
    ours = map_coordinates(scan.hu, index, order=1, cval=np.nan).reshape(other.hu.shape)
    head = np.isfinite(ours) & (other.hu > -300)
    assert head.sum() > 1_000_000
    assert np.corrcoef(ours[head], other.hu[head])[0, 1] > 0.997  # 0.9981 measured; the slices of 7 mm are interpolated twice
    assert np.median(np.abs(ours[head] - other.hu[head])) < 1


def test_brain_has_the_hu_of_brain(scan: HeadCT) -> None:
    brain = scan.hu[(scan.hu > 0) & (scan.hu < 80)]
    assert 20 < float(np.median(brain)) < 45
    assert scan.hu.min() == -1024
    assert scan.hu.max() > 1000


def test_both_forms_are_found_as_cases_and_headers_are_read_fast() -> None:
    cases = find_cases(REAL, "cq500", ("ct",))
    assert [case["id"] for case in cases] == ["dicom", CORRECTED.name.removesuffix(".nii.gz")]
    assert len(set(fingerprints(cases))) == 2
    series_headers(REAL / "dicom", limit=1)
    start = time.perf_counter()
    series_headers(REAL / "dicom")
    assert (time.perf_counter() - start) / len(dicom_files(REAL / "dicom")) < 0.05, "170,000 files of CQ500 are looked through"


def test_results_are_written_on_the_corrected_grid(scan: HeadCT, tmp_path: Path) -> None:
    image = MetaTensor(torch.zeros(1, 4, 4, 4), meta={"filename_or_obj": str(REAL / "dicom")})
    result = MetaTensor(torch.from_numpy(scan.hu)[None], affine=torch.from_numpy(scan.affine))
    saved = SaveLikeSourced("error", tmp_path, "map", np.float32, print_path=False)({"id": "x", "image": image, "error": result})
    array, affine = read_volume(saved["error_path"])
    np.testing.assert_array_equal(array[0], scan.hu)
    np.testing.assert_allclose(affine, scan.affine, atol=1e-4)
