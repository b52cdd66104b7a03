"""The error map E of a volume: exact dense evaluation in tiles, and the patch-by-patch path that it must equal.

MONAI's ``SlidingWindowInferer`` blends overlapping windows; here every voxel has one value, that of the patch around it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from monai.inferers import Inferer
from monai.utils import convert_to_tensor, ensure_tuple_rep
from torch.nn.functional import interpolate, pad

from common.errors import UserError
from common.losses.position_distance import position_error
from common.networks.position_regressor import STRIDES
from common.transforms.histogram_equalisation import HU_RANGE
from common.transforms.position_crops import cut, lattice

Network = Callable[..., torch.Tensor]


def patch_positions(
    volume: torch.Tensor, centres: torch.Tensor, network: Network, patch_size: Sequence[int], batch_size: int = 256
) -> torch.Tensor:
    """Predicted positions of single patches, each cut out and passed through the network: the paper's way, and the reference of the tests.

    Args:
        volume: HU, ``(1, X, Y, Z)``; beyond its border lies background.
        centres: voxel indices of the patches' centres, ``(N, 3)`` integers.
        network: positions ``(B, 3 K, 1, 1, 1)`` of patches ``(B, 1, *patch_size)``.
        patch_size: sides of the patch, voxels.
        batch_size: patches per pass.

    Returns:
        ``(N, 3 K)``.
    """
    half = torch.tensor([side // 2 for side in patch_size])
    results = []
    for chunk in centres.split(batch_size):
        patches = [cut(volume, (centre - half).tolist(), patch_size, HU_RANGE[0]) for centre in chunk.cpu()]
        results.append(network(torch.stack(patches)).flatten(1))
    return torch.cat(results)


def tile_starts(sides: Sequence[int], tile: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """First voxels of the tiles that cover a volume."""
    a, b, c = (range(0, side, step) for side, step in zip(sides, tile, strict=True))
    yield from itertools.product(a, b, c)


def upsample(values: torch.Tensor, stride: int, shape: Sequence[int]) -> torch.Tensor:
    """Trilinear interpolation of values at the voxels 0, stride, 2 stride, ...; beyond the last one its value holds.

    Args:
        values: ``(C, X, Y, Z)``.
        stride: their distance, voxels.
        shape: voxels of the result.

    Returns:
        ``(C, *shape)``.
    """
    if stride == 1:
        return values
    sides = [stride * (count - 1) + 1 for count in values.shape[1:]]
    fine = interpolate(values[None], sides, mode="trilinear", align_corners=True)
    missing = [number for side, want in zip(sides[::-1], list(shape)[::-1], strict=True) for number in (0, want - side)]
    return pad(fine, missing, mode="replicate")[0]


TILES = {1: 64, 2: 64, 4: 128}
"""Side of a tile by stride, voxels: at stride 4 the maps of the deeper layers are 64 times smaller than at stride 1."""


class DensePositionInferer(Inferer):
    """Error map of a volume by dense passes over tiles with a halo; tiles without foreground are skipped.

    Args:
        stride: E is computed at every ``stride``-th voxel per axis (1, 2 or 4) and interpolated between.
        tile: side of a tile in voxels, a multiple of 4, or one per axis. With its halo of a patch it bounds the memory: None takes what
            stays near 1 GiB at width 8 and patch 31, see ``TILES``; larger tiles waste less on halos.
        patchwise: cut every patch out in place of the dense passes; for a network that pads inside the patch.

    Source: Bieder et al., MIDL 2022, Sec. 2 (E at every voxel). Deviation: 0 outside the foreground, where nothing is to be found.
    """

    def __init__(self, stride: int = 4, tile: int | Sequence[int] | None = None, patchwise: bool = False) -> None:
        super().__init__()
        if stride not in STRIDES:
            raise UserError(f"stride: got {stride}, expected one of {STRIDES}.")
        self.stride, self.tile, self.patchwise = stride, ensure_tuple_rep(TILES[stride] if tile is None else tile, 3), patchwise
        if any(int(side) != side or side < 4 or side % 4 for side in self.tile):
            raise UserError(f"tile: got {tile}, expected a multiple of 4 voxels.")

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Error maps.

        Args:
            inputs: prepared HU, ``(B, 1, X, Y, Z)``, -1024 outside the head.
            network: holds ``network.patch_size`` (as ``HeadCTModel`` does) and gives positions ``(B, 3 K, ...)``.

        Returns:
            ``(B, K, X, Y, Z)`` float32, in units of the volume's side, 0 outside the foreground.
        """
        with torch.no_grad():
            return torch.stack([self._volume(volume, network) for volume in convert_to_tensor(inputs, track_meta=False)])

    def _volume(self, volume: torch.Tensor, network: Any) -> torch.Tensor:
        shape, patch = volume.shape[1:], network.network.patch_size
        head = volume > HU_RANGE[0]
        sides = [(side - 1) // self.stride + 1 for side in shape]
        maps = network.network.outputs // 3
        errors = torch.zeros(maps, *sides, device=volume.device, dtype=torch.promote_types(network.levels.dtype, torch.float32))
        for start in tile_starts(shape, self.tile):
            # a voxel between two lattice points needs both of them
            reach = [slice(max(0, a - self.stride + 1), a + side + self.stride - 1) for a, side in zip(start, self.tile, strict=True)]
            if not bool(head[:, reach[0], reach[1], reach[2]].any()):
                continue
            stop = [min(a + side, want) for a, side, want in zip(start, self.tile, shape, strict=True)]
            part = [slice(a // self.stride, (b - 1) // self.stride + 1) for a, b in zip(start, stop, strict=True)]
            count = [p.stop - p.start for p in part]
            evaluate = self._by_patches if self.patchwise else self._dense
            predicted = evaluate(volume, start, count, patch, network)
            positions = lattice(start, count, self.stride, shape).to(errors)
            errors[:, part[0], part[1], part[2]] = position_error(predicted[None].to(errors.dtype), positions[None])[0]
        return upsample(errors, self.stride, shape) * head  # zero outside the head, also where a tile reached beyond it

    def _dense(self, volume: torch.Tensor, start: Sequence[int], count: Sequence[int], patch: Sequence[int], network: Any) -> torch.Tensor:
        first = [a - side // 2 for a, side in zip(start, patch, strict=True)]
        sides = [self.stride * (n - 1) + side for n, side in zip(count, patch, strict=True)]
        return network(cut(volume, first, sides, HU_RANGE[0])[None], stride=self.stride)[0]

    def _by_patches(
        self, volume: torch.Tensor, start: Sequence[int], count: Sequence[int], patch: Sequence[int], network: Any
    ) -> torch.Tensor:
        axes = [a + self.stride * torch.arange(n) for a, n in zip(start, count, strict=True)]
        centres = torch.stack(torch.meshgrid(*axes, indexing="ij"), dim=-1).reshape(-1, 3)
        return patch_positions(volume, centres, network, patch).T.reshape(-1, *count)
