"""Neonatal INR end to end: what the bundle promises, on weights that one subprocess trained at smoke size."""

from __future__ import annotations

import json
import logging
import shutil
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from ignite.engine import Events
from monai.bundle import verify_metadata, verify_net_in_out

from common.data.dhcp import read_dhcp
from common.growth_weights import main as strip
from common.networks.latent_table import FLIP, GLOBAL
from common.packaging import ROOT, build_archive
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

CONFIGS = configs_of("neonatal_inr")
# what smoke.json trains; inference.json reads it beside the weights
SMALL_NET = {"dims": 2, "latent_size": 8, "width": 16, "layers": 3}
SMALL = {"fit_voxels": 256, "fit_check": 256, "fit_iterations": 4}
SMALL_VARIANT: dict[str, dict[str, Any]] = {"variant_encoder.json": {"encoder_epochs": 1, "encoder_channels": [2, 2]}}
FITS = ("variant_adamw_fit.json", "variant_neighbours.json")  # for weights of the plain training
VARIANTS = sorted(path.name for path in CONFIGS.glob("variant_*.json") if path.name not in (*FITS, "variant_2d.json"))
make_workflow = partial(workflow_of, "neonatal_inr")
train_small, evaluate = partial(train_bundle, "neonatal_inr"), partial(evaluate_bundle, "neonatal_inr")


def infer(trained: Any, dataset_dir: Path, output: Path, *overlays: str, **overrides: Any) -> None:
    paths = trained.paths | {"dataset_dir": str(dataset_dir), "output_dir": str(output)}
    run(make_workflow("inference.json", *overlays, kind="infer", **paths | SMALL | overrides))


def names_in(state: dict[str, torch.Tensor]) -> list[str]:
    """The identities of a file of weights."""
    return bytes(state["latents.identity_names"].tolist()).decode().split("\n")


# --- before anything is trained ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("names", "kind"), [(("train.json", "smoke.json"), "train"), (("inference.json",), "infer")])
def test_no_property_that_other_tools_look_for_is_missing(names: tuple[str, ...], kind: str, trained_inr: Any, tmp_path: Path) -> None:
    workflow = make_workflow(*names, kind=kind, **trained_inr.paths | {"output_dir": str(tmp_path)}, **SMALL_NET)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_metadata_holds_to_the_schema() -> None:
    verify_metadata(meta_file=str(CONFIGS / "metadata.json"), filepath=str(SCHEMA))


def test_metadata_agrees_with_the_config() -> None:
    metadata = json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))["network_data_format"]
    network = network_of_inference("neonatal_inr")
    image, pred = metadata["inputs"]["image"], metadata["outputs"]["pred"]
    assert next(iter(metadata["inputs"])) == "image" and next(iter(metadata["outputs"])) == "pred"
    assert image["num_channels"] == len(image["channel_def"]) == 1 + network.inr.dims == 4
    output = network(torch.rand(1, 5, image["num_channels"]), torch.zeros(1, dtype=torch.int64))
    assert output.shape == (1, 5, pred["num_channels"])
    assert sum(value.numel() for value in network.inr.parameters()) == 232_450, "the paper's number"


def test_verify_net_in_out_knows_no_latents_and_so_cannot_pass() -> None:
    files = {"meta_file": str(CONFIGS / "metadata.json"), "config_file": str(CONFIGS / "inference.json")}
    with pytest.raises(TypeError, match="rows"):
        verify_net_in_out(net_id="network_def", **files, device="cpu", n=1)


def test_inference_prepares_scans_exactly_as_training_does() -> None:
    train, inference = (json.loads((CONFIGS / name).read_text(encoding="utf-8")) for name in ("train.json", "inference.json"))
    during = {step["_target_"]: step for step in train["prepare"]["transforms"]}
    for step in inference["preprocessing"]["transforms"][2:]:
        own = ("reference", "keys")  # inference takes the file that training made, and knows no labels
        other = during[step["_target_"]]
        assert {key: value for key, value in step.items() if key not in own} == {k: v for k, v in other.items() if k not in own}


# --- the user's command, run once -------------------------------------------------------------------------------


