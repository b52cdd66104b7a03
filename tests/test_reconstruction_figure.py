"""Figures of restored crops, from networks that were drawn and not trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from common.data.modalities import modality_table
from common.errors import UserError
from common.finished_pretraining import load_run, step_of
from common.networks.disruptive_swin_unetr import DisruptiveSwinUNETR
from common.networks.transfer_record import write_transfer
from common.reconstruction_figure import Restored, draw_validation, main, read_crop, reconstruction_figure, restore

SIDES = (32, 32, 64)
PNG = b"\x89PNG"
TABLE = modality_table()


def save_run(folder: Path, disruptions: dict[str, Any], **settings: Any) -> Path:
    """A network's weights and record, as a pre-training leaves them."""
    folder.mkdir()
    torch.manual_seed(1)
    network = DisruptiveSwinUNETR(1, 1, 12, depths=[1, 1, 1, 1], window_size=3, **settings)
    torch.save(network.state_dict(), folder / "model.pt")
    write_transfer(folder, network, SIDES, {"ct": {"kind": "range"}}, None, disruptions)
    (folder / "weights.json").write_text(json.dumps({"simulated": True}))
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("runs")
    mae = {"noise_strength": 0.0, "downsampling": 1, "mask_ratio": 0.0, "token_ratio": 0.6, "token_block": 16}
    dae = {"noise_strength": 0.1, "noise_is": "variance", "downsampling": 4, "mask_ratio": 0.6, "rescale": True}
    return {"MAE": save_run(root / "mae", mae), "DAE": save_run(root / "dae", dae, rescale=True)}


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("image") / "head.nii.gz"
    values = np.random.default_rng(0).normal(0, 300, (40, 30, 70))
    nibabel.save(nibabel.Nifti1Image(values.astype(np.int16), np.diag([-1, -1, 1, 1])), file)
    return file


def test_a_run_is_rebuilt_as_it_was_trained(runs: dict[str, Path]) -> None:
    network, step, record = load_run(runs["DAE"], TABLE)
    assert network.rescale and network.skip == "drop" and list(network.pretext) == ["image"]
    assert (step.disruption.sd, step.disruption.factor, step.channels.ratio, step.tokens.ratio) == (0.1**0.5, 4, 0.6, 0.0)
    assert record["patch_size"] == list(SIDES)


def test_what_is_not_recorded_is_off() -> None:
    image = torch.rand(2, 1, 8, 8, 8)
    inputs, targets, _, arguments = step_of({}, 12, [1.0], 0)({"image": image, "modality_index": torch.tensor([0, 0])})
    assert torch.equal(inputs, image) and torch.equal(targets["image"], image)
    assert arguments == {"channel_mask": None, "token_mask": None}


def test_the_same_seed_restores_the_same_and_another_does_not(runs: dict[str, Path]) -> None:
    crop = torch.rand(1, *SIDES)
    one, same, other = (restore(*load_run(runs["DAE"], TABLE, seed)[:2], crop, 0) for seed in (0, 0, 1))
    assert np.array_equal(one.restored, same.restored) and not np.array_equal(one.disrupted, other.disrupted)
    assert np.array_equal(one.clean, crop[0].numpy())


def test_hidden_tokens_are_black_in_the_picture_of_what_the_network_got(runs: dict[str, Path]) -> None:
    done = restore(*load_run(runs["MAE"], TABLE)[:2], torch.rand(1, *SIDES) + 1, 0)
    hidden = done.disrupted == 0
    # blocks of 16: 2 x 2 x 4, of which round(0.6 * 16) = 10 are hidden
    assert hidden.mean() == 10 / 16
    assert np.array_equal(done.disrupted[~hidden], done.clean[~hidden])
    assert set(np.unique(hidden.reshape(2, 16, 2, 16, 4, 16).mean(axis=(1, 3, 5)))) == {0.0, 1.0}


def test_the_error_is_the_mean_absolute_one() -> None:
    clean = np.zeros((2, 2, 2))
    assert Restored(clean, clean, clean + np.array([0.5, -1.5])).error == 1.0


