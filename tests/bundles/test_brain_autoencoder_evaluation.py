"""The brain autoencoder's evaluations and inference, on weights that one subprocess trained at smoke size."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import itk
import nibabel
import numpy as np
import pytest
from monai.bundle import ConfigParser

from common import predict
from common.data.ixi import read_ixi
from common.metrics.slice_similarity import METRICS
from common.reconstruction_paper import PAPER
from common.reconstruction_runs import setting_of
from common.study_runs import plan_row, read_study
from common.transforms.t1_brain import extract_t1_brain
from tests.bundles.in_process import configs_of, evaluate_bundle, messages, read_csv, run, train_bundle, workflow_of

CONFIGS = configs_of("brain_autoencoder")
KINDS = ("none", "dropout", "noise", "square", "blur")
make_workflow = partial(workflow_of, "brain_autoencoder")
evaluate = partial(evaluate_bundle, "brain_autoencoder")


def merged(*names: str) -> dict[str, Any]:
    """Config files as MONAI merges them, unparsed."""
    return ConfigParser(ConfigParser.load_config_files([str(CONFIGS / name) for name in names])).get()


def evaluate_anomaly(trained: Any, output: Path, *overlays: str, **overrides: Any) -> Path:
    paths = trained.paths | {"output_dir": str(output)}
    run(make_workflow("train.json", "smoke.json", "evaluate_anomaly.json", *overlays, **paths | overrides))
    return output


def infer(trained: Any, dataset_dir: Path, output: Path, **overrides: Any) -> None:
    paths = trained.paths | {"dataset_dir": str(dataset_dir), "output_dir": str(output)}
    run(make_workflow("inference.json", kind="infer", **paths | overrides))


def labelled(trained: Any) -> set[str]:
    return {case["id"] for case in read_ixi(trained.dataset_dir) if "label" in case}


# --- before anything is measured --------------------------------------------------------------------------------


def test_no_property_of_inference_that_other_tools_look_for_is_missing(trained_bae: Any, tmp_path: Path) -> None:
    workflow = make_workflow("inference.json", kind="infer", **trained_bae.paths | {"output_dir": str(tmp_path)})
    workflow.initialize()
    assert workflow.check_properties() == []


def test_inference_prepares_volumes_exactly_as_the_evaluation_of_maps_does() -> None:
    def steps(transforms: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Without lesions, which inference has none of, and words; a copy of the volume and the choice of keys change no voxel."""
        kept = [step for step in transforms if step["_target_"] not in ("CopyItemsd", "SelectItemsd")]
        bare = [{key: value for key, value in step.items() if key not in ("_desc_", "allow_missing_keys")} for step in kept]
        for step in bare:
            step["keys"] = [key for key in (step["keys"] if isinstance(step["keys"], list) else [step["keys"]]) if key != "label"]
            step.pop("label_values", None), step.pop("label_map", None)
            step.get("selector", {}).pop("rule", None), step.get("selector", {}).pop("table", None)
        return bare

    anomaly = steps(merged("train.json", "evaluate_anomaly.json")["validate"]["volumes"]["transform"]["transforms"])
    inference = steps(merged("inference.json")["preprocessing"]["transforms"])
    # before the resize the evaluation makes masks of 0 and 1 of labels with several numbers
    first = next(index for index, step in enumerate(anomaly) if step["_target_"] == "AsDiscreted")
    assert anomaly[:first] + anomaly[first + 1 :] == inference


def test_volumes_are_prepared_in_evaluations_as_slices_are_for_training() -> None:
    found = "common.transforms.t1_brain.ExtractT1Braind"  # maps always need the brain, training for stripped heads alone
    training = [step for step in merged("train.json")["train"]["deterministic_transforms"] if step["_target_"] != found]
    measured = merged("train.json", "evaluate_anomaly.json")["validate"]["volumes"]["transform"]["transforms"]
    kept = [step for step in measured if step["_target_"] not in {"AsDiscreted", "SelectItemsd", found}]
    assert [step["_target_"] for step in kept] == [step["_target_"] for step in training]
    for key in ("axcodes", "lower", "upper", "spatial_size", "mode", "_disabled_"):
        assert [step.get(key) for step in kept] == [step.get(key) for step in training]


