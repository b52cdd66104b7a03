"""Position regression end to end: what the bundle promises, on weights that one subprocess trained at smoke size."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import ckpt_export, verify_metadata, verify_net_in_out

from common.data.dataset import find_cases
from common.data.head_ct import read_head_ct
from tests.bundles.in_process import (
    NO_WEIGHTS,
    SCHEMA,
    configs_of,
    differing,
    evaluate_bundle,
    messages,
    network_of_inference,
    read_csv,
    read_model,
    run,
    train_bundle,
    workflow_of,
)

CONFIGS = configs_of("position_regression")
BUNDLE = CONFIGS.parent
# what smoke.json trains; inference.json reads it beside the weights
SMALL_NET = {"size": 32, "registration_spacing_mm": 8.0, "patch_size": 15, "width": 1, "calibration_side": 8}
SMALL_VARIANT: dict[str, dict[str, Any]] = {
    "variant_padded.json": {"windows": 8},
    "variant_random_patches.json": {"windows": 8},
    "variant_autoencoder.json": {"width": 4},
    "variant_denoising_autoencoder.json": {"width": 4},
}
make_workflow = partial(workflow_of, "position_regression")
small_network = partial(network_of_inference, "position_regression", **SMALL_NET)
VARIANTS = sorted(path.name for path in CONFIGS.glob("variant_*.json") if path.name != "variant_threshold.json")
AUROC_TASKS = {"ICH, both hemispheres", "ICH, left hemisphere", "ICH, right hemisphere", "fracture, skull"}
train_small = partial(train_bundle, "position_regression")


# --- before anything is trained ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "kind"), [(("train.json", "smoke.json"), "train"), (("inference.json",), "infer")])
def test_no_property_that_other_tools_look_for_is_missing(names: tuple[str, ...], kind: str, trained_position: Any, tmp_path: Path) -> None:
    workflow = make_workflow(*names, kind=kind, **trained_position.paths | {"output_dir": str(tmp_path)}, **SMALL_NET)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_metadata_holds_to_the_schema() -> None:
    verify_metadata(meta_file=str(CONFIGS / "metadata.json"), filepath=str(SCHEMA))


def test_metadata_agrees_with_the_config() -> None:
    metadata = json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))["network_data_format"]
    config = json.loads((CONFIGS / "train.json").read_text(encoding="utf-8"))
    image, pred = metadata["inputs"]["image"], metadata["outputs"]["pred"]
    assert next(iter(metadata["inputs"])) == "image" and next(iter(metadata["outputs"])) == "pred"
    assert image["num_channels"] == len(image["channel_def"]) == len(config["inputs"])
    assert image["spatial_shape"] == [config["patch_size"]] * 3
    assert list(pred["channel_def"].values()) == ["x", "y", "z"]


def test_the_network_has_the_inputs_and_outputs_of_its_metadata() -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=str(CONFIGS / "inference.json"),
        device="cpu",
        n=1,
        width=1,
        ckpt_dir=NO_WEIGHTS,
    )


def test_inference_prepares_heads_exactly_as_validation_does_but_keeps_no_copy() -> None:
    train, inference = (json.loads((CONFIGS / name).read_text(encoding="utf-8")) for name in ("train.json", "inference.json"))
    assert train["validate"]["preprocessing"]["transforms"] == "@train::deterministic_transforms"
    (during,), (after,) = train["train"]["deterministic_transforms"], inference["preprocessing"]["transforms"]
    assert after["cache_dir"] is None
    assert {**during, "_desc_": "", "cache_dir": None} == {**after, "_desc_": ""}
    assert train["validate"]["inferer"] == inference["inferer"]


# --- the user's command, run once -------------------------------------------------------------------------------


def test_training_from_the_repository_root_writes_what_is_promised(trained_position: Any) -> None:
    written = {path.relative_to(trained_position.root).as_posix() for path in trained_position.root.rglob("*") if path.is_file()}
    promised = {f"models/{name}" for name in ("model.pt", "member_0.pt", "checkpoint_last.pt", "weights.json")}
    promised |= {f"eval/{name}" for name in ("training.csv", "resources.json", "split.json", "train_config.json")}
    assert promised <= written
    assert any(path.startswith("eval/tensorboard/") for path in written)
    assert any(path.startswith("data/prepared/") for path in written)
    assert not [path for path in written if "tmp" in Path(path).name]
    for path in promised:
        assert str(trained_position.root / path) in trained_position.output, "every path is printed"


def test_training_without_data_says_loudly_that_these_are_not_patients(trained_position: Any) -> None:
    assert "SIMULATED DATA: these are not patients" in trained_position.output
    assert (trained_position.dataset_dir.parent / "SIMULATED.txt").is_file()
    assert json.loads((trained_position.ckpt_dir / "weights.json").read_text(encoding="utf-8"))["simulated"] is True


def test_training_names_its_loss_and_the_calibration(trained_position: Any) -> None:
    for text in ("train epoch 1/1: loss", "val_agreement", "Calibrated on 1 healthy validation heads"):
        assert text in trained_position.output
    (row,) = read_csv(trained_position.output_dir / "training.csv")
    assert row["stage"] == "train" and 0 < float(row["loss"]) < 1
    resources = json.loads((trained_position.output_dir / "resources.json").read_text(encoding="utf-8"))
    assert resources["parameters"] == sum(value.numel() for value in small_network().network.parameters())


def test_only_healthy_heads_are_trained_and_validated_on(trained_position: Any) -> None:
    split = json.loads((trained_position.output_dir / "split.json").read_text(encoding="utf-8"))
    healthy = {case["id"] for case in find_cases(trained_position.dataset_dir, "cq500", ("ct",)) if case["healthy"]}
    assert {*split["train"], *split["validate"]} <= healthy
    assert not {*split["train"], *split["validate"]} & set(split["test"])
    assert len(split["test"]) > len(split["healthy_in_test"]) == 2


def test_model_is_a_bare_state_dict_that_holds_all_that_was_learned_from_healthy_heads(trained_position: Any) -> None:
    state = read_model(trained_position.ckpt_dir)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    network = small_network()
    network.load_state_dict(state)
    assert network.calibrated and network.reference().volume.shape == (32, 32, 32)
    assert bool((state["calibration_sd"] > 0).all()) and bool((state["calibration_mean"] > 0).any())
    assert bool((state["levels"].diff() >= 0).all()) and float(state["levels"][-1]) > 0
    assert bool((state["healthy_quantiles"].diff(dim=-1) >= 0).all()) and bool((state["healthy_quantiles"] != 0).any())


def test_the_member_and_the_best_model_are_calibrated_alike(trained_position: Any) -> None:
    assert differing(read_model(trained_position.ckpt_dir), read_model(trained_position.ckpt_dir, "member_0.pt")) == []


def test_the_resume_file_holds_more_than_weights_and_loads_safely_too(trained_position: Any) -> None:
    assert {"network", "optimizer", "epoch", "stage", "seed"} <= set(read_model(trained_position.ckpt_dir, "checkpoint_last.pt"))


def test_the_merged_config_that_ran_is_saved(trained_position: Any) -> None:
    config = json.loads((trained_position.output_dir / "train_config.json").read_text(encoding="utf-8"))
    assert config["max_epochs"] == 1, "the overlay is in it"
    assert config["bundle_root"] == str(trained_position.root), "so is the command line"
    assert config["position_stride"] == 4, "and so is what was left as it is"


# --- evaluation -------------------------------------------------------------------------------------------------


def evaluate(trained: Any, output: Path, *overlays: str, **overrides: Any) -> Path:
    output.mkdir(exist_ok=True)
    for name in ("training.csv", "resources.json"):
        shutil.copy(trained.output_dir / name, output)
    return evaluate_bundle("position_regression", trained, output, *overlays, **overrides)


@pytest.fixture(scope="module")
def evaluated(trained_position: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate(trained_position, tmp_path_factory.mktemp("evaluated"))


def test_evaluation_writes_a_row_per_test_case_an_auroc_per_task_and_roc_points(evaluated: Path, trained_position: Any) -> None:
    test = json.loads((trained_position.output_dir / "split.json").read_text(encoding="utf-8"))["test"]
    rows = read_csv(evaluated / "metrics.csv")
    assert [row["id"] for row in rows] == test
    assert {"bleed_left", "bleed_right", "fracture", "error_max_left", "error_mean_skull", "zmap_max_right"} <= set(rows[0])
    summary = json.loads((evaluated / "summary.json").read_text(encoding="utf-8"))
    assert summary["cases"] == len(test) and summary["simulated"] is True
    assert summary["resources"]["parameters"] > 0
    shown = [row for row in summary["auroc"] if (row["map"], row["score"]) == ("error", "max")]
    assert {row["task"] for row in shown} >= AUROC_TASKS
    for row in shown:
        assert row["reason"] or 0 <= row["low"] <= row["auroc"] <= row["high"] <= 1
    assert {row["map"] for row in summary["auroc"]} == {row["map"] for row in read_csv(evaluated / "roc.csv")} == {"error", "zmap"}


def test_the_report_says_simulated_in_its_title_and_shows_the_aurocs(evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    title = page[page.index("<title>") : page.index("</title>")]
    assert "SIMULATED" in title and "Position regression" in title
    assert "AUROC" in page and all(task in page for task in AUROC_TASKS)
    assert "http://" not in page.replace("http://www.w3.org", ""), "the page is self-contained"


def test_only_an_evaluation_of_cases_that_were_trained_on_says_so(evaluated: Path, trained_position: Any, tmp_path: Path) -> None:
    page = (evaluate(trained_position, tmp_path, evaluate_on="train") / "report.html").read_text(encoding="utf-8")
    assert "2 of 2 cases were trained on" in page
    assert "none of 2 is abnormal" in page, "healthy cases alone have no AUROC"
    assert "cases were trained on" not in (evaluated / "report.html").read_text(encoding="utf-8")


def test_an_unknown_part_to_evaluate_on_is_refused_with_the_parts_there_are(trained_position: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        evaluate(trained_position, tmp_path, evaluate_on="tests")
    assert messages(caught.value) == "evaluate_on: got 'tests'; expected one of train, validate, test, validate_abnormal, all."


def test_the_threshold_rule_is_evaluated_like_a_network_and_in_hu(trained_position: Any, tmp_path: Path) -> None:
    rows = read_csv(evaluate(trained_position, tmp_path, "variant_threshold.json") / "metrics.csv")
    thresholds = {0, *json.loads((CONFIGS / "variant_threshold.json").read_text(encoding="utf-8"))["rule_thresholds"]}
    assert {float(row[f"error_max_{side}"]) for row in rows for side in ("left", "right", "skull")} <= thresholds
    assert any(float(row["error_max_left"]) > 0 for row in rows)
    assert not [key for key in rows[0] if key.startswith("zmap")], "HU are not standardised by the errors of a network"
    assert "Threshold and component size" in (tmp_path / "report.html").read_text(encoding="utf-8")


# --- inference --------------------------------------------------------------------------------------------------


def infer(trained: Any, dataset_dir: Path, output: Path, **overrides: Any) -> None:
    paths = trained.paths | {"dataset_dir": str(dataset_dir), "output_dir": str(output)}
    run(make_workflow("inference.json", kind="infer", **paths | overrides))


def write_with_other_axes(series: str, path: Path) -> None:
    """A series as NIfTI with axes (z, -x, y) of the same world."""
    scan = read_head_ct(series)
    turn = np.zeros((4, 4))
    turn[[2, 0, 1, 3], [0, 1, 2, 3]] = 1, -1, 1, 1
    turn[0, 3] = scan.hu.shape[0] - 1
    voxels = np.transpose(scan.hu[::-1], (2, 0, 1))
    nibabel.save(nibabel.Nifti1Image(voxels.astype(np.int16), scan.affine @ turn), path)


@pytest.fixture(scope="module")
def scans(trained_position: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two DICOM series, and the first of them once more as NIfTI."""
    folder = tmp_path_factory.mktemp("scans")
    cases = find_cases(trained_position.dataset_dir, "cq500", ("ct",))[:2]
    for name, case in zip(("first", "second"), cases, strict=True):
        shutil.copytree(case["image"][0], folder / name)
    write_with_other_axes(str(folder / "first"), folder / "turned.nii.gz")
    return folder


