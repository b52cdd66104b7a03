"""A supervised segmentation network on the same input, the paper's reference: its training step and its map of a whole volume.

MONAI's ``SlidingWindowInferer`` does the windows; what is ours is the input: scale, coordinates and the cube of the training.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from monai.inferers import Inferer, SlidingWindowInferer
from monai.utils import convert_to_tensor

from common import flag
from common.errors import UserError
from common.inferers.mask_diffusion import mask_channels, network_input, on_device
from common.inferers.volume_frame import VolumeFrame


class SupervisedMask:
    """``prepare_batch`` of a ``SupervisedTrainer``: (image and coordinates, mask).

    For MONAI's ``DiceCELoss(sigmoid=True)``, or with several classes ``DiceFocalLoss(sigmoid=True, gamma=0)``, which is the same per class.

    Args:
        classes: see ``mask_channels``.
    """

    def __init__(self, classes: Sequence[int] | None = None) -> None:
        self.classes = classes

    def __call__(
        self, batch: Mapping[str, Any], device: torch.device | None = None, non_blocking: bool = False, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Network input ``(B, C + 3, *spatial)`` and mask ``(B, K, *spatial)`` in {0, 1} of a batch as ``MaskDiffusion`` takes it."""
        image, label, coordinates = (on_device(batch, key, device, non_blocking, **kwargs) for key in ("image", "label", "coordinates"))
        if label is None:
            raise UserError(f"The batch holds {sorted(batch)}, but no 'label'; a mask is learned from labelled cases only.")
        return network_input(image, coordinates), mask_channels(label, self.classes)


class SupervisedMaskInferer(Inferer):
    """Probabilities of a whole volume, in the form that ``EnsembleMaskd`` takes: p as the mean, p (1 - p) as the variance of its mask.

    Args:
        frame: pads the volume to the cube of the training and cuts the result back.
        coordinates: the network gets coordinates.
        sliding_window: evaluates the network window by window; None the whole volume at once.
    """

    def __init__(self, frame: VolumeFrame, coordinates: bool = True, sliding_window: SlidingWindowInferer | None = None) -> None:
        super().__init__()
        self.frame, self.coordinates, self.sliding_window = frame, flag(coordinates, "coordinates"), sliding_window

    def __call__(self, inputs: torch.Tensor, network: Callable[..., torch.Tensor], *args: Any, **kwargs: Any) -> torch.Tensor:
        """Probabilities and variances.

        Args:
            inputs: ``(B, C, X, Y, Z)`` in [0, 1], background 0.
            network: logits ``(B, K, *sides)``.
            args: not used.
            kwargs: not used.

        Returns:
            ``(B, 2 K, X, Y, Z)`` float32.
        """
        with torch.no_grad():
            return torch.stack([self._volume(volume, network) for volume in convert_to_tensor(inputs, track_meta=False)])

    def _volume(self, image: torch.Tensor, network: Callable[..., torch.Tensor]) -> torch.Tensor:
        shape = image.shape[1:]
        window = self.frame.window(image)
        coordinates = self.frame.coordinates(window).to(image.device)[None] if self.coordinates else None
        seen = network_input(self.frame.embed(image, window)[None], coordinates)
        logits = network(seen) if self.sliding_window is None else self.sliding_window(seen, network)
        probability = self.frame.restore(torch.sigmoid(torch.as_tensor(logits).float())[0], window, shape)
        return torch.cat([probability, probability * (1 - probability)])
