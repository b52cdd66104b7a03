"""One real glioma in BraTS2020's layout: reading, percentiles, patches and the source grid."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from common.data.brats import SEQUENCES
from common.data.check import check_dataset
from common.data.dataset import find_cases
from common.transforms.coordinates import AddCoordinatesd
from common.transforms.patch_sampling import RandPatchd
from common.transforms.percentile_range import PercentileRanged
from common.transforms.same_grid import LoadSameGridd

REAL = Path(os.environ.get("BRAIN_BUNDLES_REAL_DATA", "../shared/data")) / "brats2020_layout"
pytestmark = pytest.mark.skipif(not REAL.is_dir(), reason=f"no real volumes at {REAL}; set BRAIN_BUNDLES_REAL_DATA")


@pytest.fixture(scope="module")
def loaded() -> dict[Any, Any]:
    (case,) = find_cases(REAL, "brats", SEQUENCES, labelled=True)
    return LoadSameGridd()(case)


def test_the_real_case_is_read_on_the_grid_of_brats(loaded: dict[Any, Any]) -> None:
    assert loaded["id"] == "BraTS20_Training_001"
    assert loaded["image"].shape == (4, 240, 240, 155) and loaded["label"].shape == (1, 240, 240, 155)
    np.testing.assert_allclose(loaded["image"].affine.numpy(), [[-1, 0, 0, 0], [0, -1, 0, 239], [0, 0, 1, 0], [0, 0, 0, 1]])
    source = nibabel.load(loaded["image"].meta["filename_or_obj"])
    np.testing.assert_array_equal(loaded["image"][0].numpy(), np.asarray(source.dataobj))
    assert [int(v) for v in torch.unique(loaded["label"].as_tensor())] == [0, 1, 2, 4]


def test_sequences_are_in_order_as_the_tumour_shows(loaded: dict[Any, Any]) -> None:
    label, brain = loaded["label"][0].numpy(), loaded["image"][0].numpy() > 0
    levels = {v: [np.median(im[label == v]) / np.median(im[brain]) for im in loaded["image"].numpy()] for v in (2, 4)}
    t1, t1ce, t2, flair = range(4)
    assert levels[4][t1ce] > 1.15 * levels[4][t1], "the rim takes up contrast medium"
    assert min(levels[2][t2], levels[2][flair]) > 1.3 > levels[2][t1], "oedema is bright in T2 and FLAIR only"


def test_percentiles_fill_the_range_with_the_background_at_0(loaded: dict[Any, Any]) -> None:
    scaled = PercentileRanged("image")({"image": loaded["image"]})["image"].numpy()
    for sequence, source in zip(scaled, loaded["image"].numpy(), strict=True):
        inside = source != 0
        assert not sequence[~inside].any() and sequence.min() == 0 and sequence.max() == 1
        assert 0.005 < (sequence[inside] == 0).mean() < 0.02 and 0.005 < (sequence[inside] == 1).mean() < 0.02
        assert 0.2 < np.median(sequence[inside]) < 0.75


def test_patches_lie_in_the_padded_cube_of_256(loaded: dict[Any, Any]) -> None:
    cut = RandPatchd(patch_size=128, padded_size=256).set_random_state(0)
    patch = AddCoordinatesd()(cut(loaded))
    assert patch["image"].shape == (4, 128, 128, 128) and patch["coordinates"].shape == (3, 128, 128, 128)
    start = np.array(patch["patch_start"])
    place = torch.nonzero(patch["image"][0])[1000]  # a brain voxel, its source voxel, its coordinates
    source = place.numpy() + start - [8, 8, 50]
    assert patch["image"][(0, *place)] == loaded["image"][(0, *source.tolist())]
    np.testing.assert_allclose(patch["coordinates"][(slice(None), *place)], (place.numpy() + start) * 2 / 255 - 1, atol=1e-6)


def test_the_check_finds_no_error_in_the_real_tree() -> None:
    assert [finding.text for finding in check_dataset("brats", REAL) if finding.level == "error"] == []
