"""Say which slices of a volume are worth learning from; the rules are `common/data/brain_slices.py`'s (MONAI has none)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform


class SelectBrainSlicesd(MapTransform):
    """Add the indices of the slices to keep; the volume stays whole. It stands after the axes are P, S, R and before sizes change.

    Args:
        keys: image ``(1, P, S, N)``.
        selector: called with the case's id, the volume, its mask and spacing; ``common.data.brain_slices.SliceSelector``.
        brain_key: mask of the brain on the same grid, where the case has one.
        slices_key: gets the indices, ``(n,)`` int64, ascending.
    """

    def __init__(
        self,
        keys: KeysCollection = "image",
        selector: Callable[..., Any] | None = None,
        brain_key: str = "brain",
        slices_key: str = "slices",
    ) -> None:
        super().__init__(keys)
        if selector is None:
            from common.data.brain_slices import SliceSelector

            selector = SliceSelector()
        self.selector, self.brain_key, self.slices_key = selector, brain_key, slices_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the indices.

        Raises:
            UserError: no slice is left; the text names the case.
        """
        result = dict(data)
        image, brain = result[self.keys[0]], result.get(self.brain_key)
        spacing = [float(size) for size in image.pixdim] if isinstance(image, MetaTensor) else None
        mask = torch.as_tensor(brain)[0].numpy() > 0 if brain is not None else None
        found = self.selector(str(data.get("id", "?")), torch.as_tensor(image)[0].numpy(), mask, spacing)
        result[self.slices_key] = torch.as_tensor(found, dtype=torch.long)
        return result
