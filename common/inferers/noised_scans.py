"""The training steps of guided denoising: whole scans of a bank, noised; asked for is the noise, or the age.

MONAI's trainers noise what a data set loads; here the scans lie on the device already, and one step serves two networks.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from monai.networks.schedulers import Scheduler
from monai.utils import convert_to_tensor

from common.errors import UserError
from common.inferers.mask_diffusion import MaskDiffusion, Prepared
from common.inferers.voxel_sampling import BankedScan, VoxelBank

TARGETS = ("noise", "age")


class NoisedScans:
    r"""``prepare_batch`` of a ``SupervisedTrainer``: from numbers of scans to (:math:`x_t`, target, (), {timesteps}).

    :math:`x_0` is the scan scaled to [-1, 1], some mirrored; t and the noise are drawn as in :class:`MaskDiffusion`.

    Args:
        bank: the scans.
        scheduler: of the noise.
        target: ``noise`` for the denoiser, ``age`` (weeks over ``age_scale``) for the regressor.
        flip_prob: probability of the mirrored image.
        age_scale: weeks that are 1.

    Raises:
        UserError: another target.

    Source: after Wolleb et al. 2022 (arXiv:2204.02641, its text was not at hand): both learn from noised images, by squared error.
        Deviation: mirrored images, as the coordinate network sees them.
    """

    def __init__(
        self, bank: VoxelBank, scheduler: Scheduler, target: str = "noise", flip_prob: float = 0.5, age_scale: float = 100.0
    ) -> None:
        if target not in TARGETS:
            raise UserError(f"target: got {target!r}, expected one of {', '.join(TARGETS)}.")
        self.bank, self.target, self.flip_prob, self.age_scale = bank, target, flip_prob, age_scale
        self.noising = MaskDiffusion(scheduler, conditional=False)

    def __call__(self, batch: Mapping[str, Any], device: torch.device | None = None, non_blocking: bool = False, **kwargs: Any) -> Prepared:
        """Noise the scans ``index`` ``(B,)``: ``(B, 1, *grid)`` and noise of the same shape, or ages ``(B, 1)``."""
        scans = [self.bank.scans[number] for number in torch.as_tensor(batch["index"]).reshape(-1).tolist()]
        mirrored = (torch.rand(len(scans)) < self.flip_prob).tolist()
        images = torch.stack([self._image(scan, flip).to(device) for scan, flip in zip(scans, mirrored, strict=True)])
        x_t, noise, _, times = self.noising({"image": images}, device, non_blocking, **kwargs)
        if self.target == "noise":
            return x_t, noise, (), times
        ages = torch.tensor([[scan.age_weeks / self.age_scale] for scan in scans], device=device)
        return x_t, ages, (), times

    def _image(self, scan: BankedScan, mirrored: bool) -> torch.Tensor:
        """``(1, *grid)`` float32 in [0, 1]."""
        every = torch.arange(self.bank.voxels, device=scan.image.device)
        image = scan.values(every)[:, 0].reshape(1, *self.bank.grid)
        return image.flip(1) if mirrored else image


class NoiseLevels:
    """``prepare_batch`` of a validation: each scan at fixed timesteps with fixed noise, so that epochs can be compared.

    With timesteps drawn anew the mean error of a few scans would tell more about the draw than about the denoiser. The PSNR of guided
    predictions would not do either where most children have one scan: a denoiser that does nothing gives back what it was given.

    Args:
        scheduler: of the noise.
        levels: timesteps per scan, evenly spread.
        seed: of the noise.

    Source: ours.
    """

    def __init__(self, scheduler: Scheduler, levels: int = 20, seed: int = 0) -> None:
        self.scheduler, self.levels, self.seed = scheduler, int(levels), int(seed)

    def __call__(self, batch: Mapping[str, Any], device: torch.device | None = None, non_blocking: bool = False, **kwargs: Any) -> Prepared:
        """Noise the scans ``image`` ``(B, 1, *grid)`` in [0, 1]: inputs and noise ``(B levels, 1, *grid)``, timesteps."""
        x0 = 2 * convert_to_tensor(batch["image"], track_meta=False).float().repeat_interleave(self.levels, dim=0) - 1
        noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(self.seed))
        middles = (torch.arange(self.levels) + 0.5) / self.levels * self.scheduler.num_train_timesteps
        times = middles.long().repeat(len(x0) // self.levels)
        x_t = self.scheduler.add_noise(x0, noise, times)
        return x_t.to(device), noise.to(device), (), {"timesteps": times.to(device)}
