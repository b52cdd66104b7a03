from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.data import MetaTensor, list_data_collate
from scipy.spatial.transform import Rotation

from common.errors import UserError
from common.transforms.load_case import LoadCased, read_volume

SHAPE = (6, 5, 4)
OBLIQUE = Rotation.from_euler("xyz", [10, -20, 35], degrees=True).as_matrix()
SPACING, ORIGIN = (0.9, 1.3, 4.5), (-31.5, 12.25, 7.0)
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])


def affine() -> np.ndarray:
    """RAS affine of the oblique grid below, from spacing, direction and origin by hand."""
    matrix = np.eye(4)
    matrix[:3, :3] = OBLIQUE @ np.diag(SPACING)
    matrix[:3, 3] = ORIGIN
    result: np.ndarray = LPS_TO_RAS @ matrix
    return result


def write_itk(path: Path, array: np.ndarray, direction: np.ndarray = OBLIQUE, origin: tuple[float, ...] = ORIGIN) -> str:
    import itk

    image = itk.image_from_array(np.ascontiguousarray(array.T))
    image.SetSpacing(SPACING)
    image.SetOrigin(origin)
    image.SetDirection(itk.matrix_from_array(np.ascontiguousarray(direction)))
    itk.imwrite(image, str(path))
    return str(path)


def write_nifti(path: Path, array: np.ndarray, matrix: np.ndarray | None = None) -> str:
    import nibabel as nib

    nib.save(nib.Nifti1Image(array, affine() if matrix is None else matrix), path)
    return str(path)


def write(path: Path, array: np.ndarray) -> str:
    return write_nifti(path, array) if ".nii" in path.name else write_itk(path, array)


def adc_map() -> np.ndarray:
    array = np.zeros(SHAPE, np.float32)
    array[1:5, 1:4] = np.arange(4 * 3 * 4, dtype=np.float32).reshape(4, 3, 4) + 1000
    array[2, 2, 2] = -150  # real ADC maps hold a few negative voxels inside the brain
    return array


def z_map() -> np.ndarray:
    return np.where(adc_map() != 0, -1.5, 0).astype(np.float32)


def lesion() -> np.ndarray:
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:4, 2, 1] = 1
    return mask


@pytest.fixture
def case(tmp_path: Path) -> dict[str, Any]:
    return {
        "id": "s1",
        "subject": "s1",
        "image": [write_itk(tmp_path / "adc.mha", adc_map()), write_itk(tmp_path / "z.mha", z_map())],
        "label": write_itk(tmp_path / "lesion.mha", lesion()),
    }


def test_a_case_becomes_tensors_on_the_grid_of_its_first_file(case: dict[str, Any]) -> None:
    files = list(case["image"])
    loaded = LoadCased()(case)
    assert case["image"] == files, "the case given must stay as it was"
    assert (loaded["image"].shape, loaded["image"].dtype) == ((2, *SHAPE), torch.float32)
    assert (loaded["label"].shape, loaded["label"].dtype) == ((1, *SHAPE), torch.uint8)
    assert (loaded["brain"].shape, loaded["brain"].dtype) == ((1, *SHAPE), torch.bool)
    np.testing.assert_array_equal(loaded["image"].numpy(), np.stack([adc_map(), z_map()]))
    np.testing.assert_array_equal(loaded["label"].numpy()[0], lesion())
    np.testing.assert_array_equal(loaded["brain"].numpy()[0], adc_map() > 0)
    for key in ("image", "label", "brain"):
        assert isinstance(loaded[key], MetaTensor)
        np.testing.assert_allclose(loaded[key].affine.numpy(), affine(), atol=1e-6)
        assert loaded[key].affine.dtype == torch.float64
    assert loaded["image"].meta["filename_or_obj"] == loaded["brain"].meta["filename_or_obj"] == files[0]
    assert loaded["label"].meta["filename_or_obj"] == case["label"]
    assert (loaded["id"], loaded["subject"]) == ("s1", "s1")


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".nii", ".nii.gz"])
def test_every_format_gives_the_same_tensors(tmp_path: Path, suffix: str) -> None:
    files = [write(tmp_path / f"a{suffix}", adc_map()), write(tmp_path / f"z{suffix}", z_map())]
    loaded = LoadCased()({"image": files, "label": write(tmp_path / f"l{suffix}", lesion())})
    np.testing.assert_array_equal(loaded["image"].numpy(), np.stack([adc_map(), z_map()]))
    np.testing.assert_array_equal(loaded["label"].numpy()[0], lesion())
    np.testing.assert_allclose(loaded["image"].affine.numpy(), affine(), atol=1e-5)


