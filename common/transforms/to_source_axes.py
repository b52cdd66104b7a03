"""Turn a result's axes back to those of the file; MONAI's ``Invertd`` leaves plain tensors, as ours are, alone."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import nibabel
import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform, Orientation

from common.errors import UserError


def to_source_axes(values: torch.Tensor, affine: Any, source_affine: Any) -> MetaTensor:
    """Turn and flip axes, nothing else.

    Args:
        values: ``(C, X, Y, Z)`` on a grid whose axes were turned by ``Orientationd``.
        affine: of that grid, ``(4, 4)``.
        source_affine: of the file, ``(4, 4)``.

    Returns:
        The values with the file's axes, and with the affine that goes with them.
    """
    plain = values.as_tensor() if isinstance(values, MetaTensor) else values
    turned = MetaTensor(plain, affine=torch.as_tensor(np.asarray(affine)))
    result: MetaTensor = Orientation(axcodes="".join(nibabel.aff2axcodes(np.asarray(source_affine))), labels=None)(turned)  # type: ignore[assignment]
    return result


class ToSourceAxesd(MapTransform):
    """Turn results on the prepared image's grid back to the axes of the file.

    Args:
        keys: results ``(C, X, Y, Z)``; those that a case does not have are left out.
        image_key: the prepared image, a ``MetaTensor`` whose axes were turned.
        source_key: a ``MetaTensor`` whose axes were not, such as the brain's mask.
    """

    def __init__(self, keys: KeysCollection = "pred", image_key: str = "image", source_key: str = "brain") -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.image_key, self.source_key = image_key, source_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Turn the results.

        Raises:
            UserError: image or source that is no ``MetaTensor``, so that their axes are not known.
        """
        result = dict(data)
        places = [getattr(result.get(key), "affine", None) for key in (self.image_key, self.source_key)]
        if any(place is None for place in places):
            raise UserError(f"'{self.image_key}' and '{self.source_key}' must be MetaTensor as LoadSameGridd and BrainMaskd make them.")
        for key in self.key_iterator(result):
            result[key] = to_source_axes(result[key], *places)
        return result
