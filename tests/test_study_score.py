import csv
import subprocess
import sys

import nibabel
import numpy as np
import pytest

from common import study
from common.errors import UserError
from common.pairing import pair_by_id, read_volume, truth_cases

AFFINE = np.diag([1.0, 1.0, 3.0, 1.0])
SHAPE = (16, 14, 6)
IDS = ("P1", "P10", "P2-VISIT_01")


def save(path, array, affine=AFFINE):
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(array.astype(np.uint8), affine).to_filename(path)


def lesion(shift=0, size=4):
    mask = np.zeros(SHAPE, dtype=np.uint8)
    mask[4 + shift : 4 + shift + size, 4:8, 2:4] = 1
    return mask


@pytest.fixture
def folders(tmp_path):
    """Truth with brains, an exact method, and a shifted one that is named otherwise."""
    brain = np.zeros(SHAPE, dtype=np.uint8)
    brain[1:15, 1:13] = 1
    for case_id in IDS:
        save(tmp_path / "truth" / f"{case_id}_lesion.nii.gz", lesion())
        save(tmp_path / "brain" / f"{case_id}_adc.nii.gz", brain)
        save(tmp_path / "exact" / f"{case_id}.nii.gz", lesion())
        save(tmp_path / "shifted" / case_id / f"net_{case_id}_seg.nii.gz", lesion(shift=2))
    return tmp_path


