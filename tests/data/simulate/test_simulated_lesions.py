from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import binary_dilation

from common.data.simulate.adc import Voxels
from common.data.simulate.bonbid import Scan, simulate_scan, stratum_of
from common.data.simulate.hie import LOADS, lesion_mask, lower_adc, plan_lesion

SLICES = (10, 11)


def mean_rule_dice(scans: list[Scan]) -> float:
    """Mean Dice of the rule Z < -2 over the cases that have a lesion."""
    scores = []
    for scan in scans:
        truth, rule = scan.label > 0, (scan.zadc < -2) & (scan.adc > 0)
        if truth.any():
            scores.append(2 * (truth & rule).sum() / (truth.sum() + rule.sum()))
    return float(np.mean(scores))


def block(shape: tuple[int, int, int] = (40, 48, 12)) -> tuple[Voxels, np.ndarray]:
    """Voxels 4 template mm apart that cover the supratentorial brain, half grey and half white everywhere."""
    index = np.stack(np.meshgrid(*(np.arange(n) for n in shape), indexing="ij"), axis=-1).reshape(-1, 3)
    points = (np.array([-80.0, -110.0, -20.0]) + index * np.array([4.0, 4.0, 8.0])).astype(np.float32)
    tissues = np.repeat(np.array([[0.5], [0.5], [0.0], [1.0]], np.float32), len(points), axis=1)
    return Voxels(np.ones(shape, bool), points, np.array([0, 0, 8], np.float32), (2.0, 2.0, 5.0)), tissues


@pytest.mark.parametrize("stratum", ["small", "medium", "large"])
def test_a_lesion_fills_the_share_of_the_brain_of_its_stratum(stratum):
    voxels, tissues = block()
    for seed in range(6):
        plan = plan_lesion(np.random.default_rng(seed), stratum, (0.2, 0.5))
        share = lesion_mask(plan, voxels.points, tissues, voxels).mean()
        assert LOADS[stratum][0] * 0.7 < share <= LOADS[stratum][1] * 1.01
        assert share <= plan.load * 1.05


def test_adc_falls_by_the_depth_in_the_core_and_not_at_all_far_away_or_in_fluid():
    voxels, tissues = block()
    plan = plan_lesion(np.random.default_rng(1), "large", (0.3, 0.3))
    mask = lesion_mask(plan, voxels.points, tissues, voxels)
    flat = np.full(mask.size, 1000.0, np.float32)
    lowered = voxels.fill(lower_adc(flat, mask, plan, voxels.points, tissues[2], voxels))
    assert np.median(lowered[mask]) == pytest.approx(700, abs=60)
    far = ~binary_dilation(mask, iterations=5)
    np.testing.assert_allclose(lowered[far], 1000.0, atol=1.0)
    np.testing.assert_allclose(lower_adc(flat, mask, plan, voxels.points, np.ones_like(flat), voxels), flat)


@pytest.mark.parametrize("style", ["main", "shift"])
def test_each_ten_subjects_in_turn_hold_all_strata(style):
    for seed in range(4):
        strata = [stratum_of(seed, k, style) for k in range(40)]
        for ten in (strata[:10], strata[10:20], strata[20:30]):
            assert {"small", "medium", "large", "none"} >= set(ten) >= {"small", "medium", "large"}
        assert strata.count("small") >= 20
        assert 0.05 <= strata.count("none") / 40 <= 0.10


def test_written_loads_agree_with_the_strata(scans_64: list[Scan]):
    for index, scan in enumerate(scans_64):
        share = scan.label.sum() / (scan.adc > 0).sum()
        expected = {"none": 0, "small": 1, "medium": 2, "large": 3}[stratum_of(0, index, "main")]
        assert int(share > 0) + int(share >= 0.01) + int(share > 0.05) == expected


def test_the_trivial_rule_is_neither_useless_nor_enough(scans_64: list[Scan], scans_96: list[Scan]):
    assert 0.25 <= mean_rule_dice(scans_64) <= 0.55
    assert 0.25 <= mean_rule_dice(scans_96) <= 0.55


def test_the_shifted_style_is_measurably_another_and_not_hopeless(scans_64: list[Scan], scans_shift: list[Scan]):
    assert 0.15 <= mean_rule_dice(scans_shift) <= 0.65

    def roughness(scan: Scan) -> float:
        """Standard deviation of neighbours' differences in healthy tissue: the noise."""
        tissue = (scan.adc > 900) & (scan.adc < 1900) & (scan.label == 0)
        both = tissue[1:] & tissue[:-1]
        return float(np.median(np.abs(np.diff(scan.adc, axis=0)[both])))

    assert np.mean([roughness(s) for s in scans_shift]) > 1.15 * np.mean([roughness(s) for s in scans_64])
    assert np.mean([s.grid.spacing_mm[2] for s in scans_shift]) > np.mean([s.grid.spacing_mm[2] for s in scans_64])


def test_lesions_are_darker_than_the_rest_of_the_same_brain(scans_64: list[Scan]):
    for scan in scans_64:
        lesion = scan.label > 0
        if lesion.any():
            assert np.median(scan.adc[lesion]) < 0.9 * np.median(scan.adc[(scan.adc > 0) & ~lesion])
            assert np.median(scan.zadc[lesion]) < -1.5


def test_the_second_visit_shows_the_same_lesion_fainter():
    index = next(k for k in range(20) if stratum_of(0, k, "main") == "medium")
    first, second = (simulate_scan(index, 0, 48, SLICES, "main", visit) for visit in (0, 1))
    assert second.label.any() and second.label.sum() * np.prod(second.grid.spacing_mm) < 1.3 * first.label.sum() * np.prod(
        first.grid.spacing_mm
    )
    assert np.median(second.adc[second.label > 0]) > np.median(first.adc[first.label > 0])


def test_a_scan_without_lesion_has_an_empty_label(scans_64: list[Scan]):
    index = next(k for k in range(10) if stratum_of(0, k, "main") == "none")
    assert not scans_64[index].label.any()
