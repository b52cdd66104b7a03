"""Clean a label map up: specks, holes, rough borders; what MONAI has for it needs scikit-image or takes enclosed classes for holes.

``KeepLargestConnectedComponent`` and ``RemoveSmallObjects`` need scikit-image, on which this package does not depend (the former agrees,
tested). ``FillHoles`` overwrites a class that another one encloses, such as ventricles in white matter (tested). The smoothing is MONAI's
``GaussianFilter``.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.networks.layers import GaussianFilter
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from common.errors import UserError

TRUNCATED = 4.0
"""Standard deviations at which the Gaussian kernel ends."""


def smooth(channel: torch.Tensor, spacing_mm: Sequence[float], sigma_mm: float) -> torch.Tensor:
    """Gaussian smoothing of one volume; what lies outside counts as 0, for all classes alike, so that their order is not touched.

    Args:
        channel: ``(X, Y, Z)``, float.
        spacing_mm: voxel edges along X, Y, Z, mm.
        sigma_mm: standard deviation, mm, the same along all axes whatever their spacing; 0 changes nothing.

    Returns:
        Shape of ``channel``, float32.

    Raises:
        UserError: a spacing that is not three positive numbers, or a negative sigma.
    """
    if len(spacing_mm) != 3 or not all(math.isfinite(edge) and edge > 0 for edge in spacing_mm):
        raise UserError(f"spacing_mm: got {tuple(spacing_mm)}, expected three positive numbers, the voxel edges in mm along X, Y and Z.")
    if not (math.isfinite(sigma_mm) and sigma_mm >= 0):
        raise UserError(f"sigma_mm: got {sigma_mm}, expected a number of at least 0, in mm (0 does not smooth).")
    if sigma_mm == 0:
        return channel.float()
    blur = GaussianFilter(3, [sigma_mm / float(edge) for edge in spacing_mm], TRUNCATED)
    smoothed: torch.Tensor = blur.to(channel.device)(channel.float()[None, None])[0, 0]
    return smoothed


def smooth_labels(labels: torch.Tensor, spacing_mm: Sequence[float], sigma_mm: float) -> torch.Tensor:
    r"""Smooth the borders of all classes: :math:`\arg\max_k\, G_\sigma * [y = k]`, the lower label where two are equal.

    A class that would vanish keeps its voxels, so that the set of labels stays the same.

    Args:
        labels: :math:`y`, ``(1, X, Y, Z)``, integers, 0 is background.
        spacing_mm: voxel edges along X, Y, Z, mm.
        sigma_mm: :math:`\sigma`, mm; 0 changes nothing. A bump or an edge of a few times sigma is rounded off.

    Returns:
        Shape, type and device of ``labels``.

    Raises:
        UserError: as :func:`smooth`.

    Source: DAE, appendix F ("boundary smoothing", no details); the kernel and sigma are ours.
    """
    plain = convert_to_tensor(labels, track_meta=False)[0]
    smooth(torch.zeros(1, 1, 1), spacing_mm, sigma_mm)  # a mistake is told whatever the labels hold
    box = _foreground(plain, [2 * math.ceil(TRUNCATED * sigma_mm / float(edge) + 1) for edge in spacing_mm])
    if sigma_mm == 0 or box is None:
        return labels
    before = plain[box]
    present = [int(value) for value in torch.unique(before)]
    best = torch.full(before.shape, -1.0, device=before.device)
    found = torch.zeros_like(before)
    for number in present:  # one class at a time: 14 smoothed volumes of a CT are gigabytes
        share = smooth(before == number, spacing_mm, sigma_mm)
        found[share > best] = number
        best = torch.maximum(best, share)
    result = plain.clone()
    result[box] = restore_classes(found, before, present)
    return _like(result[None], labels)


def restore_classes(labels: torch.Tensor, before: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
    """Give classes that have vanished their voxels back.

    Args:
        labels: ``(X, Y, Z)``; changed.
        before: the same grid, where all classes still had voxels.
        numbers: the classes.

    Returns:
        ``labels``, in which every class of ``numbers`` that ``before`` holds has a voxel.
    """
    while missing := [number for number in numbers if not (labels == number).any() and (before == number).any()]:
        for number in missing:  # what was given back is disjoint, so no class is asked for twice
            labels[before == number] = number
    return labels


def keep_components(
    labels: torch.Tensor, spacing_mm: Sequence[float], largest: Sequence[int] = (), min_ml: float | Mapping[int, float] = 0.0
) -> torch.Tensor:
    """Remove specks of each class: connected components (26 neighbours) that are too small become background.

    Args:
        labels: ``(1, X, Y, Z)``, integers, 0 is background.
        spacing_mm: voxel edges along X, Y, Z, mm.
        largest: numbers of the classes of which only the largest component stays. Not for classes that come in pieces, such as sulcal CSF.
        min_ml: smallest component that stays, ml, for all classes or by number; a class may vanish.

    Returns:
        Shape, type and device of ``labels``.
    """
    from scipy import ndimage

    array = convert_to_tensor(labels, track_meta=False)[0].cpu().numpy().copy()
    voxel_ml = math.prod(float(edge) for edge in spacing_mm) / 1000
    by_number = {int(number): float(volume) for number, volume in min_ml.items()} if isinstance(min_ml, Mapping) else None
    for number, box in enumerate(ndimage.find_objects(array), 1):
        smallest = by_number.get(number, 0.0) if by_number is not None else float(min_ml)  # type: ignore[arg-type]
        if box is None or (number not in largest and smallest <= 0):
            continue
        components, count = ndimage.label(array[box] == number, structure=np.ones((3, 3, 3)))
        sizes = np.bincount(components.ravel(), minlength=count + 1)
        sizes[0] = 0
        # 1e-9 more, so that rounding does not decide of a component of exactly this volume
        kept = sizes * voxel_ml * (1 + 1e-9) >= smallest
        if number in largest:
            kept &= np.arange(count + 1) == sizes.argmax()
        kept[0] = True
        array[box][~kept[components]] = 0
    return _like(torch.from_numpy(array)[None], labels)


def fill_holes(labels: torch.Tensor) -> torch.Tensor:
    """Fill background that a single class encloses: all 26 neighbours of the hole belong to it, and it does not touch the volume's edge.

    Args:
        labels: ``(1, X, Y, Z)``, integers, 0 is background.

    Returns:
        Shape, type and device of ``labels``; no voxel that had a class changes.
    """
    from scipy import ndimage

    box = _foreground(convert_to_tensor(labels, track_meta=False)[0], (0, 0, 0))
    if box is None:
        return labels
    array = convert_to_tensor(labels, track_meta=False)[0].cpu().numpy().copy()
    inside = np.pad(array[box], 1)  # around it all is open, as at the volume's edge
    holes, _ = ndimage.label(inside == 0, structure=np.ones((3, 3, 3)))
    for number, place in enumerate(ndimage.find_objects(holes), 1):
        if number == holes[0, 0, 0]:
            continue
        around = tuple(slice(side.start - 1, side.stop + 1) for side in place)
        hole = holes[around] == number
        walls = np.unique(inside[around][ndimage.binary_dilation(hole, np.ones((3, 3, 3))) & ~hole])
        if len(walls) == 1:
            inside[around][hole] = walls[0]
    array[box] = inside[1:-1, 1:-1, 1:-1]
    return _like(torch.from_numpy(array)[None], labels)


class CleanUpLabeld(MapTransform):
    """Smooth borders, then remove specks, then fill holes; with the defaults nothing changes.

    Args:
        keys: labels ``(1, X, Y, Z)``, integers, 0 is background.
        sigma_mm: see :func:`smooth_labels`; where probabilities are there, ``ProbabilityToLabeld`` smooths those instead.
        largest: classes of which only the largest component stays: numbers, or ``all``; see :func:`keep_components`.
        min_ml: smallest component that stays, ml, for all classes or by number (keys may be text, as JSON has them).
        holes: fill holes, see :func:`fill_holes`.
        spacing_key: a ``MetaTensor`` on the same grid, for labels that are none.

    Source: DAE, appendix F: boundary smoothing and connected components, without details.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        sigma_mm: float = 0.0,
        largest: Sequence[int] | str = (),
        min_ml: float | Mapping[Any, float] = 0.0,
        holes: bool = False,
        spacing_key: str = "label",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if isinstance(largest, str) and largest != "all":
            raise UserError(f"largest: got '{largest}', expected a list of label numbers such as [1, 6], or all.")
        self.sigma_mm, self.largest, self.holes, self.spacing_key = sigma_mm, largest, holes, spacing_key
        self.min_ml = {int(number): float(ml) for number, ml in min_ml.items()} if isinstance(min_ml, Mapping) else float(min_ml)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the case with clean labels.

        Raises:
            UserError: a spacing is needed, but neither the labels nor ``spacing_key`` know theirs.
        """
        result = dict(data)
        for key in self.key_iterator(result):
            labels = result[key]
            if self.sigma_mm or len(self.largest) or self.min_ml:
                spacing = spacing_of(labels, result.get(self.spacing_key), str(key))
                labels = smooth_labels(labels, spacing, self.sigma_mm)
                found = torch.unique(convert_to_tensor(labels, track_meta=False)) if self.largest == "all" else self.largest
                chosen = [int(number) for number in found]
                labels = keep_components(labels, spacing, chosen, self.min_ml)
            result[key] = fill_holes(labels) if self.holes else labels
        return result


def spacing_of(values: Any, other: Any, name: str) -> list[float]:
    """Voxel edges in mm of a ``MetaTensor``, or of another one on the same grid.

    Raises:
        UserError: neither is a ``MetaTensor``.
    """
    for held in (values, other):
        if isinstance(held, MetaTensor) and tuple(held.shape[1:]) == tuple(values.shape[1:]):
            return [float(edge) for edge in held.pixdim[:3]]
    raise UserError(f"{name}: its spacing is not known; expected a MetaTensor, or a spacing_key that names one on the same grid.")


def _like(values: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """The values with the type, the device and the meta of the source."""
    moved = values.to(dtype=source.dtype, device=source.device)
    return MetaTensor(moved, meta=source.meta, applied_operations=source.applied_operations) if isinstance(source, MetaTensor) else moved


def _foreground(labels: torch.Tensor, margin: Sequence[int]) -> tuple[slice, ...] | None:
    """Box that holds what is not 0 with a margin in voxels, ``(X, Y, Z)``; None where all is 0."""
    held = labels != 0
    box = []
    for axis in range(3):
        index = torch.nonzero(held.any(dim=(axis + 1) % 3, keepdim=True).any(dim=(axis + 2) % 3, keepdim=True).flatten())
        if not len(index):
            return None
        box.append(slice(max(0, int(index[0]) - margin[axis]), int(index[-1]) + 1 + margin[axis]))
    return tuple(box)