@pytest.mark.parametrize("suffix", [".nii.gz", ".mha", ".nrrd"])
def test_the_fourth_axis_of_one_file_holds_the_inputs(tmp_path: Path, suffix: str) -> None:
    import itk

    stack = np.stack([adc_map(), z_map()], axis=-1)
    path = tmp_path / f"both{suffix}"
    if suffix == ".nii.gz":
        write_nifti(path, stack)
    elif suffix == ".mha":  # two components per voxel
        itk.imwrite(itk.image_from_array(np.ascontiguousarray(stack.transpose(2, 1, 0, 3)), is_vector=True), str(path))
    else:  # a true fourth dimension
        itk.imwrite(itk.image_from_array(np.ascontiguousarray(stack.T)), str(path))
    np.testing.assert_array_equal(LoadCased()({"image": str(path)})["image"].numpy(), np.moveaxis(stack, -1, 0))


def test_formats_may_be_mixed_in_one_case(tmp_path: Path) -> None:
    files = [write_itk(tmp_path / "a.mha", adc_map()), write_nifti(tmp_path / "z.nii.gz", z_map())]
    assert LoadCased()({"image": files, "label": write_nifti(tmp_path / "l.nii", lesion())})["image"].shape == (2, *SHAPE)


def test_a_label_may_be_absent_and_a_mask_need_not_be_made(case: dict[str, Any]) -> None:
    del case["label"]
    assert "label" not in LoadCased()(case)
    assert "label" not in LoadCased()({**case, "label": None})
    assert "brain" not in LoadCased(brain_key=None)(case)


def test_float_labels_that_hold_integers_are_fine(case: dict[str, Any], tmp_path: Path) -> None:
    case["label"] = write_itk(tmp_path / "float.mha", lesion().astype(np.float32))
    assert LoadCased()(case)["label"].dtype == torch.uint8


def test_cases_from_unlike_formats_collate(case: dict[str, Any], tmp_path: Path) -> None:
    nifti = [write_nifti(tmp_path / "a.nii", adc_map()), write_nifti(tmp_path / "z.nii", z_map())]
    other = {"id": "s2", "subject": "s2", "image": nifti, "label": write_nifti(tmp_path / "l.nii", lesion())}
    assert list_data_collate([LoadCased()(case), LoadCased()(other)])["image"].shape == (2, 2, *SHAPE)


def test_a_missing_file_is_named(case: dict[str, Any]) -> None:
    Path(case["image"][1]).unlink()
    with pytest.raises(UserError, match=r"z\.mha: no such file; check the path"):
        LoadCased()(case)
    with pytest.raises(UserError, match="case s1: it has no 'image'"):
        LoadCased()({"id": "s1"})


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".nii", ".nii.gz"])
@pytest.mark.parametrize("kept", [0, 0.5])
def test_a_truncated_file_is_an_error_whatever_the_reader_says(tmp_path: Path, suffix: str, kept: float) -> None:
    # random voxels do not compress: half of the file is really gone
    path = Path(write(tmp_path / f"a{suffix}", np.random.default_rng(0).normal(size=(20, 20, 20)).astype(np.float32)))
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(UserError, match=rf"a\{suffix}: cannot be read \(.+\)\. The file is truncated, damaged or not an image") as caught:
        read_volume(path)
    assert caught.value.__cause__ is not None


