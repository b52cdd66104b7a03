"""The anomaly map of a restored volume: what the restoration changed, filtered, inside the brain; and the rule of intensity beside it.

``common.inferers.reconstruction_error`` is bound to head CT in HU; MONAI has no such map.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import MapTransform
from monai.transforms.utils_morphological_ops import erode
from monai.utils import convert_to_tensor

from common.errors import UserError
from common.metrics.image_similarity import WINDOW
from common.metrics.slice_similarity import ssim_maps
from common.transforms.map_filters import FILTERS, filter_maps

KINDS = ("absolute", "squared", "signed", "bright", "dark", "dssim")
RULES = ("both", "bright", "dark")


def residual(image: torch.Tensor, restored: torch.Tensor, kind: str = "absolute") -> torch.Tensor:
    r"""What a restoration :math:`\hat x` changed of an image x.

    .. math:: |x - \hat x|, \quad (x - \hat x)^2, \quad x - \hat x, \quad \max(x - \hat x, 0), \quad \max(\hat x - x, 0),
        \quad (1 - \mathrm{SSIM}(x, \hat x)) / 2

    Args:
        image: ``(1, P, S, N)``, in [0, 1].
        restored: same shape.
        kind: of `KINDS`, in this order: ``dark`` finds what is darker than a healthy brain, such as a lesion of multiple sclerosis in T1;
            ``dssim`` looks at the surroundings in the slice, its outermost 5 pixels are 0.

    Returns:
        ``(1, P, S, N)`` float32, in [0, 1], ``signed`` in [-1, 1].

    Raises:
        UserError: unequal shapes, or an unknown kind.
    """
    if image.shape != restored.shape or image.ndim != 4 or image.shape[0] != 1:
        raise UserError(f"residual: got {tuple(image.shape)} and {tuple(restored.shape)}, expected image and restoration (1, P, S, N).")
    x, y = image.float(), restored.float()
    if kind == "dssim":
        maps = ssim_maps(x[0].movedim(-1, 0).double().clamp(0, 1), y[0].movedim(-1, 0).double().clamp(0, 1))
        half = WINDOW // 2
        return torch.nn.functional.pad((1 - maps) / 2, [half] * 4).movedim(0, -1)[None].float()
    forms = {
        "absolute": lambda d: d.abs(),
        "squared": torch.square,
        "signed": lambda d: d,
        "bright": lambda d: d.clamp(min=0),
        "dark": lambda d: (-d).clamp(min=0),
    }
    if kind not in forms:
        raise UserError(f"kind: got {kind!r}, expected one of {KINDS}.")
    found: torch.Tensor = forms[kind](x - y)
    return found


def eroded_brain(brain: torch.Tensor, voxels: int) -> torch.Tensor:
    """A brain mask without its rim, where partial volume and imperfect masks make large residuals.

    Args:
        brain: ``(1, P, S, N)``, > 0 is brain.
        voxels: width of the rim, >= 0, by cubes.

    Returns:
        ``(1, P, S, N)`` bool; the outside of the volume counts as out.

    Raises:
        UserError: nothing is left.
    """
    inside = brain > 0
    kept = erode(inside[None].float(), 2 * voxels + 1, pad_value=0.0)[0] > 0.5 if voxels else inside
    if not bool(torch.as_tensor(kept).any()):
        raise UserError(f"brain: a mask of {int(inside.sum())} voxels has none left without a rim of {voxels}; look at it, or give 0.")
    return torch.as_tensor(kept)


def equalised_intensity(image: torch.Tensor, brain: torch.Tensor, rule: str = "both") -> torch.Tensor:
    r"""The rule of intensity: histogram equalisation e in the brain, then bright (e), dark (1 - e), or far from the median (2 |e - 1/2|).

    Args:
        image: ``(1, P, S, N)``.
        brain: same shape, > 0 is brain.
        rule: of `RULES`.

    Returns:
        ``(1, P, S, N)`` float32, in [0, 1], 0 outside the brain.

    Raises:
        UserError: an unknown rule, or no brain.

    Source: Meissen et al., "Challenging current semi-supervised anomaly segmentation methods for brain MRI", 2022 (bright FLAIR).
        Deviation: T1 shows lesions dark, so ``both`` and ``dark`` are ours. Equalised by ranks, the share of brain voxels below, where
        MONAI's ``HistogramNormalize`` has steps of a bin.
    """
    if rule not in RULES:
        raise UserError(f"rule: got {rule!r}, expected one of {RULES}.")
    inside = (brain > 0).cpu().numpy()
    values = image.detach().float().cpu().numpy()
    held = values[inside]
    if not held.size:
        raise UserError("brain: the mask is empty; the rule of intensity needs the brain.")
    ordered = np.sort(held)
    rank = (np.searchsorted(ordered, held, side="left") + np.searchsorted(ordered, held, side="right")) / (2 * held.size)
    score = {"bright": rank, "dark": 1 - rank, "both": 2 * np.abs(rank - 0.5)}[rule]
    found = np.zeros(values.shape, dtype=np.float32)
    found[inside] = score
    return torch.from_numpy(found).to(image.device)


class ResidualMap:
    """The numbers of an anomaly map: from an image, its restoration and the brain to the map.

    Args:
        kind: see :func:`residual`.
        filter: ``none``, ``median`` or ``erosion``, see ``common.transforms.map_filters``; 3D.
        size: side of the filter's cube, odd, voxels.
        rim: voxels at the brain's surface that are left out, see :func:`eroded_brain`.

    Raises:
        UserError: an unknown kind or filter, or numbers without sense.
    """

    def __init__(self, kind: str = "absolute", filter: str = "median", size: int = 3, rim: int = 2) -> None:
        if kind not in KINDS or filter not in FILTERS or size % 2 == 0 or size < 1 or rim < 0:
            raise UserError(
                f"kind, filter, size, rim: got {kind}, {filter}, {size}, {rim}; expected one of {KINDS}, one of {FILTERS}, an odd number of"
                " voxels, and 0 or more."
            )
        self.kind, self.filter, self.size, self.rim = kind, filter, size, rim

    def __call__(self, image: torch.Tensor, restored: torch.Tensor, brain: torch.Tensor | None = None) -> torch.Tensor:
        """The map.

        Args:
            image: ``(1, P, S, N)``, in [0, 1].
            restored: same shape.
            brain: same shape, > 0 is brain; None takes all that is not 0 in the image.

        Returns:
            ``(1, P, S, N)`` float32, 0 outside the brain without its rim.
        """
        plain, again = (convert_to_tensor(values, track_meta=False) for values in (image, restored))
        return self.finish(residual(plain, again, self.kind), image, brain)

    def finish(self, values: torch.Tensor, image: torch.Tensor, brain: torch.Tensor | None = None) -> torch.Tensor:
        """Filter and mask a map, such as that of a rival, as this one's is."""
        inside = self.inside(image, brain)
        return filter_maps((values * self.mask(image, brain).to(values))[None], self.filter, self.size)[0] * inside.to(values)

    def mask(self, image: torch.Tensor, brain: torch.Tensor | None = None) -> torch.Tensor:
        """The brain with its rim, ``(1, P, S, N)`` bool."""
        return convert_to_tensor(image, track_meta=False) != 0 if brain is None else convert_to_tensor(brain, track_meta=False) > 0

    def inside(self, image: torch.Tensor, brain: torch.Tensor | None = None) -> torch.Tensor:
        """Where the map is looked at, ``(1, P, S, N)`` bool."""
        return eroded_brain(self.mask(image, brain).float(), self.rim)


