"""Views for Swin UNETR's own pre-training tasks, for a batch on its device: quarter turns and cut-outs.

MONAI's ``RandRotate90`` keeps no class number per sample of a batch, its ``RandCoarseDropout`` cuts a number of holes rather than a share.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.data.utils import get_random_patch
from monai.transforms import Randomizable

from common.errors import UserError

TURNS = 4
FILLS = ("noise", "zero")


def quarter_turns(image: torch.Tensor, turns: torch.Tensor, axis: int = 2) -> torch.Tensor:
    r"""Turn each sample by :math:`90^\circ \cdot k_b` about one axis.

    Args:
        image: ``(B, C, X, Y, Z)``; the two axes that are turned have one length.
        turns: :math:`k`, ``(B,)`` integers; 0 and 4 keep a sample.
        axis: which axis stays, 0, 1 or 2 for x, y or z. Turns go from the first of the others to the second.

    Returns:
        Shape and dtype of ``image``.

    Raises:
        UserError: another axis, or unequal lengths.

    Source: Tang et al., Self-supervised pre-training of Swin Transformers (CVPR 2022): four classes about the z-axis.
    """
    if axis not in (0, 1, 2):
        raise UserError(f"axis: got {axis}, expected 0, 1 or 2 (x, y or z).")
    plane = [other for other in range(3) if other != axis]
    first, second = (image.shape[2 + other] for other in plane)
    if first != second:
        raise UserError(
            f"image: got sides {tuple(image.shape[2:])}, expected equal ones around axis {axis}; quarter turns need square crops."
        )
    dims = [1 + other for other in plane]
    return torch.stack([torch.rot90(sample, int(k), dims) for sample, k in zip(image, turns.tolist(), strict=True)])


def cut_out(image: torch.Tensor, holes: torch.Tensor, fill: torch.Tensor) -> torch.Tensor:
    r"""Replace voxels: :math:`x' = x \odot (1 - h) + f \odot h`.

    Args:
        image: :math:`x`, ``(B, C, X, Y, Z)``.
        holes: :math:`h`, ``(B, 1, X, Y, Z)`` bool; True is replaced.
        fill: :math:`f`, shape of ``image`` or one that expands to it.

    Returns:
        Shape and dtype of ``image``.
    """
    return torch.where(holes, fill, image)


class RandQuarterTurn(Randomizable):
    """Draw a quarter turn for every sample of a batch.

    Args:
        axis: which axis stays; 2 is z.
    """

    def __init__(self, axis: int = 2) -> None:
        self.axis = axis

    def randomize(self, batch: int) -> torch.Tensor:  # type: ignore[override]
        """Turns ``(batch,)`` in 0..3, each as likely as the others."""
        return torch.from_numpy(self.R.randint(TURNS, size=batch))

    def __call__(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The turned batch ``(B, C, X, Y, Z)`` and the class of each sample, ``(B,)`` long."""
        turns = self.randomize(len(image))
        return quarter_turns(image, turns, self.axis), turns.to(image.device)


class RandCutOut(Randomizable):
    """Cut boxes out of every sample of a batch until a drawn share of it is gone.

    Args:
        share: the most that is cut out, in [0, 1); each sample gets its own share, uniform below this. 0 cuts nothing.
        smallest: least side of a box, as a share of the image's side, in (0, 1].
        largest: greatest side of a box, same unit.
        fill: ``noise``, uniform between the lowest and the highest value of the sample, or ``zero``.

    Raises:
        UserError: shares outside their range, or another fill.

    Source: Tang et al. 2022 and its code: up to 30 % in boxes of 5 to 25 % of the side. Deviation: a box lies inside the image as a
        whole, overlaps count once, and boxes of another sample's content are left out.
    """

    def __init__(self, share: float = 0.3, smallest: float = 0.05, largest: float = 0.25, fill: str = "noise") -> None:
        if not (0 <= share < 1 and 0 < smallest <= largest <= 1):
            raise UserError(f"cut-out: got {share=}, {smallest=}, {largest=}; expected share in [0, 1) and 0 < smallest <= largest <= 1.")
        if fill not in FILLS:
            raise UserError(f"fill: got '{fill}', expected one of {FILLS}.")
        self.share, self.smallest, self.largest, self.fill = share, smallest, largest, fill

    def randomize(self, batch: int, shape: Sequence[int]) -> torch.Tensor:  # type: ignore[override]
        """Holes ``(batch, 1, *shape)`` bool."""
        return torch.from_numpy(np.stack([self._holes(shape, self.R.uniform(0, self.share)) for _ in range(batch)]))[:, None]

    def _holes(self, shape: Sequence[int], share: float) -> np.ndarray:
        holes, cut = np.zeros(shape, dtype=bool), 0
        low, high = (np.maximum(1, np.multiply(shape, part).astype(int)) for part in (self.smallest, self.largest))
        while cut < share * holes.size:
            box = holes[get_random_patch(shape, self.R.randint(low, high + 1), self.R)]
            cut += box.size - int(np.count_nonzero(box))
            box[...] = True
        return holes

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """The batch ``(B, C, X, Y, Z)`` with its holes filled."""
        if not self.share:
            return image
        holes = self.randomize(len(image), image.shape[2:]).to(image.device)
        if self.fill == "zero":
            return cut_out(image, holes, image.new_zeros(()))
        low, high = (value[:, None, None, None, None] for value in (image.flatten(1).amin(1), image.flatten(1).amax(1)))
        generator = torch.Generator(image.device).manual_seed(int(self.R.randint(2**31)))
        noise = torch.rand(image.shape, generator=generator, device=image.device, dtype=image.dtype)
        return cut_out(image, holes, low + (high - low) * noise)