def test_equal_crops_give_equal_bytes_and_rows_make_the_figure_higher() -> None:
    rng = np.random.default_rng(0)
    one = {"DAE": Restored(*rng.random((3, 8, 9, 10)))}
    first, again, more = (reconstruction_figure(rows, "title") for rows in ({"ct": one}, {"ct": one}, {"ct": one, "t1": one}))
    assert first == again and first.startswith(PNG)
    heights = [int.from_bytes(picture[20:24], "big") for picture in (first, more)]
    assert heights[1] > 1.5 * heights[0]


def test_a_crop_is_the_centre_padded_where_the_volume_ends_and_scaled_by_its_modality(volume: Path) -> None:
    crop = read_crop(volume, TABLE["ct"], TABLE, SIDES, None)
    assert crop.shape == (1, *SIDES) and float(crop.min()) >= 0 and float(crop.max()) <= 1
    values = np.asarray(nibabel.load(volume).dataobj)[::-1, ::-1]  # to RAS
    assert np.allclose(crop[0, :, 1:31].numpy(), np.clip((values[4:36, :, 3:67] + 1000.0) / 2000, 0, 1), atol=1e-6)
    assert not crop[0, :, [0, 31]].any()


def test_validation_draws_one_crop_of_each_modality(runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []

    def draw(rows: Any, title: str) -> bytes:
        seen.append((list(rows), title))
        return PNG

    monkeypatch.setattr("common.reconstruction_figure.reconstruction_figure", draw)
    network, step, _ = load_run(runs["DAE"], TABLE)
    items = [{"image": torch.rand(1, *SIDES), "modality_index": torch.tensor(index)} for index in (3, 0, 3)]
    arguments = (network, step, items, TABLE, str(runs["DAE"]), str(tmp_path))
    assert draw_validation(*arguments, rank=1) is None and not list(tmp_path.iterdir())
    file = draw_validation(*arguments)
    assert file is not None and file.read_bytes() == PNG
    assert seen == [(["t2", "ct"], "Validation crops (simulated images: these are not patients)")]


def test_without_an_image_to_restore_nothing_is_drawn(tmp_path: Path) -> None:
    network = DisruptiveSwinUNETR(1, 1, 12, depths=[1, 1, 1, 1], window_size=3, heads=["rotation"])
    assert draw_validation(network, step_of({}, 12, [1.0], 0), [], TABLE, str(tmp_path), str(tmp_path)) is None


def test_the_command_compares_runs_on_a_volume(
    runs: dict[str, Path], volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named = ",".join(f"{name}={folder}" for name, folder in runs.items())
    output = tmp_path / "fig.png"
    main(["--runs", named, "--image", str(volume), "--modality", "ct", "--output", str(output)])
    assert output.read_bytes().startswith(PNG)
    printed = capsys.readouterr().out
    assert "MAE: mean absolute error" in printed and "DAE: mean absolute error" in printed and f"wrote {output}" in printed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"--runs": "MAE"}, "runs: got 'MAE', expected NAME=FOLDER"),
        ({"--runs": "A=nowhere"}, "runs: there is no nowhere/model.pt"),
        ({"--modality": "petscan"}, "the modality 'petscan' is not in the table"),
    ],
)
def test_mistakes_end_in_one_line(
    change: dict[str, str], words: str, runs: dict[str, Path], volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"--runs": f"D={runs['DAE']}", "--image": str(volume), "--modality": "ct", "--output": str(tmp_path / "x.png")} | change
    with pytest.raises(SystemExit, match="1"):
        main([text for pair in given.items() for text in pair])
    assert words in capsys.readouterr().err and not (tmp_path / "x.png").exists()


def test_a_run_that_restores_no_image_or_has_no_record_is_refused(tmp_path: Path) -> None:
    folder = save_run(tmp_path / "run", {}, heads=["rotation"])
    with pytest.raises(UserError, match="its network restores no image"):
        load_run(folder, TABLE)
    (folder / "transfer.json").unlink()
    with pytest.raises(UserError, match=r"no transfer\.json beside it"):
        load_run(folder, TABLE)
