from __future__ import annotations

from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import SaveImaged
from scipy.spatial.transform import Rotation

from common.errors import UserError
from common.transforms.load_case import LoadCased, read_volume
from common.transforms.save_like_source import SaveLikeSourced, save_like_source, save_volume

SHAPE = (6, 5, 4)
# values that no short decimal text holds
OBLIQUE = Rotation.from_euler("xyz", [10.123456789, -20.7, 35.3], degrees=True).as_matrix()
SPACING, ORIGIN = (0.9 + 1 / 3e3, 1.3, 4.5 + np.pi / 1e5), (-31.5 - 1 / 3, 12.25, np.e)


def source_array(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)


def write_itk(path: Path, array: np.ndarray) -> Path:
    import itk

    image = itk.image_from_array(np.ascontiguousarray(array.T))
    image.SetSpacing([*SPACING, 1.0][: array.ndim])
    image.SetOrigin([*ORIGIN, 0.0][: array.ndim])
    direction = np.eye(array.ndim)
    direction[:3, :3] = OBLIQUE
    image.SetDirection(itk.matrix_from_array(direction))
    itk.imwrite(image, str(path))
    return path


def write_nifti(path: Path, array: np.ndarray, qform_code: int = 1, sform_code: int = 2) -> Path:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = OBLIQUE @ np.diag(SPACING), ORIGIN
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, qform_code)
    image.set_sform(affine, sform_code)
    image.header.set_xyzt_units("mm", "sec")
    image.header.set_slope_inter(2.0, 1.0)
    image.header["descrip"] = b"name of the patient"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"name of the patient"))
    nib.save(image, path)
    return path


def itk_geometry(path: Path | str) -> tuple[Any, ...]:
    import itk

    image = itk.imread(str(path))
    direction = np.asarray(itk.array_from_matrix(image.GetDirection()))[:3, :3]
    return tuple(image.GetSpacing())[:3], tuple(image.GetOrigin())[:3], direction.tolist()


def assert_same_itk_geometry(path: Path | str, source: Path) -> None:
    if source.suffix == ".mha":
        assert itk_geometry(path) == itk_geometry(source)
        np.testing.assert_array_equal(read_volume(path)[1], read_volume(source)[1])
    else:  # NRRD stores direction times spacing, so the last bit is lost with every reading
        for ours, theirs in zip(itk_geometry(path), itk_geometry(source), strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-14)


