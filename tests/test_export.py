"""Exports compute what the network computes; what MONAI Deploy reads from TorchScript alone gives the masks of ``inference.json``."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigParser
from torch import nn

import common.export as tool
from common import config_dir
from common.errors import UserError
from common.export import example_inputs, export, frozen_config, main
from tests.bundles.in_process import network_of_inference, workflow_of
from tests.integrations.label_parts import one_file_cases

FIXTURES = {
    "ladp": "trained_ladp",
    "disruptive_autoencoder": "trained_dae",
    "position_regression": "trained_position",
    "brain_autoencoder": "trained_bae",
    "patchddm": "trained_patchddm",
    "neonatal_inr": "trained_inr",
}
ONE_INPUT = ("ladp", "disruptive_autoencoder", "position_regression", "brain_autoencoder")
# what MonaiBundleInferenceOperator of monai-deploy-app-sdk 4.0.0 does with model.ts, in a process that cannot import this package
DEPLOY = """
import json, sys, zipfile
sys.modules["common"] = None
import torch
from monai.bundle import ConfigParser
from monai.transforms import LoadImage
scan, model, result = sys.argv[1:]
files = {"inference.json": "", "metadata.json": ""}
network = torch.jit.load(model, map_location="cpu", _extra_files=files).eval()
parser = ConfigParser()
parser.read_meta(f=json.loads(files["metadata.json"]))
parser.read_config(json.loads(files["inference.json"]))
parser.parse()
inferer = parser.get_parsed_content("inferer")
chains = [parser.get_parsed_content(key) for key in ("preprocessing", "postprocessing")]
for chain in chains:
    chain.transforms = tuple(t for t in chain.transforms if not any(n in type(t).__name__ for n in ("LoadImage", "SaveImage")))
image = LoadImage(image_only=True)(scan)
inputs = chains[0]({"image": image})
first = inputs.pop("image")
others = {key: value[None] for key, value in inputs.items() if isinstance(value, torch.Tensor)}
with torch.no_grad():
    pred = inferer(inputs=first[None], network=network, **others)[0]
output = chains[1]({"pred": pred, **inputs, "image": first})["pred"]
torch.save(torch.as_tensor(output.as_tensor()), result)
"""


@pytest.fixture(scope="module")
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Function that exports a bundle's smoke weights once; the trained bundle, the folder and the report."""
    done: dict[str, Any] = {}

    def get(name: str) -> Any:
        if name not in done:
            trained, folder = request.getfixturevalue(FIXTURES[name]), tmp_path_factory.mktemp(f"export_{name}")
            done[name] = (trained, folder, export(name, str(trained.ckpt_dir), str(folder)))
        return done[name]

    return get


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", list(FIXTURES))
def test_what_is_written_computes_what_the_network_computes(name: str, exported: Any) -> None:
    trained, folder, report = exported(name)
    network = network_of_inference(name, ckpt_dir=str(trained.ckpt_dir))
    network.load_state_dict(torch.load(trained.ckpt_dir / "model.pt", weights_only=True))
    inputs = example_inputs(name, ConfigParser(frozen_config(name, trained.ckpt_dir)))
    made = {"model.pt2": torch.export.load(folder / "model.pt2").module()}
    if name in ONE_INPUT:
        made["model.ts"] = torch.jit.load(str(folder / "model.ts"))
    with torch.no_grad():
        expected = network.eval()(*inputs)
        for file, module in made.items():
            scale = float(expected.abs().max())
            torch.testing.assert_close(module(*inputs), expected, atol=1e-4 * scale, rtol=0)
            assert report[file]["largest_difference"] <= 1e-4 * scale and report[file]["scale"] == pytest.approx(scale, rel=1e-3)
    assert json.loads((folder / "export.json").read_text()) == report and report["simulated"] is True
    assert sorted(path.name for path in folder.iterdir()) == sorted(["export.json", *made])


def test_networks_of_two_inputs_have_no_torchscript_and_the_report_says_why(exported: Any) -> None:
    _, folder, report = exported("patchddm")
    assert report["model.ts"] == "none: MONAI's ckpt_export knows networks of one input, this one takes 2"
    assert not (folder / "model.ts").exists()


