from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import numpy as np
import pytest

from common.data.simulate.bonbid import simulate_bonbid, simulate_scan
from common.data.simulate.cohort import ensure_cohort
from common.data.simulate.folder import publish_cohort
from common.errors import UserError

TINY = {"size": 24, "slices": (3, 5)}


def digests(root: Path) -> dict[str, str]:
    files = [p for p in sorted(root.rglob("*")) if p.is_file()]
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Root folder of a written cohort of six."""
    return simulate_bonbid(tmp_path_factory.mktemp("cohorts") / "six", 6, seed=3, **TINY)


def test_the_layout_is_that_of_the_public_archive(cohort: Path):
    assert cohort.name == "BONBID2023_Train"
    stems = [p.name.removesuffix("-ADC_ss.mha") for p in sorted((cohort / "1ADC_ss").iterdir())]
    assert len(stems) >= 6 and all(s.startswith("MGHNICU_") and s[8:11].isdigit() and s[11:] in ("-VISIT_01", "-VISIT_02") for s in stems)
    assert [p.name for p in sorted((cohort / "2Z_ADC").iterdir())] == [f"Zmap_{s}-ADC_smooth2mm_clipped10.mha" for s in stems]
    assert [p.name for p in sorted((cohort / "3LABEL").iterdir())] == [f"{s}_lesion.mha" for s in stems]


def test_files_hold_types_units_and_oblique_grids_that_vary(cohort: Path):
    import itk

    geometries = set()
    for adc_path in sorted((cohort / "1ADC_ss").iterdir()):
        stem = adc_path.name.removesuffix("-ADC_ss.mha")
        paths = [adc_path, cohort / "2Z_ADC" / f"Zmap_{stem}-ADC_smooth2mm_clipped10.mha", cohort / "3LABEL" / f"{stem}_lesion.mha"]
        adc, zadc, label = (itk.imread(str(p)) for p in paths)
        values = [itk.array_view_from_image(i) for i in (adc, zadc, label)]
        assert [v.dtype for v in values] == [np.float32, np.float32, np.uint8]
        assert values[0].min() == 0 and 800 < values[0][values[0] > 0].mean() < 2200
        assert np.abs(values[1]).max() <= 10 and not values[1][values[0] == 0].any()
        assert set(np.unique(values[2])) <= {0, 1} and not values[2][values[0] == 0].any()
        for image in (zadc, label):
            assert list(image.GetSpacing()) == list(adc.GetSpacing()) and list(image.GetOrigin()) == list(adc.GetOrigin())
        geometries.add((*adc.GetSpacing(), *adc.GetOrigin(), *itk.array_from_matrix(adc.GetDirection()).ravel()))
    assert len(geometries) >= 6


def test_the_written_image_is_the_simulated_scan(cohort: Path):
    import itk

    scan = simulate_scan(0, 3, 24, (3, 5), "main")
    image = itk.imread(str(sorted((cohort / "1ADC_ss").iterdir())[0]))
    np.testing.assert_array_equal(itk.array_from_image(image).transpose(2, 1, 0), scan.adc)
    np.testing.assert_allclose(itk.array_from_matrix(image.GetDirection()), scan.grid.direction, atol=1e-6)
    index = (5, 7, 2)
    np.testing.assert_allclose(list(image.TransformIndexToPhysicalPoint(index)), scan.grid.points()[index], atol=1e-3)


def test_fewer_subjects_are_the_first_ones_of_more_bit_for_bit(cohort: Path, tmp_path: Path):
    few, many = digests(simulate_bonbid(tmp_path / "two", 2, seed=3, **TINY)), digests(cohort)
    assert few and few.items() <= many.items()


def test_another_seed_gives_other_images():
    assert not np.array_equal(simulate_scan(0, 3, 24, (4, 4), "main").adc, simulate_scan(0, 4, 24, (4, 4), "main").adc)


def test_large_grids_and_many_slices_work():
    scan = simulate_scan(0, 0, 128, (30, 30), "main")
    assert scan.adc.shape == (128, 128, 30) and scan.label.any()
    assert 0.15 < (scan.adc > 0).mean() < 0.5


def test_a_complete_cohort_is_reused(cohort: Path):
    before = {p: p.stat().st_mtime_ns for p in cohort.parent.rglob("*")}
    assert simulate_bonbid(cohort.parent, 6, seed=3, **TINY) == cohort
    assert {p: p.stat().st_mtime_ns for p in cohort.parent.rglob("*")} == before


def test_other_parameters_in_the_same_folder_are_refused_by_name(cohort: Path):
    with pytest.raises(UserError, match="subjects: there 6, asked for 7"):
        simulate_bonbid(cohort.parent, 7, seed=3, **TINY)


def test_the_notice_says_that_these_are_not_patients(cohort: Path):
    text = (cohort.parent / "SIMULATED.txt").read_text()
    assert "NOT PATIENTS" in text and "no clinical claim" in text and "seed: 3" in text and "style: main" in text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"style": "other"}, "style: got 'other', expected one of main, shift"),
        ({"subjects": 0}, "subjects: got 0, expected a whole number from 1 to 499"),
        ({"size": 8}, "size: got 8"),
        ({"seed": -1}, "seed: got -1"),
        ({"slices": (9, 3)}, "slices: got"),
    ],
)
def test_arguments_out_of_range_are_named(wrong, message, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        simulate_bonbid(tmp_path / "x", **{**TINY, **wrong})


def fake_subject(folder: Path, index: int) -> list[str]:
    (folder / f"{index}.txt").write_text(str(index))
    return [f"{index}.txt"]


def test_a_half_made_cohort_is_remade(tmp_path: Path):
    out = publish_cohort(tmp_path / "c", {"a": 1}, 3, fake_subject, "test")
    (out / "1.txt").unlink()
    publish_cohort(out, {"a": 1}, 3, fake_subject, "test")
    assert (out / "1.txt").read_text() == "1"


def test_a_run_that_dies_leaves_nothing_under_the_cohorts_name(tmp_path: Path):
    def dies(folder: Path, index: int) -> list[str]:
        if index == 1:
            raise KeyboardInterrupt
        return fake_subject(folder, index)

    with pytest.raises(KeyboardInterrupt):
        publish_cohort(tmp_path / "c", {}, 3, dies, "test")
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_a_killed_run_do_not_disturb_and_old_ones_are_swept(tmp_path: Path):
    import os

    old, fresh = tmp_path / ".c.partial-old", tmp_path / ".c.partial-fresh"
    old.mkdir(), fresh.mkdir()
    os.utime(old, (0, 0))
    publish_cohort(tmp_path / "c", {}, 1, fake_subject, "test")
    assert not old.exists() and fresh.exists()


def test_a_users_folder_is_never_overwritten(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match="not empty and holds no simulated cohort"):
        publish_cohort(tmp_path, {}, 1, fake_subject, "test")
    assert (tmp_path / "mine.txt").read_text() == "precious"


def test_a_foreign_file_in_a_half_made_cohort_is_named_and_kept(tmp_path: Path):
    out = publish_cohort(tmp_path / "c", {}, 2, fake_subject, "test")
    (out / "0.txt").unlink()
    (out / "mine.txt").write_text("precious")
    with pytest.raises(UserError, match=r"mine\.txt"):
        publish_cohort(out, {}, 2, fake_subject, "test")
    assert (out / "mine.txt").exists()


def test_an_empty_folder_is_filled(tmp_path: Path):
    assert (publish_cohort(tmp_path, {}, 1, fake_subject, "test") / "0.txt").is_file()
    assert json.loads((tmp_path / "simulated.json").read_text())["files"] == ["0.txt", "SIMULATED.txt"]


def test_ensure_cohort_makes_once_and_warns_each_time(tmp_path: Path, monkeypatch, caplog):
    monkeypatch.delenv("BRAIN_BUNDLES_DATA", raising=False)
    with caplog.at_level(logging.WARNING):
        paths = [ensure_cohort("bonbid", tmp_path, subjects=1, **TINY) for _ in range(2)]
    assert paths[0] == paths[1] and paths[0].parent.parent == tmp_path and paths[0].parent.name.startswith("bonbid_")
    assert [r.getMessage().startswith("SIMULATED DATA: these are not patients") for r in caplog.records] == [True, True]
    assert str(paths[0]) in caplog.text


def test_other_parameters_go_to_another_folder_and_the_environment_wins(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("BRAIN_BUNDLES_DATA", str(tmp_path / "env"))
    a = ensure_cohort("bonbid", tmp_path / "root", subjects=1, **TINY)
    b = ensure_cohort("bonbid", tmp_path / "root", subjects=1, seed=1, **TINY)
    assert a != b and a.parent.parent == b.parent.parent == tmp_path / "env"


@pytest.mark.parametrize(
    ("layout", "root", "parameters", "message"),
    [
        ("bonbit", "x", {}, "Known layouts: bonbid"),
        ("bonbid", "x", {"subject": 3}, "unknown parameter subject. Known: subjects, seed, size, slices, style"),
        ("bonbid", None, {}, "set the environment variable BRAIN_BUNDLES_DATA"),
    ],
)
def test_mistakes_in_ensure_cohort_are_named(layout, root, parameters, message, monkeypatch):
    monkeypatch.delenv("BRAIN_BUNDLES_DATA", raising=False)
    with pytest.raises(UserError, match=message):
        ensure_cohort(layout, root, **parameters)
