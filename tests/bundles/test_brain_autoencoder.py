"""The brain autoencoder end to end: what the bundle promises, on weights that one subprocess trained at smoke size."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ignite.engine import Events
from monai.bundle import ConfigParser, verify_metadata, verify_net_in_out
from torch import nn

from common.data.ixi import read_ixi
from tests.bundles.in_process import (
    SCHEMA,
    configs_of,
    differing,
    messages,
    read_csv,
    read_model,
    train_bundle,
    workflow_of,
)

CONFIGS = configs_of("brain_autoencoder")
SMALL_NET = {"widths": [4, 4, 8]}
SMALL_VARIANT: dict[str, dict[str, Any]] = {"variant_3d.json": {"slab_slices": 16, "max_epochs": 1}}
VARIANTS = sorted(path.name for path in CONFIGS.glob("variant_*.json") if path.name != "variant_no_plateau.json")
PARAMETERS = {
    (): 482_593,
    ("variant_residual_unet_original.json",): 482_785,
    ("variant_shallow.json",): 459_553,
    ("variant_shallow_original.json",): 459_745,
    ("variant_skip.json",): 190_369,
    ("variant_myronenko.json",): 989_345,
}
make_workflow = partial(workflow_of, "brain_autoencoder")
train_small = partial(train_bundle, "brain_autoencoder")


def network_of_training(*overlays: str, **overrides: Any) -> nn.Module:
    """``network_def`` of train.json and overlays, parsed without running anything."""
    config = ConfigParser.load_config_files([str(CONFIGS / name) for name in ("train.json", *overlays)]) | overrides
    return ConfigParser(config).get_parsed_content("network_def")


def losses(folder: Path) -> list[float]:
    return [float(row["loss"]) for row in read_csv(folder / "eval" / "training.csv")]


# --- before anything is trained ---------------------------------------------------------------------------------


def test_no_property_that_other_tools_look_for_is_missing(trained_bae: Any, tmp_path: Path) -> None:
    workflow = make_workflow("train.json", "smoke.json", **trained_bae.paths | {"output_dir": str(tmp_path)})
    workflow.initialize()
    assert workflow.check_properties() == []


def test_metadata_holds_to_the_schema() -> None:
    verify_metadata(meta_file=str(CONFIGS / "metadata.json"), filepath=str(SCHEMA))


def test_metadata_agrees_with_the_config() -> None:
    metadata = json.loads((CONFIGS / "metadata.json").read_text(encoding="utf-8"))["network_data_format"]
    image, pred = metadata["inputs"]["image"], metadata["outputs"]["pred"]
    assert next(iter(metadata["inputs"])) == "image" and next(iter(metadata["outputs"])) == "pred"
    given = torch.rand(1, image["num_channels"], 16, 24)
    with torch.no_grad():
        made = network_of_training().eval()(given)
    assert made.shape == (1, pred["num_channels"], 16, 24)
    low, high = pred["value_range"]
    assert low <= float(made.min()) and float(made.max()) <= high


def test_the_network_takes_and_gives_what_the_metadata_says() -> None:
    files = {"meta_file": str(CONFIGS / "metadata.json"), "config_file": str(CONFIGS / "train.json")}
    verify_net_in_out(net_id="network_def", **files, device="cpu", n=4, any=16, **SMALL_NET)


@pytest.mark.parametrize("overlays", PARAMETERS, ids=lambda overlays: "".join(overlays) or "train.json")
def test_each_family_has_as_many_parameters_as_the_released_code(overlays: tuple[str, ...]) -> None:
    assert sum(value.numel() for value in network_of_training(*overlays).parameters()) == PARAMETERS[overlays]


# --- the user's command, run once -------------------------------------------------------------------------------


def test_training_from_the_repository_root_writes_what_is_promised(trained_bae: Any) -> None:
    written = {path.relative_to(trained_bae.root).as_posix() for path in trained_bae.root.rglob("*") if path.is_file()}
    promised = {f"models/{name}" for name in ("model.pt", "member_0.pt", "checkpoint_last.pt", "weights.json")}
    promised |= {f"eval/{name}" for name in ("training.csv", "resources.json", "split.json", "train_config.json")}
    assert promised <= written
    assert any(path.startswith("data/prepared/") and path.endswith(".npz") for path in written)
    assert not [path for path in written if "tmp" in Path(path).name]
    for path in promised:
        assert str(trained_bae.root / path) in trained_bae.output, "every path is printed"


def test_training_says_that_these_are_no_patients_and_names_loss_and_metric(trained_bae: Any) -> None:
    for text in ("SIMULATED DATA: these are not patients", "train epoch 1/2: loss", "(mse ", "val_loss", "slices of"):
        assert text in trained_bae.output
    rows = read_csv(trained_bae.output_dir / "training.csv")
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for row in rows:
        assert float(row["metric"]) == pytest.approx(float(row["val_mse"]), rel=1e-3), "the loss is the MSE of clean slices"
        assert 0 < float(row["val_psnr_db"]) < 60
    record = json.loads((trained_bae.ckpt_dir / "weights.json").read_text(encoding="utf-8"))
    assert record["simulated"] is True
    assert record["best"]["0"] == pytest.approx(min(float(row["metric"]) for row in rows)), "the least error is the best"
    kept = {"family": "residual_unet", "widths": [4, 4, 8], "slice_size": 32, "corruptions": "all", "scaling": "volume"}
    assert kept.items() <= record["settings"].items()


def test_patients_and_tested_people_are_never_trained_on(trained_bae: Any) -> None:
    split = json.loads((trained_bae.output_dir / "split.json").read_text(encoding="utf-8"))
    cases = {case["id"]: case for case in read_ixi(trained_bae.dataset_dir)}
    parts = {part: set(split[part]) for part in ("train", "validate", "test", "abnormal")}
    assert sum(map(len, parts.values())) == len(set.union(*parts.values())) == len(cases) == 12
    assert all(parts.values())
    assert parts["abnormal"] == {name for name, case in cases.items() if "label" in case}


def test_model_is_a_bare_state_dict_that_any_cpu_loads_safely(trained_bae: Any) -> None:
    state = read_model(trained_bae.ckpt_dir)
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    network_of_training(**SMALL_NET).load_state_dict(state)
    resume = {"body", "network", "optimizer", "epoch", "stage", "seed", "validation_history"}
    assert resume <= set(read_model(trained_bae.ckpt_dir, "checkpoint_last.pt"))


# --- variants, repetition and resumption, in one warm process ---------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_trains_and_gives_other_weights(variant: str, trained_bae: Any, tmp_path: Path) -> None:
    state = train_small(trained_bae, tmp_path, variant, **SMALL_VARIANT.get(variant, {}))
    assert all(bool(value.isfinite().all()) for value in state.values())
    base = read_model(trained_bae.ckpt_dir)
    assert state.keys() != base.keys() or differing(base, state)
    record = json.loads((tmp_path / "models" / "weights.json").read_text(encoding="utf-8"))
    assert record["best"]["0"] > 0


def test_l2_draws_the_kernels_of_the_encoder_to_zero(trained_bae: Any, tmp_path: Path) -> None:
    strong = train_small(trained_bae, tmp_path, "variant_l2.json", l2=1.0)
    name = "stage1.weight"
    assert float(strong[name].norm()) < float(read_model(trained_bae.ckpt_dir)[name].norm())


@pytest.mark.parametrize(("overlays", "rates"), [((), [1e-3, 1e-3, 2e-4]), (("variant_no_plateau.json",), [1e-3] * 3)])
def test_the_rate_falls_on_a_plateau_unless_it_is_told_not_to(
    overlays: tuple[str, ...], rates: list[float], trained_bae: Any, tmp_path: Path
) -> None:
    found: list[float] = []
    paths = trained_bae.paths | {"ckpt_dir": str(tmp_path / "models"), "output_dir": str(tmp_path / "eval")}
    # no epoch improves by 1, so that the second one without success lets the rate fall
    workflow = make_workflow("train.json", "smoke.json", *overlays, **paths, max_epochs=3, plateau_patience=1, plateau_delta=1.0)
    workflow.initialize()
    trainer = workflow.parser.get_parsed_content("train::trainer")
    trainer.add_event_handler(Events.EPOCH_COMPLETED, lambda engine: found.append(engine.optimizer.param_groups[0]["lr"]))
    workflow.run()
    assert found == pytest.approx(rates)


def test_standing_still_ends_the_training_and_a_resume_of_it_at_once(trained_bae: Any, tmp_path: Path) -> None:
    settings = {"max_epochs": 50, "stop_patience": 2, "stop_delta": 1.0}
    first = train_small(trained_bae, tmp_path, **settings)
    assert len(losses(tmp_path)) == 3, "the first epoch is the best of all, two more bring nothing"
    again = train_small(trained_bae, tmp_path, resume=True, **settings)
    assert differing(first, again) == [] and len(losses(tmp_path)) == 3


def test_the_same_seed_gives_the_same_weights_bit_for_bit_and_the_next_seed_others(trained_bae: Any, tmp_path: Path) -> None:
    torch.rand(7)  # a generator in another state must not matter
    off = dict.fromkeys(("amp", "resume", "dropout_rescales"), "false")
    again = train_small(trained_bae, tmp_path / "again", plateau="true", **off)
    assert differing(read_model(trained_bae.ckpt_dir), again) == [], "the first is from another process, by the command line"
    other = train_small(trained_bae, tmp_path / "other", seed=7)
    assert differing(again, other)
    splits = [json.loads((tmp_path / name / "eval" / "split.json").read_text())["sha256_of_split"] for name in ("again", "other")]
    assert splits[0] == splits[1], "the split has a seed of its own"


class KilledError(Exception):
    """Stands for a kill inside the test's own process."""


