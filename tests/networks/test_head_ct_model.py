import io

import numpy as np
import pytest
import torch
from torch import nn

from common.errors import UserError
from common.networks.head_ct_model import HeadCTModel
from common.networks.position_regressor import PositionRegressor
from common.training import reset_weights
from common.transforms.histogram_equalisation import equalise
from common.transforms.reference_frame import ReferenceFrame


class Plus(nn.Module):
    """Returns its input plus a number, so that one sees what reached it."""

    def forward(self, image, number=0.0):
        return image + number


def model(network=None, **settings):
    return HeadCTModel(network or Plus(), **{"registration_spacing_mm": 32.0, "bins": 8, "calibration_side": 2, **settings})


def frame(side=8, spacing_mm=32.0):
    return ReferenceFrame(np.arange(side**3, dtype=np.int16).reshape(side, side, side) - 300, spacing_mm)


def head(seed=0):
    return torch.randint(-1023, 2000, (1, 6, 6, 6), generator=torch.Generator().manual_seed(seed), dtype=torch.int16)


def test_the_network_sees_equalised_intensities_and_all_further_arguments():
    filled = model()
    filled.fit_equalisation([head(0)])
    expected = equalise(head(1)[None], filled.levels)
    assert torch.equal(filled(head(1)[None]), expected)
    assert torch.equal(filled(head(1)[None], 2.0), expected + 2)
    assert torch.equal(filled(head(1)[None], number=3.0), expected + 3)


def test_the_equalisation_is_one_map_of_all_training_heads():
    both, once = model(), model()
    both.fit_equalisation([head(0), head(1)])
    once.fit_equalisation([torch.cat([head(0), head(1)])])
    assert torch.equal(both.levels, once.levels)
    assert both.levels[0] == 0
    assert both.levels[-1] == 1


def test_the_reference_comes_back_as_it_was_given():
    filled = model()
    filled.set_reference(frame())
    back = filled.reference()
    assert np.array_equal(back.volume, frame().volume)
    assert back.volume.dtype == np.int16
    assert back.spacing_mm == 32.0


@pytest.mark.parametrize(("spacing_mm", "side"), [(1.0, 256), (2.0, 128), (8.0, 32)])
def test_the_reference_spans_256_mm_at_any_spacing(spacing_mm, side):
    with torch.device("meta"):
        assert HeadCTModel(Plus(), spacing_mm).reference_hu.shape == (side, side, side)


def test_everything_learnt_goes_with_the_weights():
    torch.manual_seed(0)
    trained = model(PositionRegressor(15, 1), maps=2)
    trained.set_reference(frame())
    trained.fit_equalisation([head()])
    trained.calibration_mean.fill_(0.1)
    trained.calibration_sd.fill_(0.02)
    trained.healthy_quantiles.uniform_()
    file = io.BytesIO()
    torch.save(trained.state_dict(), file)
    file.seek(0)
    fresh = model(PositionRegressor(15, 1), maps=2)
    assert not fresh.calibrated
    fresh.load_state_dict(torch.load(file, weights_only=True), strict=True)
    assert fresh.calibrated
    for name in ("reference_hu", "levels", "calibration_mean", "calibration_sd", "healthy_quantiles"):
        assert torch.equal(getattr(fresh, name), getattr(trained, name)), name
    image = torch.randint(-1024, 2000, (1, 1, 15, 15, 15), dtype=torch.int16)
    with torch.no_grad():
        assert torch.equal(fresh.eval()(image), trained.eval()(image))


def test_what_was_learnt_is_not_trained_and_survives_new_weights():
    filled = model(PositionRegressor(15, 1))
    filled.fit_equalisation([head()])
    filled.set_reference(frame())
    before = filled.levels.clone(), filled.reference_hu.clone()
    assert {name.split(".")[0] for name, _ in filled.named_parameters()} == {"network"}
    reset_weights(filled)
    assert torch.equal(filled.levels, before[0])
    assert torch.equal(filled.reference_hu, before[1])


def test_the_buffers_have_the_shapes_of_the_docstring():
    shapes = {name: tuple(buffer.shape) for name, buffer in model(maps=2, calibration_side=5).named_buffers()}
    assert shapes == {
        "reference_hu": (8, 8, 8),
        "levels": (9,),
        "calibration_mean": (2, 5, 5, 5),
        "calibration_sd": (2, 5, 5, 5),
        "healthy_quantiles": (2, 3, 101),
    }


def test_a_model_is_calibrated_once_every_place_of_every_map_has_an_sd():
    filled = model(maps=2)
    filled.calibration_sd[0] = 1
    assert not filled.calibrated
    filled.calibration_sd[1] = 1
    assert filled.calibrated


def test_a_model_without_reference_says_how_to_get_one():
    with pytest.raises(UserError, match=r"hold no reference head: load trained weights \(--ckpt_dir\), or train first"):
        model().reference()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (frame(side=7), r"got shape and spacing \(\(7, 7, 7\), 32.0\), expected \(\(8, 8, 8\), 32.0\)"),
        (frame(spacing_mm=16.0), r"got shape and spacing \(\(8, 8, 8\), 16.0\), expected \(\(8, 8, 8\), 32.0\)"),
    ],
)
def test_a_reference_on_another_grid_is_an_error_that_names_both(given, words):
    with pytest.raises(UserError, match=words):
        model().set_reference(given)


def test_training_heads_without_foreground_are_an_error():
    with pytest.raises(UserError, match="found no foreground voxel in the training volumes"):
        model().fit_equalisation([torch.full((1, 4, 4, 4), -1024)])
