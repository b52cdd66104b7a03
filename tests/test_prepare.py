"""Prepare as a user types it: four files on four grids, a diffusion series, the way back, and mistakes."""

import json
import math

import nibabel
import numpy as np
import pytest
from scipy.ndimage import affine_transform

from common.brought_back import bring_back, bring_folder_back
from common.data.paired_files import read_paired_files
from common.data.scan_input import read_bvals, read_scan
from common.data.simulate.brats import simulate_scan
from common.errors import UserError
from common.prepare import main
from common.provenance import sha256_of
from common.transforms.register_head import rotation_matrix
from tests.data.dicom_on_disk import oblique, ras, write_scan

SEQUENCES = ("t1", "t1ce", "t2", "flair")


def save(path, array, affine):
    nibabel.save(nibabel.Nifti1Image(array, affine), path)
    return str(path)


def dice(a, b):
    return 2 * (a & b).sum() / (a.sum() + b.sum())


@pytest.fixture(scope="module")
def hospital(tmp_path_factory):
    """Four sequences on four grids; the reference is coarse across, as T1 with contrast often is. And the truth."""
    folder, scan = tmp_path_factory.mktemp("hospital"), simulate_scan(1, 0, 64)
    middle = scan.affine[:3, :3] @ ((np.array(scan.label.shape) - 1) / 2) + scan.affine[:3, 3]
    truth = {}
    for number, name in enumerate(SEQUENCES):
        world, grid = np.eye(4), scan.affine @ np.diag([1.0, 1.0, 1.0 + 0.2 * number, 1.0])
        if name != "t1ce":
            world[:3, :3] = rotation_matrix(4 + number, -3, 2 * number)
            world[:3, 3] = middle - world[:3, :3] @ middle + [5, -4 + number, 3]
        step = np.linalg.inv(scan.affine) @ np.linalg.inv(world) @ grid
        moved = [affine_transform(v.astype(np.float32), step[:3, :3], step[:3, 3], output_shape=(64, 64, 38 - number), order=1)
                 for v in (scan.images[number], scan.images[number] > 0)]  # fmt: skip
        truth[name] = world
        save(folder / f"P7_{name}.nii.gz", np.where(moved[1] > 0.5, moved[0], 0).astype(np.float32), grid)
    return folder, truth, scan


@pytest.fixture(scope="module")
def prepared(hospital):
    folder, _, _ = hospital
    output = folder / "prepared"
    line = ["patchddm", *(word for name in SEQUENCES for word in (f"--{name}", str(folder / f"P7_{name}.nii.gz"))), str(output)]
    assert main([*line, "--spacing", "3"]) == 0
    return output, json.loads((output / "P7_provenance.json").read_text()), line


def test_four_sequences_on_four_grids_become_one_case_on_one_grid(prepared, hospital):
    output, record, _ = prepared
    (case,) = read_paired_files(output, SEQUENCES)  # what predict reads
    assert case["id"] == "P7"
    images = [nibabel.load(path) for path in case["image"]]
    assert {image.shape for image in images} == {(80, 80, 52)}
    brain = np.asarray(nibabel.load(output / "masks" / "P7_brain.nii.gz").dataobj) > 0
    for image in images:
        np.testing.assert_allclose(image.affine, record["prepared"]["affine"])
        values = np.asarray(image.dataobj)
        assert dice(values > 0, brain) > 0.97 and not values[~brain].any()
    assert (output / "P7_prepared.png").read_bytes()[:4] == b"\x89PNG"


def test_the_record_holds_every_step_with_transforms_that_are_true(prepared, hospital):
    _, record, line = prepared
    _, truth, scan = hospital
    points = np.argwhere(scan.images[1] > 0)[::50] @ scan.affine[:3, :3].T + scan.affine[:3, 3]
    steps = {step["moving"]: step for step in record["steps"] if step["step"] == "registration"}
    for name in ("t1", "t2", "flair"):
        error = np.array(steps[name]["matrix"]) - truth[name]
        assert np.linalg.norm(points @ error[:3, :3].T + error[:3, 3], axis=1).mean() < 0.75
    assert [step["step"] for step in record["steps"]] == ["brain mask", *["registration"] * 3, "grid", "resampling"]
    assert record["command"][: len(line)] == line and record["bundle"] == "patchddm" and record["warnings"] == []
    for name, entry in record["inputs"].items():
        assert entry["sha256"] == sha256_of(entry["path"]) and len(entry["shape"]) == 3, name
    assert set(record["outputs"]) == {*SEQUENCES, "brain"} and record["native"]["path"].endswith("P7_t1ce.nii.gz")


