"""Growth as files, and the references a user lays beside it."""

import json
import math

import nibabel
import numpy as np
import pytest
from PIL import Image

from common.errors import UserError
from common.growth_output import save_growth, save_growth_gif
from common.growth_references import read_atlas, read_percentiles

AGES = [30.0, 32.0, 34.0, 36.0]
AFFINE = np.array([[0, -2.0, 0, 5], [1.5, 0, 0, -7], [0, 0, 3.0, 1], [0, 0, 0, 1]])


def volumes(sides=(6, 8, 5)):
    return np.random.default_rng(0).random((len(AGES), *sides)).astype(np.float32)


def test_growth_comes_back_as_it_was_with_grid_and_ages(tmp_path):
    stack = volumes()
    nifti, ages = save_growth(stack, AGES, AFFINE, tmp_path / "new" / "growth.nii.gz", "SIMULATED DATA")
    image = nibabel.load(nifti)
    assert image.shape == (6, 8, 5, 4) and image.get_data_dtype() == np.float32
    assert np.array_equal(np.moveaxis(image.get_fdata(dtype=np.float32), -1, 0), stack)
    assert np.allclose(image.affine, AFFINE) and image.header.get_zooms()[3] == 2
    assert ages.name == "growth.json"
    content = json.loads(ages.read_text())
    assert content["ages_weeks"] == AGES and content["volume"] == "growth.nii.gz" and content["note"] == "SIMULATED DATA"


def test_slices_become_volumes_of_one_slice_and_uneven_ages_have_no_step(tmp_path):
    nifti, _ = save_growth(volumes((6, 8)), [30, 31, 35, 40], AFFINE, tmp_path / "growth.nii")
    image = nibabel.load(nifti)
    assert image.shape == (6, 8, 1, 4) and image.header.get_zooms()[3] == 1


@pytest.mark.parametrize("sides", [(16, 18), (16, 18, 14)], ids=str)
def test_the_animation_has_a_frame_per_age(tmp_path, sides):
    path = save_growth_gif(volumes(sides), AGES, (1.0, 1.0, 2.0)[: len(sides)], tmp_path / "growth.gif", "average brain")
    with Image.open(path) as gif:
        assert gif.n_frames == len(AGES) and gif.info["loop"] == 0
    assert [file.name for file in tmp_path.iterdir()] == ["growth.gif"], "no temporary file is left"


@pytest.mark.parametrize("ages", [[30, 31, 32], [30, 31, 31, 32], [33, 32, 31, 30]], ids=str)
def test_ages_that_do_not_rise_or_fit_are_refused(tmp_path, ages):
    with pytest.raises(UserError, match=r"got volumes of shape \(4, 6, 8, 5\) and ages .* and as many rising ages in weeks"):
        save_growth(volumes(), ages, AFFINE, tmp_path / "growth.nii.gz")


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"growth.mp4, expected one that ends in \.gif"):
        save_growth_gif(volumes(), AGES, (1, 1, 1), tmp_path / "growth.mp4")


@pytest.mark.parametrize("sign", [",", ";", "\t"])
def test_percentiles_are_read_in_order_of_age_with_gaps(tmp_path, sign):
    lines = ["age_weeks,3rd,+3 SD", "32,27.5,", "30,26,31.5", "", "34,29,35"]
    path = tmp_path / "chart.csv"
    path.write_text("\n".join(line.replace(",", sign) for line in lines), encoding="utf-8-sig")
    found = read_percentiles(path)
    assert list(found) == ["3rd", "+3 SD"]
    assert [list(values) for values in found["3rd"]] == [[30, 32, 34], [26, 27.5, 29]]
    assert [list(values) for values in found["+3 SD"]] == [[30, 34], [31.5, 35]]


def test_an_atlas_is_measured_whatever_way_its_axes_point(tmp_path):
    grids = np.meshgrid(*[np.arange(n) - n / 2 + 0.5 for n in (26, 24, 28)], indexing="ij")
    for age in (30, 34):
        ball = (sum(g**2 for g in grids) <= (age - 24) ** 2).astype(np.float32)
        turned = np.moveaxis(ball, 2, 0)[:, ::-1]  # axes S, L, A
        affine = np.array([[0, -2.0, 0, 0], [0, 0, 2.0, 0], [2.0, 0, 0, 0], [0, 0, 0, 1]])
        skull = np.clip(turned + 0.5, 0, 1)
        nibabel.save(nibabel.Nifti1Image(skull, affine), tmp_path / f"a{age}.nii.gz")
        nibabel.save(nibabel.Nifti1Image(turned, affine), tmp_path / f"m{age}.nii.gz")
    (tmp_path / "atlas.csv").write_text("age_weeks,volume,mask\n34,a34.nii.gz,m34.nii.gz\n30,a30.nii.gz,m30.nii.gz\n")
    ages, cm = read_atlas(tmp_path / "atlas.csv", smooth_slices=1)
    assert ages.tolist() == [30, 34]
    assert cm == pytest.approx([2 * math.pi * 1.2, 2 * math.pi * 2.0], rel=0.06)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("weeks,3rd\n30,26\n", "found weeks, 3rd; expected the columns age_weeks"),
        ("age_weeks,3rd\n", "found no rows; expected the columns age_weeks"),
        ("age_weeks\n30\n", "has only age_weeks, expected a further column per line"),
        ("age_weeks,3rd\n30,abc\n", "line 2 has 'abc', expected a number"),
    ],
)
def test_a_chart_that_cannot_be_read_is_named(tmp_path, text, message):
    path = tmp_path / "chart.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message):
        read_percentiles(path)


def test_a_missing_atlas_and_a_mask_of_another_shape_are_named(tmp_path):
    with pytest.raises(UserError, match=r"no such file; expected a CSV with the columns age_weeks, volume"):
        read_atlas(tmp_path / "atlas.csv")
    for name, sides in (("a", (4, 4, 4)), ("m", (4, 4, 5))):
        nibabel.save(nibabel.Nifti1Image(np.ones(sides, dtype=np.float32), np.eye(4)), tmp_path / f"{name}.nii.gz")
    (tmp_path / "atlas.csv").write_text("age_weeks,volume,mask\n30,a.nii.gz,m.nii.gz\n")
    with pytest.raises(UserError, match=r"line 2: m.nii.gz has shape \(4, 4, 5\), expected \(4, 4, 4\) as a.nii.gz"):
        read_atlas(tmp_path / "atlas.csv")
