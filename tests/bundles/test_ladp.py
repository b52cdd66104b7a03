"""LADP end to end: what the bundle promises, on weights that one subprocess trained at smoke size."""

from __future__ import annotations

import json
import logging
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import itk
import numpy as np
import pytest
import torch
from monai.bundle import ckpt_export, verify_metadata, verify_net_in_out

from common.errors import UserError
from tests.bundles.in_process import NO_WEIGHTS, SCHEMA, configs_of, network_of_inference, read_csv, run, workflow_of

CONFIGS = configs_of("ladp")
SMALL_NET = {"image_size": 32, "width": 0.0625}  # what smoke.json trains; inference.json reads it beside the weights
make_workflow = partial(workflow_of, "ladp")
small_network = partial(network_of_inference, "ladp", **SMALL_NET)
VARIANTS = sorted(path.name for path in CONFIGS.glob("variant_*.json") if path.name != "variant_zscore_rule.json")


# --- before anything is trained ---------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), [("train.json", "train"), ("inference.json", "infer")])
def test_no_property_that_other_tools_look_for_is_missing(name: str, kind: str, trained_ladp: Any, tmp_path: Path) -> None:
    workflow = make_workflow(name, kind=kind, **trained_ladp.paths | {"output_dir": str(tmp_path)}, **SMALL_NET)
    workflow.initialize()
    assert workflow.check_properties() == []


def test_metadata_holds_to_the_schema() -> None:
    verify_metadata(meta_file=str(CONFIGS / "metadata.json"), filepath=str(SCHEMA))


@pytest.mark.parametrize("key", ["version", "network_data_format", "required_packages_version"])
def test_the_schema_misses_what_is_left_out(key: str, tmp_path: Path) -> None:
    metadata = json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))
    del metadata[key]
    (tmp_path / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    with pytest.raises(ValueError, match=key):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=str(SCHEMA))


def test_metadata_agrees_with_the_config() -> None:
    metadata = json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))["network_data_format"]
    config = json.loads((CONFIGS / "train.json").read_text(encoding="utf-8"))
    image, pred = metadata["inputs"]["image"], metadata["outputs"]["pred"]
    assert next(iter(metadata["inputs"])) == "image" and next(iter(metadata["outputs"])) == "pred"
    assert image["num_channels"] == len(image["channel_def"]) == len(config["inputs"])
    assert pred["num_channels"] == config["network_def"]["network"]["out_channels"]


def test_the_network_has_the_inputs_and_outputs_of_its_metadata(tmp_path: Path) -> None:
    verify_net_in_out(
        net_id="network_def",
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=str(CONFIGS / "inference.json"),
        device="cpu",
        n=1,
        width=SMALL_NET["width"],
        ckpt_dir=NO_WEIGHTS,
    )


def test_inference_prepares_images_exactly_as_validation_does() -> None:
    train, inference = (json.loads((CONFIGS / name).read_text(encoding="utf-8")) for name in ("train.json", "inference.json"))
    during = train["validate"]["preprocessing"]["transforms"]
    after = inference["preprocessing"]["transforms"]
    assert during[1:] == after[1:]
    assert during[0] | {"keys": ["image"]} == after[0]


# --- the user's command, run once -------------------------------------------------------------------------------


def test_training_from_the_repository_root_writes_what_is_promised(trained_ladp: Any) -> None:
    written = {path.relative_to(trained_ladp.root).as_posix() for path in trained_ladp.root.rglob("*") if path.is_file()}
    promised = {"models/model.pt", "models/checkpoint_last.pt", "models/weights.json", "eval/training.csv", "eval/train_config.json"}
    assert promised | {"eval/split.json"} <= written
    assert any(path.startswith("eval/tensorboard/") for path in written)
    assert not [path for path in written if "tmp" in Path(path).name]


def test_training_prints_every_path_it_wrote(trained_ladp: Any) -> None:
    for folder in (trained_ladp.ckpt_dir, trained_ladp.output_dir):
        for path in folder.rglob("*.*"):
            assert path.is_dir() or str(path) in trained_ladp.output


