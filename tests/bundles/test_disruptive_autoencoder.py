"""The disruptive autoencoder's fine-tuning end to end, on weights that one subprocess pre-trained and fine-tuned at smoke size."""

from __future__ import annotations

import json
import logging
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
from monai.networks.nets.swin_unetr import SwinUNETR

from common.data.btcv import ORGANS
from common.data.feta import TISSUES, read_feta
from common.data.simulate.btcv import simulate_btcv
from common.feature_similarity import similarity
from common.predict import main as predict
from tests.bundles.in_process import (
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

NAME = "disruptive_autoencoder"
CONFIGS = configs_of(NAME)
# what smoke.json trains; inference.json reads it beside the weights
SMALL_NET = {"patch_size": [32, 32, 64], "feature_size": 12, "depths": [1, 1, 1, 1], "window_size": 3}
SMALL = {"overlap": 0.0}
SMALL_VARIANT: dict[str, dict[str, Any]] = {
    "variant_unetr.json": {"unetr_features": 4, "unetr_hidden": 24, "unetr_mlp": 32, "unetr_heads": 2},
    "variant_segresnet.json": {"segresnet_filters": 4, "segresnet_blocks": [1, 1, 1]},
    "variant_fifth_labels.json": {"label_fraction": 0.25},
    "variant_further_augmentation.json": {"further_probability": 1.0},
}
OTHER_PRETRAINING = sorted(path.name for path in CONFIGS.glob("variant_*.json") if "pretrain_overlays" in path.read_text(encoding="utf-8"))
FINE_TUNING = (
    "variant_zscore.json",
    "variant_encoder_only.json",
    "variant_fifth_labels.json",
    "variant_segresnet.json",
    "variant_further_augmentation.json",
)
SLOW_FINE_TUNING = (
    "variant_scratch.json",
    "variant_dice_ce.json",
    "variant_decoder_only.json",
    "variant_half_labels.json",
    "variant_unetr.json",
)
make_workflow = partial(workflow_of, NAME)
evaluate = partial(evaluate_bundle, NAME)


def fine_tune(trained: Any, folder: Path, *overlays: str, **overrides: Any) -> dict[str, torch.Tensor]:
    """Train from the pre-trained weights of the subprocess, or from what overlays and overrides say."""
    own = (
        {} if any("pretrained" in (CONFIGS / name).read_text() for name in overlays) else {"pretrained": str(trained.ckpt_dir / "pretrain")}
    )
    return train_bundle(NAME, trained, folder, *overlays, **own | overrides)


def infer(trained: Any, dataset_dir: Path, output: Path, *overlays: str, **overrides: Any) -> None:
    paths = trained.paths | {"dataset_dir": str(dataset_dir), "output_dir": str(output)}
    run(make_workflow("inference.json", *overlays, kind="infer", **paths | SMALL | overrides))


def voxels(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


# --- before anything is trained ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "kind"), [(("train.json", "smoke.json"), "train"), (("inference.json",), "infer")])
def test_no_property_that_other_tools_look_for_is_missing(names: tuple[str, ...], kind: str, trained_dae: Any, tmp_path: Path) -> None:
    workflow = make_workflow(*names, kind=kind, **trained_dae.paths | {"output_dir": str(tmp_path)}, **SMALL_NET)
    workflow.initialize()
    assert workflow.check_properties() == []
    assert not list(tmp_path.rglob("*.pt")), "to look at a config pre-trains nothing"


def test_metadata_holds_to_the_schema() -> None:
    verify_metadata(meta_file=str(CONFIGS / "metadata.json"), filepath=str(SCHEMA))


def test_metadata_agrees_with_the_config_and_the_paper() -> None:
    metadata = json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))["network_data_format"]
    train = json.loads((CONFIGS / "train.json").read_text(encoding="utf-8"))
    network = network_of_inference(NAME)
    image, pred = metadata["inputs"]["image"], metadata["outputs"]["pred"]
    assert image["num_channels"] == network.in_channels == len(image["channel_def"]) == 1
    assert image["spatial_shape"] == train["patch_size"] == pred["spatial_shape"]
    assert list(pred["channel_def"].values()) == ["background", *train["class_names"]] == ["background", *TISSUES]
    assert pred["num_channels"] == network.out.conv.conv.out_channels == 8
    assert sum(value.numel() for value in network.parameters()) == 62_187_002, "MONAI's Swin UNETR with 8 outputs"


