"""PatchDDM end to end: what the bundle promises, on weights that one subprocess trained at smoke size."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import verify_metadata, verify_net_in_out

from common.data.brats import SEQUENCES
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

CONFIGS = configs_of("patchddm")
# what smoke.json trains; inference.json reads it beside the weights
SMALL_NET = {"padded_size": 32, "patch_size": 16, "base_channels": 4, "multipliers": [1, 2], "blocks_per_level": 1}
SMALL = {"steps": 3, "samples": 2}
SMALL_VARIANT: dict[str, dict[str, Any]] = {
    "variant_supervised.json": {"supervised_width": 0.05, "patch_size": 32},
    "variant_concatenate.json": {"base_channels": 2},
    "variant_flow.json": {"val_steps": 2, "steps": 3},
    "variant_dpm_solver.json": {"steps": 3},
}
SAMPLERS = ("variant_ancestral.json", "variant_dpm_solver.json", "variant_sliding_window.json")  # for weights of the plain training
VARIANTS = sorted(path.name for path in CONFIGS.glob("variant_*.json") if path.name not in (*SAMPLERS, "variant_threshold.json"))
make_workflow = partial(workflow_of, "patchddm")
train_small, evaluate = partial(train_bundle, "patchddm"), partial(evaluate_bundle, "patchddm")


def infer(trained: Any, dataset_dir: Path, output: Path, *overlays: str, **overrides: Any) -> None:
    paths = trained.paths | {"dataset_dir": str(dataset_dir), "output_dir": str(output)}
    run(make_workflow("inference.json", *overlays, kind="infer", **paths | SMALL | overrides))


# --- before anything is trained ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "kind"), [(("train.json", "smoke.json"), "train"), (("inference.json",), "infer")])
def test_no_property_that_other_tools_look_for_is_missing(names: tuple[str, ...], kind: str, trained_patchddm: Any, tmp_path: Path) -> None:
    workflow = make_workflow(*names, kind=kind, **trained_patchddm.paths | {"output_dir": str(tmp_path)}, **SMALL_NET)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_metadata_holds_to_the_schema() -> None:
    verify_metadata(meta_file=str(CONFIGS / "metadata.json"), filepath=str(SCHEMA))


def test_metadata_agrees_with_the_config() -> None:
    metadata = json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))["network_data_format"]
    network = network_of_inference("patchddm")
    image, pred = metadata["inputs"]["image"], metadata["outputs"]["pred"]
    assert next(iter(metadata["inputs"])) == "image" and next(iter(metadata["outputs"])) == "pred"
    assert image["num_channels"] == len(image["channel_def"]) == network.in_channels == 8
    assert image["spatial_shape"] == [f"{network.factor}*n"] * 3 == ["64*n"] * 3
    assert pred["num_channels"] == network.head.out_channels == 1
    assert sum(value.numel() for value in network.parameters()) == 24_260_299, "as computed from the released code"


def test_verify_net_in_out_knows_no_timestep_and_so_cannot_pass() -> None:
    small = {"base_channels": 2, "multipliers": [1, 1], "blocks_per_level": 1}
    files = {"meta_file": str(CONFIGS / "metadata.json"), "config_file": str(CONFIGS / "inference.json")}
    with pytest.raises(TypeError, match="timesteps"):
        verify_net_in_out(net_id="network_def", **files, device="cpu", n=1, ckpt_dir=NO_WEIGHTS, **small)


def test_inference_prepares_images_exactly_as_validation_does() -> None:
    train, inference = (json.loads((CONFIGS / name).read_text(encoding="utf-8")) for name in ("train.json", "inference.json"))
    during, after = train["validate"]["preprocessing"]["transforms"], inference["preprocessing"]["transforms"]
    assert during[1:] == after[1:]
    labels = ("label_values", "label_map")
    assert {key: value for key, value in during[0].items() if key not in labels} == {**after[0], "keys": ["image", "label"]}


# --- the user's command, run once -------------------------------------------------------------------------------


def test_training_from_the_repository_root_writes_what_is_promised(trained_patchddm: Any) -> None:
    written = {path.relative_to(trained_patchddm.root).as_posix() for path in trained_patchddm.root.rglob("*") if path.is_file()}
    promised = {f"models/{name}" for name in ("model.pt", "member_0.pt", "checkpoint_last.pt", "weights.json")}
    promised |= {f"eval/{name}" for name in ("training.csv", "resources.json", "split.json", "train_config.json")}
    assert promised <= written
    assert any(path.startswith("data/prepared/") for path in written)
    assert not [path for path in written if "tmp" in Path(path).name]
    for path in promised:
        assert str(trained_patchddm.root / path) in trained_patchddm.output, "every path is printed"


def test_training_says_that_these_are_no_patients_and_names_loss_and_metric(trained_patchddm: Any) -> None:
    for text in ("SIMULATED DATA: these are not patients", "train epoch 1/1: loss", "val_mean_dice"):
        assert text in trained_patchddm.output
    record = json.loads((trained_patchddm.ckpt_dir / "weights.json").read_text(encoding="utf-8"))
    assert record["simulated"] is True
    assert record["settings"]["process"] == "diffusion" and record["settings"]["multipliers"] == [1, 2]
    assert set(record["settings"]) <= set(json.loads((CONFIGS / "inference.json").read_text(encoding="utf-8"))), "predict gives them all"


def test_model_is_a_bare_state_dict_that_any_cpu_loads_safely(trained_patchddm: Any) -> None:
    state = read_model(trained_patchddm.ckpt_dir)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    network_of_inference("patchddm", **SMALL_NET).load_state_dict(state)
    resume = {"body", "network", "optimizer", "epoch", "stage", "seed", "train_seconds"}
    assert resume <= set(read_model(trained_patchddm.ckpt_dir, "checkpoint_last.pt"))


# --- evaluation -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(trained_patchddm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate(trained_patchddm, tmp_path_factory.mktemp("evaluated"), evaluate_on="all", samples=3)


def test_evaluation_writes_a_row_per_case_rows_by_ensemble_size_and_a_summary(evaluated: Path) -> None:
    rows, sizes = read_csv(evaluated / "metrics.csv"), read_csv(evaluated / "ensemble.csv")
    assert [row["id"] for row in rows] == [f"BraTS20_Training_{number:03d}" for number in range(1, 6)]
    assert {"dice", "hd95_mm", "detection_f1", "empty_prediction", "components", "variance_auroc", "mean_ece"} <= set(rows[0])
    assert "stratum" not in rows[0]
    assert {int(row["samples"]) for row in sizes} == {1, 3} and len(sizes) == 2 * len(rows)
    whole = {row["id"]: float(row["dice"]) for row in sizes if row["samples"] == "3"}
    assert all(float(row["dice"]) == pytest.approx(whole[row["id"]], abs=1e-5) for row in rows), "the last size is the mask itself"
    summary = json.loads((evaluated / "summary.json").read_text(encoding="utf-8"))
    assert summary["cases"] == 5 and summary["simulated"] is True and summary["facts"]["steps"] == 3
    assert summary["metrics"]["dice"]["sd"] >= 0 and 0 <= summary["variance_calibration_error"] <= 1
    assert summary["empty_predictions"] == sum(int(row["empty_prediction"]) for row in rows)


def test_the_report_says_simulated_in_its_title_and_shows_calibration_and_sizes(evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    title = page[page.index("<title>") : page.index("</title>")]
    assert "SIMULATED" in title and "PatchDDM" in title
    assert "By size of the ensemble" in page and "Is the variance calibrated?" in page
    assert "4 of 5 cases were trained on" in page
    assert "http://" not in page.replace("http://www.w3.org", ""), "the page is self-contained"


def test_samples_nest_so_that_a_smaller_ensemble_is_the_beginning_of_a_larger_one(
    evaluated: Path, trained_patchddm: Any, tmp_path: Path
) -> None:
    alone = read_csv(evaluate(trained_patchddm, tmp_path, samples=1) / "metrics.csv")
    first = {row["id"]: float(row["dice"]) for row in read_csv(evaluated / "ensemble.csv") if row["samples"] == "1"}
    assert [float(row["dice"]) for row in alone] == pytest.approx([first[row["id"]] for row in alone], abs=1e-6)


def test_settings_that_the_weights_were_not_trained_with_are_refused(trained_patchddm: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        evaluate(trained_patchddm, tmp_path, "variant_flow.json", steps=3)
    assert 'trained with other settings than process flow. Give: --process "diffusion"' in messages(caught.value)


def test_an_unknown_part_to_evaluate_on_is_refused_with_the_parts_there_are(trained_patchddm: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        evaluate(trained_patchddm, tmp_path, evaluate_on="tests")
    assert messages(caught.value) == "evaluate_on: got 'tests'; expected one of train, validate, test, all."


def test_the_trivial_rule_is_evaluated_like_a_network_and_needs_no_weights(trained_patchddm: Any, tmp_path: Path) -> None:
    evaluate(trained_patchddm, tmp_path, "variant_threshold.json", evaluate_on="all")
    rows = read_csv(tmp_path / "metrics.csv")
    assert np.mean([float(row["dice"]) for row in rows]) > 0.2
    assert not (tmp_path / "ensemble.csv").exists(), "a rule has no samples"
    assert "Rule on FLAIR" in (tmp_path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("variant", SAMPLERS)
def test_other_samplers_take_the_same_weights(variant: str, evaluated: Path, trained_patchddm: Any, tmp_path: Path) -> None:
    rows = read_csv(evaluate(trained_patchddm, tmp_path, variant, steps=3, samples=1) / "metrics.csv")
    assert len(rows) == 1 and np.isfinite(float(rows[0]["dice"]))


# --- inference --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scans(trained_patchddm: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two cases without label: one as it is, and the same with its axes turned."""
    folder = tmp_path_factory.mktemp("scans")
    source = trained_patchddm.dataset_dir / "BraTS20_Training_001"
    turn = np.zeros((4, 4))
    turn[[2, 0, 1, 3], [0, 1, 2, 3]] = 1, -1, 1, 1
    for kind in SEQUENCES:
        image = nibabel.load(source / f"{source.name}_{kind}.nii.gz")
        nibabel.save(image, folder / f"plain_{kind}.nii.gz")
        voxels = np.asarray(image.dataobj)
        turn[0, 3] = voxels.shape[0] - 1
        turned = nibabel.Nifti1Image(np.transpose(voxels[::-1], (2, 0, 1)), image.affine @ turn)
        nibabel.save(turned, folder / f"turned_{kind}.nii.gz")
    return folder


