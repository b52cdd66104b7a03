"""One command from DICOM folders to a DICOM Segmentation, for a method with several inputs, on a network that nobody trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch

from common import config_dir, predict
from common.errors import UserError
from tests.data.dicom_on_disk import oblique, ras, values, write_scan

SETTINGS = {"image_size": 32, "width": 0.0625, "hidden": 4, "encoder": "vgg11", "background": -6.0}
SHAPE = (24, 20, 5)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from monai.bundle import ConfigParser

    folder = tmp_path_factory.mktemp("weights")
    parser = ConfigParser()
    parser.read_config(str(Path(config_dir("ladp")) / "inference.json"))
    parser.update(SETTINGS)
    torch.manual_seed(0)
    model: Any = parser.get_parsed_content("network_def")
    torch.save(model.state_dict(), folder / "model.pt")
    (folder / "weights.json").write_text(json.dumps({"bundle": "ladp", "simulated": False, "settings": SETTINGS}))
    return folder


@pytest.fixture(scope="module")
def scan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A case of two inputs, each a folder of DICOM files; one of them a level below its name."""
    folder = tmp_path_factory.mktemp("scans") / "anna"
    write_scan(folder / "adc", values(SHAPE), oblique())
    write_scan(folder / "zadc" / "DICOM", values(SHAPE) % 9, oblique())
    return folder


@pytest.mark.parametrize("named", [True, False])
def test_folders_of_several_inputs_give_a_mask_in_every_format(scan: Path, weights: Path, tmp_path: Path, named: bool) -> None:
    words = ["--adc", str(scan / "adc"), "--zadc", str(scan / "zadc")] if named else [str(scan)]
    assert predict.main(["ladp", *words, str(tmp_path / "out"), "--weights", str(weights), "--device", "cpu"]) == 0
    name = "adc" if named else "anna"
    mask: Any = nibabel.load(tmp_path / "out" / f"{name}_lesion.nii.gz")
    np.testing.assert_allclose(mask.affine, ras(oblique()), atol=1e-4)
    assert mask.shape == SHAPE
    file = pydicom.dcmread(tmp_path / "out" / f"{name}_lesion.dcm")
    assert file.pixel_array.sum() == np.asarray(mask.dataobj).sum()
    assert file.SegmentSequence[0].SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Lesion of Brain"
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert {f"{name}_lesion.seg.nrrd", "labels.csv", "lesions.csv", "inference_config.json"} <= written
    for path in (tmp_path / "out").iterdir():
        assert path.suffix == ".dcm" or b"Planted" not in path.read_bytes(), path


def test_a_folder_of_two_series_is_named(scan: Path) -> None:
    with pytest.raises(UserError, match=r"anna: 2 series in folders below it \(adc, zadc/DICOM\); expected one series"):
        predict.data_overrides({"inputs": ["adc", "zadc"]}, None, {"adc": str(scan), "zadc": str(scan / "zadc")})
