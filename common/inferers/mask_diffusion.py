"""The training step of a diffusion model of masks: noise the mask, give it to the network behind the image, ask for the noise.

MONAI's ``DiffusionInferer`` puts the noised tensor in front of its condition; the paper's network has it last.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from monai.networks.schedulers import RFlowScheduler, Scheduler
from monai.utils import convert_to_tensor

from common import flag
from common.errors import UserError

Batch = Mapping[str, Any]
Prepared = tuple[torch.Tensor, torch.Tensor, tuple[()], dict[str, torch.Tensor]]


def mask_channels(label: torch.Tensor, classes: Sequence[int] | None = None) -> torch.Tensor:
    """Turn labels into the mask that is diffused.

    Args:
        label: ``(B, 1, *spatial)``, integer, 0 is background.
        classes: label numbers, one channel each, without background; None makes one channel, the union of all labels.

    Returns:
        ``(B, K, *spatial)`` float32 in {0, 1}.

    Source: PatchDDM, Sec. 4 (whole tumour: every label above 0). Deviation: classes are the paper's future work.
    """
    if classes is None:
        return (label > 0).float()
    return torch.cat([label == number for number in classes], dim=1).float()


def network_input(image: torch.Tensor | None, coordinates: torch.Tensor | None, x_t: torch.Tensor | None = None) -> torch.Tensor:
    """What the network sees: the image scaled to [-1, 1], then the coordinates, then the noised mask.

    Args:
        image: ``(B, C, *spatial)`` in [0, 1], background 0; None for a model without condition.
        coordinates: ``(B, 3, *spatial)`` in [-1, 1]; None leaves them out.
        x_t: noised mask or image, ``(B, K, *spatial)``; None for a network that is no diffusion model.

    Returns:
        ``(B, C + 3 + K, *spatial)`` float32.

    Source: PatchDDM, Sec. 4; its released code for the order and for the scale 2 x - 1.
    """
    parts = [None if image is None else 2 * image.float() - 1, coordinates, x_t]
    return torch.cat([part.float() for part in parts if part is not None], dim=1)


def on_device(batch: Batch, key: str, device: torch.device | None, non_blocking: bool, **kwargs: Any) -> torch.Tensor | None:
    """Entry of a batch as a plain tensor on the device; None where the batch has no such key."""
    if key not in batch:
        return None
    return convert_to_tensor(batch[key], track_meta=False).to(device=device, non_blocking=non_blocking, **kwargs)


class MaskDiffusion:
    r"""``prepare_batch`` of a ``SupervisedTrainer``: from a batch of patches to (network input, target, (), {timesteps}).

    .. math:: x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1 - \bar\alpha_t}\,\varepsilon, \qquad t \sim U\{0, \dots, 999\}, \quad
        \varepsilon \sim N(0, 1)

    The target is what the scheduler's ``prediction_type`` says: epsilon (the paper), x0 (``sample``) or the velocity; for rectified flow
    :math:`x_t = (1 - t / 1000)\,x_0 + t / 1000\,\varepsilon` and the target is :math:`x_0 - \varepsilon`. Draws come from torch's
    generator, which ``common.training`` seeds for each epoch.

    Args:
        scheduler: one of MONAI's; noises, and says what is predicted.
        classes: see :func:`mask_channels`.
        signed: the mask lives in {-1, 1}, not in {0, 1} (the paper).
        conditional: False learns to make images: x0 is the image, scaled to [-1, 1], and the network sees the coordinates and x_t alone.

    Source: PatchDDM, Sec. 3 and 4. Deviation: ``signed``, ``classes`` and ``conditional`` are options beyond the paper.
    """

    def __init__(self, scheduler: Scheduler, classes: Sequence[int] | None = None, signed: bool = False, conditional: bool = True) -> None:
        self.scheduler, self.classes = scheduler, classes
        self.signed, self.conditional = flag(signed, "signed"), flag(conditional, "conditional")

    def __call__(self, batch: Batch, device: torch.device | None = None, non_blocking: bool = False, **kwargs: Any) -> Prepared:
        """Noise one batch.

        Args:
            batch: ``image`` ``(B, C, *spatial)`` in [0, 1]; ``label`` ``(B, 1, *spatial)``, integer; ``coordinates``
                ``(B, 3, *spatial)`` in [-1, 1], where the patches have them.
            device: where the step runs.
            non_blocking: copy without waiting.
            kwargs: passed to ``Tensor.to``.

        Returns:
            Network input ``(B, C + 3 + K, *spatial)``, target ``(B, K, *spatial)`` and the network's argument ``timesteps``, ``(B,)``.
        """
        image, label, coordinates = (on_device(batch, key, device, non_blocking, **kwargs) for key in ("image", "label", "coordinates"))
        if self.conditional:
            if label is None:
                raise UserError(f"The batch holds {sorted(batch)}, but no 'label'; a mask is learned from labelled cases only.")
            x0 = mask_channels(label, self.classes)
            x0 = 2 * x0 - 1 if self.signed else x0
        else:
            assert image is not None
            x0 = 2 * image.float() - 1
        t, noise = self.timesteps(x0), torch.randn_like(x0)
        x_t = self.scheduler.add_noise(x0, noise, t)
        inputs = network_input(image if self.conditional else None, coordinates, x_t)
        return inputs, self.target(x0, noise, t), (), {"timesteps": t}

    def timesteps(self, x0: torch.Tensor) -> torch.Tensor:
        """Draw one timestep per sample, ``(B,)``."""
        if isinstance(self.scheduler, RFlowScheduler):
            return self.scheduler.sample_timesteps(x0)
        return torch.randint(0, self.scheduler.num_train_timesteps, x0.shape[:1], device=x0.device)

    def target(self, x0: torch.Tensor, noise: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """What the network shall predict, shape of ``x0``."""
        if isinstance(self.scheduler, RFlowScheduler):
            return x0 - noise
        kind = getattr(self.scheduler, "prediction_type", "epsilon")
        if kind == "v_prediction":
            return self.scheduler.get_velocity(x0, noise, t)
        return x0 if kind == "sample" else noise