def test_training_from_the_repository_root_writes_what_is_promised(trained_inr: Any) -> None:
    written = {path.relative_to(trained_inr.root).as_posix() for path in trained_inr.root.rglob("*") if path.is_file()}
    promised = {f"models/{name}" for name in ("model.pt", "member_0.pt", "checkpoint_last.pt", "weights.json")}
    promised |= {f"eval/{name}" for name in ("training.csv", "resources.json", "split.json", "train_config.json")}
    assert promised <= written
    assert any(path.startswith("data/prepared/") for path in written)
    for path in promised:
        assert str(trained_inr.root / path) in trained_inr.output, "every path is printed"


def test_training_says_that_these_are_no_patients_and_names_loss_and_metric(trained_inr: Any) -> None:
    for text in ("SIMULATED DATA: these are not patients", "train epoch 1/2: loss", "val_psnr"):
        assert text in trained_inr.output
    record = json.loads((trained_inr.ckpt_dir / "weights.json").read_text(encoding="utf-8"))
    assert record["simulated"] is True and record["cohort"]["subjects"] == 8
    assert 26 <= record["trained_ages"][0] < record["trained_ages"][1] <= 45
    assert set(record["settings"]) <= set(json.loads((CONFIGS / "inference.json").read_text(encoding="utf-8"))), "predict gives them all"


def test_model_is_a_bare_state_dict_with_a_latent_for_every_trained_child_and_its_mirror_image(trained_inr: Any) -> None:
    state = read_model(trained_inr.ckpt_dir)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    network_of_inference("neonatal_inr", **SMALL_NET).load_state_dict(state)
    trained = json.loads((trained_inr.output_dir / "split.json").read_text(encoding="utf-8"))["train"]
    children = {name.split("_")[0] for name in trained}
    assert set(names_in(state)) == {GLOBAL, *children, *(child + FLIP for child in children)}
    assert len(children) < len(trained), "children with several scans have one latent"
    assert not state["latents.weight"][0].any(), "the global latent stays zero"
    assert bool(state["latents.weight"][1:].any())


# --- evaluation -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(trained_inr: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return evaluate(trained_inr, tmp_path_factory.mktemp("evaluated"))


def test_evaluation_writes_both_directions_of_each_tested_child_with_baselines_beside_it(evaluated: Path, trained_inr: Any) -> None:
    tested = json.loads((trained_inr.output_dir / "split.json").read_text(encoding="utf-8"))["test"]
    rows = read_csv(evaluated / "metrics.csv")
    assert {row["method"] for row in rows} == {"inr", "copy", "neighbours"}
    assert sorted(row["input"] for row in rows if row["method"] == "inr") == sorted(tested)
    for row in rows:
        assert row["input"] != row["target"] and row["input"].split("_")[0] == row["subject"]
    own = next(row for row in rows if row["method"] == "inr")
    assert 20 <= float(own["age_estimate_weeks"]) <= 50 and float(own["fit_psnr_db"]) > 0
    assert {"psnr_db", "ssim", "mae", "ssim_brain", "slice_perimeter_cm", "age_from_brain_size_weeks"} <= set(own)


def test_the_summary_knows_the_cell_of_the_ablation_and_the_report_says_simulated(evaluated: Path) -> None:
    summary = json.loads((evaluated / "summary.json").read_text(encoding="utf-8"))
    assert summary["simulated"] is True and summary["method"] == "inr"
    assert summary["facts"] == {"dims": 2, "ssl": True, "sgla_prob": 0.1, "fit": "lm", "neighbours": 3}
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    title = page[page.index("<title>") : page.index("</title>")]
    assert "SIMULATED" in title and "Neonatal INR" in title
    assert "PSNR (dB)" in page and "slice perimeter (cm)" in page.lower()
    assert "were trained on" not in page, "tested children were not"


def test_the_baseline_is_evaluated_like_the_network_and_needs_no_weights(evaluated: Path, trained_inr: Any, tmp_path: Path) -> None:
    evaluate(trained_inr, tmp_path, "variant_neighbours.json")
    alone, beside = ({row["id"]: row for row in read_csv(folder / "metrics.csv") if row["method"] == "neighbours"}
                     for folder in (tmp_path, evaluated))  # fmt: skip
    assert {key: row["psnr_db"] for key, row in alone.items()} == {key: row["psnr_db"] for key, row in beside.items()}
    assert json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["method"] == "neighbours"


