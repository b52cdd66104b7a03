from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import nibabel
import numpy as np
import pytest

from common.data.simulate.cohort import ensure_cohort
from common.data.simulate.cq500 import case_number, simulate_cq500
from common.data.simulate.ct_series import draw_series
from common.data.simulate.dicom_writer import uid
from common.data.simulate.head_ct import simulate_scan
from common.data.simulate.readers import ITEMS, draw_reads, true_items
from common.errors import UserError

TINY = {"size": 32, "slice_mm": 10.0}
HEALTHY, ABNORMAL, SEED = 2, 4, 3


def digests(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_cq500(tmp_path_factory.mktemp("ct") / "six", HEALTHY, ABNORMAL, SEED, **TINY)


def subjects() -> list[tuple[int, bool]]:
    return [(k, False) for k in range(HEALTHY)] + [(k, True) for k in range(ABNORMAL)]


def read_series(folder: Path):
    import itk

    names = itk.GDCMSeriesFileNames.New()
    names.SetDirectory(str(folder))
    (only,) = names.GetSeriesUIDs()
    return itk.imread(list(names.GetFileNames(only)))


def test_the_layout_is_that_of_the_public_archive(cohort: Path):
    assert cohort.name == "CQ500"
    cases = [p for p in cohort.iterdir() if p.is_dir() and p.name != "truth"]
    assert {p.name for p in cases} == {f"CQ500CT{n} CQ500CT{n}" for n in (case_number(SEED, k, ab) for k, ab in subjects())}
    for case in cases:
        assert [p.name for p in case.iterdir()] == ["Unknown Study"]
        for series in (case / "Unknown Study").iterdir():
            assert sorted(p.name for p in series.iterdir()) == [f"CT{k:06d}.dcm" for k in range(len(list(series.iterdir())))]


def test_the_written_series_is_the_simulated_scan(cohort: Path):
    import itk

    for index, abnormal in subjects():
        number = case_number(SEED, index, abnormal)
        scan = simulate_scan(index, SEED, TINY["size"], TINY["slice_mm"], "main", abnormal)
        study = cohort / f"CQ500CT{number} CQ500CT{number}" / "Unknown Study"
        plain = next(study / n for n in ("CT PLAIN THIN", "CT Thin Plain", "CT 10mm") if (study / n).is_dir())
        image = read_series(plain)
        np.testing.assert_array_equal(itk.array_from_image(image).transpose(2, 1, 0), scan.hu)
        np.testing.assert_allclose(list(image.GetSpacing()), scan.grid.spacing_mm, atol=1e-4)
        np.testing.assert_allclose(list(image.GetOrigin()), scan.grid.origin_mm, atol=1e-4)
        np.testing.assert_allclose(itk.array_from_matrix(image.GetDirection()), scan.grid.direction, atol=1e-6)
        truth = nibabel.load(cohort / "truth" / f"CQ500-CT-{number}.nii.gz")
        np.testing.assert_array_equal(np.asarray(truth.dataobj), scan.truth)
        np.testing.assert_allclose(truth.affine, scan.affine, atol=1e-4)


def test_reads_have_the_archives_columns_and_the_majority_is_the_truth(cohort: Path):
    with open(cohort / "reads.csv", newline="") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    assert list(next(iter(rows.values()))) == ["name", "Category", *(f"R{r}:{item}" for r in (1, 2, 3) for item in ITEMS)]
    assert len(rows) == HEALTHY + ABNORMAL
    for index, abnormal in subjects():
        row = rows[f"CQ500-CT-{case_number(SEED, index, abnormal)}"]
        scan = simulate_scan(index, SEED, TINY["size"], TINY["slice_mm"], "main", abnormal)
        assert row["Category"] in ("B1", "B2")
        for item, value in true_items(scan).items():
            assert int(sum(int(row[f"R{r}:{item}"]) for r in (1, 2, 3)) >= 2) == value, item


def test_lesions_are_listed_with_their_volume(cohort: Path):
    with open(cohort / "truth" / "lesions.csv", newline="") as file:
        lesions = list(csv.DictReader(file))
    assert lesions and {"id", "kind", "side", "volume_ml", "contrast_hu", "isodense"} <= set(lesions[0])
    healthy = {f"CQ500-CT-{case_number(SEED, k, False)}" for k in range(HEALTHY)}
    assert not healthy & {row["id"] for row in lesions}


def test_the_same_arguments_give_the_same_bytes_and_fewer_cases_the_same_files(cohort: Path, tmp_path: Path):
    fewer = digests(simulate_cq500(tmp_path / "few", 1, 1, SEED, **TINY))
    many = digests(cohort)
    same = {name: digest for name, digest in fewer.items() if not name.endswith(".csv")}
    assert same and same.items() <= many.items()


def test_a_cohort_without_lesions_still_has_both_tables(tmp_path: Path):
    root = simulate_cq500(tmp_path / "well", 1, 0, SEED, **TINY)
    assert (root / "truth" / "lesions.csv").read_text().startswith("id,kind,side,volume_ml")
    assert len((root / "reads.csv").read_text().splitlines()) == 2


def test_every_case_has_one_whole_plain_thin_series_first_and_other_series_vary():
    scan = simulate_scan(0, 0, 32, 10.0)
    kinds: set[str] = set()
    for k in range(60):
        series = draw_series(np.random.default_rng(k), scan)
        assert series[0].hu is scan.hu and series[0].missing is None
        assert len({s.description for s in series}) == len(series)
        kinds |= {"contrast"} if any(s.contrast for s in series) else set()
        kinds |= {"missing"} if any(s.missing is not None for s in series) else set()
        kinds |= {"scout"} if any("LOCALIZER" in s.image_type for s in series) else set()
        kinds |= {"bone"} if any(s.kernel == "BONE" for s in series) else set()
        kinds |= {"thick"} if any(s.grid.spacing_mm[2] > 15 for s in series) else set()
        assert all(s.hu.shape == s.grid.shape for s in series)
    assert kinds == {"contrast", "missing", "scout", "bone", "thick"}


def test_thick_slices_lie_between_the_thin_ones_they_are_made_of():
    scan = simulate_scan(0, 0, 32, 10.0)
    thick = next(s for k in range(20) for s in draw_series(np.random.default_rng(k), scan) if s.description == "CT Plain")
    points, thin = thick.grid.points(), scan.grid.points()
    np.testing.assert_allclose(points[:, :, 0], 0.5 * (thin[:, :, 0] + thin[:, :, 1]), atol=1e-9)


def test_readers_agree_about_as_well_as_the_papers():
    reads = []
    for abnormal, count in ((False, 60), (True, 30)):
        scan = [simulate_scan(k, 0, 32, 16.0, "main", abnormal) for k in range(count // 3)]
        reads += [draw_reads(np.random.default_rng([k, abnormal]), scan[k % len(scan)]) for k in range(10 * count)]
    for item, low, high in (("BleedLocation-Left", 0.66, 0.84), ("BleedLocation-Right", 0.64, 0.84), ("Fracture", 0.54, 0.76)):
        votes = np.array([r[item] for r in reads])
        yes, rate = votes.sum(1), votes.mean()
        agreement = np.mean((yes * (yes - 1) + (3 - yes) * (2 - yes)) / 6)
        chance = rate**2 + (1 - rate) ** 2
        assert low < (agreement - chance) / (1 - chance) < high, item  # Fleiss kappa; paper 0.745, 0.705, 0.632


def test_identifiers_follow_from_their_parts():
    assert uid("a", 1) == uid("a", 1) != uid("a", 2)
    assert uid("a").startswith("2.25.") and len(uid("a")) <= 64


def test_case_numbers_never_collide_and_tell_nothing():
    healthy, abnormal = ([case_number(1, k, ab) for k in range(200)] for ab in (False, True))
    assert len({*healthy, *abnormal}) == 400 and max(healthy + abnormal) < 491
    assert abs(np.mean(healthy) - np.mean(abnormal)) < 60


def test_ensure_cohort_knows_the_layout(tmp_path: Path, monkeypatch):
    monkeypatch.delenv("BRAIN_BUNDLES_DATA", raising=False)
    root = ensure_cohort("cq500", tmp_path, healthy=1, abnormal=0, **TINY)
    assert root.name == "CQ500" and "NOT PATIENTS" in (root.parent / "SIMULATED.txt").read_text()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"style": "other"}, "style: got 'other', expected one of main, shift"),
        ({"healthy": -1}, "healthy: got -1"),
        ({"healthy": 0, "abnormal": 0}, "healthy \\+ abnormal: got 0, expected 1 to 491 cases"),
        ({"size": 16}, "size: got 16, expected a whole number from 32 to 512"),
        ({"slice_mm": 0.1}, "slice_mm: got 0.1"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_arguments_out_of_range_are_named(wrong, message, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        simulate_cq500(tmp_path / "x", **{"healthy": 1, "abnormal": 1, **TINY, **wrong})