@pytest.fixture(scope="module")
def predicted(trained_patchddm: Any, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("predicted")
    infer(trained_patchddm, scans, output, save_pictures="true", save_samples="true")
    return output


@pytest.mark.parametrize("case", ["plain", "turned"])
def test_masks_and_maps_lie_on_the_grid_of_their_source(case: str, scans: Path, predicted: Path) -> None:
    source = nibabel.load(scans / f"{case}_t1.nii.gz")
    kinds = {"tumour": np.uint8, **dict.fromkeys(("mean", "variance", "samples_1", "samples_2"), np.float32)}
    found = {kind: nibabel.load(predicted / f"{case}_{kind}.nii.gz") for kind in kinds}
    for kind, image in found.items():
        assert image.shape == source.shape and image.get_data_dtype() == kinds[kind]
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)
    mask, mean, one, two = (np.asarray(found[kind].dataobj) for kind in ("tumour", "mean", "samples_1", "samples_2"))
    assert set(np.unique(mask)) <= {0, 1} and mask.any()
    np.testing.assert_array_equal(mask > 0, (one + two) / 2 > 0.5)
    np.testing.assert_allclose(mean, ((one + two) / 2).clip(0, 1), atol=1e-6)
    np.testing.assert_allclose(np.asarray(found["variance"].dataobj), ((one - two) / 2) ** 2, atol=1e-5)


