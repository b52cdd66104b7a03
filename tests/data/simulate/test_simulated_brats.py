from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import nibabel
import numpy as np
import pytest

from common.data.brats import SEQUENCES, read_brats
from common.data.check import check_dataset
from common.data.simulate.brats import STYLES, Scan, simulate_brats, simulate_scan, tumour_volume_ml
from common.data.simulate.cohort import ensure_cohort
from common.data.simulate.glioma import plan_glioma
from common.data.simulate.mr_signal import TISSUES, Scanner, Sequence, Tissue, signal
from common.errors import UserError

T1, T2, FLAIR = Scanner().sequences


def digests(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_brats(tmp_path_factory.mktemp("brats") / "three", 3, seed=3, size=24)


@pytest.fixture(scope="module")
def scans() -> list[Scan]:
    return [simulate_scan(k, 0, 64) for k in range(12)]


@pytest.fixture(scope="module")
def shifted() -> list[Scan]:
    return [simulate_scan(k, 0, 64, "shift") for k in range(12)]


def flair_z(scan: Scan) -> np.ndarray:
    """FLAIR in standard deviations of the brain, far below all outside."""
    flair = scan.images[3].astype(np.float32)
    brain = flair > 0
    return np.where(brain, (flair - flair[brain].mean()) / flair[brain].std(), -99)


def flair_rule(scans: list[Scan]) -> list[float]:
    """Dice of each case for the global threshold on z-scored FLAIR that is best on all others."""
    table = []
    for scan in scans:
        z, truth = flair_z(scan), scan.label > 0
        table.append([2 * (truth & (z > t)).sum() / (truth.sum() + (z > t).sum()) for t in np.linspace(0, 4, 41)])
    dice = np.array(table)
    return [float(row[np.delete(dice, k, axis=0).mean(axis=0).argmax()]) for k, row in enumerate(dice)]


# ------------------------------------------------------------------------------------------------------------------ on disk


def test_the_layout_is_that_of_brats2020_and_the_reader_takes_it(cohort: Path) -> None:
    assert cohort.name == "MICCAI_BraTS2020_TrainingData"
    cases = read_brats(cohort.parent, labelled=True)
    assert [case["id"] for case in cases] == ["BraTS20_Training_001", "BraTS20_Training_002", "BraTS20_Training_003"]
    with (cohort / "name_mapping.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row["BraTS_2020_subject_ID"] for row in rows] == [case["id"] for case in cases]
    assert {row["Grade"] for row in rows} <= {"HGG", "LGG"}
    findings = list(check_dataset("brats", cohort))
    assert not [finding for finding in findings if finding.level == "error"]
    assert any("simulated cohort" in finding.text for finding in findings)


def test_files_hold_the_types_and_the_affine_of_brats(cohort: Path) -> None:
    scan = simulate_scan(1, 3, 24)
    for kind, values in (*zip(SEQUENCES, scan.images, strict=True), ("seg", scan.label)):
        image = nibabel.load(cohort / "BraTS20_Training_002" / f"BraTS20_Training_002_{kind}.nii.gz")
        assert image.get_data_dtype() == (np.uint8 if kind == "seg" else np.int16)
        np.testing.assert_array_equal(np.asarray(image.dataobj), values)
        np.testing.assert_allclose(image.affine, [[-10, 0, 0, 0], [0, -10, 0, 239], [0, 0, 10, 0], [0, 0, 0, 1]])


@pytest.mark.parametrize(("size", "shape"), [(24, (24, 24, 16)), (64, (64, 64, 41))])
def test_sizes_keep_the_proportions_of_brats(size: int, shape: tuple[int, ...]) -> None:
    scan = simulate_scan(0, 0, size)
    assert scan.images.shape == (4, *shape) and scan.label.shape == shape
    assert scan.spacing_mm == pytest.approx(240 / size)


def test_fewer_cases_are_the_first_ones_of_more_bit_for_bit(cohort: Path, tmp_path: Path) -> None:
    few, many = digests(simulate_brats(tmp_path / "two", 2, seed=3, size=24)), digests(cohort)
    few.pop("name_mapping.csv")
    assert len(few) == 10 and few.items() <= many.items()


def test_the_cohort_is_announced_and_reused(cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "NOT PATIENTS" in (cohort.parent / "SIMULATED.txt").read_text()
    monkeypatch.delenv("BRAIN_BUNDLES_DATA", raising=False)
    places = [ensure_cohort("brats", tmp_path, subjects=1, size=16) for _ in range(2)]
    assert places[0] == places[1] and len(read_brats(places[0])) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"style": "shifted"}, "style: got 'shifted', expected one of main, shift"),
        ({"subjects": 370}, "subjects: got 370, expected a whole number from 1 to 369"),
        ({"size": 8}, "size: got 8, expected a whole number from 16 to 240"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_arguments_out_of_range_are_named(wrong: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        simulate_brats(tmp_path / "x", **{"size": 16, **wrong})  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------- the images


def test_signals_by_hand() -> None:
    # T1 = TR: 1 - 1/e of it recovers; T2 = TE: 1/e of it is left; inversion: 1 - 2 e^-0.5 + e^-1 = 0.1548
    assert signal(Tissue(500, 80, 0.8), Sequence(500, 80)) == pytest.approx(0.8 * (1 - np.exp(-1)) * np.exp(-1))
    assert signal(Tissue(500, 80, 1.0), Sequence(500, 0, 250)) == pytest.approx(0.15482, abs=1e-5)


def test_contrasts_are_those_of_the_sequences() -> None:
    def order(sequence: Sequence, *names: str) -> list[str]:
        return sorted(names, key=lambda name: signal(TISSUES[name], sequence))

    assert order(T1, "white", "grey", "fluid") == ["fluid", "grey", "white"]
    assert order(T2, "white", "grey", "fluid", "oedema") == ["white", "grey", "oedema", "fluid"]
    assert order(FLAIR, "white", "grey", "fluid", "oedema") == ["fluid", "white", "grey", "oedema"]
    assert signal(Tissue(500, 150, 0.86), T1) > 1.5 * signal(TISSUES["white"], T1), "after contrast medium"


def test_the_brain_has_an_adults_size_and_nothing_is_outside(scans: list[Scan]) -> None:
    for scan in scans:
        brain = scan.images > 0
        assert (brain == brain[0]).all() and 1000 < brain[0].sum() * scan.spacing_mm**3 / 1000 < 2000
        assert not scan.label[~brain[0]].any()
        assert not brain[0][[0, -1]].any() and not brain[0][:, [0, -1]].any()


def test_each_part_of_a_tumour_shows_where_it_should(scans: list[Scan]) -> None:
    enhancing = [scan for scan in scans if scan.plan.enhancing and scan.plan.volume_ml > 4]
    assert len(enhancing) >= 5
    for scan in enhancing:
        t1, t1ce, t2, flair = scan.images.astype(np.float64)
        rest = (t1 > 0) & (scan.label == 0)

        def level(image: np.ndarray, value: int, scan: Scan = scan, rest: np.ndarray = rest) -> float:
            return float(np.median(image[scan.label == value]) / np.median(image[rest]))

        assert level(t1ce, 4) > 1.15 * level(t1, 4), "the rim takes up contrast medium"
        assert level(t1ce, 4) > level(t1ce, 2), "oedema does not"
        assert level(flair, 2) > 1.15 and level(t2, 2) > 1.0, "oedema is bright in FLAIR and T2"
        assert level(t1, 1) < 1.05, "necrosis is not bright in T1"


def test_parts_have_the_planned_volumes_and_necrosis_lies_inside(scans: list[Scan]) -> None:
    for scan in scans:
        voxel_ml, plan = scan.spacing_mm**3 / 1000, scan.plan
        sizes = {value: int((scan.label == value).sum()) for value in (1, 2, 4)}
        assert set(np.unique(scan.label)) <= {0, 1, 2, 4}
        assert sum(sizes.values()) * voxel_ml == pytest.approx(plan.volume_ml, rel=0.02, abs=voxel_ml)
        core = plan.core * plan.volume_ml / voxel_ml
        assert sizes[1] + sizes[4] == pytest.approx(core, abs=0.02 * core + 1.5)
        assert (sizes[4] > 0) == plan.enhancing and sizes[1] > 0 and sizes[2] > 0


def test_volumes_are_spread_over_the_whole_range_in_any_few_cases() -> None:
    for seed in range(5):
        volumes = np.array([tumour_volume_ml(seed, k, "main") for k in range(10)])
        assert volumes.min() < 2.7 and volumes.max() > 46  # the outermost fifths of log 1 ... log 120
        assert volumes.min() >= 1 and volumes.max() <= 120
    assert all(tumour_volume_ml(0, k, "shift") <= STYLES["shift"].volume_ml[1] for k in range(20))


def test_the_tumour_pushes_the_brain_away() -> None:
    from common.data.simulate.glioma import displaced

    plan = plan_glioma(np.random.default_rng(2), 60.0)
    offsets = np.random.default_rng(0).standard_normal((200, 3)).astype(np.float32)
    near = plan.centre + offsets / np.linalg.norm(offsets, axis=1, keepdims=True) * np.float32(plan.radius_mm)
    before = displaced(plan, near)
    assert (np.linalg.norm(before - plan.centre, axis=1) < plan.radius_mm - 0.5 * plan.push_mm).all()
    np.testing.assert_allclose(displaced(plan, near + 200), near + 200, atol=0.05)


def test_some_heads_have_bright_spots_in_flair_that_are_no_tumour(scans: list[Scan]) -> None:
    outside = [int(((flair_z(scan) > 2) & (scan.label == 0)).sum()) for scan in scans]
    assert sum(count > 60 for count in outside) >= 2  # 3 ml
    assert sum(count < 60 for count in outside) >= 4


def test_the_trivial_rule_is_neither_useless_nor_enough(scans: list[Scan], shifted: list[Scan]) -> None:
    main, shift = np.mean(flair_rule(scans)), np.mean(flair_rule(shifted))
    assert 0.45 <= main <= 0.75
    assert 0.35 <= shift <= 0.65
    assert shift < main


def test_the_shifted_style_is_another_scanner() -> None:
    first, other = simulate_scan(0, 0, 32), simulate_scan(0, 0, 32, "shift")
    assert not np.array_equal(first.label, other.label)
    assert not np.array_equal(first.images, simulate_scan(0, 1, 32).images)
    np.testing.assert_array_equal(first.images, simulate_scan(0, 0, 32).images)