def test_a_text_file_with_an_image_suffix_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_text("not an image")
    with pytest.raises(UserError, match=r"a\.nii: cannot be read"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("shape", [(6, 5), (6, 5, 4, 2, 2)])
def test_2d_and_5d_files_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = write_nifti(tmp_path / "a.nii", np.ones(shape, np.float32))
    with pytest.raises(UserError, match=rf"a\.nii: a {len(shape)}D image of shape .*; expected a 3D volume, or 4D with"):
        read_volume(path)


def test_a_wrong_number_of_inputs_names_the_files(case: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"case s1: 2 input channels in .*adc\.mha \(1\), .*z\.mha \(1\); expected 3"):
        LoadCased(channels=3)(case)
    assert LoadCased(channels=None)({**case, "image": case["image"][0]})["image"].shape == (1, *SHAPE)


def test_unequal_shapes_name_both_files(case: dict[str, Any], tmp_path: Path) -> None:
    case["label"] = write_itk(tmp_path / "small.mha", lesion()[:, :, :3])
    with pytest.raises(UserError, match=r"small\.mha: its grid differs from that of .*adc\.mha: shape \(6, 5, 3\) against \(6, 5, 4\)"):
        LoadCased()(case)


def test_unequal_affines_are_measured_and_the_tolerance_decides(case: dict[str, Any], tmp_path: Path) -> None:
    case["image"][1] = write_itk(tmp_path / "moved.mha", z_map(), origin=(ORIGIN[0] + 0.25, *ORIGIN[1:]))
    with pytest.raises(UserError, match=r"moved\.mha: its grid differs .* affines 0\.25 mm \(allowed 0\.001\)"):
        LoadCased()(case)
    assert LoadCased(grid_tolerance_mm=0.3)(case)["image"].shape == (2, *SHAPE)
    case["image"][1] = write_itk(tmp_path / "moved.mha", z_map(), origin=(ORIGIN[0] + 0.0005, *ORIGIN[1:]))
    assert LoadCased()(case)["image"].shape == (2, *SHAPE)


def test_equal_spacing_in_another_direction_is_another_grid(case: dict[str, Any], tmp_path: Path) -> None:
    case["image"][1] = write_itk(tmp_path / "straight.mha", z_map(), direction=np.eye(3))
    with pytest.raises(UserError, match=r"straight\.mha: its grid differs"):
        LoadCased()(case)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_voxels_that_are_no_numbers_are_counted(case: dict[str, Any], tmp_path: Path, value: float) -> None:
    array = z_map()
    array[0, 0, :3] = value
    case["image"][1] = write_itk(tmp_path / "bad.mha", array)
    with pytest.raises(UserError, match=r"bad\.mha: 3 of 120 voxels are NaN or infinite"):
        LoadCased()(case)


@pytest.mark.parametrize(("value", "text"), [(255, "255"), (0.5, r"0\.5"), (-1, "-1")])
def test_label_values_outside_the_table_are_named(case: dict[str, Any], tmp_path: Path, value: float, text: str) -> None:
    case["label"] = write_itk(tmp_path / "bad.mha", lesion().astype(np.float32) * value)
    with pytest.raises(UserError, match=rf"bad\.mha: label values {text} in 2 voxels; expected only \(0, 1\)"):
        LoadCased()(case)
    case["label"] = write_itk(tmp_path / "two.mha", lesion() * 2)
    assert int(LoadCased(label_values=(0, 2))(case)["label"].max()) == 2


def test_a_label_is_one_volume(case: dict[str, Any], tmp_path: Path) -> None:
    case["label"] = write_nifti(tmp_path / "two.nii", np.stack([lesion()] * 2, axis=-1))
    with pytest.raises(UserError, match=r"two\.nii: a label with 2 channels"):
        LoadCased()(case)
    case["label"] = [case["label"]] * 2
    with pytest.raises(UserError, match="2 label files for one case"):
        LoadCased()(case)


def test_an_empty_brain_names_the_file(case: dict[str, Any], tmp_path: Path) -> None:
    case["image"][0] = write_itk(tmp_path / "empty.mha", np.zeros(SHAPE, np.float32))
    with pytest.raises(UserError, match=r"empty\.mha: the brain is empty, no voxel is above 0 \(channel 0, range 0 to 0\)"):
        LoadCased()(case)