@pytest.fixture(scope="module")
def predicted(trained_position: Any, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("predicted")
    infer(trained_position, scans, output, save_pictures="true")
    return output


@pytest.mark.parametrize("source", ["first", "second", "turned.nii.gz"])
def test_maps_lie_on_the_grid_of_their_source(source: str, scans: Path, predicted: Path) -> None:
    scan, name = read_head_ct(scans / source), source.removesuffix(".nii.gz")
    maps = {kind: nibabel.load(predicted / f"{name}_{kind}.nii.gz") for kind in ("error", "z")}
    for image in maps.values():
        assert image.shape == scan.hu.shape and image.get_data_dtype() == np.float32
        np.testing.assert_allclose(image.affine, scan.affine, atol=1e-4)
        assert np.isfinite(image.get_fdata()).all()
    error = maps["error"].get_fdata()
    assert error.min() == 0 and 0 < error.max() < 2, "in units of the cube's side"
    # the map covers the head and nothing else, so that this test would see a shifted or flipped grid
    inside, head = error > 0.5 * np.median(error[error > 0]), scan.hu > -300
    assert 2 * (inside & head).sum() / (inside.sum() + head.sum()) > 0.92


def test_the_same_head_gives_the_same_map_whatever_its_format_and_axes(predicted: Path) -> None:
    one, other = (np.asarray(nibabel.load(predicted / f"{name}_error.nii.gz").dataobj) for name in ("first", "turned"))
    back = np.transpose(other, (1, 2, 0))[::-1]
    assert np.corrcoef(one.ravel(), back.ravel())[0, 1] > 0.99


def test_inference_lists_every_case_with_its_scores_and_draws_it_when_asked(predicted: Path) -> None:
    rows = read_csv(predicted / "scores.csv")
    assert sorted(row["id"] for row in rows) == ["first", "second", "turned"]
    for row in rows:
        assert row["registered"] == "True"
        for structure in ("left", "right", "skull"):
            assert 0 < float(row[f"{structure}_p99.5_mm"]) <= float(row[f"{structure}_max_mm"]) < 450
            assert 0 <= float(row[f"{structure}_healthy_percentile"]) <= 100
            assert np.isfinite(float(row[f"{structure}_z_max"]))
        assert (predicted / f"{row['id']}_anomaly.png").read_bytes().startswith(b"\x89PNG")
    assert (predicted / "inference_config.json").is_file()


def test_a_bad_file_is_named_with_its_reason_and_does_not_stop_the_others(trained_position: Any, scans: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(scans / "second", folder / "good")
    whole = (scans / "turned.nii.gz").read_bytes()
    (folder / "truncated.nii.gz").write_bytes(whole[: len(whole) // 2])
    affine, noise = np.diag([5.0, 5, 5, 1]), np.random.default_rng(0)
    nibabel.save(nibabel.Nifti1Image(noise.integers(-1000, 1500, (40, 40)).astype(np.int16), affine), folder / "flat.nii.gz")
    nibabel.save(nibabel.Nifti1Image(noise.integers(0, 256, (40, 40, 40)).astype(np.uint8), affine), folder / "window.nii.gz")
    with pytest.raises(RuntimeError) as caught:
        infer(trained_position, folder, tmp_path / "out")
    text = messages(caught.value)
    assert "3 of 4 cases failed, the others are done" in text
    reasons = {"truncated.nii.gz": "", "flat.nii.gz": "", "window.nii.gz": "which are not Hounsfield units"}
    for name, reason in reasons.items():
        (line,) = [line for line in text.splitlines() if line.strip().startswith(f"{name.removesuffix('.nii.gz')}:")]
        assert name in line and reason in line
    assert "good" not in text
    assert [row["id"] for row in read_csv(tmp_path / "out" / "scores.csv")] == ["good"]
    assert sorted(path.name for path in (tmp_path / "out").glob("*.nii.gz")) == ["good_error.nii.gz", "good_z.nii.gz"]


def test_weights_of_another_size_are_refused_with_the_settings_they_were_trained_with(trained_position: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        infer(trained_position, trained_position.dataset_dir, tmp_path, width=2)
    assert "trained with another network" in messages(caught.value) and "'width': 1" in messages(caught.value)


def test_missing_weights_are_named_with_what_to_do(trained_position: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        infer(trained_position, trained_position.dataset_dir, tmp_path, ckpt_dir=str(tmp_path / "nowhere"), **SMALL_NET)
    assert "no weights at" in messages(caught.value) and "train first" in messages(caught.value)


# --- export -----------------------------------------------------------------------------------------------------


def export(trained: Any, path: Path, **how: Any) -> None:
    ckpt_export(
        net_id="network_def",
        filepath=str(path),
        ckpt_file=str(trained.ckpt_dir / "model.pt"),
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=str(CONFIGS / "inference.json"),
        bundle_root=str(trained.root),
        **how,
    )


@pytest.mark.filterwarnings("ignore")
def test_the_traced_export_computes_what_the_network_computes_on_volumes_of_any_size(trained_position: Any, tmp_path: Path) -> None:
    export(trained_position, tmp_path / "model.ts", use_trace=True, input_shape=[1, 1, 15, 15, 15])
    network = small_network().eval()
    network.load_state_dict(read_model(trained_position.ckpt_dir))
    files = {"metadata.json": "", "inference.json": ""}
    script = torch.jit.load(tmp_path / "model.ts", _extra_files=files).eval()
    for shape in ((1, 1, 15, 15, 15), (2, 1, 19, 23, 32)):
        image = 3000 * torch.rand(shape, generator=torch.Generator().manual_seed(1)) - 1024
        with torch.no_grad():
            torch.testing.assert_close(script(image), network(image), rtol=1e-5, atol=1e-6)
    assert "network_data_format" in str(files["metadata.json"])


@pytest.mark.filterwarnings("ignore")
def test_a_scripted_export_is_refused_by_torch_so_that_it_must_be_traced(trained_position: Any, tmp_path: Path) -> None:
    with pytest.raises((ValueError, RuntimeError)):
        export(trained_position, tmp_path / "model.ts")
    assert not (tmp_path / "model.ts").exists()


# --- variants, repetition and resumption, in one warm process ---------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_and_is_calibrated(variant: str, trained_position: Any, tmp_path: Path) -> None:
    state = train_small(trained_position, tmp_path, variant, **SMALL_VARIANT.get(variant, {}))
    assert all(bool(value.isfinite().all()) for value in state.values())
    assert bool((state["calibration_sd"] > 0).all())
    base = read_model(trained_position.ckpt_dir)
    assert state.keys() != base.keys() or differing(base, state), "a variant of the training must give other weights"


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_is_evaluated_with_the_same_overlays(variant: str, trained_position: Any, tmp_path: Path) -> None:
    small = SMALL_VARIANT.get(variant, {})
    train_small(trained_position, tmp_path, variant, **small)
    evaluate(trained_position, tmp_path / "eval", variant, ckpt_dir=str(tmp_path / "models"), **small)
    rows = read_csv(tmp_path / "eval" / "metrics.csv")
    assert all(np.isfinite(float(row["error_max_left"])) and np.isfinite(float(row["zmap_max_left"])) for row in rows)
    title = json.loads((CONFIGS / variant).read_text(encoding="utf-8"))["report_title"]
    assert title in (tmp_path / "eval" / "report.html").read_text(encoding="utf-8")


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_the_next_seed_others(trained_position: Any, tmp_path: Path) -> None:
    torch.rand(7)  # a generator in another state must not matter
    again = train_small(trained_position, tmp_path / "again")
    assert differing(read_model(trained_position.ckpt_dir), again) == [], "the first is from another process, by the command line"
    other = train_small(trained_position, tmp_path / "other", seed=7)
    assert differing(again, other)


def test_switches_may_be_text_as_the_command_line_gives_them(trained_position: Any, tmp_path: Path) -> None:
    off = dict.fromkeys(("amp", "resume", "patchwise", "cosine_decay", "calibrated"), "false")
    state = train_small(trained_position, tmp_path, register="true", **off)
    assert differing(read_model(trained_position.ckpt_dir), state) == []


class KilledError(Exception):
    """Stands for a kill inside the test's own process."""


def test_a_killed_training_goes_on_to_the_same_weights_and_the_same_calibration(trained_position: Any, tmp_path: Path) -> None:
    def kill(engine: Any) -> None:
        raise KilledError

    whole = train_small(trained_position, tmp_path / "whole", max_epochs=2)
    folder = tmp_path / "killed"
    paths = trained_position.paths | {"ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval")}
    workflow = make_workflow("train.json", "smoke.json", max_epochs=2, **paths)
    workflow.initialize()
    workflow.parser.get_parsed_content("train::trainer").add_event_handler(Events.EPOCH_STARTED(once=2), kill)
    with pytest.raises(Exception) as caught:
        workflow.run()
    assert "KilledError" in repr(caught.getrepr(chain=True)), "the run ended for another reason"
    resumed = train_small(trained_position, folder, max_epochs=2, resume=True)
    assert differing(whole, resumed) == []
    assert [row["epoch"] for row in read_csv(folder / "eval" / "training.csv")] == ["1", "2"]
    assert differing(whole, read_model(trained_position.ckpt_dir)), "the second epoch changed something"


def test_weights_given_are_trained_on_with_their_own_reference_and_intensity_map(trained_position: Any, tmp_path: Path) -> None:
    given = read_model(trained_position.ckpt_dir)
    state = train_small(trained_position, tmp_path, weights=str(trained_position.ckpt_dir / "model.pt"), seed=7)
    assert torch.equal(state["reference_hu"], given["reference_hu"]) and torch.equal(state["levels"], given["levels"])
    assert differing(given, state)
