"""Volumes through networks of slices and of volumes: nothing depends on batches, padding is cut again."""

from __future__ import annotations

import pytest
import torch
from monai.data import MetaTensor
from monai.inferers import SliceInferer
from torch import nn

from common.errors import UserError
from common.inferers.slice_restoration import SliceRestorationInferer, pad_to_multiple

VOLUME = torch.rand((2, 1, 12, 10, 7), generator=torch.Generator().manual_seed(0))


class SidesInEights(nn.Module):
    """As the autoencoders: sides must be multiples of 8; a mean filter, so that places matter."""

    def __init__(self, dims: int = 2) -> None:
        super().__init__()
        self.layer = {2: nn.AvgPool2d, 3: nn.AvgPool3d}[dims](3, 1, 1)
        self.seen: list[tuple[int, ...]] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not any(side % 8 for side in x.shape[2:])
        self.seen.append(tuple(x.shape))
        return self.layer(x)


def test_each_slice_is_what_the_network_makes_of_it_alone() -> None:
    network = SidesInEights()
    found = SliceRestorationInferer(batch_size=4)(VOLUME, network)
    assert found.shape == VOLUME.shape and network.seen == [(4, 1, 16, 16)] * 3 + [(2, 1, 16, 16)]
    for b in range(2):
        for n in range(7):
            alone = network(pad_to_multiple(VOLUME[b : b + 1, ..., n], 8))[..., :12, :10]
            torch.testing.assert_close(found[b : b + 1, ..., n], alone)


def test_batches_do_not_change_the_result() -> None:
    network = SidesInEights()
    results = [SliceRestorationInferer(batch_size=size)(VOLUME, network) for size in (1, 3, 99)]
    assert torch.equal(results[0], results[1]) and torch.equal(results[1], results[2])


def test_it_agrees_with_monai_where_a_window_is_a_slice() -> None:
    volume = torch.rand((1, 1, 16, 8, 5), generator=torch.Generator().manual_seed(1))
    theirs = SliceInferer(roi_size=(16, 8), sw_batch_size=2, spatial_dim=2)(volume, SidesInEights())
    torch.testing.assert_close(SliceRestorationInferer()(volume, SidesInEights()), theirs)


def test_a_network_of_volumes_sees_the_volume_at_once() -> None:
    network = SidesInEights(3)
    found = SliceRestorationInferer(spatial_dims=3)(MetaTensor(VOLUME), network)
    assert network.seen == [(2, 1, 16, 16, 8)] and found.shape == VOLUME.shape and not isinstance(found, MetaTensor)
    torch.testing.assert_close(found, network.layer(pad_to_multiple(VOLUME, 8))[..., :12, :10, :7])


def test_padding_stands_behind_and_is_black() -> None:
    padded = pad_to_multiple(VOLUME[..., 0], 8)
    assert padded.shape == (2, 1, 16, 16) and torch.equal(padded[..., :12, :10], VOLUME[..., 0])
    assert not padded[..., 12:, :].any() and not padded[..., 10:].any()
    assert pad_to_multiple(padded, 8) is padded


def test_what_cannot_be_restored_is_refused() -> None:
    with pytest.raises(UserError, match=r"got shape \(2, 1, 12, 10\), expected volumes"):
        SliceRestorationInferer()(VOLUME[..., 0], SidesInEights())
    with pytest.raises(UserError, match=r"network: it made \(2, 1, 8, 8, 4\) of \(2, 1, 16, 16, 8\)"):
        SliceRestorationInferer(spatial_dims=3)(VOLUME, nn.AvgPool3d(2, 2, padding=0, ceil_mode=True))
    with pytest.raises(UserError, match="spatial_dims, batch_size, multiple: got 4, 32 and 8"):
        SliceRestorationInferer(spatial_dims=4)