def nifti_geometry(path: Path | str) -> tuple[Any, ...]:
    header = nib.load(path).header
    names = ("qform_code", "sform_code", "xyzt_units", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z")
    rows = [header[name].tolist() for name in (*names, "srow_x", "srow_y", "srow_z")]
    return header["pixdim"][:4].tolist(), rows


def result_like(shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 2, size=shape).astype(np.uint8)


@pytest.mark.parametrize("suffix", [".mha", ".nrrd"])
@pytest.mark.parametrize(("dtype", "factor"), [(np.uint8, 1), (np.float32, 0.3)])
def test_itk_results_have_the_sources_geometry_to_the_last_digit(tmp_path: Path, suffix: str, dtype: Any, factor: float) -> None:
    source = write_itk(tmp_path / f"a{suffix}", source_array())
    array = (result_like() * factor).astype(dtype)
    path = save_like_source(array, source, tmp_path / "new" / f"r{suffix}", dtype)
    assert_same_itk_geometry(path, source)
    np.testing.assert_array_equal(read_volume(path)[0][0], array)
    import itk

    assert itk.array_from_image(itk.imread(path)).dtype == dtype


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("codes", [(1, 2), (1, 0), (0, 1), (0, 0)])
def test_nifti_results_have_the_sources_spatial_header_to_the_last_digit(tmp_path: Path, suffix: str, codes: tuple[int, int]) -> None:
    source = write_nifti(tmp_path / f"a{suffix}", source_array(), *codes)
    path = save_like_source(result_like(), source, tmp_path / f"r{suffix}", np.uint8)
    assert nifti_geometry(path) == nifti_geometry(source)
    np.testing.assert_array_equal(nib.load(path).affine, nib.load(source).affine)
    np.testing.assert_array_equal(np.asarray(nib.load(path).dataobj), result_like())
    assert nib.load(path).get_data_dtype() == np.uint8


def test_nothing_that_may_name_the_patient_is_copied(tmp_path: Path) -> None:
    source = write_nifti(tmp_path / "a.nii", source_array())
    path = save_like_source(result_like(), source, tmp_path / "r.nii", np.uint8)
    assert b"patient" in source.read_bytes()
    assert b"patient" not in Path(path).read_bytes()


def test_a_4d_source_gives_a_3d_result(tmp_path: Path) -> None:
    source = write_nifti(tmp_path / "a.nii.gz", source_array((*SHAPE, 2)))
    path = save_like_source(result_like(), source, tmp_path / "r.nii.gz", np.uint8)
    assert nib.load(path).shape == SHAPE
    assert nifti_geometry(path) == nifti_geometry(source)
    source = write_itk(tmp_path / "a.nrrd", source_array((*SHAPE, 2)))
    path = save_like_source(result_like(), source, tmp_path / "r.nrrd", np.uint8)
    assert_same_itk_geometry(path, source)
    np.testing.assert_array_equal(read_volume(path)[0][0], result_like())


def test_a_nifti2_source_gives_nifti2(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(source_array(), np.diag([1.0, 2, 3, 1])), tmp_path / "a.nii")
    path = save_like_source(result_like(), tmp_path / "a.nii", tmp_path / "r.nii", np.uint8)
    assert isinstance(nib.load(path), nib.Nifti2Image)


def test_same_result_same_bytes(tmp_path: Path) -> None:
    source = write_nifti(tmp_path / "a.nii.gz", source_array())
    first, second = (Path(save_like_source(result_like(), source, tmp_path / f"{n}" / "r.nii.gz", np.uint8)) for n in (1, 2))
    assert first.read_bytes() == second.read_bytes()


@pytest.mark.parametrize("suffix", [".mha", ".nrrd", ".nii.gz"])
def test_another_shape_is_refused_and_leaves_no_file(tmp_path: Path, suffix: str) -> None:
    source = (write_nifti if suffix == ".nii.gz" else write_itk)(tmp_path / f"a{suffix}", source_array())
    with pytest.raises(
        UserError, match=rf"a\{suffix}: the result has shape \(4, 5, 6\), the source grid \(6, 5, 4\); bring the result back"
    ):
        save_like_source(result_like((4, 5, 6)), source, tmp_path / "out" / f"r{suffix}", np.uint8)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_failing_write_keeps_the_old_file_and_no_half_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_nifti(tmp_path / "a.nii", source_array())
    path = Path(save_like_source(result_like(), source, tmp_path / "out" / "r.nii", np.uint8))
    before = path.read_bytes()

    def half(image: Any, name: Path) -> None:
        Path(name).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(nib, "save", half)
    with pytest.raises(OSError, match="disk full"):
        save_like_source(1 - result_like(), source, path, np.uint8)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("array", [np.full(SHAPE, 0.5), np.full(SHAPE, 256), np.full(SHAPE, -1)])
def test_values_that_an_integer_type_cannot_hold_are_not_cut(tmp_path: Path, array: np.ndarray) -> None:
    source = write_nifti(tmp_path / "a.nii", source_array())
    with pytest.raises(ValueError, match="do not fit uint8 without loss"):
        save_like_source(array, source, tmp_path / "r.nii", np.uint8)


def test_a_source_that_is_gone_or_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.mha: no such file; the result r\.mha takes its geometry from it"):
        save_like_source(result_like(), tmp_path / "gone.mha", tmp_path / "r.mha", np.uint8)
    image = MetaTensor(torch.ones(1, *SHAPE), meta={"filename_or_obj": "scan.png"})
    with pytest.raises(UserError, match=r"scan\.png: results cannot be written in this format; convert the input"):
        SaveLikeSourced("pred", tmp_path)({"image": image, "pred": torch.ones(1, *SHAPE)})


@pytest.fixture
def case(tmp_path: Path) -> dict[str, Any]:
    files = [str(write_itk(tmp_path / f"{name}.mha", source_array())) for name in ("adc", "z")]
    case = LoadCased()({"id": "s1-v1", "image": files})
    return {**case, "pred": torch.from_numpy(result_like())[None], "share": torch.full((1, *SHAPE), 0.25)}


def test_the_transform_names_files_by_id_and_postfix_and_notes_their_paths(
    case: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save = SaveLikeSourced(("pred", "share"), tmp_path / "out", ("lesion", "vote_share"), ("uint8", "float32"))
    saved = save(case)
    assert saved["pred_path"] == str(tmp_path / "out" / "s1-v1_lesion.mha")
    assert saved["share_path"] == str(tmp_path / "out" / "s1-v1_vote_share.mha")
    assert capsys.readouterr().out.splitlines() == [f"Wrote {saved['pred_path']}", f"Wrote {saved['share_path']}"]
    np.testing.assert_array_equal(read_volume(saved["pred_path"])[0], case["pred"].numpy())
    np.testing.assert_array_equal(read_volume(saved["share_path"])[0], case["share"].numpy())
    assert itk_geometry(saved["pred_path"]) == itk_geometry(case["image"].meta["filename_or_obj"])
    assert "pred_path" not in case


def test_without_an_id_the_sources_stem_names_the_file(case: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    del case["id"]
    saved = SaveLikeSourced("pred", tmp_path / "out", print_path=False)(case)
    assert saved["pred_path"] == str(tmp_path / "out" / "adc_lesion.mha")
    assert capsys.readouterr().out == ""


def test_an_id_never_leads_out_of_the_output_folder(case: dict[str, Any], tmp_path: Path) -> None:
    saved = SaveLikeSourced("pred", tmp_path / "out", print_path=False)({**case, "id": "../a/b:c"})
    assert saved["pred_path"] == str(tmp_path / "out" / "..-a-b-c_lesion.mha")


def test_lost_meta_equal_postfixes_and_missing_results_are_errors(case: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"image: its meta names no source file \(filename_or_obj\)"):
        SaveLikeSourced("pred", tmp_path)({**case, "image": case["image"].as_tensor()})
    with pytest.raises(UserError, match="each key needs its own, or the files overwrite each other"):
        SaveLikeSourced(("pred", "share"), tmp_path, "lesion")
    with pytest.raises(KeyError):
        SaveLikeSourced("other", tmp_path)(case)
    assert "other_path" not in SaveLikeSourced("other", tmp_path, allow_missing_keys=True)(case)


def test_monai_label_recognises_it_as_a_saver() -> None:
    # MONAI Label drops every SaveImaged from a bundle's postprocessing and writes the result itself
    assert isinstance(SaveLikeSourced("pred"), SaveImaged)


def test_a_volume_with_an_affine_comes_back_from_nifti(tmp_path: Path) -> None:
    affine = np.array([[-0.49, 0, 0, 125], [0, -0.46, -1.27, 169], [0, -0.15, 3.8, 21], [0, 0, 0, 1]])
    volume = np.random.RandomState(0).randint(0, 3, (4, 5, 6))
    path = save_volume(volume[None], affine, tmp_path / "new" / "a.nii.gz", np.uint8)
    image = nib.load(path)
    np.testing.assert_array_equal(np.asarray(image.dataobj), volume)
    np.testing.assert_allclose(image.affine, affine, atol=1e-5)
    assert image.get_data_dtype() == np.uint8
    with pytest.raises(UserError, match=r"a\.mha: got shape \(2, 4, 5, 6\); expected one 3D volume and a name that ends in \.nii"):
        save_volume(np.zeros((2, 4, 5, 6)), affine, tmp_path / "a.mha", np.uint8)
    with pytest.raises(ValueError, match="do not fit uint8 without loss"):
        save_volume(volume + 0.5, affine, tmp_path / "a.nii", np.uint8)


def test_results_of_dicom_series_and_sheared_files_are_nifti_on_their_own_grid(tmp_path: Path) -> None:
    (tmp_path / "CT Plain").mkdir()
    sheared = np.array([[2, 0, 0, 0], [0, 2, 0.8, 0], [0, 0, 5, 0], [0, 0, 0, 1.0]])
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.float32), sheared), tmp_path / "tilt.nii.gz")
    affine = np.diag([2.0, 2, 4, 1])
    for number, source in enumerate((tmp_path / "CT Plain", tmp_path / "tilt.nii.gz")):
        image = MetaTensor(torch.zeros(1, 9, 9, 9), meta={"filename_or_obj": str(source)})
        result = MetaTensor(torch.ones(1, 3, 6, 7), affine=torch.from_numpy(affine))
        case = {"id": f"CQ500-CT-{number}", "image": image, "error": result}
        saved = SaveLikeSourced("error", tmp_path / "out", "map", np.float32, print_path=False)(case)
        assert saved["error_path"] == str(tmp_path / "out" / f"CQ500-CT-{number}_map.nii.gz")
        written = nib.load(saved["error_path"])
        assert written.shape == (3, 6, 7)
        np.testing.assert_array_equal(written.affine, affine)
    with pytest.raises(UserError, match=r"a result for .* without an affine"):
        SaveLikeSourced("error", tmp_path, "map", np.float32)({**case, "error": torch.ones(1, 3, 6, 7)})