def test_training_without_data_says_loudly_that_these_are_not_patients(trained_ladp: Any) -> None:
    assert "SIMULATED DATA: these are not patients" in trained_ladp.output
    assert (trained_ladp.dataset_dir.parent / "SIMULATED.txt").is_file() or (trained_ladp.dataset_dir / "SIMULATED.txt").is_file()


def test_training_names_its_losses_and_says_how_long_it_will_take(trained_ladp: Any) -> None:
    for text in ("pretrain epoch 1/1: loss", "train epoch 1/1: loss", "val_mean_dice", "per batch on cpu"):
        assert text in trained_ladp.output
    assert {row["stage"] for row in read_csv(trained_ladp.output_dir / "training.csv")} == {"pretrain", "train"}


def test_model_is_a_bare_state_dict_that_any_cpu_loads_safely(trained_ladp: Any) -> None:
    state = torch.load(trained_ladp.ckpt_dir / "model.pt", map_location="cpu", weights_only=True)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    small_network().load_state_dict(state)
    assert bool((state["std"] > 0).all()) and not torch.equal(state["std"], torch.ones(2)), "normalisation travels with the weights"


def test_the_resume_file_holds_more_than_weights_and_loads_safely_too(trained_ladp: Any) -> None:
    state = torch.load(trained_ladp.ckpt_dir / "checkpoint_last.pt", map_location="cpu", weights_only=True)
    assert {"body", "network", "optimizer", "epoch", "stage", "seed"} <= set(state)


def test_the_merged_config_that_ran_is_saved(trained_ladp: Any) -> None:
    config = json.loads((trained_ladp.output_dir / "train_config.json").read_text(encoding="utf-8"))
    assert config["max_epochs"] == 1, "the overlay is in it"
    assert config["bundle_root"] == str(trained_ladp.root), "so is the command line"
    assert config["gamma"] == 0.95, "and so is what was left as it is"


# --- evaluation and inference on those weights ------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(trained_ladp: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("evaluated")
    (output / "training.csv").write_bytes((trained_ladp.output_dir / "training.csv").read_bytes())
    paths = trained_ladp.paths | {"output_dir": str(output)}
    run(make_workflow("train.json", "smoke.json", "evaluate.json", evaluate_on="all", **paths))
    return output


def test_evaluation_writes_a_row_per_case_a_summary_and_a_report(evaluated: Path, trained_ladp: Any) -> None:
    cases = sorted((trained_ladp.dataset_dir / "3LABEL").glob("*.mha"))
    rows = read_csv(evaluated / "metrics.csv")
    assert len(rows) == len(cases) == len({row["id"] for row in rows})
    assert {"id", "dice", "masd_mm", "nsd_2mm", "stratum"} <= set(rows[0])
    assert all(0 <= float(row["dice"]) <= 1 for row in rows)
    summary = json.loads((evaluated / "summary.json").read_text(encoding="utf-8"))
    assert summary["cases"] == len(cases) and summary["simulated"] is True
    config = json.loads((evaluated / "evaluate_config.json").read_text(encoding="utf-8"))
    assert config["evaluate_on"] == "all"


def test_a_report_on_simulated_data_says_so_in_its_title(evaluated: Path) -> None:
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    title = page[page.index("<title>") : page.index("</title>")]
    assert "SIMULATED" in title.upper()
    assert "LADP" in title
    assert "http://" not in page.replace("http://www.w3.org", ""), "the page is self-contained"