def test_a_killed_training_goes_on_to_the_same_weights(trained_bae: Any, tmp_path: Path) -> None:
    def kill(engine: Any) -> None:
        raise KilledError

    settings = {"max_epochs": 4, "plateau_patience": 1, "plateau_delta": 1.0}  # the rate falls before and after the kill
    whole = train_small(trained_bae, tmp_path / "whole", **settings)
    folder = tmp_path / "killed"
    paths = trained_bae.paths | {"ckpt_dir": str(folder / "models"), "output_dir": str(folder / "eval")}
    workflow = make_workflow("train.json", "smoke.json", **paths, **settings)
    workflow.initialize()
    workflow.parser.get_parsed_content("train::trainer").add_event_handler(Events.EPOCH_STARTED(once=3), kill)
    with pytest.raises(Exception):  # noqa: B017 - MONAI wraps it
        workflow.run()
    resumed = train_small(trained_bae, folder, resume=True, **settings)
    assert differing(whole, resumed) == []
    assert losses(folder) == losses(tmp_path / "whole") and len(losses(folder)) == 4


def test_weights_given_are_where_the_training_begins(trained_bae: Any, tmp_path: Path) -> None:
    given = read_model(trained_bae.ckpt_dir)
    state = train_small(trained_bae, tmp_path, weights=str(trained_bae.ckpt_dir / "model.pt"), learning_rate=0.0, max_epochs=1)
    changed = [name for name in differing(given, state) if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert changed == []


def test_a_rule_that_is_not_known_is_refused_with_those_there_are(trained_bae: Any, tmp_path: Path) -> None:
    with pytest.raises(RuntimeError) as caught:
        train_small(trained_bae, tmp_path, slice_rule="best")
    assert "slice rule: got 'best'" in messages(caught.value) and "brain, nonzero, mean, middle, range, all" in messages(caught.value)


def test_own_data_in_a_table_trains_without_a_spreadsheet_of_people(trained_bae: Any, tmp_path: Path) -> None:
    cases = [case for case in read_ixi(trained_bae.dataset_dir) if "label" not in case][:5]
    lines = ["subject,t1", *(f"{case['subject']},{case['image'][0]}" for case in cases)]
    (tmp_path / "own").mkdir()
    (tmp_path / "own" / "cases.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    # no masks: the range of slices needs none, and heads of 7.5 mm show no brain to look for
    state = train_small(trained_bae, tmp_path, dataset_dir=str(tmp_path / "own"), slice_rule="range", test_share=0.2, max_epochs=1)
    assert all(bool(value.isfinite().all()) for value in state.values())
    record = json.loads((tmp_path / "models" / "weights.json").read_text(encoding="utf-8"))
    assert len(record["trained_on"]) == 4
