"""A brain phantom: three unequal ellipsoids with an inner structure, in any pose; its size must survive every alignment."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

from common.errors import UserError
from common.transforms.align_brain import AlignBraind, grid_affine, own_axes, resample_brain, snapped
from common.transforms.brain_pose import BrainReference, ensure_reference, find_pose
from common.transforms.to_source_grid import ToSourceGridd

Case = dict[str, object]
LAS = np.diag([-2.0, 2.0, 2.0, 1.0])


def brain_at(points: np.ndarray, size: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Image and mask of the phantom at points ``(..., 3)`` in mm of its own frame: egg-shaped, symmetric in x but for one spot."""
    x, y, z = np.moveaxis(points / size, -1, 0)
    mask = (x / (33 - 0.12 * y)) ** 2 + (y / 44) ** 2 + (np.where(z > 0, z / 33, z / 24)) ** 2 < 1
    image = 40.0 + 20 * np.cos(y / 9) * np.cos(z / 8) + 30 * ((x / 9) ** 2 + ((y - 8) / 14) ** 2 + ((z - 4) / 9) ** 2 < 1)
    image = image + 25 * (((x - 18) / 6) ** 2 + ((y + 16) / 6) ** 2 + (z / 6) ** 2 < 1)
    return np.where(mask, image, 8.0), mask


def case_of(
    affine: np.ndarray = LAS, shape: tuple[int, int, int] = (46, 60, 50), pose: np.ndarray | None = None, size: float = 1.0
) -> Case:
    """A scan whose middle lies at the world's origin; ``pose`` maps the phantom's frame to the world."""
    affine = affine.copy()
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1)
    world = index @ affine[:3, :3].T + affine[:3, 3]
    inverse = np.linalg.inv(np.eye(4) if pose is None else pose)
    image, mask = brain_at(world @ inverse[:3, :3].T + inverse[:3, 3], size)

    def wrap(array: np.ndarray) -> MetaTensor:
        return MetaTensor(torch.from_numpy(array[None]), affine=torch.from_numpy(affine), meta={"filename_or_obj": "scan.nii.gz"})

    return {
        "id": "one",
        "image": wrap(image.astype(np.float32)),
        "brain": wrap(mask.astype(np.uint8)),
        "label": wrap(3 * mask.astype(np.uint8)),
    }


def aligned(case: Case, **options: object) -> dict[str, MetaTensor]:
    return AlignBraind(**{"grid": (40, 56, 44), "spacing_mm": 2.0, "mode": "centre", **options})(case)  # type: ignore[arg-type, return-value]


def volume_ml(mask: MetaTensor) -> float:
    return float(mask.sum()) * float(abs(torch.linalg.det(mask.affine[:3, :3]))) / 1000


# --------------------------------------------------------------------------------------------------------- padding and cropping


@pytest.mark.parametrize("mode", ["none", "centre"])
def test_at_the_grids_spacing_voxels_are_only_moved(mode: str) -> None:
    case = case_of()
    case["image"] = case["image"] + torch.rand(46, 60, 50)  # type: ignore[operator]
    result = aligned(case, mode=mode, grid=(60, 70, 64))
    before, after = case["image"].numpy(), result["image"].numpy()  # type: ignore[attr-defined]
    np.testing.assert_array_equal(np.sort(after[after != 0]), np.sort(before.ravel()))
    assert nibabel.aff2axcodes(result["image"].affine.numpy()) == ("R", "A", "S")
    to_source = np.linalg.inv(case["image"].affine.numpy()) @ result["image"].affine.numpy()  # type: ignore[attr-defined]
    spot = np.rint(to_source @ [30, 35, 32, 1])[:3].astype(int)
    assert after[0, 30, 35, 32] == before[0, spot[0], spot[1], spot[2]], "the affine tells where a voxel came from"


def test_the_centroid_comes_to_the_middle_of_the_grid() -> None:
    shift = np.eye(4)
    shift[:3, 3] = [7, -9, 5]
    for grid, spacing in (((40, 56, 44), 2.0), ((41, 55, 47), 1.7)):
        result = aligned(case_of(pose=shift), grid=grid, spacing_mm=spacing)
        centroid = np.argwhere(result["brain"].numpy()[0]).mean(axis=0)
        np.testing.assert_allclose(centroid, (np.array(grid) - 1) / 2, atol=0.55)
    kept = aligned(case_of(pose=shift), mode="none", grid=(46, 60, 50))
    assert np.abs(np.argwhere(kept["brain"].numpy()[0]).mean(axis=0) - [22.5, 29.5, 24.5]).max() > 2