def test_a_mask_comes_back_onto_the_native_grid_of_the_reference(prepared, hospital, tmp_path):
    output, _, _ = prepared
    folder, _, _ = hospital
    native = nibabel.load(folder / "P7_t1ce.nii.gz")
    tumour = nibabel.load(output / "masks" / "P7_brain.nii.gz")
    save(tmp_path / "P7_tumour.nii.gz", np.asarray(tumour.dataobj).astype(np.uint8), tumour.affine)
    assert main(["back", str(tmp_path), str(output), str(tmp_path / "native")]) == 0
    back = nibabel.load(tmp_path / "native" / "P7_tumour.nii.gz")
    assert back.shape == native.shape and back.get_data_dtype() == np.uint8
    np.testing.assert_array_equal(back.affine, native.affine)
    assert dice(np.asarray(back.dataobj) > 0, np.asarray(native.dataobj) > 0) > 0.97


def test_a_map_comes_back_as_a_map(prepared, tmp_path):
    output, record, _ = prepared
    values = np.full(record["prepared"]["shape"], 0.25, np.float32)
    file = save(tmp_path / "P7_mean.nii.gz", values, np.array(record["prepared"]["affine"]))
    back = nibabel.load(bring_back(file, output, tmp_path / "out.nii.gz"))
    inside = np.asarray(back.dataobj)[20:40, 20:40, 10:25]
    assert back.get_data_dtype() == np.float32 and np.allclose(inside, 0.25)


def test_a_result_on_another_grid_is_refused(prepared, tmp_path):
    output, _, _ = prepared
    file = save(tmp_path / "P7_x.nii.gz", np.zeros((4, 4, 4), np.uint8), np.eye(4))
    with pytest.raises(UserError, match=r"P7_x.nii.gz: .* expected the prepared grid, \[80, 80, 52\]"):
        bring_back(file, output, tmp_path / "out.nii.gz")
    with pytest.raises(UserError, match="no volume begins with 'P7'"):
        bring_folder_back(tmp_path.parent, output, tmp_path / "o")
    with pytest.raises(UserError, match=r"holds 0 files \*_provenance.json"):
        bring_back(file, tmp_path, tmp_path / "out.nii.gz")


def test_a_case_on_the_grid_of_brats_is_not_touched(hospital, tmp_path):
    _, _, scan = hospital
    files = [save(tmp_path / f"B_{name}.nii.gz", image, scan.affine) for name, image in zip(SEQUENCES, scan.images, strict=True)]
    words = [word for name, file in zip(SEQUENCES, files, strict=True) for word in (f"--{name}", file)]
    assert main(["patchddm", *words, str(tmp_path / "out"), "--spacing", "3.75"]) == 0
    for name, image in zip(SEQUENCES, scan.images, strict=True):
        back = nibabel.load(tmp_path / "out" / f"B_{name}.nii.gz")
        np.testing.assert_array_equal(np.asarray(back.dataobj), image)
        np.testing.assert_allclose(back.affine, scan.affine)


@pytest.fixture
def diffusion(tmp_path):
    """A brain with a lesion: ADC 800 and 400 (1e-6 mm2/s), as a 4D series with two directions."""
    distance = np.linalg.norm(np.indices((30, 30, 20)) - np.array([15, 15, 10])[:, None, None, None], axis=0)
    brain = distance < 9
    adc = 800 + 60 * np.random.default_rng(0).standard_normal(brain.shape)
    adc[13:16, 13:16, 9:12] = 400
    s0 = np.where(brain, 1000.0, 0)
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    shell = [s0 * np.exp(-b * adc * 1e-6) for b in (1000, 1000)]
    save(tmp_path / "dwi.nii.gz", np.stack([s0, *shell, s0 * np.exp(-2000 * adc * 1e-6)], -1).astype(np.float32), affine)
    (tmp_path / "dwi.bval").write_text("0 1000 1000 2000\n")
    save(tmp_path / "b0.nii.gz", s0.astype(np.float32), affine)
    save(tmp_path / "b1000.nii.gz", shell[0].astype(np.float32), affine)
    return tmp_path, np.where(brain, adc, 0), affine


def read(folder, pattern):
    (file,) = folder.glob(pattern)
    return np.asarray(nibabel.load(file).dataobj)


def test_a_diffusion_series_becomes_adc_and_an_approximate_z_map(diffusion, caplog):
    folder, adc, _ = diffusion
    assert main(["ladp", "--dwi", str(folder / "dwi.nii.gz"), str(folder / "out"), "--case", "C1"]) == 0
    np.testing.assert_allclose(read(folder / "out", "C1_adc.nii.gz"), adc, rtol=1e-4, atol=1e-3)
    z = read(folder / "out", "C1_zadc.nii.gz")
    assert z[14, 14, 10] < -4 and abs(np.median(z[adc > 0])) < 0.05 and not z[adc == 0].any()
    record = json.loads((folder / "out" / "C1_provenance.json").read_text())
    assert "APPROXIMATE Z map" in record["warnings"][0] and "APPROXIMATE" in caplog.text
    (step,) = [step for step in record["steps"] if step["step"] == "b-values"]
    assert (step["b0_volumes"], step["shell_volumes"], step["b"]) == ([0], [1, 2], 1000)
    assert read_paired_files(folder / "out", ["adc", "zadc"])[0]["id"] == "C1"


