from __future__ import annotations

import hashlib
from pathlib import Path

import nibabel
import numpy as np
import pytest

from common.data.feta import TISSUES
from common.data.simulate.cohort import ensure_cohort
from common.data.simulate.feta import STYLES, Scan, simulate_feta, simulate_scan, who
from common.data.simulate.fetal_brain import AGES, EARLY, LABELS, draw_fetus, fetal_shares
from common.data.simulate.mr_signal import signal
from common.data.simulate.neonatal_brain import load_brain_atlas
from common.errors import UserError

SPACING = 2.5
EDGES = np.linspace(-4, 4, 81)


def digests(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_feta(tmp_path_factory.mktemp("feta") / "four", 4, seed=3, spacing_mm=4)


@pytest.fixture(scope="module")
def scans() -> list[Scan]:
    return [simulate_scan(k, 0, SPACING) for k in range(12)]


def volumes_ml(scan: Scan) -> dict[str, float]:
    return {name: float((scan.label == number).sum() * scan.spacing_mm**3 / 1000) for name, number in LABELS.items()}


# ------------------------------------------------------------------------------------------------------------------ on disk


def test_the_layout_is_that_of_feta_and_the_reader_takes_it(cohort: Path) -> None:
    from common.data.feta import read_feta

    assert cohort.name == "feta_2.1" and (cohort / "dataset_description.json").is_file()
    cases = read_feta(cohort, labelled=True)
    assert [case["subject"] for case in cases] == ["sub-001", "sub-002", "sub-003", "sub-004"]
    assert [case["age"] for case in cases] == [who(k, 3)[0] for k in range(4)]
    lines = (cohort / "participants.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["participant_id", "Pathology", "Gestational age"]
    kinds = ["Pathological" if who(k, 3)[1] else "Neurotypical" for k in range(4)]
    assert [line.split("\t")[1] for line in lines[1:]] == kinds


def test_files_hold_the_scan_under_the_name_of_its_reconstruction(cohort: Path) -> None:
    for index in range(4):
        scan, name = simulate_scan(index, 3, 4.0), f"sub-{index + 1:03d}"
        files = sorted(p.name for p in (cohort / name / "anat").iterdir())
        assert files == [f"{name}_rec-{scan.method}_{kind}.nii.gz" for kind in ("T2w", "dseg")]
        for file, values in zip(files, (scan.image, scan.label), strict=True):
            image = nibabel.load(cohort / name / "anat" / file)
            np.testing.assert_array_equal(np.asarray(image.dataobj), values)
            assert image.shape == (32, 32, 32) and nibabel.aff2axcodes(image.affine) == ("R", "A", "S")


def test_fewer_subjects_are_the_first_ones_of_more_bit_for_bit(cohort: Path, tmp_path: Path) -> None:
    few, many = digests(simulate_feta(tmp_path / "two", 2, seed=3, spacing_mm=4)), digests(cohort)
    few.pop("participants.tsv")
    assert len(few) == 2 * 2 + 1 and few.items() <= many.items()


def test_the_cohort_is_announced_and_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BRAIN_BUNDLES_DATA", raising=False)
    places = [ensure_cohort("feta", tmp_path, subjects=1, spacing_mm=4.0) for _ in range(2)]
    assert places[0] == places[1]
    assert "NOT PATIENTS" in (places[0].parent / "SIMULATED.txt").read_text()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"style": "other"}, "style: got 'other', expected one of main, shift"),
        ({"subjects": 0}, "subjects: got 0, expected a whole number from 1 to 999"),
        ({"spacing_mm": 5}, "spacing_mm: got 5, expected a number from 0.5 to 4"),
        ({"seed": 0.5}, "seed: got 0.5"),
    ],
)
def test_arguments_out_of_range_are_named(wrong: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        simulate_feta(tmp_path / "x", **wrong)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------------------- the brains


def test_ages_cover_20_to_33_weeks_and_two_of_five_are_pathological() -> None:
    for seed in range(4):
        people = [who(k, seed) for k in range(20)]
        ages = [age for age, _, _ in people]
        assert AGES[0] <= min(ages) < 21.5 and 31.5 < max(ages) <= AGES[1]
        assert [bool(p) for _, p, _ in people].count(True) == 8
        assert {p for _, p, _ in people} == {"", "ventriculomegaly", "small cerebellum"}
        assert 6 <= [m for _, _, m in people].count("irtk") <= 10 and people[0][2] == "mial"


def test_all_seven_tissues_are_in_every_scan_and_the_numbers_are_fetas(scans: list[Scan]) -> None:
    assert list(LABELS.values()) == list(TISSUES.values()) == list(range(1, 8))
    for scan in scans:
        assert set(np.unique(scan.label)) == set(range(8))
        assert not scan.label[[0, -1]].any() and not scan.label[:, [0, -1]].any() and not scan.label[:, :, [0, -1]].any()
        assert (scan.image[scan.label > 0] > 0).all()


def test_the_brain_grows_with_age(scans: list[Scan]) -> None:
    ages = [scan.fetus.age for scan in scans]
    brains = [sum(volumes_ml(scan).values()) for scan in scans]
    assert np.corrcoef(ages, brains)[0, 1] > 0.85
    assert all(40 < v < 400 for v in brains) and max(brains) > 3 * min(brains)


def test_pathologies_do_what_their_names_say() -> None:
    def volumes(pathology: str) -> dict[str, float]:
        fetus = draw_fetus(np.random.default_rng(1), 30.0, pathology)
        points = load_brain_atlas()
        step = 3.0
        axes = [np.arange(low, high, step, dtype=np.float32) for low, high in ((-75, 75), (-110, 75), (-66, 85))]
        grid = np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)
        inside = grid[points.sample(grid, 0, 1)[0] < 0]
        labels = fetal_shares(fetus, inside, step / 2)[1]
        return {name: float((labels == number).mean()) for name, number in LABELS.items()}

    healthy, wide, small = (volumes(name) for name in ("", "ventriculomegaly", "small cerebellum"))
    assert wide["ventricle"] > 2.5 * healthy["ventricle"] and wide["cerebellum"] == pytest.approx(healthy["cerebellum"], rel=0.1)
    assert small["cerebellum"] < 0.5 * healthy["cerebellum"] and small["ventricle"] == pytest.approx(healthy["ventricle"], rel=0.1)