@pytest.mark.parametrize("spacing", [1.5, 2.0, 3.1])
@pytest.mark.parametrize("size", [0.6, 1.0])
def test_the_size_in_mm_survives(spacing: float, size: float) -> None:
    case = case_of(size=size)
    result = aligned(case, grid=(60, 72, 60), spacing_mm=spacing)
    assert volume_ml(result["brain"]) == pytest.approx(volume_ml(case["brain"]), rel=0.02)  # type: ignore[arg-type]
    assert result["spacing_mm"] == spacing and result["brain"].dtype == torch.uint8
    np.testing.assert_allclose(np.linalg.norm(result["image"].affine.numpy()[:3, :3], axis=0), spacing)


def test_labels_keep_their_numbers_and_a_case_without_them_passes() -> None:
    case = case_of()
    result = aligned(case, spacing_mm=1.3)
    assert set(np.unique(result["label"].numpy())) == {0, 3}
    del case["label"]
    assert "label" not in aligned(case)


def test_a_prediction_goes_back_to_the_source_grid() -> None:
    case = case_of()
    result = aligned(case, grid=(60, 70, 64), spacing_mm=1.6)
    result["pred"] = result["image"].as_tensor()  # type: ignore[assignment]
    back = ToSourceGridd("pred")(result)["pred"]
    assert back.shape == case["image"].shape and back.meta["filename_or_obj"] == "scan.nii.gz"  # type: ignore[attr-defined]
    np.testing.assert_allclose(back.affine.numpy(), case["image"].affine.numpy())  # type: ignore[attr-defined]
    inside = case["brain"].numpy() > 0  # type: ignore[attr-defined]
    assert np.abs(back.numpy() - case["image"].numpy())[inside].mean() < 3  # type: ignore[attr-defined]


def test_cubic_splines_follow_a_smooth_image_better_than_lines() -> None:
    x = np.arange(40)
    volume = np.broadcast_to(np.sin(x / 2.0)[:, None, None], (40, 6, 6))
    target = np.eye(4)
    target[0, 3] = 0.5
    truth = np.sin((x[5:30] + 0.5) / 2.0)
    errors = [np.abs(resample_brain(volume, np.eye(4), target, (36, 6, 6), order)[5:30, 3, 3] - truth).max() for order in (1, 3)]
    assert errors[1] < 0.1 * errors[0]


def test_axes_and_snapping_by_hand() -> None:
    oblique = LAS[:, [1, 0, 2, 3]]  # first axis to the front, second to the left
    np.testing.assert_allclose(own_axes(oblique), np.eye(3))
    target = grid_affine(np.eye(4), (3, 3, 3), 2.0)
    np.testing.assert_allclose(target[:3, 3], -2.0)
    source = LAS.copy()
    source[:3, 3] = [0.7, 0.7, 0.7]
    np.testing.assert_allclose(snapped(target, source)[:3, 3], [-1.3, -1.3, -1.3])
    np.testing.assert_array_equal(snapped(target, 1.01 * source), target, "another spacing stays as it is")


# ------------------------------------------------------------------------------------------------------------------------ rigid


@pytest.fixture(scope="module")
def reference() -> BrainReference:
    case = case_of()
    return BrainReference.make(case["image"].numpy()[0], case["brain"].numpy()[0] > 0, case["image"].affine.numpy(), "image", "one")  # type: ignore[attr-defined]


