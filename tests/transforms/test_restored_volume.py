"""Back to grid and intensities of the file: laws, values by hand, error texts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Orientation, Resize

from common.errors import UserError
from common.transforms.percentile_range import percentile_range
from common.transforms.restored_volume import OnSourceGridd, SourceIntensityd, to_source_intensity
from common.transforms.square_field import SquareFieldd

AFFINE = torch.tensor([[0.0, 0, 3, -20], [-1, 0, 0, 30], [0, 2, 0, -10], [0, 0, 0, 1]], dtype=torch.float64)


def field(shape: tuple[int, int, int], affine: torch.Tensor = AFFINE) -> MetaTensor:
    """A volume that grows linearly along each axis of the world, so that linear resampling is exact inside."""
    places = np.stack(np.meshgrid(*map(np.arange, shape), indexing="ij"), -1)
    world = places @ affine.numpy()[:3, :3].T + affine.numpy()[:3, 3]
    return MetaTensor(torch.from_numpy(world @ [0.1, 0.02, 0.3] + 50)[None].float(), affine=affine)


def test_a_result_on_the_source_grid_stays_as_it_is() -> None:
    source = field((6, 7, 5))
    found = OnSourceGridd("pred")({"image": source, "source": source, "pred": torch.rand(1, 6, 7, 5)})
    torch.testing.assert_close(torch.as_tensor(found["restored"]), found["pred"])


def test_turned_padded_and_resized_volumes_come_back_to_voxels_and_axes_of_the_file() -> None:
    affine = torch.tensor([[2.0, 0, 0, -20], [0, 1, 0, 30], [0, 0, 1, -10], [0, 0, 0, 1]], dtype=torch.float64)
    source = field((5, 24, 16), affine)
    turned = Orientation(axcodes="PSR", labels=None)(source)
    square = SquareFieldd("image")({"image": turned})["image"]
    assert square.shape[1:] == (24, 24, 5)
    whole = field(tuple(square.shape[1:]), square.affine)  # goes on beyond the source, where the pad is
    image = Resize((12, 12, -1), mode="area")(whole)
    found = OnSourceGridd("pred")({"image": image, "source": source, "pred": image.as_tensor()})["restored"]
    assert found.shape == source.shape
    np.testing.assert_allclose(found.affine, affine)
    inner = (0, slice(None), slice(1, -1), slice(None))
    np.testing.assert_allclose(found[inner], source[inner], atol=1e-3)


def test_the_outermost_voxels_of_a_finer_source_are_not_darkened() -> None:
    source = MetaTensor(torch.ones(1, 8, 8, 3), affine=AFFINE)
    image = Resize((4, 4, -1), mode="area")(source)
    found = OnSourceGridd("pred")({"image": image, "source": source, "pred": image.as_tensor()})["restored"]
    torch.testing.assert_close(torch.as_tensor(found.as_tensor()), torch.ones(1, 8, 8, 3))


def test_intensities_between_the_percentiles_come_back_exactly_and_the_background_stays_dark() -> None:
    values = torch.linspace(100, 1100, 6 * 7 * 5).reshape(1, 6, 7, 5)
    values[0, 0] = 0
    scaled = percentile_range(values[0], 5, 95)[None]
    back = to_source_intensity(scaled, values, 5, 95)
    between = (scaled > 0) & (scaled < 1)
    torch.testing.assert_close(back[between], values[between])
    assert float(back[0, 0].abs().max()) == 0
    # 5 and 95 % of 175 values from 266.7 to 1100: neighbours are 1000 / 209 apart, so 266.7 + 8.7 steps and 1100 - 8.7 steps
    step = 1000 / 209
    assert float(back[values > 0].min()) == pytest.approx(100 + 35 * step + 8.7 * step, rel=1e-5)
    assert float(back.max()) == pytest.approx(1100 - 8.7 * step, rel=1e-5)


def test_the_transform_keeps_the_affine() -> None:
    source = field((6, 7, 5))
    found = SourceIntensityd(lower=0, upper=100)({"restored": MetaTensor(torch.rand(1, 6, 7, 5), affine=AFFINE), "source": source})
    assert isinstance(found["restored"], MetaTensor)
    np.testing.assert_array_equal(found["restored"].affine, AFFINE)
    assert float(source.min()) <= float(found["restored"].min()) and float(found["restored"].max()) <= float(source.max())


def test_mistakes_say_what_is_wrong() -> None:
    with pytest.raises(UserError, match=r"names: got .* expected one per key"):
        OnSourceGridd(("pred", "residual"), ("restored",))
    with pytest.raises(UserError, match="must be MetaTensor; keep a copy"):
        OnSourceGridd("pred")({"image": torch.zeros(1, 2, 2, 2), "pred": torch.zeros(1, 2, 2, 2)})
    with pytest.raises(UserError, match=r"pred: shape \(1, 2, 2, 2\), expected that of the prepared image"):
        OnSourceGridd("pred")({"image": field((3, 2, 2)), "source": field((3, 2, 2)), "pred": torch.zeros(1, 2, 2, 2)})
    with pytest.raises(UserError, match="expected that of the source"):
        to_source_intensity(torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 3), 1, 99)
