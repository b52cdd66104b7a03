"""Results of one real head CT, tilted and uneven, go back to its own frame of reference as DICOM; an anomaly map too."""

import os
from pathlib import Path

import numpy as np
import pydicom
import pytest

from common.data.dicom_source import source_images
from common.data.head_ct import HeadCT, read_head_ct
from common.data.segments import read_segments
from common.transforms.derived_series import save_derived_series
from common.transforms.dicom_segmentation import Algorithm, save_dicom_segmentation

FOLDER = Path(os.environ.get("BRAIN_BUNDLES_REAL_DATA", Path(__file__).resolve().parents[3] / "shared" / "data")) / "head_ct" / "dicom"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no real data: {FOLDER} is absent (see BRAIN_BUNDLES_REAL_DATA)")
BONE = {"1": {"name": "bone", "colour": [240, 230, 200], "code": ["272673000", "SCT", "Bone"]}}
MAKER = Algorithm("position_regression", "0.1.0")


@pytest.fixture(scope="module")
def ct() -> HeadCT:
    return read_head_ct(FOLDER)


def test_a_mask_lies_on_the_bone_of_the_original_slices(ct, tmp_path):
    sources = source_images(FOLDER)
    path = save_dicom_segmentation((ct.hu > 300).astype(np.uint8), ct.affine, read_segments(BONE), sources, tmp_path / "bone.dcm", MAKER)
    file = pydicom.dcmread(path)
    assert file.FrameOfReferenceUID == sources[0].FrameOfReferenceUID and file.PatientID == sources[0].PatientID
    shared = file.SharedFunctionalGroupsSequence[0]
    row, column = np.reshape(shared.PlaneOrientationSequence[0].ImageOrientationPatient, (2, 3)).astype(float)
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)  # between rows, between columns
    np.testing.assert_allclose([*row, *column], np.array(sources[0].ImageOrientationPatient, float), atol=1e-6)
    # pixels of the original files, where a frame of the mask lies in their plane
    seen = 0
    for frame, item in zip(file.pixel_array, file.PerFrameFunctionalGroupsSequence, strict=True):
        position = np.array(item.PlanePositionSequence[0].ImagePositionPatient, float)
        for header in sources:
            start = np.array(header.ImagePositionPatient, float)
            if abs(np.dot(start - position, np.cross(row, column))) > 0.05:
                continue
            image = pydicom.dcmread(header.filename)
            bone = image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept) > 300
            shift = np.array([np.dot(start - position, column), np.dot(start - position, row)]) / spacing
            lines, columns = (shift.round().astype(int)[axis] + np.arange(bone.shape[axis]) for axis in (0, 1))
            placed = frame[np.ix_(lines, columns)] > 0
            # the mask was made between pixels, since tilt moves slices by parts of them
            assert dice(placed, bone) > 0.95
            assert all(dice(np.roll(placed, step, axis), bone) < dice(placed, bone) for step in (-1, 1) for axis in (0, 1))
            seen += 1
    assert seen >= 4, "the even grid meets some of the original slices"


def test_a_map_comes_back_from_the_derived_series_on_the_same_grid(ct, tmp_path):
    values = np.where(ct.hu > 0, np.sqrt(np.abs(ct.hu)) / 50, 0).astype(np.float32)[::4, ::4]
    affine = ct.affine @ np.diag([4, 4, 1, 1])
    sources = source_images(FOLDER)
    folder = save_derived_series(values, affine, (0, 0.5), sources, tmp_path / "map", MAKER, "position error")
    back = read_back(folder)
    np.testing.assert_allclose(back[0], values, atol=np.ptp(values) / 65535)
    np.testing.assert_allclose(back[1], affine, atol=1e-4)
    files = [pydicom.dcmread(path) for path in folder.iterdir()]
    assert {file.FrameOfReferenceUID for file in files} == {sources[0].FrameOfReferenceUID}
    assert all(file.SourceImageSequence for file in files) and {file.Modality for file in files} == {"CT"}


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


def read_back(folder):
    from common.transforms.load_case import read_volume

    array, affine = read_volume(folder)
    return array[0], affine