def test_the_study_has_the_published_rows_and_no_other() -> None:
    study = read_study(CONFIGS / "study_tables.json")
    settings = []
    for row in study.rows:
        config = ConfigParser.load_config_files(plan_row(study, row)[1].files)
        parser = ConfigParser(config)
        (measured,) = (step for step in config["run"] if isinstance(step, dict) and "facts" in step)
        facts = {key: parser.get_parsed_content(f"run::{config['run'].index(measured)}::facts::{key}") for key in measured["facts"]}
        settings.append(setting_of(facts, row.name))
    assert settings == list(PAPER), "in the order of the tables"


@pytest.mark.parametrize("variant", sorted(path.name for path in CONFIGS.glob("variant_*.json")))
def test_a_variant_behind_an_evaluation_does_not_change_what_is_measured(variant: str) -> None:
    for name in ("evaluate.json", "evaluate_anomaly.json"):
        before, behind = merged("train.json", variant, name), merged("train.json", name, variant)
        for key in ("measured", "volumes", "volume_loader", "inferer", "evaluator"):
            assert before["validate"][key] == behind["validate"][key]
        assert before["run"] == behind["run"]
    steps = merged("train.json", variant, "evaluate.json")["train"]["deterministic_transforms"]
    chosen = [step["selector"]["rule"] for step in steps if "selector" in step]
    assert chosen == ["@measured_slices"], "rows that chose other slices for training are measured on the same"


def test_maps_are_measured_alike_behind_the_other_evaluation() -> None:
    alone, stacked = merged("train.json", "evaluate_anomaly.json"), merged("train.json", "evaluate.json", "evaluate_anomaly.json")
    for key in ("measured", "volumes", "volume_loader", "prepare_batch", "inferer", "residual", "evaluator"):
        assert alone["validate"][key] == stacked["validate"][key]
    assert alone["run"] == stacked["run"] and stacked["evaluate_on"] == "test+abnormal"


# --- reconstruction ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(trained_bae: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate(trained_bae, tmp_path_factory.mktemp("evaluated"), evaluate_on="all")


def test_evaluation_writes_a_row_per_healthy_volume_rows_of_slices_and_a_summary(evaluated: Path, trained_bae: Any) -> None:
    rows, slices = read_csv(evaluated / "metrics.csv"), read_csv(evaluated / "slices.csv")
    healthy = {case["id"] for case in read_ixi(trained_bae.dataset_dir)} - labelled(trained_bae)
    assert {row["id"] for row in rows} == healthy and labelled(trained_bae)
    assert {f"{kind}_{metric}" for kind in KINDS for metric in METRICS} <= set(rows[0])
    assert {row["corruption"] for row in slices} == set(KINDS)
    assert len(slices) == len(KINDS) * sum(int(row["slices"]) for row in rows)
    for row in rows:
        assert float(row["none_input_mse"]) == 0, "clean input is the target itself"
        assert float(row["noise_input_mse"]) == pytest.approx(0.04**2, rel=0.4), "clipped at 0, where half of the air is"
    summary = json.loads((evaluated / "summary.json").read_text(encoding="utf-8"))
    assert summary["cases"] == len(rows) and summary["simulated"] is True
    facts = {"family": "residual_unet", "block": "preactivation", "loss": "mse", "l2": 0.0, "augmentation": "all", "spatial_dims": 2}
    assert facts.items() <= summary["facts"].items()


def test_the_report_says_simulated_in_its_title_and_who_was_trained_on(evaluated: Path, trained_bae: Any) -> None:
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    title = page[page.index("<title>") : page.index("</title>")]
    assert "SIMULATED" in title and "Brain autoencoder" in title
    split = json.loads((trained_bae.output_dir / "split.json").read_text(encoding="utf-8"))
    seen = len(split["train"]) + len(split["validate"])
    assert f"{seen} of {len(read_csv(evaluated / 'metrics.csv'))} cases were trained on" in page
    assert "http://" not in page.replace("http://www.w3.org", ""), "the page is self-contained"


