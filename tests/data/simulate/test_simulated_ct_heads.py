from __future__ import annotations

import numpy as np
import pytest

from common.data.simulate.anatomy import Anatomy
from common.data.simulate.ct_scanner import draw_grid
from common.data.simulate.head import HeadVoxels, render_head, sample_person
from common.data.simulate.head_atlas import HEAD, TISSUE, load_head_atlas
from common.data.simulate.head_ct import Scan, simulate_scan
from common.data.simulate.person import Person, draw_person
from common.data.simulate.soft_shapes import Canvas


@pytest.fixture(scope="module")
def fine() -> tuple[Person, HeadVoxels, np.ndarray]:
    """A young head at 2 x 2 x 2 mm without noise."""
    rng = np.random.default_rng(3)
    person = draw_person(rng, (20, 30))
    voxels = sample_person(person, Anatomy.draw(rng, scale=0.91, warp_mm=2.0), draw_grid(np.random.default_rng(1), 120, 2.0))
    return person, voxels, render_head(person, voxels)


def test_brain_tissues_lie_in_the_bands_of_the_literature(fine):
    _, voxels, hu = fine
    vessels, dura, base = voxels.head[4], voxels.head[5], voxels.head[3]
    pure = (voxels.hull < -6) & (vessels < 0.01) & (dura < 0.01) & (base < 0.01)
    grey, white, ventricle, _ = voxels.tissue
    assert 35 < np.median(hu[pure & (grey > 0.95)]) < 43
    assert 26 < np.median(hu[pure & (white > 0.95)]) < 34
    assert 2 < np.median(hu[pure & (ventricle > 0.9)]) < 16
    assert 48 < np.median(hu[(vessels > 0.95) & (voxels.hull < -2)]) < 70


def test_skull_scalp_and_air_lie_in_their_bands(fine):
    _, voxels, hu = fine
    vault = voxels.points[:, 2] > 30
    bone = vault & (voxels.hull > 1.5) & (voxels.hull < voxels.skull_mm - 1.5)
    assert 500 < np.median(hu[bone]) < 1500
    scalp = vault & (voxels.hull > voxels.skull_mm + 1.5) & (voxels.outer < -1.5)
    assert -110 < np.median(hu[scalp]) < 65
    assert hu[scalp].min() < -40 and hu[scalp].max() > 30  # fat and muscle
    sinus = voxels.head[2] > 0.95
    assert np.median(hu[sinus & (voxels.outer < -5)]) < -800


def test_the_order_of_layers_from_the_outside_in_is_air_scalp_bone_brain(fine):
    _, voxels, hu = fine
    volume = voxels.fill(hu, -1000.0)
    x, y = volume.shape[0] // 2, volume.shape[1] // 2
    line = volume[x, y, ::-1]
    first_head, first_bone = np.argmax(line > -500), np.argmax(line > 400)
    assert line[0] == -1000 and first_head <= first_bone
    assert -20 < np.median(line[first_bone + 8 : first_bone + 20]) < 60


def test_heads_have_adult_size_and_differ(healthy_heads: list[Scan]):
    brains = np.array([(s.structures >= 3).sum() * np.prod(s.grid.spacing_mm) / 1000 for s in healthy_heads])
    assert 1200 < np.median(brains) < 1750 and np.std(brains) > 40  # ml; some scans do not reach all of the brain
    fluid = [np.mean(s.clean[s.structures >= 3] < 18) for s in healthy_heads]
    assert max(fluid) > 1.5 * min(fluid)
    skulls = [(s.structures == 2).mean() for s in healthy_heads]
    assert max(skulls) > 1.25 * min(skulls)


def test_older_people_have_more_fluid(healthy_heads: list[Scan]):
    ages = [s.person.age for s in healthy_heads]
    fluid = [np.mean(s.clean[s.structures >= 3] < 18) for s in healthy_heads]
    assert np.corrcoef(ages, fluid)[0, 1] > 0.4


