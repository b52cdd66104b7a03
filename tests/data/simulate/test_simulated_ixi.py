from __future__ import annotations

import hashlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from common.data.check import check_dataset
from common.data.ixi import read_ixi
from common.data.simulate.cohort import ensure_cohort
from common.data.simulate.ixi import LESION_ML, STYLES, TRIVIAL_DICE, Scan, simulate_ixi, simulate_scan
from common.data.simulate.ixi_table import AGES, table_rows, volunteer
from common.data.simulate.mr_signal import TISSUES
from common.data.simulate.t1_head import spoiled_echo
from common.errors import UserError
from common.transforms.percentile_range import percentile_range

COARSE = 6.0


def digests(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_ixi(tmp_path_factory.mktemp("ixi") / "few", 5, seed=3, spacing_mm=COARSE, patients=0.4)


@pytest.fixture(scope="module")
def patients() -> list[Scan]:
    return [simulate_scan(k, 0, 3.75, patients=1.0) for k in range(10)]


def volume_ml(scan: Scan, mask: np.ndarray) -> float:
    return float(mask.sum() * np.prod(scan.grid.spacing_mm) / 1000)


# ------------------------------------------------------------------------------------------------------------------ on disk


def test_the_layout_is_that_of_ixi_and_the_reader_takes_it(cohort: Path) -> None:
    cases = read_ixi(cohort.parent)
    assert len(cases) == 5 and all("brain" in case for case in cases)
    sick = {case["subject"] for case in cases if "label" in case}
    assert 1 <= len(sick) <= 3, "two of five people are patients, about"
    people = [volunteer(k, 3, "main", 0.4) for k in range(5)]
    for case, one in zip(cases, sorted(people, key=lambda p: p.number), strict=True):
        assert case["id"] == one.stem and (case["sex"], case["ethnicity"], case["site"]) == (one.sex, one.ethnicity, one.site)
        assert case["age"] == pytest.approx(one.age, abs=0.006) and ("label" in case) == one.patient


def test_files_hold_the_scan_with_the_axes_of_ixi(cohort: Path) -> None:
    scan = simulate_scan(1, 3, COARSE, patients=0.4)
    for name, values in ((f"{scan.one.stem}.nii.gz", scan.image), (f"brains/{scan.one.stem}-brain.nii.gz", scan.brain)):
        image = nibabel.load(cohort / name)
        np.testing.assert_array_equal(np.asarray(image.dataobj), values)
        assert nibabel.aff2axcodes(image.affine) == ("P", "S", "R")
        np.testing.assert_allclose(image.header.get_zooms(), (6, 6, 7.68), rtol=1e-5)
        last = np.array(values.shape) - 1
        expected = scan.grid.points()[tuple(last)] * (-1, -1, 1)  # left, back, up (ITK) to right, front, up (NIfTI)
        np.testing.assert_allclose((image.affine @ [*last, 1])[:3], expected, atol=1e-3)


def test_fewer_people_are_the_first_ones_of_more_bit_for_bit(cohort: Path, tmp_path: Path) -> None:
    few = digests(simulate_ixi(tmp_path / "two", 2, seed=3, spacing_mm=COARSE, patients=0.4))
    assert len(few) >= 4 and few.items() <= digests(cohort).items()


def test_the_cohort_is_announced_reused_and_passes_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BRAIN_BUNDLES_DATA", raising=False)
    places = [ensure_cohort("ixi", tmp_path, subjects=2, spacing_mm=8.0, patients=0.5) for _ in range(2)]
    assert places[0] == places[1] and "NOT PATIENTS" in (places[0].parent / "SIMULATED.txt").read_text()
    findings = list(check_dataset("ixi", places[0]))
    assert not [finding for finding in findings if finding.level == "error"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"style": "other"}, "style: got 'other', expected one of main, shift"),
        ({"subjects": 801}, "subjects: got 801, expected a whole number from 1 to 800"),
        ({"spacing_mm": 0.5}, "spacing_mm: got 0.5, expected a number from 0.9375 to 8"),
        ({"patients": 1.5}, "patients: got 1.5, expected a number from 0 to 1"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_arguments_out_of_range_are_named(wrong: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        simulate_ixi(tmp_path / "x", **wrong)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------- the people


def test_people_have_the_spread_of_the_public_set_and_numbers_of_three_digits() -> None:
    people = [volunteer(k, 0, "main", 0.25) for k in range(800)]
    assert len({one.number for one in people}) == 800 and max(one.number for one in people) <= 999
    assert {one.site for one in people} == {"Guys", "HH", "IOP"} and {one.sex for one in people} == {"m", "f"}
    assert sum(one.patient for one in people) == pytest.approx(200, abs=3)
    assert 0.7 < np.mean([one.ethnicity == 1 for one in people]) < 0.85
    ages = np.array([one.age for one in people[:30]])
    assert AGES[0] <= ages.min() < 25 and 80 < ages.max() <= AGES[1], "any few people cover all ages"
    assert sum((ages < 25).tolist()) >= 1 and sum((ages >= 65).tolist()) >= 5


def test_the_table_has_the_gaps_and_copies_of_the_public_one() -> None:
    people = [volunteer(k, 0, "main", 0.0) for k in range(60)]
    rows = table_rows(people)
    numbers = [row["IXI_ID"] for row in rows]
    assert len(rows) == 62 and numbers.count(people[2].number) == 2 and 999 in numbers
    assert [row["IXI_ID"] for row in rows if row["AGE"] == ""] == [people[k].number for k in (11, 34, 57)]
    assert list(rows[0])[:2] == ["IXI_ID", "SEX_ID (1=m, 2=f)"] and rows[0]["SEX_ID (1=m, 2=f)"] in (1, 2)


# --------------------------------------------------------------------------------------------------------------- the images


def test_shapes_follow_the_spacing_as_in_ixi() -> None:
    scans = [simulate_scan(k, 0, 7.5) for k in range(12)]
    # 240 mm / 7.5 = 32; 180 / 9.6 = 18.75 and 175.2 / 9.6 = 18.25
    assert {scan.image.shape for scan in scans} == {(32, 32, 19), (32, 32, 18)}
    assert scans[0].grid.spacing_mm == pytest.approx((7.5, 7.5, 9.6))


def test_a_head_has_dark_bone_bright_fat_and_noise_in_the_air(patients: list[Scan]) -> None:
    for scan in patients:
        image, brain = scan.image.astype(float), scan.brain > 0
        inside = np.median(image[brain])
        assert 950 < volume_ml(scan, brain) < 2000
        assert np.percentile(image[~brain], 99.5) > 1.2 * inside, "fat"
        assert 0 < np.median(image[:, -2:]) < 0.2 * inside, "air above the head is noise, not 0"
        middle = image[:, :, image.shape[2] // 2]
        assert middle.argmax() not in np.flatnonzero(brain[:, :, image.shape[2] // 2])


def test_brains_shrink_and_ventricles_widen_with_age() -> None:
    people = [simulate_scan(k, 0, COARSE, patients=0.0) for k in range(24)]
    ages = np.array([scan.one.age for scan in people])
    assert np.corrcoef(ages, [scan.person.ventricles for scan in people])[0, 1] > 0.5
    assert np.corrcoef(ages, [scan.person.atrophy_mm for scan in people])[0, 1] > 0.5
    # one person's head with an old and a young brain: mean signal in the mask falls as fluid widens
    low, high = np.argsort(ages)[:5], np.argsort(ages)[-5:]

    def dark_share(scan: Scan) -> float:
        inside = scan.image[scan.brain > 0].astype(float)
        return float((inside < 0.55 * np.percentile(inside, 90)).mean())

    assert np.mean([dark_share(people[k]) for k in high]) > np.mean([dark_share(people[k]) for k in low])


def test_women_have_smaller_heads_on_average() -> None:
    sizes: dict[str, list[float]] = {"m": [], "f": []}
    for k in range(24):
        scan = simulate_scan(k, 1, 7.5)
        sizes[scan.one.sex].append(volume_ml(scan, scan.brain))
    assert 1.02 < np.mean(sizes["m"]) / np.mean(sizes["f"]) < 1.3


def test_the_same_scan_is_the_same_and_another_one_another() -> None:
    first, again, other, shift = (
        simulate_scan(*ids, COARSE, style) for ids, style in (((0, 0), "main"), ((0, 0), "main"), ((0, 1), "main"), ((0, 0), "shift"))
    )
    np.testing.assert_array_equal(first.image, again.image)
    assert not np.array_equal(first.image, other.image) and not np.array_equal(first.image, shift.image)


def test_white_matter_is_brightest_in_the_brain_then_grey_then_fluid_at_every_site() -> None:
    for scanner in (scanner for style in STYLES.values() for scanner in style.values()):
        white, grey, fluid = (spoiled_echo(TISSUES[name], scanner) for name in ("white", "grey", "fluid"))
        assert white > 1.1 * grey > 1.1 * 1.5 * fluid


def test_the_spoiled_echo_by_hand() -> None:
    # T1 832 ms, TR 9.6 ms: E1 = exp(-0.011538) = 0.988528; 30 deg: 0.5 * 0.011472 / (1 - 0.866025 * 0.988528) = 0.039862
    # density 0.70, exp(-4.6 / 79.6) = 0.943850: 0.026337
    assert spoiled_echo(TISSUES["white"], STYLES["main"]["HH"].__class__(3.0, 9.6, 4.6, 30.0, 0, (0, 0))) == pytest.approx(
        0.026337, rel=1e-3
    )


# -------------------------------------------------------------------------------------------------------------- the lesions


def test_lesions_change_the_image_there_and_nothing_else() -> None:
    for index in range(3):
        sick, well = (simulate_scan(index, 0, COARSE, patients=share) for share in (1.0, 0.0))
        assert sick.one.patient and not well.one.patient and not well.lesion.any() and well.kind == ""
        np.testing.assert_array_equal(sick.brain, well.brain)
        unit = np.median(well.image[well.brain > 0])
        difference = np.abs(sick.image.astype(float) - well.image) / unit
        near = np.zeros(sick.lesion.shape, bool)
        for axis in range(3):
            for step in range(-3, 4):
                near |= np.roll(sick.lesion > 0, step, axis)
        assert np.median(difference[sick.lesion > 0]) > 0.02
        assert difference[~near].mean() < 0.05


def test_lesions_lie_in_the_brain_in_all_kinds_and_sizes(patients: list[Scan]) -> None:
    assert len({scan.kind for scan in patients}) == 3
    sizes = [volume_ml(scan, scan.lesion) for scan in patients]
    assert min(sizes) >= 0.9 * LESION_ML[0] and max(sizes) <= 1.1 * LESION_ML[1] and max(sizes) > 5 * min(sizes)
    assert all((scan.brain[scan.lesion > 0] > 0).all() for scan in patients)


@pytest.mark.parametrize("style", ["main", "shift"])
def test_a_threshold_on_intensity_hardly_finds_the_lesions(style: str, patients: list[Scan]) -> None:
    scans = patients if style == "main" else [simulate_scan(k, 0, 3.75, style, 1.0) for k in range(10)]
    values, truth = [], []
    for scan in scans:
        scaled = percentile_range(torch.from_numpy(scan.image.astype(np.float32)), 1, 99.8).numpy()
        values.append(scaled[scan.brain > 0])
        truth.append(scan.lesion[scan.brain > 0] > 0)
    flat, lesion = np.concatenate(values), np.concatenate(truth)
    best = []
    for sign in (1, -1):
        hits = np.cumsum(lesion[np.argsort(-sign * flat, kind="stable")])
        best.append(float((2 * hits / (np.arange(1, len(hits) + 1) + lesion.sum())).max()))
    print(style, f"best Dice of a threshold: bright {best[0]:.3f}, dim {best[1]:.3f}; lesions are {100 * lesion.mean():.2f} % of the brain")
    assert TRIVIAL_DICE[0] < max(best) < TRIVIAL_DICE[1]