def table(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run(folders, *extra, **changes):
    options = {"predictions": "exact", "truth": "truth", "output": "scores"} | changes
    study.main(["score", *(f"--{key}={folders / value}" for key, value in options.items()), *extra])


def test_a_perfect_method_scores_perfectly(folders, capsys):
    run(folders, f"--brain={folders / 'brain'}")
    rows = table(folders / "scores" / "metrics.csv")
    assert [row["id"] for row in rows] == ["P1", "P10", "P2-VISIT_01"]
    assert {row["dice"] for row in rows} == {"1.0"} and {row["masd_mm"] for row in rows} == {"0.0"}
    assert {row["stratum"] for row in rows} == {"1-5 %"}  # 32 / (14 * 12 * 6) = 3.2 %
    summary = table(folders / "scores" / "summary.csv")
    assert [row["method"] for row in summary] == ["exact"] and float(summary[0]["dice_load_1_to_5_mean"]) == 1.0
    printed = capsys.readouterr().out
    assert "exact" in printed and "100.00" in printed and str(folders / "scores" / "metrics.csv") in printed
    assert not (folders / "scores" / "comparisons.csv").exists()


def test_a_foreign_method_becomes_a_row_with_its_rank_and_its_tests(folders, capsys):
    run(folders, "--name=ours", f"--compare=theirs={folders / 'shifted'}")
    summary = {row["method"]: row for row in table(folders / "scores" / "summary.csv")}
    # Moved by 2 of 4 voxels: Dice 2*2/(4+4) = 0.5.
    assert float(summary["theirs"]["dice_mean"]) == pytest.approx(0.5) and summary["theirs"]["cases"] == "3"
    assert float(summary["ours"]["mean_rank"]) < float(summary["theirs"]["mean_rank"])
    tests = table(folders / "scores" / "comparisons.csv")
    assert (tests[0]["method"], tests[0]["reference"], tests[0]["metric"]) == ("theirs", "ours", "dice")
    assert float(tests[0]["mean_difference"]) == pytest.approx(-0.5)
    # Three cases, all worse: 2 of the 2^3 sign patterns, p = 0.25; three tests (Dice, MASD, NSD) in the family.
    assert float(tests[0]["p"]) == pytest.approx(0.25) and float(tests[0]["p_holm"]) == pytest.approx(0.75)
    assert "theirs - ours: dice -0.5000" in capsys.readouterr().out


def test_labels_of_several_numbers_are_refused_or_count_as_one_structure(folders, capsys):
    for case_id, numbers in zip(IDS, ((1, 2), (2, 4), (1, 3)), strict=True):
        truth = lesion() * numbers[0]
        truth[4:6] //= numbers[0]
        truth[4:6] *= numbers[1]
        save(folders / "truth" / f"{case_id}_lesion.nii.gz", truth)
    with pytest.raises(SystemExit):
        run(folders)
    assert "expected only 0 and 1" in capsys.readouterr().err
    run(folders, "--union=true")
    assert {row["dice"] for row in table(folders / "scores" / "metrics.csv")} == {"1.0"}


def test_missing_predictions_are_named_and_counted_and_nothing_is_written(folders, capsys):
    (folders / "exact" / "P1.nii.gz").unlink()
    with pytest.raises(SystemExit) as stop:
        run(folders)
    assert stop.value.code == 1
    message = capsys.readouterr().err
    assert "1 of 3 cases have no file in it: P1." in message and str(folders / "exact") in message
    assert not (folders / "scores").exists()


def test_another_grid_is_refused_with_both_files_named(folders):
    moved = AFFINE.copy()
    moved[0, 3] = 5
    save(folders / "exact" / "P10.nii.gz", lesion(), moved)
    with pytest.raises(UserError, match=r"exact/P10.nii.gz is not on the grid of .*truth/P10_lesion.nii.gz: .*origin .*Resample"):
        study.score(str(folders / "exact"), str(folders / "truth"), str(folders / "scores"))
    assert not (folders / "scores").exists()


def test_a_probability_in_place_of_a_mask_is_refused_with_its_file_named(folders):
    nibabel.Nifti1Image(lesion() * np.float32(0.4), AFFINE).to_filename(folders / "exact" / "P10.nii.gz")
    with pytest.raises(UserError, match=r"P10.nii.gz against .*: prediction: found the values 0, 0.4, expected only 0 and 1"):
        study.score(str(folders / "exact"), str(folders / "truth"), str(folders / "scores"))


def test_two_files_of_one_case_are_named_and_a_pattern_chooses(folders):
    for case_id in IDS:
        save(folders / "exact" / f"{case_id}_share.nii.gz", lesion())
    with pytest.raises(UserError, match=r"case P1 has 2 files: P1.nii.gz, P1_share.nii.gz. Narrow them by --pattern"):
        run_score(folders)
    run_score(folders, pattern="*_share.nii.gz")
    assert len(table(folders / "scores" / "metrics.csv")) == 3


def run_score(folders, **options):
    study.score(str(folders / "exact"), str(folders / "truth"), str(folders / "scores"), **options)


def test_methods_of_one_name_are_refused(folders):
    with pytest.raises(UserError, match="two methods are called exact"):
        run_score(folders, compare=str(folders / "exact"))


@pytest.mark.parametrize("compare", ["a=x/one,two", ("a=x/one", "two"), ["a=x/one", "two"]])
def test_compared_folders_are_read_as_fire_hands_them_over(compare):
    assert study._methods("ours/run", None, compare) == {"run": "ours/run", "a": "x/one", "two": "two"}


def test_an_id_is_matched_as_whole_words_and_the_longest_one_wins(tmp_path):
    for name in ("P1", "P1-B", "P10"):
        save(tmp_path / f"x_{name}_y.nii", lesion())
    cases = [{"id": name, "subject": name} for name in ("P1", "P10", "P1-B")]
    assert {name: file.name for name, file in pair_by_id(cases, tmp_path).items()} == {
        "P1": "x_P1_y.nii",
        "P10": "x_P10_y.nii",
        "P1-B": "x_P1-B_y.nii",
    }


def test_a_file_named_after_the_subject_serves_its_only_case(tmp_path):
    save(tmp_path / "S_1.nii", lesion())
    assert pair_by_id([{"id": "S_1-VISIT_01", "subject": "S_1"}], tmp_path)["S_1-VISIT_01"].name == "S_1.nii"
    visits = [{"id": f"S_1-VISIT_0{visit}", "subject": "S_1"} for visit in (1, 2)]
    with pytest.raises(UserError, match="2 of 2 cases have no file in it"):
        pair_by_id(visits, tmp_path)


def test_a_truth_in_a_dataset_layout_brings_its_cases_and_their_brain(tmp_path):
    itk = pytest.importorskip("itk")
    name = "MGHNICU_007-VISIT_01"
    adc = np.full(SHAPE[::-1], 1200.0, dtype=np.float32)
    adc[:, :, :8] = 0
    files = {
        f"1ADC_ss/{name}-ADC_ss.mha": adc,
        f"2Z_ADC/Zmap_{name}-ADC_smooth2mm_clipped10.mha": adc * 0,
        f"3LABEL/{name}_lesion.mha": lesion().T.copy(),
    }
    for file, array in files.items():
        (tmp_path / "data" / file).parent.mkdir(parents=True)
        image = itk.image_view_from_array(array)
        image.SetSpacing([1.0, 1.0, 3.0])
        itk.imwrite(image, str(tmp_path / "data" / file))
    itk_affine = np.diag([-1.0, -1.0, 3.0, 1.0])  # the same grid in NIfTI's RAS axes
    save(tmp_path / "pred" / f"{name}.nii.gz", lesion(), itk_affine)
    study.score(str(tmp_path / "pred"), str(tmp_path / "data"), str(tmp_path / "scores"), dataset="bonbid")
    (row,) = table(tmp_path / "scores" / "metrics.csv")
    assert row["id"] == name and float(row["dice"]) == 1.0
    assert float(row["lesion_load"]) == pytest.approx(32 / (8 * 14 * 6))


def test_a_truth_without_labels_and_doubled_labels_are_refused(folders, monkeypatch):
    save(folders / "truth" / "P1_seg.nii.gz", lesion())
    with pytest.raises(UserError, match="are both labels of case P1"):
        truth_cases(folders / "truth")
    monkeypatch.setattr("common.data.dataset.find_cases", lambda *_: [{"id": "a", "subject": "a", "image": "x"}])
    with pytest.raises(UserError, match="no case in it has a label"):
        truth_cases(folders / "truth", "bonbid")


def test_an_unreadable_or_absent_volume_is_named(tmp_path):
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(b"not a volume")
    with pytest.raises(UserError, match=r"broken.nii.gz: cannot be read .*truncated"):
        read_volume(broken)
    save(broken, np.random.default_rng(0).integers(0, 2, (40, 40, 20)))
    broken.write_bytes(broken.read_bytes()[:1000])  # ITK would read it without complaint
    with pytest.raises(UserError, match=r"broken.nii.gz: cannot be read .*truncated"):
        read_volume(broken)
    with pytest.raises(UserError, match=r"gone.nii: no such file"):
        read_volume(tmp_path / "gone.nii")
    with pytest.raises(UserError, match="is not a folder"):
        pair_by_id([], tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="found no volume"):
        pair_by_id([], tmp_path / "empty")


def test_study_imports_nothing_heavy():
    code = "import sys, common.study; print([m for m in ('torch', 'monai', 'scipy', 'pandas', 'numpy') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"