@pytest.mark.parametrize("name", list(FIXTURES))
def test_the_exported_program_takes_any_batch(name: str, exported: Any) -> None:
    report = exported(name)[2]
    assert all(report[file][batch] for file in ("model.pt2", "model.ts") if name in ONE_INPUT for batch in ("batch_1", "batch_3"))
    assert report["model.pt2"]["batch_1"] and report["model.pt2"]["batch_3"]


@pytest.mark.parametrize("name", [name for name in FIXTURES if name != "disruptive_autoencoder"])
def test_the_exported_program_takes_other_sides_but_that_of_a_swin_transformer_does_not(name: str, exported: Any) -> None:
    assert exported(name)[2]["model.pt2"]["other_sides"]
    assert exported("disruptive_autoencoder")[2]["model.pt2"]["other_sides"] is False


def test_the_configs_in_the_file_need_no_record_of_the_weights(exported: Any) -> None:
    trained, folder, _ = exported("ladp")
    files = {"metadata.json": "", "inference.json": ""}
    torch.jit.load(str(folder / "model.ts"), _extra_files=files)
    with zipfile.ZipFile(folder / "model.ts") as archive:
        assert {"model/extra/inference.json", "model/extra/metadata.json"} <= set(archive.namelist()), "where MONAI Deploy looks first"
    config = json.loads(files["inference.json"])
    assert config["width"] == 0.0625 and config["image_size"] == 32, "the sizes of the weights, not those of the paper"
    assert "common.trained(" not in str(files["inference.json"]) and str(trained.root) not in str(files["inference.json"])
    assert json.loads(files["metadata.json"])["network_data_format"]["outputs"]["pred"]["channel_def"]["1"] == "lesion"


@pytest.mark.parametrize("name", ["ladp", "disruptive_autoencoder"])
def test_deploy_needs_nothing_of_ours_and_gives_the_mask_of_inference(name: str, exported: Any, tmp_path: Path) -> None:
    trained, folder, _ = exported(name)
    scan = one_file_cases(name, trained, tmp_path / "cases")[0]["image"]
    command = [sys.executable, "-c", DEPLOY, scan, str(folder / "model.ts"), str(tmp_path / "deploy.pt")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = torch.load(tmp_path / "deploy.pt").numpy()
    single = {"vote_members": 1, "tta_axes": [], "ckpt_dir": str(trained.ckpt_dir), "output_dir": str(tmp_path / "out")}
    workflow = workflow_of(name, "inference.json", kind="infer", dataset_dir=scan, also_write=[], **single)
    workflow.initialize()
    workflow.run()
    (written,) = (tmp_path / "out").glob("*.nii.gz")
    assert found.shape == (1, *nib.load(scan).shape[:3])
    np.testing.assert_array_equal(found[0].astype(np.uint8), np.asarray(nib.load(written).dataobj))
    assert len(np.unique(found)) > 1, "an empty mask would prove nothing"


# --- mistakes ---------------------------------------------------------------------------------------------------


def test_an_export_that_computes_something_else_is_not_written(trained_ladp: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Wrong(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image[:, :1] * 0 + 1

    def wrong(network: nn.Module, path: Path, inputs: Any) -> Any:
        path.write_text("wrong")
        return Wrong()

    monkeypatch.setattr(tool, "_torch_export", wrong)
    with pytest.raises(UserError, match=r"model.pt2: computes something else than the network: outputs differ by .*; not written"):
        export("ladp", str(trained_ladp.ckpt_dir), str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["model.ts"]


def test_no_weights_and_no_such_bundle_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"There are no weights at .*model\.pt: train first \(train\.json\), or give their folder"):
        export("ladp", str(tmp_path), str(tmp_path / "out"))
    with pytest.raises(SystemExit):
        main(["nothing", "--weights", str(tmp_path), "--output", str(tmp_path / "out")])
    assert "There is no bundle 'nothing' here" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match=r"inputs of the network of 'mine' are not known; expected one of \['brain_autoencoder'"):
        example_inputs("mine", ConfigParser({}))


@pytest.mark.parametrize("name", ["ladp", "disruptive_autoencoder"])
def test_deploys_config_names_no_part_of_ours(name: str) -> None:
    text = (Path(config_dir(name)) / "deploy.json").read_text(encoding="utf-8")
    assert "common." not in text.replace("common.export lays it over", "")
