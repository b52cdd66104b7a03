"""Figures of growth: which planes are cut, equal bytes for equal input, and what cannot be drawn."""

import math

import numpy as np
import pytest

from common.errors import UserError
from common.growth_charts import age_figure, growth_chart
from common.growth_pictures import ages_figure, centre_of, pair_figure, plane_grid, planes_of

PNG = b"\x89PNG"
AGES = [30.0, 35.0, 40.0]


def volume(sides=(6, 8, 5), seed=0):
    return np.random.default_rng(seed).random(sides).astype(np.float32)


def test_planes_are_axial_coronal_and_sagittal_through_the_centre():
    image = volume()
    axial, coronal, sagittal = planes_of(image, (1, 2, 3))
    assert np.array_equal(axial, image[:, :, 3]) and np.array_equal(coronal, image[:, 2, :]) and np.array_equal(sagittal, image[1])
    assert len(planes_of(image[..., 0])) == 1


def test_the_centre_is_that_of_what_is_not_black():
    image = np.zeros((6, 8, 5))
    image[4, 1:4, 2] = 0.3
    assert centre_of(image) == (4, 2, 2)
    assert centre_of(np.zeros((6, 8, 5))) == (3, 4, 2)


def test_the_circumference_is_drawn_for_one_four_and_five_methods_with_gaps():
    age = np.array([30.0, 34, 38, 42])
    panel = {"age": age, "predicted": 0.7 * age, "truth": 0.8 * age}
    gap = {**panel, "truth": [math.nan, 27, 30, 33]}
    for count in (1, 4, 5):
        assert age_figure({f"m{index}": gap if index % 2 else panel for index in range(count)}).startswith(PNG)
    one = {"age": [30.0], "predicted": [25.0], "truth": [26.0]}
    assert age_figure({"one scan": one, "none": {key: [math.nan] for key in one}}).startswith(PNG)


def test_equal_input_gives_equal_bytes():
    age = np.array([30.0, 34, 38])
    panels = {"a": {"age": age, "predicted": age, "truth": age + 1}}
    assert age_figure(panels) == age_figure(panels)


def test_a_growth_chart_is_drawn_with_percentiles_and_atlases():
    curve = (AGES, [28.0, 32.0, 35.0])
    bare = growth_chart({"zero latent": curve})
    full = growth_chart({"zero latent": curve, "mean": curve}, {"3rd": curve, "97th": curve}, {"atlas": curve}, "title")
    assert bare.startswith(PNG) and full.startswith(PNG) and bare != full


@pytest.mark.parametrize("dims", [2, 3])
def test_a_pair_and_growth_are_drawn_in_2d_and_3d(dims):
    images = {
        name: planes_of(volume(seed=seed)[(..., 0) if dims == 2 else ...]) for seed, name in enumerate(("input", "target", "prediction"))
    }
    spacing = (1.0, 2.0, 0.5)[:dims]
    pair = pair_figure(images, spacing, "a pair")
    assert pair.startswith(PNG) and pair != pair_figure({k: images[k] for k in ("input", "target")}, spacing, "a pair")
    stack = np.stack([volume(seed=seed)[(..., 0) if dims == 2 else ...] for seed in range(3)])
    assert ages_figure({"zero": stack, "mean": stack}, AGES, spacing, "growth").startswith(PNG)


def test_what_is_black_in_all_columns_is_cut_away():
    wide = np.zeros((40, 60), dtype=np.float32)
    wide[18:22, 30:34] = 1
    padded = np.pad(wide, 20)
    assert plane_grid({"a": [wide], "b": [wide / 2]}, (1.0, 1.0), "x") == plane_grid({"a": [padded], "b": [padded / 2]}, (1.0, 1.0), "x")
    assert plane_grid({"a": [0 * wide]}, (1.0, 1.0), "x").startswith(PNG)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(UserError, match="no panel has a scan with age, prediction and truth"):
        age_figure({"a": {"age": [30.0], "predicted": [math.nan], "truth": [3.0]}})
    with pytest.raises(UserError, match="got no curve"):
        growth_chart({})
    with pytest.raises(UserError, match=r"\['zero'\] have not as many images as there are ages, 3"):
        ages_figure({"zero": np.zeros((2, 4, 4))}, AGES, (1.0, 1.0), "growth")
    with pytest.raises(UserError, match=r"got columns with \[1, 2\] planes"):
        plane_grid({"a": [np.zeros((3, 3))], "b": [np.zeros((3, 3))] * 2}, (1.0, 1.0), "x")
