"""What stands before a training on head CTs: reference, preparation, intensity map."""

import logging

import numpy as np
import pytest
import torch

from common import head_preparation
from common.errors import UserError
from common.head_preparation import fit_head_model
from common.networks.head_ct_model import HeadCTModel
from common.transforms.reference_frame import ReferenceFrame


@pytest.fixture
def model(monkeypatch):
    """A model whose reference is a given volume; 'bad' cannot be prepared, every other head is 8 voxels of 40 HU in air."""

    def prepare_cases(cases, transform, num_workers):
        return [{"id": case["id"], **({"error": "no such file"} if case["id"] == "bad" else {})} for case in cases]

    monkeypatch.setattr(head_preparation, "prepare_cases", prepare_cases)
    monkeypatch.setattr(head_preparation, "choose_reference", lambda cases, name: name or cases[0]["id"])
    monkeypatch.setattr(
        head_preparation, "make_reference", lambda chosen, spacing: ReferenceFrame(np.full((16, 16, 16), len(chosen), np.int16), spacing)
    )
    return HeadCTModel(torch.nn.Identity(), registration_spacing_mm=16.0)


def prepare(case):
    image = torch.full((1, 4, 4, 4), -1024, dtype=torch.int16)
    image[:, :2, :2, :2] = 40
    return {**case, "image": image}


def test_cases_that_cannot_be_used_are_left_out_and_named(model, caplog):
    train, others = [{"id": "one"}, {"id": "bad"}], [{"id": "two"}]
    with caplog.at_level(logging.WARNING, logger="brain_bundles"):
        fit_head_model(model, prepare, train, others)
    assert [case["id"] for case in train + others] == ["one", "two"]
    assert "bad is left out: no such file" in caplog.text


def test_reference_and_intensity_map_come_from_the_training_cases(model):
    fit_head_model(model, prepare, [{"id": "one"}], [])
    assert bool((model.reference().volume == 3).all())
    assert model.equalise(torch.tensor([-1024.0, 0.0, 100.0])).tolist() == [0.0, 0.0, 1.0]


def test_weights_that_are_fine_tuned_keep_their_reference_and_intensity_map(model, tmp_path):
    other = HeadCTModel(torch.nn.Identity(), registration_spacing_mm=16.0)
    other.set_reference(ReferenceFrame(np.full((16, 16, 16), 77, np.int16), 16.0))
    other.levels.copy_(torch.linspace(0, 1, 1025))
    torch.save(other.state_dict(), tmp_path / "model.pt")
    fit_head_model(model, prepare, [{"id": "one"}], [], weights=str(tmp_path / "model.pt"))
    assert bool((model.reference().volume == 77).all())
    assert torch.equal(model.levels, other.levels)


def test_no_case_that_can_be_used_is_an_error(model):
    with pytest.raises(UserError, match="none of the training cases can be used"):
        fit_head_model(model, prepare, [{"id": "bad"}], [])