def test_the_overlay_of_btcv_has_its_thirteen_organs_in_order() -> None:
    overlay = json.loads((CONFIGS / "btcv.json").read_text(encoding="utf-8"))
    assert overlay["class_names"] == list(ORGANS) and list(ORGANS.values()) == list(range(1, 14))


def test_inference_prepares_images_exactly_as_validation_does() -> None:
    train, inference = (json.loads((CONFIGS / name).read_text(encoding="utf-8")) for name in ("train.json", "inference.json"))
    during, after = train["validate"]["preprocessing"]["transforms"], inference["preprocessing"]["transforms"]
    assert during[1:] == after[1:]
    labels = ("label_values", "label_map")
    assert {key: value for key, value in during[0].items() if key not in labels} == {**after[0], "keys": ["image", "label"]}
    kept = [step["_target_"].rsplit(".", 1)[-1] for step in inference["postprocessing"]["transforms"]]
    assert kept[:2] == [step["_target_"].rsplit(".", 1)[-1] for step in train["validate"]["postprocessing"]["transforms"]]
    assert inference["postprocessing"]["transforms"][:2] == train["validate"]["postprocessing"]["transforms"]


def test_verify_net_in_out_and_export_pass(trained_dae: Any, tmp_path: Path) -> None:
    metadata = json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))
    for tensor in (metadata["network_data_format"]["inputs"]["image"], metadata["network_data_format"]["outputs"]["pred"]):
        tensor["spatial_shape"] = [64, 32, 32]
    (tmp_path / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    files = {"meta_file": str(tmp_path / "metadata.json"), "config_file": str(CONFIGS / "inference.json")}
    verify_net_in_out(net_id="network_def", **files, device="cpu", **SMALL_NET)
    made = tmp_path / "model.ts"
    weights = str(trained_dae.ckpt_dir / "model.pt")
    trace = {"use_trace": True, "input_shape": [1, 1, 64, 32, 32], "converter_kwargs": {"device": "cpu"}}
    ckpt_export(net_id="network_def", filepath=str(made), ckpt_file=weights, **files, **trace, **SMALL_NET)
    network = network_of_inference(NAME, **SMALL_NET).eval()
    network.load_state_dict(read_model(trained_dae.ckpt_dir))
    image = torch.rand(1, 1, 64, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(torch.jit.load(str(made))(image), network(image), atol=1e-4, rtol=1e-4)


# --- the user's command, run once -------------------------------------------------------------------------------


def test_training_with_nothing_given_pretrains_first_and_writes_what_is_promised(trained_dae: Any) -> None:
    written = {path.relative_to(trained_dae.root).as_posix() for path in trained_dae.root.rglob("*") if path.is_file()}
    promised = {f"models/{name}" for name in ("model.pt", "member_0.pt", "checkpoint_last.pt", "weights.json")}
    promised |= {f"models/pretrain/{name}" for name in ("model.pt", "checkpoint_last.pt", "transfer.json", "weights.json")}
    promised |= {f"eval/{name}" for name in ("training.csv", "resources.json", "split.json", "train_config.json", "transfer.json")}
    promised |= {"eval/pretrain/training.csv"}
    assert promised <= written
    assert any(path.startswith("data/prepared/") for path in written)
    assert not [path for path in written if "tmp" in Path(path).name]
    for path in promised:
        assert str(trained_dae.root / path) in trained_dae.output, "every path is printed"


def test_training_says_that_these_are_no_patients_why_it_pretrains_and_what_was_transferred(trained_dae: Any) -> None:
    texts = ("SIMULATED DATA: these are not patients", "no pre-trained weights", "train epoch 1/1: loss", "val_mean_dice")
    for text in (*texts, "skipped: a head of the pre-training", "swinViT.layers4", "kind zscore low none high none in the pre-training"):
        assert text in trained_dae.output, text
    told = json.loads((trained_dae.output_dir / "transfer.json").read_text(encoding="utf-8"))
    assert 0.9 * told["parameters"] < told["parameters_transferred"] < told["parameters"]
    record = json.loads((trained_dae.ckpt_dir / "weights.json").read_text(encoding="utf-8"))
    assert record["simulated"] is True and record["settings"]["feature_size"] == 12 and record["settings"]["layout"] == "feta"
    assert set(record["settings"]) <= set(json.loads((CONFIGS / "inference.json").read_text(encoding="utf-8"))), "predict gives them all"


def test_model_is_a_bare_state_dict_that_monais_own_network_loads(trained_dae: Any) -> None:
    state = read_model(trained_dae.ckpt_dir)
    network_of_inference(NAME, **SMALL_NET).load_state_dict(state)
    SwinUNETR(1, 8, feature_size=12, depths=(1, 1, 1, 1), window_size=3).load_state_dict(state)
    resume = {"body", "network", "optimizer", "epoch", "stage", "seed"}
    assert resume <= set(read_model(trained_dae.ckpt_dir, "checkpoint_last.pt"))


# --- evaluation -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(trained_dae: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate(trained_dae, tmp_path_factory.mktemp("evaluated"), evaluate_on="all")


def test_evaluation_writes_rows_by_case_and_by_class_and_a_summary(evaluated: Path) -> None:
    rows, classes = read_csv(evaluated / "metrics.csv"), read_csv(evaluated / "classes.csv")
    assert [row["id"] for row in rows] == [f"sub-{number:03d}" for number in range(1, 6)]
    assert {"dice", "hd_mm", "hd95_mm", "masd_mm", "deep_grey_matter_dice", "entropy", "missed_classes"} <= set(rows[0])
    assert {row["class"] for row in classes} == set(TISSUES) and len(classes) == 7 * len(rows)
    for row in rows:
        own = [float(part["dice"]) for part in classes if part["id"] == row["id"]]
        assert float(row["dice"]) == pytest.approx(np.nanmean(own), abs=1e-5), "the mean of the foreground"
    summary = json.loads((evaluated / "summary.json").read_text(encoding="utf-8"))
    assert summary["simulated"] is True and summary["metrics"]["dice"]["n"] == 5
    assert [found["class"] for found in summary["classes"]] == list(TISSUES)


def test_the_report_says_simulated_in_its_title_and_who_was_trained_on(evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    title = page[page.index("<title>") : page.index("</title>")]
    assert "SIMULATED" in title and "Disruptive autoencoder" in title
    assert "4 of 5 cases were trained on" in page and "deep grey matter" in page
    assert "http://" not in page.replace("http://www.w3.org", ""), "the page is self-contained"


def test_the_trivial_rule_is_evaluated_like_a_network_and_needs_no_weights(trained_dae: Any, tmp_path: Path) -> None:
    evaluate(trained_dae, tmp_path, "variant_intensity_rule.json", evaluate_on="all")
    dice = [float(row["dice"]) for row in read_csv(tmp_path / "metrics.csv")]
    assert 0.1 < np.mean(dice) < 0.5, "place and shape are needed"
    assert "Rule on intensity" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_settings_that_the_weights_were_not_trained_with_are_refused(trained_dae: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        evaluate(trained_dae, tmp_path, "variant_zscore.json")
    assert "trained with other settings than normalisation" in messages(caught.value) and '"percentiles"' in messages(caught.value)


def test_an_unknown_part_to_evaluate_on_is_refused_with_the_parts_there_are(trained_dae: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        evaluate(trained_dae, tmp_path, evaluate_on="tests")
    assert messages(caught.value) == "evaluate_on: got 'tests', expected one of train, validate, all."


def test_flips_smooth_borders_and_large_components_are_an_overlay_of_any_evaluation(trained_dae: Any, tmp_path: Path) -> None:
    evaluate(trained_dae, tmp_path, "variant_postprocessing.json")
    summary = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))
    assert summary["facts"]["tta_axes"] == [0, 1, 2] and summary["facts"]["largest_components"] == "all"


# --- inference --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scans(trained_dae: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scan as it is, and with its axes turned."""
    folder = tmp_path_factory.mktemp("scans")
    image = nibabel.load(read_feta(trained_dae.dataset_dir)[0]["image"][0])
    nibabel.save(image, folder / "plain.nii.gz")
    turn = np.zeros((4, 4))
    turn[[2, 0, 1, 3], [0, 1, 2, 3]] = 1, -1, 1, 1
    array = np.asarray(image.dataobj)
    turn[0, 3] = array.shape[0] - 1
    nibabel.save(nibabel.Nifti1Image(np.transpose(array[::-1], (2, 0, 1)), image.affine @ turn), folder / "turned.nii.gz")
    return folder


@pytest.fixture(scope="module")
def predicted(trained_dae: Any, scans: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("predicted")
    infer(trained_dae, scans, output, save_pictures="true", save_entropy="true", save_probability="true")
    return output


@pytest.mark.parametrize("case", ["plain", "turned"])
def test_labels_and_maps_lie_on_the_grid_of_their_source(case: str, predicted: Path, scans: Path) -> None:
    source = nibabel.load(scans / f"{case}.nii.gz")
    for kind, dtype in (("dseg", np.uint8), ("entropy", np.float32), ("probability", np.float32)):
        image = nibabel.load(predicted / f"{case}_{kind}.nii.gz")
        assert image.shape == source.shape and image.get_data_dtype() == dtype
        np.testing.assert_allclose(image.affine, source.affine, atol=1e-5)
    labels, probability = voxels(predicted / f"{case}_dseg.nii.gz"), voxels(predicted / f"{case}_probability.nii.gz")
    assert set(np.unique(labels)) <= set(range(8)) and labels.any()
    assert probability.min() >= 1 / 8 - 1e-5 and probability.max() <= 1 + 1e-5, "of the most probable of eight"
    assert voxels(predicted / f"{case}_entropy.nii.gz").max() <= 1 + 1e-5


def test_turned_axes_give_the_same_labels(predicted: Path) -> None:
    one, other = (voxels(predicted / f"{case}_dseg.nii.gz") for case in ("plain", "turned"))
    assert np.mean(one != np.transpose(other, (1, 2, 0))[::-1]) < 1e-3


def test_inference_lists_the_volume_of_each_class_and_draws_it_when_asked(predicted: Path) -> None:
    rows = {row["id"]: row for row in read_csv(predicted / "volumes.csv")}
    assert set(rows) == {"plain", "turned"}
    labels = nibabel.load(predicted / "plain_dseg.nii.gz")
    voxel_ml = float(np.prod(labels.header.get_zooms())) / 1000
    assert float(rows["plain"]["white_matter_ml"]) == pytest.approx(voxel_ml * (np.asarray(labels.dataobj) == 3).sum(), rel=1e-4)
    assert (predicted / "plain_dseg.png").read_bytes().startswith(b"\x89PNG")
    assert (predicted / "inference_config.json").is_file()


def test_folds_and_rounds_vote_by_their_mean_softmax(trained_dae: Any, scans: Path, predicted: Path, tmp_path: Path) -> None:
    other = tmp_path / "fold_1"
    shutil.copytree(trained_dae.ckpt_dir, other, ignore=shutil.ignore_patterns("pretrain", "checkpoint_last.pt"))
    noise = torch.Generator().manual_seed(0)
    state = read_model(other)
    for value in state.values():
        if value.is_floating_point():
            value += 0.2 * torch.randn(value.shape, generator=noise)
    torch.save(state, other / "model.pt")
    shares = {}
    for name, folders in (("one", [str(other)]), ("both", [str(trained_dae.ckpt_dir), str(other)])):
        infer(trained_dae, scans / "plain.nii.gz", tmp_path / name, ckpt_dirs=folders, save_probability="true")
        shares[name] = voxels(tmp_path / name / "plain_probability.nii.gz")
    first = voxels(predicted / "plain_probability.nii.gz")
    assert np.abs(shares["both"] - first).max() > 1e-3 and np.abs(shares["one"] - first).max() > 1e-3
    assert np.all(shares["both"] <= (first + shares["one"]) / 2 + 1e-4), "the largest mean is below the mean of the largest"


def test_predict_takes_one_file(
    trained_dae: Any, scans: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("", "brain_bundles"):  # predict sets up logging to this test's own stdout
        monkeypatch.setattr(logging.getLogger(name), "handlers", list(logging.getLogger(name).handlers))
    words = [NAME, "--t2w", str(scans / "plain.nii.gz"), str(tmp_path), "--weights", str(trained_dae.ckpt_dir), "--device", "cpu", "--demo"]
    assert predict(words) == 0
    printed = capsys.readouterr().out
    assert "SIMULATED" in printed and "ventricles_ml" in printed
    assert (tmp_path / "plain_dseg.nii.gz").is_file() and (tmp_path / "plain_dseg.png").is_file()


def test_missing_weights_are_named_with_what_to_do(trained_dae: Any, scans: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        infer(trained_dae, scans, tmp_path, ckpt_dir=str(tmp_path / "nowhere"), **SMALL_NET)
    assert "no weights at" in messages(caught.value) and "train first" in messages(caught.value)


# --- from other weights -----------------------------------------------------------------------------------------


def test_weights_of_another_number_of_classes_and_of_input_channels_are_fine_tuned_with_a_clear_report(
    trained_dae: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(3)
    torch.save(SwinUNETR(2, 14, feature_size=12, depths=(1, 1, 1, 1), window_size=3).state_dict(), tmp_path / "model.pt")
    state = fine_tune(trained_dae, tmp_path, pretrained=str(tmp_path / "model.pt"), learning_rate=0.0)
    printed = capsys.readouterr().out
    assert "skipped: 14 outputs there, 8 here" in printed and "adapted: 2 input channels there, 1 here" in printed
    source = torch.load(tmp_path / "model.pt", weights_only=True)
    first = "swinViT.patch_embed.proj.weight"
    torch.testing.assert_close(state[first], source[first].sum(dim=1, keepdim=True), msg="equal channels give equal features")
    assert torch.equal(state["decoder3.conv_block.conv1.conv.weight"], source["decoder3.conv_block.conv1.conv.weight"])
    assert len(state["out.conv.conv.weight"]) == 8
    told = json.loads((tmp_path / "eval" / "transfer.json").read_text(encoding="utf-8"))
    assert "14 outputs there, 8 here" in told["skipped_because"] and "no transfer.json beside it" in " ".join(told["notes"])


def test_what_is_carried_over_is_what_the_training_begins_with(trained_dae: Any, tmp_path: Path) -> None:
    before = read_model(trained_dae.ckpt_dir / "pretrain")
    carried = fine_tune(trained_dae, tmp_path / "both", learning_rate=0.0)
    fresh = fine_tune(trained_dae, tmp_path / "none", pretrained="none", learning_rate=0.0)
    for name in ("swinViT.layers4.0.blocks.0.attn.qkv.weight", "decoder2.conv_block.conv1.conv.weight"):
        assert torch.equal(carried[name], before[name]) and not torch.equal(fresh[name], before[name])
    for name in ("out.conv.conv.weight", "encoder1.layer.conv1.conv.weight"):
        assert torch.equal(carried[name], fresh[name]), "what was not carried is drawn as from scratch"


def test_weights_that_cannot_fit_are_refused_in_words(trained_dae: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        fine_tune(trained_dae, tmp_path, feature_size=24)
    assert "feature_size: the weights have 12, the network 24; give --feature_size 12" in messages(caught.value)
    with pytest.raises(RuntimeError) as caught:
        fine_tune(trained_dae, tmp_path, pretrained=str(tmp_path / "gone"))
    assert "There are no pre-trained weights at" in messages(caught.value)


def test_pretrained_weights_that_were_made_otherwise_do_not_pass_for_those_asked_for(trained_dae: Any, tmp_path: Path) -> None:
    shutil.copytree(trained_dae.ckpt_dir / "pretrain", tmp_path / "models" / "pretrain")
    with pytest.raises(RuntimeError) as caught:
        train_bundle(NAME, trained_dae, tmp_path, "variant_mae.json")
    text = messages(caught.value)
    assert "holds weights of another pre-training" in text and "token_ratio is 0.0, asked for is 0.6" in text


def test_cka_tells_stage_by_stage_how_alike_both_encoders_see(trained_dae: Any, scans: Path, tmp_path: Path) -> None:
    folders = [str(trained_dae.ckpt_dir / "pretrain"), str(trained_dae.ckpt_dir)]
    similarity(*folders, images=str(scans), output=str(tmp_path / "cka.csv"))
    similarity(folders[1], folders[1], images=str(scans), output=str(tmp_path / "same.csv"))
    rows, same = read_csv(tmp_path / "cka.csv"), read_csv(tmp_path / "same.csv")
    assert [int(row["channels"]) for row in rows] == [12, 24, 48, 96, 192]
    assert all(float(row["cka"]) == pytest.approx(1) for row in same)
    assert all(0 <= float(row["cka"]) <= 1 for row in rows) and min(float(row["cka"]) for row in rows) < 1


# --- variants, repetition and resumption, in one warm process ---------------------------------------------------


@pytest.mark.parametrize("variant", [*FINE_TUNING, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_FINE_TUNING)])
def test_every_variant_of_the_fine_tuning_trains_and_gives_other_weights(variant: str, trained_dae: Any, tmp_path: Path) -> None:
    state = fine_tune(trained_dae, tmp_path, variant, **SMALL_VARIANT.get(variant, {}))
    assert all(bool(value.isfinite().all()) for value in state.values())
    base = read_model(trained_dae.ckpt_dir)
    assert state.keys() != base.keys() or differing(base, state)


def test_no_variant_is_forgotten() -> None:
    named = {"variant_intensity_rule.json", "variant_postprocessing.json", "variant_cmcl_paper.json"}
    named |= {*FINE_TUNING, *SLOW_FINE_TUNING, *OTHER_PRETRAINING}
    assert named == {path.name for path in CONFIGS.glob("variant_*.json")}


@pytest.mark.slow
@pytest.mark.parametrize("variant", OTHER_PRETRAINING)
def test_every_variant_of_the_pretraining_runs_before_its_fine_tuning(variant: str, trained_dae: Any, tmp_path: Path) -> None:
    train_bundle(NAME, trained_dae, tmp_path, variant)
    own, base = (read_model(folder / "pretrain") for folder in (tmp_path / "models", trained_dae.ckpt_dir))
    assert own.keys() != base.keys() or differing(base, own)


@pytest.mark.parametrize("variant", ["variant_segresnet.json", pytest.param("variant_unetr.json", marks=pytest.mark.slow)])
def test_weights_of_other_networks_are_evaluated_and_used_with_the_same_overlay(
    variant: str, trained_dae: Any, scans: Path, tmp_path: Path
) -> None:
    small = SMALL_VARIANT[variant]
    fine_tune(trained_dae, tmp_path, variant, **small)
    evaluate(trained_dae, tmp_path / "eval", variant, ckpt_dir=str(tmp_path / "models"), **small)
    assert all(0 <= float(row["dice"]) <= 1 for row in read_csv(tmp_path / "eval" / "metrics.csv"))
    infer(trained_dae, scans / "plain.nii.gz", tmp_path / "made", variant, ckpt_dir=str(tmp_path / "models"), **small)
    assert voxels(tmp_path / "made" / "plain_dseg.nii.gz").shape == voxels(scans / "plain.nii.gz").shape


def test_abdominal_organs_are_an_overlay_of_everything(trained_dae: Any, tmp_path: Path) -> None:
    data = simulate_btcv(tmp_path / "cohort", subjects=2, seed=1, spacing_mm=8.0, slice_mm=10.0)
    own = {"dataset_dir": str(data), "folds": 2, "spacing_mm": [8.0, 8.0, 10.0]}
    state = fine_tune(trained_dae, tmp_path, "btcv.json", **own)
    assert len(state["out.conv.conv.weight"]) == 14
    where = own | {"ckpt_dir": str(tmp_path / "models")}
    evaluate(trained_dae, tmp_path / "eval", "btcv.json", **where)
    assert {"pancreas_dice", "left_adrenal_gland_hd95_mm"} <= set(read_csv(tmp_path / "eval" / "metrics.csv")[0])
    source = next(Path(data).rglob("img0001.nii.gz"))
    words = [NAME, "--ct", str(source), str(tmp_path / "made"), "--weights", str(tmp_path / "models"), "--device", "cpu", "--demo"]
    assert predict(words) == 0, "the input is called as the weights call it"
    labels = nibabel.load(tmp_path / "made" / "img0001_dseg.nii.gz")
    assert labels.shape == nibabel.load(source).shape


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_the_next_seed_others(trained_dae: Any, tmp_path: Path) -> None:
    torch.rand(7)  # a generator in another state must not matter
    off = dict.fromkeys(("amp", "resume", "use_checkpoint", "fill_holes"), "false")
    again = fine_tune(trained_dae, tmp_path / "again", **off)
    assert differing(read_model(trained_dae.ckpt_dir), again) == [], "the first is from another process, by the command line"
    other = fine_tune(trained_dae, tmp_path / "other", seed=7)
    assert differing(again, other)


class KilledError(Exception):
    """Stands for a kill inside the test's own process."""


def test_a_killed_fine_tuning_goes_on_to_the_same_weights(trained_dae: Any, tmp_path: Path) -> None:
    def kill(engine: Any) -> None:
        raise KilledError

    settings = {"max_epochs": 2, "warmup_epochs": 1, "pretrained": str(trained_dae.ckpt_dir / "pretrain")}
    whole = fine_tune(trained_dae, tmp_path / "whole", **settings)
    folder = tmp_path / "killed"
    paths = trained_dae.paths | {"ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval")}
    workflow = make_workflow("train.json", "smoke.json", **paths, **settings)
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train::trainer")
    trainer.add_event_handler(Events.EPOCH_STARTED(once=2), kill)
    with pytest.raises(Exception):  # noqa: B017 - MONAI wraps it
        workflow.run()
    resumed = fine_tune(trained_dae, folder, resume=True, **settings)
    assert differing(whole, resumed) == []
    assert [row["epoch"] for row in read_csv(folder / "eval" / "training.csv")] == ["1", "2"]
