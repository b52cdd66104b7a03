from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import binary_erosion

from common.data.check import check_dataset
from common.data.dhcp import read_dhcp
from common.data.simulate.cohort import ensure_cohort
from common.data.simulate.dhcp import STYLES, Scan, simulate_dhcp, simulate_scan
from common.data.simulate.mr_signal import signal
from common.data.simulate.neonatal_brain import LABELS, load_brain_atlas, outline_mm, tissue_shares
from common.data.simulate.neonatal_growth import AGES, draw_newborn, mean_outline_cm, stage_at
from common.data.simulate.neonatal_visits import Visit, visits
from common.errors import UserError
from common.transforms.align_brain import AlignBraind
from common.transforms.brain_intensity import BrainIntensityd
from common.transforms.central_slice import CentralSliced
from common.transforms.same_grid import LoadSameGridd

SPACING = 3.0


def digests(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_dhcp(tmp_path_factory.mktemp("dhcp") / "four", 4, seed=3, spacing_mm=6, repeated=0.5)


@pytest.fixture(scope="module")
def scans() -> list[tuple[Visit, Scan]]:
    return [(visit, simulate_scan(visit, 0, SPACING)) for k in range(20) for visit in visits(k, 0, "main", 0.25)]


@pytest.fixture(scope="module")
def child() -> dict[float, Scan]:
    """One child at four ages, no turn of the head between them that matters here."""
    return {age: simulate_scan(Visit(0, 0, (age,)), 0, 1.5) for age in (27.0, 33.0, 38.0, 44.0)}


def scaled(scan: Scan) -> np.ndarray:
    """Intensities in units of the 99.9th percentile of the brain, 0 outside."""
    brain = scan.brain > 0
    return np.where(brain, np.clip(scan.image / np.percentile(scan.image[brain], 99.9), 0, 1), 0)


# ------------------------------------------------------------------------------------------------------------------ on disk


def test_the_layout_is_that_of_release_3_and_the_reader_takes_it(cohort: Path) -> None:
    assert cohort.name == "rel3_dhcp_anat_pipeline"
    cases = read_dhcp(cohort.parent, labelled=True)
    planned = [visit for k in range(4) for visit in visits(k, 3, "main", 0.5)]
    assert [(case["subject"], case["session"]) for case in cases] == [visit.names for visit in planned]
    assert [case["age"] for case in cases] == pytest.approx([visit.age for visit in planned], abs=0.006)
    assert all(case["birth_age"] <= case["age"] and case["sex"] in ("Male", "Female") for case in cases)
    findings = list(check_dataset("dhcp", cohort))
    assert not [finding for finding in findings if finding.level == "error"]
    assert any("simulated cohort" in finding.text for finding in findings)


def test_files_hold_the_scan_on_an_oriented_grid(cohort: Path) -> None:
    visit = visits(1, 3, "main", 0.5)[0]
    scan = simulate_scan(visit, 3, 6)
    child, session = visit.names
    stem = cohort / f"sub-{child}" / f"ses-{session}" / "anat" / f"sub-{child}_ses-{session}"
    for end, values in (("desc-restore_T2w", scan.image), ("desc-brain_mask", scan.brain), ("desc-drawem9_dseg", scan.label)):
        image = nibabel.load(f"{stem}_{end}.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj), values)
        assert nibabel.aff2axcodes(image.affine) == ("L", "A", "S")
        np.testing.assert_allclose(np.abs(image.affine[:3, :3]), 6 * np.eye(3))
    assert scan.image.shape == (18, 24, 24)


def test_fewer_children_are_the_first_ones_of_more_bit_for_bit(cohort: Path, tmp_path: Path) -> None:
    few, many = digests(simulate_dhcp(tmp_path / "two", 2, seed=3, spacing_mm=6, repeated=0.5)), digests(cohort)
    few.pop("participants.tsv")
    assert len(few) >= 2 * 3 + 2 and few.items() <= many.items()


def test_the_cohort_is_announced_and_reused(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "NOT PATIENTS" in (cohort.parent / "SIMULATED.txt").read_text()
    monkeypatch.delenv("BRAIN_BUNDLES_DATA", raising=False)
    places = [ensure_cohort("dhcp", tmp_path, subjects=1, spacing_mm=8.0) for _ in range(2)]
    assert places[0] == places[1] and len(read_dhcp(places[0])) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"style": "shifted"}, "style: got 'shifted', expected one of main, shift"),
        ({"subjects": 0}, "subjects: got 0, expected a whole number from 1 to 9999"),
        ({"spacing_mm": 0.4}, "spacing_mm: got 0.4, expected a number from 0.5 to 8"),
        ({"repeated": 1.1}, "repeated: got 1.1, expected a number from 0 to 1"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_arguments_out_of_range_are_named(wrong: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        simulate_dhcp(tmp_path / "x", **{"spacing_mm": 8.0, **wrong})  # type: ignore[arg-type]


def test_the_files_become_prepared_scans_of_the_methods_form(cohort: Path) -> None:
    (case, *_) = read_dhcp(cohort)
    steps = [LoadSameGridd(("image", "brain", "label"), 1, range(10)), AlignBraind(grid=(20, 26, 24), spacing_mm=6.0, mode="centre")]
    volume = BrainIntensityd()(steps[1](steps[0](case)))  # type: ignore[arg-type]
    image, brain = volume["image"], volume["brain"]
    assert image.shape == brain.shape == volume["label"].shape == (1, 20, 26, 24)
    assert image.max() == 1 and image.min() == 0 and not image[brain == 0].any() and volume["spacing_mm"] == 6.0
    assert not volume["label"][brain == 0].any() and volume["age"] == case["age"]
    assert CentralSliced()(volume)["image"].shape == (1, 20, 26)


# ------------------------------------------------------------------------------------------------------------------ the tables


def test_the_wanted_share_of_children_comes_back_some_of_them_twice() -> None:
    for seed in range(3):
        counts = [len(visits(k, seed, "main", 0.1)) for k in range(200)]
        assert sum(count > 1 for count in counts) == 20 and sum(count == 3 for count in counts) == 5
    assert all(len(visits(k, 0, "main", 0.0)) == 1 for k in range(20))
    assert all(len(visits(k, 0, "main", 1.0)) >= 2 for k in range(20))


def test_ages_cover_26_to_45_weeks_with_a_median_near_term() -> None:
    ages = np.array([visit.age for k in range(300) for visit in visits(k, 1, "main", 0.1)])
    assert AGES[0] <= ages.min() < 26.5 and 44.5 < ages.max() <= AGES[1] + 0.1
    assert 38.5 < np.median(ages) < 41
    again = [visit.ages for k in range(300) for visit in visits(k, 1, "main", 0.1)[:1] if len(visit.ages) > 1]
    assert all(np.diff(ages).min() > 1.0 for ages in again) and max(ages[0] for ages in again) < 37


def test_head_circumferences_grow_as_the_paper_says_and_some_are_missing(tmp_path: Path) -> None:
    root = simulate_dhcp(tmp_path / "c", 40, seed=0, spacing_mm=6, repeated=0.1)
    with (root.parent / "combined.tsv").open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    known = np.array([[row["scan_age"], row["scan_head_circumference"]] for row in rows if row["scan_head_circumference"]], float)
    assert 1 <= len(rows) - len(known) <= 15
    slope, offset = np.polyfit(*known.T, 1)
    assert 0.72 < slope < 0.86 and 33.5 < slope * 40 + offset < 36.5
    assert np.corrcoef(known.T)[0, 1] > 0.95
    assert {row["radiology_score"] for row in rows} <= {"1", "2", "3", "4", "5", "Q"}


# ------------------------------------------------------------------------------------------------------------------ the brains


def test_the_outline_is_measured_on_shapes_of_known_perimeter() -> None:
    x, y, z = np.ogrid[-40:41, -40:41, -5:6]
    disc = (x**2 + y**2 <= 900) & (abs(z) < 3)
    assert outline_mm(disc, (2.0, 2.0, 1.0)) == pytest.approx(2 * np.pi * 60, rel=0.03)  # voxels stick out by a part of themselves
    box = np.zeros((9, 9, 3), bool)
    box[2:6, 1:8, 1] = True
    assert outline_mm(box, (1.0, 2.0, 5.0)) == pytest.approx(2 * (4 + 14))
    assert outline_mm(np.zeros((2, 2, 2), bool), (1, 1, 1)) == 0


def test_the_brain_has_the_size_of_its_age_and_lies_inside(scans: list[tuple[Visit, Scan]]) -> None:
    for visit, scan in scans:
        assert scan.outline_cm == pytest.approx(scan.stage.outline_cm, rel=0.05)
        assert scan.outline_cm == pytest.approx(mean_outline_cm(visit.age), rel=0.12)
        assert not any(scan.brain.take(end, axis=axis).any() for axis in range(3) for end in (0, -1))
        assert (scan.label > 0).sum() == scan.brain.sum() and set(np.unique(scan.label)) <= {0, *LABELS.values()}
    volumes = [scan.brain.sum() * SPACING**3 / 1000 for _, scan in scans]
    assert min(volumes) > 70 and max(volumes) < 650


def test_a_child_keeps_its_shape_and_grows(child: dict[float, Scan]) -> None:
    ages = sorted(child)
    assert np.all(np.diff([child[age].outline_cm for age in ages]) > 3)
    first, last = child[ages[0]].newborn, child[ages[-1]].newborn
    assert first.size == last.size and np.array_equal(first.warp.lattice, last.warp.lattice)
    assert np.array_equal(first.folds.lattice, last.folds.lattice)


def test_the_cortex_folds_with_age(child: dict[float, Scan]) -> None:
    """Surface of the tissue over that of a ball of its volume, counted in faces of voxels: a smooth brain has little more than a ball."""
    folding = []
    for age in sorted(child):
        tissue = np.isin(child[age].label, (2, 3, 6, 7, 8))
        faces = sum(np.abs(np.diff(tissue.astype(np.int8), axis=axis)).sum() for axis in range(3))
        folding.append(faces / (1.5 * (36 * np.pi) ** (1 / 3) * tissue.sum() ** (2 / 3)))
    assert np.all(np.diff(folding) > 0.05) and folding[0] < 1.75 and folding[-1] > 1.35 * folding[0]


def test_the_contrast_is_that_of_t2w_newborns_and_falls_with_age(child: dict[float, Scan]) -> None:
    differences, levels = [], []
    (sequence,) = STYLES["main"].scanner.sequences
    for age in sorted(child):
        image, label = scaled(child[age]), child[age].label
        grey, white = (np.median(image[label == LABELS[name]]) for name in ("grey", "white"))
        fluid = np.median(image[binary_erosion(label == LABELS["fluid"]) | (label == LABELS["ventricle"])])
        assert fluid > white + 0.1 and white > grey + 0.08, "fluid is brightest, cortex is dark"
        differences.append(np.subtract(*(signal(child[age].stage.tissues[name], sequence) for name in ("white", "grey"))))
        levels.append(white)
    # of the signals: in the image the thin early cortex is blurred with its surroundings
    assert np.all(np.diff(differences) < 0) and np.all(np.diff(levels) < 0)


def test_the_head_goes_on_outside_the_brain(child: dict[float, Scan]) -> None:
    scan = child[38.0]
    outside, brain = scan.image[scan.brain == 0], scan.image[scan.brain > 0]
    assert (outside > 0.15 * np.median(brain)).mean() > 0.03, "scalp"
    assert np.median(outside) < 0.1 * np.median(brain), "air"


def test_shares_of_tissues_sum_to_one() -> None:
    newborn = draw_newborn(np.random.default_rng(0), 33.0)
    stage = stage_at(newborn, 33.0, load_brain_atlas().outline_cm)
    points = np.random.default_rng(1).uniform((-60, -90, -40), (60, 60, 60), (2000, 3)).astype(np.float32)
    shares, labels = tissue_shares(newborn, stage, points, 1.0)
    np.testing.assert_allclose(sum(shares.values()), 1, atol=1e-5)
    assert all(part.min() >= 0 for part in shares.values()) and labels.shape == (2000,)


def test_the_same_scan_is_the_same_and_another_one_another() -> None:
    visit = Visit(2, 0, (34.0,))
    first = simulate_scan(visit, 0, 6)
    np.testing.assert_array_equal(first.image, simulate_scan(visit, 0, 6).image)
    for other in (simulate_scan(visit, 1, 6), simulate_scan(Visit(3, 0, (34.0,)), 0, 6), simulate_scan(visit, 0, 6, "shift")):
        assert not np.array_equal(first.image, other.image)
    again = simulate_scan(Visit(2, 1, (33.0, 34.0)), 0, 6)
    assert not np.array_equal(first.image, again.image), "position and noise are the scan's own"


# ------------------------------------------------------------------------------------------------------------- trivial rules


def centred(scan: Scan) -> np.ndarray:
    """The scaled brain with its centroid in the middle voxel."""
    image, middle = scaled(scan), np.argwhere(scan.brain).mean(axis=0)
    shift = np.rint((np.array(image.shape) - 1) / 2 - middle).astype(int)
    return np.roll(image, shift, axis=(0, 1, 2))


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((one - other) ** 2)))


def test_copying_the_first_scan_is_no_good_prediction_of_the_second(scans: list[tuple[Visit, Scan]]) -> None:
    copies, neighbours = [], []
    for a, first in scans:
        for b, second in scans:
            if a.subject == b.subject and a.visit != b.visit:
                near = min((item for item in scans if item[0].subject != b.subject), key=lambda item: abs(item[0].age - b.age))
                copies.append(psnr(centred(first), centred(second)))
                neighbours.append(psnr(centred(near[1]), centred(second)))
    assert len(copies) >= 10
    assert 12 < np.mean(copies) < 17.5
    assert np.mean(copies) + 1 < np.mean(neighbours) < 21, "another child of that age is nearer than the same child at another age"


def test_the_mean_intensity_alone_does_not_tell_the_age(scans: list[tuple[Visit, Scan]]) -> None:
    """Mean error of a parabola through all other scans, weeks."""
    ages = np.array([visit.age for visit, _ in scans])

    def error(values: list[float]) -> float:
        found = []
        for k in range(len(ages)):
            rest = np.arange(len(ages)) != k
            found.append(abs(np.polyval(np.polyfit(np.array(values)[rest], ages[rest], 2), values[k]) - ages[k]))
        return float(np.mean(found))

    assert 1.0 < error([float(scaled(scan)[scan.brain > 0].mean()) for _, scan in scans]) < 3.5
    assert 0.7 < error([scan.outline_cm for _, scan in scans]) < 2.0, "nor does the size"