def test_the_cortex_folds_with_age() -> None:
    def surface(age: float) -> float:
        fetus = draw_fetus(np.random.default_rng(0), age)
        assert 0.0 < fetus.sylvian < 1.2
        return fetus.sulcus_mm * (1.0 - fetus.smoothness)

    folded = [surface(age) for age in (20.5, 24.0, 28.0, 32.0)]
    assert folded == sorted(folded) and folded[-1] > 20 * folded[0]


def test_shares_of_tissues_sum_to_one() -> None:
    fetus = draw_fetus(np.random.default_rng(0), 29.0, "ventriculomegaly")
    points = np.random.default_rng(1).uniform((-60, -90, -55), (60, 60, 70), (4000, 3)).astype(np.float32)
    shares, labels = fetal_shares(fetus, points, 2.0)
    assert set(shares) == set(EARLY) and set(np.unique(labels)) <= set(LABELS.values())
    np.testing.assert_allclose(np.sum(list(shares.values()), axis=0), 1, atol=1e-5)
    assert min(float(part.min()) for part in shares.values()) > -1e-6


# ----------------------------------------------------------------------------------------------------------------- the images


def test_the_contrast_is_fetal() -> None:
    (sequence,) = STYLES["main"].scanner.sequences
    for seed, age in enumerate((20.0, 26.0, 33.0)):
        level = {name: signal(tissue, sequence) for name, tissue in draw_fetus(np.random.default_rng(seed), age).tissues.items()}
        assert level["fluid"] > 1.2 * level["white"] and level["white"] > 1.2 * level["grey"]
        assert level["deep"] < 0.85 * level["white"]
        dark = [level[name] for name in ("grey", "deep", "cerebellum", "stem")]
        assert max(dark) < 1.6 * min(dark), "no intensity of its own"


