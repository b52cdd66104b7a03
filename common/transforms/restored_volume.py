"""Bring a restored volume back to grid and intensities of its file; MONAI's ``Invertd`` knows no resize by means, nor percentiles."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform

from common.errors import UserError
from common.transforms.to_source_grid import to_source_grid


class OnSourceGridd(MapTransform):
    """Resample results on a prepared image's grid linearly to the grid of the volume as it was read.

    Args:
        keys: results ``(1, P, S, N)`` on the grid of the prepared image.
        names: where they go, one per key; the results themselves stay.
        image_key: the prepared image, a ``MetaTensor``.
        source_key: the volume as it was read, a ``MetaTensor`` ``(1, X, Y, Z)``.
    """

    def __init__(
        self, keys: KeysCollection = "pred", names: Sequence[str] = ("restored",), image_key: str = "image", source_key: str = "source"
    ) -> None:
        super().__init__(keys)
        self.names, self.image_key, self.source_key = list(names), image_key, source_key
        if len(self.names) != len(self.keys):
            raise UserError(f"names: got {self.names} for the keys {self.keys}, expected one per key.")

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the resampled results.

        Raises:
            UserError: image or source without an affine, or a result of another shape than the image.
        """
        result = dict(data)
        image, source = result.get(self.image_key), result.get(self.source_key)
        if not isinstance(image, MetaTensor) or not isinstance(source, MetaTensor):
            raise UserError(f"'{self.image_key}' and '{self.source_key}' must be MetaTensor; keep a copy of the volume as it was read.")
        for key, name in zip(self.keys, self.names, strict=True):
            values = result[key]
            if tuple(values.shape[1:]) != tuple(image.shape[1:]):
                raise UserError(f"{key!s}: shape {tuple(values.shape)}, expected that of the prepared image, {tuple(image.shape)}.")
            mapped = to_source_grid(values.detach().cpu(), image.affine, source.affine, source.shape[1:], padding_mode="border")
            mapped.meta["filename_or_obj"] = source.meta.get("filename_or_obj", "")
            result[name] = mapped
        return result


def to_source_intensity(restored: torch.Tensor, source: torch.Tensor, lower: float, upper: float) -> torch.Tensor:
    r"""Undo ``percentile_range``: from [0, 1] to the unit of the source.

    .. math:: x = x' (p_u - p_l) + p_l [s \ne 0]

    Args:
        restored: ``(1, X, Y, Z)``, in [0, 1].
        source: volume s as it was read, same shape, any unit.
        lower: percentile of the source's non-zero voxels that was 0.
        upper: percentile that was 1.

    Returns:
        The same shape, float32; what lies outside the two percentiles in the source does not come back.

    Raises:
        UserError: unequal shapes.
    """
    if restored.shape != source.shape:
        raise UserError(f"restored: got shape {tuple(restored.shape)}, expected that of the source, {tuple(source.shape)}.")
    values = source.detach().cpu().numpy()
    inside = values != 0
    low, high = (float(value) for value in np.percentile(values[inside], (lower, upper)))
    return restored.float() * (high - low) + low * torch.from_numpy(inside).to(restored.device)


class SourceIntensityd(MapTransform):
    """Give restored volumes the unit of their file (``to_source_intensity``).

    Args:
        keys: restored volumes on the source grid, ``(1, X, Y, Z)``, in [0, 1].
        source_key: the volume as it was read.
        lower: percentile that was 0.
        upper: percentile that was 1.
    """

    def __init__(self, keys: KeysCollection = "restored", source_key: str = "source", lower: float = 1.0, upper: float = 99.8) -> None:
        super().__init__(keys)
        self.source_key, self.lower, self.upper = source_key, lower, upper

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Scale the volumes."""
        result = dict(data)
        source = torch.as_tensor(result[self.source_key])
        for key in self.key_iterator(result):
            volume = result[key]
            plain = volume.as_tensor() if isinstance(volume, MetaTensor) else volume
            scaled = to_source_intensity(plain, source.as_tensor() if isinstance(source, MetaTensor) else source, self.lower, self.upper)
            result[key] = MetaTensor(scaled, meta=volume.meta) if isinstance(volume, MetaTensor) else scaled
        return result
