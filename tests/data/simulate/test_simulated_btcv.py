from __future__ import annotations

import hashlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import binary_dilation, label

from common.data.btcv import ORGANS
from common.data.simulate.abdomen import PARTS, BentCanvas, paint_abdomen
from common.data.simulate.btcv import NUMBERS, Scan, simulate_btcv, simulate_scan
from common.data.simulate.cohort import ensure_cohort
from common.errors import UserError

COARSE = {"spacing_mm": 6.0, "slice_mm": 10.0}


def digests(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def scans() -> list[Scan]:
    return [simulate_scan(k, 0, 3.0, 5.0) for k in range(2)]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_btcv(tmp_path_factory.mktemp("btcv") / "two", 2, seed=3, **COARSE)


# ------------------------------------------------------------------------------------------------------------------ on disk


def test_the_layout_is_that_of_btcv_and_the_reader_takes_it(cohort: Path) -> None:
    from common.data.btcv import read_btcv

    assert sorted(p.relative_to(cohort).as_posix() for p in cohort.rglob("*.nii.gz")) == [
        *("Training/img/img0001.nii.gz", "Training/img/img0021.nii.gz"),
        *("Training/label/label0001.nii.gz", "Training/label/label0021.nii.gz"),
    ]
    assert len(read_btcv(cohort, labelled=True)) == 2


def test_numbers_are_those_of_the_thirty_cases() -> None:
    assert sorted(NUMBERS) == [*range(1, 11), *range(21, 41)] and NUMBERS[:4] == (1, 21, 2, 22)


def test_files_hold_the_scan_with_unequal_spacing_and_axes_to_the_left_front_and_top(cohort: Path) -> None:
    scan = simulate_scan(1, 3, **COARSE)
    for kind, values in (("img", scan.image), ("label", scan.label)):
        image = nibabel.load(cohort / "Training" / kind / f"{kind}0021.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj), values)
        assert nibabel.aff2axcodes(image.affine) == ("L", "A", "S")
        np.testing.assert_allclose(image.header.get_zooms(), (6, 6, 10))


def test_fewer_cases_are_the_first_ones_of_more_bit_for_bit(cohort: Path, tmp_path: Path) -> None:
    few = digests(simulate_btcv(tmp_path / "one", 1, seed=3, **COARSE))
    assert len(few) == 2 and few.items() <= digests(cohort).items()


def test_the_cohort_is_announced_and_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BRAIN_BUNDLES_DATA", raising=False)
    places = [ensure_cohort("btcv", tmp_path, subjects=1, **COARSE) for _ in range(2)]
    assert places[0] == places[1]
    assert "NOT PATIENTS" in (places[0].parent / "SIMULATED.txt").read_text()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"subjects": 31}, "subjects: got 31, expected a whole number from 1 to 30"),
        ({"spacing_mm": 0.5}, "spacing_mm: got 0.5, expected a number from 0.75 to 8"),
        ({"slice_mm": 12}, "slice_mm: got 12, expected a number from 1 to 10"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_arguments_out_of_range_are_named(wrong: dict[str, float], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        simulate_btcv(tmp_path / "x", **wrong)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------------- the organs


def test_all_thirteen_organs_are_there_with_sizes_of_an_adult(scans: list[Scan]) -> None:
    assert {part.organ for part in PARTS} - {""} == set(ORGANS) and len(ORGANS) == 13
    ranges = {"liver": (900, 2200), "spleen": (80, 320), "right kidney": (80, 260), "left kidney": (80, 260), "aorta": (40, 180)}
    for scan in scans:
        sizes = {name: (scan.label == number).sum() * np.prod(scan.spacing_mm) / 1000 for name, number in ORGANS.items()}
        assert min(sizes.values()) > 0.2, sizes
        for name, (low, high) in ranges.items():
            assert low < sizes[name] < high, name


def test_organs_lie_where_they_belong(scans: list[Scan]) -> None:
    for scan in scans:
        world = {name: (scan.affine @ np.append(np.argwhere(scan.label == number).mean(axis=0), 1))[:3] for name, number in ORGANS.items()}
        assert world["liver"][0] > 30 and world["spleen"][0] < -60, "x grows to the patient's right"
        for organ in ("kidney", "adrenal gland"):
            assert world[f"right {organ}"][0] > 20 and world[f"left {organ}"][0] < -20
        for kind in ("right", "left"):
            assert world[f"{kind} adrenal gland"][2] > world[f"{kind} kidney"][2], "above the kidney"
        assert world["inferior vena cava"][0] > world["aorta"][0] and world["gallbladder"][1] > world["right kidney"][1]


def test_organs_have_the_values_of_the_portal_venous_phase(scans: list[Scan]) -> None:
    for scan in scans:
        median = {name: float(np.median(scan.image[scan.label == number])) for name, number in ORGANS.items()}
        assert 80 < median["liver"] < 130 and 90 < median["spleen"] < 140 and -10 < median["gallbladder"] < 40
        assert 125 < median["aorta"] < 190 and 100 < median["right kidney"] < 210 and 65 < median["pancreas"] < 115
        assert np.median(scan.image[0]) < -950, "air around the body"
        assert ((scan.image > 300) & (scan.label == 0)).mean() > 0.002, "bone"


def test_a_threshold_does_not_find_the_liver(scans: list[Scan]) -> None:
    for scan in scans:
        truth = scan.label == ORGANS["liver"]
        low, high = np.percentile(scan.image[truth], (3, 97))
        found = (scan.image >= low) & (scan.image <= high)
        assert 2 * (found & truth).sum() / (found.sum() + truth.sum()) < 0.85


def test_each_organ_is_one_piece_or_few(scans: list[Scan]) -> None:
    for scan in scans:
        for name in ("liver", "spleen", "right kidney", "left kidney", "aorta", "gallbladder"):
            pieces, count = label(binary_dilation(scan.label == ORGANS[name]))
            sizes = np.bincount(pieces.ravel())[1:]
            assert count and sizes.max() > 0.9 * sizes.sum(), name


def test_pieces_of_a_canvas_give_the_distances_of_the_whole() -> None:
    canvas = BentCanvas.draw(np.random.default_rng(0), (40, 34, 20), (9.0, 9.0, 12.0))
    strokes = (((20.0, 5.0, 30.0), (40.0, 30.0, 20.0)), ((-60.0, 0.0, -20.0), (10.0, 20.0, 0.0), (15.0,)))
    where, piece = canvas.piece(strokes)  # type: ignore[misc]
    whole = canvas.nearest(strokes)
    np.testing.assert_array_equal(piece.nearest(strokes), whole[where])
    outside = np.ones(whole.shape, bool)
    outside[where] = False
    assert outside.any() and whole[outside].min() > 0, "nothing of the strokes lies beyond the piece"
    assert canvas.piece((((0.0, 0.0, 900.0), (5.0, 5.0, 5.0)),)) is None


def test_painting_repeats_and_follows_the_fat() -> None:
    def paint(fat_mm: float) -> tuple[np.ndarray, np.ndarray]:
        return paint_abdomen(np.random.default_rng(1), (66, 66, 16), (6.0, 6.0, 16.0), fat_mm)

    (one, first), (again, second), (fat, _) = paint(8.0), paint(8.0), paint(30.0)
    np.testing.assert_array_equal(one, again)
    np.testing.assert_array_equal(first, second)
    assert (fat > -500).sum() > 1.15 * (one > -500).sum()


def test_the_same_case_is_the_same_and_another_one_another() -> None:
    first, again, other, seed = (simulate_scan(*ids, **COARSE) for ids in ((0, 0), (0, 0), (1, 0), (0, 1)))
    np.testing.assert_array_equal(first.image, again.image)
    np.testing.assert_array_equal(first.label, again.label)
    assert not np.array_equal(first.image, seed.image) and first.image.shape != other.image.shape
