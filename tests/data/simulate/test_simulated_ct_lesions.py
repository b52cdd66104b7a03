from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from scipy.ndimage import binary_dilation, uniform_filter

from common.data.simulate.anatomy import Anatomy
from common.data.simulate.ct_scanner import draw_grid
from common.data.simulate.fracture import add_fracture, plan_fracture
from common.data.simulate.haemorrhage import KINDS, Mixture, add_bleed, mass_effect, plan_bleed
from common.data.simulate.head import HeadVoxels, render_head, sample_person
from common.data.simulate.head_ct import CELLS, Scan, cell_of
from common.data.simulate.person import Person, draw_person, hurt


@pytest.fixture(scope="module")
def head() -> tuple[Person, HeadVoxels, np.ndarray, tuple[float, float, float]]:
    """A head at 2.5 x 2.5 x 3 mm without noise."""
    rng = np.random.default_rng(8)
    person, grid = draw_person(rng), draw_grid(np.random.default_rng(1), 96, 3.0)
    voxels = sample_person(person, Anatomy.draw(rng, scale=0.91, warp_mm=2.0), grid)
    return person, voxels, render_head(person, voxels), grid.spacing_mm


def only(kind: str, isodense: float = 0.0) -> Mixture:
    return Mixture(tuple(float(k == kind) for k in KINDS), isodense)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_a_bleed_has_the_volume_asked_for_lies_on_its_side_and_inside_the_skull(kind, head):
    person, voxels, hu, _ = head
    for seed, side in ((0, -1), (1, 1), (2, -1)):
        plan = plan_bleed(np.random.default_rng(seed), side, only(kind))
        truth = np.zeros(len(hu), np.uint8)
        changed, volume = add_bleed(plan, hu, truth, voxels, person)
        mask = truth == 1
        assert volume == pytest.approx(mask.sum() * voxels.voxel_ml)
        room = 0.35 if kind in ("SAH", "IVH") else 0.95  # sulci and ventricles may hold less
        assert room * plan.volume_ml - voxels.voxel_ml <= volume <= plan.volume_ml + voxels.voxel_ml
        assert np.all(voxels.points[mask, 0] * side > 0) and np.all(voxels.hull[mask] < 0)
        assert np.mean(changed[mask] - hu[mask]) > 8


def test_fresh_blood_is_dense_and_an_isodense_bleed_is_not(head):
    person, voxels, hu, _ = head
    for share, low, high in ((0.0, 50, 75), (1.0, 25, 46)):
        plan = plan_bleed(np.random.default_rng(4), 1, only("IPH", share))
        truth = np.zeros(len(hu), np.uint8)
        changed, _ = add_bleed(plan, hu, truth, voxels, person)
        assert low < np.median(changed[truth == 1]) < high and plan.isodense == bool(share)


def test_a_bleed_changes_nothing_far_away(head):
    person, voxels, hu, _ = head
    plan = plan_bleed(np.random.default_rng(0), 1, only("SDH"))
    truth = np.zeros(len(hu), np.uint8)
    changed, _ = add_bleed(plan, hu, truth, voxels, person)
    near = binary_dilation(voxels.fill(truth) == 1, iterations=4)[voxels.inside]
    assert np.mean(np.abs(changed - hu)[~near] > 0.01) < 0.001  # the thin rim of a sheet of blood fades a little further


def test_a_crack_opens_bone_only_and_a_wider_one_opens_more(head):
    from dataclasses import replace

    _, voxels, hu, spacing = head
    plan = replace(plan_fracture(np.random.default_rng(1), 1), dent=None, length_mm=60.0)
    losses = []
    for gap in (1.0, 2.0, 4.0):
        truth = np.zeros(len(hu), np.uint8)
        cracked = add_fracture(replace(plan, gap_mm=gap), hu, truth, voxels, spacing)
        assert (truth == 2).any() and np.all(voxels.hull[truth == 2] > -2 * voxels.reach[truth == 2])
        assert np.all(cracked <= hu + 1e-3)
        losses.append(float(np.sum(hu - cracked)))
    assert losses[0] < losses[1] < losses[2]
    # a slab of 4 mm takes about four times the bone that a slab of 1 mm takes
    assert 2.5 < losses[2] / losses[0] < 5.5