class ResidualMapd(MapTransform):
    """Add the anomaly map of a restored volume; a postprocessing step behind ``SliceRestorationInferer``.

    Args:
        keys: the restoration, ``(1, P, S, N)``.
        residual: how the map is made; None for the defaults.
        image_key: what was restored.
        brain_key: mask of the brain; where a case has none, all that is not 0 counts.
        map_key: where the map goes, with the image's affine and history.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        residual: ResidualMap | None = None,
        image_key: str = "image",
        brain_key: str = "brain",
        map_key: str = "residual",
    ) -> None:
        super().__init__(keys)
        self.residual, self.image_key, self.brain_key, self.map_key = residual or ResidualMap(), image_key, brain_key, map_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the map."""
        result = dict(data)
        image = result[self.image_key]
        found = self.residual(image.cpu(), result[self.keys[0]].cpu(), result.get(self.brain_key))
        is_meta = isinstance(image, MetaTensor)
        result[self.map_key] = MetaTensor(found, meta=image.meta, applied_operations=image.applied_operations) if is_meta else found
        return result


class IntensityRuleInferer(Inferer):
    """The rule of intensity as an inferer that asks no network: a run of it needs no training and no weights.

    Args:
        rule: see :func:`equalised_intensity`.
    """

    def __init__(self, rule: str = "both") -> None:
        super().__init__()
        self.rule = rule

    def __call__(self, inputs: torch.Tensor, network: Any = None, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Maps ``(B, 1, P, S, N)`` of images of the same shape, 0 outside the brain."""
        plain = convert_to_tensor(inputs, track_meta=False)
        return torch.stack([equalised_intensity(image, image != 0, self.rule) for image in plain])
