from __future__ import annotations

import hashlib
import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from scipy.ndimage import binary_erosion, map_coordinates

from common.data.simulate.cohort import ensure_cohort
from common.data.simulate.contrasts import MODALITIES, Subject, simulate_contrasts, simulate_subject
from common.errors import UserError


def digests(root: Path) -> dict[str, str]:
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(root.rglob("*")) if p.is_file()}


def lists(root: Path) -> dict[str, dict]:
    return {path.stem: json.loads(path.read_text()) for path in root.glob("*.json")}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return simulate_contrasts(tmp_path_factory.mktemp("contrasts") / "three", 3, seed=3, spacing_mm=8)


@pytest.fixture(scope="module")
def people() -> list[Subject]:
    return [simulate_subject(k, 0, 4.0) for k in range(6)]


def ct_on_mr(one: Subject) -> np.ndarray:
    """The CT at the positions of the MR's voxels, by the grids alone."""
    index = (one.mr_grid.points() - one.ct_grid.origin_mm) / np.asarray(one.ct_grid.spacing_mm)
    return map_coordinates(one.ct.astype(np.float32), np.moveaxis(index, -1, 0), order=1, mode="nearest")


def fluid_and_white(one: Subject) -> tuple[np.ndarray, np.ndarray]:
    """Clear fluid and clear white matter without tumour, deep in the brain, judged by T2 and FLAIR."""
    t2, flair = (one.mr[k].astype(np.float64) for k in (2, 3))
    brain = binary_erosion(t2 > 0, iterations=4) & (one.label == 0)
    bright = t2 > np.percentile(t2[brain], 97)
    return brain & bright & (flair < np.median(flair[brain])), brain & (t2 < np.percentile(t2[brain], 25))


# ------------------------------------------------------------------------------------------------------------------ on disk


def test_there_is_one_list_per_modality_and_each_entry_names_its_own(cohort: Path) -> None:
    found = lists(cohort)
    assert set(found) == set(MODALITIES) == {"ct", "t1", "t1ce", "t2", "flair"}
    for modality, content in found.items():
        entries = content["training"] + content["validation"]
        assert {entry["modality"] for entry in entries} == {modality}
        assert [entry["subject"] for entry in entries] == ["sub-0001", "sub-0003", "sub-0002"]
        assert all(entry["image"] == f"{entry['subject']}/{entry['subject']}_{modality}.nii.gz" for entry in entries)
        assert all((cohort / entry["image"]).is_file() for entry in entries)


def test_a_subject_is_in_the_same_part_of_all_lists(cohort: Path) -> None:
    parts = [({e["subject"] for e in c["training"]}, {e["subject"] for e in c["validation"]}) for c in lists(cohort).values()]
    assert parts == [({"sub-0001", "sub-0003"}, {"sub-0002"})] * 5


def test_files_hold_the_images_on_their_grids(cohort: Path) -> None:
    one = simulate_subject(1, 3, 8.0)
    volumes = [one.ct, *one.mr, one.label]
    for kind, values in zip((*MODALITIES, "seg"), volumes, strict=True):
        image = nibabel.load(cohort / "sub-0002" / f"sub-0002_{kind}.nii.gz")
        np.testing.assert_array_equal(np.asarray(image.dataobj), values)
        grid = one.ct_grid if kind == "ct" else one.mr_grid
        last = np.array(values.shape) - 1
        expected = grid.points()[tuple(last)] * (-1, -1, 1)  # left, back, up (ITK) to right, front, up (NIfTI)
        np.testing.assert_allclose((image.affine @ [*last, 1])[:3], expected, atol=1e-3)


def test_fewer_subjects_are_the_first_ones_of_more_bit_for_bit(cohort: Path, tmp_path: Path) -> None:
    few, many = digests(simulate_contrasts(tmp_path / "two", 2, seed=3, spacing_mm=8)), digests(cohort)
    images = {name: digest for name, digest in few.items() if name.endswith(".nii.gz")}
    assert len(images) == 2 * 6 and images.items() <= many.items()