def test_turned_axes_reach_the_network_as_those_of_brats(
    trained_patchddm: Any, scans: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("common.inferers.mask_sampling.case_seed", lambda case, sample, seed: sample)  # one noise for both
    infer(trained_patchddm, scans, tmp_path, samples=1)
    one, other = (np.asarray(nibabel.load(tmp_path / f"{case}_mean.nii.gz").dataobj) for case in ("plain", "turned"))
    np.testing.assert_allclose(one, np.transpose(other, (1, 2, 0))[::-1], atol=1e-5)


def test_inference_lists_every_case_and_draws_it_when_asked(predicted: Path) -> None:
    rows = read_csv(predicted / "tumours.csv")
    assert sorted(row["id"] for row in rows) == ["plain", "turned"]
    for row in rows:
        assert float(row["lesion_ml"]) > 0
        assert (predicted / f"{row['id']}_tumour.png").read_bytes().startswith(b"\x89PNG")
    assert (predicted / "inference_config.json").is_file()


def test_labels_beside_the_images_do_not_disturb_inference(trained_patchddm: Any, tmp_path: Path) -> None:
    case = trained_patchddm.dataset_dir / "BraTS20_Training_002"
    infer(trained_patchddm, case, tmp_path, save_mean="false", save_variance="false")
    assert sorted(path.name for path in tmp_path.glob("*.nii.gz")) == ["BraTS20_Training_002_tumour.nii.gz"]


def test_missing_weights_are_named_with_what_to_do(trained_patchddm: Any, scans: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        infer(trained_patchddm, scans, tmp_path, ckpt_dir=str(tmp_path / "nowhere"), **SMALL_NET)
    assert "no weights at" in messages(caught.value) and "train first" in messages(caught.value)


# --- variants, repetition and resumption, in one warm process ---------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_and_gives_other_weights(variant: str, trained_patchddm: Any, tmp_path: Path) -> None:
    state = train_small(trained_patchddm, tmp_path, variant, **SMALL_VARIANT.get(variant, {}))
    assert all(bool(value.isfinite().all()) for value in state.values())
    base = read_model(trained_patchddm.ckpt_dir)
    assert state.keys() != base.keys() or differing(base, state)


@pytest.mark.parametrize(
    "variant",
    [
        "variant_half_res.json",
        "variant_multi_class.json",
        "variant_supervised.json",
        pytest.param("variant_full_res.json", marks=pytest.mark.slow),
        pytest.param("variant_flow.json", marks=pytest.mark.slow),
        pytest.param("variant_concatenate.json", marks=pytest.mark.slow),
        pytest.param("variant_signed_mask.json", marks=pytest.mark.slow),
    ],
)
def test_variants_are_evaluated_with_the_same_overlays(variant: str, trained_patchddm: Any, tmp_path: Path) -> None:
    small = SMALL_VARIANT.get(variant, {})
    train_small(trained_patchddm, tmp_path, variant, **small)
    evaluate(trained_patchddm, tmp_path / "eval", variant, ckpt_dir=str(tmp_path / "models"), **small)
    rows = read_csv(tmp_path / "eval" / "metrics.csv")
    assert all(0 <= float(row["dice"]) <= 1 for row in rows)
    assert ("enhancing_dice" in rows[0]) == (variant == "variant_multi_class.json")


def test_weights_of_the_supervised_reference_make_masks_of_new_cases(trained_patchddm: Any, scans: Path, tmp_path: Path) -> None:
    small = SMALL_VARIANT["variant_supervised.json"]
    train_small(trained_patchddm, tmp_path, "variant_supervised.json", **small)
    infer(trained_patchddm, scans, tmp_path / "made", "supervised.json", ckpt_dir=str(tmp_path / "models"), supervised_width=0.05)
    assert nibabel.load(tmp_path / "made" / "plain_tumour.nii.gz").shape == nibabel.load(next(scans.glob("plain_t1.nii*"))).shape


def test_images_are_made_from_noise_by_weights_that_learned_them(trained_patchddm: Any, scans: Path, tmp_path: Path) -> None:
    train_small(trained_patchddm, tmp_path, "variant_generation.json")
    infer(trained_patchddm, scans, tmp_path / "made", "generate.json", ckpt_dir=str(tmp_path / "models"), samples=1)
    made = sorted(path.name for path in (tmp_path / "made").glob("plain_*.nii.gz"))
    assert made == sorted(f"plain_made_{name}.nii.gz" for name in SEQUENCES)


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_the_next_seed_others(trained_patchddm: Any, tmp_path: Path) -> None:
    torch.rand(7)  # a generator in another state must not matter
    off = dict.fromkeys(("amp", "resume", "spread", "checkpointing", "signed", "cosine_decay"), "false")
    again = train_small(trained_patchddm, tmp_path / "again", coordinates="true", lean="true", **off)
    assert differing(read_model(trained_patchddm.ckpt_dir), again) == [], "the first is from another process, by the command line"
    other = train_small(trained_patchddm, tmp_path / "other", seed=7)
    assert differing(again, other)


class KilledError(Exception):
    """Stands for a kill inside the test's own process."""


def trained_seconds(folder: Path) -> float:
    return float(torch.load(folder / "models" / "checkpoint_last.pt", weights_only=True)["train_seconds"])


def test_a_killed_training_goes_on_to_the_same_weights_with_average_and_time(trained_patchddm: Any, tmp_path: Path) -> None:
    def kill(engine: Any) -> None:
        raise KilledError

    settings = {"max_epochs": 2, "ema_decay": 0.9, "clip_norm": 1.0, "max_train_hours": 10}
    whole = train_small(trained_patchddm, tmp_path / "whole", **settings)
    folder = tmp_path / "killed"
    paths = trained_patchddm.paths | {"ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval")}
    workflow = make_workflow("train.json", "smoke.json", **paths, **settings)
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train::trainer")
    trainer.add_event_handler(Events.EPOCH_STARTED(once=2), kill)
    with pytest.raises(Exception):  # noqa: B017 - MONAI wraps it
        workflow.run()
    first = trained_seconds(folder)
    resumed = train_small(trained_patchddm, folder, resume=True, **settings)
    assert differing(whole, resumed) == []
    rows = read_csv(folder / "eval" / "training.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"] and all(float(row["val_hd95_mm"]) >= 0 for row in rows)
    assert 0 < first < trained_seconds(folder), "the time goes on where it stopped"


def test_a_used_up_time_ends_the_training_with_a_model(trained_patchddm: Any, tmp_path: Path) -> None:
    train_small(trained_patchddm, tmp_path, max_epochs=50, val_interval=50, max_train_hours=1e-7)
    assert len(read_csv(tmp_path / "eval" / "training.csv")) == 1