@pytest.mark.slow
def test_on_another_cohort_baselines_look_at_the_one_that_was_trained_on(
    trained_inr: Any, evaluated: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(trained_inr.root / "data" / "simulated", tmp_path / "data" / "simulated")
    other = {"simulated::seed": 5, "simulated::subjects": 2, "simulated::repeated": 1.0, "evaluate_on": "all", "dataset_dir": None}
    evaluate(trained_inr, tmp_path / "other", estimate_ages="false", **other, bundle_root=str(tmp_path))
    assert len(list((tmp_path / "data" / "simulated").iterdir())) == 2
    rows = read_csv(tmp_path / "other" / "metrics.csv")
    assert len({row["subject"] for row in rows}) == 2 and "age_estimate_weeks" not in rows[0]
    assert "Baselines look at the other children" not in caplog.text


def test_settings_that_the_weights_were_not_trained_with_are_refused(trained_inr: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        evaluate(trained_inr, tmp_path, "variant_no_ssl.json")
    assert "trained with other settings than ssl false. Give: --ssl true" in messages(caught.value)


def test_an_unknown_part_to_evaluate_on_is_refused_with_the_parts_there_are(trained_inr: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        evaluate(trained_inr, tmp_path, evaluate_on="tests")
    assert messages(caught.value) == "evaluate_on: got 'tests'; expected one of train, validate, test, all."


def test_the_papers_fit_takes_the_same_weights(trained_inr: Any, tmp_path: Path) -> None:
    rows = read_csv(evaluate(trained_inr, tmp_path, "variant_adamw_fit.json") / "metrics.csv")
    own = [row for row in rows if row["method"] == "inr"]
    assert all(np.isfinite(float(row["psnr_db"])) for row in own)
    assert not any(row.get("age_estimate_weeks") for row in own), "AdamW estimates no ages"


# --- inference --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def scan(trained_inr: Any) -> dict[str, Any]:
    """One scan of the cohort."""
    return read_dhcp(trained_inr.dataset_dir)[0]


@pytest.fixture(scope="module")
def table(scan: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scan twice in a table of one's own: once with its age, once without."""
    folder = tmp_path_factory.mktemp("table")
    for kind in ("image", "brain"):
        file = scan[kind][0] if kind == "image" else scan[kind]
        shutil.copy(file, folder / f"{kind}.nii.gz")
    lines = ["subject,t2w,brain,age", f"known,image.nii.gz,brain.nii.gz,{scan['age']}", "unknown,image.nii.gz,brain.nii.gz,"]
    (folder / "scans.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def test_a_scan_with_and_without_its_age_is_predicted_at_the_ages_asked_for(trained_inr: Any, table: Path, tmp_path: Path) -> None:
    infer(trained_inr, table, tmp_path, ages=[30.0, 40.0])
    rows = {row["id"]: row for row in read_csv(tmp_path / "fits.csv")}
    assert rows["unknown"]["age_weeks"] == "nan" and 26 < float(rows["known"]["age_weeks"]) < 45
    for name, row in rows.items():
        assert 20 <= float(row["age_estimate_weeks"]) <= 50 and float(row["fit_psnr_db"]) > 0
        growth = nibabel.load(tmp_path / f"{name}_growth.nii.gz")
        assert growth.shape == (40, 48, 1, 2) and growth.get_data_dtype() == np.float32
        assert json.loads((tmp_path / f"{name}_growth.json").read_text())["ages_weeks"] == [30.0, 40.0]
        assert (tmp_path / f"{name}_growth.gif").read_bytes().startswith(b"GIF")
        assert (tmp_path / f"{name}_growth.png").read_bytes().startswith(b"\x89PNG")
    assert float(rows["known"]["age_estimate_weeks"]) == pytest.approx(float(rows["unknown"]["age_estimate_weeks"]))


@pytest.mark.parametrize("align", ["centre", pytest.param("rigid", marks=pytest.mark.slow)])
def test_in_3d_growth_lies_on_the_grid_of_its_source_and_the_atlas_has_circumferences(align: str, trained_inr: Any, tmp_path: Path) -> None:
    small = {"dims": 3, "align": align}
    train_small(trained_inr, tmp_path, max_epochs=1, **small)
    assert (tmp_path / "models" / "reference.npz").is_file() == (align == "rigid")
    case = trained_inr.dataset_dir / "sub-CC00050XX01"
    only = tmp_path / "only" / case.name
    shutil.copytree(case, only)
    where = {"ckpt_dir": str(tmp_path / "models")}
    infer(trained_inr, only.parent, tmp_path / "made", ages=[32.0], save_pictures="false", estimate_age="false", **where)
    (source,) = [nibabel.load(path) for path in only.rglob("*restore_T2w.nii.gz")][:1]
    growth = nibabel.load(next((tmp_path / "made").glob("*_growth.nii.gz")))
    assert growth.shape == (*source.shape, 1)
    np.testing.assert_allclose(growth.affine, source.affine, atol=1e-4)
    assert not list((tmp_path / "made").glob("*.gif"))
    infer(trained_inr, only.parent, tmp_path / "atlas", "atlas.json", ages=[30.0, 40.0], **where)
    rows = read_csv(tmp_path / "atlas" / "atlas.csv")
    assert [row["brain"] for row in rows] == ["zero latent"] * 2 + ["mean latent"] * 2
    assert all(float(row["circumference_cm"]) > 0 for row in rows)
    assert nibabel.load(tmp_path / "atlas" / "atlas_zero.nii.gz").shape == (40, 48, 40, 2)
    assert {"figure_4a.png", "figure_4b.png", "atlas_mean.gif"} <= {path.name for path in (tmp_path / "atlas").iterdir()}


def test_predict_takes_a_scan_its_mask_and_its_age(
    trained_inr: Any, scan: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("", "brain_bundles"):  # predict sets up logging to this test's own stdout
        monkeypatch.setattr(logging.getLogger(name), "handlers", list(logging.getLogger(name).handlers))
    words = ["neonatal_inr", "--t2w", scan["image"][0], "--brain", scan["brain"], "--age", "38.5", str(tmp_path)]
    assert predict([*words, "--weights", str(trained_inr.ckpt_dir), "--demo", "--device", "cpu"]) == 0
    (row,) = read_csv(tmp_path / "fits.csv")
    assert row["age_weeks"] == "38.5"
    printed = capsys.readouterr().out
    assert "SIMULATED" in printed and "fit_psnr_db" in printed
    assert predict([*words[:5], "--age", "old", str(tmp_path), "--demo", "--weights", str(trained_inr.ckpt_dir)]) == 1
    assert "--age: the age 'old' is not a number" in capsys.readouterr().err


def test_missing_weights_are_named_with_what_to_do(trained_inr: Any, table: Path, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        infer(trained_inr, table, tmp_path, ckpt_dir=str(tmp_path / "nowhere"), **SMALL_NET)
    assert "no weights at" in messages(caught.value) and "train first" in messages(caught.value)


# --- children in weights ----------------------------------------------------------------------------------------


def test_weights_without_the_children_predict_the_same(trained_inr: Any, table: Path, tmp_path: Path) -> None:
    strip([str(trained_inr.ckpt_dir), str(tmp_path / "public")])
    state = read_model(tmp_path / "public")
    assert names_in(state) == [GLOBAL]
    assert "trained_on" not in json.loads((tmp_path / "public" / "weights.json").read_text(encoding="utf-8"))
    for name, folder in (("own", trained_inr.ckpt_dir), ("public", tmp_path / "public")):
        infer(trained_inr, table, tmp_path / name, ckpt_dir=str(folder), fit_start="mean", ages=[35.0], save_pictures="false")
    own, public = (np.asarray(nibabel.load(tmp_path / name / "known_growth.nii.gz").dataobj) for name in ("own", "public"))
    np.testing.assert_allclose(own, public, atol=1e-5)


def test_an_archive_holds_no_child(trained_inr: Any, tmp_path: Path) -> None:
    root = tmp_path / "checkout"
    leave = shutil.ignore_patterns("data", "eval", "models", "demo_weights")
    shutil.copytree(ROOT / "bundles" / "neonatal_inr", root / "bundles" / "neonatal_inr", ignore=leave)
    shutil.copytree(trained_inr.ckpt_dir, root / "bundles" / "neonatal_inr" / "demo_weights")
    with zipfile.ZipFile(build_archive("neonatal_inr", tmp_path, root)) as archive:
        archive.extractall(tmp_path)
    for name in ("model.pt", "member_0.pt"):
        assert names_in(read_model(tmp_path / "neonatal_inr" / "models", name)) == [GLOBAL]


# --- variants, repetition and resumption, in one warm process ---------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_and_gives_other_weights(variant: str, trained_inr: Any, tmp_path: Path) -> None:
    state = train_small(trained_inr, tmp_path, variant, **SMALL_VARIANT.get(variant, {}))
    assert all(bool(value.isfinite().all()) for key, value in state.items() if key != "latents.identity_ages")
    base = read_model(trained_inr.ckpt_dir)
    assert state.keys() != base.keys() or differing(base, state)


@pytest.mark.parametrize("variant", ["variant_encoder.json", "variant_age_latents.json", "variant_labels.json"])
def test_variants_are_evaluated_with_the_same_overlays(variant: str, trained_inr: Any, tmp_path: Path) -> None:
    small = SMALL_VARIANT.get(variant, {})
    state = train_small(trained_inr, tmp_path, variant, **small)
    evaluate(trained_inr, tmp_path / "eval", variant, ckpt_dir=str(tmp_path / "models"), estimate_ages="false", **small)
    assert read_csv(tmp_path / "eval" / "metrics.csv")
    if variant == "variant_encoder.json":
        assert bool(state["encoder.head.weight"].any()), "the encoder has learned something"
    if variant == "variant_age_latents.json":
        assert not state["latents.identity_ages"][1:].isnan().any()
    if variant == "variant_labels.json":
        where = {"ckpt_dir": str(tmp_path / "models"), "ages": [30.0, 40.0]}
        infer(trained_inr, trained_inr.dataset_dir, tmp_path / "atlas", "atlas.json", **where)
        labels = nibabel.load(tmp_path / "atlas" / "labels_mean.nii.gz")
        assert labels.shape == (40, 48, 1, 2) and labels.get_data_dtype() == np.uint8


def test_without_ssl_every_scan_has_a_latent(trained_inr: Any, tmp_path: Path) -> None:
    state = train_small(trained_inr, tmp_path, "variant_plain.json", max_epochs=1)
    trained = json.loads((tmp_path / "eval" / "split.json").read_text(encoding="utf-8"))["train"]
    assert set(names_in(state)) == {GLOBAL, *trained, *(scan + FLIP for scan in trained)}


def test_latents_of_children_cannot_be_regressed_on_age(trained_inr: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        train_small(trained_inr, tmp_path, age_latents="true")
    assert "a latent of a subject has no one age; set ssl to false" in messages(caught.value)


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_the_next_seed_others(trained_inr: Any, tmp_path: Path) -> None:
    torch.rand(7)  # a generator in another state must not matter
    off = dict.fromkeys(("resume", "learned_global", "cosine_decay", "age_latents"), "false")
    again = train_small(trained_inr, tmp_path / "again", ssl="true", **off)
    assert differing(read_model(trained_inr.ckpt_dir), again) == [], "the first is from another process, by the command line"
    other = train_small(trained_inr, tmp_path / "other", seed=7)
    assert differing(again, other) and names_in(again) == names_in(other), "the split has a seed of its own"


class KilledError(Exception):
    """Stands for a kill inside the test's own process."""


def test_a_killed_training_goes_on_to_the_same_weights_latents_and_average(trained_inr: Any, tmp_path: Path) -> None:
    def kill(engine: Any) -> None:
        raise KilledError

    settings = {"max_epochs": 3, "ema_decay": 0.9, "cosine_decay": True, "max_train_hours": 10}
    whole = train_small(trained_inr, tmp_path / "whole", **settings)
    folder = tmp_path / "killed"
    paths = trained_inr.paths | {"ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval")}
    workflow = make_workflow("train.json", "smoke.json", **paths, **settings)
    workflow.initialize()
    workflow.parser.get_parsed_content("train::trainer").add_event_handler(Events.EPOCH_STARTED(once=2), kill)
    with pytest.raises(Exception):  # noqa: B017 - MONAI wraps it
        workflow.run()
    resumed = train_small(trained_inr, folder, resume=True, **settings)
    assert differing(whole, resumed) == []
    assert [row["epoch"] for row in read_csv(folder / "eval" / "training.csv")] == ["1", "2", "3"]


def test_weights_given_bring_their_latents_by_name(trained_inr: Any, tmp_path: Path) -> None:
    given = read_model(trained_inr.ckpt_dir)
    fixed = {"learning_rate": 0.0, "latent_rate": 0.0, "weight_decay": 0.0, "max_epochs": 1}
    state = train_small(trained_inr, tmp_path, weights=str(trained_inr.ckpt_dir / "model.pt"), **fixed)
    assert differing(given, state) == []


def test_a_used_up_time_ends_the_training_with_a_model(trained_inr: Any, tmp_path: Path) -> None:
    train_small(trained_inr, tmp_path, max_epochs=50, val_interval=50, max_train_hours=1e-7)
    assert len(read_csv(tmp_path / "eval" / "training.csv")) == 1