def test_the_set_is_announced_and_reused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BRAIN_BUNDLES_DATA", raising=False)
    places = [ensure_cohort("contrasts", tmp_path, subjects=2, spacing_mm=8.0) for _ in range(2)]
    assert places[0] == places[1] and set(lists(places[0])) == set(MODALITIES)
    assert "NOT PATIENTS" in (places[0].parent / "SIMULATED.txt").read_text()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"style": "other"}, "style: got 'other', expected one of main, shift"),
        ({"subjects": 1}, "subjects: got 1, expected a whole number from 2 to 9999"),
        ({"spacing_mm": 0.5}, "spacing_mm: got 0.5, expected a number from 1 to 8"),
        ({"seed": -1}, "seed: got -1"),
    ],
)
def test_arguments_out_of_range_are_named(wrong: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        simulate_contrasts(tmp_path / "x", **wrong)  # type: ignore[arg-type]


# --------------------------------------------------------------------------------------------------------------- the images


def test_grids_have_the_sizes_of_brats_and_thickness_varies_in_ct() -> None:
    one = simulate_subject(0, 0, 8.0)
    assert one.mr.shape == (4, 30, 30, 19) and one.ct.shape[:2] == (30, 30)
    thickness = [simulate_subject(k, 0, 8.0).ct_grid.spacing_mm[2] for k in range(4)]
    assert len(set(thickness)) == 4 and min(thickness) >= 8 and max(thickness) <= 20


def test_ct_is_in_hounsfield_units_with_skull_and_mr_without(people: list[Subject]) -> None:
    for one in people:
        assert one.ct.min() >= -1024 and np.median(one.ct[0]) < -950
        assert 0.02 < (one.ct > 300).mean() < 0.2, "skull"
        brain = one.mr > 0
        assert (brain == brain[0]).all() and 1000 < brain[0].sum() * 4.0**3 / 1000 < 2000
        inside = ct_on_mr(one)[brain[0] & (one.label == 0)]
        assert 20 < np.median(inside) < 45, "the brain of the MR lies on the brain of the CT"


def test_all_five_images_show_the_same_anatomy(people: list[Subject]) -> None:
    for one in people:
        fluid, white = fluid_and_white(one)
        ct, (t1, t1ce, t2, flair) = ct_on_mr(one), one.mr.astype(np.float64)
        assert ct[fluid].mean() < ct[white].mean() - 4, "fluid in CT is where fluid in MR is"
        assert np.median(t1[fluid]) < 0.8 * np.median(t1[white]) and np.median(flair[fluid]) < np.median(flair[white])
        assert np.median(t2[fluid]) > 1.5 * np.median(t2[white]) and np.corrcoef(t1[t1 > 0], t1ce[t1 > 0])[0, 1] > 0.5


def test_some_have_a_tumour_and_the_label_says_which(people: list[Subject]) -> None:
    sick = [one for one in people if one.tumour_ml]
    assert 1 <= len(sick) <= 4
    for one in people:
        assert one.tumour_ml == pytest.approx((one.label > 0).sum() * 4.0**3 / 1000)
        assert set(np.unique(one.label)) <= {0, 1, 2, 4} and not one.label[one.mr[0] == 0].any()
    for one in sick:
        assert 1.5 < one.tumour_ml < 62
        flair, rest = one.mr[3], (one.mr[3] > 0) & (one.label == 0)
        assert np.median(flair[one.label == 2]) > 1.15 * np.median(flair[rest]), "oedema is bright in FLAIR"


def test_the_same_person_is_the_same_and_others_are_others() -> None:
    first, again, seed, style = (simulate_subject(0, *rest) for rest in ((0, 8.0), (0, 8.0), (1, 8.0), (0, 8.0, "shift")))
    np.testing.assert_array_equal(first.mr, again.mr)
    np.testing.assert_array_equal(first.ct, again.ct)
    assert not np.array_equal(first.mr, seed.mr) and not np.array_equal(first.mr, style.mr)