def test_left_and_right_are_where_the_affine_says(healthy_heads: list[Scan]):
    for scan in healthy_heads[:6]:
        centres = [(scan.affine @ np.append(np.argwhere(scan.structures == c).mean(0), 1.0))[:3] for c in (3, 4)]
        assert centres[0][0] < centres[1][0] - 30  # RAS: the patient's left has the smaller x


def test_there_is_a_table_and_the_structures_do_not_hold_it(healthy_heads: list[Scan]):
    for scan in healthy_heads:
        outside = (scan.structures == 0) & (scan.clean > -700)
        assert outside.sum() > 20


def test_a_healthy_scan_has_no_truth_and_whole_hounsfield_units(healthy_heads: list[Scan]):
    for scan in healthy_heads:
        assert not scan.truth.any() and not scan.lesions and not any(scan.findings.values())
        assert scan.hu.dtype == np.float32 and scan.hu.min() >= -1024 and scan.hu.max() <= 3071
        np.testing.assert_array_equal(scan.hu, np.rint(scan.hu))


@pytest.mark.parametrize("abnormal", [False, True])
def test_the_same_arguments_give_the_same_scan_and_any_other_one_another(abnormal):
    one = simulate_scan(2, 5, 32, 10.0, "main", abnormal)
    again = simulate_scan(2, 5, 32, 10.0, "main", abnormal)
    np.testing.assert_array_equal(one.hu, again.hu)
    np.testing.assert_array_equal(one.truth, again.truth)
    assert one.lesions == again.lesions
    for other in ((3, 5, 32, 10.0, "main", abnormal), (2, 6, 32, 10.0, "main", abnormal), (2, 5, 32, 10.0, "shift", abnormal)):
        scan = simulate_scan(*other)
        assert scan.hu.shape != one.hu.shape or not np.array_equal(scan.hu, one.hu)


def test_the_shifted_style_is_noisier():
    def noise(style: str) -> float:
        scans = [simulate_scan(k, 0, 48, 8.0, style) for k in range(4)]
        return float(np.mean([np.std((s.hu - s.clean)[s.structures >= 3]) for s in scans]))

    assert noise("shift") > 1.3 * noise("main")


def test_thicker_slices_have_less_noise():
    thin, thick = (simulate_scan(0, 0, 48, mm) for mm in (4.0, 8.0))
    assert thin.noise_hu == pytest.approx(thick.noise_hu * np.sqrt(2))


def test_the_atlas_is_symmetric_in_its_skull_and_named_in_order():
    atlas = load_head_atlas()
    assert atlas.head.shape[0] == len(HEAD) and atlas.tissue.shape[0] == len(TISSUE)
    points = np.random.default_rng(0).uniform([5, -90, -60], [80, 70, 80], (200, 3)).astype(np.float32)
    hull, mirrored = (atlas.sample_head(p, 0, 1)[0] for p in (points, points * np.array([-1, 1, 1], np.float32)))
    np.testing.assert_allclose(hull, mirrored, atol=1.5)


def test_a_ray_meets_the_inside_of_the_skull():
    atlas = load_head_atlas()
    for ray in ([1, 0, 0], [0, 1, 0.2], [0, -0.6, 0.8]):
        point = atlas.surface_point(np.array(ray, np.float32) / np.linalg.norm(ray))
        assert abs(float(atlas.sample_head(point[None], 0, 1)[0, 0])) < 0.6


def test_soft_shapes_have_the_volume_of_their_solids():
    canvas = Canvas((40, 40, 40), np.full(3, -39.0), 2.0)
    # ellipsoid 4/3 pi a b c; capsule pi r^2 (h + 4/3 r)
    assert canvas.ellipsoid((0, 0, 0), (20, 15, 10)).sum() * 8 == pytest.approx(4 / 3 * np.pi * 3000, rel=0.02)
    assert canvas.tube((0, 0, -10), (0, 0, 10), 8.0).sum() * 8 == pytest.approx(np.pi * 64 * (20 + 32 / 3), rel=0.02)
