"""One command for head CTs: files and DICOM series, named or in folders, on a network of a few hundred weights."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from common import config_dir, predict

SETTINGS = {
    "size": 32,
    "register": False,  # ITK takes many seconds to load its registration
    "registration_spacing_mm": 8.0,
    "bins": 64,
    "patch_size": 15,
    "width": 1,
    "spectral_norm": False,
    "calibration_side": 4,
}
SHAPE, SPACING = (40, 48, 36), (5.0, 5.0, 5.0)
AFFINE = np.diag([-5.0, 5.0, 5.0, 1.0])  # rows from right to left, as scanners write them
AFFINE[:3, 3] = [97.5, -117.5, -87.5]


def phantom(shape: tuple[int, int, int] = SHAPE, affine: np.ndarray = AFFINE) -> np.ndarray:
    """HU of scalp, skull and brain, ellipsoids with a bleed on the patient's right."""
    index = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), axis=-1)
    x, y, z = np.moveaxis(index @ affine[:3, :3].T + affine[:3, 3], -1, 0)
    hu = np.full(shape, -1000.0)
    for value, *radii in ((10, 76, 95, 85), (1000, 70, 89, 79), (35, 64, 83, 73)):
        hu[(x / radii[0]) ** 2 + (y / radii[1]) ** 2 + (z / radii[2]) ** 2 <= 1] = value
    hu[(x - 35) ** 2 + (y + 20) ** 2 + (z - 10) ** 2 < 15**2] = 70
    return hu + np.random.default_rng(0).normal(0, 4, shape)


def write_dicom(folder: Path, series: str = "2.25.1") -> Path:
    from common.data.simulate.anatomy import Grid
    from common.data.simulate.dicom_writer import write_series

    flip = np.diag([-1.0, -1.0, 1.0])
    grid = Grid(SHAPE, SPACING, flip @ AFFINE[:3, 3], flip @ AFFINE[:3, :3] / 5.0)
    write_series(folder, phantom().astype(np.float32), grid, {"0020|000d": "2.25.9", "0010|0020": "P"}, series)
    return folder


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same head as a file and as a DICOM series."""
    folder = tmp_path_factory.mktemp("scans")
    nibabel.Nifti1Image(phantom().astype(np.int16), AFFINE).to_filename(folder / "head.nii.gz")
    write_dicom(folder / "series")
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny network that nobody trained, with a reference and a calibration."""
    from monai.bundle import ConfigParser

    from common.transforms.reference_frame import ReferenceFrame, cube_affine

    folder = tmp_path_factory.mktemp("weights")
    parser = ConfigParser()
    parser.read_config(str(Path(config_dir("position_regression")) / "inference.json"))
    parser.update(SETTINGS)
    torch.manual_seed(0)
    model: Any = parser.get_parsed_content("network_def")
    model.set_reference(ReferenceFrame(phantom((32, 32, 32), cube_affine(32, 8.0)).astype(np.int16), 8.0))
    model.fit_equalisation([torch.from_numpy(phantom())])
    model.calibration_mean.fill_(0.1)
    model.calibration_sd.fill_(0.05)
    model.healthy_quantiles.copy_(torch.linspace(0, 1, 101).expand(2, 3, 101))
    torch.save(model.state_dict(), folder / "model.pt")
    record = {"bundle": "position_regression", "simulated": False, "settings": SETTINGS}
    (folder / "weights.json").write_text(json.dumps(record))
    return folder


@pytest.fixture
def run(weights: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Function that runs the command with the tiny weights; returns exit code, standard output and errors."""

    def call(*words: str | Path) -> tuple[int, str, str]:
        code = predict.main(["position_regression", *map(str, words), "--weights", str(weights), "--device", "cpu"])
        return code, *capfd.readouterr()

    return call


def rows_of(output: Path) -> list[dict[str, str]]:
    with open(output / "scores.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_folder_gives_maps_on_the_grid_of_each_source_pictures_and_scores(scans: Path, tmp_path: Path, run: Callable) -> None:
    code, out, err = run(scans, tmp_path / "out")
    assert code == 0, err
    assert [row["id"] for row in rows_of(tmp_path / "out")] == ["head", "series"]
    for name in ("head", "series"):
        for kind in ("error", "z"):
            image: Any = nibabel.load(tmp_path / "out" / f"{name}_{kind}.nii.gz")
            assert image.shape == SHAPE and image.get_data_dtype() == np.float32
        np.testing.assert_allclose(np.abs(image.affine[:3, :3]), 5 * np.eye(3), atol=1e-4)
        assert (tmp_path / "out" / f"{name}_anomaly.png").read_bytes().startswith(b"\x89PNG")
    first, second = rows_of(tmp_path / "out")
    assert float(first["left_max_mm"]) == pytest.approx(float(second["left_max_mm"]), rel=0.05)
    assert out.count("nobody has verified these weights") == 2 and "SIMULATED" not in out
    table = [line for line in out.splitlines() if line.startswith(("id ", "head ", "series "))]
    assert len(table) > 3 and max(map(len, table)) <= predict.WIDTH, "a wide table comes in blocks"


def test_a_named_folder_equals_a_file_of_it_and_input(scans: Path, tmp_path: Path, run: Callable) -> None:
    series = scans / "series"
    for name, words in {"a": ["--ct", series], "b": ["--ct", sorted(series.iterdir())[0]], "c": [series]}.items():
        code, _, err = run(*words, tmp_path / name)
        assert code == 0, err
    maps = [(tmp_path / name / "series_error.nii.gz").read_bytes() for name in "abc"]
    assert maps[0] == maps[1] == maps[2]


def test_named_mistakes_say_what_is_there_and_what_is_expected(scans: Path, tmp_path: Path, run: Callable) -> None:
    for child in ("one", "two"):
        write_dicom(tmp_path / "many" / child, f"2.25.{len(child)}{child == 'two':d}")
    (tmp_path / "empty").mkdir()
    assert f"--ct: {tmp_path / 'many'} holds 2 cases (one, two), expected one" in run("--ct", tmp_path / "many", tmp_path / "out")[2]
    assert f"--ct: {tmp_path / 'empty'} holds no DICOM files, expected one" in run("--ct", tmp_path / "empty", tmp_path / "out")[2]
    assert "--ct: 'gone' does not exist" in run("--ct", "gone", tmp_path / "out")[2]
    assert "got 2 paths" in run("--ct", scans / "head.nii.gz", scans, tmp_path / "out")[2]


def test_options_of_an_ensemble_are_refused(scans: Path, tmp_path: Path, run: Callable) -> None:
    code, _, err = run(scans, tmp_path / "out", "--members", "2")
    assert code == 1 and "the bundle 'position_regression' has no setting 'vote_members'; leave its option --members away" in err
    assert "'save_vote_share'; leave its option --vote_share away" in run(scans, tmp_path / "out", "--vote_share")[2]
    assert not (tmp_path / "out" / "scores.csv").exists()
