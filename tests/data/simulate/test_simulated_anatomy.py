from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from common.data.simulate.anatomy import Anatomy, Grid, SmoothField, load_template, sample_slices
from common.errors import UserError

GRID = Grid((6, 7, 5), (9.0, 10.0, 12.0), np.array([-20.0, -25.0, -15.0]), np.eye(3))


def test_tissue_shares_of_the_brain_sum_to_one():
    maps = load_template().maps.numpy()
    assert maps.min() >= 0 and maps.max() <= 1
    np.testing.assert_allclose(maps[:3].sum(0)[maps[3] == 1], 1.0, atol=0.01)


def test_template_holds_about_1900_ml_and_is_left_right_symmetric():
    template = load_template()
    brain = template.maps[3].numpy()
    assert brain.sum() * template.step_mm**3 / 1000 == pytest.approx(1887, abs=10)
    x = template.points()[..., 0]
    assert abs(float((brain * x).sum() / brain.sum())) < 0.5


def test_points_follow_spacing_and_direction():
    grid = Grid((2, 2, 2), (2.0, 3.0, 4.0), np.array([10.0, 0.0, 0.0]), np.array([[0.0, -1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 1.0]]))
    # index (1, 1, 1): 10 + 2 * (0, 1, 0) + 3 * (-1, 0, 0) + 4 * (0, 0, 1)
    np.testing.assert_allclose(grid.points()[1, 1, 1], [7.0, 2.0, 4.0])


def test_a_smooth_field_has_the_amplitude_asked_for_and_is_repeated_by_its_seed():
    fields = [SmoothField.draw(np.random.default_rng(s), 20.0, 3.0, 3).lattice.numpy() for s in (1, 1, 2)]
    assert np.sqrt((fields[0] ** 2).mean()) == pytest.approx(3.0, rel=1e-4)
    np.testing.assert_array_equal(fields[0], fields[1])
    assert not np.array_equal(fields[0], fields[2])


def test_without_warp_and_pose_a_brain_is_the_shrunk_template():
    anatomy = Anatomy.draw(np.random.default_rng(0), warp_mm=0.0, pose_deg=0.0)
    centre = anatomy.to_template(Grid((1, 1, 1), (1.0, 1.0, 1.0), np.zeros(3), np.eye(3)))
    np.testing.assert_allclose(centre[0, 0, 0], [0.0, -18.0, 18.0], atol=1e-5)
    # 60 % of adult size: one patient mm is about 1.7 template mm, x and y flip from ITK's to the template's convention
    np.testing.assert_allclose(np.diag(anatomy.matrix) * 0.6, [-1, -1, 1], atol=0.15)


def test_brains_have_neonatal_volume():
    grid = Grid((45, 45, 40), (3.0, 3.0, 3.0), np.array([-66.0, -66.0, -60.0]), np.eye(3))
    volumes = []
    for seed in range(5):
        anatomy = Anatomy.draw(np.random.default_rng(seed))
        brain = sample_slices(load_template().maps[3:], anatomy.to_template(grid), anatomy.slice_step(grid))[0]
        volumes.append(brain.sum() * 27 / 1000)
    assert min(volumes) > 300 and max(volumes) < 520  # ml


def test_a_thick_slice_is_the_mean_of_thin_ones():
    anatomy = Anatomy.draw(np.random.default_rng(3))
    points, step = anatomy.to_template(GRID), anatomy.slice_step(GRID)
    maps = load_template().maps
    thin = [sample_slices(maps, points + offset * step, step, samples=1) for offset in (np.float32(-0.25), np.float32(0.25))]
    np.testing.assert_allclose(sample_slices(maps, points, step, samples=2), (thin[0] + thin[1]) / 2, atol=1e-5)


def test_beyond_the_template_there_is_no_brain():
    far = np.array([[0.0, 0.0, -200.0], [300.0, 0.0, 0.0]], np.float32)
    assert sample_slices(load_template().maps[3:], far, np.zeros(3, np.float32), 1).max() == 0


def test_missing_nilearn_says_what_to_install(monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == "nilearn" else real(name, *a))
    load_template.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'brain-bundles\[simulate\]'"):
        load_template()