@pytest.fixture(scope="module")
def predicted(trained_ladp: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("predicted")
    paths = trained_ladp.paths | {"output_dir": str(output)}
    run(make_workflow("inference.json", kind="infer", save_vote_share="true", threshold=1e-6, **paths))
    return output


def geometry(image: Any) -> tuple[Any, ...]:
    size, direction = image.GetLargestPossibleRegion().GetSize(), itk.array_from_matrix(image.GetDirection())
    return tuple(size), tuple(image.GetSpacing()), tuple(image.GetOrigin()), direction.tolist()


def test_predictions_lie_on_the_grid_and_in_the_format_of_their_source(predicted: Path, trained_ladp: Any) -> None:
    sources = sorted((trained_ladp.dataset_dir / "1ADC_ss").glob("*.mha"))
    masks = sorted(predicted.glob("*lesion.mha"))
    assert len(masks) == len(sources)
    for source, mask in zip(sources, masks, strict=True):
        assert source.name.split("-ADC")[0] in mask.name
        before, after = itk.imread(str(source)), itk.imread(str(mask))
        assert geometry(before) == geometry(after)
        voxels = itk.array_from_image(after)
        assert np.issubdtype(voxels.dtype, np.integer) and set(np.unique(voxels)) <= {0, 1}
        # the low threshold calls everything lesion, so that this test would see a shifted or flipped grid
        inside = itk.array_from_image(before) > 0
        assert np.array_equal(voxels > 0, inside)


def test_inference_lists_every_case_and_writes_vote_shares_when_asked(predicted: Path, trained_ladp: Any) -> None:
    rows = read_csv(predicted / "lesions.csv")
    assert len(rows) == len(list((trained_ladp.dataset_dir / "1ADC_ss").glob("*.mha")))
    assert set(rows[0]) == {"id", "lesion_ml", "components", "percent_of_brain"}
    assert all(float(row["percent_of_brain"]) == pytest.approx(100, abs=1e-3) for row in rows)
    share = itk.array_from_image(itk.imread(str(next(iter(predicted.glob("*vote_share.mha"))))))
    assert share.dtype == np.float32 and share.min() >= 0 and share.max() <= 1
    assert (predicted / "inference_config.json").is_file()


def test_weights_of_another_size_are_refused_with_the_settings_they_were_trained_with(trained_ladp: Any, tmp_path: Path) -> None:
    paths = trained_ladp.paths | {"output_dir": str(tmp_path)}
    workflow = make_workflow("inference.json", kind="infer", **paths, width=0.125)
    with pytest.raises(Exception) as caught:
        run(workflow)
    text = messages(caught.value)
    assert "trained with another network" in text and "'width': 0.0625" in text


def test_measuring_what_was_trained_on_is_said_in_the_report(evaluated: Path, trained_ladp: Any, tmp_path: Path) -> None:
    trained = len(json.loads((trained_ladp.output_dir / "split.json").read_text(encoding="utf-8"))["train"])
    cases = len(list((trained_ladp.dataset_dir / "3LABEL").glob("*.mha")))
    assert f"{trained} of {cases} cases were trained on" in (evaluated / "report.html").read_text(encoding="utf-8")
    paths = trained_ladp.paths | {"output_dir": str(tmp_path)}
    run(make_workflow("train.json", "smoke.json", "evaluate.json", **paths))
    assert "cases were trained on" not in (tmp_path / "report.html").read_text(encoding="utf-8")
    run(
        make_workflow(
            "train.json", "smoke.json", "evaluate.json", "variant_zscore_rule.json", evaluate_on="all", **paths | {"ckpt_dir": None}
        )
    )
    assert "cases were trained on" not in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_an_unknown_part_to_evaluate_on_is_refused_with_the_parts_there_are(trained_ladp: Any, tmp_path: Path) -> None:
    paths = trained_ladp.paths | {"output_dir": str(tmp_path)}
    with pytest.raises(RuntimeError) as caught:
        run(make_workflow("train.json", "smoke.json", "evaluate.json", evaluate_on="test", **paths))
    assert messages(caught.value) == "evaluate_on: got 'test', expected one of train, validate, all."


@pytest.mark.parametrize("overlay", [(), ("variant_no_pretraining.json",)])
def test_a_size_that_cannot_be_pooled_is_refused_in_every_stage(overlay: tuple[str, ...], trained_ladp: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        train_small(trained_ladp, tmp_path, *overlay, image_size=48)
    assert messages(caught.value).startswith("image_size: got slices of (48, 48), expected multiples of 32")


def test_missing_weights_are_named_with_what_to_do(trained_ladp: Any, tmp_path: Path) -> None:
    paths = trained_ladp.paths | {"output_dir": str(tmp_path), "ckpt_dir": str(tmp_path / "nowhere")}
    with pytest.raises(Exception) as caught:
        run(make_workflow("inference.json", kind="infer", **paths, **SMALL_NET))
    assert "no weights at" in messages(caught.value) and "train first" in messages(caught.value)


def test_a_damaged_file_is_named_and_does_not_stop_the_others(trained_ladp: Any, tmp_path: Path) -> None:
    cohort = tmp_path / "BONBID2023_Train"
    shutil.copytree(trained_ladp.dataset_dir, cohort)
    damaged = sorted((cohort / "1ADC_ss").glob("*.mha"))[1]
    damaged.write_bytes(damaged.read_bytes()[:300])
    paths = trained_ladp.paths | {"output_dir": str(tmp_path / "out"), "dataset_dir": str(cohort)}
    with pytest.raises(RuntimeError) as caught:
        run(make_workflow("inference.json", kind="infer", **paths))
    cases = len(list((cohort / "1ADC_ss").glob("*.mha")))
    assert f"1 of {cases} cases failed, the others are done" in messages(caught.value) and damaged.name in messages(caught.value)
    assert len(read_csv(tmp_path / "out" / "lesions.csv")) == len(list((tmp_path / "out").glob("*lesion.mha"))) == cases - 1


def messages(error: BaseException | None) -> str:
    """The text of the user's mistake in a chain of wrappers."""
    while error is not None and not isinstance(error, UserError):
        error = error.__cause__ or error.__context__
    return str(error)


# --- export -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
def test_the_torchscript_export_computes_what_the_network_computes(trained_ladp: Any, tmp_path: Path) -> None:
    exported = tmp_path / "model.ts"
    ckpt_export(
        net_id="network_def",
        filepath=str(exported),
        ckpt_file=str(trained_ladp.ckpt_dir / "model.pt"),
        meta_file=str(CONFIGS / "metadata.json"),
        config_file=str(CONFIGS / "inference.json"),
        bundle_root=str(trained_ladp.root),
        use_trace=True,
        input_shape=[1, 2, 32, 32],
    )
    network = small_network().eval()
    network.load_state_dict(torch.load(trained_ladp.ckpt_dir / "model.pt", weights_only=True))
    files = {"metadata.json": "", "inference.json": ""}
    script = torch.jit.load(exported, _extra_files=files).eval()
    for shape in ((1, 2, 32, 32), (3, 2, 64, 96)):
        image = 3000 * torch.rand(shape, generator=torch.Generator().manual_seed(1)) - 500
        with torch.no_grad():
            torch.testing.assert_close(script(image), network(image), rtol=1e-5, atol=1e-5)
    assert "network_data_format" in str(files["metadata.json"])


# --- variants and repetition, in one warm process ---------------------------------------------------------------


def train_small(trained_ladp: Any, folder: Path, *overlays: str, **overrides: Any) -> dict[str, torch.Tensor]:
    paths = trained_ladp.paths | {"ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval")}
    run(make_workflow("train.json", "smoke.json", *overlays, **paths, **overrides))
    return torch.load(folder / "models" / "model.pt", weights_only=True)


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains(variant: str, trained_ladp: Any, tmp_path: Path) -> None:
    state = train_small(trained_ladp, tmp_path, variant)
    assert all(bool(value.isfinite().all()) for value in state.values())
    base = torch.load(trained_ladp.ckpt_dir / "model.pt", weights_only=True)
    same = state.keys() == base.keys() and all(torch.equal(state[key], base[key]) for key in base)
    assert same == (variant == "variant_no_tta.json"), "a variant of the training must give other weights"


def test_bars_are_shown_on_a_terminal_and_not_in_a_log_file(
    trained_ladp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.isatty", lambda stream: True)
    train_small(trained_ladp, tmp_path)
    bars = capsys.readouterr().err
    assert "Pre-training" in bars and "Fine-tuning" in bars
    assert "Pre-training:" not in trained_ladp.output and "Fine-tuning:" not in trained_ladp.output


def test_the_frozen_encoder_is_trained_first_and_then_left_alone(trained_ladp: Any, tmp_path: Path) -> None:
    train_small(trained_ladp, tmp_path, "variant_frozen_encoder.json")
    stages = [row["stage"] for row in read_csv(tmp_path / "eval" / "training.csv")]
    assert stages == ["encoder", "pretrain", "train"]


def test_the_trivial_rule_is_evaluated_like_a_network_and_needs_no_weights(trained_ladp: Any, tmp_path: Path) -> None:
    paths = trained_ladp.paths | {"output_dir": str(tmp_path), "ckpt_dir": str(tmp_path / "nowhere")}
    run(make_workflow("train.json", "smoke.json", "evaluate.json", "variant_zscore_rule.json", **paths))
    rows = read_csv(tmp_path / "metrics.csv")
    name = rows[0]["id"]
    z, adc, truth = (
        itk.array_from_image(itk.imread(str(next(trained_ladp.dataset_dir.glob(f"{folder}/*{name}*")))))
        for folder in ("2Z_ADC", "1ADC_ss", "3LABEL")
    )
    rule = (z < -2) & (adc > 0)
    dice = 2 * (rule & (truth > 0)).sum() / (rule.sum() + (truth > 0).sum())
    assert float(rows[0]["dice"]) == pytest.approx(dice, abs=1e-5)


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_the_next_seed_others(trained_ladp: Any, tmp_path: Path) -> None:
    first = torch.load(trained_ladp.ckpt_dir / "model.pt", weights_only=True)  # from another process, by the command line
    torch.rand(7)  # a generator in another state must not matter
    again = train_small(trained_ladp, tmp_path / "again")
    other = train_small(trained_ladp, tmp_path / "other", seed=7)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not all(torch.equal(first[key], other[key]) for key in first)


def test_switches_may_be_text_as_the_command_line_gives_them(trained_ladp: Any, tmp_path: Path) -> None:
    off = dict.fromkeys(("amp", "resume", "freeze_encoder", "spacing_aware"), "false")
    state = train_small(trained_ladp, tmp_path, brain_only="true", **off)
    first = torch.load(trained_ladp.ckpt_dir / "model.pt", weights_only=True)
    assert all(torch.equal(first[key], state[key]) for key in first)


def test_weights_given_skip_pretraining(trained_ladp: Any, tmp_path: Path) -> None:
    train_small(trained_ladp, tmp_path, weights=str(trained_ladp.ckpt_dir / "model.pt"))
    assert [row["stage"] for row in read_csv(tmp_path / "eval" / "training.csv")] == ["train"]


def test_an_ensemble_votes_with_all_its_members(trained_ladp: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train_small(trained_ladp, tmp_path, members=2)
    states = [torch.load(tmp_path / "models" / f"member_{k}.pt", weights_only=True) for k in range(2)]
    assert any(not torch.equal(states[0][key], states[1][key]) for key in states[0]), "each member is pre-trained anew"
    paths = trained_ladp.paths | {"ckpt_dir": str(tmp_path / "models"), "output_dir": str(tmp_path / "predictions")}
    with caplog.at_level(logging.INFO, logger="brain_bundles"):
        run(make_workflow("inference.json", kind="infer", save_vote_share=True, **paths))
    shares = [itk.array_from_image(itk.imread(str(path))) for path in (tmp_path / "predictions").glob("*vote_share.mha")]
    assert {float(v) for share in shares for v in np.unique(share)} <= {0.0, 0.5, 1.0}
    assert str(tmp_path / "predictions" / "lesions.csv") in caplog.text, "every path is printed"