@pytest.mark.parametrize("size", [0.65, 1.0])
def test_a_turned_brain_of_any_size_is_turned_back_and_not_scaled(
    reference: BrainReference, rigid: Callable[..., np.ndarray], size: float
) -> None:
    case = case_of(pose=rigid(9, -6, 11, (5, -4, 3)), size=size)
    straight = aligned(case_of(size=size), mode="rigid", reference=reference)
    turned = aligned(case, mode="rigid", reference=reference)
    assert turned["image"].meta["registered"]
    assert volume_ml(turned["brain"]) == pytest.approx(volume_ml(case["brain"]), rel=0.02)  # type: ignore[arg-type]
    both, either = (turned["brain"].numpy() & straight["brain"].numpy()).sum(), (turned["brain"].numpy() | straight["brain"].numpy()).sum()
    assert both / either > 0.93
    relative = turned["image"].affine.numpy()[:3, :3] / 2 @ (straight["image"].affine.numpy()[:3, :3] / 2).T
    error = relative @ rigid(9, -6, 11)[:3, :3].T
    assert np.rad2deg(np.arccos(np.clip((np.trace(error) - 1) / 2, -1, 1))) < 2.5
    np.testing.assert_allclose(relative @ relative.T, np.eye(3), atol=1e-6)


def test_the_mirror_plane_of_the_reference_halves_the_grid(reference: BrainReference) -> None:
    result = aligned(case_of(), mode="rigid", reference=reference)
    brain = result["brain"].numpy()[0]
    flipped = brain[::-1]
    assert (brain & flipped).sum() / (brain | flipped).sum() > 0.95


def test_a_reference_is_kept_in_a_file_and_made_of_the_scan_nearest_in_age(tmp_path: Path, reference: BrainReference) -> None:
    loaded = BrainReference.load(reference.save(tmp_path / "r.npz"))
    case = case_of(size=0.8)
    parts = case["image"].numpy()[0], case["brain"].numpy()[0] > 0, case["image"].affine.numpy()  # type: ignore[attr-defined]
    np.testing.assert_allclose(find_pose(*parts, loaded).matrix, find_pose(*parts, reference).matrix, atol=0.02)
    cases = []
    for age in (31.0, 39.0, 44.0):
        scan = case_of(size=age / 40)
        names = {key: str(tmp_path / f"{age:g}_{key}.nii.gz") for key in ("image", "brain")}
        for key, name in names.items():
            nibabel.save(nibabel.Nifti1Image(scan[key].numpy()[0], scan[key].affine.numpy()), name)  # type: ignore[attr-defined]
        cases.append({"id": f"{age:g}", "age": age, "image": [names["image"]], "brain": names["brain"]})
    path = ensure_reference(cases, tmp_path / "made.npz")
    assert BrainReference.load(path).source == "39" and BrainReference.load(path).driver == "mask"
    assert ensure_reference([], path) == path, "what is there is taken"
    with pytest.raises(UserError, match="none of 1 cases has both an age and a mask"):
        ensure_reference([{"id": "x", "age": 40.0}], tmp_path / "no.npz")
    with pytest.raises(UserError, match=r"gone\.npz: no reference brain can be read"):
        BrainReference.load(tmp_path / "gone.npz")


# --------------------------------------------------------------------------------------------------------------------- mistakes


def test_a_brain_that_does_not_fit_is_said_or_refused(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "brain_bundles"):
        aligned(case_of(), grid=(40, 56, 44))
        assert not caplog.records
        aligned(case_of(), grid=(30, 56, 44))
    assert "case one: " in caplog.text and "CUT OFF" in caplog.text
    with pytest.raises(UserError, match=r"% of the brain lie outside the grid of 30 x 56 x 44 voxels of 2 mm; choose a larger grid"):
        aligned(case_of(), grid=(30, 56, 44), on_cut="error")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mode": "affine"}, "mode: got 'affine'; expected one of none, centre, rigid"),
        ({"order": 2}, "order: got 2; expected one of 1, 3"),
        ({"grid": (4, 4)}, r"grid, spacing_mm: got \(4, 4\), 2.0; expected three sides"),
        ({"mode": "rigid"}, "reference: got None for mode 'rigid'"),
    ],
)
def test_impossible_options_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        aligned(case_of(), **options)


def test_a_case_without_mask_is_named() -> None:
    case = case_of()
    with pytest.raises(UserError, match=r"case one: its mask of the brain has shape \(46, 60, 50\) and 0 voxels above 0"):
        aligned({**case, "brain": case["brain"] * 0})  # type: ignore[operator]
    with pytest.raises(UserError, match=r"case one: no mask of the brain \('brain'\); give one"):
        aligned({**case, "brain": None})