def test_two_volumes_give_the_same_adc_as_the_series(diffusion):
    folder, adc, _ = diffusion
    assert main(["ladp", "--b0", str(folder / "b0.nii.gz"), "--b1000", str(folder / "b1000.nii.gz"), str(folder / "two")]) == 0
    np.testing.assert_allclose(read(folder / "two", "*_adc.nii.gz"), adc, rtol=1e-4, atol=1e-3)


def test_a_normative_atlas_on_the_same_grid_gives_z_by_hand(diffusion):
    folder, adc, affine = diffusion
    flat = save(folder / "adc.nii.gz", np.where(adc > 0, 900, 0).astype(np.float32), affine)
    mean, sd = (save(folder / f"{n}.nii.gz", np.full(adc.shape, v, np.float32), affine) for n, v in (("mean", 1000), ("sd", 50)))
    assert main(["ladp", "--adc", flat, "--norm_mean", mean, "--norm_sd", sd, str(folder / "z")]) == 0
    np.testing.assert_allclose(read(folder / "z", "*_zadc.nii.gz")[adc > 0], -2.0, atol=1e-4)  # (900 - 1000) / 50
    assert json.loads(next((folder / "z").glob("*.json")).read_text())["warnings"] == []


@pytest.mark.parametrize(
    "line, text",
    [
        (["patchddm", "--t1", "a.nii", "out"], "got --t1, expected --t1 FILE --t1ce FILE --t2 FILE --flair FILE for the bundle 'patchddm'"),
        (["ladp", "out"], "got none, expected --adc FILE, --b0 FILE --b1000 FILE, or --dwi FILE"),
        (["ladp", "--b0", "a.nii", "out"], "give the diffusion scan in one way"),
        (["ladp", "--adc", "a.nii", "--norm_sd", "s.nii", "out"], "--norm_mean and --norm_sd must be given together"),
        (["ladp", "--adc", "missing.nii", "out"], "missing.nii: no such file or folder"),
        (["ladp", "--adc", "a.nii", "--spacing", "1", "out"], "--spacing: ADC and Z map stay on the grid"),
        (["ladp", "--adc", "a.nii", "out", "--case", "a/b"], "--case: got 'a/b'"),
        (["ladp", "--adc", "a.nii", "out", "--register", "maybe"], "--register"),
        (["nothing", "out"], "nothing"),
        (["back", "missing.nii", ".", "out.nii"], "missing.nii: no such file or folder"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line_and_leave_nothing_behind(line, text, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(line) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ") and text in error
    assert not list(tmp_path.iterdir())


def test_b_values_that_do_not_match_are_named(tmp_path):
    (tmp_path / "x.bval").write_text("0 1000")
    assert read_bvals(tmp_path / "x.bval", 2, "x.nii") == [0, 1000]
    with pytest.raises(UserError, match=r"x.bval: 2 b-values, but x.nii has 3 volumes"):
        read_bvals(tmp_path / "x.bval", 3, "x.nii")
    (tmp_path / "x.bval").write_text("zero")
    with pytest.raises(UserError, match="not a list of b-values"):
        read_bvals(tmp_path / "x.bval", 1, "x.nii")
    with pytest.raises(UserError, match=r"y.bval: no such file; .* --bvals FILE"):
        read_bvals(tmp_path / "y.bval", 1, "x.nii")


def test_a_dicom_series_of_mr_is_read_as_what_was_written(tmp_path):
    voxels, affine = np.random.default_rng(0).integers(1, 900, (12, 10, 24)), oblique()
    volume, found, notes = read_scan(write_scan(tmp_path / "t1", voxels, affine))
    np.testing.assert_allclose(volume, 2 * voxels)  # the slope
    np.testing.assert_allclose(found, ras(affine), atol=1e-3)
    with pytest.raises(UserError, match=r"expected one.*dcm2niix"):
        read_scan(write_scan(tmp_path / "t2", voxels, affine).parent)
    assert notes == []


@pytest.mark.parametrize("shape, text", [((4, 4, 4, 2), "2 volumes in one file"), ((8, 8, 1), "expected a volume with several slices")])
def test_scans_of_other_dimensions_are_named(shape, text, tmp_path):
    file = save(tmp_path / "s.nii", np.ones(shape, np.float32), np.eye(4))
    with pytest.raises(UserError, match=text):
        read_scan(file)


def test_a_scan_with_a_singular_affine_or_with_nan_is_named(tmp_path):
    bad = nibabel.Nifti1Image(np.ones((4, 4, 4), np.float32), np.eye(4))
    bad.header.set_sform(np.diag([1.0, 1.0, 0.0, 1.0]), 1)
    nibabel.save(nibabel.Nifti1Image(np.ones((4, 4, 4), np.float32), None, bad.header), tmp_path / "s.nii")
    with pytest.raises(UserError, match=r"s.nii: "):
        read_scan(tmp_path / "s.nii")
    file = save(tmp_path / "n.nii", np.full((4, 4, 4), math.nan, np.float32), np.eye(4))
    with pytest.raises(UserError, match="64 of 64 voxels are NaN"):
        read_scan(file)