def test_by_default_nobody_is_measured_whom_the_training_saw(trained_bae: Any, tmp_path: Path, evaluated: Path) -> None:
    (tmp_path / "training.csv").write_bytes((trained_bae.output_dir / "training.csv").read_bytes())
    rows = read_csv(evaluate(trained_bae, tmp_path, "variant_select_middle.json") / "metrics.csv")
    split = json.loads((trained_bae.output_dir / "split.json").read_text(encoding="utf-8"))
    assert [row["id"] for row in rows] == split["test"]
    whole = {row["id"]: row for row in read_csv(evaluated / "metrics.csv")}
    assert all(row == whole[row["id"]] for row in rows), "the same slices, corruptions and numbers, whatever stands beside"
    losses = [float(row["metric"]) for row in read_csv(tmp_path / "training.csv")]
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["validation_loss"] == pytest.approx(min(map(abs, losses)), rel=1e-5)


def test_settings_that_the_weights_were_not_trained_with_are_refused(trained_bae: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        evaluate(trained_bae, tmp_path, "variant_skip.json")
    assert 'trained with other settings than family skip. Give: --family "residual_unet"' in messages(caught.value)


def test_an_unknown_part_to_evaluate_on_is_refused_with_the_parts_there_are(trained_bae: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        evaluate(trained_bae, tmp_path, evaluate_on="tests")
    assert messages(caught.value).startswith("evaluate_on: got 'tests'; expected one of train, validate, test, abnormal, all")


# --- anomaly maps -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def mapped(trained_bae: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate_anomaly(trained_bae, tmp_path_factory.mktemp("mapped"), evaluate_on="all")


def test_maps_are_measured_on_healthy_people_and_patients_with_the_rule_beside(mapped: Path, trained_bae: Any) -> None:
    rows, summary = read_csv(mapped / "metrics.csv"), json.loads((mapped / "summary.json").read_text(encoding="utf-8"))
    assert {row["id"] for row in rows if row["patient"] == "1"} == labelled(trained_bae)
    assert summary["healthy"] + summary["patients"] == len(rows) == len(read_ixi(trained_bae.dataset_dir))
    pooled = {row["map"]: row for row in summary["pixels"] if row["voxels"] == "pooled"}
    assert set(pooled) == {"residual", "intensity_both"}
    assert pooled["residual"]["prevalence"] == pooled["intensity_both"]["prevalence"] > 0
    assert summary["residual"] == summary["facts"]["map"] == {"kind": "absolute", "filter": "median", "size": 3, "rim": 1}
    assert {row["fact"] for row in summary["bias"]} == {"age", "sex", "site"}
    page = (mapped / "report.html").read_text(encoding="utf-8")
    assert "SIMULATED" in page[page.index("<title>") : page.index("</title>")]
    assert "depend on age, sex or site" in page


def test_by_default_maps_are_of_the_test_and_of_all_patients(trained_bae: Any, tmp_path: Path) -> None:
    rows = read_csv(evaluate_anomaly(trained_bae, tmp_path, intensity_rule=None) / "metrics.csv")
    split = json.loads((trained_bae.output_dir / "split.json").read_text(encoding="utf-8"))
    assert {row["id"] for row in rows} == {*split["test"], *split["abnormal"]}
    assert not [key for key in rows[0] if key.startswith("intensity")]


# --- inference --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scans(trained_bae: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One head with skull in four forms: as it is, with turned axes, as .mha with an odd size, and without skull."""
    folder = tmp_path_factory.mktemp("scans")
    case = read_ixi(trained_bae.dataset_dir)[1]
    image: Any = nibabel.load(case["image"][0])
    voxels, affine = np.asarray(image.dataobj), image.affine
    nibabel.save(image, folder / "plain.nii.gz")
    turn = np.zeros((4, 4))
    turn[[2, 0, 1, 3], [0, 1, 2, 3]] = 1, -1, 1, 1
    turn[0, 3] = voxels.shape[0] - 1
    nibabel.save(nibabel.Nifti1Image(np.transpose(voxels[::-1], (2, 0, 1)), affine @ turn), folder / "turned.nii.gz")
    odd = itk.image_from_array(np.ascontiguousarray(voxels[:, 1:, :].T))
    spacing, to_lps = np.linalg.norm(affine[:3, :3], axis=0), np.diag([-1.0, -1.0, 1.0])
    odd.SetSpacing(spacing.tolist())
    odd.SetOrigin((to_lps @ (affine @ [0, 1, 0, 1])[:3]).tolist())
    odd.SetDirection(itk.matrix_from_array(np.ascontiguousarray(to_lps @ affine[:3, :3] / spacing)))
    itk.imwrite(odd, str(folder / "odd.mha"))
    brain = np.asarray(nibabel.load(case["brain"]).dataobj)  # type: ignore[attr-defined]
    nibabel.save(nibabel.Nifti1Image(voxels * (brain > 0), affine), folder / "stripped.nii.gz")
    return folder


@pytest.fixture(scope="module")
def restored(trained_bae: Any, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("restored")
    infer(trained_bae, scans, output, save_pictures="true")
    return output


@pytest.mark.parametrize("case", ["plain", "turned", "stripped"])
def test_restored_volumes_and_maps_lie_on_the_grid_of_their_source(case: str, scans: Path, restored: Path) -> None:
    source: Any = nibabel.load(scans / f"{case}.nii.gz")
    for kind in ("restored", "anomaly"):
        found: Any = nibabel.load(restored / f"{case}_{kind}.nii.gz")
        assert found.shape == source.shape and found.get_data_dtype() == np.float32
        np.testing.assert_array_equal(found.affine, source.affine)
    values, volume = np.asarray(nibabel.load(restored / f"{case}_anomaly.nii.gz").dataobj), np.asarray(source.dataobj)  # type: ignore[attr-defined]
    assert values.min() == 0 < values.max() <= 1
    assert 0.01 < (values > 0).mean() < 0.3, "the brain alone"
    assert volume[values > 0].min() > 0
    made = np.asarray(nibabel.load(restored / f"{case}_restored.nii.gz").dataobj)  # type: ignore[attr-defined]
    assert volume.min() <= made.min() and 1 < made.max() <= volume.max(), "in the unit of the source"


def test_an_mha_file_of_an_odd_size_gives_mha_files_of_its_geometry(scans: Path, restored: Path) -> None:
    source = itk.imread(str(scans / "odd.mha"))
    for kind in ("restored", "anomaly"):
        found = itk.imread(str(restored / f"odd_{kind}.mha"))
        assert found.shape == source.shape and found.dtype == np.float32
        for part in ("GetSpacing", "GetOrigin"):
            assert list(getattr(found, part)()) == list(getattr(source, part)())
        np.testing.assert_array_equal(itk.array_from_matrix(found.GetDirection()), itk.array_from_matrix(source.GetDirection()))


def test_turned_axes_give_the_same_voxels_turned(restored: Path) -> None:
    for kind in ("restored", "anomaly"):
        one, other = (np.asarray(nibabel.load(restored / f"{case}_{kind}.nii.gz").dataobj) for case in ("plain", "turned"))  # type: ignore[attr-defined]
        np.testing.assert_allclose(one, np.transpose(other, (1, 2, 0))[::-1], rtol=1e-4, atol=1e-4)


def test_inference_lists_every_volume_and_slice_and_draws_when_asked(restored: Path) -> None:
    rows, slices = read_csv(restored / "scores.csv"), read_csv(restored / "scores_slices.csv")
    assert sorted(row["id"] for row in rows) == ["odd", "plain", "stripped", "turned"]
    for row in rows:
        own = [line for line in slices if line["id"] == row["id"]]
        assert 0 < len(own) <= int(row["slices"]) and 800 < float(row["brain_ml"]) < 2000
        assert float(row["anomaly_mean"]) <= float(row["anomaly_p99"]) <= float(row["anomaly_max"])
        highest = max(own, key=lambda line: float(line["anomaly_mean"]))
        assert highest["slice"] == row["highest_slice"]
        assert float(row["anomaly_max"]) == pytest.approx(max(float(line["anomaly_max"]) for line in own), rel=1e-4)
        assert (restored / f"{row['id']}_anomaly.png").read_bytes().startswith(b"\x89PNG")
    assert (restored / "inference_config.json").is_file()


def test_networks_of_stripped_heads_see_the_brain_alone_whether_the_file_still_has_a_skull_or_not(trained_bae: Any, tmp_path: Path) -> None:
    train_bundle("brain_autoencoder", trained_bae, tmp_path / "trained", "variant_stripped.json", max_epochs=1)
    case = read_ixi(trained_bae.dataset_dir)[0]
    head: Any = nibabel.load(case["image"][0])
    values = np.asarray(head.dataobj)
    brain = extract_t1_brain(values, head.header.get_zooms(), superior_axis=1)
    paths = {name: tmp_path / "data" / f"{name}.nii.gz" for name in ("head", "stripped", "mask")}
    paths["head"].parent.mkdir()
    for name, volume in {"head": values, "stripped": np.where(brain, values, 0), "mask": brain.astype(np.uint8)}.items():
        nibabel.save(nibabel.Nifti1Image(volume, head.affine), paths[name])
    cases = [{"id": name, "subject": name, "image": [str(paths[name])], "brain": str(paths["mask"])} for name in ("head", "stripped")]
    found = {"cases": cases, "ckpt_dir": str(tmp_path / "trained" / "models"), "output_dir": str(tmp_path / "out"), "save_restored": True}
    run(make_workflow("inference.json", kind="infer", **found))
    for kind in ("anomaly", "restored"):
        one, other = (nibabel.load(tmp_path / "out" / f"{name}_{kind}.nii.gz").get_fdata() for name in ("head", "stripped"))
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5 * np.abs(one).max())
        assert one[brain].std() > 0


def test_inference_scores_a_volume_as_the_evaluations_do(trained_bae: Any, tmp_path: Path, evaluated: Path, mapped: Path) -> None:
    case = read_ixi(trained_bae.dataset_dir)[1]
    infer(trained_bae, trained_bae.dataset_dir, tmp_path, cases=[case], save_restored="false")
    (row,) = read_csv(tmp_path / "scores.csv")
    (errors,) = (found for found in read_csv(evaluated / "metrics.csv") if found["id"] == case["id"])
    (scores,) = (found for found in read_csv(mapped / "metrics.csv") if found["id"] == case["id"])
    assert [float(row[key]) for key in METRICS] == pytest.approx([float(errors[f"none_{key}"]) for key in METRICS], rel=1e-4)
    parts = ("mean", "p99", "max")
    assert [float(row[f"anomaly_{key}"]) for key in parts] == pytest.approx([float(scores[f"residual_{key}"]) for key in parts], rel=1e-4)
    assert [path.name for path in tmp_path.glob("*.nii.gz")] == [f"{case['id']}_anomaly.nii.gz"], "the restored volume was not asked for"


def test_a_file_that_is_no_head_is_named_and_stops_nobody(trained_bae: Any, scans: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    folder.mkdir()
    (folder / "plain.nii.gz").write_bytes((scans / "plain.nii.gz").read_bytes())
    (folder / "broken.nii.gz").write_bytes((scans / "plain.nii.gz").read_bytes()[:300])
    nibabel.save(nibabel.Nifti1Image(np.zeros((20, 20, 12), np.float32), np.diag([8, 8, 12, 1])), folder / "empty.nii.gz")
    with pytest.raises(RuntimeError) as caught:
        infer(trained_bae, folder, tmp_path / "out")
    text = messages(caught.value)
    assert "2 of 3 cases failed, the others are done" in text
    assert "broken.nii.gz: cannot be read" in text and "case empty: no brain found in the T1" in text
    assert [row["id"] for row in read_csv(tmp_path / "out" / "scores.csv")] == ["plain"]


def test_missing_weights_are_named_with_what_to_do(trained_bae: Any, scans: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        infer(trained_bae, scans, tmp_path, ckpt_dir=str(tmp_path / "nowhere"), widths=[4, 4, 8])
    assert "no weights at" in messages(caught.value) and "train first" in messages(caught.value)


def test_predict_needs_no_config_and_takes_a_mask_of_the_brain(trained_bae: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    case = read_ixi(trained_bae.dataset_dir)[1]
    words = ["brain_autoencoder", "--t1", case["image"][0], "--brain", case["brain"], str(tmp_path)]
    assert predict.main([*words, "--weights", str(trained_bae.ckpt_dir), "--demo", "--device", "cpu"]) == 0
    printed = capfd.readouterr().out
    assert "trained on SIMULATED data" in printed and "anomaly_mean" in printed and case["id"] in printed
    written = {path.name.removeprefix(case["id"]) for path in tmp_path.iterdir()}
    assert {"_restored.nii.gz", "_anomaly.nii.gz", "_anomaly.png", "scores.csv", "scores_slices.csv"} <= written
