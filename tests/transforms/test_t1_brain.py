from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.ndimage import label

from common.data.simulate.ixi import Scan, simulate_scan
from common.errors import UserError
from common.transforms.t1_brain import ExtractT1Braind, extract_t1_brain, otsu_threshold


def dice(one: np.ndarray, other: np.ndarray) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


@pytest.fixture(scope="module", params=["main", "shift"])
def scan(request: pytest.FixtureRequest) -> Scan:
    return simulate_scan(3, 0, 3.75, request.param)


@pytest.fixture(scope="module")
def found(scan: Scan) -> np.ndarray:
    return extract_t1_brain(scan.image, scan.grid.spacing_mm)


def test_the_brain_of_a_simulated_head_is_found_in_one_piece(scan: Scan, found: np.ndarray) -> None:
    assert found.dtype == bool and found.shape == scan.image.shape
    assert dice(found, scan.brain > 0) > 0.9
    assert label(found)[1] == 1
    assert 0.85 < found.sum() / scan.brain.sum() < 1.15


def test_unit_and_top_axis_do_not_matter(scan: Scan, found: np.ndarray) -> None:
    turned = np.moveaxis(scan.image.astype(np.float64) * 7.3, 1, 2)  # P, R, S
    again = extract_t1_brain(turned, np.array(scan.grid.spacing_mm)[[0, 2, 1]].tolist(), superior_axis=2)
    assert dice(np.moveaxis(again, 2, 1), found) > 0.99


def test_a_volume_without_skull_gives_its_foreground(scan: Scan) -> None:
    brain = scan.brain > 0
    stripped = extract_t1_brain(np.where(brain, scan.image, 0), scan.grid.spacing_mm)
    assert stripped[brain].all() and dice(stripped, brain) > 0.99


@pytest.mark.parametrize("value", [0, 5])
def test_a_volume_without_contrast_has_no_brain(value: int) -> None:
    assert not extract_t1_brain(np.full((20, 20, 20), value, np.int16), (8.0, 8.0, 8.0)).any()


def test_noise_alone_ends_without_an_error() -> None:
    noise = np.random.default_rng(0).normal(100, 10, (24, 24, 20))
    assert extract_t1_brain(noise, (8.0, 8.0, 8.0)).shape == noise.shape


def test_missing_values_and_negative_ones_count_as_no_signal(scan: Scan, found: np.ndarray) -> None:
    values = scan.image.astype(np.float32)
    values[:3], values[-2:] = np.nan, -50.0
    assert dice(extract_t1_brain(values, scan.grid.spacing_mm), found) > 0.98


def test_other_shapes_are_refused() -> None:
    with pytest.raises(UserError, match=r"got a volume of shape \(4, 4\), spacing \(1.0, 1.0\); expected three axes"):
        extract_t1_brain(np.zeros((4, 4)), (1.0, 1.0))


def test_otsus_threshold_lies_between_two_clouds_and_is_the_best_of_all_cuts() -> None:
    rng = np.random.default_rng(0)
    values = np.concatenate([rng.normal(10, 2, 3000), rng.normal(30, 3, 1000)])
    threshold = otsu_threshold(values)
    assert 15 < threshold < 25

    def between(cut: float) -> float:
        low, high = values[values <= cut], values[values > cut]
        return len(low) * len(high) * (low.mean() - high.mean()) ** 2 if len(low) and len(high) else 0.0

    best = max(between(cut) for cut in np.linspace(12, 28, 200))
    assert between(threshold) > 0.999 * best


def test_the_transform_adds_a_mask_on_the_same_grid_and_leaves_one_that_is_there(scan: Scan, found: np.ndarray) -> None:
    image = MetaTensor(torch.from_numpy(scan.image[None].astype(np.float32)), affine=torch.from_numpy(scan.affine))
    mask = ExtractT1Braind()({"image": image})["brain"]
    assert mask.dtype == torch.uint8 and torch.equal(mask.affine, image.affine)
    assert np.array_equal(mask.numpy()[0] > 0, found)
    own = torch.zeros(1, 2, 2, 2)
    assert ExtractT1Braind()({"image": image, "brain": own})["brain"] is own
    with pytest.raises(UserError, match="case A: no brain found in the T1; give a mask"):
        ExtractT1Braind()({"id": "A", "image": MetaTensor(torch.zeros(1, 8, 8, 8))})


@pytest.mark.slow
@pytest.mark.parametrize("style", ["main", "shift"])
def test_the_dice_over_twelve_people_is_what_the_documents_say(style: str) -> None:
    found = []
    for index in range(12):
        one = simulate_scan(index, 0, 3.75, style, 0.3)
        found.append(dice(extract_t1_brain(one.image, one.grid.spacing_mm), one.brain > 0))
    print(style, f"mean {np.mean(found):.3f}, lowest {min(found):.3f}")
    assert np.mean(found) > 0.95 and min(found) > 0.9