def test_swelling_thickens_the_scalp_where_it_is_put(head):
    person = head[0]
    plan = next(p for p in (plan_fracture(np.random.default_rng(s), 1) for s in range(20)) if p.swelling and p.swelling.height_mm > 6)
    grid, anatomy = draw_grid(np.random.default_rng(1), 64, 6.0), Anatomy.draw(np.random.default_rng(0), scale=0.91)
    before, after = (sample_person(p, anatomy, grid).inside.sum() for p in (person, hurt(person, (plan.swelling,), (), ())))
    assert after > before + 20


def test_truth_findings_and_the_cell_asked_for_agree(hurt_heads: list[Scan]):
    for index, scan in enumerate(hurt_heads):
        bleed = scan.truth == 1
        seen = {"fracture": (scan.truth == 2).any(), "left": (bleed & (scan.structures == 3)).any()}
        seen["right"] = (bleed & (scan.structures == 4)).any()
        assert tuple(int(seen[k]) for k in ("fracture", "left", "right")) == cell_of(1, index)
        assert tuple(scan.findings[k] for k in ("fracture", "bleed_left", "bleed_right")) == cell_of(1, index)


def test_sixty_five_in_turn_have_the_composition_of_the_papers_table_2():
    counts = Counter(cell_of(4, k) for k in range(65))
    assert counts == {(f, left, right): n for f, left, right, n in CELLS}
    first = Counter(cell_of(4, k) for k in range(20))
    assert 4 <= sum(n for (f, _, _), n in first.items() if f) <= 8  # 20 of 65 have a fracture
    assert counts == Counter(cell_of(4, k) for k in range(65, 130))


def test_bleeds_are_of_all_sizes_and_some_are_isodense():
    plans = [plan_bleed(np.random.default_rng(k), 1, Mixture()) for k in range(300)]
    volumes = np.array([p.volume_ml for p in plans])
    assert volumes.min() < 0.8 and volumes.max() > 45 and 2 < np.median(volumes) < 12
    assert 0.08 < np.mean([p.isodense for p in plans]) < 0.25
    assert {p.kind for p in plans} == set(KINDS)


def rule_scores(scan: Scan) -> dict[str, dict[str, float]]:
    """Two rules per hemisphere: the largest mean of 3 x 3 x 3 voxels, and the number of voxels above 55 HU, both away from bone."""
    smooth = uniform_filter(scan.hu, 3)
    away = ~binary_dilation(scan.hu > 150, np.ones((3, 3, 3)))
    scores: dict[str, dict[str, float]] = {"largest": {}, "amount": {}}
    for name, number in (("left", 3), ("right", 4)):
        mask = (scan.structures == number) & away
        scores["largest"][name] = float(smooth[mask].max())
        scores["amount"][name] = float((scan.hu[mask] > 55).sum())
    return scores


def auroc(positive: list[float], negative: list[float]) -> float:
    a, b = np.array(positive)[:, None], np.array(negative)[None]
    return float(np.mean((a > b) + 0.5 * (a == b)))


def test_the_trivial_rules_are_neither_useless_nor_enough(healthy_heads: list[Scan], hurt_heads: list[Scan]):
    for rule in ("largest", "amount"):
        positive: list[float] = []
        negative: list[float] = []
        for scan in [*healthy_heads, *hurt_heads]:
            for side, score in rule_scores(scan)[rule].items():
                (positive if scan.findings[f"bleed_{side}"] else negative).append(score)
        assert 0.55 < auroc(positive, negative) < 0.9, rule


@pytest.mark.parametrize("side", [-1, 1])
def test_a_large_bleed_pushes_the_ventricles_to_the_other_side(side, head):
    from dataclasses import replace

    person = head[0]
    grid, anatomy = draw_grid(np.random.default_rng(1), 64, 6.0), Anatomy.draw(np.random.default_rng(0), scale=0.91)
    plan = replace(plan_bleed(np.random.default_rng(2), side, only("IPH")), volume_ml=50.0, centre=(side * 26.0, -2.0, 12.0))

    def middle(who: Person) -> float:
        voxels = sample_person(who, anatomy, grid)
        return float(np.average(voxels.points[:, 0], weights=voxels.tissue[2]))

    assert (middle(hurt(person, (), (mass_effect(plan),), ())) - middle(person)) * side < -1.0  # mm