def test_mial_is_masked_and_irtk_keeps_a_rim(scans: list[Scan]) -> None:
    assert {scan.method for scan in scans} == {"mial", "irtk"}
    for scan in scans:
        outside = int(((scan.image > 0) & (scan.label == 0)).sum())
        assert outside == 0 if scan.method == "mial" else outside > 0.1 * (scan.label > 0).sum()


def normalised(scan: Scan) -> tuple[np.ndarray, np.ndarray]:
    seen = scan.image > 0
    image = scan.image.astype(np.float32)
    return np.where(seen, (image - image[seen].mean()) / image[seen].std(), 0), seen


def dice_per_tissue(found: np.ndarray, truth: np.ndarray) -> list[float]:
    return [2 * float(((found == v) & (truth == v)).sum()) / float((found == v).sum() + (truth == v).sum()) for v in range(1, 8)]


def nearest_mean(scans: list[Scan]) -> np.ndarray:
    """Dice ``(scans, 7)`` of the tissue whose mean z-score over all other scans is nearest."""
    images = [normalised(scan) for scan in scans]
    means = np.array([[z[scan.label == v].mean() for v in range(1, 8)] for (z, _), scan in zip(images, scans, strict=True)])
    rows = []
    for k, ((z, seen), scan) in enumerate(zip(images, scans, strict=True)):
        others = np.delete(means, k, axis=0).mean(axis=0)
        rows.append(dice_per_tissue(np.where(seen, 1 + np.abs(z[..., None] - others).argmin(-1), 0), scan.label))
    return np.array(rows)


def best_interval(scans: list[Scan]) -> np.ndarray:
    """Dice ``(scans, 7)`` of the interval of intensities that is best for each tissue, chosen on the truth of the very scan."""
    first, last = np.triu_indices(len(EDGES), 1)
    rows = []
    for scan in scans:
        z, seen = normalised(scan)
        counts = [np.histogram(np.clip(z[seen & (scan.label == v)], -3.99, 3.99), EDGES)[0] for v in range(8)]
        total = np.concatenate([[0], np.cumsum(np.sum(counts, axis=0))])
        row = []
        for v in range(1, 8):
            own = np.concatenate([[0], np.cumsum(counts[v])])
            row.append(float((2 * (own[last] - own[first]) / np.maximum(total[last] - total[first] + own[-1], 1)).max()))
        rows.append(row)
    return np.array(rows)


def test_trivial_rules_stay_far_below_a_network(scans: list[Scan]) -> None:
    nearest, best = nearest_mean(scans), best_interval(scans)
    assert 0.15 <= nearest.mean() <= 0.35, "nearest mean of the other scans"
    assert 0.30 <= best.mean() <= 0.50, "best interval per tissue, chosen on the truth"
    for name in ("ventricle", "cerebellum", "deep", "stem"):
        assert best[:, LABELS[name] - 1].mean() < 0.45, f"{name} is not found by intensity alone"


def test_the_shifted_style_is_harder_for_the_same_rule(scans: list[Scan]) -> None:
    shifted = [simulate_scan(k, 0, SPACING, "shift") for k in range(6)]
    assert nearest_mean(shifted).mean() < nearest_mean(scans).mean() - 0.03
    assert best_interval(shifted).mean() < best_interval(scans).mean() - 0.03


def test_the_same_scan_is_the_same_and_another_one_another() -> None:
    first, again, seed, style = (simulate_scan(0, *rest) for rest in ((0, 4.0), (0, 4.0), (1, 4.0), (0, 4.0, "shift")))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label, again.label)
    assert not np.array_equal(first.label, seed.label) and not np.array_equal(first.label, style.label)
