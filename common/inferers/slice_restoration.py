"""A network over a whole volume: one of slices in batches of them, one of volumes at once.

MONAI's ``SliceInferer`` blends windows of one fixed size; here each slice is seen whole, whatever its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from monai.data import MetaTensor
from monai.inferers import Inferer

from common.errors import UserError

Network = Callable[..., torch.Tensor]


class SliceRestorationInferer(Inferer):
    """Restore volumes by a network that gives an image of the size of its input.

    Args:
        spatial_dims: of the network: 2 is given the slices along the last axis, 3 the volume.
        batch_size: slices per forward pass, >= 1.
        multiple: the network takes sides that are multiples of this; others are padded with 0, the background, and cut again.

    Raises:
        UserError: numbers without sense.
    """

    def __init__(self, spatial_dims: int = 2, batch_size: int = 32, multiple: int = 8) -> None:
        super().__init__()
        if spatial_dims not in (2, 3) or batch_size < 1 or multiple < 1:
            raise UserError(
                f"spatial_dims, batch_size, multiple: got {spatial_dims}, {batch_size} and {multiple}, expected 2 or 3, and counts above 0."
            )
        self.spatial_dims, self.batch_size, self.multiple = spatial_dims, batch_size, multiple

    def __call__(self, inputs: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Restore a batch of volumes.

        Args:
            inputs: ``(B, 1, P, S, N)``, float, in [0, 1]; the last axis counts slices.
            network: takes ``(n, 1, P, S)``, or ``(B, 1, P, S, N)`` where it is of three dimensions.
            args: passed to the network.
            kwargs: likewise.

        Returns:
            Shape of ``inputs``, float32.

        Raises:
            UserError: another number of axes or channels, or a network that changes the size.
        """
        if inputs.ndim != 5 or inputs.shape[1] != 1:
            raise UserError(f"image: got shape {tuple(inputs.shape)}, expected volumes (B, 1, P, S, N) with one channel.")
        plain = inputs.as_tensor() if isinstance(inputs, MetaTensor) else inputs
        if self.spatial_dims == 3:
            return self._restore(plain, network, *args, **kwargs)
        slices = plain.movedim(-1, 1).flatten(0, 1)
        parts = [self._restore(part.contiguous(), network, *args, **kwargs) for part in slices.split(self.batch_size)]
        return torch.cat(parts).unflatten(0, (len(plain), plain.shape[-1])).movedim(1, -1).contiguous()

    def _restore(self, images: torch.Tensor, network: Network, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One forward pass of padded images, cut to their own size."""
        padded = pad_to_multiple(images, self.multiple)
        restored = network(padded, *args, **kwargs)
        if restored.shape != padded.shape:
            raise UserError(f"network: it made {tuple(restored.shape)} of {tuple(padded.shape)}, expected an image of the same size.")
        for axis, side in enumerate(images.shape[2:], start=2):
            restored = restored.narrow(axis, 0, side)
        return restored.float()


def pad_to_multiple(images: torch.Tensor, multiple: int) -> torch.Tensor:
    """Add zeros behind the end of each spatial axis.

    Args:
        images: ``(B, C, *spatial)``.
        multiple: of which each side becomes one.

    Returns:
        ``images`` itself where nothing is to be added.
    """
    missing: Sequence[int] = [-side % multiple for side in images.shape[2:]]
    if not any(missing):
        return images
    return F.pad(images, [width for lack in reversed(missing) for width in (0, lack)])
