from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from common.data.simulate.adc import Norm, ScanStyle, Voxels, acquire, draw_healthy, ellipsoid, smooth_inside, tissue_basis
from common.data.simulate.anatomy import load_template
from common.data.simulate.bonbid import simulate_scan

SLICES = (10, 11)


def template_voxels() -> Voxels:
    template = load_template()
    brain = template.maps[3].numpy() > 0.5
    brain[:, :, ::2] = False  # half is enough
    return Voxels(brain, template.points()[brain], np.zeros(3, np.float32), (2.0, 2.0, 2.0))


@pytest.mark.parametrize(("size", "count"), [(64, 5), (96, 4)])
def test_z_of_healthy_brains_is_about_standard_normal(size, count):
    z = np.concatenate([(s := simulate_scan(k, 0, size, SLICES, "main", lesion=False)).zadc[s.adc > 0] for k in range(count)])
    assert abs(z.mean()) < 0.25
    assert 0.8 < z.std() < 1.25
    assert 0.005 < (z < -2).mean() < 0.06  # 0.023 for a normal distribution


def test_tissues_have_neonatal_adc():
    voxels = template_voxels()
    person = draw_healthy(np.random.default_rng(0), voxels, ScanStyle(spread=0.0, maturity=0.0, regional=0.0, misregistration_mm=0.0))
    cortex, deep, white, early, fluid = (share.numpy()[voxels.brain] > 0.9 for share in tissue_basis())
    assert np.median(person.adc[white]) == pytest.approx(1540, abs=60)
    assert np.median(person.adc[cortex]) == pytest.approx(1180, abs=60)
    assert np.median(person.adc[deep]) == pytest.approx(1090, abs=60)
    assert np.median(person.adc[early]) == pytest.approx(1000, abs=60)
    assert 2450 < np.median(person.adc[fluid]) < 2800


def test_scanner_noise_has_the_strength_asked_for():
    voxels = template_voxels()
    flat = np.full(len(voxels.points), 1250.0, np.float32)
    scan = acquire(np.random.default_rng(0), flat, voxels, ScanStyle(bias=0.0, gain=0.0, noise=60.0))
    assert (scan - flat).std() == pytest.approx(60.0, rel=0.02)


def test_smoothing_keeps_a_constant_up_to_the_edge_and_ignores_the_outside():
    brain = np.zeros((9, 8, 6), bool)
    brain[2:7, 2:7, 1:5] = True
    voxels = Voxels(brain, np.zeros((brain.sum(), 3), np.float32), np.zeros(3, np.float32), (1.0, 1.5, 3.0))
    np.testing.assert_allclose(smooth_inside(np.full(brain.sum(), 7.0, np.float32), voxels), 7.0, rtol=1e-5)


def test_smoothing_agrees_with_scipy_far_from_the_edge():
    rng = np.random.default_rng(0)
    brain = np.ones((15, 15, 15), bool)
    values = rng.standard_normal(brain.shape).astype(np.float32)
    voxels = Voxels(brain, np.zeros((brain.size, 3), np.float32), np.zeros(3, np.float32), (1.0, 1.0, 2.0))
    # 2 mm full width = 2 / (2 sqrt(2 ln 2)) = 0.849 mm standard deviation, half as many voxels along the third axis
    expected = gaussian_filter(values, [0.849, 0.849, 0.4247], truncate=6)
    np.testing.assert_allclose(voxels.fill(smooth_inside(values.ravel(), voxels))[7, 7, 7], expected[7, 7, 7], atol=0.01)


def test_z_is_clipped_to_ten():
    norm = Norm(np.array([1000.0, 1000.0, 1000.0], np.float32), np.array([100.0, 100.0, 10.0], np.float32))
    np.testing.assert_allclose(norm.z_score(np.array([800.0, 1000.0, 0.0], np.float32)), [-2.0, 0.0, -10.0])


def test_an_ellipsoid_is_half_on_its_surface():
    points = np.array([[5.0, 0.0, 0.0], [0.0, 0.0, 0.0], [50.0, 0.0, 0.0]], np.float32)
    np.testing.assert_allclose(ellipsoid(points, (0, 0, 0), (5, 3, 2)), [0.5, 1.0, 0.0], atol=1e-3)
