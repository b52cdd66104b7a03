from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import torch

from common.handlers import case_pictures
from common.handlers.case_pictures import CasePictures


@pytest.fixture
def case(tmp_path: Path) -> dict[str, Any]:
    """Two inputs on an oblong grid, and a label that cannot be read."""
    images = []
    for name, value in (("adc", 1000.0), ("zadc", -1.0)):
        array = np.zeros((9, 8, 3), np.float32)
        array[2:7, 2:6] = value
        nibabel.Nifti1Image(array, np.diag([1.0, 1.5, 4.0, 1.0])).to_filename(tmp_path / f"{name}.nii")
        images.append(str(tmp_path / f"{name}.nii"))
    return {"id": "a/b", "image": images, "label": str(tmp_path / "none.nii")}


def engine(item: dict[str, Any]) -> Any:
    mask = torch.zeros(1, 9, 8, 3)
    mask[0, 3:5, 3:5, 1] = 1
    result = {"pred": mask, "vote_share": mask / 2, "pred_path": "elsewhere/a-b_lesion.nii.gz"}
    return SimpleNamespace(state=SimpleNamespace(batch=[item], output=[result]))


def test_a_picture_has_the_masks_name_and_shows_inputs_prediction_and_the_maps_there_are(
    tmp_path: Path, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: dict[str, Any] = {}

    def draw(images: Any, masks: Any, maps: Any, spacing: Any, title: str, axes: str) -> bytes:
        drawn.update(images=list(images), masks=list(masks), maps=list(maps), spacing=spacing, title=title, axes=axes)
        return b"png"

    monkeypatch.setattr(case_pictures, "overlay_figure", draw)
    CasePictures([case], ["adc", "zadc"], str(tmp_path / "out")).draw(engine({"id": "a/b"}))
    assert (tmp_path / "out" / "a-b_lesion.png").read_bytes() == b"png"
    assert drawn.pop("title").startswith("a/b: prediction. Research only")
    assert drawn == {"images": ["ADC", "ZADC"], "masks": ["prediction"], "maps": ["vote share"], "spacing": [1.0, 1.5, 4.0], "axes": "RAS"}


def test_weights_from_simulated_data_stand_in_the_title(tmp_path: Path, case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.json").write_text(json.dumps({"simulated": True}))
    titles = []
    monkeypatch.setattr(case_pictures, "case_picture", lambda *arguments: titles.append(arguments[-1]) or b"png")
    CasePictures([case], ["adc", "zadc"], str(tmp_path), str(tmp_path)).draw(engine({"id": "a/b"}))
    assert "weights from SIMULATED data" in titles[0]


def test_a_case_without_an_id_has_no_picture_and_stops_nothing(tmp_path: Path, case: dict[str, Any]) -> None:
    del case["id"]
    CasePictures([case], ["adc", "zadc"], str(tmp_path / "out")).draw(engine({}))
    assert not (tmp_path / "out").exists()
