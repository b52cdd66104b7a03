"""What MONAI Label 0.8.5 does with a bundle's configs, done here without it; ``test_monai_label.py`` starts the real server.

From monailabel/tasks/infer/bundle.py and train/bundle.py: parsed parts are kept between requests, every ``SaveImaged`` is left out, the
result is read from ``pred``; a training gets ``{"image", "label"}`` alone, the bundle's folder, a device and one loader of weights.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.bundle import ConfigItem, ConfigParser
from monai.bundle import run as run_bundle
from monai.transforms import SaveImaged
from torch import nn

from common import user_error_in
from tests.integrations.label_parts import COHORTS, app_bundle, label_values, one_file_cases

FIXTURES = {"ladp": "trained_ladp", "patchddm": "trained_patchddm", "disruptive_autoencoder": "trained_dae"}


class Inference:
    """``BundleInferTask``: what it reads once, and what it does with every request."""

    def __init__(self, bundle: Path) -> None:
        self.bundle, self.config = bundle, ConfigParser()
        self.config.read_config(str(bundle / "configs" / "inference.json"))
        self.config.config.update({"bundle_root": str(bundle)})
        self.network = self.config.get_parsed_content("network_def", instantiate=True)

    def weights(self) -> nn.Module:
        network = copy.deepcopy(self.network)
        network.load_state_dict(torch.load(self.bundle / "models" / "model.pt", map_location="cpu"), strict=False)
        return network.eval()

    def __call__(self, image: str) -> dict[str, Any]:
        self.config.config.update({"device": "cpu"})
        self.config.ref_resolver.items["device"] = ConfigItem(config="cpu", id="device")
        parts = [self.config.get_parsed_content(key, instantiate=True) for key in ("preprocessing", "inferer", "postprocessing")]
        data: dict[str, Any] = {"image": image, "image_path": image, "device": "cpu", "model": self.bundle.name}
        for transform in parts[0].transforms:
            data = transform(data)
        with torch.no_grad():
            data["pred"] = parts[1](data["image"][None], self.weights())[0]
        for transform in parts[2].transforms:
            if not isinstance(transform, SaveImaged):
                data = transform(data)
        return data


def train(bundle: Path, items: list[dict[str, str]], validation: list[dict[str, str]], epochs: int = 1) -> None:
    """``BundleTrainTask``: the overrides of one training, in the order in which it sets them."""
    config = ConfigParser()
    config.read_config(str(bundle / "configs" / "train.json"))
    handlers = config.get("train#handlers", [])
    load = {"load_path": str(bundle / "models" / "model.pt"), "load_dict": {"model": "$@network"}, "strict": False}
    handlers.insert(0, {"_target_": "CheckpointLoader", **load})
    overrides = {
        "bundle_root": str(bundle),
        "train#trainer#max_epochs": epochs,
        "train#dataset#data": items,
        "device": "cpu",
        "train#handlers": handlers,
        "validate#dataset#data": validation,
    }
    files = {"meta_file": str(bundle / "configs" / "metadata.json"), "config_file": str(bundle / "configs" / "train.json")}
    run_bundle(run_id="run", init_id=None, final_id=None, **files, logging_file=False, **overrides)


@pytest.fixture(scope="module", params=list(COHORTS))
def labelled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path, list[dict[str, str]]]]:
    """A bundle in the app's folder, and the cases of its data store."""
    name = request.param
    trained, folder = request.getfixturevalue(FIXTURES[name]), tmp_path_factory.mktemp(name)
    yield name, app_bundle(name, trained, folder), one_file_cases(name, trained, folder / "studies")


def test_a_file_without_an_id_gives_a_label_on_its_own_grid_and_nothing_is_written(labelled: Any) -> None:
    name, bundle, items = labelled
    before = set(bundle.rglob("*"))
    result = Inference(bundle)(items[0]["image"])
    source = nib.load(items[0]["image"])
    pred = np.asarray(result["pred"])
    assert pred.shape == (1, *source.shape[:3]), "MONAI Label resizes to this shape what has another one"
    assert set(np.unique(pred).tolist()) <= label_values(name) and pred.dtype == np.uint8
    # the geometry that it writes
    np.testing.assert_allclose(np.asarray(result["image"].meta["original_affine"]), source.affine, atol=1e-4)
    assert tuple(result["image"].meta["spatial_shape"]) == source.shape[:3]
    assert set(bundle.rglob("*")) == before


def test_a_training_on_images_and_labels_alone_is_not_called_simulated_and_the_server_takes_its_weights(
    labelled: Any, tmp_path: Path
) -> None:
    name, bundle, items = labelled
    own = app_bundle(name, type("Trained", (), {"ckpt_dir": bundle / "models"}), tmp_path)
    (own / "configs" / "train.json").write_bytes((bundle / "configs" / "train.json").read_bytes())
    server = Inference(own)
    before = server(items[0]["image"])
    inferer = server.config.get_parsed_content("inferer")
    train(own, items[:2], items[2:3], epochs=2)
    record = json.loads((own / "models" / "weights.json").read_text())
    assert record["simulated"] is False and len(record["trained_on"]) in (2, 3)
    assert not (own / "data" / "simulated").exists(), "no cohort was made beside the cases that were given"
    assert (own / "models" / "previous" / "model.pt").is_file()
    after = server(items[0]["image"])
    assert server.config.get_parsed_content("inferer") is inferer, "the server keeps its parts"
    assert after["pred"].shape == before["pred"].shape
    probability = {"ladp": "probability", "patchddm": "mean", "disruptive_autoencoder": "probability"}[name]
    assert not torch.equal(torch.as_tensor(before[probability]), torch.as_tensor(after[probability])), "the old weights answered"


def test_weights_of_another_size_are_refused_before_any_data_are_read(labelled: Any, tmp_path: Path) -> None:
    name, bundle, items = labelled
    sizes = {"ladp": {"width": 0.125}, "patchddm": {"base_channels": 8}, "disruptive_autoencoder": {"feature_size": 24}}[name]
    own = tmp_path / name
    (own / "configs").mkdir(parents=True)
    (own / "models").symlink_to(bundle / "models")
    for file in ("train.json", "metadata.json"):
        content = json.loads((bundle / "configs" / file).read_text())
        (own / "configs" / file).write_text(json.dumps(content | (sizes if file == "train.json" else {})))
    with pytest.raises(Exception) as caught:
        train(own, items[:1], items[1:2])
    key = next(iter(sizes))
    text = str(user_error_in(caught.value))
    assert "was trained with another network" in text and f"'{key}'" in text and "give these values" in text
