"""Local masking: a share of the embedding channels of all tokens is hidden; torch's dropout has no fixed count.

Beside it the global masking of whole tokens (MAE, SimMIM), in one vocabulary: in every mask True means hidden.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from monai.transforms import Randomizable

from common import flag
from common.errors import UserError


def hidden_count(count: int, ratio: float) -> int:
    r"""How many of ``count`` entries a ratio hides: :math:`\mathrm{round}(r\,C)`; a half goes to the even number.

    Raises:
        UserError: a ratio outside [0, 1].

    Source: DAE, section 2 (X of C channels). The released code cuts off: 28 of 48 at r = 0.6, where this gives 29.
    """
    if not 0 <= ratio <= 1:
        raise UserError(f"ratio: got {ratio}, expected a share in [0, 1] (0 hides nothing).")
    return round(ratio * count)


def choose_hidden(scores: torch.Tensor, ratio: float) -> torch.Tensor:
    """Hide the entries with the lowest scores of each sample.

    Args:
        scores: ``(B, N)``, distinct numbers, e.g. uniform.
        ratio: share r that is hidden, in [0, 1].

    Returns:
        ``(B, N)`` bool, ``round(r N)`` of each row True.
    """
    return scores.argsort(dim=1).argsort(dim=1) < hidden_count(scores.shape[1], ratio)


def channel_mask(scores: torch.Tensor, ratio: float) -> torch.Tensor:
    """Mask of local masking.

    Args:
        scores: a number per sample and embedding channel, ``(B, C)``.
        ratio: share of the channels that is hidden, in [0, 1].

    Returns:
        ``(B, C, 1, 1, 1)`` bool, True hides the channel of all tokens of the sample.

    Source: DAE, section 2, Local Masking. Deviation: drawn per sample; the released code draws once per batch.
    """
    return choose_hidden(scores, ratio)[:, :, None, None, None]


def token_mask(scores: torch.Tensor, ratio: float, grid: Sequence[int], block_tokens: int) -> torch.Tensor:
    """Mask of global masking, by blocks of tokens.

    Args:
        scores: a number per sample and block, ``(B, 1, *blocks)``.
        ratio: share of the blocks that is hidden, in [0, 1].
        grid: tokens along each axis; where ``block_tokens`` does not divide it, the last blocks are cut.
        block_tokens: side of a block, tokens.

    Returns:
        ``(B, 1, *grid)`` bool, True hides the token.

    Source: MAE and SimMIM as DAE's baseline (section 3).
    """
    mask = choose_hidden(scores.flatten(1), ratio).reshape(scores.shape)
    for axis, size in enumerate(grid, start=2):
        mask = mask.repeat_interleave(block_tokens, dim=axis).narrow(axis, 0, size)
    return mask


def hide_channels(embedding: torch.Tensor, mask: torch.Tensor, rescale: bool = False) -> torch.Tensor:
    r"""Set hidden channels to zero: :math:`z' = z \odot (1 - m)`, with ``rescale`` divided by the share that is kept.

    Args:
        embedding: tokens :math:`z`, ``(B, C, *grid)``.
        mask: :math:`m`, ``(B, C, 1, 1, 1)``, True (or 1) hides.
        rescale: keep the expected sum over the channels, as dropout does: the factor 1 / (1 - r) with the share r that is hidden.

    Returns:
        Shape and dtype of ``embedding``; all zeros where every channel is hidden.

    Source: DAE, section 2. The factor is ours (neither in the paper nor in its code) and off by default.
    """
    kept = mask.logical_not().to(embedding.dtype)
    if rescale:
        share = kept.mean(dim=1, keepdim=True)
        kept = kept / share.clamp(min=1 / mask.shape[1])
    return embedding * kept


def hide_tokens(embedding: torch.Tensor, mask: torch.Tensor, mask_token: torch.Tensor) -> torch.Tensor:
    """Put one learned vector in place of hidden tokens.

    Args:
        embedding: tokens, ``(B, C, *grid)``.
        mask: ``(B, 1, *grid)``, True (or 1) hides.
        mask_token: the vector, ``C`` numbers in any shape.

    Returns:
        Shape and dtype of ``embedding``.

    Source: SimMIM (Xie et al. 2022), as cited by DAE. DAE's text sets the tokens to zero; its code learns the vector.
    """
    return torch.where(mask.bool(), mask_token.to(embedding.dtype).reshape(1, -1, 1, 1, 1), embedding)


class RandChannelMask(Randomizable):
    """Draw which embedding channels are hidden, anew for every sample of a batch.

    Args:
        ratio: share r of the channels, in [0, 1]; 0 hides none.
        channels: C, the network's feature size.
        per_sample: False draws one subset for the whole batch, as the released code does.
    """

    def __init__(self, ratio: float = 0.6, channels: int = 48, per_sample: bool = True) -> None:
        hidden_count(channels, ratio)
        self.ratio, self.channels, self.per_sample = ratio, channels, flag(per_sample, "per_sample")

    def randomize(self, batch: int) -> torch.Tensor:  # type: ignore[override]
        """Scores ``(batch, C)``, uniform in [0, 1)."""
        scores = torch.from_numpy(self.R.random((batch if self.per_sample else 1, self.channels)))
        return scores.expand(batch, -1)

    def __call__(self, image: torch.Tensor) -> torch.Tensor | None:
        """Mask ``(B, C, 1, 1, 1)`` bool on the device of ``image``, ``(B, ...)``; None when the ratio is 0."""
        return channel_mask(self.randomize(len(image)), self.ratio).to(image.device) if self.ratio else None


class RandTokenMask(Randomizable):
    """Draw which blocks of tokens are hidden, anew for every sample of a batch.

    Args:
        ratio: share of the blocks, in [0, 1]; 0 hides none.
        block: side of a block, voxels; a multiple of ``patch``.
        patch: side of a token, voxels.

    Raises:
        UserError: a block that is no whole number of tokens.
    """

    def __init__(self, ratio: float = 0.6, block: int = 16, patch: int = 2) -> None:
        hidden_count(1, ratio)
        if block < patch or block % patch:
            raise UserError(f"block: got {block} voxels, expected a multiple of the token's side, {patch} voxels.")
        self.ratio, self.block, self.patch = ratio, block, patch

    def randomize(self, batch: int, grid: Sequence[int]) -> torch.Tensor:  # type: ignore[override]
        """Scores ``(batch, 1, *blocks)``, uniform in [0, 1)."""
        blocks = [-(-size * self.patch // self.block) for size in grid]
        return torch.from_numpy(np.asarray(self.R.random((batch, 1, *blocks))))

    def __call__(self, image: torch.Tensor) -> torch.Tensor | None:
        """Mask ``(B, 1, *grid)`` bool on the device of ``image``, ``(B, C, *spatial)``; None when the ratio is 0.

        Raises:
            UserError: sides that are no whole number of tokens.
        """
        if not self.ratio:
            return None
        if any(side % self.patch for side in image.shape[2:]):
            raise UserError(f"image: got sides {tuple(image.shape[2:])}, expected multiples of the token's side, {self.patch} voxels.")
        grid = [side // self.patch for side in image.shape[2:]]
        return token_mask(self.randomize(len(image), grid), self.ratio, grid, self.block // self.patch).to(image.device)
